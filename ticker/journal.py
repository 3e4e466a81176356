"""A journal: what is told of each symbol piece by piece, trades or bars, and kept for a while. Pure.

Each row has a `version` that rises with whatever is noted of it. Nothing is stored for a client but the version that it
holds: what it is owed is asked for, "what is there of this row after that version?", once it can be sent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, NamedTuple, Protocol

import numpy as np

from feeds.ticks import Ticks
from ticker.columns import Ints

#: The version of what is known by its seq alone.
UNKNOWN: Final = -1
#: No time is as late.
NEVER: Final = 1 << 62


#: So many ticks are folded in at the latest, whether or not anything is asked.
WAITING_MAX: Final = 2048


class Folded(ABC):
    """What is made of trades, and does not depend on how they were cut into batches: they wait until something is asked.

    Folding a batch in costs some hundred microseconds whatever is in it: it is done for many at once, a round at most.
    """

    def __init__(self) -> None:
        #: Rises with every change, of what waits as well.
        self.moves = 0
        self._waiting: list[tuple[Ticks, Ints, Ints]] = []
        self._passing = False
        self._count = 0

    def add(self, ticks: Ticks, part: Ints, time: Ints, *, traded: bool, passing: bool) -> None:
        """Take in a batch, not empty; see `ticker.quotes.Follower`."""
        if passing != self._passing:
            self.settle()
            self._passing = passing
        self._waiting.append((ticks, part, time))
        self._count += len(ticks)
        self.moves += traded
        if self._count >= WAITING_MAX:
            self.settle()

    def settle(self) -> None:
        """Fold in what waits. Whatever reads or changes what it comes to does this first."""
        if not self._waiting:
            return
        waiting, self._waiting, self._count = self._waiting, [], 0
        if len(waiting) == 1:
            self._fold(*waiting[0], self._passing)
            return
        batches, parts, times = zip(*waiting, strict=True)
        self._fold(Ticks.concat(batches), np.concatenate(parts), np.concatenate(times), self._passing)

    @abstractmethod
    def _fold(self, ticks: Ticks, part: Ints, time: Ints, passing: bool) -> None:
        """Fold ticks in. `passing` says that `begin` is called before anything is asked."""


class Held(NamedTuple):
    """What a client holds of a row: all up to a version, which stands at the position `seq` of the row's log."""

    version: int
    seq: int


class Gap(NamedTuple):
    """What can be told no more: `lost` pieces, None where unknown, at the positions (start, end] of a symbol's log."""

    symbol: str
    start: int
    end: int
    lost: int | None


class Journal(Protocol):
    """Trades, or the bars of one interval."""

    @property
    def name(self) -> str: ...

    @property
    def channel(self) -> str: ...

    @property
    def moves(self) -> int:
        """Rises whenever something is noted."""

    @property
    def version(self) -> Ints:
        """By row, int64; there may be fewer than the table has rows: of others nothing has been noted."""

    @property
    def due(self) -> int:
        """When something is noted of itself: a time in microseconds, far away where never."""

    def close(self, now: int) -> None:
        """Note what is due by then."""

    def held(self, row: int) -> Held:
        """What a client holds that has had everything."""

    def held_at(self, row: int, seq: int) -> Held:
        """What a client holds that has had everything up to a position of the row's log, which the table has reached."""

    def held_anew(self, row: int) -> Held:
        """What a client is taken to hold that has just subscribed."""

    def owed(self, row: int, held: Held) -> int | None:
        """How many items are owed to a client that holds `held`; None where something is lost."""

    def news(self, row: int, held: Held) -> tuple[Gap | None, bytes]:
        """What is owed to a client that holds `held`: what is lost, and items, each with a comma behind it."""

    def last(self, row: int, limit: int) -> bytes:
        """The newest items, at most `limit`, oldest first, each with a comma behind it."""
