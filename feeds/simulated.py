"""A made-up market as a feed: seeded, so that the same seed gives the same ticks at the same times from its start.

Log prices walk at random, each by the market's walk times the symbol's beta and by a walk of its own. The quote is the price
on the symbol's grid of whole ticks with a spread of whole ticks around it; trades are at the bid or the ask.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feeds import options
from feeds.clock import Clock
from feeds.feed import ON_TIME, FeedStats, Lateness
from feeds.pacing import UNPACED, Schedule
from feeds.ticks import BUY, NO_SIDE, QUOTE, SELL, TRADE, Floats, Ints, Symbols, Ticks

SYMBOLS_MAX: Final = 100_000
RATE_MAX: Final = 1_000_000

#: Ticks are made in chunks of about this much time, and of these many ticks at least and at most.
CHUNK_US: Final = 100_000
CHUNK_TICKS_MIN, CHUNK_TICKS_MAX = 64, 10_000

TRADE_SHARE: Final = 0.2
DRIFT_PER_SECOND: Final = 2e-4  # standard deviation of a log price's walk in a second
MARKET_SHARE: Final = 0.5  # of that, what all symbols do together


@dataclass(frozen=True, slots=True)
class Settings:
    """What to make: `rate` is ticks per second of all symbols together; `speed` None gives them unpaced."""

    symbols: int = 500
    rate: float = 5000.0
    seed: int = 1
    start_us: int | None = None
    paced: bool = True


def open_simulated(
    spec: options.Spec, symbols: Symbols, name: str, clock: Clock, lateness: Lateness = ON_TIME
) -> Simulated:
    """The feed of ``sim:?symbols=&rate=&seed=&start=&speed=``, by a clock that is as late. Raises FeedError."""
    if spec.path:
        raise spec.error(f"expected options alone, as in sim:?symbols=500, was {spec.path!r}")
    settings = Settings(
        symbols=spec.option("symbols", 500, options.whole(1, SYMBOLS_MAX), f"a whole number from 1 to {SYMBOLS_MAX}"),
        rate=spec.option("rate", 5000.0, _rate, f"ticks a second, above 0 and up to {RATE_MAX}"),
        seed=spec.option("seed", 1, options.whole(0, 2**63 - 1), "a whole number of 0 or more"),
        start_us=spec.option("start", None, options.time, "a time in ISO 8601 or since 1970"),
        paced=spec.option("speed", True, _paced, "1 or max"),
    )
    spec.done()
    if lateness.delay_us and not settings.paced:
        raise spec.error(UNPACED)
    return Simulated(settings, symbols, name=name, clock=clock, lateness=lateness)


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 < rate <= RATE_MAX:
        raise ValueError
    return rate


def _paced(text: str) -> bool:
    if text not in {"1", "max"}:
        raise ValueError
    return text == "1"


class Simulated:
    """A feed that never ends. Tick k (from 1) is k / rate seconds after the start."""

    closed = True
    trouble = None

    def __init__(
        self, settings: Settings, symbols: Symbols, *, name: str, clock: Clock, lateness: Lateness = ON_TIME
    ) -> None:
        self.name = name
        self.epoch = f"sim-{secrets.token_hex(4)}{lateness.suffix}"
        self.stats = FeedStats()
        self._settings = settings
        self._clock = clock
        self._lateness = lateness
        self._rows = symbols.claim_all(symbol_names(settings.symbols), symbols.part(name))

    @property
    def warm(self) -> bool:
        return self.stats.ticks > 0 or self._lateness.delay_us > 0  # of what is to come, nothing was due at the start

    async def __aiter__(self) -> AsyncGenerator[Ticks]:
        settings = self._settings
        begin = self._lateness.begin(self._clock.now())
        market = Market(settings, self._rows, begin if settings.start_us is None else settings.start_us)
        schedule = Schedule(
            self._clock, 1.0 if settings.paced else None, begin if settings.start_us is None else None, begin=begin
        )
        while True:
            chunk = market.chunk()
            first = 0
            while first < len(chunk):
                end = await schedule.due(chunk.ts_recv, first)
                ticks = chunk[first:end]
                ticks = ticks[ticks.row >= 0]  # another feed may own a symbol of this name
                self.stats.ticks += len(ticks)
                self.stats.refused += end - first - len(ticks)
                first = end
                if len(ticks):
                    yield ticks


def symbol_names(count: int) -> list[str]:
    """``SIM001`` and on, with as many digits as the last one needs, three at least."""
    digits = max(3, len(str(count)))
    return [f"SIM{number:0{digits}d}" for number in range(1, count + 1)]


class Market:
    """The state of all symbols, and the next ticks of it. Pure: `settings`, and the start, say all that will come."""

    def __init__(self, settings: Settings, rows: Ints, start_us: int) -> None:
        n = len(rows)
        self._rows = rows
        self._start = start_us
        self._rate = settings.rate
        self._made = 0
        self._chunk = int(np.clip(settings.rate * CHUNK_US / 1e6, CHUNK_TICKS_MIN, CHUNK_TICKS_MAX))
        self._random = random = np.random.default_rng(settings.seed)
        busy = random.pareto(1.2, n) + 0.2  # few symbols make much of the traffic
        self._busy = np.cumsum(busy / busy.sum())
        level = np.exp(random.normal(4.0, 1.2, n))  # half of the prices lie between 24 and 123
        self._level = np.log(level)
        self._beta = random.uniform(0.3, 1.7, n)
        own = DRIFT_PER_SECOND * np.sqrt(1 - MARKET_SHARE)
        self._step = own / np.sqrt(settings.rate * busy / busy.sum())  # of the symbol's own walk, at each of its ticks
        self._market_step = DRIFT_PER_SECOND * np.sqrt(MARKET_SHARE / settings.rate)
        self._unit = 10.0 ** np.where(level < 10, 4, 2)  # a price tick is 1 / unit, a power of ten
        self._spread = np.maximum(1, np.rint(level * self._unit * random.uniform(1e-5, 2e-4, n)))
        self._size_unit = np.where(level > 300, 1000.0, 1.0)  # what is dear trades in fractions
        self._market = 0.0
        self._own = np.zeros(n)
        #: The newest quote of each symbol in whole price ticks; 0 where there is none yet.
        self._bid = np.zeros(n)
        self._ask = np.zeros(n)

    def chunk(self) -> Ticks:
        """The next ticks: as many in each chunk, some tens to thousands."""
        n, random = self._chunk, self._random
        place = np.minimum(np.searchsorted(self._busy, random.random(n)), len(self._rows) - 1)
        order = np.argsort(place, kind="stable")
        first, symbol = _groups(place[order])
        middle = self._walk(place, order, first)
        trade = random.random(n) < TRADE_SHARE
        trade[order[first[self._bid[symbol] == 0]]] = False  # there is no trade before the first quote
        bid, ask = self._quotes(place, order, first, trade, middle)
        return self._ticks(place, trade, bid, ask)

    def _walk(self, place: Ints, order: Ints, first: Ints) -> Floats:
        """The price, not on any grid, that each tick's symbol has walked to. float64[n]."""
        normal = self._random.standard_normal
        market = self._market + np.cumsum(normal(len(place)) * self._market_step)
        steps = (normal(len(place)) * self._step[place])[order]
        walked = np.cumsum(steps)
        walked -= np.repeat((walked - steps)[first], np.diff(np.append(first, len(place))))
        own = np.empty(len(place))
        own[order] = walked
        own += self._own[place]
        self._market = float(market[-1])
        self._own[place] = own  # a repeated index keeps its last value
        prices: Floats = np.exp(self._level[place] + self._beta[place] * market + own)
        return prices

    def _quotes(
        self, place: Ints, order: Ints, first: Ints, trade: NDArray[np.bool_], middle: Floats
    ) -> tuple[Floats, Floats]:
        """Bid and ask in whole price ticks that hold after each tick: its own for a quote, the newest for a trade."""
        spread = np.maximum(1, self._spread[place] + self._random.integers(-1, 2, len(place)))
        bid = np.maximum(1, np.floor(middle * self._unit[place] - spread / 2))
        ask = bid + spread
        newest = np.maximum.accumulate(np.where(trade[order], -1, np.arange(len(place))))  # quote so far, in order
        held = newest < np.repeat(first, np.diff(np.append(first, len(place))))  # from before this chunk
        at = order[np.maximum(newest, 0)]
        for quoted, state in ((bid, self._bid), (ask, self._ask)):
            quoted[order] = np.where(held, state[place[order]], quoted[at])
            state[place] = quoted
        return bid, ask

    def _ticks(self, place: Ints, trade: NDArray[np.bool_], bid: Floats, ask: Floats) -> Ticks:
        n, random = len(place), self._random
        number = np.arange(self._made, self._made + n)
        self._made += n
        time = self._start + np.floor(number * 1e6 / self._rate).astype(np.int64)
        unit, size_unit = self._unit[place], self._size_unit[place]
        whole = np.where(size_unit == 1, 100.0, 1.0)  # round lots
        lots = [np.ceil(random.exponential(mean, n)) for mean in (8.0, 8.0, 2.0)]
        bid_size, ask_size, size = (lot * whole / size_unit for lot in lots)
        bought = random.random(n) < 0.5
        price = np.where(bought, ask, bid) / unit
        return Ticks(
            row=self._rows[place],
            seq=number + 1,
            kind=np.where(trade, TRADE, QUOTE).astype(np.uint8),
            ts_event=time,
            ts_recv=time.copy(),
            bid=np.where(trade, np.nan, bid / unit),
            bid_size=np.where(trade, np.nan, bid_size),
            ask=np.where(trade, np.nan, ask / unit),
            ask_size=np.where(trade, np.nan, ask_size),
            price=np.where(trade, price, np.nan),
            size=np.where(trade, size, np.nan),
            side=np.where(trade, np.where(bought, BUY, SELL), NO_SIDE).astype(np.uint8),
            since=self._start,
        )


def _groups(ordered: Ints) -> tuple[Ints, Ints]:
    """Where each run of equal values starts, and its value."""
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    return first, ordered[first]
