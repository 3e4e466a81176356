"""A client's copy of the server's state: messages in, kept items out; and how a program sees it. Pure.

Shared by the client, `tail` and the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

Item = dict[str, Any]

#: Members of an update item that tell what happened since `prev`, rather than what now is.
SINCE_PREV: Final = frozenset(("prev", "hi", "lo", "vol"))
#: Members of an item that are not fields: they name it and say what it is as of.
AS_OF: Final = frozenset(("symbol", "seq", "n", "ts"))


class Mirror:
    """The newest item of every symbol, kept by the rules of the protocol's guarantees 4, 5 and 7.

    Invariant: an item in `items` equals the server's state of its symbol at the item's `seq`, for the fields that were
    subscribed, and its `n` the server's count. An item is a value: a change puts another in its place. A symbol in
    `broken` waits for a snapshot; its item, if there is one, is the last good one.
    """

    __slots__ = ("broken", "epoch", "items")

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        #: Symbols whose chain broke, or whose log was made anew, and whose snapshot has not come yet.
        self.broken: set[str] = set()
        #: Names the server's log; None before the first `welcome`.
        self.epoch: str | None = None

    def apply(self, message: Mapping[str, Any]) -> list[str]:
        """Take in one message of the server; those that carry no state are ignored.

        Returns the symbols whose chain has just broken: the caller sends a `resync` for them. It is told once; until
        the snapshot comes, their updates are passed over.
        """
        match message["type"]:
            case "snapshot":
                for item in message["items"]:
                    self.items[item["symbol"]] = item
                    self.broken.discard(item["symbol"])
            case "update":
                return [item["symbol"] for item in message["items"] if not self._fold(item)]
            case "subscribed":
                for symbol, n in message["resumed"].items():
                    if symbol in self.items:
                        self.items[symbol] = {**self.items[symbol], "n": n}
            case "welcome":
                self.epoch = message["epoch"]
            case "epoch":  # what is held is of another log; its snapshots follow unasked
                self.epoch = message["epoch"]
                self.broken.update(self.items)
        return []

    def since(self, symbols: Iterable[str] | None = None) -> dict[str, int]:
        """What to send as `since`: the seq of every whole item, or of those of `symbols`."""
        names = self.items if symbols is None else symbols
        return {name: self.items[name]["seq"] for name in names if name in self.items and name not in self.broken}

    def drop(self, symbols: Iterable[str]) -> None:
        """Forget `symbols`: the client watches them no more."""
        for symbol in symbols:
            self.items.pop(symbol, None)
            self.broken.discard(symbol)

    def _fold(self, update: Mapping[str, Any]) -> bool:
        """Fold an update item in; False where its chain has just broken."""
        symbol = update["symbol"]
        if symbol in self.broken:
            return True
        item = self.items.get(symbol)
        if item is None or item["seq"] != update["prev"]:
            self.broken.add(symbol)
            return False
        after = {**item, **update, "n": item["n"] + update["n"]}
        for name in SINCE_PREV:
            after.pop(name, None)
        self.items[symbol] = after
        return True


class Quote(msgspec.Struct, frozen=True, kw_only=True, gc=False, repr_omit_defaults=True):
    """An item, typed: the state of `symbol` at `seq`. A field is None where it has no value or was not subscribed.

    `n` is the server's count of the symbol's ticks since that server started, so on one connection it grows by each
    `Update.n`, and after a reconnect to another server it may be less; times are microseconds since the Unix
    epoch, UTC.
    """

    symbol: str
    seq: int
    n: int
    #: None for a symbol that has lost its value, since its log was made anew.
    ts: int | None
    bid: float | None = None
    bid_size: float | None = None
    ask: float | None = None
    ask_size: float | None = None
    last: float | None = None
    last_size: float | None = None
    last_ts: int | None = None
    open: float | None = None
    high: float | None = None
    low: float | None = None
    volume: float | None = None
    vwap: float | None = None
    trades: int | None = None
    change: float | None = None
    change_pct: float | None = None
    session: int | None = None


class Quotes(Mapping[str, Quote]):
    """The items of a mirror as quotes, always its newest."""

    __slots__ = ("_mirror",)

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    def __getitem__(self, symbol: str) -> Quote:
        return msgspec.convert(self._mirror.items[symbol], Quote)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._mirror.items))  # another thread may read it while symbols come

    def __len__(self) -> int:
        return len(self._mirror.items)


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to one symbol since the update before it, and the quote that it left."""

    symbol: str
    #: The state after it.
    quote: Quote
    #: The fields that moved, with their new values.
    change: Mapping[str, Any]
    #: The ticks folded in; None where no one knows: at the first of a connection, unless it was resumed. The server's
    #: count of the symbol's ticks is `quote.n`, always known.
    n: int | None
    #: Highest and lowest price and the volume of its trades, where there were any and `last` was subscribed. Those of
    #: rounds that the server skipped (`whole`) are not among them.
    hi: float | None = None
    lo: float | None = None
    vol: float | None = None
    #: Whether the server sent the whole state anew, rather than a change.
    whole: bool = False
    #: The server's time of the round.
    ts: int


def update_of(item: Item, before: Item | None, after: Item, n: int | None, ts: int, *, whole: bool) -> Update:
    """The update that brought a symbol's item from `before` to `after`; `item` is as it came in its message."""
    held = before if whole and before is not None else {}
    change = {
        name: value
        for name, value in item.items()
        if name not in SINCE_PREV and name not in AS_OF and (name not in held or held[name] != value)
    }
    return Update(
        symbol=item["symbol"],
        quote=msgspec.convert(after, Quote),
        change=change,
        n=n,
        hi=item.get("hi"),
        lo=item.get("lo"),
        vol=item.get("vol"),
        whole=whole,
        ts=ts,
    )


def conflate(older: Update, newer: Update) -> Update:
    """Two updates of one symbol, one right after the other, as one: no tick, trade price or volume is lost."""
    return Update(
        symbol=newer.symbol,
        quote=newer.quote,
        change={**older.change, **newer.change},
        n=None if older.n is None or newer.n is None else older.n + newer.n,
        hi=max((hi for hi in (older.hi, newer.hi) if hi is not None), default=None),
        lo=min((lo for lo in (older.lo, newer.lo) if lo is not None), default=None),
        vol=_sum(older.vol, newer.vol),
        whole=older.whole or newer.whole,
        ts=newer.ts,
    )


def _sum(a: float | None, b: float | None) -> float | None:
    """The sum of two decimal numbers without float dust: 0.1 and 0.2 give 0.3."""
    if a is None or b is None:
        return b if a is None else a
    return float(Decimal(repr(a)) + Decimal(repr(b)))
