"""The clock of the service: feeds into the table, rounds out of the hub, heartbeats.

Everything below is pure; here is the one place that waits. Each feed is a task that folds its batches in; one task runs
the rounds when they are due, and one the heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from itertools import cycle
from typing import Any, Final

from feeds.clock import Clock
from feeds.feed import Anew, Feed, FeedError
from feeds.ticks import Symbols
from ticker.counts import Counts
from ticker.health import FeedHealth, FeedState
from ticker.hub import HEARTBEAT_SLOTS, Hub
from ticker.quotes import QuoteTable
from ticker.settings import Settings, session_start_us

log: Final = logging.getLogger(__name__)


class Service:
    """Feeds, table and hub, kept going by `run`."""

    def __init__(
        self,
        settings: Settings,
        symbols: Symbols,
        feeds: Sequence[Feed],
        clock: Clock,
        delay_ms: int = 0,
        counts: Counts | None = None,
    ) -> None:
        """`feeds` have names of their own and claim their rows in `symbols`.

        Where the data is `delay_ms` late, so are the feeds and `clock`: all times that clients are told are those of
        the data, and no round knows of any delay.
        """
        self.settings = settings
        #: The time of the data, which is `delay_ms` behind the time of day.
        self.clock = clock
        self.delay_ms = delay_ms
        self.table = QuoteTable(symbols, session_start_us=session_start_us(settings.session_start))
        self._epochs = {feed.name: feed.epoch for feed in feeds}
        self.hub = Hub(
            self.table,
            settings,
            self._epochs,
            closed=all(feed.closed for feed in feeds),
            delay_ms=delay_ms,
            counts=counts,
        )
        self.health = {feed.name: FeedHealth(feed, settings.stale_ms) for feed in feeds}
        #: Set once the service is to end: whoever waits for news ends then.
        self.stopping = asyncio.Event()
        #: Whether `run` has ended by an error.
        self.failed = False
        self._wake = asyncio.Event()
        #: When the newest batch came in.
        self._arrived = 0
        #: When the next round falls that is waited for.
        self._due: int | None = None

    @property
    def ready(self) -> bool:
        """Whether every feed has brought what there was before it may be served, or has ended, and no stop is under way."""
        return not self.stopping.is_set() and all(
            health.feed.warm or health.ending is not None for health in self.health.values()
        )

    def feeds_at(self, now: int) -> Mapping[str, Mapping[str, Any]]:
        """State, age and lag of each feed by name, as the heartbeat tells them."""
        return {name: health.at(now) for name, health in self.health.items()}

    def wake(self) -> None:
        """Look at the rounds anew: a subscription may have brought one that is due sooner."""
        self._wake.set()

    def stop(self) -> None:
        """Tell every client to come back elsewhere or later, and end whatever waits."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        self.hub.dismiss(self.clock.now())

    async def run(self) -> None:
        """Serve until cancelled. A feed that fails is told to the clients; anything else that fails ends the service."""
        async with asyncio.TaskGroup() as group:
            for health in self.health.values():
                group.create_task(self._drive(health), name=f"feed {health.feed.name}")
            group.create_task(self._run_rounds(), name="rounds")
            group.create_task(self._run_heartbeats(), name="heartbeats")

    async def _drive(self, health: FeedHealth) -> None:
        """Fold in what one feed brings, batch by batch, to its end."""
        feed, table, hub = health.feed, self.table, self.hub
        try:
            async with aclosing(feed.__aiter__()) as items:  # or else it would be closed when the loop ends, too late
                async for brought in items:
                    if isinstance(brought, Anew):
                        self._epochs[feed.name] = feed.epoch
                        hub.fold(table.forget(brought.rows))
                        hub.begin_anew()
                        continue
                    health.arrived = self._arrived = self.clock.now()
                    hub.fold(table.apply(brought))
                    self._wake_for_rounds()
                    await asyncio.sleep(0)  # the rounds have their turn before the next batch
        except FeedError as failure:
            log.error("feed %s: %s", feed.name, failure, extra={"feed": feed.name})  # noqa: TRY400 - the line says it all
            health.ending = FeedState.DOWN
        else:
            level = logging.INFO if feed.stats.ticks else logging.WARNING
            log.log(level, "feed %s: ended after %d ticks", feed.name, feed.stats.ticks)
            health.ending = FeedState.ENDED
        self._tell_states(self.clock.now())

    async def _run_rounds(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.stopping.is_set():  # `shutdown` is the last that a client is told
            self._wake.clear()
            self._due = self._flush()
            timer = None
            if self._due is not None:
                timer = loop.call_later(max(0, self._due - self.clock.now()) / 1e6, self._wake.set)
            await self._wake.wait()
            if timer is not None:
                timer.cancel()

    def _flush(self) -> int | None:
        """Run the rounds that are due, and count how long that takes, and how old what they send is."""
        counts, began = self.hub.counts, time.perf_counter()
        due = self.hub.flush(self.clock.now())
        newest = self.hub.newest()
        if newest:
            now = self.clock.now()
            counts.durations.observe(time.perf_counter() - began)
            if not self.delay_ms:  # what is late is so on purpose
                counts.since_venue.observe(max(0, now - newest) / 1e6)
                counts.since_receive.observe(max(0, now - self._arrived) / 1e6)
        return due

    def _wake_for_rounds(self) -> None:
        """A batch is in: interval 0 is due now, and a symbol that is new may have begun an interval that is due soon."""
        due = min((timer.due for timer in self.hub.timers), default=None)
        if due is not None and (self._due is None or due < self._due):
            self._wake.set()

    async def _run_heartbeats(self) -> None:
        loop = asyncio.get_running_loop()
        interval_s = self.settings.heartbeat_ms / 1000
        due = loop.time()
        for slot in cycle(range(HEARTBEAT_SLOTS)):
            # What is late makes nothing after it late: slots that are due go out in one turn, one interval's at most.
            due = max(due + interval_s / HEARTBEAT_SLOTS, loop.time() - interval_s)
            if due > loop.time() or not slot:
                await asyncio.sleep(max(0.0, due - loop.time()))
            now = self.clock.now()
            self._tell_states(now)
            self.hub.announce({"type": "heartbeat", "ts": now, "feeds": self.feeds_at(now)}, now, slot)

    def _tell_states(self, now: int) -> None:
        """Announce each feed whose state is another than the one told last."""
        for name, health in self.health.items():
            news = health.news(now)
            if news is not None:
                log.info("feed %s: %s", name, news["state"], extra={"feed": name, "state": str(news["state"])})
                self.hub.announce(news, now)
