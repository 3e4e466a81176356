"""A late Kafka feed at a real broker, its clock turned by hand: nothing comes early, all of it comes once, and little is held."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiokafka.partitioner import murmur2

from feeds.feed import Lateness
from feeds.kafka.feed import RECORDS_MAX
from feeds.kafka.holding import Holding, Seen
from feeds.kafka.merging import Block
from feeds.kafka.setup import Setup
from feeds.spec import open_feed
from feeds.ticks import Symbols, Ticks
from tests.apache_kafka import Apache
from tests.brokers import Broker, Local, MakeTopic, Record
from tests.feeds.conftest import HandClock
from tests.kafka.test_feed import DAY, HOUR, MINUTE, NOW, Reader, S, quote, reading
from tests.kafka.watching import WAIT_S_MAX
from tests.proxies import Proxy
from tests.servers import serving
from ticker.quotes import QuoteTable

DELAY = 15 * MINUTE
#: Between a partition's turns a feed waits so long for records, so what was not told by then is held.
TURNS_S = 0.5


class Late(Reader):
    """A feed that is late, and the clock that it is behind."""

    def __init__(self, spec: str, now: int, setup: Setup | None = None, delay: int = DELAY) -> None:
        self.clock = HandClock(now)
        self.symbols = Symbols()
        self.feed = open_feed(spec, self.symbols, clock=self.clock, kafka=setup, lateness=Lateness(delay))
        self.batches: list[Ticks] = []

    async def turn(self, now: int, bids: Iterable[float]) -> None:
        """Turn the clock to a time at which so many records are due, and no more."""
        self.clock.time = now
        expected = sorted(bids)
        await self.until(lambda: len(self.bids) >= len(expected))
        await asyncio.sleep(TURNS_S)
        assert sorted(self.bids) == expected


@asynccontextmanager
async def late(
    broker: Broker, topic: str, options: str = "start=earliest", now: int = NOW, **more: Any
) -> AsyncIterator[Late]:
    reader = Late(f"kafka://{broker.bootstrap}/{topic}?{options}", now, **more)
    task = asyncio.create_task(reader.read())
    try:
        yield reader
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


# -- what is due ---------------------------------------------------------------------------------------------------


async def test_what_is_due_comes_at_once_and_the_rest_when_its_time_has_come(broker: Broker, topic: MakeTopic) -> None:
    name = topic(2)
    ago = (40, 20, 15, 14, 10, 1, 0)
    broker.produce(name, [quote(n, NOW - m * MINUTE, f"S{n % 2}")._replace(partition=n % 2) for n, m in enumerate(ago)])
    async with late(broker, name) as reader:
        assert sorted(await reader.warm()) == [0, 1, 2]
        await reader.turn(NOW + MINUTE - 1000, range(3))
        await reader.turn(NOW + MINUTE, range(4))
        await reader.turn(NOW + 14 * MINUTE, range(6))
        await reader.turn(NOW + DELAY - 1000, range(6))
        await reader.turn(NOW + DELAY, range(7))
        assert reader.positions[-1] == ("S0", 3)


async def test_what_comes_meanwhile_waits_for_its_time(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    async with late(broker, name) as reader:
        assert await reader.warm() == []
        broker.produce(name, [quote(n, NOW + n * MINUTE) for n in range(3)])
        await reader.turn(NOW + DELAY - 1000, [])
        for n in range(3):
            await reader.turn(NOW + DELAY + n * MINUTE, range(n + 1))


async def test_a_late_feed_has_an_epoch_of_its_own_that_all_that_are_as_late_share(
    broker: Broker, topic: MakeTopic
) -> None:
    name = topic()
    async with reading(broker, name) as live, late(broker, name) as one, late(broker, name) as other:
        for reader in (live, one, other):
            await reader.warm()
        assert one.feed.epoch == other.feed.epoch == f"{live.feed.epoch}~900s"


async def test_a_record_of_the_future_comes_so_long_after_it_was_there_and_no_earlier(
    broker: Broker, topic: MakeTopic
) -> None:
    name = topic()
    broker.produce(name, [quote(0, NOW - HOUR), quote(1, NOW + 3 * DAY), quote(2, NOW - HOUR)])
    async with late(broker, name) as reader:
        assert await reader.warm() == [0]
        await reader.turn(NOW + DELAY - 1000, [0])
        await reader.turn(NOW + DELAY, [0, 1, 2])
        assert reader.bids == [0, 1, 2], "nothing overtakes"


async def test_records_that_are_all_of_the_future_come_as_late_as_any(
    broker: Broker, topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, note = list[tuple[int, int]](), Seen.note

    def noted(seen: Seen, end: int, now: int) -> None:
        note(seen, end, now)
        looks.append((end, now))

    monkeypatch.setattr(Seen, "note", noted)
    monkeypatch.setattr("feeds.kafka.feed.LOOK_S", 0.05)
    name, count = topic(), 4 * RECORDS_MAX
    async with late(broker, name) as reader:
        assert await reader.warm() == []
        broker.produce(name, [quote(n, NOW + 3 * DAY) for n in range(count)])
        await reader.until(lambda: (count, NOW) in looks)
        reader.clock.time = NOW + MINUTE  # a look is noted only so long after the one before
        await reader.until(lambda: (count, NOW + MINUTE) in looks)  # though only some of it was fetched
        await reader.turn(NOW + DELAY - 1000, [])
        await reader.turn(NOW + MINUTE + DELAY, range(count))


async def test_what_comes_last_is_not_let_out_where_reading_begins_with_it(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    async with late(broker, name, "start=latest") as reader:
        assert await reader.warm() == []
        broker.produce(name, [quote(1, NOW + S)])
        await reader.turn(NOW + DELAY, [])
        await reader.turn(NOW + DELAY + S, [1])


async def test_reading_from_the_latest_begins_with_what_was_the_latest_then(
    apache: Apache, apache_topic: MakeTopic
) -> None:
    name = apache_topic()
    apache.produce(name, [quote(n, NOW - m * MINUTE) for n, m in enumerate((20, 10, 5))])
    async with late(apache, name, "start=latest") as reader:
        assert await reader.warm() == []
        assert reader.feed.stats.lag in {0, None}
        await reader.turn(NOW + 10 * MINUTE, [1, 2])


def test_a_server_is_ready_once_it_has_read_what_is_due_and_goes_on_late(broker: Broker, topic: MakeTopic) -> None:
    name = topic(2)
    broker.produce(name, [quote(n, NOW + n * S, f"S{n % 2}")._replace(partition=n % 2) for n in range(1000)])
    with serving(f"kafka://{broker.bootstrap}/{name}?start=earliest", flags=("--delays", "0.05")) as server:
        feeds = server.get("/readyz").json()["feeds"]
        assert list(feeds) == ["kafka", "kafka~3s"]
        broker.produce(name, [quote(2000)])
        produced = time.monotonic()
        while True:
            feeds = server.get("/readyz").json()["feeds"]
            since_ms, age_ms = (time.monotonic() - produced) * 1000, feeds["kafka~3s"]["age_ms"]
            if age_ms < since_ms - 500:  # it has come, late
                break
            assert since_ms < WAIT_S_MAX * 1000
            time.sleep(0.02)
        assert since_ms - age_ms > 2500
        assert (feeds["kafka~3s"]["state"], feeds["kafka~3s"]["lag"]) == ("live", 0)
        assert server.stop() == 0


# -- the state that a service had then -----------------------------------------------------------------------------


def state(reader: Reader, session_start_us: int) -> Mapping[str, tuple[Any, ...]]:
    """What a table holds of each symbol that has taken in all of it."""
    table = QuoteTable(reader.symbols, session_start_us=session_start_us)
    for batch in reader.batches:
        table.apply(batch)
    rows = [row for row in range(len(reader.symbols)) if table.n[row]]
    values = table.view(np.array(rows, np.int64)).T.tolist()
    names = reader.symbols.names
    return {
        names[row]: (int(table.seq[row]), int(table.n[row]), int(table.ts[row]), str(of_row))
        for row, of_row in zip(rows, values, strict=True)
    }


def market(seed: int, begin: int, end: int, count: int) -> list[Record]:
    """Quotes and trades of ten symbols in two partitions, not quite in the order of their times."""
    chance = random.Random(seed)
    records = []
    for number in range(count):
        at = begin + (end - begin) * number // count + chance.randrange(-30 * S, 30 * S)
        symbol = chance.randrange(10)
        fields = {"bid": number, "ask": number + 1} if chance.random() < 0.5 else {"price": number, "size": 1 + symbol}
        record = quote(0, at, f"S{symbol}")
        value = b'{"symbol":"S%d","ts_event":%d,' % (symbol, at)
        value += b",".join(b'"%b":%d' % (name.encode(), some) for name, some in fields.items()) + b"}"
        records.append(record._replace(value=value, partition=symbol % 2))
    return records


def due(records: Sequence[Record], until: int) -> list[Record]:
    """Those whose running time is not later: the newest time in their partition so far."""
    newest, found = {0: 0, 1: 0}, []
    for record in records:
        assert record.partition is not None
        assert record.timestamp_ms is not None
        newest[record.partition] = max(newest[record.partition], record.timestamp_ms * 1000)
        if newest[record.partition] <= until:
            found.append(record)
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("options", ["", "start=earliest", "start=-30m"])
async def test_the_state_is_the_one_that_a_service_without_a_delay_had_then(
    apache: Apache, apache_topic: MakeTopic, seed: int, options: str
) -> None:
    setup = Setup(session_start_us=22 * HOUR)  # 13 minutes before NOW, so that the late clock is in the session before
    name, records = apache_topic(2), market(seed, NOW - 26 * HOUR, NOW, 4000)
    apache.produce(name, records)
    async with late(apache, name, options, setup=setup) as reader:
        await reader.warm()
        for step in (0, 1, 2):
            reader.clock.time = now = NOW + step * 6 * MINUTE
            then = apache_topic(2)
            apache.produce(then, due(records, now - DELAY))
            begun = NOW - DELAY  # where a service began to read that has been there since
            async with reading(apache, then, options, setup, begun) as real:
                await real.warm()
                await reader.until(lambda: len(reader.positions) >= len(real.positions))
                await asyncio.sleep(TURNS_S / 5)
                assert state(reader, setup.session_start_us) == state(real, setup.session_start_us)
                assert reader.since == real.since


# -- little is held ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [15 * MINUTE, 10 * HOUR])
async def test_what_is_held_does_not_grow_with_the_delay_or_the_topic(
    broker: Broker, topic: MakeTopic, monkeypatch: pytest.MonkeyPatch, delay: int
) -> None:
    most, add = 0, Holding.add

    def measured(holding: Holding, part: int, block: Block, now: int) -> None:
        nonlocal most
        add(holding, part, block, now)
        most = max(most, len(holding))

    monkeypatch.setattr(Holding, "add", measured)
    name, count = topic(2), 40_000
    step = delay // count // 1000 * 1000
    broker.produce(name, [quote(n, NOW + n * step, f"S{n % 2}")._replace(partition=n % 2) for n in range(count)])
    async with late(broker, name, now=NOW + delay, delay=delay) as reader:
        assert sorted(await reader.warm()) == [0]
        await reader.until(lambda: reader.feed.stats.lag is not None)
        assert reader.feed.stats.lag == 0, "what is not due is no lag"
        assert 0 < most <= 2 * RECORDS_MAX
        reader.clock.time = NOW + 2 * delay
        await reader.until(lambda: len(reader.bids) >= count)
        for parity in (0, 1):
            assert [bid for bid in reader.bids if bid % 2 == parity] == list(range(parity, count, 2))
        assert len(reader.bids) == count
        assert most <= 2 * RECORDS_MAX


# -- what can go wrong ---------------------------------------------------------------------------------------------


async def test_a_way_that_is_lost_costs_nothing_and_lets_nothing_out_early(own_broker: Local, proxy: Proxy) -> None:
    own_broker.create("ticks", 2)
    count = 10_000
    many = [quote(n, NOW + n * 100_000, f"S{n % 2}")._replace(partition=n % 2) for n in range(count)]
    own_broker.produce("ticks", many[:6000])
    async with late(own_broker, "ticks", now=NOW + DELAY) as reader:
        assert await reader.warm() == [0]
        proxy.cut()
        own_broker.produce("ticks", many[6000:])
        await reader.turn(NOW + DELAY + 60 * S, range(601))  # they were held
        assert reader.feed.trouble is None
        reader.clock.time = NOW + DELAY + 900 * S
        await reader.until(lambda: reader.feed.trouble)
        assert len(reader.bids) <= 6000
        proxy.heal()
        await reader.turn(NOW + DELAY + 900 * S, range(9001))
        await reader.turn(NOW + DELAY + count * 100_000, range(count))
        assert reader.feed.trouble is None


async def test_a_topic_made_anew_is_forgotten_and_read_late(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    broker.produce(name, [quote(n, NOW - HOUR) for n in range(100)])
    async with late(broker, name) as reader:
        assert len(await reader.warm()) == 100
        before = reader.feed.epoch
        reader.batches.clear()
        broker.delete(name)
        broker.create(name)
        broker.produce(name, [quote(7, NOW - HOUR), quote(8, NOW)])
        await reader.turn(NOW, [7])
        assert reader.feed.epoch != before
        assert reader.feed.epoch.endswith("~900s")
        await reader.turn(NOW + DELAY, [7, 8])


async def test_records_that_are_gone_before_they_are_due_are_skipped_and_counted(
    apache: Apache, apache_topic: MakeTopic
) -> None:
    name, count = apache_topic(), 9000
    apache.produce(name, [quote(n, NOW + n * 1000) for n in range(count)])
    async with late(apache, name) as reader:
        await reader.warm()
        apache.truncate(name, {0: count - 10})
        reader.clock.time = NOW + DELAY + HOUR
        await reader.until(lambda: count - 1 in reader.bids)
        stats = reader.feed.stats
        assert stats.skipped + stats.ticks == count
        assert len(reader.bids) == stats.ticks


async def test_of_a_compacted_topic_what_is_left_comes_late(apache: Apache, apache_topic: MakeTopic) -> None:
    name = apache_topic(cleanup_policy="compact")
    apache.produce(name, [quote(n, NOW - m * MINUTE, f"S{n}") for n, m in enumerate((2000, 20, 10))])
    async with late(apache, name, "") as reader:
        assert await reader.warm() == [0, 1]
        assert reader.since == NOW - DELAY
        await reader.turn(NOW + DELAY, [0, 1, 2])


async def test_keys_that_moved_to_added_partitions_lose_no_tick(apache: Apache, apache_topic: MakeTopic) -> None:
    name, symbols = apache_topic(2), [f"S{number}" for number in range(40)]

    def produce(partitions: int, bid: int, at: int) -> None:
        homes = {symbol: (murmur2(symbol.encode()) & 0x7FFFFFFF) % partitions for symbol in symbols}
        apache.produce(name, [quote(bid, at, symbol)._replace(partition=homes[symbol]) for symbol in symbols])

    produce(2, 0, NOW - HOUR)
    async with late(apache, name) as reader:
        assert await reader.warm() == [0] * 40
        produce(2, 1, NOW)
        for bid, partitions in ((2, 3), (3, 5)):
            apache.grow(name, partitions)
            produce(partitions, bid, NOW + bid * S)
        epoch = reader.feed.epoch
        await reader.until(lambda: reader.feed.epoch != epoch)
        await reader.turn(NOW + DELAY - 1000, [0] * 40)
        await reader.turn(NOW + DELAY + 4 * S, [bid for bid in range(4) for _ in range(40)])
        assert reader.feed.stats.refused == 0
        newest = dict(zip((symbol for symbol, _ in reader.positions), reader.bids, strict=True))
        assert newest == dict.fromkeys(symbols, 3.0)
