"""Parts: what is written is what is replayed, and whatever happens, a part that has its name is whole."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feeds import parts, recorder
from feeds.feed import FeedError
from feeds.recorder import GROUP_US_MAX, Limits, Recorder, RecordError
from feeds.spec import open_feed
from feeds.ticks import COLUMNS, NO_TIME, QUOTE, TRADE, Symbols, Ticks
from tests.feeds.conftest import T0, HandClock, collect, quote, replayed, sides_and_ids, write_csv
from tests.feeds.test_ticks import ticks as blank
from ticker.quotes import QuoteTable

NAMES = ("A", "venue:B", "C+2/x")
ONE_TICK_A_PART = Limits(part_bytes=1)


def symbols_of(feed: str = "sim", label: str = "") -> Symbols:
    symbols = Symbols()
    symbols.claim_all(NAMES, symbols.part(feed, label))
    return symbols


def quotes(*times: int, row: int = 0, first: int = 1) -> Ticks:
    n = len(times)
    bid = np.arange(first, first + n, dtype=float)
    return blank(n, row=np.full(n, row), seq=np.arange(first, first + n), ts_recv=np.array(times), bid=bid)


def record(folder: Path, limits: Limits, clock: HandClock | None = None, symbols: Symbols | None = None) -> Recorder:
    return Recorder(folder, symbols_of() if symbols is None else symbols, "sim", limits, (clock or HandClock()).now)


def closed(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def opened(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.open"))


def footers(folder: Path) -> list[parts.Footer]:
    found = [parts.footer(pq.read_metadata(path).metadata) for path in closed(folder)]
    return [footer for footer in found if footer]


# -- replayed, it is the same --------------------------------------------------------------------------------------

TIMES = st.integers(-(10**12), 9 * 10**15)
PRICES = st.floats(-1e9, 1e9)
SIZES = st.floats(0, 1e9)


@st.composite
def some_ticks(draw: st.DrawFn) -> dict[str, Any]:
    """One tick as any feed may bring it: a venue time far ahead of the receive time makes none."""
    kind = draw(st.sampled_from((QUOTE, TRADE)))
    recv = draw(st.none() | TIMES)
    event = draw(TIMES if recv is None else st.none() | TIMES.map(lambda time: min(time, recv + 60_000_000)))
    tick: dict[str, Any] = {
        "row": draw(st.integers(0, len(NAMES) - 1)),
        "kind": kind,
        "ts_event": NO_TIME if event is None else event,
        "ts_recv": NO_TIME if recv is None else recv,
    }
    if kind == QUOTE:
        return tick | {
            name: draw(st.none() | (SIZES if name.endswith("size") else PRICES)) for name in parts.NUMBERS[:4]
        }
    named = {"side": draw(st.integers(0, 2)), "trade_id": draw(st.none() | st.text(min_size=1, max_size=16))}
    return tick | named | {"price": draw(PRICES), "size": draw(st.none() | SIZES)}


def batch_of(rows: list[dict[str, Any]], since: int) -> Ticks:
    def column(name: str) -> Any:
        if name in parts.NUMBERS:
            return np.array([np.nan if row.get(name) is None else row[name] for row in rows], np.float64)
        return np.array([row[name] for row in rows], np.uint8 if name == "kind" else np.int64)

    given = {name: column(name) for name in COLUMNS if name != "seq"}
    given["side"] = np.array([row.get("side", 0) for row in rows], np.uint8)
    given["trade_id"] = pa.array([row.get("trade_id") for row in rows], pa.string())
    return Ticks(**given, seq=np.arange(1, len(rows) + 1), since=since)


def state_of(ticks: Ticks, symbols: Symbols) -> dict[str, list[float]]:
    table = QuoteTable(symbols)
    table.apply(ticks)
    rows = np.arange(len(symbols))
    view = np.vstack([table.view(rows), table.n[rows], table.ts[rows]])
    return {name: view[:, row].tolist() for row, name in enumerate(symbols.names) if table.n[row]}


def assert_same(one: Ticks, ones: Symbols, other: Ticks, others: Symbols) -> None:
    """The same ticks but for their positions, and so the same states."""
    assert [ones.names[row] for row in one.row] == [others.names[row] for row in other.row]
    for name in COLUMNS[2:]:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)
    assert sides_and_ids(one) == sides_and_ids(other)
    assert one.since == other.since
    np.testing.assert_equal(state_of(other, others), state_of(one, ones))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(some_ticks(), min_size=1, max_size=30),
    cuts=st.lists(st.tuples(st.integers(1, 8), st.sampled_from((0, GROUP_US_MAX))), max_size=30),
    part_bytes=st.sampled_from((1, 3 * recorder.TICK_BYTES, 8000, 10**9)),
    since=st.just(NO_TIME) | TIMES,
)
def test_a_replay_of_the_parts_is_the_feed(
    rows: list[dict[str, Any]], cuts: list[tuple[int, int]], part_bytes: int, since: int
) -> None:
    symbols, clock, whole = symbols_of(), HandClock(), batch_of(rows, since)
    with tempfile.TemporaryDirectory() as name:
        writer = record(Path(name), Limits(part_bytes=part_bytes), clock, symbols)
        start = 0
        for size, pause in [*cuts, (len(rows), 0)]:
            writer.write(whole[start : start + size], "epoch")
            clock.time += pause
            start += size
        writer.close()
        again = Symbols()
        ticks = asyncio.run(replayed(f"replay:{name}?speed=max", again))
    assert_same(whole, symbols, ticks, again)


@pytest.mark.parametrize("spec", ["?speed=max", "?speed=max&symbols=*spot*"])
async def test_a_real_recording_recorded_again_gives_the_same_states(
    binance6: dict[str, Path], tmp_path: Path, spec: str
) -> None:
    symbols, again = Symbols(), Symbols()
    feed = open_feed(f"replay:{binance6['parquet']}{spec}", symbols, clock=HandClock())
    writer = record(tmp_path, Limits(part_bytes=50_000), symbols=symbols)
    batches = await collect(feed)
    for batch in batches:
        writer.write(batch, feed.epoch)
    writer.close()
    assert writer.closed.parts >= 3
    assert writer.closed.bytes == sum(path.stat().st_size for path in closed(tmp_path))
    ticks = await replayed(f"replay:{tmp_path}?speed=max", again)
    assert_same(Ticks.concat(batches), symbols, ticks, again)


async def test_a_part_may_begin_with_an_older_tick_than_the_one_before_ends_with(tmp_path: Path) -> None:
    writer = record(tmp_path, ONE_TICK_A_PART)
    writer.write(quotes(T0, T0 + 50, T0 + 10, T0 + 60), "epoch")
    write_csv(tmp_path / "other.csv", [quote(T0 + 55, "OTHER")])
    assert writer.closed.parts == 4
    ticks = await replayed(f"replay:{tmp_path}?speed=max")
    assert (ticks.ts_recv - T0).tolist() == [0, 50, 10, 55, 60]


async def test_a_part_that_was_deleted_is_passed_over(tmp_path: Path) -> None:
    writer = record(tmp_path, ONE_TICK_A_PART)
    writer.write(replace(quotes(T0, T0 + 50, T0 + 10), since=T0 - 9), "epoch")
    closed(tmp_path)[1].unlink()
    ticks = await replayed(f"replay:{tmp_path}?speed=max")
    assert (ticks.ts_recv - T0).tolist() == [0, 10]
    assert ticks.since == T0 - 9
    closed(tmp_path)[0].unlink()
    ticks = await replayed(f"replay:{tmp_path}?speed=max")
    assert ticks.since == T0 + 10  # it is not known since when there had been nothing else


async def test_two_recordings_in_a_folder_are_merged_by_time(tmp_path: Path) -> None:
    clock = HandClock()
    one, other = (record(tmp_path, ONE_TICK_A_PART, clock) for _ in range(2))
    one.write(quotes(T0, T0 + 20), "epoch")
    other.write(quotes(T0 + 10, T0 + 30, row=1), "epoch")
    symbols = Symbols()
    ticks = await replayed(f"replay:{tmp_path}?speed=max", symbols)
    assert [symbols.names[row] for row in ticks.row] == ["A", "venue:B", "A", "venue:B"]


def test_a_footer_that_says_nonsense_is_one_clear_line(tmp_path: Path) -> None:
    table = parts.table(quotes(T0), symbols_of())
    pq.write_table(table.replace_schema_metadata({parts.FOOTER_KEY: b'{"number": "one"}'}), tmp_path / "x.parquet")
    with pytest.raises(FeedError, match=r"x\.parquet: Expected `int`, got `str`"):
        open_feed(f"replay:{tmp_path}", Symbols())


# -- what a part is ------------------------------------------------------------------------------------------------


def test_columns_types_and_footer(tmp_path: Path) -> None:
    symbols = symbols_of("kafka", "ticks-0")
    symbols.claim("D", symbols.part("kafka", "ticks-1"))
    writer = record(tmp_path, Limits(), symbols=symbols)
    writer.write(replace(quotes(T0, T0 + 1, first=7), row=np.array([0, 3]), since=T0), "k-1")
    writer.write(quotes(T0 + 2, first=5), "k-1")
    assert opened(tmp_path)
    writer.close()
    [path] = closed(tmp_path)
    assert path.name.startswith("20231114T221320.000000Z-")
    assert path.name.endswith("-000001.parquet")
    table = pq.read_table(path)
    assert table.schema.names == [
        "symbol",
        "type",
        "ts_event",
        "ts_recv",
        *parts.NUMBERS,
        "side",
        "trade_id",
        "seq",
        "part",
    ]
    assert table["ts_recv"].type == pa.timestamp("us", tz="UTC")
    assert table["symbol"].to_pylist() == ["A", "D", "A"]
    assert table["type"].to_pylist() == ["quote"] * 3
    assert table["part"].to_pylist() == ["ticks-0", "ticks-1", "ticks-0"]
    assert table["seq"].to_pylist() == [7, 8, 5]
    assert table["ts_event"].null_count == table["ask"].null_count == 3
    assert {pq.ParquetFile(path).metadata.row_group(0).column(i).compression for i in range(12)} == {"ZSTD"}
    told = json.loads(pq.read_metadata(path).metadata[b"ticker.part"])
    assert told.pop("recording") in path.name
    assert told == {
        "number": 1,
        "feed": "sim",
        "epoch": "k-1",
        "since": T0,
        "positions": {"ticks-0": [5, 5], "ticks-1": [8, 8]},
    }


def test_a_part_is_closed_past_its_size_and_no_sooner(tmp_path: Path) -> None:
    size = 20_000
    writer = record(tmp_path, Limits(part_bytes=size))
    for _ in range(200):
        writer.write(quotes(*range(T0, T0 + 500)), "epoch")
    writer.close()
    sizes = [path.stat().st_size for path in closed(tmp_path)]
    assert len(sizes) >= 2
    assert all(size <= part < 2 * size for part in sizes[:-1])


def test_row_groups_and_parts_do_not_depend_on_batches(tmp_path: Path) -> None:
    times = list(range(T0, T0 + 5000))
    for size in (1, 7, 5000):
        writer = record(tmp_path / str(size), Limits(part_bytes=3200))
        for start in range(0, len(times), size):
            writer.write(quotes(*times[start : start + size], first=start + 1), "epoch")
        writer.close()

    def rows(folder: Path) -> list[list[int]]:
        files = [pq.read_metadata(path) for path in closed(folder)]
        return [[file.row_group(group).num_rows for group in range(file.num_row_groups)] for file in files]

    whole = rows(tmp_path / "5000")
    assert len(whole) > 1
    assert rows(tmp_path / "1") == rows(tmp_path / "7") == whole


def test_a_record_is_never_cut_over_two_parts(tmp_path: Path) -> None:
    writer = record(tmp_path, ONE_TICK_A_PART)
    writer.write(replace(quotes(T0, T0 + 1, T0 + 2), seq=np.array([7, 7, 8])), "k-1")
    assert [footer.positions for footer in footers(tmp_path)] == [{"": (7, 7)}, {"": (8, 8)}]


def test_a_part_is_closed_at_its_age_though_no_tick_comes(tmp_path: Path, clock: HandClock) -> None:
    writer = record(tmp_path, Limits(part_us=60_000_000), clock)
    writer.write(quotes(T0), "epoch")
    clock.time += 59_999_999
    writer.tend()
    assert not closed(tmp_path)
    clock.time += 1
    writer.tend()
    assert len(closed(tmp_path)) == 1
    clock.time += 10**9
    writer.tend()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_clock_that_is_set_back_keeps_no_part_open(tmp_path: Path, clock: HandClock) -> None:
    writer = record(tmp_path, Limits(), clock)
    writer.write(quotes(T0), "epoch")
    clock.time -= 10**10
    writer.tend()
    assert len(closed(tmp_path)) == 1


def test_the_rows_of_a_quiet_feed_reach_the_file(tmp_path: Path, clock: HandClock) -> None:
    writer = record(tmp_path, Limits(), clock)
    writer.write(quotes(T0), "epoch")
    [path] = opened(tmp_path)
    before = path.stat().st_size
    clock.time += GROUP_US_MAX
    writer.tend()
    assert path.stat().st_size == writer.open.bytes > before
    writer.close()


def test_another_epoch_begins_another_part(tmp_path: Path) -> None:
    writer = record(tmp_path, Limits())
    for epoch in ("k-1", "k-1", "k-2"):
        writer.write(quotes(T0), epoch)
    writer.close()
    assert [(footer.number, footer.epoch) for footer in footers(tmp_path)] == [(1, "k-1"), (2, "k-2")]
    assert (writer.closed.parts, writer.closed.ticks, len(writer.closed.symbols)) == (2, 3, 1)


def test_without_a_tick_there_is_no_file(tmp_path: Path) -> None:
    writer = record(tmp_path / "new" / "folder", Limits())
    writer.write(quotes(), "epoch")
    writer.tend()
    writer.close()
    assert not list((tmp_path / "new" / "folder").iterdir())


# -- going on with a recording -------------------------------------------------------------------------------------


def test_a_recording_goes_on_after_the_newest_of_each_part_of_its_log(tmp_path: Path, clock: HandClock) -> None:
    symbols = symbols_of("sim", "ticks/0")
    symbols.move(1, symbols.part("sim", "ticks/1"))
    one = record(tmp_path, ONE_TICK_A_PART, clock, symbols)
    for epoch, row, seq in (("k-1", 0, 900), ("k-2", 0, 7), ("k-2", 1, 40), ("k-2", 0, 5)):
        clock.time += 1
        one.write(quotes(T0, row=row, first=seq), epoch)
    clock.time += 1
    stranger = Recorder(tmp_path, symbols_of("other"), "other", ONE_TICK_A_PART, clock.now)
    stranger.write(quotes(T0), "o-1")
    clock.time += 1
    again = record(tmp_path, ONE_TICK_A_PART, clock, symbols)
    assert again.held() == {
        "k-1": {"ticks/0": 900},
        "k-2": {"ticks/0": 5, "ticks/1": 40},  # the last that came, not the highest
        "o-1": {"": 1},
    }
    again.write(quotes(T0), "k-2")
    of_sim = [footer for footer in footers(tmp_path) if footer.feed == "sim"]
    assert [footer.number for footer in of_sim] == [1, 2, 3, 4, 5]
    assert len({footer.recording for footer in of_sim}) == 1


def test_a_recording_that_is_being_written_is_not_gone_on_with(tmp_path: Path) -> None:
    one = record(tmp_path, Limits())
    one.write(quotes(T0), "k-1")
    one.close()
    one.write(quotes(T0 + 1, first=2), "k-1")
    assert record(tmp_path, Limits()).held() == {}
    one.close()
    assert record(tmp_path, Limits()).held() == {"k-1": {"": 2}}


# -- open parts of others ------------------------------------------------------------------------------------------


def test_an_open_part_of_a_process_that_is_gone_is_told_and_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = tmp_path / ".20240808T120000.123456Z-9f86d081e2b4-000003.open"
    left.write_bytes(b"PAR1....")
    other = tmp_path / ".mine.open"
    other.touch()
    record(tmp_path, Limits())
    assert list(tmp_path.iterdir()) == [other]
    [message] = caplog.messages
    assert message.startswith(f"{left}: the open part of an earlier run was never closed (8 bytes, now removed): ")
    assert "its ticks since 2024-08-08T12:00:00.123456+00:00 are lost, but for" in message


def test_an_open_part_of_a_living_recorder_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = record(tmp_path, Limits())
    one.write(quotes(T0), "epoch")
    other = record(tmp_path, Limits())
    other.write(quotes(T0), "epoch")
    assert len(opened(tmp_path)) == 2
    assert not caplog.messages
    one.close()
    other.close()
    assert len(closed(tmp_path)) == 2
    assert not opened(tmp_path)


def test_an_open_part_that_is_removed_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fcntl.flock
    removed: list[Path] = []

    def locked_late(file: Any, how: int) -> None:
        if not removed:
            removed.extend(opened(tmp_path))
            removed[0].unlink()
        original(file, how)

    writer = record(tmp_path, Limits())
    monkeypatch.setattr("feeds.recorder.fcntl.flock", locked_late)
    writer.write(quotes(T0), "epoch")
    writer.close()
    assert len(removed) == len(closed(tmp_path)) == 1


def test_a_part_that_is_closed_while_others_look_at_it_is_no_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = record(tmp_path, Limits())
    one.write(quotes(T0), "epoch")
    original = fcntl.flock

    def closed_first(file: Any, how: int) -> None:
        one.close()
        original(file, how)

    monkeypatch.setattr("feeds.recorder.fcntl.flock", closed_first)
    record(tmp_path, Limits())
    assert len(closed(tmp_path)) == 1
    assert not caplog.messages


def test_a_part_is_locked_until_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = record(tmp_path, Limits())
    writer.write(quotes(T0), "epoch")
    rename = Path.rename

    def looked_at(path: Path, whole: Path) -> Path:
        with pytest.raises(BlockingIOError):
            recorder._remove_unlocked(path)
        return rename(path, whole)

    monkeypatch.setattr(Path, "rename", looked_at)
    writer.close()
    assert len(closed(tmp_path)) == 1


# -- what cannot be written ----------------------------------------------------------------------------------------


def failing(code: int) -> Any:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_disk_that_fails_is_one_line_and_closed_parts_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    writer = record(tmp_path, Limits())
    writer.write(quotes(T0, T0 + 1), "k-1")
    writer.write(quotes(T0 + 2), "k-2")
    [path] = opened(tmp_path)
    monkeypatch.setattr(f"feeds.recorder.os.{call}", failing(errno.ENOSPC))
    with pytest.raises(RecordError) as error:
        writer.close()
    assert str(error.value) == (
        f"{path}: No space left on device; what came since this part was begun is lost, closed parts are whole: 1"
    )
    assert not opened(tmp_path)
    assert pq.read_table(closed(tmp_path)[0]).num_rows == 2
    writer.close()  # there is nothing left to close


def test_a_folder_that_vanishes_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    writer = record(folder, ONE_TICK_A_PART)
    writer.write(quotes(T0), "epoch")
    shutil.rmtree(folder)
    with pytest.raises(RecordError, match=r"\.open: No such file or directory; what came"):
        writer.write(quotes(T0), "epoch")
    writer = record(folder, Limits())
    writer.write(quotes(T0), "epoch")
    shutil.rmtree(folder)
    with pytest.raises(RecordError, match=r"\.open: No such file or directory; what came"):
        writer.close()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_to_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: failing(code)())
    with pytest.raises(RecordError, match=f"{tmp_path}: cannot record there: {os.strerror(code)}"):
        record(tmp_path, Limits())


def test_closed_parts_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = record(tmp_path, Limits())
    with caplog.at_level(logging.INFO):
        writer.write(quotes(T0, T0), "epoch")
        writer.close()
    assert caplog.messages == [f"closed {closed(tmp_path)[0].name}: 2 ticks, 0.0 MB"]
