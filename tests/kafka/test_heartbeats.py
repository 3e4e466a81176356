"""At a lag, catching up never starves fan-out: with the feed at full speed, heartbeats come when they are due.

How late they are, `pytest -s` prints twice: as it was, and without the time in which the server was ready to go on and
others had its processor, as the system tells it. The tests hold the server to the second.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import orjson
import pytest
from websockets.asyncio.client import connect

from tests.brokers import Broker, Record, topics
from tests.servers import Server, serving

RECORDS: Final = 1_000_000
PARTITIONS: Final = 4
SYMBOLS: Final = 200
CLIENTS: Final = 25
HEARTBEAT_MS: Final = 400
LATE_MS_MAX: Final = 20.0
#: Of a machine that others use as well; the benchmark asserts what a quiet one does.
WARM_UP_S_MAX: Final = 15.0
NOON: Final = 1_723_118_400_000_000


@pytest.fixture(scope="module")
def backlog(broker: Broker) -> Iterator[str]:
    """A topic of many ticks that nobody has read."""
    with topics(broker) as make_topic:
        topic = make_topic(PARTITIONS)
        broker.produce(topic, map(_record, range(RECORDS)))
        yield topic


def _record(number: int) -> Record:
    symbol = number * 7 % SYMBOLS
    price = 100 + number % 1000 / 100
    ts = NOON + number
    value = (
        b'{"symbol":"S%d","bid":%.2f,"bid_size":1.5,"ask":%.2f,"ask_size":2.5,"ts_event":%d}'
        % (symbol, price, price + 0.01, ts)
        if number % 3
        else b'{"symbol":"S%d","price":%.2f,"size":0.25,"side":"buy","ts_event":%d}' % (symbol, price, ts)
    )
    return Record(b"S%d" % symbol, value, symbol % PARTITIONS)


def feed(broker: Broker, topic: str) -> str:
    return f"kafka://{broker.bootstrap}/{topic}?start=earliest"


# -- how late --------------------------------------------------------------------------------------------------------------


@dataclass
class Lateness:
    """How late something was, again and again, in milliseconds."""

    ms: list[float] = field(default_factory=list)

    def at(self, percent: float) -> float:
        return float(np.percentile(self.ms, percent))

    def __str__(self) -> str:
        told = ", ".join(f"{percent:g} %: {self.at(percent):.1f}" for percent in (50, 90, 95, 99, 100))
        return f"{len(self.ms)} heartbeats, late by ms: {told}"


@dataclass
class Stolen:
    """When a process was ready to run and did not, as (from, to) in seconds since 1970; nothing where no one tells."""

    spans: list[tuple[float, float]] = field(default_factory=list)

    def ms(self, start: float, end: float) -> float:
        """How much of a time it was, in milliseconds."""
        return 1000 * sum(max(0.0, min(end, to) - max(start, since)) for since, to in self.spans)


@contextmanager
def watching(server: Server) -> Iterator[Stolen]:
    """Linux tells of each thread how long it has waited for a processor so far, whenever it has been given one."""
    stolen, stopping = Stolen(), threading.Event()
    told = Path(f"/proc/{server.process.pid}/schedstat")

    def look() -> None:
        last = None
        while not stopping.wait(0.002):
            waited_s, now = int(told.read_text().split()[1]) / 1e9, time.time()
            if last is not None and waited_s > last:
                stolen.spans.append((now - (waited_s - last), now))
            last = waited_s

    thread = threading.Thread(target=look, daemon=True)
    if told.exists():
        thread.start()
    try:
        yield stolen
    finally:
        stopping.set()
        if thread.is_alive():
            thread.join()


async def listen(server: Server) -> list[tuple[float, float]]:
    """Watch everything until the server has caught up; when each heartbeat meanwhile was due, and when it was sent."""
    beats = []
    async with connect(server.stream, compression=None, max_size=None, ping_interval=None) as stream:
        await stream.send('{"op":"subscribe","symbols":["*"],"interval_ms":100}')
        last, lag = 0.0, 0
        async for message in stream:
            assert isinstance(message, str)
            if not message.startswith('{"type":"heartbeat"'):
                continue
            heartbeat = orjson.loads(message)
            (state,) = heartbeat["feeds"].values()
            if lag:
                beats.append((last + HEARTBEAT_MS / 1000, heartbeat["ts"] / 1e6))
            last, lag = heartbeat["ts"] / 1e6, state["lag"]
            if state["state"] in {"live", "stale"} and not lag:
                break
    return beats


@pytest.mark.timeout(200)
async def test_heartbeats_come_when_they_are_due_while_a_backlog_is_read_at_full_speed(
    broker: Broker, backlog: str
) -> None:
    flags = ("--heartbeat-ms", str(HEARTBEAT_MS))
    with serving(feed(broker, backlog), flags=flags, ready=False) as server, watching(server) as stolen:
        async with asyncio.timeout(60):
            told = await asyncio.gather(*(listen(server) for _ in range(CLIENTS)))
    beats = [beat for of_client in told for beat in of_client]
    late = Lateness([(sent - due) * 1000 for due, sent in beats])
    own = Lateness([(sent - due) * 1000 - stolen.ms(due, sent) for due, sent in beats])
    print(f"\nas it was: {late}\nby itself: {own}")  # noqa: T201 - figures
    assert len(beats) >= 3 * CLIENTS, "it was read before there was anything to measure"
    assert own.at(50) <= LATE_MS_MAX / 2
    assert own.at(95) <= LATE_MS_MAX
    assert own.at(100) <= 5 * LATE_MS_MAX


@pytest.mark.timeout(200)
def test_a_million_records_are_read_before_long(broker: Broker, backlog: str) -> None:
    began = time.perf_counter()
    with serving(feed(broker, backlog)) as server:
        spent_s = time.perf_counter() - began
        symbols = server.get(f"/v1/symbols?limit={SYMBOLS}").json()["items"]
        caught_up = [line for line in server.log if "caught up" in line]
    print(f"\n{RECORDS} records from start to ready: {spent_s:.1f} s")  # noqa: T201 - a figure
    assert len(symbols) == SYMBOLS
    assert f"{RECORDS} ticks" in caught_up[0]
    assert spent_s <= WARM_UP_S_MAX
