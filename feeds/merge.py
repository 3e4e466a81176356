"""Several recordings as one: their ticks merged by time, a block at a time. Pure.

A row's place is told by (time, number of its recording, place in its recording). Each recording is a sorted run: its
times never fall, which `feeds.ordering` sees to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from feeds.ticks import Ints, Ticks

_NEVER: Final = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """Ticks and the time at which each takes its place, int64[n] microseconds, never falling. `NO_TIME` before any time."""

    ticks: Ticks
    time: Ints

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, index: slice | Ints) -> Timed:
        return Timed(self.ticks[index], self.time[index])


@dataclass(frozen=True, slots=True)
class Run:
    """One recording: a time that none of its rows precedes, and how to read it. It is opened only when that comes."""

    first: int
    read: Callable[[], Iterator[Timed]]


class _Open:
    """A run that is being read, and the rows of it at hand."""

    def __init__(self, run: Run) -> None:
        self._blocks = run.read()
        self.rows: Timed | None = next(self._blocks, None)

    def refill(self) -> bool:
        """Have rows at hand; False where the run has ended."""
        if self.rows is not None and not len(self.rows):
            self.rows = next(self._blocks, None)
        return self.rows is not None

    def last(self) -> int:
        return int(self.rows.time[-1]) if self.rows is not None else _NEVER

    def take(self, count: int) -> Timed:
        assert self.rows is not None
        taken, self.rows = self.rows[:count], self.rows[count:]
        return taken


def merge(runs: Sequence[Run]) -> Iterator[Timed]:
    """All rows of all runs, in order. Holds one block of each run whose time has come and that has not ended."""
    waiting = sorted(range(len(runs)), key=lambda number: runs[number].first, reverse=True)
    reading: dict[int, _Open] = {}
    while waiting or reading:
        reading = {number: run for number, run in reading.items() if run.refill()}
        horizon = min((run.last() for run in reading.values()), default=_NEVER)
        while waiting and (not reading or runs[waiting[-1]].first <= horizon):
            number = waiting.pop()
            opened = _Open(runs[number])
            if opened.rows is not None:
                reading[number] = opened
                horizon = min(opened.last(), horizon)
        parts = _up_to(horizon, [reading[number] for number in sorted(reading)])
        if parts:
            yield _sorted(parts)


def _up_to(horizon: int, reading: Sequence[_Open]) -> list[Timed]:
    """The rows of each run that no row still to come can precede: those before `horizon`, the least last time at hand.

    Of the rows at `horizon` only those that come before, or in, the first run which may have more of them.
    """
    parts = []
    side: Literal["left", "right"] = "right"
    for run in reading:
        assert run.rows is not None
        count = int(np.searchsorted(run.rows.time, horizon, side=side))
        if run.last() == horizon:
            side = "left"
        if count:
            parts.append(run.take(count))
    return parts


def _sorted(parts: Sequence[Timed]) -> Timed:
    if len(parts) == 1:
        return parts[0]
    time = np.concatenate([part.time for part in parts])
    order = np.argsort(time, kind="stable")
    return Timed(Ticks.concat([part.ticks for part in parts])[order], time[order])
