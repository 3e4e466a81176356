"""Kafka: the whole way from a topic to the applied table, beside a consumer that only calls `getmany`; and warm-up.

The broker runs on one core, this process on the other. Rates are by the clock, since what is compared waits for the same
broker; bare and whole take turns.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import msgspec
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.figures import Benchmark, Figure, Measured, Scale, at_least, at_most
from benchmarks.ingest import MILLION, recorded
from benchmarks.processes import MeterError, cores, pinned
from feeds.feed import Anew
from feeds.simulated import symbol_names
from feeds.spec import open_feed
from feeds.ticks import TRADE, Symbols, Ticks
from tests.brokers import Broker, Tansu
from ticker.cli import GC_THRESHOLD
from ticker.quotes import QuoteTable

RECORDS: Final = 1_000_000
PARTITIONS: Final = 3
SYMBOLS: Final = 500
READ_S_MAX: Final = 120.0

FIGURES: Final = (
    Figure("Kafka into the table, JSON: ratio to bare getmany", "", at_least(0.5)),
    Figure("Kafka into the table, MessagePack: ratio to bare getmany", ""),
    Figure("Kafka into the table, JSON", "million records/s"),
    Figure("Kafka, bare getmany, JSON", "million records/s"),
    Figure("Kafka, warm-up of a million records", "s", at_most(5)),
)

Read = Callable[[str, str, int], Awaitable[float]]


def kafka(scale: Scale) -> Measured:
    count = scale.of(RECORDS, 20_000)
    ticks = recorded(count)
    server, here = cores()[1], cores()[0]
    with pinned(server):
        broker = Tansu()
    with broker, pinned(here):
        topics = {}
        for name, encode in (("json", orjson.dumps), ("msgpack", msgspec.msgpack.encode)):
            topics[name] = f"bench-{name}"
            broker.create(topics[name], PARTITIONS)
            broker.produce(topics[name], _records(ticks, encode))
        bare, whole = {}, {}
        for name, topic in topics.items():
            bare[name] = _rate(_bare, broker, topic, count)
            whole[name] = _rate(_whole, broker, f"{topic}?format={name}", count)
    return {
        "Kafka into the table, JSON: ratio to bare getmany": whole["json"] / bare["json"],
        "Kafka into the table, MessagePack: ratio to bare getmany": whole["msgpack"] / bare["msgpack"],
        "Kafka into the table, JSON": whole["json"] / MILLION,
        "Kafka, bare getmany, JSON": bare["json"] / MILLION,
        "Kafka, warm-up of a million records": RECORDS / whole["json"],
    }


def _records(ticks: Ticks, encode: Callable[[Any], bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Each tick as a record of its own, with its symbol as the key."""
    names = symbol_names(SYMBOLS)
    columns = {name: getattr(ticks, name).tolist() for name in ("ts_event", "ts_recv")}
    quote = {name: getattr(ticks, name).tolist() for name in ("bid", "bid_size", "ask", "ask_size")}
    trade = {name: getattr(ticks, name).tolist() for name in ("price", "size")}
    for i, (row, kind) in enumerate(zip(ticks.row.tolist(), ticks.kind.tolist(), strict=True)):
        fields = (trade if kind == TRADE else quote) | columns
        value = {"symbol": names[row], "type": "trade" if kind == TRADE else "quote"}
        yield names[row].encode(), encode(value | {name: column[i] for name, column in fields.items()})


def _rate(read: Read, broker: Broker, topic: str, count: int) -> float:
    """Records a second."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)  # as the service does
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return count / runner.run(_within(read(broker.bootstrap, topic, count)))


async def _within(reading: Awaitable[float]) -> float:
    try:
        return await asyncio.wait_for(reading, READ_S_MAX)
    except TimeoutError:
        raise MeterError(f"the topic was not read within {READ_S_MAX:g} s") from None


async def _bare(bootstrap: str, topic: str, count: int) -> float:
    """The seconds that it takes a consumer to be handed so many records."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    try:
        start = time.perf_counter()
        consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
        read = 0
        while read < count:
            read += sum(map(len, (await consumer.getmany(timeout_ms=200)).values()))
        return time.perf_counter() - start
    finally:
        await consumer.stop()


async def _whole(bootstrap: str, topic: str, count: int) -> float:
    """The seconds from the moment at which the feed knows the topic until all is in the table, and it is warm."""
    symbols = Symbols()
    table = QuoteTable(symbols)
    start = 0.0
    path, _, options = topic.partition("?")
    feed = open_feed(f"kafka://{bootstrap}/{path}?start=earliest&{options}", symbols)
    async for brought in feed:
        if isinstance(brought, Anew):
            start = time.perf_counter()
            continue
        table.apply(brought)
        await asyncio.sleep(0)  # as the service does
        if int(feed.stats.ticks) >= count:
            break
    spent_s = time.perf_counter() - start
    if int(table.n.sum()) != count:
        raise MeterError(f"expected {count} ticks in the table, was {int(table.n.sum())}")
    return spent_s


BENCHMARKS: Final = (Benchmark("kafka", FIGURES, kafka),)
