"""Paces and rounds: what changed since the last flush, once for all who share an interval. Pure.

A `Pace` knows each watched row as of its last round, and which rows have changed since. A `Round` is what it hands to
each of its lanes.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import numpy as np

from ticker.columns import Bools, Floats, Ints
from ticker.journal import NEVER
from ticker.quotes import FIELDS, Changes, QuoteTable

#: Stands for the slot of a row that nobody watches.
NO_SLOT: Final = -1
SLOTS_MIN: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """One flush of a pace: the rows that changed, ascending, and what they were and are."""

    ts: int
    rows: Ints
    #: Those that have their first value.
    born: frozenset[int]
    prev: Ints
    n: Ints
    view: Floats
    differs: Bools
    trades: Floats


class Sender(Protocol):
    """Sends a round on: a lane."""

    def send(self, round: Round) -> None: ...


SenderT = TypeVar("SenderT", bound=Sender)


class Pace(Generic[SenderT]):
    """One interval: what each watched row was at the last round, and what has happened to it since.

    Only rows that somebody watches have a slot here: memory, and the cost of growing, follow what is watched and not how
    many symbols there are.
    """

    def __init__(self, table: QuoteTable, interval_ms: int, now: int) -> None:
        self.table = table
        self.interval_us = interval_ms * 1000
        #: When the next round falls: on a multiple of the interval; for interval 0 it is always due.
        self.due = 0
        self.schedule(now)
        self.number = 0
        #: The newest tick's time of the rounds since this was last asked for; 0 for none.
        self.newest = 0
        #: Who is sent its rounds.
        self.lanes: dict[Hashable, SenderT] = {}
        #: Slots that have changed since the last round.
        self._changed: list[Ints] = []
        # By row: its slot.
        self._slot: Ints = np.full(table.capacity, NO_SLOT)
        # By slot: its row, how many watch it, whether it has changed since the last round, and in which round it last did.
        self._free: list[int] = []
        self._row: Ints = np.zeros(0, np.int64)
        self._watchers: Ints = np.zeros(0, np.int64)
        self._dirty: Bools = np.zeros(0, np.bool_)
        self._moved: Ints = np.zeros(0, np.int64)
        # As of the last round.
        self._view: Floats = np.zeros((len(FIELDS), 0))
        self._seq: Ints = np.zeros(0, np.int64)
        self._n: Ints = np.zeros(0, np.int64)
        # hi, lo and vol of the trades since; read where dirty only.
        self._trades: Floats = np.zeros((3, 0))

    def schedule(self, now: int) -> None:
        """Let the next round fall on the first multiple of the interval after `now`."""
        self.due = now - now % self.interval_us + self.interval_us if self.interval_us else 0

    #: Nothing that is watched changes by itself.
    closing: Final = NEVER

    @property
    def pending(self) -> bool:
        """Whether something that is watched may have changed since the last round."""
        return bool(self._changed)

    def restart(self, now: int) -> None:
        """The table is another one: whatever is watched is as of now, and nothing of it has changed."""
        watched = self._watchers.nonzero()[0]
        rows = self._row[watched]
        self._keep(watched, rows, self.table.view(rows))
        self._changed.clear()
        self.schedule(now)

    # -- what is watched -----------------------------------------------------------------------------------------------

    def watch(self, rows: Ints, *, unseen: bool = False) -> None:
        """One more member watches each of `rows`, which are distinct; those that nobody did are as of now.

        With `unseen` they are as before their first tick, even if the table has it: the next round tells all of it.
        """
        self._reach()
        new = rows[self._slot[rows] == NO_SLOT]
        if len(new):  # from nobody to somebody: its last round is now
            slots = self._take_slots(len(new))
            self._slot[new] = slots
            self._row[slots] = new
            self._keep(slots, new, self.table.view(new))
            if unseen:
                self._view[:, slots] = np.nan
                self._seq[slots] = self._n[slots] = 0
        self._watchers[self._slot[rows]] += 1

    def unwatch(self, rows: Ints) -> None:
        """One member fewer watches each of `rows`, which are distinct."""
        slots = self._slot[rows]
        self._watchers[slots] -= 1
        gone = slots[self._watchers[slots] == 0]
        self._dirty[gone] = False
        self._slot[self._row[gone]] = NO_SLOT
        self._free += gone.tolist()

    def watchers(self) -> tuple[Ints, Ints]:
        """The rows that are watched, and how many watch each: int64, as long as each other."""
        watched = self._watchers.nonzero()[0]
        return self._row[watched], self._watchers[watched]

    def dirty(self, rows: Ints) -> Bools:
        """Which of `rows`, all watched, have changed since the last round: bool, as long."""
        return self._dirty[self._slot[rows]]

    def moved(self, rows: Ints) -> Ints:
        """The number of the round in which each of `rows`, all watched, last changed: int64, as long."""
        return self._moved[self._slot[rows]]

    def _reach(self) -> None:
        """Make room for the slots of all rows that the table has by now."""
        more = self.table.capacity - len(self._slot)
        if more:
            self._slot = np.append(self._slot, np.full(more, NO_SLOT))

    def _take_slots(self, count: int) -> Ints:
        """`count` slots that nobody has, with nothing of who had them before but the rows' last values."""
        size, short = len(self._row), count - len(self._free)
        if short > 0:
            more = max(short, size, SLOTS_MIN)
            for name in ("_row", "_watchers", "_dirty", "_moved", "_view", "_seq", "_n", "_trades"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate((old, np.zeros((*old.shape[:-1], more), old.dtype)), axis=-1))
            self._free += range(size + more - 1, size - 1, -1)
        taken = np.array(self._free[-count:], np.int64)
        del self._free[-count:]
        self._moved[taken] = 0
        return taken

    def _keep(self, slots: Ints, rows: Ints, view: Floats) -> None:
        self._view[:, slots] = view
        self._seq[slots] = self.table.seq[rows]
        self._n[slots] = self.table.n[rows]
        self._dirty[slots] = False

    # -- rounds --------------------------------------------------------------------------------------------------------

    def fold(self, changes: Changes) -> None:
        """Note what a batch did to the watched rows."""
        known = changes.rows.searchsorted(len(self._slot))  # nobody watches a row beyond
        slots = self._slot[changes.rows[:known]]
        watched = (slots != NO_SLOT).nonzero()[0]
        if not len(watched):
            return
        slots = slots[watched]
        if changes.fell and not self.table.n[changes.rows].any():  # forgotten: to be sent with their next value, as new
            rows = changes.rows[watched]
            self._keep(slots, rows, self.table.view(rows))
            return
        hi, lo, vol = self._trades
        new = slots[~self._dirty[slots]]
        if len(new):
            self._dirty[new] = True
            hi[new] = lo[new] = np.nan
            vol[new] = 0
            self._changed.append(new)
        hi[slots] = np.fmax(hi[slots], changes.hi[watched])
        lo[slots] = np.fmin(lo[slots], changes.lo[watched])
        vol[slots] += changes.vol[watched]

    def round(self, ts: int) -> None:
        """Flush: send every lane what changed since the last round. Costs nothing where nothing did."""
        if not self._changed:
            return
        slots = np.concatenate(self._changed) if len(self._changed) > 1 else self._changed[0]
        self._changed.clear()
        slots = slots[self._dirty[slots]]  # others are watched no more, or anew
        if not len(slots):
            return
        slots = slots[np.argsort(self._row[slots])]
        twice = slots[1:] == slots[:-1]  # watched no more for a while, and anew
        if np.count_nonzero(twice):
            slots = slots[np.append(True, ~twice)]
        rows = self._row[slots]
        self.number += 1
        self._moved[slots] = self.number
        view, before = self.table.view(rows), self._view[:, slots]
        differs = (view != before) & ~(np.isnan(view) & np.isnan(before))
        prev, held = self._seq[slots], self._n[slots]
        n = self.table.n[rows] - held
        trades = self._trades[:, slots]
        trades[2] = self.table.sizes_rounded(rows, trades[2])
        self._keep(slots, rows, view)
        self.newest = max(self.newest, int(self.table.ts[rows].max()))
        for lane in list(self.lanes.values()):
            lane.send(Round(ts, rows, frozenset(rows[held == 0].tolist()), prev, n, view, differs, trades))
