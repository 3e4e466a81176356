"""How a running feed is, as clients are told. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from feeds.feed import Feed


class FeedState(StrEnum):
    """What a client is told of a feed."""

    #: It has not brought yet what there was before it may be served.
    STARTING = "starting"
    LIVE = "live"
    #: It has brought nothing for a while.
    STALE = "stale"
    #: It cannot be read. It may come back.
    DOWN = "down"
    ENDED = "ended"


@dataclass(slots=True)
class FeedHealth:
    """What is known of one running feed."""

    feed: Feed
    stale_ms: int
    #: When it last brought ticks; None before it first did.
    arrived: int | None = None
    #: How it ended, once it has.
    ending: FeedState | None = None
    #: The state that clients were last told.
    told: FeedState = FeedState.STARTING

    def state(self, now: int) -> FeedState:
        """The feed's state at `now`."""
        if self.ending is not None:
            return self.ending
        if self.feed.trouble is not None:
            return FeedState.DOWN
        if not self.feed.warm:
            return FeedState.STARTING
        quiet = self.arrived is None or now - self.arrived > self.stale_ms * 1000
        return FeedState.STALE if quiet else FeedState.LIVE

    def age_ms(self, now: int) -> int | None:
        """Milliseconds since the last arrival; None before the first."""
        return None if self.arrived is None else max(0, now - self.arrived) // 1000

    def at(self, now: int) -> dict[str, Any]:
        """State, age and lag, as a heartbeat tells them."""
        return {"state": self.state(now), "age_ms": self.age_ms(now), "lag": self.feed.stats.lag}

    def news(self, now: int) -> dict[str, Any] | None:
        """A `status` message where the state is another than the one told last, which it is from then on."""
        state = self.state(now)
        if state is self.told:
            return None
        self.told = state
        return {"type": "status", "ts": now, "feed": self.feed.name, "state": state, "age_ms": self.age_ms(now)}
