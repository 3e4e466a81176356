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

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from itertools import groupby
from typing import Any, Final

import databento_dbn as dbn
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feeds.decode import Records
from feeds.vendors import doubled, kinds

#: Bytes that are read at once.
BLOCK_BYTES: Final = 1 << 20
SCHEMAS: Final = (
    *("trades", "tbbo", "mbp-1", "tcbbo", "cmbp-1", "bbo-1s", "bbo-1m", "cbbo-1s", "cbbo-1m"),
    *("ohlcv-1s", "ohlcv-1m", "ohlcv-1h", "ohlcv-1d"),
)
_BAR_NS: Final = {32: 10**9, 33: 60 * 10**9, 34: 3600 * 10**9, 35: 86_400 * 10**9}
_DAY_NS: Final = 86_400 * 10**9
_NUMBER_BITS: Final = 32
_NUMBER_MAX: Final = 2**_NUMBER_BITS - 1
_EPOCH: Final = date(1970, 1, 1).toordinal()
_NO_TIME: Final = np.uint64(2**64 - 1)
_EXACT: Final = 2**53

# The library's stubs take the members of its enumerations for texts and numbers.
_UPGRADE: Final[Any] = dbn.VersionUpgradePolicy.UPGRADE_TO_V3
_DBN: Final[Any] = dbn.Encoding.DBN
_PLAIN: Final[Any] = dbn.Compression.NONE

Table = NDArray[np.void]
Floats = NDArray[np.float64]


class DbnError(ValueError):
    """The bytes are no DBN of ticks. The text says why."""


class Reader:
    """DBN, uncompressed, to records: give it to `read`.

    The library brings all to the newest version. Where what it gives is records of one type alone, which is a check of two
    bytes in each, they are one array as they stand; else its own objects tell what follows what.
    """

    def __init__(self) -> None:
        self._upgraded = io.BytesIO()
        self._transcoder = dbn.Transcoder(self._upgraded, _DBN, _PLAIN, upgrade_policy=_UPGRADE)
        #: Makes objects of what has been upgraded.
        self._decoder = dbn.DBNDecoder(upgrade_policy=_UPGRADE)
        #: Names of each instrument: from which day on, to before which day.
        self._names: dict[int, list[tuple[int, int, str]]] = {}
        self._begun = False

    def records(self, read: Callable[[int], bytes], start: int = 0) -> Iterator[tuple[int, Records]]:
        """The rows from number `start` on, as long as `read` gives bytes: their numbers, from 0. Raises DbnError."""
        place = 0
        while chunk := read(BLOCK_BYTES):
            for kind, table in self._tables(self._upgrade(chunk)):
                count, columns = _ROWS[kind]
                rows = count(table)
                if start < place + rows:
                    skipped = max(0, start - place)
                    yield place + skipped, self._rows(columns(table), rows, skipped)
                place += rows
        if not self._begun:
            raise DbnError("not DBN: it ends before its metadata does")
        if self._transcoder.buffer():
            raise DbnError("cut off: it ends in the middle of a record")

    def _upgrade(self, chunk: bytes) -> bytes:
        """What the bytes so far have to say that was not said yet, as whole records."""
        with _errors():
            self._transcoder.write(chunk)
            self._transcoder.flush()
        upgraded = self._upgraded.getvalue()
        self._upgraded.seek(0)
        self._upgraded.truncate()
        return upgraded

    def _tables(self, upgraded: bytes) -> Iterator[tuple[type, Table]]:
        """The records of each run of one type that gives rows; what others mean has been taken in by then."""
        if not upgraded:
            return
        width = _width(upgraded)
        if self._begun and _is_uniform(upgraded, width):
            kind = type(self._decode(upgraded[:width])[0])
            if kind in _ROWS:
                yield kind, np.frombuffer(upgraded, _dtype(kind, width))
                return
        found = self._decode(upgraded)
        if not self._begun:
            self._begin(found.pop(0))
        for kind, run in groupby(found, type):
            if kind is dbn.SymbolMappingMsg:
                self._map(run)
            elif kind in _ROWS:
                dtype = _dtype(kind)
                packed = b"".join(bytes(record)[: dtype.itemsize] for record in run)  # a time of sending may follow
                yield kind, np.frombuffer(packed, dtype)

    def _decode(self, upgraded: bytes) -> list[Any]:
        with _errors():
            self._decoder.write(upgraded)
            found: list[Any] = self._decoder.decode()
        return found

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

    def _rows(self, columns: dict[str, Any], rows: int, skipped: int) -> Records:
        columns["symbol"] = self._symbols(columns.pop("instrument_id"), columns)
        arrays = {name: _array(name, column).slice(skipped) for name, column in columns.items()}
        return Records(arrays, rows - skipped)

    def _symbols(self, instrument: Any, times: Mapping[str, Any]) -> Any:
        received = times.get("ts_recv", _NO_TIME)
        time = np.where(received == _NO_TIME, times.get("ts_event", _NO_TIME), received)
        code = (time // _DAY_NS).astype(np.int64) << _NUMBER_BITS | instrument
        codes, place = np.unique(code, return_inverse=True)
        names = [self._name(code & _NUMBER_MAX, code >> _NUMBER_BITS) for code in codes.tolist()]
        return pa.DictionaryArray.from_arrays(place.astype(np.int32), pa.array(names, pa.string()))

    def _name(self, number: int, day: int) -> str:
        found = next((name for start, end, name in self._names.get(number, ()) if start <= day < end), str(number))
        return found.replace(" ", "")


@contextmanager
def _errors() -> Iterator[None]:
    """What the library can raise, as a `DbnError`."""
    try:
        yield
    except (dbn.DBNError, ValueError, OverflowError) as error:
        raise DbnError(f"not DBN: {error}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a record shorter than its type is; it is no Exception
            raise
        raise DbnError(f"not DBN: {error}") from None


def _width(upgraded: bytes) -> int:
    """The bytes of the record that comes first."""
    return 4 * upgraded[0]


def _is_uniform(upgraded: bytes, width: int) -> bool:
    """Whether all records have the first one's length and type, which its first two bytes tell."""
    if not width or len(upgraded) % width:
        return False
    heads = np.frombuffer(upgraded, np.uint8).reshape(-1, width)[:, :2]
    return bool((heads == heads[0]).all())


def _dtype(kind: type, width: int = 0) -> np.dtype[np.void]:
    """The layout of a record as databento's own client has it; with `width` bytes from one to the next."""
    known: Any = kind
    dtype = np.dtype(known._dtypes)  # noqa: SLF001
    fields: Any = dtype.fields
    names = list(fields)
    return np.dtype(
        {
            "names": names,
            "formats": [fields[name][0] for name in names],
            "offsets": [fields[name][1] for name in names],
            "itemsize": max(width, dtype.itemsize),
        }
    )


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


def _sides(column: Any) -> Any:
    """Words for the side of who took: ask where that sold."""
    codes = np.select([column == b"A", column == b"B"], [0, 1], 2).astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes == 2), pa.array(["ask", "bid"]))


def _size(column: Any) -> Floats:
    """Sizes; NaN where it is undefined."""
    return np.where(column == dbn.UNDEF_ORDER_SIZE, np.nan, column)


def _quotes(table: Table) -> dict[str, Any]:
    bid, ask = _price(table["bid_px_00"]), _price(table["ask_px_00"])
    return {
        "bid": bid,
        "bid_size": np.where(np.isnan(bid), np.nan, _size(table["bid_sz_00"])),
        "ask": ask,
        "ask_size": np.where(np.isnan(ask), np.nan, _size(table["ask_sz_00"])),
    }


def _of_trades(table: Table) -> dict[str, Any]:
    columns = {name: table[name] for name in ("instrument_id", "ts_event", "ts_recv")}
    trades = {"price": _price(table["price"]), "size": _size(table["size"])}
    return {**columns, **trades, "side": _sides(table["side"]), "type": kinds(np.ones(len(table)))}


def _of_books(table: Table) -> dict[str, Any]:
    """A quote of each record, and behind it the trade of one whose action is that."""
    at, second = doubled(table["action"] == b"T")
    table = table[at]
    columns = {name: table[name] for name in ("instrument_id", "ts_event", "ts_recv")}
    quotes = {name: np.where(second, np.nan, values) for name, values in _quotes(table).items()}
    price = np.where(second, _price(table["price"]), np.nan)
    size = np.where(second, _size(table["size"]), np.nan)
    trades = {"price": price, "size": size, "side": _sides(table["side"])}
    return {**columns, **quotes, **trades, "type": kinds(second)}


def _of_intervals(table: Table) -> dict[str, Any]:
    """`ts_event` is the last trade's time there, and says nothing of the quote."""
    columns = {name: table[name] for name in ("instrument_id", "ts_recv")}
    return {**columns, **_quotes(table), "type": kinds(np.zeros(len(table)))}


def _of_bars(table: Table) -> dict[str, Any]:
    length = np.array([_BAR_NS.get(rtype, _DAY_NS) for rtype in table["rtype"].tolist()], np.uint64)
    price = np.stack([_price(table[name]) for name in ("open", "high", "low", "close")], axis=1).ravel()
    size = np.zeros((len(table), 4))
    size[:, 3] = table["volume"]
    columns = {
        "instrument_id": np.repeat(table["instrument_id"], 4),
        "ts_event": np.repeat(table["ts_event"] + length - np.uint64(1000), 4),
        "type": kinds(np.ones(4 * len(table))),
    }
    return {**columns, "price": price, "size": size.ravel()}


def _one(table: Table) -> int:
    return len(table)


def _one_or_two(table: Table) -> int:
    return len(table) + int(np.count_nonzero(table["action"] == b"T"))


def _four(table: Table) -> int:
    return 4 * len(table)


#: By the class of a record: how many rows a run of them gives, and their columns.
_ROWS: Final[Mapping[type, tuple[Callable[[Table], int], Callable[[Table], dict[str, Any]]]]] = {
    dbn.TradeMsg: (_one, _of_trades),
    dbn.MBP1Msg: (_one_or_two, _of_books),
    dbn.CMBP1Msg: (_one_or_two, _of_books),
    dbn.BBOMsg: (_one, _of_intervals),
    dbn.CBBOMsg: (_one, _of_intervals),
    dbn.OHLCVMsg: (_four, _of_bars),
}
