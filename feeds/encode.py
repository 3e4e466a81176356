"""Ticks to values of a log, one tick a value: what `feeds.values` reads. Pure.

A quote has all four of its fields, null where it has no value, so that it replaces them all; a trade has price and size,
and its side and its id where they are known.
`symbol` is the whole key, and a time that a tick does not carry is absent. Numbers are written as short as the float64
comes back the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from feeds.fields import QUOTE_FIELDS, TRADE_FIELDS
from feeds.ticks import NO_TIME, QUOTE, TRADE, Floats, Ints, Ticks

Encode = Callable[[Any], bytes]

#: What writes one value, by the name of its format.
ENCODERS: Final[Mapping[str, Encode]] = {
    "json": msgspec.json.Encoder().encode,
    "msgpack": msgspec.msgpack.Encoder().encode,
}

Time = int | msgspec.UnsetType
Word = str | msgspec.UnsetType


class Quote(msgspec.Struct, tag_field="type", tag="quote", gc=False):
    """A quote as it is written."""

    symbol: str
    ts_event: Time
    ts_recv: Time
    bid: float | None
    bid_size: float | None
    ask: float | None
    ask_size: float | None


class Trade(msgspec.Struct, tag_field="type", tag="trade", gc=False):
    """A trade as it is written."""

    symbol: str
    ts_event: Time
    ts_recv: Time
    price: float | None
    size: float | None
    side: Word
    trade_id: Word


_SIDES: Final = (msgspec.UNSET, "buy", "sell")
#: What is made of each kind, of which columns.
_KINDS: Final = ((QUOTE, Quote, QUOTE_FIELDS), (TRADE, Trade, TRADE_FIELDS))


def values(ticks: Ticks, names: Sequence[str], encode: Encode) -> list[bytes]:
    """Each tick as `encode` writes it, in order; `names` are the keys by row.

    Readers tell a time's unit from its size: those from March 1973 to 2255 come back the same.
    """
    found = np.empty(len(ticks), object)
    for kind, made, fields in _KINDS:
        places = np.flatnonzero(ticks.kind == kind)
        some = ticks[places]
        columns: list[Iterable[Any]] = [map(names.__getitem__, some.row.tolist())]
        columns += [_times(some.ts_event), _times(some.ts_recv)]
        columns += [_numbers(getattr(some, field)) for field in fields]
        if kind == TRADE:
            columns += [map(_SIDES.__getitem__, some.sides.tolist()), _ids(some)]
        found[places] = list(map(encode, map(made, *columns)))
    encoded: list[bytes] = found.tolist()
    return encoded


def _ids(ticks: Ticks) -> list[Any]:
    if ticks.trade_id is None:
        return [msgspec.UNSET] * len(ticks)
    return [msgspec.UNSET if name is None else name for name in ticks.trade_id.to_pylist()]


def _times(column: Ints) -> list[Any]:
    return _objects(column, column == NO_TIME, msgspec.UNSET)


def _numbers(column: Floats) -> list[Any]:
    return _objects(column, np.isnan(column), None)


def _objects(column: Any, absent: Any, instead: object) -> list[Any]:
    if not absent.any():
        plain: list[Any] = column.tolist()
        return plain
    found = column.astype(object)
    found[absent] = instead
    objects: list[Any] = found.tolist()
    return objects
