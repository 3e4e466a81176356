"""Databento's binary encoding (DBN), all versions, to records, by the library that Databento makes for it.

| schema | rows of a record |
|---|---|
| trades | a trade |
| tbbo, mbp-1, tcbbo, cmbp-1 | a quote, then where its action is a trade, that trade: the book is as of before it |
| bbo-1s, bbo-1m, cbbo-1s, cbbo-1m | a quote at the record's interval time; the last trade repeats there, and is none |
| ohlcv-1s, -1m, -1h, -1d | trades at open, high, low (size 0) and close (the whole volume), 1 us before the bar's end |

A price that is undefined is no value, and so is its size. A symbol is the raw symbol that the metadata, or a mapping in the
stream, gives for the instrument on that day, without spaces; else the instrument's number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from itertools import groupby
from typing import Any, Final

import databento_dbn as dbn
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feeds.decode import Records

#: Bytes that are read at once.
BLOCK_BYTES: Final = 1 << 20
SCHEMAS: Final = (
    *("trades", "tbbo", "mbp-1", "tcbbo", "cmbp-1", "bbo-1s", "bbo-1m", "cbbo-1s", "cbbo-1m"),
    *("ohlcv-1s", "ohlcv-1m", "ohlcv-1h", "ohlcv-1d"),
)
_BAR_NS: Final = {32: 10**9, 33: 60 * 10**9, 34: 3600 * 10**9, 35: 86_400 * 10**9}
_DAY_NS: Final = 86_400 * 10**9
_EPOCH: Final = date(1970, 1, 1).toordinal()
_NO_TIME: Final = np.uint64(2**64 - 1)
_EXACT: Final = 2**53

Table = NDArray[np.void]
Floats = NDArray[np.float64]


class DbnError(ValueError):
    """The bytes are no DBN of ticks. The text says why."""


class Reader:
    """DBN, uncompressed, to records: give it to `read`."""

    def __init__(self) -> None:
        policy: Any = dbn.VersionUpgradePolicy.UPGRADE_TO_V3  # its stubs take it for an int
        self._decoder = dbn.DBNDecoder(upgrade_policy=policy)
        #: Names of each instrument: from which day on, to before which day.
        self._names: dict[int, list[tuple[int, int, str]]] = {}
        self._begun = False

    def records(self, read: Callable[[int], bytes]) -> Iterator[Records]:
        """All records, as long as `read` gives bytes. Raises DbnError."""
        while chunk := read(BLOCK_BYTES):
            try:
                self._decoder.write(chunk)
                found = self._decoder.decode()
            except (dbn.DBNError, ValueError, OverflowError) as error:
                raise DbnError(f"not DBN: {error}") from None
            if found and not self._begun:
                self._begin(found.pop(0))
            for kind, run in groupby(found, type):
                if kind is dbn.SymbolMappingMsg:
                    self._map(run)
                elif kind in _ROWS:
                    yield self._rows(kind, list(run))
        if not self._begun:
            raise DbnError("not DBN: it ends before its metadata does")
        if self._decoder.buffer():
            raise DbnError("cut off: it ends in the middle of a record")

    def _begin(self, metadata: Any) -> None:
        self._begun = True
        schema = None if metadata.schema is None else str(metadata.schema)
        if schema is not None and schema not in SCHEMAS:
            raise DbnError(f"schema {schema}: expected one of {', '.join(SCHEMAS)}")
        by_number = str(metadata.stype_in) == "instrument_id"
        for raw, intervals in metadata.mappings.items():
            for interval in intervals:
                number, name = (raw, interval["symbol"]) if by_number else (interval["symbol"], raw)
                if number.isdecimal():
                    days = (interval["start_date"].toordinal() - _EPOCH, interval["end_date"].toordinal() - _EPOCH)
                    self._names.setdefault(int(number), []).append((*days, name))

    def _map(self, messages: Iterator[Any]) -> None:
        for message in messages:
            name = message.stype_out_symbol or message.stype_in_symbol
            self._names.setdefault(message.instrument_id, []).insert(0, (0, 2**31, name))

    def _rows(self, kind: type, found: Sequence[Any]) -> Records:
        dtype = np.dtype(kind._dtypes)  # type: ignore[attr-defined]  # noqa: SLF001 - how databento's own client reads them
        packed = b"".join(bytes(record)[: dtype.itemsize] for record in found)  # a time of sending may follow
        columns, rows = _ROWS[kind](np.frombuffer(packed, dtype))
        time = columns["ts_recv"] if "ts_recv" in columns else columns["ts_event"]
        columns["symbol"] = self._symbols(columns.pop("instrument_id"), time)
        arrays = {name: _array(name, column) for name, column in columns.items()}
        return Records(arrays, rows)

    def _symbols(self, instrument: Any, time: Any) -> Any:
        day = (time // np.uint64(_DAY_NS)).astype(np.int64)
        pairs, place = np.unique(np.stack([instrument.astype(np.int64), day]), axis=1, return_inverse=True)
        names = pa.array([self._name(number, on) for number, on in pairs.T.tolist()], pa.string())
        return pa.DictionaryArray.from_arrays(place.ravel().astype(np.int32), names)

    def _name(self, number: int, day: int) -> str:
        found = next((name for start, end, name in self._names.get(number, ()) if start <= day < end), str(number))
        return found.replace(" ", "")


def _array(name: str, column: Any) -> Any:
    if name.startswith("ts_"):
        return pa.array(column.astype(np.int64), pa.timestamp("ns", "UTC"), mask=column == _NO_TIME)
    return column if isinstance(column, pa.Array) else pa.array(column, from_pandas=True)


def _price(column: Any) -> Floats:
    """Prices, from billionths, each the nearest float64; NaN where it is undefined."""
    values: Floats = column / 1e9
    large = np.flatnonzero(np.abs(column) >= _EXACT)
    values[large] = [int(value) / 10**9 for value in column[large].tolist()]  # the quotient of integers is rounded once
    values[column == dbn.UNDEF_PRICE] = np.nan
    return values


def _quotes(table: Table) -> dict[str, Any]:
    bid, ask = _price(table["bid_px_00"]), _price(table["ask_px_00"])
    return {
        "bid": bid,
        "bid_size": np.where(np.isnan(bid), np.nan, table["bid_sz_00"]),
        "ask": ask,
        "ask_size": np.where(np.isnan(ask), np.nan, table["ask_sz_00"]),
    }


def _kinds(trade: Any) -> Any:
    return pa.DictionaryArray.from_arrays(trade.astype(np.int32), pa.array(["quote", "trade"]))


def _of_trades(table: Table) -> tuple[dict[str, Any], int]:
    columns = {name: table[name] for name in ("instrument_id", "ts_event", "ts_recv")}
    trades = {"price": _price(table["price"]), "size": table["size"].astype(np.float64)}
    return {**columns, **trades, "type": _kinds(np.ones(len(table)))}, len(table)


def _of_books(table: Table) -> tuple[dict[str, Any], int]:
    """A quote of each record, and behind it the trade of one whose action is that."""
    trades = table["action"] == b"T"
    at = np.repeat(np.arange(len(table)), 1 + trades)
    second = np.append(False, at[1:] == at[:-1])
    table = table[at]
    columns = {name: table[name] for name in ("instrument_id", "ts_event", "ts_recv")}
    quotes = {name: np.where(second, np.nan, values) for name, values in _quotes(table).items()}
    price = np.where(second, _price(table["price"]), np.nan)
    size = np.where(second, table["size"], np.nan)
    return {**columns, **quotes, "price": price, "size": size, "type": _kinds(second)}, len(table)


def _of_intervals(table: Table) -> tuple[dict[str, Any], int]:
    """`ts_event` is the last trade's time there, and says nothing of the quote."""
    columns = {name: table[name] for name in ("instrument_id", "ts_recv")}
    return {**columns, **_quotes(table), "type": _kinds(np.zeros(len(table)))}, len(table)


def _of_bars(table: Table) -> tuple[dict[str, Any], int]:
    length = np.array([_BAR_NS.get(rtype, _DAY_NS) for rtype in table["rtype"].tolist()], np.uint64)
    price = np.stack([_price(table[name]) for name in ("open", "high", "low", "close")], axis=1).ravel()
    size = np.zeros((len(table), 4))
    size[:, 3] = table["volume"]
    columns = {
        "instrument_id": np.repeat(table["instrument_id"], 4),
        "ts_event": np.repeat(table["ts_event"] + length - np.uint64(1000), 4),
        "type": _kinds(np.ones(4 * len(table))),
    }
    return {**columns, "price": price, "size": size.ravel()}, 4 * len(table)


#: By the class of a record, what makes columns of a run of them.
_ROWS: Final[dict[type, Callable[[Table], tuple[dict[str, Any], int]]]] = {
    dbn.TradeMsg: _of_trades,
    dbn.MBP1Msg: _of_books,
    dbn.CMBP1Msg: _of_books,
    dbn.BBOMsg: _of_intervals,
    dbn.CBBOMsg: _of_intervals,
    dbn.OHLCVMsg: _of_bars,
}
