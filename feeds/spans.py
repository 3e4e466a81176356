"""The row groups of a Parquet file, and the times between which their rows lie, as its statistics tell them. Pure."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pyarrow as pa

from feeds import convert
from feeds.fields import LayoutOf
from feeds.ticks import NO_TIME

#: Bare numbers are of another unit from each of these on.
_UNITS: Final = (convert.SECONDS_MAX, convert.MILLIS_MAX, convert.MICROS_MAX)


class Span(NamedTuple):
    """A row group of a Parquet file: where it begins, its rows, and the times between which they lie, in microseconds."""

    place: int
    rows: int
    low_us: int
    high_us: int


def spans(metadata: Any, layout: LayoutOf) -> tuple[Span, ...] | None:
    """A span of each row group that has rows; None where the statistics do not tell the times of all of them.

    `metadata` is a pyarrow.parquet.FileMetaData.
    """
    schema = metadata.schema.to_arrow_schema()
    found = layout(tuple(schema.names))
    columns = {metadata.schema.column(place).path: place for place in range(metadata.num_columns)}
    names = [name for field in ("ts_recv", "ts_event") for name in found.get(field, ())]
    if not columns.keys() >= set(names):
        return None
    spans, place = [], 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if group.num_rows:
            ends = _ends((group.column(columns[name]), schema.field(name).type) for name in names)
            if ends is None:
                return None
            spans.append(Span(place, group.num_rows, *ends))
            place += group.num_rows
    return tuple(spans)


def _ends(sources: Iterator[tuple[Any, pa.DataType]]) -> tuple[int, int] | None:
    """The lowest and highest time of a row group's rows: each has that of the first source which has one for it."""
    low, high = [], []
    for column, kind in sources:
        statistics = column.statistics
        if statistics is None or not statistics.has_null_count:
            return None
        if statistics.null_count < column.num_values:
            ends = _times(statistics, kind)
            if ends is None:
                return None
            low.append(ends[0])
            high.append(ends[1])
        if not statistics.null_count:
            return min(low), max(high)
    return None


def _times(statistics: Any, kind: pa.DataType) -> tuple[int, int] | None:
    """The lowest and highest time of a column, in microseconds; None where its lowest and highest value do not tell."""
    if not statistics.has_min_max or not (pa.types.is_timestamp(kind) or pa.types.is_integer(kind)):
        return None
    low, high = statistics.min_raw, statistics.max_raw
    if pa.types.is_integer(kind) and (low < 0 or high < 0 or bisect(_UNITS, low) != bisect(_UNITS, high)):
        return None  # a lower number may be a later time; unsigned numbers past the half are negative here
    times, bad = convert.times(pa.array([low, high], pa.int64()).cast(kind))
    if bad is not None or NO_TIME in times:
        return None
    return int(times[0]), int(times[1])
