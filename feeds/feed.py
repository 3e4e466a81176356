"""What a feed is: an async iterator of `Ticks` with a name, an epoch and a few counters."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from feeds.ticks import Ints, Ticks


class FeedError(Exception):
    """A feed cannot be opened or cannot go on. The text is one line that names the source and the cause."""


@dataclass(slots=True)
class FeedStats:
    """Counters of one feed, read by the heartbeat and the metrics. They only grow, but for `lag`."""

    ticks: int = 0
    #: Rows or records that could not be read.
    rejected: int = 0
    #: Ticks of a key that belongs to another feed or partition.
    refused: int = 0
    #: Records that were gone before they could be read.
    skipped: int = 0
    #: Records not read yet, where the source can tell.
    lag: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Anew:
    """From here on the log is another one, which the feed's `epoch` names. `rows` hold nothing of it: int64, ascending."""

    rows: Ints


#: How far logs have been read, by somebody who wants nothing of them twice: by epoch and the label of each part, the last
#: `seq` of it.
Held = Mapping[str, Mapping[str, int]]


@runtime_checkable
class Resumable(Protocol):
    """A feed that can begin where somebody has left off."""

    def go_on(self, held: Held) -> None:
        """Begin after what is `held` of the log that it turns out to be, and bring nothing twice.

        To be called before the feed is iterated.
        """


@dataclass(frozen=True, slots=True)
class Lateness:
    """How a feed is one of several of the same log that are served with different delays.

    What a feed brings, it brings `delay_us` after the one without a delay does, never before. Where that is by a
    schedule of its own, it is the same schedule for all of them: the feed without a delay begins it at `begun`, in
    microseconds of the clock that is not late, or when it is first iterated where that is None.
    """

    delay_us: int = 0
    begun: int | None = None

    def begin(self, now: int) -> int:
        """When the schedule of a feed begins that is first iterated at `now`: both by its own clock, the late one."""
        return now + self.delay_us if self.begun is None else self.begun

    @property
    def suffix(self) -> str:
        """What a late feed's epoch and name end with, so that they are never those of another delay: ``~900s``."""
        if not self.delay_us:
            return ""
        delay_ms = self.delay_us // 1000
        return f"~{delay_ms}ms" if delay_ms % 1000 else f"~{delay_ms // 1000}s"


#: A feed that is not late.
ON_TIME: Final = Lateness()


class Feed(Protocol):
    """A source of ticks. Iterating it opens the source, yields batches in the log's order, and ends with the log.

    A source that can come back is never the end of its feed: `trouble` says what stands in the way meanwhile.
    """

    #: Unique among the feeds of a process: ``sim``, ``replay``, ``replay-2``.
    name: str
    #: Names the log: the same for two readers of the same log, another one for a log made anew.
    epoch: str
    #: Whether every symbol that will ever come is known from the start.
    closed: bool
    stats: FeedStats

    @property
    def warm(self) -> bool:
        """Whether it has brought what there was before it may be served."""

    @property
    def trouble(self) -> str | None:
        """Why nothing can be read at present, in one line; None where it can."""

    def __aiter__(self) -> AsyncGenerator[Ticks | Anew]: ...
