"""The quote table: one row a symbol, written by `apply(ticks)`, read by `view(rows)`. Pure.

State is one float64 block, a field a contiguous line of it. NaN is "no value". Counts and times in it are whole numbers
below 2**53 and so exact. Volume is kept as a whole number of the symbol's smallest size step: sums carry no float dust
and do not depend on how ticks were batched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feeds.ticks import NO_TIME, QUOTE, TRADE, Symbols, Ticks

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: What a client can ask for, in the order of the wire.
FIELDS: Final = (
    *("bid", "bid_size", "ask", "ask_size", "last", "last_size", "last_ts", "open", "high", "low"),
    *("volume", "vwap", "trades", "change", "change_pct", "session"),
)
#: Fields that are whole numbers on the wire.
WHOLE: Final = frozenset(("last_ts", "trades", "session"))

# Lines of the state block. The first ten stand in the order of FIELDS, so that a view takes them over as they are.
BID, BID_SIZE, ASK, ASK_SIZE, LAST, LAST_SIZE, LAST_TS, OPEN, HIGH, LOW = range(10)
UNITS, NOTIONAL, TRADES, PRICE_UNIT, SIZE_UNIT = range(10, 15)
LINES: Final = 15

DAY_US: Final = 86_400_000_000
DECIMALS_MAX: Final = 15
VWAP_DECIMALS: Final = 2  # more than the symbol's prices have
PERCENT_UNIT: Final = 1e4  # change_pct has four decimals
POWERS: Final = 10.0 ** np.arange(23)  # each exact in float64
EXACT: Final = 2.0**53
ALL: Final = slice(None)


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """What one batch did: each row that had at least one tick, once, ascending.

    rows int64[U]; hi, lo float64[U], the highest and lowest price among the batch's trades of that row, NaN where there
    was none; vol float64[U], the volume of those trades.
    """

    rows: Ints
    hi: Floats
    lo: Floats
    vol: Floats


class QuoteTable:
    """The newest state of every symbol.

    Invariant: applying a batch leaves exactly what applying its ticks one by one, in order, would leave.
    `seq`, `n` and `ts` are int64[capacity] for anyone to read: the log position of the last tick folded in (0: none
    yet), the ticks folded in, and the time of the last one that was not late. `positions` is int64[parts], the
    newest log position read of each part.
    """

    def __init__(self, symbols: Symbols, *, session_start_us: int = 0, capacity: int = 1024) -> None:
        self.symbols = symbols
        self._session_start_us = session_start_us
        self.capacity = 0
        self.seq: Ints = np.zeros(0, np.int64)
        self.n: Ints = np.zeros(0, np.int64)
        self.ts: Ints = np.zeros(0, np.int64)
        self.positions: Ints = np.zeros(0, np.int64)
        self._state: Floats = np.zeros((LINES, 0))
        # Since when the session's fields count, and when the next session starts.
        self._session: Ints = np.zeros(0, np.int64)
        self._session_end: Ints = np.zeros(0, np.int64)
        # The newest venue time of each row's quotes (2 * row + QUOTE) and trades (2 * row + TRADE).
        self._newest: Ints = np.zeros(0, np.int64)
        self._part: Ints = np.zeros(0, np.int64)
        self._parted = 0
        self._slot: Ints = np.zeros(0, np.int64)  # scratch: a row's place among the changed rows of one batch
        self._grow(capacity)

    def apply(self, ticks: Ticks) -> Changes:
        """Fold a batch in. Cost: some tens of nanoseconds a tick; nothing that grows with the number of symbols."""
        if not len(ticks):
            return Changes(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0))
        self._reserve()
        row, ts = ticks.row, ticks.ts
        key = 2 * row + ticks.kind
        order = _grouped(key)
        changed, counts = _runs(key[order] >> 1)

        self._learn_decimals(ticks)
        stale, closed = self._open_sessions(row, ts, ticks.since)
        late = self._find_late(key, order, ticks.ts_event, stale)

        self.n[changed] += counts
        self.seq[row] = ticks.seq  # a repeated index keeps its last value: so do all scatters below
        np.maximum.at(self.positions, self._part[changed], self.seq[changed])

        current = _none_of(stale, late)
        self.ts[row[current]] = ts[current]
        self._fold_quotes(ticks, current)
        return self._fold_trades(ticks, ts, changed, stale, late, closed)

    def view(self, rows: Ints) -> Floats:
        """The fields of `rows` as a client sees them: float64[len(FIELDS), len(rows)], in the order of FIELDS.

        Prices and sizes are as they came in; sums are rounded to the decimals of the symbol's own sizes, differences
        to those of its prices, VWAP to two more, percentages to four. A row without any tick is all NaN.
        """
        state = self._state[:, rows]
        out = np.empty((len(FIELDS), len(rows)))
        out[: LOW + 1] = state[: LOW + 1]
        price_unit, size_unit = state[PRICE_UNIT], state[SIZE_UNIT]
        volume = state[UNITS] / size_unit
        with np.errstate(divide="ignore", invalid="ignore"):
            vwap = _rounded(state[NOTIONAL] / volume, price_unit * POWERS[VWAP_DECIMALS])
            change = _rounded(state[LAST] - state[OPEN], price_unit)
            percent = _rounded(change / np.abs(state[OPEN]) * 100, PERCENT_UNIT)
        vwap[volume == 0] = np.nan
        percent[state[OPEN] == 0] = np.nan
        out[LOW + 1 :] = volume, vwap, state[TRADES], change, percent, self._session[rows]
        out[:, self.seq[rows] == 0] = np.nan
        return out

    def sizes_rounded(self, rows: Ints, sizes: Floats) -> Floats:
        """Sums of sizes of `rows`, float64 and as long, without the dust of adding them up."""
        return _rounded(sizes, self._state[SIZE_UNIT, rows])

    def decimals(self, rows: Ints) -> tuple[Ints, Ints]:
        """How many decimals the prices and the sizes of `rows` have had so far: two int64 arrays."""
        units = self._state[PRICE_UNIT : SIZE_UNIT + 1, rows]
        price, size = np.rint(np.log10(units)).astype(np.int64)
        return price, size

    # -- growth ----------------------------------------------------------------------------------------------------

    def _reserve(self) -> None:
        symbols = self.symbols
        if len(symbols) > self.capacity:
            self._grow(max(len(symbols), 2 * self.capacity))
        if self._parted < len(symbols):
            self._part[self._parted : len(symbols)] = symbols.owner[self._parted :]
            self._parted = len(symbols)
        if len(self.positions) < len(symbols.parts):
            self.positions = _longer(self.positions, len(symbols.parts), 0)

    def _grow(self, capacity: int) -> None:
        old, self.capacity = self.capacity, capacity
        state = np.full((LINES, capacity), np.nan)
        state[UNITS : TRADES + 1] = 0
        state[PRICE_UNIT : SIZE_UNIT + 1] = 1
        state[:, :old] = self._state
        self._state = state
        self.seq, self.n, self.ts = (_longer(a, capacity, 0) for a in (self.seq, self.n, self.ts))
        self._session = _longer(self._session, capacity, NO_TIME)
        self._session_end = _longer(self._session_end, capacity, NO_TIME)
        self._newest = _longer(self._newest, 2 * capacity, NO_TIME)
        self._part = _longer(self._part, capacity, 0)
        self._slot = _longer(self._slot, capacity, 0)

    # -- decimals --------------------------------------------------------------------------------------------------

    def _learn_decimals(self, ticks: Ticks) -> None:
        quote, trade = ticks.kind == QUOTE, ticks.kind == TRADE
        q, t = np.flatnonzero(quote), np.flatnonzero(trade)
        rows = np.concatenate((ticks.row[q], ticks.row[q], ticks.row[t]))
        prices = np.concatenate((ticks.bid[q], ticks.ask[q], ticks.price[t]))
        self._refine(PRICE_UNIT, rows, prices)
        sizes = np.concatenate((ticks.bid_size[q], ticks.ask_size[q], ticks.size[t]))
        self._refine(SIZE_UNIT, rows, sizes)

    def _refine(self, line: int, rows: Ints, values: Floats) -> None:
        """Raise the unit (10 ** decimals) of rows with a value that it cannot express."""
        unit = self._state[line]
        known = unit[rows]
        rough = (np.rint(values * known) / known != values) & (known < POWERS[DECIMALS_MAX])
        if not rough.any():
            return
        rough &= values == values  # NaN is no value
        rows, values = rows[rough], values[rough]
        if not len(rows):
            return
        before = self._state[line, rows]
        needed = np.full(len(rows), POWERS[DECIMALS_MAX])
        for power in POWERS[DECIMALS_MAX - 1 :: -1]:
            needed[np.rint(values * power) / power == values] = power
        np.maximum.at(unit, rows, needed)
        if line == SIZE_UNIT:  # what is summed so far is counted in the finer unit from here on
            rows, first = np.unique(rows, return_index=True)
            self._state[UNITS, rows] *= unit[rows] / before[first]

    # -- sessions and late ticks -----------------------------------------------------------------------------------

    def _open_sessions(self, row: Ints, ts: Ints, since: int) -> tuple[Bools | None, Bools | None]:
        """Start the sessions that the batch reaches.

        Returns which ticks are older than their symbol's session by then, and which belong to a session that the
        batch itself has closed again: bool[n] each, None where there is none.
        """
        if not ((ts >= self._session_end[row]) | (ts < self._session[row])).any():
            return None, None
        order = _grouped(row)
        rows, first = _starts(row[order])
        time = ts[order]
        start = time - (time - self._session_start_us) % DAY_US
        opening = np.maximum(start[first], np.minimum(time[first], since))  # reading may have begun later
        held = self._session[rows]
        start[first] = np.where(held == NO_TIME, opening, np.maximum(held, start[first]))
        session = _running_max(start, first)
        last = np.append(first[1:], len(row)) - 1
        final = session[last]

        new = final > held
        rows, begin = rows[new], final[new]
        self._session[rows] = begin
        self._session_end[rows] = begin - (begin - self._session_start_us) % DAY_US + DAY_US
        self._state[OPEN : LOW + 1, rows] = np.nan
        self._state[UNITS : TRADES + 1, rows] = 0
        stale, closed = np.empty(len(row), np.bool_), np.empty(len(row), np.bool_)
        stale[order] = time < session
        closed[order] = session < np.repeat(final, np.diff(np.append(first, len(row))))
        return stale if stale.any() else None, closed if closed.any() else None

    def _find_late(self, key: Ints, order: Ints, ts_event: Ints, stale: Bools | None) -> Bools | None:
        """Which ticks carry a venue time older than the newest of their symbol and kind: bool[n], None for none."""
        untimed = ts_event == NO_TIME
        if stale is not None:
            untimed |= stale
        if untimed.any():
            order = order[~untimed[order]]
            if not len(order):
                return None
        time = ts_event[order]
        keys, first = _starts(key[order])
        newest = self._newest[keys]
        back = time[1:] < time[:-1]
        back[first[1:] - 1] = False
        last = np.append(first[1:], len(order)) - 1
        if not back.any() and not (time[first] < newest).any():
            self._newest[keys] = time[last]
            return None
        raised = time.copy()
        raised[first] = np.maximum(time[first], newest)
        running = _running_max(raised, first)
        self._newest[keys] = running[last]
        late = np.zeros(len(key), np.bool_)
        late[order] = time < running
        return late

    # -- folding ---------------------------------------------------------------------------------------------------

    def _fold_quotes(self, ticks: Ticks, current: Bools | slice) -> None:
        at = np.arange(len(ticks))[current]
        at = at[ticks.kind[at] == QUOTE]
        row = ticks.row[at]
        self._state[BID, row] = ticks.bid[at]
        self._state[BID_SIZE, row] = ticks.bid_size[at]
        self._state[ASK, row] = ticks.ask[at]
        self._state[ASK_SIZE, row] = ticks.ask_size[at]

    def _fold_trades(
        self, ticks: Ticks, ts: Ints, changed: Ints, stale: Bools | None, late: Bools | None, closed: Bools | None
    ) -> Changes:
        hi, lo, vol = np.full(len(changed), np.nan), np.full(len(changed), np.nan), np.zeros(len(changed))
        changes = Changes(changed, hi, lo, vol)
        trade = ticks.kind == TRADE
        at = np.flatnonzero(trade if stale is None else trade & ~stale)
        if not len(at):
            return changes
        row, price, size = ticks.row[at], ticks.price[at], ticks.size[at]
        unit = self._state[SIZE_UNIT, row]
        units = np.rint(size * unit)
        notional = price * size
        unsized = size != size
        if unsized.any():
            units[unsized] = notional[unsized] = 0

        self._slot[changed] = np.arange(len(changed))
        slot = self._slot[row]
        np.fmax.at(hi, slot, price)
        np.fmin.at(lo, slot, price)
        np.add.at(vol, slot, units / unit)

        state = self._state
        held = ALL if closed is None else ~closed[at]
        np.fmax.at(state[HIGH], row[held], price[held])
        np.fmin.at(state[LOW], row[held], price[held])
        np.add.at(state[UNITS], row[held], units[held])  # one by one, in order
        np.add.at(state[NOTIONAL], row[held], notional[held])
        np.add.at(state[TRADES], row[held], 1)

        fresh = _none_of(None if late is None else late[at])
        state[LAST, row[fresh]] = price[fresh]
        state[LAST_SIZE, row[fresh]] = size[fresh]
        state[LAST_TS, row[fresh]] = ts[at][fresh]

        opening = _none_of(None if late is None else late[at], None if closed is None else closed[at])
        row, price = row[opening], price[opening]
        unopened = np.isnan(state[OPEN, row])
        if unopened.any():
            state[OPEN, row[unopened][::-1]] = price[unopened][::-1]  # backwards: the first trade is written last
        return changes


def _none_of(*masks: Bools | None) -> Bools | slice:
    """An index of where no mask holds; `ALL`, which copies nothing, where there is no mask."""
    some = [mask for mask in masks if mask is not None]
    return ~np.logical_or.reduce(some) if some else ALL


def _grouped(key: Ints) -> Ints:
    """A stable order that sorts `key` (not negative, below 2**32): NumPy's radix sort, 16 bits at a time."""
    order = np.argsort(key.astype(np.uint16), kind="stable")  # the low 16 bits
    if key.max() >> 16:
        order = order[np.argsort((key[order] >> 16).astype(np.uint16), kind="stable")]
    return order


def _starts(ordered: Ints) -> tuple[Ints, Ints]:
    """The distinct values of a grouped array, and where each one's run starts."""
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    return ordered[first], first


def _runs(ordered: Ints) -> tuple[Ints, Ints]:
    """The distinct values of a grouped array, and how many of each there are."""
    values, first = _starts(ordered)
    return values, np.diff(np.append(first, len(ordered)))


def _running_max(values: Ints, first: Ints) -> Ints:
    """The maximum so far within each run; a run starts at each of `first`. int64, as long as `values`."""
    low, high = int(values.min()), int(values.max())
    distinct = None
    if (high - low + 1) * len(first) >= 2**62:  # too far apart to lift each run above the one before: use ranks
        distinct, values = np.unique(values, return_inverse=True)
        low, high = 0, len(distinct) - 1
    lift = np.repeat(np.arange(len(first)) * (high - low + 1), np.diff(np.append(first, len(values))))
    running = np.maximum.accumulate(values - low + lift) - lift + low
    return running if distinct is None else distinct[running]


def _rounded(values: Floats, unit: Floats | float) -> Floats:
    """`values` to the nearest 1 / `unit`; one too large to have such a digit in float64 stays as it is."""
    scaled = values * unit
    return np.where(np.abs(scaled) < EXACT, np.rint(scaled) / unit, values)


def _longer(column: Ints, length: int, fill: int) -> Ints:
    grown = np.full(length, fill, np.int64)
    grown[: len(column)] = column
    return grown
