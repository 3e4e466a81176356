"""Fan-out: how many items a second of one core's time reach clients, and at what cost in memory.

Every symbol has a new quote in every round, each client watches 20 of 500 symbols, and the item has the fields that
`fanlimit`'s has. The server is on one core and the load on another; CPU time is read from outside, by the meter, over
the very window in which it counts. The servers that a ratio compares run one after another within one run.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from typing import Final

from benchmarks.figures import Benchmark, Figure, Measured, Scale, at_least, at_most
from benchmarks.processes import MeterError, Reading, compiled, metered, running
from feeds.simulated import symbol_names

SYMBOLS: Final = 500
WATCHED: Final = 20
HZ: Final = 10
SEED: Final = 20
FIELDS: Final = ("bid", "ask", "bid_size")
KIB: Final = 1024

FANOUT: Final = (
    Figure("fan-out, own lists: ratio to fanlimit", "", at_least(0.45)),
    Figure("fan-out, own lists: ratio to send_json per update", "", at_least(20)),
    Figure("fan-out, one list: ratio to fanlimit", "", at_least(0.6)),
    Figure("fan-out, own lists: items per CPU second", "items/s"),
    Figure("fan-out, one list: items per CPU second", "items/s"),
    Figure("fan-out, fanlimit: items per CPU second", "items/s"),
    Figure("fan-out, send_json per update: items per CPU second", "items/s"),
    Figure("fan-out, own lists: delivered of due", "", at_least(0.97)),
    Figure("fan-out: bytes of an item", "B"),
    Figure("memory per client, 2,000 clients", "KiB", at_most(32)),
)
CAPACITY: Final = (
    Figure("capacity, 5,000 clients x 20 x 10: items delivered", "items/s"),
    Figure("capacity: delivered of due", "", at_least(0.97)),
    Figure("capacity: share of one core", "", at_most(1)),
    Figure("capacity: rounds skipped for slow clients", "", at_most(0)),
    Figure("capacity: connections closed", "", at_most(0)),
    Figure("memory per client, 5,000 clients", "KiB", at_most(32)),
)


def subscriptions(clients: int, *, own: bool) -> list[str]:
    """A `subscribe` for each client: 20 symbols of its own choice, or the same for all."""
    names, choice = symbol_names(SYMBOLS), random.Random(SEED)
    picked = choice.sample(names, WATCHED)
    return [
        json.dumps(
            {
                "op": "subscribe",
                "symbols": choice.sample(names, WATCHED) if own else picked,
                "interval_ms": 1000 // HZ,
                "fields": FIELDS,
            }
        )
        for _ in range(clients)
    ]


def _service(messages: Sequence[str], seconds: int) -> Reading:
    command = (sys.executable, "-m", "benchmarks.serve", "serve", "--port", "0", "--log-level", "warning")
    with running((*command, "--feed", f"even:?symbols={SYMBOLS}&hz={HZ}"), ready="/readyz") as server:
        return metered(server, messages, warm_s=2, seconds=seconds)


def _fanlimit(messages: Sequence[str], seconds: int, item_bytes: float) -> Reading:
    numbers = (0, len(messages), HZ, WATCHED, round(item_bytes), seconds + 60)
    with running((str(compiled("fanlimit")), *map(str, numbers))) as server:
        return metered(server, messages, warm_s=2, seconds=seconds)


def _naive(messages: Sequence[str], seconds: int) -> Reading:
    with running((sys.executable, "-m", "benchmarks.naive", str(SYMBOLS), str(HZ))) as server:
        return metered(server, messages, warm_s=4, seconds=seconds)


def _due(reading: Reading, clients: int) -> float:
    """What was delivered, as a part of what was due."""
    return reading.items_per_s / (clients * WATCHED * HZ)


def _whole(name: str, reading: Reading) -> Reading:
    """`reading`, unless a connection was closed: its figures are worth nothing then."""
    if reading.closed:
        raise MeterError(f"{name}: expected every connection to hold, {reading.closed} were closed")
    return reading


def fanout(scale: Scale) -> Measured:
    clients, seconds = scale.of(2000, 100), scale.of(5, 1)
    own, one = subscriptions(clients, own=True), subscriptions(clients, own=False)
    shared = _whole("one list", _service(one, seconds))
    apart = _whole("own lists", _service(own, seconds))
    limit = _whole("fanlimit", _fanlimit(own, seconds, apart.item_bytes))
    naive = _whole("send_json", _naive(own, seconds))
    return {
        "fan-out, own lists: ratio to fanlimit": apart.items_per_cpu_s / limit.items_per_cpu_s,
        "fan-out, own lists: ratio to send_json per update": apart.items_per_cpu_s / naive.items_per_cpu_s,
        "fan-out, one list: ratio to fanlimit": shared.items_per_cpu_s / limit.items_per_cpu_s,
        "fan-out, own lists: items per CPU second": apart.items_per_cpu_s,
        "fan-out, one list: items per CPU second": shared.items_per_cpu_s,
        "fan-out, fanlimit: items per CPU second": limit.items_per_cpu_s,
        "fan-out, send_json per update: items per CPU second": naive.items_per_cpu_s,
        "fan-out, own lists: delivered of due": _due(apart, clients),
        "fan-out: bytes of an item": apart.item_bytes,
        "memory per client, 2,000 clients": apart.rss_per(clients) / KIB,
    }


def capacity(scale: Scale) -> Measured:
    clients, seconds = scale.of(5000, 200), scale.of(10, 1)
    held = _service(subscriptions(clients, own=True), seconds)
    return {
        "capacity, 5,000 clients x 20 x 10: items delivered": held.items_per_s,
        "capacity: delivered of due": _due(held, clients),
        "capacity: share of one core": held.core_share,
        "capacity: rounds skipped for slow clients": held.skipped,
        "capacity: connections closed": held.closed,
        "memory per client, 5,000 clients": held.rss_per(clients) / KIB,
    }


BENCHMARKS: Final = (
    Benchmark("fanout", FANOUT, fanout, meters=True),
    Benchmark("capacity", CAPACITY, capacity, meters=True),
)
