"""Latency of `interval_ms: 0`: from a tick's coming in to a client's having read it.

50 clients watch 20 of 500 symbols each, at 5,000 ticks a second. The meter takes the time as a read returns, on the clock
that the server stamps with, and subtracts the message's own stamps. Ingest is the moment at which a batch is handed to the
service: the load stamps its ticks with it. In the simulator's own ticks the stamp is when the tick was due, so that the
time it waited to leave in one batch with others (up to a millisecond) is counted too.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Final

from benchmarks.fanout import SEED, SYMBOLS, WATCHED
from benchmarks.figures import Benchmark, Figure, Measured, Scale, at_most
from benchmarks.processes import MeterError, Reading, metered, running
from feeds.simulated import symbol_names

CLIENTS: Final = 50
RATE: Final = 5000

FIGURES: Final = (
    Figure("latency, ingest to client: median", "ms", at_most(1)),
    Figure("latency, ingest to client: 99th percentile", "ms", at_most(5)),
    Figure("latency, ingest to client: 99.9th percentile", "ms"),
    Figure("latency, round to client: median", "ms"),
    Figure("latency, round to client: 99th percentile", "ms"),
    Figure("latency, tick due to client: median", "ms"),
    Figure("latency, tick due to client: 99th percentile", "ms"),
    Figure("latency: share of one core", ""),
)


def _timed(scheme: str, clients: int, seconds: int) -> Reading:
    names, choice = symbol_names(SYMBOLS), random.Random(SEED)
    messages = [
        json.dumps({"op": "subscribe", "symbols": choice.sample(names, WATCHED), "interval_ms": 0})
        for _ in range(clients)
    ]
    feed = f"{scheme}:?symbols={SYMBOLS}&rate={RATE}&seed={SEED}"
    command = (
        sys.executable,
        "-m",
        "benchmarks.serve",
        "serve",
        "--port",
        "0",
        "--log-level",
        "warning",
        "--feed",
        feed,
    )
    with running(command, ready="/readyz") as server:
        reading = metered(server, messages, warm_s=1, seconds=seconds, timing=True)
    if reading.closed or not reading.items:
        raise MeterError(f"latency: expected items and no connection closed, was {reading.items} and {reading.closed}")
    return reading


def latency(scale: Scale) -> Measured:
    clients, seconds = scale.of(CLIENTS, 5), scale.of(8, 1)
    stamped, due = _timed("stamped", clients, seconds), _timed("sim", clients, seconds)
    return {
        "latency, ingest to client: median": stamped.tick_us["p50"] / 1000,
        "latency, ingest to client: 99th percentile": stamped.tick_us["p99"] / 1000,
        "latency, ingest to client: 99.9th percentile": stamped.tick_us["p99.9"] / 1000,
        "latency, round to client: median": stamped.round_us["p50"] / 1000,
        "latency, round to client: 99th percentile": stamped.round_us["p99"] / 1000,
        "latency, tick due to client: median": due.tick_us["p50"] / 1000,
        "latency, tick due to client: 99th percentile": due.tick_us["p99"] / 1000,
        "latency: share of one core": due.core_share,
    }


BENCHMARKS: Final = (Benchmark("latency", FIGURES, latency, meters=True),)
