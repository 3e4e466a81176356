"""The services of one process: the live one, and one for each delay that data is served with.

A delayed service is a whole one: feeds of its own that read the same logs later, symbols, a table and a hub of its own, by a
clock behind. Nothing that is live ever reaches it, so nothing need be kept from its clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from feeds.clock import Behind, Clock
from feeds.feed import Feed, Lateness
from feeds.ticks import Symbols
from ticker.counts import Counts
from ticker.service import Service
from ticker.settings import Settings, delays_ms

#: Opens the feeds of one service, as late as it is said, over the symbols that they claim from.
OpenFeeds = Callable[[Symbols, Lateness], Sequence[Feed]]


class Tiers:
    """One service for each delay, kept going together by `run`. A service of its own is the only tier: `Tiers([service])`."""

    def __init__(self, services: Sequence[Service]) -> None:
        """The first of `services` is the live one; each has another delay."""
        self._services = sorted(services, key=lambda service: service.delay_ms)
        self.live = services[0]

    def __iter__(self) -> Iterator[Service]:
        """The live service, then the delayed ones, the shortest delay first."""
        return iter(self._services)

    def of(self, delay_ms: int) -> Service | None:
        """The service for whoever may see data that is `delay_ms` late or later: the least late of those; None for none."""
        return next((service for service in self if service.delay_ms >= delay_ms), None)

    @property
    def ready(self) -> bool:
        """Whether every service is."""
        return all(service.ready for service in self)

    def feeds_at(self) -> Mapping[str, Mapping[str, Any]]:
        """How each feed of each service is."""
        return {name: how for service in self for name, how in service.feeds_at(service.clock.now()).items()}

    def stop(self) -> None:
        """Tell every client to come back elsewhere or later, and end whatever waits."""
        for service in self:
            service.stop()

    async def run(self) -> None:
        """Serve until cancelled. What ends one service ends all."""
        async with asyncio.TaskGroup() as group:
            for service in self:
                group.create_task(service.run(), name=f"service {service.delay_ms} ms behind")


def open_tiers(settings: Settings, clock: Clock, open_feeds: OpenFeeds, counts: Counts | None = None) -> Tiers:
    """The live service and those of `settings.delays`, which begin together. Raises what `open_feeds` raises."""
    delays = delays_ms(settings.delays)
    begun = clock.now() if delays else None
    services = []
    for delay_ms in (0, *delays):
        symbols, lateness = Symbols(), Lateness(delay_ms * 1000, begun)
        feeds = open_feeds(symbols, lateness)
        own = Behind(clock, lateness.delay_us) if delay_ms else clock
        services.append(Service(settings, symbols, feeds, own, delay_ms, counts))
    return Tiers(services)
