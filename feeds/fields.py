"""The names that a tick's fields go by: which column or JSON key holds what. Pure.

A field is one of `FIELDS`. Recordings name them in many ways; `layout` finds, for the names that a source has, the
sources of each field, best first. A row takes the first of them that has a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from feeds.ticks import BUY, QUOTE, SELL, TRADE

TIMES: Final = ("ts_event", "ts_recv")
QUOTE_FIELDS: Final = ("bid", "bid_size", "ask", "ask_size")
TRADE_FIELDS: Final = ("price", "size")
NUMBERS: Final = (*QUOTE_FIELDS, *TRADE_FIELDS)
#: Texts that come again and again.
TEXTS: Final = ("symbol", "venue", "type", "side")
FIELDS: Final = ("symbol", "venue", "type", *TIMES, *NUMBERS, "side", "trade_id")

#: Where each field is looked for, best first. A name of one letter must match as it stands; of a longer one, case
#: and the signs between its words do not count: ``bidPx``, ``bid_px`` and ``Bid Px`` are one name.
ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "symbol": ("symbol", "s", "instrument", "raw_symbol", "ticker", "pair", "product_id", "instrument_id"),
    "venue": ("venue", "exchange", "exch", "market"),
    "type": ("type", "e", "event_type", "action"),
    "ts_event": (
        *("ts_event", "T", "exch_ns", "exch_us", "exch_ms", "exch_ts", "exch_time", "exchange_timestamp"),
        *("exchange_time", "transaction_time", "transact_time", "trade_time", "E", "event_time", "timestamp"),
        *("time", "ts"),
    ),
    "ts_recv": (
        *("ts_recv", "recv_ns", "recv_us", "recv_ms", "recv_ts", "recv_time", "receive_time", "receive_timestamp"),
        *("received_at", "local_timestamp", "local_ts", "local_time"),
    ),
    "bid": ("bid", "b", "bid_price", "bid_px", "best_bid", "best_bid_price", "bid_px_00"),
    "bid_size": (
        *("bid_size", "B", "bid_sz", "bid_qty", "bid_quantity", "bid_amount", "bid_volume", "best_bid_size"),
        *("best_bid_qty", "best_bid_quantity", "bid_sz_00"),
    ),
    "ask": ("ask", "a", "ask_price", "ask_px", "best_ask", "best_ask_price", "ask_px_00", "offer"),
    "ask_size": (
        *("ask_size", "A", "ask_sz", "ask_qty", "ask_quantity", "ask_amount", "ask_volume", "best_ask_size"),
        *("best_ask_qty", "best_ask_quantity", "ask_sz_00", "offer_size"),
    ),
    "price": ("price", "p", "px", "trade_price"),
    "size": ("size", "q", "qty", "quantity", "amount", "sz", "trade_size"),
    "side": ("side", "taker_side", "aggressor_side", "aggressor", "m", "is_buyer_maker", "buyer_is_maker"),
    "trade_id": ("trade_id", "tid", "id", "exec_id", "match_id"),
}

#: What a value of `type` says, in lower case without signs between words.
KINDS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("quote", "quotes", "q", "bbo", "bookticker"), QUOTE),
    **dict.fromkeys(("trade", "trades", "t", "aggtrade"), TRADE),
    # Databento's book actions: a trade or fill prints; all else leaves a new top of the book.
    **dict.fromkeys(("f",), TRADE),
    **dict.fromkeys(("a", "c", "m", "r"), QUOTE),
}

#: What a value of `side` says, in lower case: who took. Databento's A is the asks' side; of a maker who bought, the taker sold.
SIDES: Final[Mapping[str, int]] = {
    **dict.fromkeys(("buy", "buyer", "b", "bid", "false"), BUY),
    **dict.fromkeys(("sell", "seller", "s", "ask", "a", "true"), SELL),
}

#: Field to its sources among the names at hand, best first; a field without any is absent.
Layout = Mapping[str, tuple[str, ...]]
#: Gives the layout of a source with these names.
LayoutOf = Callable[[tuple[str, ...]], Layout]

_SIGNS = re.compile(r"[\s_.\-/]+")


def plain(name: str) -> str:
    """`name` without what does not count: as it stands if one letter, else in lower case and without signs."""
    return name if len(name) == 1 else _SIGNS.sub("", name).lower()


_KNOWN: Final = {
    plain(alias): (field, rank) for field, aliases in ALIASES.items() for rank, alias in enumerate(aliases)
}


def layout(names: Iterable[str], renamed: Mapping[str, str]) -> Layout:
    """The sources of each field among `names`. `renamed` (field to name) stands in place of a field's aliases."""
    found: dict[str, list[tuple[int, str]]] = {}
    taken = set(renamed.values())
    for name in dict.fromkeys(names):
        for field, source in renamed.items():
            if name == source:
                found[field] = [(0, name)]
        field, rank = _KNOWN.get(plain(name), ("", 0))
        if field and field not in renamed and name not in taken:
            found.setdefault(field, []).append((rank, name))
    return {field: tuple(name for _, name in sorted(found[field])) for field in FIELDS if field in found}


def lacking(layout: Layout) -> str | None:
    """What a source of this layout lacks to hold ticks at all, as a phrase; None where it lacks nothing."""
    if "symbol" not in layout:
        return "a symbol"
    if not any(field in layout for field in TIMES):
        return "a time (ts_event or ts_recv)"
    if not any(field in layout for field in ("bid", "ask", "price")):
        return "a price (bid, ask or price)"
    return None
