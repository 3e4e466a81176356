from __future__ import annotations

import zlib

import pytest
from aiokafka.partitioner import DefaultPartitioner, murmur2
from hypothesis import given
from hypothesis import strategies as st

from feeds.kafka.address import Back, Start
from feeds.kafka.partitions import END, FIRST, Begin, Partition, begins, home, labels, since
from feeds.kafka.setup import DAY_US, Setup
from feeds.ticks import NO_TIME

MIDNIGHT = 1_700_006_400_000_000  # 2023-11-15, UTC
HOUR_US = 3_600_000_000
NOON = MIDNIGHT + 12 * HOUR_US


# -- where reading begins ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize(
    ("start", "begin"),
    [
        (Start.EARLIEST, FIRST),
        (Start.LATEST, END),
        (Back(15 * 60_000_000), NOON - 15 * 60_000_000),
        (Back(0), NOON),
        (Back(999_999_999 * DAY_US), 0),  # brokers are asked for no time before 1970
        (MIDNIGHT - 7, MIDNIGHT - 7),
        (NOON + HOUR_US, NOON + HOUR_US),
    ],
)
def test_a_start_that_is_told_holds_for_every_topic(start: Start | Back | int, begin: Begin, compacted: bool) -> None:
    assert begins(start, compacted, NOON, Setup()) == begin


@pytest.mark.parametrize(
    ("session_start_us", "warm_up_us", "now", "begin"),
    [
        (0, DAY_US, NOON, MIDNIGHT),
        (0, DAY_US, MIDNIGHT, MIDNIGHT),
        (0, DAY_US, MIDNIGHT - 1, MIDNIGHT - DAY_US),
        (9 * HOUR_US, DAY_US, NOON, MIDNIGHT + 9 * HOUR_US),
        (22 * HOUR_US, DAY_US, NOON, MIDNIGHT - 2 * HOUR_US),
        (22 * HOUR_US, 30 * DAY_US, NOON, MIDNIGHT - 2 * HOUR_US),
        (0, HOUR_US, NOON, NOON - HOUR_US),
        (9 * HOUR_US, 4 * HOUR_US, NOON, MIDNIGHT + 9 * HOUR_US),
        (0, 0, NOON, NOON),
    ],
)
def test_by_default_it_is_the_start_of_the_session_or_the_longest_warm_up(
    session_start_us: int, warm_up_us: int, now: int, begin: int
) -> None:
    setup = Setup(session_start_us=session_start_us, warm_up_us=warm_up_us)
    assert begins(Start.SESSION, False, now, setup) == begin


def test_by_default_all_of_a_compacted_topic_is_read() -> None:
    assert begins(Start.SESSION, True, NOON, Setup(warm_up_us=0)) == FIRST


# -- since when there is no hole -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "first", "position", "time", "expected"),
    [
        (END, 0, 0, None, NOON),
        (END, 5, 9, None, NOON),
        (FIRST, 0, 0, MIDNIGHT, NO_TIME),  # all that there ever was
        (FIRST, 0, 0, None, NO_TIME),  # nothing there ever was
        (FIRST, 5, 5, MIDNIGHT, MIDNIGHT),  # retention took what was before
        (FIRST, 5, 5, None, NOON),  # retention took all
        (MIDNIGHT, 0, 0, MIDNIGHT + 3, NO_TIME),
        (MIDNIGHT, 0, 7, MIDNIGHT + 3, MIDNIGHT),
        (MIDNIGHT, 5, 7, MIDNIGHT + 3, MIDNIGHT),
        (MIDNIGHT, 5, 5, MIDNIGHT + 3, MIDNIGHT + 3),  # retention may have taken some since midnight
        (MIDNIGHT, 5, 9, None, MIDNIGHT),  # nothing came since midnight
        (MIDNIGHT, 9, 9, None, NOON),  # it came and went, for all that is known
    ],
)
def test_since(begin: Begin, first: int, position: int, time: int | None, expected: int) -> None:
    assert since(begin, False, NOON, first, position, time) == expected


@pytest.mark.parametrize("begin", [FIRST, END, MIDNIGHT])
def test_a_compacted_topic_is_whole_from_now_on(begin: Begin) -> None:
    assert since(begin, True, NOON, 0, 0, MIDNIGHT) == NOON


@given(
    st.sampled_from([FIRST, END]) | st.integers(MIDNIGHT, NOON),
    st.integers(0, 3),
    st.integers(0, 3),
    st.none() | st.integers(MIDNIGHT, NOON),
)
def test_a_hole_never_ends_after_now(begin: Begin, first: int, more: int, time: int | None) -> None:
    assert since(begin, False, NOON, first, first + more, time) <= NOON


@pytest.mark.parametrize(("position", "warm"), [(None, False), (0, False), (9, False), (10, True), (11, True)])
def test_a_partition_is_warm_at_the_end_that_it_had(position: int | None, warm: bool) -> None:
    assert Partition("ticks", 3, part=1, added=False, position=position, target=10).warm is warm


def test_a_partition_is_called_by_its_topic_and_number() -> None:
    assert str(Partition("ticks", 3, part=1, added=False)) == "ticks/3"


# -- homes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "hashed"),
    [  # Java's own: org.apache.kafka.common.utils.UtilsTest.testMurmur2
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_a_home_by_javas_murmur2(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed % 2**32
    for count in (1, 2, 3, 12, 1000):
        assert home(key, (count,), (hashed & 0x7FFFFFFF) % count)


@pytest.mark.parametrize(
    ("key", "hashed"),
    [(b"123456789", 0xCBF43926), (b"a", 0xE8B7BE43), (b"abc", 0x352441C2), (b"", 0)],  # CRC-32/ISO-HDLC
)
def test_a_home_by_librdkafkas_crc32(key: bytes, hashed: int) -> None:
    assert zlib.crc32(key) == hashed
    for count in (1, 2, 3, 12, 1000):
        assert home(key, (count,), hashed % count)


@given(st.binary(max_size=40), st.integers(1, 50))
def test_a_key_has_one_home_or_two(key: bytes, count: int) -> None:
    homes = [number for number in range(count) if home(key, (count,), number)]
    assert 1 <= len(homes) <= 2
    every = list(range(count))
    assert DefaultPartitioner()(key, every, every) in homes
    assert zlib.crc32(key) % count in homes


def test_a_home_of_any_of_several_counts() -> None:
    assert not home(b"abc", (3,), 3)
    homes = {count: {number for number in range(5) if home(b"abc", (count,), number)} for count in (2, 3, 5)}
    assert {number for number in range(5) if home(b"abc", (2, 3, 5), number)} == set.union(*homes.values())


def test_a_home_is_that_of_the_first_count_by_whichever_hash() -> None:
    keys = (b"k%d" % number for number in range(9999))
    murmur2s = ((key, murmur2(key) & 0x7FFFFFFF) for key in keys)
    key = next(k for k, hashed in murmur2s if hashed % 2 != 1 and hashed % 3 == 1 and zlib.crc32(k) % 2 == 1)
    assert home(key, (2, 3), 1) == 2


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, ""),
        (1, "t/0"),
        (5, "t/0, t/1, t/2, t/3, t/4"),
        (6, "t/0, t/1, t/2, t/3, t/4 and 1 more"),
        (300, "t/0, t/1, t/2, t/3, t/4 and 295 more"),
    ],
)
def test_labels(count: int, said: str) -> None:
    assert labels(Partition("t", number, number, added=False) for number in range(count)) == said
