"""What a log is read as: blocks of numbered rows, cursors to go on from, and whose rows its symbols are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from feeds.ticks import NO_TIME, REFUSED, Ints, Symbols, Ticks

#: A time later than all others.
NEVER: Final = -(NO_TIME + 1)
_UNCLAIMED: Final = -4


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in one run: in its file number `file` the place `place`, with `rows` rows of the run before it.

    `newest` is the newest time among those.
    """

    file: int
    place: int
    rows: int
    newest: int


BEGINNING: Final = Mark(0, 0, 0, NO_TIME)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where reading may begin so that it brings all rows from `time` on, each with its number: a place in each run."""

    time: int
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows of a log, one after another: those that are ticks and were asked for.

    `ticks.row` is the row in the log's own `symbols`, `ticks.seq` the row's number. `time` is when each takes its place,
    int64[n] microseconds, never falling; `last` is the time of the last row, kept or not, and `rows` its number. `cursor`
    is there from time to time: its time lies in the block.
    """

    ticks: Ticks
    time: Ints
    last: int
    rows: int
    cursor: Cursor | None


class Claims:
    """Which row each symbol of a log has among others' symbols: claimed when its first tick is asked for."""

    def __init__(self, names: Sequence[str], symbols: Symbols, part: int) -> None:
        """`names` are the log's, by row; they may grow. `symbols` are claimed from for `part`."""
        self._names = names
        self._symbols = symbols
        self._part = part
        self._row: Ints = np.zeros(0, np.int64)
        #: Keys that another part owns.
        self.refused: list[str] = []

    def rows(self, rows: Ints) -> Ints:
        """The row for each of the log's `rows`, or `REFUSED`: int64, as long. New ones are claimed in order."""
        more = len(self._names) - len(self._row)
        if more:
            self._row = np.concatenate((self._row, np.full(more, _UNCLAIMED)))
        found = self._row[rows]
        new = rows[found == _UNCLAIMED]
        if len(new):
            for row in dict.fromkeys(new.tolist()):
                self._row[row] = self._claim(self._names[row])
            found = self._row[rows]
        return found

    def _claim(self, key: str) -> int:
        row = self._symbols.claim(key, self._part)
        if row == REFUSED:
            self.refused.append(key)
        return row
