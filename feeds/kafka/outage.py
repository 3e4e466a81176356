"""A source that cannot be read: how long to wait before the next attempt, and what to say of it meanwhile."""

from __future__ import annotations

import logging
import random
import time
from typing import Final

log: Final = logging.getLogger(__name__)

#: Pauses are drawn at random up to a limit that doubles with each, from the first of these to the last.
PAUSE_S_MIN, PAUSE_S_MAX = 0.25, 5.0
#: Pauses begin with the first again after an outage that was over for so long.
CALM_S: Final = 10.0
#: What is said once is said again after so long, if it still holds.
SAID_PAUSE_S: Final = 60.0
#: Different causes of one outage that are said, each once.
CAUSES_MAX: Final = 5


class Outage:
    """What stands in the way of one feed, if anything does."""

    def __init__(self, name: str) -> None:
        self._name = name
        #: Why nothing, or not everything, can be read; None while all is well.
        self.cause: str | None = None
        self._began = 0.0
        self._said_at = 0.0
        self._said: set[str] = set()
        self._pauses = 0
        self._over_at = -CALM_S

    def goes_on(self, cause: str) -> None:
        """Nothing can be read, or not everything. The log is told of each cause once, and of the outage once a minute."""
        now = time.monotonic()
        if self.cause is None:
            self._began = now
            if now - self._over_at >= CALM_S:
                self._pauses = 0
        self.cause = cause
        if cause not in self._said and len(self._said) < CAUSES_MAX:
            self._said.add(cause)
            self._said_at = now
            log.warning("feed %s: cannot read: %s", self._name, cause)
        elif now - self._said_at >= SAID_PAUSE_S:
            self._said_at = now
            log.warning("feed %s: cannot read for %.0f s: %s", self._name, now - self._began, cause)

    def is_over(self) -> None:
        """Everything can be read."""
        if self.cause is not None:
            self._over_at = time.monotonic()
            log.info("feed %s: reading again after %.0f s", self._name, self._over_at - self._began)
        self.cause = None
        self._said.clear()

    def pause_s(self) -> float:
        """How long to wait before the next attempt."""
        limit = min(PAUSE_S_MAX, PAUSE_S_MIN * 2**self._pauses)
        self._pauses = min(self._pauses + 1, 32)
        return random.uniform(PAUSE_S_MIN / 2, limit)  # noqa: S311 - spreads load, hides nothing
