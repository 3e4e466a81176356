"""The rows of one recording put in the order of their times, a block at a time. Pure.

A recording may be a little out of order: several streams written as they came, a writer with buffers. A row that comes
after later ones takes its place among them as long as it lies within a window of both `WINDOW_US` and `WINDOW_ROWS`;
one that is later still stands at the window's edge, and is counted. Which rows move, and where to, depends on the rows
alone and not on how reading has cut them into blocks, and no more than `WINDOW_ROWS` are ever held back.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from feeds.merge import Timed
from feeds.ticks import NO_TIME, Ints, Ticks

#: How far a row may lie behind the newest time before it, in microseconds, and how many rows it may move back past.
WINDOW_US: Final = 1_000_000
WINDOW_ROWS: Final = 16_384


class Ordering:
    """Sorts rows, stably, by their *place in time*: their own time, but no earlier than the window's edge.

    The edge of row i is the later of (the newest time up to i) - `WINDOW_US` and the newest time up to i - `WINDOW_ROWS`.
    A row without a time stands where it came.
    """

    def __init__(self, newest: int = NO_TIME, *, unknown: int = 0) -> None:
        """Begin in the middle where `newest` is the newest time of all rows before.

        The edge of the first `unknown` rows (0 or `WINDOW_ROWS`) depends on rows that were not read: they come as if
        they had no time, before all others.
        """
        self.newest = newest
        #: Rows that came later than the window allows.
        self.displaced = 0
        self._unknown = unknown
        #: The newest time as of each of the last rows, at most `WINDOW_ROWS`.
        self._recent: Ints = np.zeros(0, np.int64)
        self._held: Timed | None = None

    def take(self, ticks: Ticks, time: Ints) -> list[Timed]:
        """Add rows; returns those that none still to come can precede. `time` is `NO_TIME` for a row without one."""
        newest = np.maximum(np.maximum.accumulate(time), self.newest)
        self.newest = int(newest[-1])
        time = np.where(time == NO_TIME, newest, time)
        place = np.maximum(time, self._edge(newest))
        self.displaced += int(np.count_nonzero(place > time))
        if self._unknown:
            place[: self._unknown] = NO_TIME
            self._unknown = max(0, self._unknown - len(place))
        return self._ready(_sorted(Timed(ticks, place)), self._next_edge())

    def rest(self) -> Timed | None:
        """What is held back still, at the end of the recording."""
        held, self._held = self._held, None
        return held

    def _edge(self, newest: Ints) -> Ints:
        edge = np.maximum(newest, NO_TIME + WINDOW_US) - WINDOW_US
        recent = np.concatenate((self._recent, newest))
        past = len(recent) - WINDOW_ROWS  # so many rows have one that came WINDOW_ROWS before them
        if past > 0:
            few = min(past, len(edge))
            np.maximum(edge[-few:], recent[past - few : past], out=edge[-few:])
        self._recent = recent[-WINDOW_ROWS:]
        return edge

    def _next_edge(self) -> int:
        """The earliest place that the next row can have."""
        edge = max(self.newest, NO_TIME + WINDOW_US) - WINDOW_US
        return max(edge, int(self._recent[0])) if len(self._recent) == WINDOW_ROWS else edge

    def _ready(self, rows: Timed, edge: int) -> list[Timed]:
        """Of what is held and `rows`, what stands at `edge` or before it; the rest is held."""
        held, self._held = self._held, None
        ready = []
        if (
            held is not None and held.time[-1] <= edge and held.time[-1] <= rows.time[0]
        ):  # nearly always: nothing to copy
            ready.append(held)
        elif held is not None:
            time = np.concatenate((held.time, rows.time))
            rows = _sorted(Timed(Ticks.concat([held.ticks, rows.ticks]), time))
        count = int(np.searchsorted(rows.time, edge, side="right"))
        if count:
            ready.append(rows[:count])
        if count < len(rows):
            self._held = rows[count:]
        return ready


def _sorted(rows: Timed) -> Timed:
    if np.count_nonzero(rows.time[1:] < rows.time[:-1]):
        return rows[np.argsort(rows.time, kind="stable")]
    return rows


class AsWritten:
    """Keeps the order of rows, as a recorder wrote them: each stands at the newest time up to it. As `Ordering`."""

    displaced = 0

    def __init__(self, newest: int = NO_TIME) -> None:
        self.newest = newest

    def take(self, ticks: Ticks, time: Ints) -> list[Timed]:
        running = np.maximum(np.maximum.accumulate(time), self.newest)
        self.newest = int(running[-1])
        return [Timed(ticks, running)]

    def rest(self) -> Timed | None:
        return None
