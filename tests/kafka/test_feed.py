"""A Kafka feed at a real broker, in this process: what is read of a topic, from where on, and when that is all of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson
import pytest
from aiokafka.partitioner import murmur2
from confluent_kafka import Producer

from feeds.clock import WallClock
from feeds.feed import FeedStats
from feeds.kafka.cluster import Cluster, Lookout, Topic
from feeds.kafka.consumer import FETCH_BYTES_MAX
from feeds.kafka.feed import RECORDS_MAX, Kafka
from feeds.kafka.merging import Block, Merge
from feeds.kafka.partitions import home
from feeds.kafka.setup import Setup
from feeds.spec import open_feed
from feeds.ticks import NO_TIME, Symbols, Ticks
from tests.apache_kafka import Apache
from tests.brokers import POLL_S, REPLY_S_MAX, Broker, Local, MakeTopic, Record
from tests.feeds.conftest import HandClock
from tests.kafka.watching import WAIT_S_MAX, quotes
from tests.proxies import Proxy
from tests.servers import serving

#: 14 November 2023, 22:13:20 UTC.
NOW = 1_700_000_000_000_000
S = 1_000_000
MINUTE, HOUR, DAY = 60 * S, 3600 * S, 86_400 * S
MIDNIGHT = NOW - NOW % DAY


class Reader:
    """A feed that is being read, and what it has brought so far."""

    def __init__(self, spec: str, setup: Setup | None = None, now: int | None = None) -> None:
        self.symbols = Symbols()
        self.feed = open_feed(spec, self.symbols, clock=WallClock() if now is None else HandClock(now), kafka=setup)
        self.batches: list[Ticks] = []

    async def read(self) -> None:
        async with aclosing(self.feed.__aiter__()) as items:
            async for item in items:
                if isinstance(item, Ticks):
                    self.batches.append(item)
                elif not self.feed.warm:  # it reads what it has brought so far once more
                    self.batches.clear()

    async def until(self, done: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S_MAX):
            while not done():
                await asyncio.sleep(POLL_S)

    async def warm(self) -> list[float]:
        """The bids that it has brought once it says that these are all that there were."""
        await self.until(lambda: self.feed.warm)
        return self.bids

    @property
    def bids(self) -> list[float]:
        return [bid for batch in self.batches for bid in batch.bid.tolist()]

    @property
    def positions(self) -> list[tuple[str, int]]:
        """The symbol and the offset of each tick."""
        names = self.symbols.names
        return [
            (names[row], seq) for b in self.batches for row, seq in zip(b.row.tolist(), b.seq.tolist(), strict=True)
        ]

    @property
    def since(self) -> int:
        return self.batches[-1].since


@asynccontextmanager
async def reading(
    broker: Broker, topic: str, options: str = "", setup: Setup | None = None, now: int | None = None
) -> AsyncIterator[Reader]:
    reader = Reader(f"kafka://{broker.bootstrap}/{topic}?{options}", setup, now)
    task = asyncio.create_task(reader.read())
    try:
        yield reader
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


def quote(bid: float, at: int | None = None, symbol: str = "A", **more: Any) -> Record:
    """A quote that comes now, or came at a time."""
    us = time.time_ns() // 1000 if at is None else at
    value = orjson.dumps({"symbol": symbol, "ts_event": us, "bid": bid, **more})
    return Record(symbol.encode(), value, timestamp_ms=us // 1000)


# -- what is in a topic --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_batches_are_read_whatever_they_are_compressed_with(
    broker: Broker, topic: MakeTopic, compression: str
) -> None:
    name = topic()
    broker.produce(name, quotes(0, 500), compression)
    async with reading(broker, name, "start=earliest") as reader:
        assert await reader.warm() == list(range(500))
        assert reader.positions == [(f"S{number % 10:02d}", number) for number in range(500)]


async def test_messagepack_is_read_where_it_is_asked_for(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    values = [{"symbol": "A", "ts_event": NOW, "bid": bid} for bid in range(3)]
    encode = msgspec.msgpack.encode
    at_ms = NOW // 1000
    broker.produce(name, [Record(b"A", encode(value), None, at_ms) for value in (values[0], values[1:])])
    async with reading(broker, name, "start=earliest&format=msgpack") as reader:
        assert await reader.warm() == [0, 1, 2]
        assert reader.positions == [("A", 0), ("A", 1), ("A", 1)]


async def test_tombstones_and_headers_and_records_without_a_key_disturb_nothing(
    broker: Broker, topic: MakeTopic
) -> None:
    name = topic()
    records = [
        Record(b"A", None),
        quote(1)._replace(headers=[("trace", b"\xff\x00"), ("trace", None), ("", b"")]),
        Record(None, None, headers=[("why", b"deleted")]),
        quote(2)._replace(key=None),
        Record(b"A", None),
    ]
    broker.produce(name, records)
    async with reading(broker, name, "start=earliest") as reader:
        assert await reader.warm() == [1, 2]
        assert reader.positions == [("A", 1), ("A", 3)]
        assert reader.feed.stats == FeedStats(ticks=2, lag=0)


async def test_what_cannot_be_read_is_counted(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    poison = [b"", b"\xff" * 100, b"null", b"7", b'{"symbol":"A","ts_event":1,"bid":[]}', b'{"bid":', b"{" * 900_000]
    broker.produce(name, [record for value in poison for record in (quote(1), Record(b"A", value))])
    async with reading(broker, name, "start=earliest") as reader:
        assert await reader.warm() == [1] * len(poison)
        assert reader.feed.stats == FeedStats(ticks=len(poison), rejected=len(poison), lag=0)


async def test_the_ticks_of_a_record_come_together(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    ticks = [{"symbol": f"S{number % 100}", "ts_event": NOW, "bid": number} for number in range(10_000)]
    broker.produce(name, [Record(b"A", orjson.dumps(ticks), timestamp_ms=NOW // 1000)])
    async with reading(broker, name, "start=earliest") as reader:
        await reader.warm()
        assert [len(batch) for batch in reader.batches] == [10_000]


async def test_a_record_that_is_larger_than_what_is_fetched_at_once_is_read(
    apache: Apache, apache_topic: MakeTopic
) -> None:
    size = 2 * FETCH_BYTES_MAX
    name = apache_topic(max_message_bytes=str(2 * size))
    producer = Producer({"bootstrap.servers": apache.bootstrap, "message.max.bytes": 2 * size, "log_level": 0})
    for record in (quote(1), quote(2, note="x" * size), Record(b"A", b"[" * size), quote(3)):
        producer.produce(name, record.value, record.key)
        assert producer.flush(REPLY_S_MAX) == 0
    async with reading(apache, name, "start=earliest") as reader:
        assert await reader.warm() == [1, 2, 3]
        assert reader.feed.stats == FeedStats(ticks=3, rejected=1, lag=0)


async def test_where_a_symbol_is_in_several_partitions_all_are_read_in_the_order_of_the_logs_times(
    broker: Broker, topic: MakeTopic
) -> None:
    one, other = topic(2), topic()
    for number in range(8):
        place = {0: (one, 0), 1: (one, 1), 2: (other, 0), 7: (one, 0)}[number % 3 if number < 7 else 7]
        record = quote(number, NOW + number * S, f"S{number % 3}")
        broker.produce(place[0], [record._replace(partition=place[1])])
    async with reading(broker, f"{one},{other}", "start=earliest") as reader:
        assert (await reader.warm())[:7] == [0, 1, 2, 3, 4, 5, 6]


async def test_a_symbol_without_a_key_belongs_to_the_partition_that_had_it_first_whichever_is_fetched_first(
    broker: Broker, topic: MakeTopic
) -> None:
    name = topic(2)
    for number, ago in ((0, 0), (1, HOUR)):
        records = [quote(number * 10 + n, NOW - ago + n * S)._replace(partition=number, key=None) for n in range(3)]
        broker.produce(name, records)
    async with reading(broker, name, "start=earliest") as reader:
        assert await reader.warm() == [10, 11, 12]


async def test_a_symbol_of_two_topics_belongs_to_the_one_that_had_it_first_however_they_are_named(
    broker: Broker, topic: MakeTopic
) -> None:
    one, other = topic(), topic()
    for name, bid, ago in ((one, 0, 0), (other, 10, HOUR)):
        broker.produce(name, [quote(bid + n, NOW - ago + n * S) for n in range(3)])
    for names in (f"{one},{other}", f"{other},{one}"):
        async with reading(broker, names, "start=earliest") as reader:
            assert await reader.warm() == [10, 11, 12]


def symbol_not_of(partitions: Sequence[int], number: int) -> str:
    """A symbol whose key does not belong to partition `number` by any of some counts of them."""
    return next(symbol for symbol in (f"S{n}" for n in range(99)) if home(symbol.encode(), partitions, number) is None)


async def test_ticks_that_are_read_once_more_in_the_order_of_time_are_counted_once(
    broker: Broker, topic: MakeTopic
) -> None:
    name, symbol = topic(2), symbol_not_of((1, 2), 1)
    records = [quote(n, NOW + n, (symbol, "other")[n % 2])._replace(partition=n % 2) for n in range(10_000)]
    broker.produce(name, [*records, quote(0, NOW + S, symbol)._replace(partition=1)])
    async with reading(broker, name, "start=earliest") as reader:
        assert len(await reader.warm()) == 10_000
        assert (reader.feed.stats.ticks, reader.feed.stats.refused) == (10_000, 1)


async def test_what_is_held_back_of_a_partition_that_is_far_ahead_is_bounded(
    broker: Broker, topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, add = 0, Merge.add

    def measured(merge: Merge, part: int, block: Block) -> None:
        nonlocal most
        add(merge, part, block)
        most = max(most, len(merge))

    monkeypatch.setattr(Merge, "add", measured)
    monkeypatch.setattr("feeds.kafka.feed.HELD_MAX", 1000)
    name, symbol = topic(2), symbol_not_of((1, 2), 1)
    in_both = [quote(0, NOW, symbol)._replace(partition=number) for number in (0, 1)]
    small = [quote(n, NOW + n, "A")._replace(partition=0) for n in range(40_000)]
    large = [quote(n, NOW + n * 10, "B", note="x" * 5000)._replace(partition=1) for n in range(4000)]
    broker.produce(name, [*in_both, *small, *large])
    async with reading(broker, name, "start=earliest") as reader:
        assert len(await reader.warm()) == 44_001
    assert 0 < most <= 1000 + 2 * RECORDS_MAX


def hashed_anew(apache: Apache, name: str, symbols: Sequence[str], partitions: int, bid: float) -> None:
    """A quote of each symbol, in the partition that its key belongs to where there are so many."""
    homes = {symbol: (murmur2(symbol.encode()) & 0x7FFFFFFF) % partitions for symbol in symbols}
    apache.produce(name, [quote(bid, symbol=symbol)._replace(partition=homes[symbol]) for symbol in symbols])


async def test_keys_that_move_before_added_partitions_are_noticed_lose_no_tick(
    apache: Apache, apache_topic: MakeTopic
) -> None:
    name, symbols = apache_topic(2), [f"S{number}" for number in range(40)]
    hashed_anew(apache, name, symbols, 2, 1)
    async with reading(apache, name) as reader:
        await reader.warm()
        apache.grow(name, 5)
        hashed_anew(apache, name, symbols, 5, 2)
        await reader.until(lambda: len(reader.bids) >= 80)
        assert sorted(reader.bids) == [1] * 40 + [2] * 40
        assert reader.feed.stats == FeedStats(ticks=80, lag=reader.feed.stats.lag)


async def test_keys_that_moved_while_a_reader_was_behind_lose_no_tick(apache: Apache, apache_topic: MakeTopic) -> None:
    name, symbols = apache_topic(2), [f"S{number}" for number in range(40)]
    hashed_anew(apache, name, symbols, 2, 1)
    async with reading(apache, name) as reader:
        await reader.warm()
        for _ in range(100):
            hashed_anew(apache, name, symbols, 2, 1)  # the event loop has no turn meanwhile
        apache.grow(name, 5)
        hashed_anew(apache, name, symbols, 5, 2)
        stats = reader.feed.stats
        await reader.until(lambda: len(reader.bids) + stats.refused >= 102 * 40)
        assert stats.refused == 0
        assert sorted(reader.bids) == [1] * 101 * 40 + [2] * 40


async def test_partitions_that_were_added_are_read_from_their_beginning_wherever_reading_began(
    apache: Apache, apache_topic: MakeTopic
) -> None:
    name, symbols = apache_topic(2), [f"S{number}" for number in range(40)]
    async with reading(apache, name, "start=latest") as reader:
        await reader.warm()
        apache.grow(name, 5)
        hashed_anew(apache, name, symbols, 5, 2)
        await reader.until(lambda: len(reader.bids) >= 40)
        assert reader.bids == [2] * 40


async def test_who_comes_after_partitions_were_added_twice_has_what_they_have_who_were_there(
    apache: Apache, apache_topic: MakeTopic
) -> None:
    name, symbols = apache_topic(2), [f"S{number}" for number in range(40)]
    async with reading(apache, name) as before:
        await before.warm()
        for bid, (partitions, some) in enumerate(((2, symbols), (3, symbols[:20]), (5, symbols[:10]))):
            if bid:
                apache.grow(name, partitions)
            hashed_anew(apache, name, some, partitions, bid)
            await before.until(lambda: len(before.bids) >= sum((40, 20, 10)[: bid + 1]))  # noqa: B023
        async with reading(apache, name) as after:
            await after.warm()
            assert len(after.bids) == 70
            newest = [
                dict(zip((s for s, _ in r.positions), zip(r.positions, r.bids, strict=True), strict=True))
                for r in (before, after)
            ]
            assert newest[0] == newest[1]
            assert after.feed.epoch == before.feed.epoch


async def test_transactions_that_were_given_up_are_left_out(apache: Apache, apache_topic: MakeTopic) -> None:
    name = apache_topic()
    producer = Producer({"bootstrap.servers": apache.bootstrap, "transactional.id": name, "log_level": 0})
    producer.init_transactions(REPLY_S_MAX)
    for bid, kept in ((1, True), (2, False), (3, True), (4, False)):
        producer.begin_transaction()
        record = quote(bid)
        producer.produce(name, record.value, record.key)
        producer.flush(REPLY_S_MAX)
        if kept:
            producer.commit_transaction(REPLY_S_MAX)
        else:
            producer.abort_transaction(REPLY_S_MAX)
    async with reading(apache, name, "start=earliest") as reader:
        assert await reader.warm() == [1, 3]
        await reader.until(lambda: reader.feed.stats.lag == 0)


# -- where reading begins ------------------------------------------------------------------------------------------

#: How long ago the records of a topic came; they have their numbers as bids.
AGO = (30 * HOUR, 23 * HOUR, 20 * HOUR, 10 * MINUTE, 1 * MINUTE)


@pytest.fixture
def past(apache: Apache, apache_topic: MakeTopic) -> str:
    """A topic with five records of the last two days, in a partition each of which has another one as well."""
    name = apache_topic(2)
    apache.produce(name, [quote(n, NOW - ago, f"S{n % 2}")._replace(partition=n % 2) for n, ago in enumerate(AGO)])
    return name


@pytest.mark.parametrize(
    ("options", "setup", "bids", "since"),
    [
        ("", Setup(), [2, 3, 4], MIDNIGHT),
        ("start=session", Setup(), [2, 3, 4], MIDNIGHT),
        ("", Setup(warm_up_us=HOUR), [3, 4], NOW - HOUR),
        ("", Setup(session_start_us=22 * HOUR), [3, 4], MIDNIGHT + 22 * HOUR),
        ("", Setup(session_start_us=23 * HOUR), [1, 2, 3, 4], MIDNIGHT - HOUR),
        ("start=earliest", Setup(), [0, 1, 2, 3, 4], NO_TIME),
        ("start=-15m", Setup(), [3, 4], NOW - 15 * MINUTE),
        ("start=-2d", Setup(), [0, 1, 2, 3, 4], NO_TIME),
        (f"start={datetime.fromtimestamp((NOW - 5 * MINUTE) / 1e6, UTC):%Y-%m-%dT%H:%M:%SZ}", Setup(), [4], None),
        (f"start={(NOW - 21 * HOUR) // S}", Setup(), [2, 3, 4], NOW - 21 * HOUR),
    ],
)
async def test_reading_begins_where_it_is_told_to(
    apache: Apache, past: str, options: str, setup: Setup, bids: Sequence[float], since: int | None
) -> None:
    async with reading(apache, past, options, setup, NOW) as reader:
        assert sorted(await reader.warm()) == bids
        assert since is None or reader.since == since


@pytest.mark.parametrize("options", ["start=latest", "start=-10s", f"start={(NOW + HOUR) // S}"])
async def test_what_is_older_than_that_is_left_out(apache: Apache, past: str, options: str) -> None:
    async with reading(apache, past, options, now=NOW) as reader:
        assert await reader.warm() == []
        apache.produce(past, [quote(9, NOW + 2 * HOUR)])
        await reader.until(lambda: reader.bids == [9])


async def test_whoever_begins_after_all_records_reads_none_of_them_at_any_broker(
    broker: Broker, topic: MakeTopic
) -> None:
    """Some have a way of their own to say that there is no record so late."""
    name = topic(2)
    broker.produce(name, [quote(n, symbol=f"S{n % 2}")._replace(partition=n % 2) for n in range(4)])
    async with reading(broker, name, f"start={int(time.time()) + 3600}") as reader:
        assert await reader.warm() == []
        broker.produce(name, [quote(9)])
        await reader.until(lambda: reader.bids == [9])


async def test_a_compacted_topic_is_read_whole(apache: Apache, apache_topic: MakeTopic) -> None:
    name = apache_topic(cleanup_policy="compact")
    apache.produce(name, [quote(n, NOW - ago, f"S{n}") for n, ago in enumerate(AGO)])
    async with reading(apache, name, now=NOW) as reader:
        assert await reader.warm() == [0, 1, 2, 3, 4]
        assert reader.since == NOW


async def test_session_fields_count_since_the_oldest_record_where_older_ones_are_gone(
    apache: Apache, past: str
) -> None:
    apache.truncate(past, {0: 2})
    async with reading(apache, past, "start=earliest", now=NOW) as reader:
        assert sorted(await reader.warm()) == [1, 3, 4]
        assert reader.since == NOW - 1 * MINUTE


async def test_an_empty_topic_is_warm_at_once(broker: Broker, topic: MakeTopic) -> None:
    async with reading(broker, topic(3)) as reader:
        assert await reader.warm() == []


async def test_records_that_are_gone_before_they_are_read_are_counted(apache: Apache, apache_topic: MakeTopic) -> None:
    name = apache_topic()
    apache.produce(name, quotes(0, 100))
    async with reading(apache, name, "start=earliest") as reader:
        await reader.warm()
        apache.produce(name, quotes(100, 1000))  # the event loop has no turn meanwhile
        apache.truncate(name, {0: 990})
        await reader.until(lambda: 999 in reader.bids)
        assert reader.feed.stats.skipped + reader.feed.stats.ticks == 1000
        assert len(reader.bids) == reader.feed.stats.ticks


# -- a topic that is another one -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "then",
    [Cluster("D", (Topic("ticks", "", 3),)), Cluster("C", (Topic("ticks", "", 2),))],
    ids=["of another cluster", "with fewer partitions"],
)
def test_what_was_read_of_another_topic_of_that_name_is_forgotten(then: Cluster) -> None:
    symbols = Symbols()
    feed = open_feed("kafka://localhost/ticks", symbols)
    assert isinstance(feed, Kafka)
    feed._adopt(Cluster("C", (Topic("ticks", "", 3),)))
    row = symbols.claim("A", symbols.part("kafka", "ticks/0"))
    assert feed._adopt(then).rows.tolist() == [row]
    assert feed.epoch == then.epoch


async def test_a_topic_that_ends_before_where_reading_is_was_made_anew_though_no_broker_tells_its_id(
    apache: Apache, apache_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Lookout.look

    async def without_ids(lookout: Lookout) -> Cluster:
        seen = await look(lookout)
        return replace(seen, topics=tuple(replace(topic, id="") for topic in seen.topics))

    monkeypatch.setattr(Lookout, "look", without_ids)
    name = apache_topic(2)
    apache.produce(name, quotes(0, 1000))
    async with reading(apache, name, "start=earliest") as reader:
        await reader.warm()
        reader.batches.clear()
        apache.delete(name)
        apache.create(name, 2)
        apache.produce(name, quotes(9000, 9050))
        await reader.until(lambda: len(reader.bids) >= 50)
        assert sorted(reader.bids) == list(range(9000, 9050))


# -- warm-up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["is cut", "stalls"])
async def test_what_was_held_back_when_the_way_was_lost_is_read_once(own_broker: Local, proxy: Proxy, way: str) -> None:
    own_broker.create("ticks", 2)
    homes = [number % 2 if number < 40_000 else 1 for number in range(50_000)]
    records = [quote(number, NOW + number, f"S{home}")._replace(partition=home) for number, home in enumerate(homes)]
    in_both = [quote(-1, NOW, "X")._replace(partition=home) for home in (0, 1)]
    own_broker.produce("ticks", [*in_both, *records])
    async with reading(own_broker, "ticks", "start=earliest") as reader:
        await reader.until(lambda: reader.batches)
        assert not reader.feed.warm
        proxy.cut() if way == "is cut" else proxy.stall()
        await reader.until(lambda: reader.feed.trouble)
        proxy.heal()
        await reader.warm()
        assert sorted(bid for bid in reader.bids if bid >= 0) == list(range(50_000))


def test_the_service_is_ready_once_all_is_read_and_answers_before(broker: Broker, topic: MakeTopic) -> None:
    name = topic(2)
    broker.produce(name, quotes(0, 100_000), "lz4")
    with serving(f"kafka://{broker.bootstrap}/{name}?start=earliest", ready=False) as server:
        answers: list[int] = []
        while not answers or answers[-1] != 200:
            assert server.get("/livez").status_code == 200
            answers.append(server.get("/readyz").status_code)
        items = server.get("/v1/snapshot?symbols=*").json()["items"]
        assert sum(item["n"] for item in items) == 100_000
        assert answers[0] == 503
        assert set(answers) == {503, 200}
