"""Paces and rounds: what changed since the last flush, once for all who share an interval. Pure.

A `Pace` knows each watched row as of its last round, and which rows have changed since. A `Round` is what it hands to
each of its lanes.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ticker.quotes import FIELDS, Bools, Changes, Floats, Ints, QuoteTable


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
    """One interval: what each watched row was at the last round, and what has happened to it since."""

    def __init__(self, table: QuoteTable, interval_ms: int, now: int) -> None:
        self.table = table
        self.interval_us = interval_ms * 1000
        #: When the next round falls: on a multiple of the interval; for interval 0 it is always due.
        self.due = 0
        self.schedule(now)
        self.number = 0
        #: Who is sent its rounds.
        self.lanes: dict[Hashable, SenderT] = {}
        self._changed: list[Ints] = []
        self._capacity = 0
        self._grow()

    def schedule(self, now: int) -> None:
        """Let the next round fall on the first multiple of the interval after `now`."""
        self.due = now - now % self.interval_us + self.interval_us if self.interval_us else 0

    def _grow(self) -> None:
        size, old = self.table.capacity, self._capacity
        if size == old:
            return
        # Memory that is zero and never written costs nothing: only what is watched is copied.
        watched = np.flatnonzero(self.watchers) if old else np.zeros(0, np.int64)

        def grown(name: str, *shape: int, dtype: Any = np.int64) -> Any:
            array = np.zeros((*shape, size), dtype)
            if old:
                array[..., watched] = getattr(self, name)[..., watched]
            return array

        self.watchers: Ints = grown("watchers")
        #: Whether a row has changed since the last round, and the number of the round in which it last did.
        self.dirty: Bools = grown("dirty", dtype=np.bool_)
        self.moved: Ints = grown("moved")
        # As of the last round.
        self._view: Floats = grown("_view", len(FIELDS), dtype=np.float64)
        self._seq: Ints = grown("_seq")
        self._n: Ints = grown("_n")
        #: hi, lo and vol of the trades since; read where `dirty` only.
        self._trades: Floats = grown("_trades", 3, dtype=np.float64)
        self._capacity = size

    def watch(self, rows: Ints) -> None:
        """One more member watches each of `rows`, which are distinct."""
        self._grow()
        self.watchers[rows] += 1
        new = rows[self.watchers[rows] == 1]
        if len(new):  # from nobody to somebody: its last round is now
            self._keep(new, self.table.view(new))

    def unwatch(self, rows: Ints) -> None:
        """One member fewer watches each of `rows`, which are distinct."""
        self.watchers[rows] -= 1

    def _keep(self, rows: Ints, view: Floats) -> None:
        self._view[:, rows] = view
        self._seq[rows] = self.table.seq[rows]
        self._n[rows] = self.table.n[rows]
        self.dirty[rows] = False

    def fold(self, changes: Changes) -> None:
        """Note what a batch did to the watched rows."""
        self._grow()
        watched = self.watchers[changes.rows] > 0
        if not watched.any():
            return
        rows = changes.rows[watched]
        hi, lo, vol = self._trades
        new = rows[~self.dirty[rows]]
        if len(new):
            self.dirty[new] = True
            hi[new] = lo[new] = np.nan
            vol[new] = 0
            self._changed.append(new)
        hi[rows] = np.fmax(hi[rows], changes.hi[watched])
        lo[rows] = np.fmin(lo[rows], changes.lo[watched])
        vol[rows] += changes.vol[watched]

    def round(self, ts: int) -> None:
        """Flush: send every lane what changed since the last round. Costs nothing where nothing did."""
        if not self._changed:
            return
        rows = np.unique(np.concatenate(self._changed))
        self._changed.clear()
        rows = rows[self.dirty[rows] & (self.watchers[rows] > 0)]
        if not len(rows):
            return
        self.number += 1
        self.moved[rows] = self.number
        view, before = self.table.view(rows), self._view[:, rows]
        differs = (view != before) & ~(np.isnan(view) & np.isnan(before))
        prev, n = self._seq[rows], self.table.n[rows] - self._n[rows]
        trades = self._trades[:, rows]
        trades[2] = self.table.sizes_rounded(rows, trades[2])
        self._keep(rows, view)
        for lane in list(self.lanes.values()):
            lane.send(Round(ts, rows, frozenset(rows[prev == 0].tolist()), prev, n, view, differs, trades))
