"""Tables of vendors whose columns mean more than their names say. Pure.

| table | what is known of it |
|---|---|
| Databento's | prices without a point are billionths, 2**63 - 1 none of them; a book's row whose action is a trade is two |
| Tardis' | which of its data types hold neither quotes nor trades |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feeds.decode import Records

_DATABENTO: Final = frozenset(("rtype", "publisher_id", "instrument_id"))
_TARDIS: Final = frozenset(("exchange", "symbol", "timestamp", "local_timestamp"))
_OF_DATABENTO: Final = "Databento's trades, tbbo, mbp-1, bbo-1s or bbo-1m"
_OF_TARDIS: Final = "Tardis' trades, quotes or book_ticker"
#: By the columns of a vendor and one more, tables that hold no ticks: what each is, and what was expected.
_OTHERS: Final = (
    (_DATABENTO, "order_id", "mbo", _OF_DATABENTO),
    (_DATABENTO, "open", "ohlcv", f"{_OF_DATABENTO}, or DBN"),
    (_TARDIS, "is_snapshot", "incremental_book_L2", _OF_TARDIS),
    (_TARDIS, "asks[0].price", "book_snapshot", _OF_TARDIS),
    (_TARDIS, "strike_price", "options_chain", _OF_TARDIS),
    (_TARDIS, "funding_rate", "derivative_ticker", _OF_TARDIS),
)
_PRICES: Final = ("price", "bid_px_00", "ask_px_00")
_BOOK: Final = (("bid_px_00", "bid_sz_00"), ("ask_px_00", "ask_sz_00"))
_UNDEFINED: Final = str(2**63 - 1)
_KINDS: Final = ("quote", "trade")


def refusal(names: Collection[str]) -> str | None:
    """Why a table with these columns holds no ticks, though some of its names are those of ticks."""
    return next(
        (
            f"expected {known}, was {table}"
            for vendor, column, table, known in _OTHERS
            if column in names and vendor.issubset(names)
        ),
        None,
    )


def databento(names: Collection[str]) -> Databento | None:
    """What reads a table with these columns, where it is one of Databento's."""
    return Databento(names) if _DATABENTO.issubset(names) else None


class Databento:
    """Makes rows of ticks of the rows of one of Databento's tables, be it CSV or Parquet."""

    def __init__(self, names: Collection[str]) -> None:
        self._book = "bid_px_00" in names
        #: Whether a row may be a quote and a trade. If it is neither, its book is that at the end of an interval.
        self.doubles = self._book and "action" in names
        self._interval = self._book and "action" not in names

    def rows(self, records: Records) -> Records:
        """The same, with decimal prices and a type for each row; a quote stands before the trade of its row."""
        columns: dict[str, Any] = {name: _priced(name, column) for name, column in records.columns.items()}
        for price, size in _BOOK:
            if price in columns and size in columns:
                columns[size] = pc.if_else(columns[price].is_valid(), columns[size], None)
        if "symbol" in columns:
            columns["symbol"] = _without_spaces(columns["symbol"])
        action = columns.pop("action", None)
        if self._interval:
            columns.pop("ts_event", None)  # the last trade's, which says nothing of the quote
        rows, faults = records.rows, records.faults
        second = np.full(rows, not self._book)
        if self.doubles and action is not None:
            trade = pc.fill_null(pc.equal(action.cast(pa.string()), "T"), False)
            at, second = doubled(np.asarray(trade.to_numpy(zero_copy_only=False), np.bool_))
            columns = {name: column.take(pa.array(at)) for name, column in columns.items()}
            rows, faults = len(at), _moved(faults, at)
        return Records({**columns, "type": kinds(second)}, rows, faults)


def doubled(trades: Any) -> tuple[Any, Any]:
    """For rows of which some are a quote and a trade (bool[n]): the row of each tick, and whether it is the trade."""
    at = np.repeat(np.arange(len(trades)), 1 + trades)
    second = np.zeros(len(at), np.bool_)
    second[1:] = at[1:] == at[:-1]
    return at, second


def kinds(trades: Any) -> Any:
    """A column of types."""
    return pa.DictionaryArray.from_arrays(trades.astype(np.int32), pa.array(_KINDS))


def _moved(faults: Mapping[int, str], at: Any) -> dict[int, str]:
    return {int(np.searchsorted(at, row)): reason for row, reason in faults.items()}


def _priced(name: str, column: Any) -> Any:
    """A column of prices as decimals: those written as whole numbers, of which some may be undefined, are billionths."""
    if name not in _PRICES:
        return column
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    elif not pa.types.is_string(column.type):
        return column
    whole = pc.match_substring_regex(column, r"^-?[0-9]+$")
    if not pc.any(whole).as_py():
        return column
    billionths = pc.binary_join_element_wise(column, "e-9", "")
    return pc.if_else(pc.equal(column, _UNDEFINED), None, pc.if_else(whole, billionths, column))


def _without_spaces(column: Any) -> Any:
    """Raw symbols of options are padded with spaces, which no key has."""
    if pa.types.is_dictionary(column.type):
        return pa.DictionaryArray.from_arrays(column.indices, _without_spaces(column.dictionary))
    return pc.replace_substring(column, " ", "") if pa.types.is_string(column.type) else column
