from __future__ import annotations

import asyncio
import gzip
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feeds import log, replay
from feeds.feed import FeedError
from feeds.log import SAMPLES_MAX
from feeds.replay import BATCH_TICKS_MAX, find_files
from feeds.spec import open_feed
from feeds.ticks import COLUMNS, NO_TIME, QUOTE, TRADE, Symbols, Ticks
from tests.feeds.conftest import (
    T0,
    HandClock,
    batches_of,
    collect,
    quote,
    replayed,
    trade,
    write_csv,
    write_ndjson,
    write_parquet,
)

WRITERS = {"csv": write_csv, "ndjson": write_ndjson, "parquet": write_parquet}


def identical(one: Ticks, other: Ticks) -> bool:
    return one.since == other.since and all(
        getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in COLUMNS
    )


@pytest.mark.parametrize("suffix", WRITERS)
async def test_a_recording_comes_out_as_it_went_in(tmp_path: Path, suffix: str) -> None:
    rows = [quote(T0, "A", bid="10.25", ask=None), trade(T0 + 5, "B", price="-3.10", size="0.5", ts_event=T0 + 9)]
    symbols = Symbols()
    ticks = await replayed(f"replay:{WRITERS[suffix](tmp_path / f'x.{suffix}', rows)}?speed=max", symbols)
    assert symbols.names == ["A", "B"]
    assert ticks.seq.tolist() == [1, 2]
    assert ticks.kind.tolist() == [QUOTE, TRADE]
    assert ticks.ts_recv.tolist() == [T0, T0 + 5]
    assert ticks.ts_event.tolist() == [NO_TIME, T0 + 9]
    assert ticks.since == T0
    np.testing.assert_array_equal(ticks.bid, [10.25, np.nan])
    np.testing.assert_array_equal(ticks.ask, [np.nan, np.nan])
    np.testing.assert_array_equal(ticks.price, [np.nan, -3.1])
    np.testing.assert_array_equal(ticks.size, [np.nan, 0.5])
    assert {name: getattr(ticks, name).dtype.str for name in COLUMNS[:5]} == {
        "row": "<i8",
        "seq": "<i8",
        "kind": "|u1",
        "ts_event": "<i8",
        "ts_recv": "<i8",
    }


async def test_the_three_formats_of_a_real_recording_are_one_to_the_last_bit(binance6: dict[str, Path]) -> None:
    tables = {}
    for suffix, path in binance6.items():
        symbols = Symbols()
        feed = open_feed(f"replay:{path}?speed=max", symbols, clock=HandClock())
        batches = await collect(feed)
        assert all(len(batch) <= BATCH_TICKS_MAX for batch in batches)
        assert (feed.stats.ticks, feed.stats.rejected, feed.stats.refused) == (81_781, 0, 0)
        tables[suffix] = (symbols.names, Ticks.concat(batches))
    names, first = tables.pop("csv")
    assert len(names) == 6
    assert len(tables) == 2
    for other_names, other in tables.values():
        assert other_names == names
        assert identical(other, first)


async def test_recordings_are_merged_by_time_and_numbered_over_all(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [quote(T0 + at, "A") for at in (0, 20, 10, 30)])
    write_ndjson(tmp_path / "b.ndjson", [quote(T0 + at, "B") for at in (5, 20, 25)])
    write_parquet(tmp_path / "c.parquet", [trade(T0 + at, "C") for at in (1, 40)])
    symbols = Symbols()
    ticks = await replayed(f"replay:{tmp_path}?speed=max", symbols)
    assert [symbols.names[row] for row in ticks.row] == list("ACBAABBAC")
    assert (ticks.ts_recv - T0).tolist() == [0, 1, 5, 10, 20, 20, 25, 30, 40]
    assert ticks.seq.tolist() == list(range(1, 10))


async def test_a_row_that_cannot_be_read_moves_no_clock(tmp_path: Path, clock: HandClock) -> None:
    """Its time is as doubtful as the rest of it: neither the merge nor the pace goes by it."""
    write_csv(tmp_path / "a.csv", [quote(T0, "A"), quote(T0 + 10**9, "A", bid="junk"), quote(T0 + 10, "A")])
    write_csv(tmp_path / "b.csv", [quote(T0 + at, "B") for at in (5, 20)])
    symbols = Symbols()
    feed = open_feed(f"replay:{tmp_path}", symbols, clock=clock)
    ticks = Ticks.concat(await collect(feed))
    assert [symbols.names[row] for row in ticks.row] == list("ABAB")
    assert clock.time < T0 + 10**8


async def test_numbers_count_every_row_whatever_is_asked_for(tmp_path: Path) -> None:
    rows = [quote(T0 + at, "AB"[at % 2], bid="junk" if at == 3 else at) for at in range(10)]
    paths = [
        writer(tmp_path / f"x.{suffix}", [{**r, "bid": str(r["bid"])} for r in rows])
        for suffix, writer in WRITERS.items()
    ]
    for path in paths:
        assert (await replayed(f"replay:{path}?speed=max")).seq.tolist() == [1, 2, 3, 5, 6, 7, 8, 9, 10]
        assert (await replayed(f"replay:{path}?speed=max&symbols=B")).seq.tolist() == [2, 6, 8, 10]
        some = await replayed(f"replay:{path}?speed=max&from={T0 + 4}&to={T0 + 7}")
        assert some.seq.tolist() == [5, 6, 7]
        assert some.since == T0 + 4


async def test_patterns_match_the_whole_key(tmp_path: Path) -> None:
    rows = [quote(T0, name, venue=venue) for venue in ("x", "y") for name in ("ETHUSD", "BTCUSD")]
    path = write_csv(tmp_path / "x.csv", rows)
    symbols = Symbols()
    await replayed(f"replay:{path}?speed=max&symbols=x:*,*:ETH*", symbols)
    assert symbols.names == ["x:ETHUSD", "x:BTCUSD", "y:ETHUSD"]


async def test_the_range_goes_by_receive_time_and_may_be_iso(tmp_path: Path) -> None:
    times = ["2024-08-08T23:56:00Z", "2024-08-08T23:56:01Z", "2024-08-08T23:56:02Z"]
    path = write_csv(tmp_path / "x.csv", [quote(time, ts_event="2024-01-01T00:00:00Z") for time in times])
    ticks = await replayed(f"replay:{path}?speed=max&from=2024-08-08T23:56:01Z&to=2024-08-09T01:56:02+02:00")
    assert ticks.seq.tolist() == [2]


async def test_reading_stops_past_the_end_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feeds.readers.CSV_BLOCK_BYTES", 1000)
    path = write_csv(tmp_path / "x.csv", [quote(T0 + at * 10**6, bid="junk" if at > 900 else 1) for at in range(1000)])
    feed = open_feed(f"replay:{path}?speed=max&to={T0 + 5}", Symbols(), clock=HandClock())
    assert len(Ticks.concat(await collect(feed))) == 1
    assert feed.stats.rejected == 0


async def test_mapped_columns(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [{"code": "A", "when": T0, "cost": 3, "price": 4}])
    ticks = await replayed(f"replay:{path}?speed=max&map=symbol:code,ts_event:when,price:cost")
    assert ticks.price.tolist() == [3.0]
    with pytest.raises(FeedError, match="map: expected a column 'kost', found none in any file"):
        open_feed(f"replay:{path}?map=symbol:code,ts_event:when,price:cost,size:kost", Symbols())


# -- loops ---------------------------------------------------------------------------------------------------------


async def test_each_pass_is_shifted_by_the_span_and_numbers_go_on(tmp_path: Path) -> None:
    rows = [quote(T0, ts_event=T0 + 100), quote("junk"), quote(T0 + 50), trade(T0 + 60, ts_event=T0 - 40)]
    feed = open_feed(f"replay:{write_csv(tmp_path / 'x.csv', rows)}?speed=max&loop=1", Symbols(), clock=HandClock())
    ticks = Ticks.concat(await collect(feed, 9))[:9]
    span = 141  # from the oldest time on any clock to past the newest
    assert ticks.seq.tolist() == [1, 3, 4, 5, 7, 8, 9, 11, 12]
    assert ticks.ts_recv.tolist() == [T0 + at + span * n for n in range(3) for at in (0, 50, 60)]
    events = [NO_TIME if at is None else T0 + at + span * n for n in range(3) for at in (100, None, -40)]
    assert ticks.ts_event.tolist() == events
    assert set(ticks.since + np.zeros(1)) == {T0}


async def test_a_loop_over_a_part_of_a_recording_numbers_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feeds.readers.CSV_BLOCK_BYTES", 1000)
    path = write_csv(tmp_path / "x.csv", [quote(T0 + at * 10**6) for at in range(1000)])
    feed = open_feed(f"replay:{path}?speed=max&loop=1&to={T0 + 10**6}", Symbols(), clock=HandClock())
    ticks = Ticks.concat(await collect(feed, 3))[:3]
    assert ticks.seq.tolist() == [1, 1001, 2001]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(times=st.lists(st.tuples(st.integers(0, 99), st.none() | st.integers(-99, 99)), min_size=1, max_size=6))
def test_time_goes_strictly_forward_from_pass_to_pass(tmp_path: Path, times: list[tuple[int, int | None]]) -> None:
    rows = [quote(T0 + recv, ts_event=None if event is None else T0 + event) for recv, event in times]
    feed = open_feed(f"replay:{write_csv(tmp_path / 'x.csv', rows)}?speed=max&loop=1", Symbols(), clock=HandClock())
    ticks = Ticks.concat(asyncio.run(collect(feed, 3 * len(rows))))
    first, second = ticks[: len(rows)], ticks[len(rows) : 2 * len(rows)]
    known = np.concatenate([first.ts_event, first.ts_recv])
    later = np.concatenate([second.ts_event, second.ts_recv])
    assert later[later != NO_TIME].min() > known.max()


async def test_a_loop_in_which_nothing_is_wanted_ends(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [quote(T0)])
    feed = open_feed(f"replay:{path}?loop=1&symbols=Z", Symbols(), clock=HandClock())
    assert await collect(feed) == []


async def test_an_odd_venue_time_does_not_stretch_the_pace_of_a_loop(tmp_path: Path, clock: HandClock) -> None:
    rows = [quote(T0), quote(T0 + 1000, ts_event=1)]
    feed = open_feed(f"replay:{write_csv(tmp_path / 'x.csv', rows)}?loop=1", Symbols(), clock=clock)
    await collect(feed, 10)
    assert clock.now() - T0 < 20_000


# -- pace ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [1, 10, 0.5])
async def test_ticks_leave_at_their_own_pace(tmp_path: Path, clock: HandClock, speed: float) -> None:
    path = write_csv(tmp_path / "x.csv", [quote(T0 - 10**9 + at) for at in (0, 0, 40_000, 30_000, 100_000)])
    feed = open_feed(f"replay:{path}?speed={speed}", Symbols(), clock=clock)
    lots = [(clock.now() - T0, len(batch)) async for batch in batches_of(feed)]
    assert lots == [(0, 2), (30_000 / speed, 1), (40_000 / speed, 1), (100_000 / speed, 1)]


async def test_a_recording_without_receive_times_is_paced_by_venue_times(tmp_path: Path, clock: HandClock) -> None:
    path = write_csv(tmp_path / "x.csv", [{**quote(None), "ts_event": T0 + at} for at in (0, 70_000)])
    feed = open_feed(f"replay:{path}", Symbols(), clock=clock)
    await collect(feed)
    assert clock.now() == T0 + 70_000


async def test_a_real_recording_at_its_own_pace(binance6: dict[str, Path], clock: HandClock) -> None:
    feed = open_feed(f"replay:{binance6['parquet']}", Symbols(), clock=clock)
    began, first = clock.now(), None
    async for batch in batches_of(feed):
        first = batch.ts_recv[0] if first is None else first
        due = began + (batch.ts_recv - first)
        assert (due <= clock.now()).all()
        assert (clock.now() - due <= replay.BATCH_TICKS_MAX).all()
    assert clock.now() - began == pytest.approx(120e6, rel=0.01)


# -- what cannot be read -------------------------------------------------------------------------------------------


async def test_unreadable_rows_are_counted_sampled_with_file_and_row_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [quote(T0 + at, bid="junk" if at % 2 else 1) for at in range(100)]
    path = write_csv(tmp_path / "x.csv", rows)
    feed = open_feed(f"replay:{path}?speed=max", Symbols(), clock=HandClock())
    with caplog.at_level(logging.WARNING):
        assert len(Ticks.concat(await collect(feed))) == 50
    assert feed.stats.rejected == 50
    assert feed.stats.ticks == 50
    assert len(caplog.messages) == SAMPLES_MAX + 1
    assert caplog.messages[0] == f"{path}: row 2: bid: expected a finite number, was 'junk'"
    assert caplog.messages[-1] == f"{path}: 50 of 100 rows could not be read"


BAD_NUMBERS: dict[str, dict[str, Any]] = {
    "missing": trade(T0 + 1, price=None),
    "NaN": quote(T0 + 1, bid="NaN"),
    "infinite": quote(T0 + 1, ask="Infinity"),
    "negative size": quote(T0 + 1, bid_size=-1),
    "textual": quote(T0 + 1, bid="cheap"),
    "no time": quote(None),
    "no symbol": quote(T0 + 1, None),
    "far ahead": quote(T0 + 1, ts_event=T0 + 10**8),
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("bad", BAD_NUMBERS)
async def test_a_bad_row_is_skipped_in_each_format(tmp_path: Path, suffix: str, bad: str) -> None:
    names = ("symbol", "ts_recv", "ts_event", "bid", "ask", "bid_size", "price")
    rows = [trade(T0), BAD_NUMBERS[bad], trade(T0 + 2)]
    texts = [{name: None if row.get(name) is None else str(row[name]) for name in names} for row in rows]
    path = WRITERS[suffix](tmp_path / f"x.{suffix}", texts)
    feed = open_feed(f"replay:{path}?speed=max", Symbols(), clock=HandClock())
    assert Ticks.concat(await collect(feed)).seq.tolist() == [1, 3]
    assert feed.stats.rejected == 1


KEPT: dict[str, dict[str, Any]] = {
    "crossed": quote(T0 + 1, bid=3, ask=2),
    "zero sizes": quote(T0 + 1, bid_size=0),
    "the same time": quote(T0),
    "backward in time": quote(T0 - 10**7),
    "a negative price": quote(T0 + 1, bid=-37.63),
    "one side": quote(T0 + 1, bid=None),
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("odd", KEPT)
async def test_an_odd_row_is_data(tmp_path: Path, suffix: str, odd: str) -> None:
    path = WRITERS[suffix](tmp_path / f"x.{suffix}", [quote(T0), KEPT[odd], quote(T0 + 2)])
    feed = open_feed(f"replay:{path}?speed=max", Symbols(), clock=HandClock())
    assert Ticks.concat(await collect(feed)).seq.tolist() == [1, 2, 3]
    assert feed.stats.rejected == 0


async def test_symbols_of_another_feed_are_left_out_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_csv(tmp_path / "x.csv", [quote(T0 + at, "AB"[at % 2]) for at in range(6)])
    symbols = Symbols()
    symbols.claim("A", symbols.part("sim"))
    feed = open_feed(f"replay:{path}?speed=max", symbols, clock=HandClock())
    assert Ticks.concat(await collect(feed)).seq.tolist() == [2, 4, 6]
    assert (feed.stats.refused, feed.stats.rejected, feed.stats.ticks) == (3, 0, 3)
    assert caplog.messages == ["feed replay: left out, since another feed brings it: A"]


async def test_a_file_cut_off_gives_its_rows_and_then_one_clear_line(tmp_path: Path) -> None:
    rows = [quote(T0 + at, bid=at * 7919 % 100_003) for at in range(60_000)]
    packed = gzip.compress(write_csv(tmp_path / "plain", rows).read_bytes())
    path = tmp_path / "x.csv.gz"
    path.write_bytes(packed[:-1000])
    feed = open_feed(f"replay:{path}?speed=max", Symbols(), clock=HandClock())
    seen = 0

    async def read() -> None:
        nonlocal seen
        async for batch in batches_of(feed):
            seen += len(batch)

    with pytest.raises(FeedError) as error:
        await read()
    assert str(error.value) == f"{path}: Truncated compressed stream"
    assert seen > 10_000


async def test_one_bad_file_of_several_is_told_at_once(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [quote(T0)])
    (tmp_path / "b.csv").write_text("")
    with pytest.raises(FeedError, match=r"b\.csv: empty file"):
        open_feed(f"replay:{tmp_path}", Symbols())


# -- files and threads ---------------------------------------------------------------------------------------------


def test_files_of_a_path(tmp_path: Path) -> None:
    for name in ("b.csv", "a/x.parquet", "a/_old/x.csv", ".hidden.csv", "README.md", "[odd] name.csv", "c.ndjson.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def names(path: str) -> list[str]:
        return [str(file.relative_to(tmp_path)) for file in find_files(f"{tmp_path}/{path}")]

    assert names("") == ["[odd] name.csv", "a/x.parquet", "b.csv", "c.ndjson.gz"]
    assert names("*.csv") == ["[odd] name.csv", "b.csv"]
    assert names("**/x.*") == ["a/_old/x.csv", "a/x.parquet"]
    assert names("[odd] name.csv") == ["[odd] name.csv"]
    assert names("README.md") == ["README.md"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FeedError, match=r"empty: expected a folder with \.csv"):
        find_files(f"{tmp_path}/empty")


async def test_opening_claims_nothing(tmp_path: Path) -> None:
    symbols = Symbols()
    feed = open_feed(f"replay:{write_csv(tmp_path / 'x.csv', [quote(T0)])}", symbols)
    assert len(symbols) == 0
    assert not feed.closed
    assert feed.epoch.startswith("replay-")


async def test_a_feed_that_is_given_up_leaves_no_thread(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [quote(T0 + at * 10**6) for at in range(1000)])
    feed = open_feed(f"replay:{path}?loop=1&speed=max", Symbols(), clock=HandClock())
    batches = feed.__aiter__()
    await anext(batches)
    await batches.aclose()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


async def test_a_replay_can_be_cancelled_while_it_waits(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [quote(T0), quote(T0 + 10**12)])
    feed = open_feed(f"replay:{path}", Symbols())
    batches: asyncio.Queue[Ticks] = asyncio.Queue()

    async def run() -> None:
        async for batch in batches_of(feed):
            await batches.put(batch)

    task = asyncio.create_task(run())
    assert len(await batches.get()) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_replay_that_finds_nothing_can_be_given_up_between_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feeds.readers.CSV_BLOCK_BYTES", 2000)
    monkeypatch.setattr("feeds.log.BLOCK_ROWS", 50)
    path = write_csv(tmp_path / "x.csv", [quote(T0 + at * 10**6) for at in range(5000)])
    made = 0
    third, go = threading.Event(), threading.Event()
    original = log.Log.blocks

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal made
        for block in original(*args, **options):
            made += 1
            if made == 3:
                third.set()
                go.wait(5)
            yield block

    monkeypatch.setattr(log.Log, "blocks", counted)
    feed = open_feed(f"replay:{path}?speed=max&symbols=NONE", Symbols(), clock=HandClock())
    task = asyncio.create_task(collect(feed))
    assert await asyncio.to_thread(third.wait, 5)
    task.cancel()
    await asyncio.sleep(0)  # it is told to stop
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


async def test_memory_is_bounded_by_blocks_not_by_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feeds.readers.CSV_BLOCK_BYTES", 2000)
    monkeypatch.setattr("feeds.log.BLOCK_ROWS", 50)
    path = write_csv(tmp_path / "x.csv", [quote(T0 + at * 10**6) for at in range(5000)])
    made = 0
    original = log.Log.blocks

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal made
        for block in original(*args, **options):
            made += 1
            yield block

    monkeypatch.setattr(log.Log, "blocks", counted)
    batches = open_feed(f"replay:{path}?speed=max", Symbols(), clock=HandClock()).__aiter__()
    await anext(batches)
    await asyncio.sleep(0.05)
    assert made <= 2 + replay.BATCHES_AHEAD
    await batches.aclose()
