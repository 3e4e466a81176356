"""A live log replayed from some time ago until it has caught up; from then on the replay is live.

There is one table and one chain of updates for both: nothing is read twice, and nothing is left out between. While it
catches up, a tick takes its place at its own time, as it would from a recording, or at the time of the one before it
where it is older; once live, at the time at which it comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, ClassVar, Final

import numpy as np

from feeds.blocks import NEVER, Block
from feeds.clock import Clock
from feeds.feed import Anew, Feed, FeedError
from feeds.ticks import Ints, Symbols, Ticks
from ticker.access import OPEN, Grant
from ticker.clients import Client
from ticker.counts import Counts
from ticker.errors import Code, RequestError
from ticker.health import FeedHealth
from ticker.patient import Writable
from ticker.playback import Playback
from ticker.protocol import Clocking, Pause, Play, Seek, Speed, Step, encode
from ticker.replaying import FEED, Replay, Request
from ticker.session import Check
from ticker.settings import Settings

log: Final = logging.getLogger(__name__)

#: Batches that are read ahead at most.
BATCHES_AHEAD: Final = 4
#: How long a client waits for a log that does not answer.
ANSWER_S_MAX: Final = 5.0
#: How often to look whether all has been read, where nothing comes.
LOOK_S: Final = 0.02


class CatchUp(Replay):
    """A replay of a live log, and then that log."""

    MOVING: ClassVar = frozenset(("playing", "live"))

    def __init__(
        self,
        request: Request,
        start: int,
        open_feed: Callable[[Symbols, str, Clock], Feed],
        settings: Settings,
        clock: Clock,
        counts: Counts | None = None,
    ) -> None:
        """`open_feed` gives the feed that reads the log from `start` on, and claims its rows itself."""
        symbols = Symbols()
        super().__init__(request, settings, clock, symbols, start, counts)
        feed = open_feed(symbols, FEED, clock)
        self.playback = Playback(self.table, self.hub, part=symbols.part(FEED), start=start, end=NEVER)
        self._source = FeedHealth(feed, settings.stale_ms)
        self._batches: asyncio.Queue[Ticks | Anew] = asyncio.Queue(BATCHES_AHEAD)
        #: Set once the log has answered.
        self._answered = asyncio.Event()
        #: The newest time that a tick has taken its place at.
        self._newest = start

    @property
    def end(self) -> None:
        return None

    # -- reading -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Play until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(), name=f"feed of replay {self.id}")
            await super().run()

    async def _read(self) -> None:
        """Read the log, as far ahead as there is room."""
        feed = self._source.feed
        async with aclosing(feed.__aiter__()) as items:  # or else it would be closed when the loop ends, too late
            async for brought in items:
                if not self._answered.is_set():  # the log is known by now, and nobody has been told anything of it
                    self._epochs[FEED] = feed.epoch
                    self._answered.set()
                    if isinstance(brought, Anew):
                        continue
                self._source.arrived = self._clock.now()
                await self._batches.put(brought)
                self._wake.set()

    async def join(self, outlet: Writable, grant: Grant = OPEN, check: Check | None = None) -> Client:
        """Take in a client, once the log has answered. Raises RequestError as `Replay` does, FeedError where it does not answer."""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                await self._answered.wait()
        except TimeoutError:
            log.warning("replay of %s: %s", self.request.source, self._source.feed.trouble or "no answer")
            raise FeedError(f"{self.request.source}: cannot be read at present") from None
        return await super().join(outlet, grant, check)

    async def _feed(self) -> bool:
        if self._batches.empty():
            return False
        brought = self._batches.get_nowait()
        if isinstance(brought, Anew):
            self._epochs[FEED] = self._source.feed.epoch
            self.playback.begin_anew(brought.rows)
            self.hub.begin_anew()
        else:
            time = self._times(brought)
            self.playback.offer(Block(brought, time, self._newest, 0, None))
        return True

    def _times(self, ticks: Ticks) -> Ints:
        """The time at which each takes its place: int64 microseconds, never falling, none in the future."""
        now = max(self._clock.now(), self._newest, self.playback.position)
        if self.state == "live":
            time = np.full(len(ticks), now)
        else:
            time = np.minimum(np.maximum(np.maximum.accumulate(ticks.ts_log), self._newest), now)
        self._newest = int(time[-1])
        return time

    def _ran_out(self) -> float | None:
        if self.state == "live":
            return None
        if not self._source.feed.warm or not self._batches.empty():
            return LOOK_S
        self._go_live()
        return 0

    def _go_live(self) -> None:
        """All has been played that there was."""
        now = max(self._clock.now(), self.playback.position)
        self.playback.go_live()
        self.playback.settle(now)  # the last rounds of what there was
        self.state, self.speed = "live", 1.0
        self._set_anchor(now)
        self._patient = False
        self._set_patience()
        message = encode({"type": "live", "ts": now})
        for outlet in self._outlets.values():
            outlet.send(outlet.encoding.whole(message))

    async def _close(self) -> None:
        """Whoever reads is cancelled with `run`."""

    def _health(self) -> Mapping[str, Any]:
        return self._source.at(self._clock.now())

    def heartbeat(self, slot: int) -> None:
        """Tell a share of the clients that the replay lives; all of them, where the log is another state."""
        news = self._source.news(self._clock.now())
        if news is not None:
            self._tell({**news, "ts": self.ts()})
        super().heartbeat(slot)

    # -- the clock -----------------------------------------------------------------------------------------------------

    def ts(self) -> int:
        """Replay time: where the clock is, but not past what has been read."""
        return min(super().ts(), max(self.playback.position, self.playback.horizon))

    async def _reach(self, ts: int) -> None:
        self.playback.settle(ts)

    def _check(self, command: Clocking) -> None:
        if self.state == "live":
            raise RequestError(Code.INVALID_REQUEST, "op: expected a replay that is catching up, it is live")
        match command:
            case Seek() | Step():
                raise RequestError(
                    Code.INVALID_REQUEST, "op: expected play, pause or speed, as the replay goes on live"
                )
            case Speed(value=value):
                check_speed("value", value)
            case Play() | Pause():
                pass


def check_speed(name: str, speed: float | None) -> None:
    """Raises RequestError for a speed, given as `name`, that never catches up."""
    if speed is not None and speed <= 1:
        expected = f"{name}: expected max or a number above 1, to catch up with what is live, was {speed:g}"
        raise RequestError(Code.INVALID_REQUEST, expected)
