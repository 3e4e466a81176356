"""The clock that a feed keeps: given to it, so that a test can turn it by hand."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits for it. Microseconds since the Unix epoch, UTC."""

    def now(self) -> int: ...

    async def sleep_until(self, time_us: int) -> None:
        """Return at `time_us` or soon after; at once, but not before other tasks had a turn, where it has passed."""


class WallClock:
    """The time of day. It may be stepped back by whoever sets it, as any wall clock."""

    def now(self) -> int:
        """Microseconds since the Unix epoch."""
        return time.time_ns() // 1000

    async def sleep_until(self, time_us: int) -> None:
        """Sleep until `time_us`; give way to other tasks where it has passed."""
        await asyncio.sleep(max(0, time_us - self.now()) / 1e6)


class Behind:
    """A clock that is `delay_us` behind another one: what is kept by it happens that much later, as if it were then."""

    def __init__(self, clock: Clock, delay_us: int) -> None:
        self._clock = clock
        self._delay_us = delay_us

    def now(self) -> int:
        """The late time."""
        return self._clock.now() - self._delay_us

    async def sleep_until(self, time_us: int) -> None:
        """Sleep until it is `time_us` by the late time."""
        await self._clock.sleep_until(time_us + self._delay_us)
