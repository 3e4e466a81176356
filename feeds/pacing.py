"""How a feed keeps time: when ticks fall due by a clock, and blocking work done ahead in a thread of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np

from feeds.clock import Clock
from feeds.ticks import Ints

T = TypeVar("T")

#: Ticks that fall due within this time of each other may leave together.
GRAIN_US: Final = 1000


class Pace:
    """Lets ticks out at `speed` times real time, the first at once; at once all of them where `speed` is None.

    When a tick is due is reckoned from the first tick's time, or from `start`, a tick's time that is the clock's as well:
    being late once delays nothing after it.
    """

    def __init__(self, clock: Clock, speed: float | None, start: int | None = None) -> None:
        self._clock = clock
        self._speed = speed
        self._first = start
        self._began = start or 0
        self._woke = 0

    async def due(self, time: Ints, start: int) -> int:
        """Wait until the tick at `start` is due; returns the end of those due by then. Other tasks have a turn first.

        `time` is int64[n] microseconds, never falling; `start` is below n.
        """
        if self._speed is None:
            await self._clock.sleep_until(self._clock.now())
            return len(time)
        if self._first is None:
            self._first, self._began = int(time[start]), self._clock.now()
        due = self._began + int((int(time[start]) - self._first) / self._speed)
        if due > self._clock.now() - GRAIN_US:
            due = max(due, self._woke + GRAIN_US)
        await self._clock.sleep_until(due)
        self._woke = max(self._clock.now(), due)  # a clock may wake us a little early
        elapsed = int((self._woke - self._began) * self._speed)
        return max(start + 1, int(np.searchsorted(time, self._first + elapsed, side="right")))


async def ahead(blocks: Generator[T], count: int) -> AsyncGenerator[T]:
    """The items of `blocks`, which is run in a thread of its own, at most `count` items ahead. It is closed at the end."""
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
    try:
        coming = deque(loop.run_in_executor(pool, next, blocks, None) for _ in range(count))
        while (block := await coming.popleft()) is not None:
            coming.append(loop.run_in_executor(pool, next, blocks, None))
            yield block
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.shield(asyncio.to_thread(_close, pool, blocks))


def _close(pool: ThreadPoolExecutor, blocks: Generator[T]) -> None:
    pool.shutdown(wait=True)
    blocks.close()
