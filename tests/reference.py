"""What the quote table must hold, the obvious way: one tick at a time, one symbol at a time, in exact arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from feeds.ticks import COLUMNS, NO_TIME, QUOTE, TRADE, Ticks

DAY_US = 86_400_000_000
DECIMALS_MAX = 15

Number = float | None


@dataclass(frozen=True)
class Tick:
    """One quote or trade; None is what it does not carry."""

    row: int
    kind: int
    ts_event: int | None
    ts_recv: int | None = None
    bid: Number = None
    bid_size: Number = None
    ask: Number = None
    ask_size: Number = None
    price: Number = None
    size: Number = None
    seq: int = 0


def quote(row: int, ts: int | None, bid: Number, bid_size: Number, ask: Number, ask_size: Number) -> Tick:
    return Tick(row, QUOTE, ts, None, bid, bid_size, ask, ask_size)


def trade(row: int, ts: int | None, price: Number, size: Number) -> Tick:
    return Tick(row, TRADE, ts, None, price=price, size=size)


def as_batch(ticks: Iterable[Tick], since: int | None = None) -> Ticks:
    ticks = list(ticks)

    def column(name: str, none: float, dtype: type[np.number]) -> Any:
        values = (getattr(tick, name) for tick in ticks)
        return np.array([none if value is None else value for value in values], dtype)

    whole = {name: column(name, NO_TIME, np.int64) for name in ("row", "seq", "ts_event", "ts_recv")}
    floats = {name: column(name, np.nan, np.float64) for name in COLUMNS[5:]}
    return Ticks(kind=column("kind", QUOTE, np.uint8), **whole, **floats, since=NO_TIME if since is None else since)


def exact(value: float) -> Fraction:
    """The number that a float was written as."""
    return Fraction(repr(value))


def decimals(value: float) -> int:
    exponent = Decimal(repr(value)).normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return min(max(-exponent, 0), DECIMALS_MAX)


@dataclass
class Facts:
    """The trades folded into one symbol since they were last taken."""

    hi: Number = None
    lo: Number = None
    vol: Fraction = Fraction(0)


@dataclass
class Symbol:
    seq: int = 0
    n: int = 0
    ts: int = 0
    price_decimals: int = 0
    size_decimals: int = 0
    quote: tuple[Number, Number, Number, Number] = (None,) * 4
    last: tuple[Number, Number, int | None] = (None,) * 3
    session: int | None = None
    next_session: int = 0
    open: Number = None
    high: Number = None
    low: Number = None
    volume: Fraction = Fraction(0)
    #: Sum of price * size, and of its magnitude.
    notional: Fraction = Fraction(0)
    gross: Fraction = Fraction(0)
    trades: int = 0
    newest: dict[int, int] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)


class Reference:
    """The quote table by the rules of the protocol's section on ticks, one after another."""

    def __init__(self, session_start_us: int = 0, since: int | None = None) -> None:
        self.symbols: dict[int, Symbol] = {}
        self._session_start_us = session_start_us
        self._since = since

    def apply(self, tick: Tick) -> None:
        symbol = self.symbols.setdefault(tick.row, Symbol())
        symbol.seq = tick.seq
        symbol.n += 1
        for price in (tick.bid, tick.ask, tick.price):
            if price is not None:
                symbol.price_decimals = max(symbol.price_decimals, decimals(price))
        for size in (tick.bid_size, tick.ask_size, tick.size):
            if size is not None:
                symbol.size_decimals = max(symbol.size_decimals, decimals(size))

        time = tick.ts_recv if tick.ts_event is None else tick.ts_event
        assert time is not None
        if symbol.session is None or time >= symbol.next_session:
            self._open(symbol, time)
        assert symbol.session is not None
        if time < symbol.session:
            return  # counts in n alone
        late = tick.ts_event is not None and tick.ts_event < symbol.newest.get(tick.kind, tick.ts_event)
        if tick.ts_event is not None and not late:
            symbol.newest[tick.kind] = tick.ts_event
        if not late:
            symbol.ts = time
        if tick.kind == TRADE:
            self._trade(symbol, tick, time, late=late)
        elif not late:
            symbol.quote = tick.bid, tick.bid_size, tick.ask, tick.ask_size

    def take_facts(self, row: int) -> Facts:
        facts, self.symbols[row].facts = self.symbols[row].facts, Facts()
        return facts

    def _open(self, symbol: Symbol, time: int) -> None:
        day = (time - self._session_start_us) // DAY_US
        start = day * DAY_US + self._session_start_us
        symbol.session = start
        if self._since is not None and self._since > start:  # reading began during the session
            symbol.session = max(start, min(time, self._since))
        symbol.next_session = start + DAY_US
        symbol.open = symbol.high = symbol.low = None
        symbol.volume = symbol.notional = symbol.gross = Fraction(0)
        symbol.trades = 0

    def _trade(self, symbol: Symbol, tick: Tick, time: int, *, late: bool) -> None:
        symbol.trades += 1
        if not late:
            symbol.last = tick.price, tick.size, time
        price, size, facts = tick.price, tick.size, symbol.facts
        if price is None:
            return
        if symbol.open is None:  # where every trade has a price, never a late one
            symbol.open = price
        symbol.high = price if symbol.high is None else max(symbol.high, price)
        symbol.low = price if symbol.low is None else min(symbol.low, price)
        facts.hi = price if facts.hi is None else max(facts.hi, price)
        facts.lo = price if facts.lo is None else min(facts.lo, price)
        if size is not None:
            symbol.volume += exact(size)
            symbol.notional += exact(price) * exact(size)
            symbol.gross += abs(exact(price) * exact(size))
            facts.vol += exact(size)
