"""The quote table: one row a symbol, written by `apply(ticks)`, read by `view(rows)`. Pure.

State is one float64 block, a field a contiguous line of it. NaN is "no value". Counts and times in it are whole numbers
below 2**53 and so exact. Prices and sizes are kept as they came in. Every sum is added up tick by tick in the log's
order, and rounded when it is viewed, to the decimals that the symbol's own inputs have had: so it carries no float dust
and does not depend on how the log was cut into batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import numpy as np

from feeds.ticks import NO_TIME, TRADE, Symbols, Ticks
from ticker.columns import Bools, Floats, Ints, grouped, longer, running_max, starts

#: What a client can ask for, in the order of the wire.
FIELDS: Final = (
    *("bid", "bid_size", "ask", "ask_size", "last", "last_size", "last_ts", "open", "high", "low"),
    *("volume", "vwap", "trades", "change", "change_pct", "session"),
)
#: Fields that are whole numbers on the wire.
WHOLE: Final = frozenset(("last_ts", "trades", "session"))

# Lines of the state block. The first are FIELDS; those of VWAP, change and its percentage are worked out by a view.
BID, BID_SIZE, ASK, ASK_SIZE, LAST, LAST_SIZE, LAST_TS, OPEN, HIGH, LOW = range(10)
VOLUME, VWAP, TRADES, CHANGE, CHANGE_PCT, SESSION = range(10, len(FIELDS))
# VOLUME is the sum of all sizes cut to multiples of 2**-20, exact below 2**33, and VOLUME_FINE that of what was cut off.
VOLUME_FINE, NOTIONAL, PRICE_UNIT, SIZE_UNIT = range(len(FIELDS), len(FIELDS) + 4)
LINES: Final = len(FIELDS) + 4
CUT: Final = 2.0**20

DAY_US: Final = 86_400_000_000
DECIMALS_MAX: Final = 15
POWERS: Final = 10.0 ** np.arange(DECIMALS_MAX + 1)  # each exact in float64
VWAP_UNIT: Final = 1e2  # VWAP has two decimals more than the symbol's prices
PERCENT_UNIT: Final = 1e4  # change_pct has four decimals
#: A number of fewer steps than this is off by less than half a step, after the few roundings that it went through.
STEPS_MAX: Final = 2.0**51
ALL: Final = slice(None)


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """What one batch did: each row that had at least one tick, once, ascending.

    rows int64[U]; hi, lo float64[U], the highest and lowest price among the batch's trades of that row, NaN where there
    was none; vol float64[U], the volume of those trades, to be rounded by `QuoteTable.sizes_rounded` once it is all
    added up. Trades older than their session are not among them. fell maps the rows whose `seq` went back, since
    another part of the log brings them now, to what it was.
    """

    rows: Ints
    hi: Floats
    lo: Floats
    vol: Floats
    fell: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What a table holds of some rows.

    `counts` is int64[5, rows], `newest` int64[2 * rows], `values` float64[LINES, rows], and `followed`, what its
    followers hold of them, float64[lines, rows] each.
    """

    counts: Ints
    newest: Ints
    values: Floats
    followed: tuple[Floats, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(held.nbytes for held in (self.counts, self.newest, self.values, *self.followed))


class Follower(Protocol):
    """Takes in what a table takes in, after it."""

    def add(self, ticks: Ticks, part: Ints, time: Ints, *, traded: bool, passing: bool) -> None:
        """A batch, not empty: `part` is the number of the part of the log that brought each tick, `time` when.

        `traded` says that there is a trade in it; `passing`, that nothing will be asked before the table is as of
        another time.
        """

    def forget(self, rows: Ints) -> None:
        """The log of `rows` was made anew."""

    def save(self, rows: Ints) -> Floats:
        """What is to be kept of `rows`, a copy: float64[lines, rows]."""

    def restore(self, rows: Ints, state: Floats) -> None:
        """Hold of `rows`, of which nothing is held, what was saved."""


class QuoteTable:
    """The newest state of every symbol.

    Invariant: applying a batch leaves exactly what applying its ticks one by one, in order, would leave.
    `seq`, `n` and `ts` are int64[capacity] for anyone to read: the log position of the last tick folded in, the ticks
    folded in (0: the row has no value yet), and the time of the last one that was not late. `positions` is
    int64[parts], the newest log position read of each part.
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
        # Since when the session's fields count, and when the next session starts; NO_TIME before a row's first tick.
        self._session: Ints = np.zeros(0, np.int64)
        self._session_end: Ints = np.zeros(0, np.int64)
        # The newest venue time of each row's quotes (2 * row + QUOTE) and trades (2 * row + TRADE).
        self._newest: Ints = np.zeros(0, np.int64)
        self._part: Ints = np.zeros(0, np.int64)
        self._parted = self._moves = 0
        self._slot: Ints = np.zeros(0, np.int64)  # scratch: a row's place among the changed rows of one batch
        self._followers: list[Follower] = []
        self._grow(capacity)

    def follow(self, follower: Follower) -> None:
        """Let a follower take in whatever is applied from now on."""
        self._followers.append(follower)

    @np.errstate(over="ignore", invalid="ignore")
    def apply(self, ticks: Ticks, time: Ints | None = None, *, passing: bool = False) -> Changes:
        """Fold a batch in. Cost: some tens of nanoseconds a tick; nothing that grows with the number of symbols.

        `time` is when the log brought each tick, int64[n]; by the ticks' own clock of the log where it is None.
        `passing` says that nobody will be told of what is passed through on the way to a later time.

        A late trade counts for everything of its session but is never the last; a late quote, and a tick older than
        its symbol's session, count in `n` alone. A trade that lacks its price or its size is one of `trades`, and the
        last if it is not late, but adds nothing to volume and VWAP.
        """
        if not len(ticks):
            return Changes(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0))
        self._reserve()
        row, ts = ticks.row, ticks.ts
        key = 2 * row + ticks.kind
        order = grouped(key, 2 * self.capacity)
        key = key[order]
        changed = key[starts(key)] >> 1
        changed = changed[starts(changed)]

        np.add.at(self.n, row, 1)
        before = self.seq[changed]
        self.seq[row] = ticks.seq  # a repeated index keeps its last value: so do all scatters below
        after = self.seq[changed]
        np.maximum.at(self.positions, self._part[changed], after)
        fell = (after < before).nonzero()[0]

        trade = ticks.kind == TRADE
        self._learn_decimals(ticks, trade)
        stale, closed = self._open_sessions(row, ts, ticks.since)
        late = self._find_late(key, order, ticks.ts_event)
        fresh = _none_of(stale, late)
        self.ts[row[fresh]] = ts[fresh]
        self._fold_quotes(ticks, _where(~trade, stale, late))
        changes = self._fold_trades(ticks, ts, _where(trade, stale), changed, late, closed)
        if self._followers:
            part, time = self._part[row], ticks.ts_log if time is None else time
            traded = bool(np.count_nonzero(trade))
            for follower in self._followers:
                follower.add(ticks, part, time, traded=traded, passing=passing)
        if len(fell):
            return replace(changes, fell=dict(zip(changed[fell].tolist(), before[fell].tolist(), strict=True)))
        return changes

    def forget(self, rows: Ints) -> Changes:
        """Let `rows`, ascending, be as before their first tick: their log was made anew.

        What changed is what fell: all of them that had a value.
        """
        rows = rows[self.n[rows] > 0]
        fell = dict(zip(rows.tolist(), self.seq[rows].tolist(), strict=True))
        for column in (self.seq, self.n, self.ts):
            column[rows] = 0
        self.positions[:] = 0  # what is left of each part; the old log's would be taken for the new one's
        np.maximum.at(self.positions, self._part[: self._parted], self.seq[: self._parted])
        for column in (self._session, self._session_end):
            column[rows] = NO_TIME
        self._newest[2 * rows] = self._newest[2 * rows + 1] = NO_TIME
        self._state[:, rows] = np.nan
        self._state[PRICE_UNIT:, rows] = 1
        for follower in self._followers:
            follower.forget(rows)
        nothing = np.full(len(rows), np.nan)
        return Changes(rows, nothing, nothing, np.zeros(len(rows)), fell)

    def save(self, rows: Ints) -> State:
        """All that is held of `rows`, a copy."""
        newest = self._newest.reshape(-1, 2)[rows].ravel()
        followed = tuple(follower.save(rows) for follower in self._followers)
        return State(np.array([column[rows] for column in self._columns()]), newest, self._state[:, rows], followed)

    def restore(self, rows: Ints, state: State) -> None:
        """Hold of `rows` what was saved, in this order, and nothing of any other row."""
        self._reserve()
        self.forget(np.arange(self.capacity))
        for column, values in zip(self._columns(), state.counts, strict=True):
            column[rows] = values
        self._newest.reshape(-1, 2)[rows] = state.newest.reshape(-1, 2)
        self._state[:, rows] = state.values
        np.maximum.at(self.positions, self._part[rows], self.seq[rows])
        for follower, held in zip(self._followers, state.followed, strict=True):
            follower.restore(rows, held)

    def _columns(self) -> tuple[Ints, ...]:
        return self.seq, self.n, self.ts, self._session, self._session_end

    def view(self, rows: Ints) -> Floats:
        """The fields of `rows` as a client sees them: float64[len(FIELDS), len(rows)], in the order of FIELDS.

        Prices and sizes are as they came in. Volume is rounded to the decimals of the symbol's own sizes, change to
        those of its prices, VWAP to two more, the percentage to four; a number that has more than 15 digits then is as
        near as float64 comes. Prices may be negative: VWAP is the mean of prices weighted by size whatever their
        signs, and the percentage is of the open's magnitude, so that it has the sign of the change. What cannot be
        told (a percentage of an open of 0, a VWAP without volume, a sum past float64) is NaN, as is all of a row
        without any tick.
        """
        state = self._state.take(rows, axis=1)
        fine, notional, price_unit, size_unit = state[len(FIELDS) :]
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            volume = state[VOLUME] + fine
            values = np.array((volume, notional / volume, state[LAST] - state[OPEN]))
            units = np.array((size_unit, price_unit * VWAP_UNIT, price_unit))
            state[VOLUME], state[VWAP], state[CHANGE] = _rounded(values, units)
            state[CHANGE_PCT] = _rounded(state[CHANGE] / np.abs(state[OPEN]) * 100, PERCENT_UNIT)
        out = state[: len(FIELDS)]
        infinite = np.isinf(out)
        if np.count_nonzero(infinite):
            out[infinite] = np.nan
        return out

    @np.errstate(over="ignore")
    def sizes_rounded(self, rows: Ints, sizes: Floats) -> Floats:
        """Sums of sizes of `rows`, float64 and as long, without the dust of adding them up."""
        return _rounded(sizes, self._state[SIZE_UNIT].take(rows))

    @np.errstate(over="ignore")
    def vwaps_rounded(self, rows: Ints, prices: Floats) -> Floats:
        """Mean prices of `rows`, float64 and as long, with two decimals more than the symbol's prices."""
        return _rounded(prices, self._state[PRICE_UNIT].take(rows) * VWAP_UNIT)

    def decimals(self, rows: Ints) -> tuple[Ints, Ints]:
        """How many decimals the prices and the sizes of `rows` have had so far, at most 15: two int64 arrays."""
        price, size = np.searchsorted(POWERS, self._state[PRICE_UNIT:].take(rows, axis=1))
        return price, size

    # -- growth ----------------------------------------------------------------------------------------------------

    def _reserve(self) -> None:
        """Make room for all symbols of now. Feeds add more of them meanwhile, in threads of their own."""
        symbols, known = self.symbols, len(self.symbols)
        if known > self._parted:
            if known > self.capacity:
                self._grow(max(known, 2 * self.capacity))
            self._part[self._parted : known] = symbols.owner[self._parted : known]
            self._parted = known
        if symbols.moves > self._moves:
            self._moves = symbols.moves
            self._part[:known] = symbols.owner[:known]
        if len(self.positions) < len(symbols.parts):
            self.positions = longer(self.positions, len(symbols.parts), 0)

    def _grow(self, capacity: int) -> None:
        old, self.capacity = self.capacity, capacity
        state = np.empty((LINES, capacity))
        state[:, :old] = self._state
        state[:, old:] = np.nan
        state[PRICE_UNIT:, old:] = 1
        self._state = state
        self.seq, self.n, self.ts = (longer(a, capacity, 0) for a in (self.seq, self.n, self.ts))
        self._session = longer(self._session, capacity, NO_TIME)
        self._session_end = longer(self._session_end, capacity, NO_TIME)
        self._newest = longer(self._newest, 2 * capacity, NO_TIME)
        self._part = longer(self._part, capacity, 0)
        self._slot = longer(self._slot, capacity, 0)

    # -- decimals --------------------------------------------------------------------------------------------------

    def _learn_decimals(self, ticks: Ticks, trade: Bools) -> None:
        """Raise the units (10 ** decimals) of rows that were brought a price or a size that they cannot express."""
        units = self._state[PRICE_UNIT:].take(ticks.row, axis=1)
        values = np.empty((2, *units.shape))  # two of each, as a quote has; a trade's second is NaN
        values[0, 0] = np.where(trade, ticks.price, ticks.bid)
        values[0, 1] = np.where(trade, ticks.size, ticks.bid_size)
        values[1, 0] = ticks.ask
        values[1, 1] = ticks.ask_size
        nearest = values * units
        np.rint(nearest, out=nearest)
        nearest /= units
        rough = (nearest < values) | (nearest > values)  # not so where both are NaN
        if np.count_nonzero(rough):  # the cheapest `any`, here and below
            side, which, at = (rough & (units < POWERS[-1])).nonzero()
            np.maximum.at(self._state, (PRICE_UNIT + which, ticks.row[at]), _units(values[side, which, at]))

    # -- sessions and late ticks -----------------------------------------------------------------------------------

    def _open_sessions(self, row: Ints, ts: Ints, since: int) -> tuple[Bools | None, Bools | None]:
        """Start the sessions that the batch reaches.

        Returns which ticks are older than their symbol's session by then, and which belong to a session that the
        batch itself has closed again: bool[n] each, None where there is none.
        """
        if not np.count_nonzero((ts >= self._session_end[row]) | (ts < self._session[row])):
            return None, None
        order = grouped(row, self.capacity)
        rows, time = row[order], ts[order]
        first = starts(rows)
        head = rows[first]
        last = np.append(first[1:], len(rows)) - 1

        end = time - (time - self._session_start_us) % DAY_US + DAY_US
        held = self._session_end[head]
        end[first] = np.maximum(end[first], held)
        end = running_max(end, first)
        opens = end > np.roll(end, 1)
        opens[first] = end[first] > held
        # Reading may have begun after the session's start: its fields count from there.
        session = np.where(opens, np.maximum(end - DAY_US, np.minimum(time, since)), NO_TIME)
        session[first] = np.maximum(session[first], self._session[head])
        opens[first] = True
        session = session[opens][np.cumsum(opens) - 1]  # each tick's own: the last one opened up to it

        new = end[last] > held
        anew = head[new]
        self._session[anew] = self._state[SESSION, anew] = session[last][new]
        self._session_end[anew] = end[last][new]
        self._state[OPEN : LOW + 1, anew] = np.nan
        for line in (VOLUME, VOLUME_FINE, NOTIONAL, TRADES):
            self._state[line, anew] = 0
        stale, closed = np.empty(len(row), np.bool_), np.empty(len(row), np.bool_)
        stale[order] = time < session
        closed[order] = session < self._session[rows]
        return stale if stale.any() else None, closed if closed.any() else None

    def _find_late(self, key: Ints, order: Ints, ts_event: Ints) -> Bools | None:
        """Which ticks carry a venue time older than the newest of their symbol and kind: bool[n], None for none.

        `key` is 2 * row + kind, in `order`. Ticks older than their session need no exception: whatever comes after
        them, and is not so too, is newer.
        """
        time, newest = ts_event[order], self._newest
        back = (time[1:] < time[:-1]) & (key[1:] == key[:-1])
        if not (np.count_nonzero(back) or np.count_nonzero(time < newest[key])):
            newest[key] = time
            return None
        timed = time != NO_TIME
        order, key, time = order[timed], key[timed], time[timed]
        late = np.zeros(len(ts_event), np.bool_)
        if len(order):
            first = starts(key)
            raised = time.copy()
            raised[first] = np.maximum(time[first], newest[key[first]])
            running = running_max(raised, first)
            newest[key] = running
            late[order] = time < running
        return late

    # -- folding ---------------------------------------------------------------------------------------------------

    def _fold_quotes(self, ticks: Ticks, at: Ints) -> None:
        """Let each of the quotes at `at` replace all four of its fields."""
        row, state = ticks.row[at], self._state
        state[BID][row] = ticks.bid[at]
        state[BID_SIZE][row] = ticks.bid_size[at]
        state[ASK][row] = ticks.ask[at]
        state[ASK_SIZE][row] = ticks.ask_size[at]

    def _fold_trades(
        self, ticks: Ticks, ts: Ints, at: Ints, changed: Ints, late: Bools | None, closed: Bools | None
    ) -> Changes:
        """Fold in the trades at `at`, those that are not older than their session."""
        folded = np.empty((3, len(changed)))
        hi, lo, vol = folded
        hi[:] = lo[:] = np.nan
        vol[:] = 0
        changes = Changes(changed, hi, lo, vol)
        if not len(at):
            return changes
        state, row, price, size = self._state, ticks.row[at], ticks.price[at], ticks.size[at]

        fresh = ALL if late is None else ~late[at]
        newest = row[fresh]
        state[LAST][newest] = price[fresh]
        state[LAST_SIZE][newest] = size[fresh]
        state[LAST_TS][newest] = ts[at][fresh]

        notional = price * size
        unsized = np.isnan(notional)
        if np.count_nonzero(unsized):
            size = np.where(unsized, 0.0, size)
            notional[unsized] = 0
        self._slot[changed] = np.arange(len(changed))
        slot = self._slot[row]
        np.fmax.at(hi, slot, price)
        np.fmin.at(lo, slot, price)
        np.add.at(vol, slot, size)

        if closed is not None:  # the trades of sessions that are over leave nothing more behind
            held = ~closed[at]
            row, price, size, notional = row[held], price[held], size[held], notional[held]
        unopened = np.isnan(state[OPEN][row])  # a late trade finds it open: the one that it is late for came first
        if np.count_nonzero(unopened):
            unopened &= ~np.isnan(price)
            # Backwards, so that the first trade is written last.
            state[OPEN][row[unopened][::-1]] = price[unopened][::-1]
        np.fmax.at(state[HIGH], row, price)
        np.fmin.at(state[LOW], row, price)
        coarse = np.rint(size * CUT) / CUT
        np.add.at(state[VOLUME], row, coarse)  # one by one, in order: so is every sum
        np.add.at(state[VOLUME_FINE], row, size - coarse)
        np.add.at(state[NOTIONAL], row, notional)
        np.add.at(state[TRADES], row, 1.0)  # a whole 1 would have each row converted for itself
        return changes


def _none_of(*masks: Bools | None) -> Bools | slice:
    """An index of where no mask holds; `ALL`, which copies nothing, where there is no mask."""
    some = [mask for mask in masks if mask is not None]
    return ~np.logical_or.reduce(some) if some else ALL


def _where(mask: Bools, *others: Bools | None) -> Ints:
    """Where `mask` holds and none of the others does: ascending positions."""
    for other in others:
        if other is not None:
            mask = mask & ~other
    return mask.nonzero()[0]


def _units(values: Floats) -> Floats:
    """10 ** decimals of each value, at most 10 ** DECIMALS_MAX: the least that expresses it."""
    units = np.full(len(values), POWERS[-1])
    left = np.arange(len(values))
    for power in POWERS[:-1]:
        exact = np.rint(values * power) / power == values
        units[left[exact]] = power
        left, values = left[~exact], values[~exact]
        if not len(left):
            break
    return units


def _rounded(values: Floats, unit: Floats | float) -> Floats:
    """`values` to the nearest 1 / `unit`, never -0; one of too many steps for float64 to tell apart stays as it is."""
    steps = values * unit
    return np.where(np.abs(steps) < STEPS_MAX, np.rint(steps) / unit + 0.0, values)
