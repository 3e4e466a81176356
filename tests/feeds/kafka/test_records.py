from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import msgspec
import numpy as np
import pytest
from aiokafka.partitioner import murmur2
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from feeds.feed import FeedError, FeedStats
from feeds.kafka import records
from feeds.kafka.merging import Block
from feeds.kafka.partitions import Partition, home
from feeds.kafka.records import KEYS_SAID_MAX, SAMPLES_MAX, Reading
from feeds.ticks import COLUMNS, NO_TIME, QUOTE, TRADE, Symbols, Ticks

T = 1_700_000_000_000_000
MINUTE_US = 60_000_000

#: A record: the partition that it comes from, its value, and its key.
Record = tuple[str, bytes | None, bytes | None]
NO_KEY = None


def home_of(key: str, partitions: int, hash_of: str = "murmur2") -> int:
    hashed = {"murmur2": lambda data: murmur2(data) & 0x7FFFFFFF, "crc32": zlib.crc32}[hash_of](key.encode())
    return int(hashed % partitions)


def quote(symbol: str = "A", bid: object = 1.0, **more: object) -> bytes:
    return json.dumps({"symbol": symbol, "ts_event": T, "bid": bid, **more}).encode()


class Topics:
    """Reads records of `ticks`, of 4 partitions, and of `more`, of 1, as one feed; offsets count on in each."""

    def __init__(
        self, symbols: Symbols | None = None, *, name: str = "kafka", format: str = "json", **how: Any
    ) -> None:
        self.symbols = Symbols() if symbols is None else symbols
        self.stats = FeedStats()
        self.reading = Reading(name, self.symbols, self.stats, format=format, renamed=how.get("renamed"))
        self.name = name
        self.now = T
        self._offset: dict[str, Iterator[int]] = {}
        self.know({"ticks": 4, "more": 1})

    def know(self, partitions: Mapping[str, int]) -> None:
        self.parts = {
            f"{topic}/{number}": self.symbols.part(self.name, f"{topic}/{number}")
            for topic, most in partitions.items()
            for number in range(most)
        }
        known = {}
        for label, part in self.parts.items():
            topic, number = label.split("/")
            known[part] = Partition(topic, int(number), part, added=False)
        self.reading.know(known, partitions)

    def ticks(self, *found: Record, logged: int | Sequence[int] = T, since: int = NO_TIME) -> Ticks:
        """The ticks of one block of records."""
        offsets = [next(self._offset.setdefault(where, count(100))) for where, _, _ in found]
        block = Block(
            [value for _, value, _ in found],
            [key for _, _, key in found],
            np.array([self.parts[where] for where, _, _ in found], np.int64),
            np.array(offsets, np.int64),
            np.broadcast_to(np.array(logged, np.int64), len(found)).copy(),
        )
        ticks = self.reading.ticks(block, since, self.now)
        if ticks is None:
            ticks = self.reading.ticks(block, since, self.now, sure=True)
        assert ticks is not None
        for column in COLUMNS:
            assert len(getattr(ticks, column)) == len(ticks)
        assert ticks.row.dtype == ticks.seq.dtype == np.int64
        assert np.count_nonzero(ticks.row < 0) == 0
        return ticks

    def read(self, *values: bytes | None, **how: Any) -> list[tuple[str, int]]:
        """The symbol and offset of each tick of records without a key of one partition."""
        return self.told(self.ticks(*(("ticks/0", value, NO_KEY) for value in values), **how))

    def told(self, ticks: Ticks) -> list[tuple[str, int]]:
        return [(self.symbols.names[row], seq) for row, seq in zip(ticks.row.tolist(), ticks.seq.tolist(), strict=True)]

    def owner(self, key: str) -> str:
        row = self.symbols.find(key)
        assert row is not None
        return self.symbols.parts[self.symbols.owner[row]].label

    def outcome(self, *found: Record) -> list[tuple[str, int]]:
        return self.told(self.ticks(*found))


@pytest.fixture
def topics() -> Topics:
    return Topics()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What has been said so far; a test clears it."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert record.levelno == logging.WARNING
            lines.append(record.getMessage())

    handler = Lines()
    records.log.addHandler(handler)
    yield lines
    records.log.removeHandler(handler)
    assert all(len(line.splitlines()) == 1 for line in lines)


# -- what a record holds -------------------------------------------------------------------------------------------


def test_a_record_is_a_tick_and_its_offset_the_seq(topics: Topics) -> None:
    ticks = topics.ticks(
        ("ticks/0", quote("A", 1.5, bid_size=2, ask=3, ask_size="4"), NO_KEY),
        (
            "ticks/2",
            json.dumps({"symbol": "B", "venue": "X", "ts_recv": T, "price": "-7.5", "size": 1}).encode(),
            NO_KEY,
        ),
        since=T - 5,
    )
    assert topics.told(ticks) == [("A", 100), ("X:B", 100)]
    assert ticks.kind.tolist() == [QUOTE, TRADE]
    assert (ticks.bid[0], ticks.bid_size[0], ticks.ask[0], ticks.ask_size[0]) == (1.5, 2, 3, 4)
    assert (ticks.price[1], ticks.size[1]) == (-7.5, 1)
    assert ticks.since == T - 5
    assert topics.stats == FeedStats(ticks=2)


def test_ticks_of_an_array_share_their_records_offset(topics: Topics) -> None:
    array = json.dumps([json.loads(quote(key)) for key in ("A", "B", "A")]).encode()
    assert topics.read(quote("C"), array, quote("D")) == [("C", 100), ("A", 101), ("B", 101), ("A", 101), ("D", 102)]
    assert topics.stats.ticks == 5


def test_tombstones_and_empty_arrays_give_nothing_and_are_no_fault(topics: Topics, said: list[str]) -> None:
    assert topics.read(None, quote("A"), b"[]", None, quote("B"), None) == [("A", 101), ("B", 104)]
    assert topics.read(None, None) == []
    assert topics.read(b"[]") == []
    assert topics.read(b"[]", None) == []
    assert topics.read() == []
    assert topics.read(quote("A")) == [("A", 111)]
    assert topics.stats == FeedStats(ticks=3)
    assert not said


def test_the_keys_of_records_beside_empty_arrays_stay_theirs(topics: Topics) -> None:
    """As many ticks as records, but not one of each."""
    here, home = other_than_home("A"), home_of("A", 4)
    topics.ticks((f"ticks/{here}", quote("A"), NO_KEY))
    two = b"[" + quote("A") + b"," + quote("B") + b"]"
    found = topics.outcome((f"ticks/{home}", b"[]", NO_KEY), (f"ticks/{home}", two, b"A"))
    assert [key for key, _ in found] == ["A", "B"]
    assert topics.owner("A") == f"ticks/{home}"


def test_nulls_are_no_value(topics: Topics) -> None:
    ticks = topics.ticks(("ticks/0", quote("A", None, ask=2, venue=None, size=None, type=None), NO_KEY))
    assert np.isnan(ticks.bid[0])
    assert ticks.ask[0] == 2
    assert topics.told(ticks) == [("A", 100)]


def test_messagepack_is_read_the_same() -> None:
    topics = Topics(format="msgpack")
    one = msgspec.msgpack.encode({"symbol": "A", "ts_event": T, "bid": 1})
    two = msgspec.msgpack.encode([{"symbol": "B", "ts_event": T, "bid": 1}, {"symbol": "A", "ts_event": T, "bid": 2}])
    assert topics.read(one, None, two) == [("A", 100), ("B", 102), ("A", 102)]


def test_fields_may_go_by_names_of_their_own() -> None:
    topics = Topics(renamed={"symbol": "i", "bid": "x"})
    assert topics.read(json.dumps({"i": "A", "x": 1, "ts": T}).encode()) == [("A", 100)]


def test_a_format_that_there_is_not_is_said() -> None:
    with pytest.raises(FeedError, match=r"^format 'xml': expected one of json, msgpack"):
        Topics(format="xml")


# -- times ---------------------------------------------------------------------------------------------------------


def test_the_logs_time_is_that_of_a_tick_without_any(topics: Topics) -> None:
    bare = json.dumps({"symbol": "A", "bid": 1}).encode()
    ticks = topics.ticks(
        ("ticks/0", bare, NO_KEY),
        ("ticks/0", quote("A"), NO_KEY),
        ("ticks/0", b"[" + bare + b"," + bare + b"]", NO_KEY),
        logged=[T + 1, T + 2, T + 3],
    )
    assert ticks.ts_recv.tolist() == [T + 1, NO_TIME, T + 3, T + 3]
    assert ticks.ts_event.tolist() == [NO_TIME, T, NO_TIME, NO_TIME]


def test_a_tick_without_a_time_in_a_log_without_times_cannot_be_read(topics: Topics, said: list[str]) -> None:
    assert topics.read(json.dumps({"symbol": "A", "bid": 1}).encode(), logged=NO_TIME) == []
    assert topics.stats.rejected == 1
    assert said == ["feed kafka: ticks/0 offset 100: ts_event: expected a time there or in ts_recv, was none"]


def test_a_venue_time_may_be_a_minute_ahead_of_the_logs_and_no_more(topics: Topics, said: list[str]) -> None:
    assert topics.read(quote("A"), logged=T - MINUTE_US) == [("A", 100)]
    assert topics.read(quote("A"), logged=T - MINUTE_US - 1) == []
    assert topics.read(quote("A"), logged=NO_TIME) == [("A", 102)]
    assert topics.stats.rejected == 1
    assert said == [f"feed kafka: ticks/0 offset 101: ts_event: expected at most 60 s ahead of the log's time, was {T}"]


# -- poison --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_counted_said_and_skipped(topics: Topics, said: list[str]) -> None:
    found = topics.outcome(
        ("ticks/1", quote("A"), NO_KEY),
        ("ticks/3", b"\xff\x00", b"\xfe"),
        ("more/0", quote("A b"), NO_KEY),
        ("ticks/1", quote("B"), NO_KEY),
    )
    assert found == [("A", 100), ("B", 101)]
    assert (topics.stats.ticks, topics.stats.rejected, topics.stats.refused) == (2, 2, 0)
    assert len(said) == 2
    assert said[0].startswith("feed kafka: ticks/3 offset 100: expected a JSON object, was '\ufffd\\x00'")
    assert said[1].startswith("feed kafka: more/0 offset 100: symbol: expected a key of 1 to 64 printable characters")


def test_one_bad_tick_of_an_array_leaves_the_others(topics: Topics, said: list[str]) -> None:
    assert topics.read(None, b"[" + quote("A") + b",7," + quote("B") + b"]") == [("A", 101), ("B", 101)]
    assert topics.stats.rejected == 1
    assert said == ["feed kafka: ticks/0 offset 101: expected an array of JSON objects"]


def test_the_first_few_are_said_one_by_one(topics: Topics, said: list[str]) -> None:
    for _ in range(3):
        topics.read(b"x", b"y")
    assert SAMPLES_MAX == 5
    assert [line.split(": ")[1] for line in said] == [f"ticks/0 offset {offset}" for offset in range(100, 105)]
    assert topics.stats.rejected == 6


def test_the_others_are_counted_in_a_line_a_minute(topics: Topics, said: list[str]) -> None:
    topics.read(*[b"x"] * 10)
    assert len(said) == 5
    said.clear()
    topics.now += MINUTE_US - 1
    topics.read(b"x")
    assert said == []
    topics.now += 1
    topics.read(quote("A"), b"x", quote("A"))
    assert said == ["feed kafka: 7 more records could not be read, the last ticks/0 offset 112"]
    topics.now += MINUTE_US - 1
    topics.read(b"x")
    assert len(said) == 1
    topics.now += 1
    topics.read(quote("A"))  # all is well again, and the last one is not forgotten
    assert said[1:] == ["feed kafka: 1 more records could not be read, the last ticks/0 offset 114"]
    topics.now += 10 * MINUTE_US
    topics.read(quote("A"))
    assert len(said) == 2
    assert topics.stats.rejected == 13


def test_the_minute_begins_with_the_first_that_is_said(topics: Topics, said: list[str]) -> None:
    topics.now += 100 * MINUTE_US
    topics.read(*[b"x"] * 6)
    assert len(said) == 5
    topics.now += MINUTE_US
    topics.read()
    assert said[5:] == ["feed kafka: 1 more records could not be read, the last ticks/0 offset 105"]


def test_a_burst_is_one_line(topics: Topics, said: list[str]) -> None:
    topics.read(*[b"x"] * 5)
    said.clear()
    topics.now += MINUTE_US
    topics.read(*[b"x"] * 5000)
    assert said == ["feed kafka: 5000 more records could not be read, the last ticks/0 offset 5104"]


@pytest.mark.parametrize("value", [quote("A\nfeed kafka: all is well"), quote("A\r"), b"\nfeed kafka:", b"\x85\x0c"])
def test_no_record_writes_a_line_of_its_own(topics: Topics, said: list[str], value: bytes) -> None:
    assert topics.read(value) == []
    assert len(said) == 1


OBJECTS = st.dictionaries(
    st.sampled_from(["symbol", "venue", "type", "ts_event", "ts_recv", "bid", "ask_size", "price", "size", "x"]),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["A", "B", "quote", "trade", "", "1", "a b", "\n", "2023-11-14"])
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=2),
)
VALUES = (
    st.none()
    | st.binary(max_size=30)
    | OBJECTS.map(lambda value: json.dumps(value).encode())
    | st.lists(OBJECTS | st.integers(), max_size=3).map(lambda value: json.dumps(value).encode())
    | st.sampled_from(["A", "B", "C"]).map(quote)
)


@pytest.mark.parametrize("format", ["json", "msgpack"])
@given(
    blocks=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["ticks/0", "ticks/1", "ticks/3", "more/0"]),
                VALUES,
                st.none() | st.binary(max_size=3) | st.sampled_from([b"A", b"B"]),
                st.sampled_from([T, NO_TIME, 0, T * 2]),
            ),
            max_size=6,
        ),
        max_size=4,
    )
)
@example(blocks=[[("ticks/0", b"[" * 5000, None, T)]])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_is_counted_and_never_raises(
    format: str, said: list[str], blocks: list[list[tuple[str, bytes | None, bytes | None, int]]]
) -> None:
    said.clear()
    topics = Topics(format=format)
    for found in blocks:
        before = topics.stats.ticks + topics.stats.rejected + topics.stats.refused
        topics.ticks(*(record[:3] for record in found), logged=[record[3] for record in found])
        rows = topics.stats.ticks + topics.stats.rejected + topics.stats.refused - before
        bare = [value for _, value, _, _ in found if value is not None and value[:1] not in b"[\x90\xdc"]
        assert rows >= len(bare)
        topics.now += MINUTE_US
    assert all(len(line.splitlines()) == 1 for line in said)


# -- who owns what -------------------------------------------------------------------------------------------------


def other_than_home(key: str, partitions: int = 4) -> int:
    """A partition that `key` belongs to by neither hash."""
    homes = {home_of(key, partitions), home_of(key, partitions, "crc32")}
    return next(number for number in range(partitions) if number not in homes)


def test_a_symbol_belongs_to_the_partition_that_first_brings_it(topics: Topics, said: list[str]) -> None:
    assert topics.outcome(("ticks/1", quote("A"), NO_KEY)) == [("A", 100)]
    for _ in range(3):
        assert topics.outcome(("ticks/2", quote("A"), NO_KEY), ("ticks/1", quote("A"), NO_KEY))[0][0] == "A"
    assert topics.owner("A") == "ticks/1"
    assert (topics.stats.ticks, topics.stats.refused, topics.stats.rejected) == (4, 3, 0)
    assert said == ["feed kafka: left out, since another partition or feed brings it: A"]


def test_the_first_in_a_block_owns_it(topics: Topics) -> None:
    found = topics.ticks(
        ("ticks/2", quote("A", 1), NO_KEY), ("ticks/1", quote("A", 2), NO_KEY), ("ticks/2", quote("A", 3), NO_KEY)
    )
    assert found.bid.tolist() == [1, 3]
    assert topics.owner("A") == "ticks/2"
    assert topics.stats.refused == 1


def test_many_refused_keys_are_said_in_one_line(topics: Topics, said: list[str]) -> None:
    keys = [f"S{number}" for number in range(13)]
    topics.ticks(*(("ticks/0", quote(key), NO_KEY) for key in keys))
    topics.ticks(*(("ticks/1", quote(key), NO_KEY) for key in keys))
    assert KEYS_SAID_MAX == 10
    assert said == [
        f"feed kafka: left out, since another partition or feed brings it: {', '.join(keys[:10])} and 3 more"
    ]


@pytest.mark.parametrize("hash_of", ["murmur2", "crc32"])
@pytest.mark.parametrize("key", ["A", "BTCUSDT", "binance-spot:ETHUSDT"])
def test_a_symbol_moves_to_the_home_of_its_key_once_and_never_back(
    topics: Topics, said: list[str], key: str, hash_of: str
) -> None:
    away, home = f"ticks/{other_than_home(key)}", f"ticks/{home_of(key, 4, hash_of)}"
    topics.ticks((away, quote(key), key.encode()))
    assert topics.owner(key) == away
    assert [name for name, _ in topics.outcome((home, quote(key), key.encode()))] == [key]
    assert topics.owner(key) == home
    assert topics.symbols.moves == 1
    for _ in range(2):
        assert topics.outcome((away, quote(key), key.encode())) == []
    assert [name for name, _ in topics.outcome((home, quote(key), key.encode()))] == [key]
    assert (topics.symbols.moves, topics.stats.refused) == (1, 2)
    assert said == [f"feed kafka: left out, since another partition or feed brings it: {key}"]


def test_a_symbol_moves_from_one_home_to_the_other_once(topics: Topics) -> None:
    """Where partitions were added, what is the key's home by the other hash may be where it was before."""
    key = next(k for k in (f"S{n}" for n in range(100)) if home_of(k, 4) != home_of(k, 4, "crc32"))
    by_murmur2, by_crc32 = f"ticks/{home_of(key, 4)}", f"ticks/{home_of(key, 4, 'crc32')}"
    topics.ticks((by_crc32, quote(key), key.encode()))
    assert [name for name, _ in topics.outcome((by_murmur2, quote(key), key.encode()))] == [key]
    assert topics.outcome((by_crc32, quote(key), key.encode())) == []
    assert topics.owner(key) == by_murmur2


def test_records_without_a_key_or_of_another_move_nothing(topics: Topics) -> None:
    away, home = f"ticks/{other_than_home('A')}", f"ticks/{home_of('A', 4)}"
    other = next(
        k for k in (f"S{n}" for n in range(100)) if home_of("A", 4) not in (home_of(k, 4), home_of(k, 4, "crc32"))
    )
    topics.ticks((away, quote("A"), b"A"))
    for key in (NO_KEY, other.encode()):
        assert topics.outcome((home, quote("A"), key)) == []
    assert (topics.owner("A"), topics.symbols.moves, topics.stats.refused) == (away, 0, 2)


def test_it_is_the_records_key_that_tells_the_home_not_the_symbol(topics: Topics) -> None:
    key = "some account"
    away, home = f"ticks/{other_than_home(key)}", f"ticks/{home_of(key, 4)}"
    topics.ticks((away, quote("A"), key.encode()))
    assert topics.outcome((home, quote("A"), key.encode())) == [("A", 100)]
    assert topics.owner("A") == home


def test_a_key_of_another_topic_is_refused(topics: Topics, said: list[str]) -> None:
    topics.ticks(("ticks/0", quote("A"), b"A"))
    assert topics.outcome(("more/0", quote("A"), b"A")) == []  # whose only partition is everybody's home
    assert topics.owner("A") == "ticks/0"
    assert topics.stats.refused == 1
    assert len(said) == 1


def test_a_key_of_another_feed_is_refused() -> None:
    one = Topics()
    other = Topics(one.symbols, name="kafka-2")
    one.ticks(("more/0", quote("A"), b"A"))
    assert other.outcome(("more/0", quote("A"), b"A")) == []
    assert (other.stats.refused, one.stats.refused) == (1, 0)
    replay = one.symbols.part("replay")
    one.symbols.claim("B", replay)
    assert one.outcome(("more/0", quote("B"), b"B")) == []


def test_stragglers_after_a_move_in_the_same_block_are_refused(topics: Topics) -> None:
    away, home = f"ticks/{other_than_home('A')}", f"ticks/{home_of('A', 4)}"
    ticks = topics.ticks(
        (away, quote("A", 1), b"A"),
        (away, quote("B", 2), b"B"),
        (away, quote("A", 3), b"A"),
        (home, quote("A", 4), b"A"),
        (away, quote("A", 5), b"A"),
        (away, quote("B", 6), b"B"),
        (home, quote("A", 7), b"A"),
    )
    assert ticks.bid.tolist() == [1, 2, 3, 4, 6, 7]
    assert topics.told(ticks) == [("A", 100), ("B", 101), ("A", 102), ("A", 100), ("B", 104), ("A", 101)]
    assert (topics.owner("A"), topics.owner("B")) == (home, away)
    assert (topics.stats.ticks, topics.stats.refused) == (6, 1)


def test_stragglers_of_a_move_in_one_block_are_refused(topics: Topics) -> None:
    away, *homes = (f"ticks/{n}" for n in (other_than_home("A"), home_of("A", 4), home_of("A", 4, "crc32")))
    assert len({away, *homes}) == 3
    log = [away, homes[0], away, homes[0], homes[1], homes[0], away, homes[1]]
    ticks = topics.ticks(*((where, quote("A", place), b"A") for place, where in enumerate(log)))
    assert ticks.bid.tolist() == [0, 1, 3, 5]
    assert (topics.owner("A"), topics.stats.refused) == (homes[0], 4)


def test_a_move_in_an_array_is_told_by_the_records_key(topics: Topics) -> None:
    away, home = f"ticks/{other_than_home('A')}", f"ticks/{home_of('A', 4)}"
    array = b"[" + quote("C") + b"," + quote("A", 2) + b"]"
    ticks = topics.ticks(
        (away, b"[" + quote("B") + b"," + quote("A", 1) + b"]", b"B"),
        (home, None, b"B"),
        (home, array, b"A"),
        (away, quote("A", 3), b"A"),
    )
    assert topics.told(ticks) == [("B", 100), ("A", 100), ("C", 101), ("A", 101)]
    assert topics.owner("A") == home


def test_a_symbol_follows_its_key_when_the_topic_has_more_partitions(topics: Topics) -> None:
    key = next(
        k
        for k in (f"S{n}" for n in range(100))
        if {home_of(k, 8), home_of(k, 8, "crc32")} & {home_of(k, 4), home_of(k, 4, "crc32")} == set()
    )
    before, after = f"ticks/{home_of(key, 4)}", f"ticks/{home_of(key, 8)}"
    topics.ticks((before, quote(key), key.encode()))
    topics.know({"ticks": 8, "more": 1})
    assert [name for name, _ in topics.outcome((before, quote(key), key.encode()))] == [key]
    assert [name for name, _ in topics.outcome((after, quote(key), key.encode()))] == [key]
    assert topics.outcome((before, quote(key), key.encode())) == []
    assert topics.owner(key) == after


def test_what_was_refused_for_good_may_be_home_once_the_topic_has_more_partitions(topics: Topics) -> None:
    keys = (f"S{n}" for n in range(9999))
    key = next(k for k in keys if home_of(k, 5) < 4 and not home(k.encode(), (4,), home_of(k, 5)))
    before, after = f"ticks/{home_of(key, 4)}", f"ticks/{home_of(key, 5)}"
    topics.ticks((before, quote(key), key.encode()))
    assert topics.outcome((after, quote(key), key.encode())) == []
    topics.know({"ticks": 5, "more": 1})
    assert [name for name, _ in topics.outcome((after, quote(key), key.encode()))] == [key]
    assert topics.owner(key) == after


def test_a_symbol_that_was_forgotten_moves_home_again(topics: Topics) -> None:
    away, at_home = f"ticks/{other_than_home('A')}", f"ticks/{home_of('A', 4)}"
    for _ in range(2):
        assert len(topics.outcome((away, quote("A"), b"A"))) == 1
        assert len(topics.outcome((at_home, quote("A"), b"A"))) == 1
        topics.reading.forget(topics.symbols.owned_by(list(topics.parts.values())))


def test_what_was_given_up_belongs_to_whoever_brings_it_next(topics: Topics) -> None:
    topics.ticks(("ticks/0", quote("A"), NO_KEY), ("ticks/0", quote("B"), NO_KEY))
    topics.symbols.release(topics.symbols.owned_by([topics.parts["ticks/0"]]))
    assert topics.outcome(("more/0", quote("A"), NO_KEY)) == [("A", 100)]
    assert topics.outcome(("ticks/0", quote("A"), NO_KEY), ("ticks/0", quote("B"), NO_KEY)) == [("B", 103)]
    assert (topics.owner("A"), topics.owner("B")) == ("more/0", "ticks/0")


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["A", "B", "C"])), max_size=30), st.data())
def test_who_owns_what_does_not_depend_on_how_records_come_in_blocks(
    found: list[tuple[int, str]], data: st.DataObject
) -> None:
    """So replicas, which cut the log differently, agree."""
    log: list[Record] = [
        (f"ticks/{number}", quote(key, place), key.encode()) for place, (number, key) in enumerate(found)
    ]
    one, other = Topics(), Topics()
    expected = [float(bid) for record in log for bid in one.ticks(record).bid]
    got: list[float] = []
    while log:
        size = data.draw(st.integers(1, len(log)))
        got += other.ticks(*log[:size]).bid.tolist()
        log = log[size:]
    assert got == expected
    assert other.symbols.owner == one.symbols.owner
    assert other.stats == one.stats


def test_a_symbol_from_another_partition_is_in_doubt_once(topics: Topics) -> None:
    where = [f"ticks/{number}" for number in range(4) if not home(b"A", (4,), number)][:2]
    topics.ticks((where[0], quote("A"), b"A"))
    block = Block([quote("A"), quote("B")], [b"A", b"B"], *np.array([[topics.parts[where[1]]] * 2, [7, 8], [T, T]]))
    assert topics.reading.ticks(block, NO_TIME, T) is None
    assert topics.stats == FeedStats(ticks=1)
    for sure in (True, False):
        ticks = topics.reading.ticks(block, NO_TIME, T, sure=sure)
        assert ticks is not None
        assert topics.told(ticks) == [("B", 8)]
    assert topics.stats == FeedStats(ticks=3, refused=2)


def test_in_order_of_time_a_symbol_follows_its_key_through_every_count_of_partitions(topics: Topics) -> None:
    key = next(k for k in (f"S{n}" for n in range(999)) if len({home_of(k, 2), home_of(k, 3), home_of(k, 4)}) == 3)
    log = [(f"ticks/{home_of(key, count)}", quote(key), key.encode()) for count in (2, 3, 4, 2, 3)]
    topics.reading.in_order = True
    assert [len(topics.outcome(record)) for record in log] == [1, 1, 1, 0, 0]
    assert topics.owner(key) == f"ticks/{home_of(key, 4)}"


def test_in_order_of_time_a_key_may_come_back_to_where_it_was_within_one_block(topics: Topics) -> None:
    key = next(k for k in (f"S{n}" for n in range(999)) if home_of(k, 2) == home_of(k, 4) != home_of(k, 3))
    log = [(f"ticks/{home_of(key, count)}", quote(key, count), key.encode()) for count in (2, 3, 3, 4, 3, 4)]
    topics.reading.in_order = True
    assert topics.ticks(*log).bid.tolist() == [2, 3, 3, 4, 4]
    assert (topics.owner(key), topics.stats) == (f"ticks/{home_of(key, 4)}", FeedStats(ticks=5, refused=1))


def test_in_order_of_time_the_moves_of_one_key_are_undone_from_the_last_to_the_first(topics: Topics) -> None:
    key = next(k for k in (f"S{n}" for n in range(999)) if len({home_of(k, 2), home_of(k, 3), home_of(k, 4)}) == 3)
    counts = (2, 3, 4, 2)
    log = [(f"ticks/{home_of(key, count)}", quote(key, at), key.encode()) for at, count in enumerate(counts)]
    topics.reading.in_order = True
    assert topics.ticks(*log).bid.tolist() == [0, 1, 2]
    assert (topics.owner(key), topics.stats.refused) == (f"ticks/{home_of(key, 4)}", 1)


def test_what_lies_back_is_in_doubt_also_where_a_key_moves_home(topics: Topics) -> None:
    where = f"ticks/{other_than_home('A')}"
    topics.ticks((where, quote("A"), b"A"))
    topics.reading.warming = True
    at_home = topics.parts[f"ticks/{home_of('A', 4)}"]
    block = Block([quote("A")], [b"A"], *np.array([[at_home], [7], [T]]))
    assert topics.reading.ticks(block, NO_TIME, T) is None
    assert topics.owner("A") == where


@pytest.mark.parametrize("where", ["ticks/1", "more/0"])
def test_what_lies_back_is_in_doubt_wherever_a_symbol_comes_from(topics: Topics, where: str) -> None:
    topics.ticks(("ticks/0", quote("A"), NO_KEY))
    topics.reading.warming = True
    block = Block([quote("A")], [NO_KEY], *np.array([[topics.parts[where]], [7], [T]]))
    assert topics.reading.ticks(block, NO_TIME, T) is None
    assert topics.owner("A") == "ticks/0"
