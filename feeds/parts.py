"""A recording's parts: Parquet files of ticks, one after another, each of them whole by itself. Pure.

| column | type | meaning |
|---|---|---|
| symbol | dictionary of string | the key |
| type | dictionary of string | quote or trade |
| ts_event, ts_recv | timestamp[us, UTC] | null where the tick has none |
| bid, bid_size, ask, ask_size, price, size | float64 | null where the tick has no value |
| side | dictionary of string | of a trade, buy or sell; null where it is not known |
| trade_id | string | of a trade, null where it has none |
| seq | int64 | position in the feed's log |
| part | dictionary of string | the part of the feed's log that `seq` counts in; empty where the log is of one part |

Rows stand in the order in which their ticks came. The footer tells, under `FOOTER_KEY`, where the part belongs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from feeds.ticks import NO_TIME, Symbols, Ticks

FOOTER_KEY: Final = b"ticker.part"

NUMBERS: Final = ("bid", "bid_size", "ask", "ask_size", "price", "size")
TEXT: Final = pa.dictionary(pa.int32(), pa.string())
TIME: Final = pa.timestamp("us", tz="UTC")
SCHEMA: Final = pa.schema(
    [
        *(("symbol", TEXT), ("type", TEXT), ("ts_event", TIME), ("ts_recv", TIME)),
        *((name, pa.float64()) for name in NUMBERS),
        *(("side", TEXT), ("trade_id", pa.string()), ("seq", pa.int64()), ("part", TEXT)),
    ]
)
#: By `Ticks.side`, its place among the words.
_SIDE_CODES: Final = pa.array([None, 0, 1], pa.int32())
#: How columns are packed, as `pyarrow.parquet.ParquetWriter` takes it: prices and sizes repeat, times and positions climb.
PACKING: Final[Mapping[str, Any]] = {
    "compression": "zstd",
    "use_dictionary": ["symbol", "type", "side", "part", *NUMBERS],
    "column_encoding": dict.fromkeys(("ts_event", "ts_recv", "seq"), "DELTA_BINARY_PACKED"),
}


class Footer(msgspec.Struct, frozen=True):
    """Where a part belongs."""

    #: The recording, and the part's number in it, from 1.
    recording: str
    number: int
    #: The feed's name, and the epoch of the log that it read.
    feed: str
    epoch: str
    #: `Ticks.since` of the part's first tick; None for `NO_TIME`.
    since: int | None
    #: The lowest and the last `seq` of each part of the feed's log.
    positions: dict[str, tuple[int, int]]

    def encode(self) -> dict[bytes, bytes]:
        """The footer as metadata of a Parquet file."""
        return {FOOTER_KEY: msgspec.json.encode(self)}


def footer(metadata: Mapping[bytes, bytes] | None) -> Footer | None:
    """The footer in a Parquet file's metadata, None where it is no part. Raises msgspec.DecodeError for a broken one."""
    found = (metadata or {}).get(FOOTER_KEY)
    return None if found is None else msgspec.json.decode(found, type=Footer)


def table(ticks: Ticks, symbols: Symbols) -> Any:
    """`ticks` as a pyarrow.Table of `SCHEMA`. Dictionaries hold what occurs, each text once."""
    rows, place = np.unique(ticks.row, return_inverse=True)
    keys = [symbols.names[row] for row in rows]
    owners, owner = np.unique([symbols.owner[row] for row in rows], return_inverse=True)
    labels = [symbols.parts[number].label for number in owners]
    columns = [
        _texts(place, keys),
        _texts(ticks.kind, ["quote", "trade"]),
        _times(ticks.ts_event),
        _times(ticks.ts_recv),
        *(pa.array(getattr(ticks, name), from_pandas=True) for name in NUMBERS),  # NaN is null
        pa.DictionaryArray.from_arrays(_SIDE_CODES.take(pa.array(ticks.sides)), pa.array(["buy", "sell"])),
        pa.nulls(len(ticks), pa.string()) if ticks.trade_id is None else ticks.trade_id,
        pa.array(ticks.seq),
        _texts(owner[place], labels),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def positions(table: Any) -> dict[str, tuple[int, int]]:
    """The lowest and the last `seq` of each `part` in a table of `SCHEMA`.

    The last is the highest too, but where a symbol has moved to the part since: its ticks of before count elsewhere.
    """
    ends = table.group_by("part", use_threads=False).aggregate([("seq", "min"), ("seq", "last")])
    return {row["part"]: (row["seq_min"], row["seq_last"]) for row in ends.to_pylist()}


def _texts(codes: Any, texts: list[str]) -> Any:
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(texts, pa.string()))


def _times(time: Any) -> Any:
    assert np.datetime64("NaT", "us").view(np.int64) == NO_TIME  # so it becomes null
    return pa.array(time.view("M8[us]"), TIME)
