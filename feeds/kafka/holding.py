"""Records that have been fetched before they may be told: held back, in their order, until a late clock is there. Pure.

When a record may be told goes by its running time, the newest log time so far in its partition, as in `merging`: so the order
within a partition is kept, and nothing overtakes what is held. A log time that cannot be right, since it is missing or later than
the record was there, is taken to be the first time at which it is known to have been there: so it is never told too early.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import numpy as np

from feeds.kafka.merging import Block
from feeds.ticks import NO_TIME, Ints

#: Ends of a partition that are noted at most, and how many of them in a delay.
SEEN_MAX: Final = 512
SEEN_IN_DELAY: Final = 256


class Seen:
    """Since when records of one part are known to have been there: by its ends, as they were seen in the course of time."""

    def __init__(self, delay_us: int) -> None:
        self._step_us = delay_us // SEEN_IN_DELAY
        #: Ends, ascending, and when each was seen: bounded, the oldest go first.
        self._ends: deque[int] = deque(maxlen=SEEN_MAX)
        self._times: deque[int] = deque(maxlen=SEEN_MAX)

    def note(self, end: int, now: int) -> None:
        """All records before offset `end` are there at `now`."""
        if not self._ends or (end > self._ends[-1] and now >= self._times[-1] + self._step_us):
            self._ends.append(end)
            self._times.append(now)

    def by(self, offset: Ints, now: int) -> Ints:
        """The first time at which each of these is known to have been there, which all are at `now`. int64[n] µs."""
        place = np.searchsorted(np.array(self._ends, np.int64), offset, side="right")
        return np.minimum(np.array([*self._times, now], np.int64)[place], now)


class Holding:
    """What is held back of each part. Whoever fetches asks for no more of a part that is `in` it: so it is bounded."""

    def __init__(self, seen: Mapping[int, Seen]) -> None:
        """`seen` tells of each part since when its records are known to have been there."""
        self._seen = seen
        #: Of each part the newest running time; of those that hold any, the records and the running time of each.
        self._newest: dict[int, int] = {}
        self._held: dict[int, tuple[Block, Ints]] = {}

    def __len__(self) -> int:
        """How many records it holds."""
        return sum(len(block) for block, _ in self._held.values())

    def __contains__(self, part: int) -> bool:
        """Whether it holds records of a part: after `take`, all of it that may be told has been."""
        return part in self._held

    @property
    def holds(self) -> Mapping[int, int]:
        """The parts of which it holds records, and the offset of the first."""
        return {part: int(block.offset[0]) for part, (block, _) in self._held.items()}

    @property
    def due(self) -> int | None:
        """The time of the first record that it holds; None where it holds none."""
        return min((int(running[0]) for _, running in self._held.values()), default=None)

    def add(self, part: int, block: Block, now: int) -> None:
        """Records, at least one, of a part that it holds none of, fetched at `now` by the clock that is not late."""
        there = self._seen[part].by(block.offset, now)
        time = np.where(block.time == NO_TIME, there, np.minimum(block.time, there))
        running = np.maximum(np.maximum.accumulate(time), self._newest.get(part, NO_TIME))
        self._newest[part] = int(running[-1])
        self._held[part] = block, running

    def take(self, until: int) -> dict[int, Block]:
        """The records of each part whose time has come, which it holds no more.

        Where all of a part's have come, more of it may follow that has come as well: of the others, what is later than the
        last of them is left for the next time.
        """
        taken = {}
        until = min([until, *(int(running[-1]) for _, running in self._held.values())])
        for part, (block, running) in list(self._held.items()):
            count = int(np.searchsorted(running, until, side="right"))
            if not count:
                continue
            taken[part] = block[:count]
            if count == len(block):
                del self._held[part]
            else:
                self._held[part] = block[count:], running[count:]
        return taken
