"""A journal: what is told of each symbol piece by piece, trades or bars, and kept for a while. Pure.

Each row has a `version` that rises with whatever is noted of it. Nothing is stored for a client but the version that it
holds: what it is owed is asked for, "what is there of this row after that version?", once it can be sent.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from ticker.columns import Ints

#: The version of what is known by its seq alone.
UNKNOWN: Final = -1
#: No time is as late.
NEVER: Final = 1 << 62


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
