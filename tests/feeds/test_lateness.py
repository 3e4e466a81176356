"""Feeds that are late: the same ticks as without a delay, each of them so much later, and none before."""

from __future__ import annotations

from pathlib import Path

import pytest

from feeds.clock import Behind
from feeds.feed import ON_TIME, FeedError, Lateness
from feeds.spec import open_feed
from feeds.ticks import COLUMNS, Symbols, Ticks
from tests.feeds.conftest import T0, HandClock, batches_of, quote, write_csv

DELAY_US = 900_000_000
LATE = Lateness(DELAY_US, begun=T0)

#: When a batch came, by the clock that is not late, and the batch.
Came = list[tuple[int, Ticks]]


async def come(spec: str, lateness: Lateness, most: int = 3000, now: int = T0) -> Came:
    """What a feed brings that is iterated at `now`, up to at least `most` ticks."""
    clock = HandClock(now)
    came: Came = []
    async for batch in batches_of(open_feed(spec, Symbols(), clock=clock, lateness=lateness)):
        came.append((clock.now(), batch))
        if sum(len(batch) for _, batch in came) >= most:
            break
    return came


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """Ten quotes, a second apart."""
    return write_csv(tmp_path / "day.csv", [quote(T0 - 10**12 + n * 1_000_000, bid=n, ask=n + 1) for n in range(10)])


async def test_a_clock_behind_tells_and_waits_for_the_late_time() -> None:
    clock = HandClock()
    behind = Behind(clock, DELAY_US)
    assert behind.now() == T0 - DELAY_US
    await behind.sleep_until(T0)
    assert (clock.now(), behind.now()) == (T0 + DELAY_US, T0)


@pytest.mark.parametrize("options", ["", "&start=0", "&rate=137"])
async def test_a_simulated_market_that_is_late_is_the_same_market(options: str) -> None:
    spec = f"sim:?symbols=20&seed=7{options}"
    live, late = await come(spec, Lateness(begun=T0)), await come(spec, LATE)
    assert [when - DELAY_US for when, _ in late] == [when for when, _ in live]
    for name in COLUMNS:
        one, other = (getattr(Ticks.concat([batch for _, batch in came]), name) for came in (live, late))
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("options", ["speed=1", "speed=7.5", "speed=2&loop=1", f"from={(T0 - 10**12) // 10**6 + 3}"])
async def test_a_recording_that_is_late_is_the_same_recording_begun_later(day: Path, options: str) -> None:
    spec = f"replay:{day}?{options}"
    live, late = await come(spec, Lateness(begun=T0), 7), await come(spec, LATE, 7)
    assert [when - DELAY_US for when, _ in late] == [when for when, _ in live]
    assert [batch.seq.tolist() for _, batch in late] == [batch.seq.tolist() for _, batch in live]
    assert [batch.bid.tolist() for _, batch in late] == [batch.bid.tolist() for _, batch in live]


@pytest.mark.parametrize("scheme", ["sim", "replay"])
async def test_a_late_feed_begins_so_long_after_it_is_opened_where_no_other_began(scheme: str, day: Path) -> None:
    spec = "sim:?symbols=5" if scheme == "sim" else f"replay:{day}"
    assert (await come(spec, Lateness(DELAY_US), 1))[0][0] == T0 + DELAY_US


@pytest.mark.parametrize("scheme", ["sim", "replay"])
async def test_a_late_feed_that_is_iterated_late_makes_up_for_it(scheme: str, day: Path) -> None:
    spec = "sim:?symbols=5&rate=1" if scheme == "sim" else f"replay:{day}"
    came = await come(spec, LATE, 8, now=T0 + DELAY_US + 3_500_000)
    assert came[0][0] == T0 + DELAY_US + 3_500_000
    assert [len(batch) for _, batch in came] == [4, 1, 1, 1, 1]
    assert came[1][0] == T0 + DELAY_US + 4_000_000


@pytest.mark.parametrize("scheme", ["sim", "replay"])
def test_a_late_feed_that_has_nothing_yet_is_warm_since_nothing_is_due(scheme: str, day: Path) -> None:
    spec = "sim:" if scheme == "sim" else f"replay:{day}"
    assert open_feed(spec, Symbols(), lateness=LATE).warm
    assert not open_feed(spec, Symbols(), lateness=ON_TIME).warm


def test_what_has_no_pace_is_not_served_late(day: Path) -> None:
    for spec in ("sim:?speed=max", f"replay:{day}?speed=max"):
        open_feed(spec, Symbols())
        with pytest.raises(FeedError, match="speed: expected a multiple of real time with a delay, was max: "):
            open_feed(spec, Symbols(), lateness=LATE)


@pytest.mark.parametrize(
    ("delay_us", "suffix"), [(0, ""), (900_000_000, "~900s"), (3_000_000, "~3s"), (1_500_000, "~1500ms")]
)
def test_a_delay_is_told_by_name_and_epoch(delay_us: int, suffix: str, day: Path) -> None:
    lateness = Lateness(delay_us)
    assert lateness.suffix == suffix
    for spec in ("sim:", f"replay:{day}", "kafka://localhost/ticks"):
        feed = open_feed(spec, Symbols(), lateness=lateness)
        assert feed.name == spec.partition(":")[0] + suffix
        assert feed.epoch.endswith(suffix)
        assert "~" not in feed.epoch.removesuffix(suffix)
