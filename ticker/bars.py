"""Bars: open, high, low, close and volume of each symbol over 1s, 1m, 5m, 1h and 1d. Pure.

A bar is half-open, ``[start, end)`` in UTC by the trades' own times (`ts_event`, else `ts_recv`): its open is the price
of the earliest trade, its close that of the latest, the first and the last of the log among those of one time. It does
not depend on how the log was cut into batches. Volume and VWAP are added up and rounded as the quote table's are.

A bar closes `delay_us` after its end. A trade that the log brings later than that is late: it revises the bar, and
`rev` counts those. The newest bar of every (interval, symbol) is a column of one block, for whole batches at once; older
ones are in a `_History` each.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from feeds.ticks import TRADE, Ticks
from ticker.columns import Bools, Floats, Ints, grouped, starts
from ticker.journal import NEVER, UNKNOWN, Folded, Gap, Held
from ticker.protocol import BAR_INTERVALS, BARS, bar_items
from ticker.quotes import CUT, QuoteTable

_LENGTH: Final = np.array(list(BAR_INTERVALS.values()))[:, None]
_COUNT: Final = len(BAR_INTERVALS)

# Lines of a bar. VOLUME and FINE are cut as in the quote table; CHANGED is the version with which it last changed.
START, OPEN, HIGH, LOW, CLOSE, VOLUME, FINE, NOTIONAL, TRADES, FIRST_TS, LAST_TS, SEQ, REV, CHANGED = range(14)
LINES: Final = 14
#: What a bar is before its first trade.
NOTHING: Final = np.array([-np.inf, *[np.nan] * 4, 0, 0, 0, 0, np.inf, -np.inf, 0, 0, 0])
#: The version of who holds nothing and is owed the newest alone.
ANEW: Final = -2
#: The end of no bar is as early.
LONG_AGO: Final = -(1 << 62)


class _History:
    """The bars of one symbol and interval before its newest, by their start: the last `kept` of them."""

    __slots__ = ("_block", "_kept", "_size")

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._block = np.empty((min(4, kept), LINES))
        self._size = 0

    @property
    def bars(self) -> Floats:
        """float64[bars, LINES], oldest first, to be written to as well."""
        return self._block[max(0, self._size - self._kept) : self._size]

    @property
    def floor(self) -> float:
        """Bars that begin before it are not kept."""
        return float(self.bars[0, START]) if self._size >= self._kept else -np.inf

    def extend(self, bars: Floats) -> None:
        """Add bars that are newer than all: float64[bars, LINES]."""
        size = self._size + len(bars)
        if size > len(self._block):
            held = self.bars
            size = len(held) + len(bars)
            self._block = np.empty((max(size, min(2 * size, 2 * self._kept)), LINES))
            self._block[: len(held)] = held
            self._size = len(held)
        self._block[self._size : size] = bars
        self._size = size

    def find(self, start: float) -> int | None:
        """Where the bar is that begins at `start`."""
        bars = self.bars
        at = int(np.searchsorted(bars[:, START], start))
        return at if at < len(bars) and bars[at, START] == start else None

    def put(self, bar: Floats) -> None:
        """Replace the bar of the same start, or add one."""
        bars, at = self.bars, self.find(bar[START])
        if at is not None:
            bars[at] = bar
        else:
            self._block = np.insert(bars, int(np.searchsorted(bars[:, START], bar[START])), bar, axis=0)
            self._size = len(self._block)


class Bars(Folded):
    """The last bars of each symbol, `kept` of each interval at most, in all intervals.

    `series` are they by interval's name, each for itself: what a client reads.
    """

    def __init__(self, table: QuoteTable, kept: int, delay_us: int) -> None:
        super().__init__()
        self.series = {name: BarSeries(self, k, name) for k, name in enumerate(BAR_INTERVALS)}
        #: By interval and row: how often something of its bars has changed.
        self._version: Ints = np.zeros((_COUNT, 0), np.int64)
        self.table = table
        self._kept = kept
        self.delay_us = delay_us
        #: The newest bar by interval and row: a bar lies together, as it is read and written whole.
        self._newest: Floats = np.zeros((_COUNT, 0, LINES))
        #: By interval and row: bars that begin before it are not kept, as not all of their trades are known.
        self._floor: Floats = np.zeros((_COUNT, 0))
        #: By interval: the bars before the newest, by row.
        self._past: tuple[dict[int, _History], ...] = tuple({} for _ in BAR_INTERVALS)
        #: By interval: rows of which a bar before the newest is not closed, and the start of the first such bar.
        self._unclosed: tuple[dict[int, float], ...] = tuple({} for _ in BAR_INTERVALS)
        #: By interval: bars that end by then are closed.
        self.closed: Ints = np.full(_COUNT, LONG_AGO)
        self._due = LONG_AGO

    # -- writing -------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> Ints:
        """By interval and row: how often something of its bars has changed; int64[intervals, rows]."""
        self.settle()
        return self._version

    @np.errstate(over="ignore", invalid="ignore")
    def _fold(self, ticks: Ticks, _: Ints, time: Ints, passing: bool) -> None:
        """Fold in the trades that have a price. Where the table is only `passing`, the newest bars alone are kept."""
        at = ((ticks.kind == TRADE) & (ticks.price == ticks.price)).nonzero()[0]
        if not len(at):
            return
        self._reserve()
        rows, count = self._version.shape[1], len(at)
        row, ts, price, size = ticks.row[at], ticks.ts[at], ticks.price[at], ticks.size[at]
        order = grouped(row, rows)
        ordered, by_time = row[order], ts[order]
        if np.count_nonzero((by_time[1:] < by_time[:-1]) & (ordered[1:] == ordered[:-1])):
            order = np.lexsort((ts, row))
            ordered, by_time = row[order], ts[order]

        # Each trade once for every interval: by (interval, row, time) for what the order of time decides, ...
        start = ts - ts % _LENGTH
        line = (np.arange(_COUNT)[:, None] * rows + ordered).ravel()
        begins = start[:, order].ravel()
        opens = np.empty(len(line), np.bool_)
        opens[0] = True
        np.logical_or(line[1:] != line[:-1], begins[1:] != begins[:-1], out=opens[1:])
        first = opens.nonzero()[0]
        last = np.append(first[1:], len(line)) - 1
        line, begins = line[first], begins[first].astype(np.float64)
        # ... and in the log's order for sums.
        group = np.empty((_COUNT, count), np.int64)
        group[:, order] = (np.cumsum(opens) - 1).reshape(_COUNT, count)
        bar = group.ravel()

        block = self._newest.reshape(-1, LINES)
        bars = block[line]
        lines = bars.T
        held = lines[START].copy()
        bars[held != begins] = NOTHING
        lines[START] = begins
        late = (begins < held).nonzero()[0]
        for g in late.tolist():
            self._recall(bars[g], *divmod(int(line[g]), rows))
        created = lines[TRADES] == 0

        head, tail = order[first % count], order[last % count]
        lines[OPEN] = np.where(ts[head] < lines[FIRST_TS], price[head], lines[OPEN])
        lines[CLOSE] = np.where(ts[tail] >= lines[LAST_TS], price[tail], lines[CLOSE])
        np.minimum(lines[FIRST_TS], ts[head], out=lines[FIRST_TS])
        np.maximum(lines[LAST_TS], ts[tail], out=lines[LAST_TS])
        prices = np.tile(price[order], _COUNT)
        np.fmax(lines[HIGH], np.maximum.reduceat(prices, first), out=lines[HIGH])
        np.fmin(lines[LOW], np.minimum.reduceat(prices, first), out=lines[LOW])
        notional = price * size
        notional[np.isnan(notional)] = 0
        size = np.where(np.isnan(size), 0.0, size)
        coarse = np.rint(size * CUT) / CUT
        for which, values in ((VOLUME, coarse), (FINE, size - coarse), (NOTIONAL, notional)):
            np.add.at(lines[which], bar, np.tile(values, _COUNT))
        lines[TRADES] += last + 1 - first
        lines[SEQ][bar] = np.tile(ticks.seq[at], _COUNT)  # a repeated one keeps its last
        end = start + _LENGTH
        behind = (time[at] >= end + self.delay_us) | (end <= self.closed[:, None])
        if np.count_nonzero(behind):
            _revise(lines[REV], bar, behind.ravel(), created)

        version = self._version.reshape(-1)
        version[line[starts(line)]] += 1
        lines[CHANGED] = version[line]
        if len(late):
            if not passing:
                self._store_late(line[late], bars[late])
            live = np.flatnonzero(begins >= held)
            line, bars, held = line[live], bars[live], held[live]
        if len(line):
            if not passing:
                self._store_past(line, bars, held)
            last = np.append(starts(line)[1:], len(line)) - 1
            block[line[last]] = bars[last]

    def _recall(self, bar: Floats, k: int, row: int) -> None:
        """Go on with a bar before the newest, where there is one."""
        history = self._past[k].get(row)
        at = history.find(bar[START]) if history else None
        if history and at is not None:
            bar[:] = history.bars[at]

    def _store_late(self, line: Ints, bars: Floats) -> None:
        """Put bars before the newest where they belong."""
        for bar, at in zip(bars, line.tolist(), strict=True):
            k, row = divmod(at, self._version.shape[1])
            if bar[START] >= self._floor[k, row]:
                self._history(k, row).put(bar)
                self._note_unclosed(k, row, bar[START])

    def _store_past(self, line: Ints, bars: Floats, held: Floats) -> None:
        """Keep bars, by line and start, that are followed by another one; `held` is when the newest of now begin."""
        block = self._newest.reshape(-1, LINES)
        first = starts(line)
        last = np.append(first[1:], len(line)) - 1
        rolled = (held[first] < bars[first, START]) & (held[first] > -np.inf)
        for i in (rolled | (last > first)).nonzero()[0].tolist():
            at, (k, row) = int(first[i]), divmod(int(line[first[i]]), self._version.shape[1])
            past = bars[at : int(last[i])]
            if rolled[i]:
                past = np.concatenate((block[line[at]][None], past))
            history = self._history(k, row)
            history.extend(past)
            self._floor[k, row] = max(self._floor[k, row], history.floor)
            self._note_unclosed(k, row, past[0, START])

    def _history(self, k: int, row: int) -> _History:
        history = self._past[k].get(row)
        if history is None:
            history = self._past[k][row] = _History(self._kept)
        return history

    def _note_unclosed(self, k: int, row: int, start: float) -> None:
        unclosed = self._unclosed[k]
        unclosed[row] = min(start, unclosed.get(row, start))

    def close(self, now: int) -> None:
        """Close what ended `delay_us` ago or longer."""
        if now < self._due:
            return
        self.settle()
        self._reserve()
        self._due = NEVER
        for k, length in enumerate(BAR_INTERVALS.values()):
            was, by = int(self.closed[k]), (now - self.delay_us) // length * length
            self._due = min(self._due, max(was, by) + length + self.delay_us)
            if by <= was:
                continue
            self.closed[k] = by
            end = self._newest[k, :, START] + length
            rows = ((end > was) & (end <= by)).nonzero()[0]
            self._version[k, rows] += 1
            self._newest[k, rows, CHANGED] = self._version[k, rows]
            again = {}
            for row in self._unclosed[k]:
                bars = self._past[k][row].bars
                self._version[k, row] += 1
                ends = bars[:, START] + length
                bars[(ends > was) & (ends <= by), CHANGED] = self._version[k, row]
                left = bars[ends > by, START]
                if len(left):
                    again[row] = float(left[0])
            self._unclosed[k].clear()
            self._unclosed[k].update(again)
            self.moves += 1

    def forget(self, rows: Ints) -> None:
        """The log of `rows` is another one: hold no bar of them."""
        self.settle()
        self._reserve()
        self._newest[:, rows] = NOTHING
        self._floor[:, rows] = -np.inf
        self._version[:, rows] += 1
        for past, unclosed in zip(self._past, self._unclosed, strict=True):
            for row in past.keys() & set(rows.tolist()):
                del past[row]
                unclosed.pop(row, None)
        self.moves += 1

    def held(self, k: int, row: int) -> Floats:
        """The bars of an interval and row, oldest first, a copy: float64[bars, LINES]."""
        self.settle()
        if row >= self._version.shape[1] or self._newest[k, row, START] == -np.inf:
            return np.empty((0, LINES))
        newest, history = self._newest[k, row][None], self._past[k].get(row)
        return np.concatenate((history.bars, newest))[-self._kept :] if history else newest

    def due(self, k: int) -> int:
        """When the next bar of an interval closes, of those that there are; NEVER where all are closed."""
        self.settle()
        length = list(BAR_INTERVALS.values())[k]
        begins = self._newest[k, :, START]
        begins = begins[begins + length > self.closed[k]]
        first = min([*self._unclosed[k].values(), *([begins.min()] if len(begins) else [])], default=np.inf)
        return int(first) + length + self.delay_us if first < np.inf else NEVER

    def begin(self, now: int) -> None:
        """The table is as of `now`: hold the newest bar of each symbol alone, and nothing of what was before it."""
        self.settle()
        for past, unclosed in zip(self._past, self._unclosed, strict=True):
            past.clear()
            unclosed.clear()
        self._floor = self._newest[:, :, START].copy()
        self.closed[:] = self._due = LONG_AGO
        self.close(now)

    def save(self, rows: Ints) -> Floats:
        """The newest bars of `rows`, a copy: float64[LINES * intervals, rows]."""
        self.settle()
        self._reserve()
        return self._newest[:, rows].transpose(0, 2, 1).reshape(-1, len(rows))

    def restore(self, rows: Ints, state: Floats) -> None:
        """Hold of `rows` what was saved, in this order; of others nothing is held."""
        self.settle()
        self._reserve()
        self._newest[:, rows] = state.reshape(_COUNT, LINES, len(rows)).transpose(0, 2, 1)
        self.closed[:] = self._due = LONG_AGO

    def _reserve(self) -> None:
        known, rows = self.table.capacity, self._version.shape[1]
        if known > rows:
            version, newest, floor = self._version, self._newest, self._floor
            self._version = np.zeros((_COUNT, known), np.int64)
            self._newest = np.empty((_COUNT, known, LINES))
            self._floor = np.full((_COUNT, known), -np.inf)
            self._newest[:] = NOTHING
            self._version[:, :rows], self._newest[:, :rows], self._floor[:, :rows] = version, newest, floor


def _revise(rev: Floats, bar: Ints, behind: Bools, created: Bools) -> None:
    """Count the late trades, but for one that is the first of its bar: there was nothing to revise."""
    np.add.at(rev, bar, behind.astype(np.float64))
    opening = np.zeros(len(rev), np.bool_)
    opening[bar[::-1]] = behind[::-1]
    rev -= opening & created


class BarSeries:
    """The bars of one interval, as clients read them."""

    channel: Final = BARS

    def __init__(self, bars: Bars, k: int, name: str) -> None:
        self.name = name
        self._bars = bars
        self._k = k
        self._length = BAR_INTERVALS[name]

    @property
    def moves(self) -> int:
        return self._bars.moves

    @property
    def version(self) -> Ints:
        """By row: how often something of its bars has changed; int64[rows], which may be fewer than the table's."""
        version: Ints = self._bars.version[self._k]
        return version

    def close(self, now: int) -> None:
        """Close what is to be closed by then."""
        self._bars.close(now)

    @property
    def due(self) -> int:
        """When the next bar closes that there is; NEVER where all are closed."""
        return self._bars.due(self._k)

    def held(self, row: int) -> Held:
        """What a client holds that has had all of the bars of `row`."""
        return Held(int(self.version[row]) if row < len(self.version) else 0, 0)

    def held_at(self, row: int, seq: int) -> Held:
        """What a client holds that has had the bars of `row` up to a position of its log.

        It is owed the bar of that position again, the one before it where that may have been open, and all after them.
        """
        return Held(UNKNOWN, seq) if row < len(self.version) else Held(0, 0)

    def held_anew(self, row: int) -> Held:
        """What a client is taken to hold that has just subscribed: it is owed the newest bar of `row`."""
        return Held(ANEW, 0) if row < len(self.version) else Held(0, 0)

    def owed(self, row: int, held: Held) -> int | None:
        """How many bars are owed to a client that holds `held`."""
        return len(self._owed(row, held))

    def news(self, row: int, held: Held) -> tuple[Gap | None, bytes]:
        """The items of the bars of `row` that have changed since `held`, by start; each has a comma behind it."""
        return None, self._items(row, self._owed(row, held))

    def _owed(self, row: int, held: Held) -> Floats:
        bars = self._bars.held(self._k, row)
        if held.version == ANEW:
            return bars[-1:]
        if held.version != UNKNOWN:
            return bars[bars[:, CHANGED] > held.version]
        since = bars[bars[:, SEQ] >= held.seq, START]
        return bars[bars[:, START] + self._length > since.min() - self._bars.delay_us] if len(since) else bars[:0]

    def last(self, row: int, limit: int) -> bytes:
        """The items of the last bars of `row`, at most `limit`, oldest first; each has a comma behind it."""
        return self._items(row, self._bars.held(self._k, row)[-limit:])

    def _items(self, row: int, bars: Floats) -> bytes:
        if not len(bars):
            return b""
        table = self._bars.table
        at = np.full(len(bars), row)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            volume = table.sizes_rounded(at, bars[:, VOLUME] + bars[:, FINE])
            vwap = table.vwaps_rounded(at, bars[:, NOTIONAL] / (bars[:, VOLUME] + bars[:, FINE]))
        ends = bars[:, START] + self._length
        return bar_items(
            table.symbols.names[row],
            bars[:, [SEQ, REV, START, TRADES]].astype(np.int64),
            self._length,
            bars[:, [OPEN, HIGH, LOW, CLOSE]],
            volume,
            vwap,
            ends <= self._bars.closed[self._k],
        )
