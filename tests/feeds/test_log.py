"""Files as one log: the same blocks wherever reading begins and however the files are cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feeds import log as logs
from feeds import ordering
from feeds.blocks import Block, Cursor
from feeds.feed import FeedError
from feeds.log import Log, Tally
from feeds.ticks import NO_TIME, QUOTE, TRADE
from tests.feeds.conftest import T0, quote, write_csv, write_ndjson

STEP = 1_000_000


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """Blocks of a few rows, so that a short log has many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "WINDOW_US", 3 * STEP)
        patch.setattr(logs, "WINDOW_US", 3 * STEP)
        patch.setattr(ordering, "WINDOW_ROWS", 5)
        patch.setattr(logs, "WINDOW_ROWS", 5)
        patch.setattr(logs, "BLOCK_ROWS", 4)
        patch.setattr(logs, "CURSOR_ROWS", 8)
        yield


def rows_of(blocks: Iterator[Block], log: Log) -> list[tuple[int, int, str, float]]:
    """(number, time, key, bid) of each row."""
    return [
        (int(seq), int(time), log.symbols.names[row], float(bid))
        for block in blocks
        for seq, time, row, bid in zip(block.ticks.seq, block.time, block.ticks.row, block.ticks.bid, strict=True)
    ]


def write_parquet(path: Path, rows: list[dict[str, Any]], group: int) -> Path:
    table = pa.table(
        {
            "symbol": [row["symbol"] for row in rows],
            "ts_recv": pa.array([row["ts_recv"] for row in rows], pa.int64()),
            "bid": [float(row["bid"]) for row in rows],
        }
    )
    pq.write_table(table, path, row_group_size=group)
    return path


FILES = st.lists(
    st.tuples(st.sampled_from(["csv", "ndjson", "parquet"]), st.lists(st.integers(0, 40), min_size=1, max_size=40)),
    min_size=1,
    max_size=3,
)


def write(folder: Path, files: list[tuple[str, list[int]]], group: int) -> list[Path]:
    paths = []
    for number, (kind, times) in enumerate(files):
        rows = [quote(T0 + at * STEP, "AB"[at % 2] + str(number), bid=place) for place, at in enumerate(times)]
        path = folder / f"{number}.{kind}"
        match kind:
            case "csv":
                write_csv(path, rows)
            case "ndjson":
                write_ndjson(path, rows)
            case _:
                write_parquet(path, rows, group)
        paths.append(path)
    return paths


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES, st.integers(1, 9), st.integers(40, 400))
def test_reading_from_any_cursor_gives_the_rest_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, list[int]]], group: int, size: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    paths = write(folder, files, group)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CSV_BLOCK_BYTES", "JSON_BLOCK_BYTES"):
            patch.setattr(f"feeds.readers.{name}", size)
        patch.setattr("feeds.readers.BLOCK_ROWS", group)
        log = Log(paths)
        straight = list(log.blocks())
        whole = rows_of(iter(straight), log)
        assert [row[0] for row in whole] == list(range(1, sum(len(times) for _, times in files) + 1))
        assert sorted(row[1] for row in whole) == [row[1] for row in whole]
        cursors = [block.cursor for block in straight if block.cursor]
        for cursor in [*cursors, *(log.start(T0 + at * STEP) for at in (0, 7, 20, 41))]:
            rest = rows_of(log.blocks(cursor), log)
            assert rest == [row for row in whole if row[1] >= cursor.time]
        again = list(Log(paths).blocks())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("feeds.readers.CSV_BLOCK_BYTES", 100_000)
        patch.setattr("feeds.readers.JSON_BLOCK_BYTES", 100_000)
        other = list(Log(paths).blocks())
    assert [(len(b.ticks), b.last, b.rows) for b in straight] == [(len(b.ticks), b.last, b.rows) for b in again]
    assert [(len(b.ticks), b.last, b.rows) for b in straight] == [(len(b.ticks), b.last, b.rows) for b in other]


def test_row_groups_before_the_start_are_not_read(tmp_path: Path) -> None:
    rows = [quote(T0 + at * STEP, "A", bid=at) for at in range(100)]
    log = Log([write_parquet(tmp_path / "x.parquet", rows, 10)])
    cursor = log.start(T0 + 55 * STEP)
    assert cursor.marks[0].place == 40, "the group before the one that it lies in tells where rows belong"
    assert [row[0] for row in rows_of(log.blocks(cursor), log)] == list(range(56, 101))


def test_filtered_rows_count(tmp_path: Path) -> None:
    rows = [quote(T0 + at * STEP, "AB"[at % 2], bid=at) for at in range(10)]
    log = Log([write_csv(tmp_path / "x.csv", rows)], key="B".__eq__)
    assert [row[0] for row in rows_of(log.blocks(), log)] == [2, 4, 6, 8, 10]
    assert log.symbols.names == ["B"]


def test_rows_too_far_behind_are_counted_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [quote(T0 + at * STEP, "A", bid=at) for at in (0, 10, 8, 1, 11)]
    path = write_csv(tmp_path / "x.csv", rows)
    log, tally = Log([path]), Tally()
    assert [row[3] for row in rows_of(log.blocks(None, tally), log)] == [0, 1, 8, 10, 11]
    assert tally.displaced == 1
    list(log.blocks())
    assert caplog.messages == [
        f"{path}: 1 rows lie further behind than 3 s or 5 rows: they stand later than their time says"
    ]


def test_a_file_that_changes_or_vanishes_is_told(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [quote(T0 + at * STEP, "A") for at in range(10)])
    log = Log([path])
    with path.open("a") as file:
        file.write("\n")
    with pytest.raises(FeedError, match=f"^{path}: changed while it was read$"):
        list(log.blocks())
    path.unlink()
    with pytest.raises(FeedError, match=f"^{path}: No such file or directory$"):
        list(log.blocks())


def test_what_could_be_read_comes_before_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feeds.readers.CSV_BLOCK_BYTES", 100)
    path = write_csv(tmp_path / "x.csv", [quote(T0 + at * STEP, "A") for at in range(100)])
    log = Log([path])
    blocks = log.blocks()
    next(blocks)
    path.unlink()
    rows: list[int] = []
    with pytest.raises(FeedError):
        rows.extend(block.rows for block in blocks)
    assert rows == sorted(rows)
    assert not rows or 4 < rows[-1] < 100


def test_since_when_a_log_has_been_read(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [quote(T0, "A", bid="junk"), quote(T0 + STEP, "A")])
    assert Log([path]).since == T0 + STEP
    assert Log([write_csv(tmp_path / "y.csv", [quote(T0, "A", bid="junk")])]).since == NO_TIME


def test_a_cursor_begins_where_its_time_begins(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [quote(T0 + at // 3 * STEP, "A", bid=at) for at in range(30)])
    log = Log([path])
    block = next(block for block in log.blocks() if block.cursor)
    assert isinstance(block.cursor, Cursor)
    assert block.cursor.time == block.last
    assert np.count_nonzero(block.time < block.last) > 0


# -- columns of those who sell recordings --------------------------------------------------------------------------

VENDORS = {
    "tardis quotes": (
        (
            "exchange,symbol,timestamp,local_timestamp,ask_amount,ask_price,bid_price,bid_amount\n"
            "deribit,BTC-PERPETUAL,1585699200015000,1585699200029731,5380,6426,6425.5,87970\n"
        ),
        [("deribit:BTC-PERPETUAL", QUOTE, 1585699200015000, 1585699200029731, [6425.5, 87970.0, 6426.0, 5380.0])],
    ),
    "tardis trades": (
        (
            "exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n"
            "bitmex,XBTUSD,1585699202957000,1585699203089980,eb1c,sell,6424.5,1200\n"
        ),
        [("bitmex:XBTUSD", TRADE, 1585699202957000, 1585699203089980, [6424.5, 1200.0])],
    ),
    "databento trades": (
        (
            "ts_recv,ts_event,rtype,publisher_id,instrument_id,action,side,depth,price,size,flags,ts_in_delta,sequence,symbol\n"
            "2020-12-28T13:00:00.099150057Z,2020-12-28T13:00:00.098821953Z,0,1,5482,T,A,0,3720.250000000,5,129,19251,1,ESH1\n"
        ),
        [("ESH1", TRADE, 1609160400098821, 1609160400099150, [3720.25, 5.0])],
    ),
    "databento mbp-1": (
        (
            "ts_recv,ts_event,rtype,publisher_id,instrument_id,action,side,depth,price,size,flags,ts_in_delta,sequence,"
            "bid_px_00,ask_px_00,bid_sz_00,ask_sz_00,bid_ct_00,ask_ct_00,symbol\n"
            "1609160400006136329,1609160400006001487,1,1,5482,A,A,0,3720.50,1,128,17214,1,3720.25,3720.50,24,11,15,9,ESH1\n"
            "1609160400006246513,1609160400006146661,1,1,5482,T,A,0,3720.25,2,128,18858,1,3720.25,3720.50,24,12,15,10,ESH1\n"
        ),
        [
            ("ESH1", QUOTE, 1609160400006001, 1609160400006136, [3720.25, 24.0, 3720.5, 11.0]),
            ("ESH1", QUOTE, 1609160400006146, 1609160400006246, [3720.25, 24.0, 3720.5, 12.0]),
            ("ESH1", TRADE, 1609160400006146, 1609160400006246, [3720.25, 2.0]),
        ],
    ),
}


@pytest.mark.parametrize("case", VENDORS)
def test_columns_of_vendors(tmp_path: Path, case: str) -> None:
    text, expected = VENDORS[case]
    path = tmp_path / "x.csv"
    path.write_text(text)
    log = Log([path])
    rows = []
    for block in log.blocks():
        ticks = block.ticks
        for i, row in enumerate(ticks.row.tolist()):
            kind = int(ticks.kind[i])
            names = ("bid", "bid_size", "ask", "ask_size") if kind == QUOTE else ("price", "size")
            values = [float(getattr(ticks, name)[i]) for name in names]
            rows.append((log.symbols.names[row], kind, int(ticks.ts_event[i]), int(ticks.ts_recv[i]), values))
    assert rows == expected
