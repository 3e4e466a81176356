"""How a feed keeps time: when ticks fall due by a clock, blocking work done ahead in a thread, bounded hand-overs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np

from feeds.clock import Clock
from feeds.ticks import Ints

T = TypeVar("T")

#: Ticks that fall due within this time of each other may leave together.
GRAIN_US: Final = 1000

#: How long closing waits for the thread: well over what a block takes, for files and so on to be closed in order.
CLOSE_WAIT_S: Final = 0.5
#: How often a thread that has no room looks whether its loop was closed under it.
LOOK_S: Final = 1.0

#: Why a feed that is to be late must be paced: what comes as fast as it is taken might overtake the one without a delay.
UNPACED: Final = (
    "speed: expected a multiple of real time with a delay, was max: what has no pace cannot be late by a time"
)


class Schedule:
    """Lets ticks out at `speed` times real time, the first at once; at once all of them where `speed` is None.

    When a tick is due is reckoned from the first tick's time, or from `start`, a tick's time that is the clock's as well:
    being late once delays nothing after it. The first tick is due at `begin` of the clock, where that is given.
    """

    def __init__(
        self, clock: Clock, speed: float | None, start: int | None = None, *, begin: int | None = None
    ) -> None:
        self._clock = clock
        self._speed = speed
        self._first = start
        self._began = start or 0
        self._begin = begin
        self._woke = 0

    async def due(self, time: Ints, start: int) -> int:
        """Wait until the tick at `start` is due; returns the end of those due by then. Other tasks have a turn first.

        `time` is int64[n] microseconds, never falling; `start` is below n.
        """
        if self._speed is None:
            await self._clock.sleep_until(self._clock.now())
            return len(time)
        if self._first is None:
            self._first, self._began = int(time[start]), self._clock.now() if self._begin is None else self._begin
        due = self._began + int((int(time[start]) - self._first) / self._speed)
        if due > self._clock.now() - GRAIN_US:
            due = max(due, self._woke + GRAIN_US)
        await self._clock.sleep_until(due)
        self._woke = max(self._clock.now(), due)  # a clock may wake us a little early
        elapsed = int((self._woke - self._began) * self._speed)
        return max(start + 1, int(np.searchsorted(time, self._first + elapsed, side="right")))


async def ahead(blocks: Generator[T], count: int) -> AsyncGenerator[T]:
    """The items of `blocks`, which is run in a thread of its own, at most `count` items ahead. What it raises comes last.

    The thread closes `blocks` at its end; where this generator is closed earlier, after the item that it is at, which is
    dropped, as is what it raises then. Closing waits for that, but `CLOSE_WAIT_S` at most: a read that blocks holds up
    neither the loop nor the exit of the process.
    """
    worker = _Worker(blocks, count)
    worker.start()
    try:
        while not isinstance(item := await worker.made.get(), _End):
            worker.room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        worker.stopped = True
        worker.room.release()
        await asyncio.wait([worker.ended], timeout=CLOSE_WAIT_S)
        if worker.ended.done():
            worker.join()  # it has nothing more to do


class HandOver(Generic[T]):
    """Items on their way from one task to another, so many together: who puts one waits while there are too many.

    `enough` and `most` are counted in whatever the items are measured by.
    """

    def __init__(self, enough: int, most: int) -> None:
        self._enough = enough
        self._most = most
        self._items: list[T] = []
        self._size = 0
        self._ready = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, item: T, size: int) -> None:
        """Add an item of a size; return when there is room for the next one."""
        self._items.append(item)
        self._size += size
        if self._size >= self._enough:
            self._ready.set()
        if self._size >= self._most:
            self._room.clear()
            await self._room.wait()

    def end(self) -> None:
        """Nothing more comes: nobody is to wait for it."""
        self._ready.set()

    async def wait(self, most_s: float) -> None:
        """Wait until there is enough to be taken, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._ready.wait()

    def take(self) -> list[T]:
        """All that is there."""
        taken, self._items, self._size = self._items, [], 0
        self._ready.clear()
        self._room.set()
        return taken


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


class _Worker(threading.Thread, Generic[T]):
    """Runs a generator as far ahead as there is `room`, until it is `stopped`. The interpreter's exit waits for no daemon."""

    def __init__(self, blocks: Generator[T], count: int) -> None:
        super().__init__(name="feed", daemon=True)
        self.room = threading.Semaphore(count)
        self.stopped = False
        self._blocks = blocks
        # -- of the loop, all that follows
        self._loop = asyncio.get_running_loop()
        self.made: asyncio.Queue[T | _End] = asyncio.Queue()
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def run(self) -> None:
        error: BaseException | None = None
        try:
            with closing(self._blocks):
                while self._wanted():
                    self._tell(self.made.put_nowait, next(self._blocks))
        except StopIteration:
            pass
        except BaseException as raised:  # noqa: BLE001 - raised again where the items are taken
            error = raised
        self._tell(self._end, _End(error))

    def _wanted(self) -> bool:
        """Wait until there is room for an item. False where nobody takes any more."""
        while not self.room.acquire(timeout=LOOK_S):
            if self._loop.is_closed():
                return False
        return not (self.stopped or self._loop.is_closed())

    def _tell(self, call: Callable[[Any], None], value: T | _End) -> None:
        with suppress(RuntimeError):  # the loop is closed: there is nobody to tell
            self._loop.call_soon_threadsafe(call, value)

    def _end(self, end: _End) -> None:
        self.made.put_nowait(end)
        self.ended.set_result(None)
