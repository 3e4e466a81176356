"""What is counted as messages are sent: plain numbers, that the metrics read when they are asked. Pure.

Nothing here may cost anything to speak of: what a round sends is added up in local variables, and put here once a round.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final

from ticker.protocol import BARS, TICKER, TRADES

#: Upper bounds in seconds: from what a loop takes for nothing to what a trader takes for an outage.
DURATIONS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
LATENCIES_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Histogram:
    """How many values were at most each of some bounds, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds` are ascending; a last one without end is added."""
        self.bounds = bounds
        #: By bound: how many are above the one before and not above it.
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Tally:
    """What the lanes of one channel have sent."""

    __slots__ = ("changes", "items", "rounds", "skipped", "ticks")

    def __init__(self) -> None:
        #: Rounds of lanes in which there was something to send.
        self.rounds = 0
        #: Items, once for each client that was sent them; where one symbol may have several in a message, as one.
        self.items = 0
        #: Rounds that a client was skipped in.
        self.skipped = 0
        #: Changes of a symbol that were encoded, and the ticks that are in them.
        self.changes = 0
        self.ticks = 0


class Counts:
    """All that one process counts."""

    __slots__ = ("bytes", "closes", "durations", "lateness", "messages", "since_receive", "since_venue", "tallies")

    def __init__(self) -> None:
        #: By channel.
        self.tallies = {channel: Tally() for channel in (TICKER, TRADES, BARS)}
        #: Messages that were handed to sockets and responses, and their bytes, frames and all.
        self.messages = 0
        self.bytes = 0
        #: Connections that the server has closed, by close code.
        self.closes: Counter[int] = Counter()
        #: Seconds that the rounds of one moment took.
        self.durations = Histogram(DURATIONS_S)
        #: Seconds from the newest tick of a round to when it was sent: since its venue time, and since it came in.
        self.since_venue = Histogram(LATENCIES_S)
        self.since_receive = Histogram(LATENCIES_S)
        #: Seconds by which the event loop was late.
        self.lateness = Histogram(DURATIONS_S)
