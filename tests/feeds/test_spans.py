"""The times of row groups: from statistics, and only where these tell the times of all rows."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.convert import times
from feeds.fields import layout
from feeds.spans import Span, spans
from feeds.ticks import NO_TIME
from tests.feeds.conftest import T0

NONE = pa.array([None, None], pa.int64())
WHOLE = pa.array([T0 + 3, T0 + 1], pa.int64())


def spans_of(path: Path, recv: Any, event: Any = None, **options: Any) -> tuple[Span, ...] | None:
    columns = {"symbol": ["A"] * len(recv), "ts_recv": recv}
    if event is not None:
        columns["ts_event"] = event
    pq.write_table(pa.table(columns), path, **options)
    return spans(pq.read_metadata(path), lambda names: layout(names, {}))


def one(low: int, high: int, rows: int = 2) -> tuple[Span, ...]:
    return (Span(0, rows, low, high),)


@pytest.mark.parametrize(
    ("recv", "event", "expected"),
    [
        (WHOLE, pa.array([T0 - 9, T0 + 9]), one(T0 + 1, T0 + 3)),
        (NONE, WHOLE, one(T0 + 1, T0 + 3)),
        (pa.array([T0, None]), WHOLE, one(T0, T0 + 3)),
        (pa.array([T0 + 7, None]), WHOLE, one(T0 + 1, T0 + 7)),
        (pa.array([T0, None]), pa.array([None, T0]), None),
        (NONE, NONE, None),
        (pa.array([], pa.int64()), pa.array([], pa.int64()), ()),
    ],
    ids=["receipt", "venue", "both", "both, the other way", "some without any", "none", "no rows"],
)
def test_a_row_has_the_time_of_receipt_else_the_venues(
    tmp_path: Path, recv: Any, event: Any, expected: tuple[Span, ...] | None
) -> None:
    assert spans_of(tmp_path / "x.parquet", recv, event) == expected


def test_a_span_for_each_group_that_has_rows(tmp_path: Path) -> None:
    found = spans_of(tmp_path / "x.parquet", pa.array([T0 + at for at in range(5)]), row_group_size=2)
    assert found == (Span(0, 2, T0, T0 + 1), Span(2, 2, T0 + 2, T0 + 3), Span(4, 1, T0 + 4, T0 + 4))


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC"])
def test_timestamps(tmp_path: Path, unit: str, zone: str | None) -> None:
    time = pa.array([T0, T0 + 5000], pa.timestamp("us", zone)).cast(pa.timestamp(unit, zone))
    assert spans_of(tmp_path / "x.parquet", time) == one(T0, T0 + 5000)


UNTOLD = {
    "units that differ": pa.array([T0 // 10**6, T0]),
    "before 1970": pa.array([-T0, T0]),
    "past all times": pa.array([10**17, 2**63 - 1]),
    "past half of what is unsigned": pa.array([T0, 2**64 - 1], pa.uint64()),
    "texts": pa.array([str(T0), str(T0)]),
    "dates": pa.array([date(2024, 8, 8)] * 2),
    "fractions": pa.array([float(T0)] * 2),
    "not a column of values": pa.array([{"ts_recv": T0}] * 2),
}


@pytest.mark.parametrize("case", UNTOLD)
def test_what_does_not_tell(tmp_path: Path, case: str) -> None:
    assert spans_of(tmp_path / "x.parquet", UNTOLD[case]) is None


def test_no_statistics(tmp_path: Path) -> None:
    assert spans_of(tmp_path / "x.parquet", WHOLE, write_statistics=False) is None
    assert (
        spans_of(tmp_path / "x.parquet", pa.array([T0] * 2, pa.timestamp("us")), use_deprecated_int96_timestamps=True)
        is None
    )


TIME = st.one_of(st.none(), st.integers(T0, T0 + 50), st.integers(10**9, 2 * 10**9), st.integers(-(2**63), 2**63 - 1))


@given(st.lists(st.tuples(TIME, TIME), min_size=1, max_size=6))
def test_no_row_lies_outside(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int | None, int | None]]
) -> None:
    recv, event = (pa.array(column, pa.int64()) for column in zip(*rows, strict=True))
    found = spans_of(tmp_path_factory.mktemp("spans") / "x.parquet", recv, event)
    if found is not None:
        ((_, count, low, high),) = found
        assert count == len(rows)
        of_recv, of_event = times(recv)[0].tolist(), times(event)[0].tolist()
        for first, second in zip(of_recv, of_event, strict=True):
            time = second if first == NO_TIME else first
            assert time == NO_TIME or low <= time <= high
