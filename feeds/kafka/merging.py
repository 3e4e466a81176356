"""The records of several partitions in the order of the log's own times. Pure.

A record's place is told by its running time: the newest log time so far in its partition. So the order within a
partition is kept, whatever its times do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from feeds.ticks import NO_TIME, Ints

_NEVER: Final = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Records, in order: a value and a key each, and int64[n] columns of part number, offset and log time (µs)."""

    values: list[bytes | None]
    keys: list[bytes | None]
    part: Ints
    offset: Ints
    time: Ints

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, places: slice) -> Block:
        return Block(self.values[places], self.keys[places], self.part[places], self.offset[places], self.time[places])

    def take(self, order: Ints) -> Block:
        """The records at `order`."""
        places = order.tolist()
        values, keys = self.values, self.keys
        return Block(
            [values[i] for i in places],
            [keys[i] for i in places],
            self.part[order],
            self.offset[order],
            self.time[order],
        )


def concat(blocks: Sequence[Block]) -> Block:
    """Blocks one after another; there must be one."""
    if len(blocks) == 1:
        return blocks[0]
    return Block(
        [value for block in blocks for value in block.values],
        [key for block in blocks for key in block.keys],
        np.concatenate([block.part for block in blocks]),
        np.concatenate([block.offset for block in blocks]),
        np.concatenate([block.time for block in blocks]),
    )


class Merge:
    """Takes blocks of each of `parts` in, and gives them out merged by running time.

    Holds what is ahead of the others: the caller may then bring more of the `hungry` ones alone.
    """

    def __init__(self, parts: Iterable[int]) -> None:
        self._newest = dict.fromkeys(parts, NO_TIME)
        #: Of each part the records that are not given out yet, and the running time of each.
        self._held: dict[int, deque[tuple[Block, Ints]]] = {}
        self._open = set(self._newest)

    def __len__(self) -> int:
        """How many records it holds."""
        return sum(len(block) for chunks in self._held.values() for block, _ in chunks)

    @property
    def hungry(self) -> Collection[int]:
        """The parts that must bring more, or end, before anything can be given out."""
        return [part for part in self._open if part not in self._held]

    @property
    def open(self) -> bool:
        """Whether any part has not ended."""
        return bool(self._open)

    @property
    def holds(self) -> Mapping[int, int]:
        """The parts of which there are records that have not been given out, and the offset of the first."""
        return {part: int(chunks[0][0].offset[0]) for part, chunks in self._held.items()}

    def add(self, part: int, block: Block) -> None:
        """More records, at least one, of `part`, which may have ended."""
        running = np.maximum(np.maximum.accumulate(block.time), self._newest[part])
        self._newest[part] = int(running[-1])
        self._held.setdefault(part, deque()).append((block, running))

    def end(self, part: int) -> None:
        """No more of `part` is to be waited for."""
        self._open.discard(part)

    def end_all(self) -> None:
        """Nobody is to be waited for: what comes together is put in order, and that is all."""
        self._open.clear()

    def take(self) -> Block | None:
        """All records that none still to come can precede; None where there are none for now."""
        if self.hungry or not self._held:
            return None
        horizon = min((self._newest[part] for part in self._open), default=_NEVER)
        taken = [chunk for part in sorted(self._held) for chunk in self._up_to(horizon, part)]
        merged = concat([block for block, _ in taken])
        time = np.concatenate([running for _, running in taken])
        return merged if (time[1:] >= time[:-1]).all() else merged.take(np.argsort(time, kind="stable"))

    def _up_to(self, horizon: int, part: int) -> Iterator[tuple[Block, Ints]]:
        """The records of a part up to `horizon`, which it holds no more then."""
        chunks = self._held[part]
        while chunks and chunks[0][1][0] <= horizon:
            block, running = chunks.popleft()
            count = int(np.searchsorted(running, horizon, side="right"))
            if count < len(block):
                chunks.appendleft((block[count:], running[count:]))
            yield block[:count], running[:count]
        if not chunks:
            del self._held[part]
