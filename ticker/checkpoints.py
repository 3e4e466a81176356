"""Checkpoints of a replay: the whole state at some time, from which playing can go on. Pure."""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass
from operator import attrgetter

from feeds.blocks import Cursor
from ticker.quotes import State

_TIME = attrgetter("time")
_NAME_BYTES = 80


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The state made by all ticks before `time`, and where reading the log goes on.

    `names` are the symbols that have a value, in the order of their first ticks; `state` holds them in that order.
    `ticks` counts what was folded in.
    """

    cursor: Cursor
    names: tuple[str, ...]
    state: State
    ticks: int

    @property
    def time(self) -> int:
        return self.cursor.time

    @property
    def nbytes(self) -> int:
        return self.state.nbytes + _NAME_BYTES * len(self.names)


class Checkpoints:
    """The checkpoints of one log read from one time: as many as go into `bytes_max`, spread over the time played."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.nbytes = 0
        self._held: list[Checkpoint] = []

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, time: int) -> bool:
        at = bisect_right(self._held, time, key=_TIME)
        return at > 0 and self._held[at - 1].time == time

    def latest(self, time: int) -> Checkpoint | None:
        """The newest checkpoint at or before `time`."""
        at = bisect_right(self._held, time, key=_TIME)
        return self._held[at - 1] if at else None

    def add(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint. Where there are too many, the one goes whose neighbours are closest to each other."""
        if checkpoint.time in self:
            return
        insort(self._held, checkpoint, key=_TIME)
        self.nbytes += checkpoint.nbytes
        while self.nbytes > self.bytes_max and self._held:
            self.nbytes -= self._held.pop(self._least()).nbytes

    def _least(self) -> int:
        times = [checkpoint.time for checkpoint in self._held]
        if len(times) < 3:
            return 0
        return 1 + min(range(len(times) - 2), key=lambda i: times[i + 2] - times[i])
