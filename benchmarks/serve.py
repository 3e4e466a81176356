"""`ticker serve` as it is, with two more kinds of feed for `--feed`.

``even:?symbols=500&hz=10``: each symbol has one quote in every 1/hz seconds, with another bid, ask and size than the one
before: so every round of that interval holds every symbol that is watched, and it is known how many items are due.

``stamped:?symbols=500&rate=5000``: the simulator's ticks, each of which has for its time the moment at which its batch is
handed to the service: so an item's `ts` says when the newest tick in it came in.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np

from feeds import options
from feeds.clock import Clock
from feeds.feed import FeedStats, Lateness
from feeds.simulated import open_simulated, symbol_names
from feeds.spec import SCHEMES
from feeds.ticks import NO_TIME, QUOTE, Symbols, Ticks
from ticker.cli import main

#: The quotes of 1/hz seconds come in so many batches: one, since what it costs to take a batch in is measured apart.
BATCHES: Final = 1


def open_even(spec: options.Spec, symbols: Symbols, name: str, clock: Clock, _: Lateness) -> Even:
    count = spec.option("symbols", 500, options.whole(1, 100_000), "a whole number from 1")
    hz = spec.option("hz", 10, options.whole(1, 1000), "a whole number from 1")
    spec.done()
    return Even(count, hz, symbols, name=name, clock=clock)


class Even:
    """A feed that never ends, in which each symbol has one quote in every 1/hz seconds."""

    closed: Final = True
    warm: Final = True
    trouble: Final = None

    def __init__(self, count: int, hz: int, symbols: Symbols, *, name: str, clock: Clock) -> None:
        self.name = name
        self.epoch = "even-1"
        self.stats = FeedStats()
        self._clock = clock
        self._pause_us = 1_000_000 // (hz * BATCHES)
        self._parts = np.array_split(symbols.claim_all(symbol_names(count), symbols.part(name)), BATCHES)

    async def __aiter__(self) -> AsyncGenerator[Ticks]:
        number = made = 0
        # Half a batch past the multiples of the interval, at which rounds fall: no quote comes just before or after one.
        due = self._clock.now() // 1_000_000 * 1_000_000 + 1_000_000 + self._pause_us // 2
        while True:
            await self._clock.sleep_until(due)
            now = self._clock.now()
            batches: list[Ticks] = []
            while due <= now or not batches:  # what has fallen due while the service was busy leaves as one batch
                turn, part = divmod(made, BATCHES)
                batches.append(quotes(self._parts[part], number, turn, now))
                number += len(batches[-1])
                made += 1
                due += self._pause_us
            self.stats.ticks = number
            yield Ticks.concat(batches)


def quotes(rows: np.typing.NDArray[np.int64], number: int, turn: int, now: int) -> Ticks:
    """One quote for each of `rows`, numbered on from `number`; every turn has another bid, ask and size."""
    n = len(rows)
    cents = 10_000 + rows * 7 + turn % 5000
    none = np.full(n, np.nan)
    return Ticks(
        row=rows,
        seq=np.arange(number + 1, number + n + 1),
        kind=np.full(n, QUOTE, np.uint8),
        ts_event=np.full(n, now),
        ts_recv=np.full(n, NO_TIME),
        bid=cents / 100,
        bid_size=(100 + (rows + turn) % 900).astype(np.float64),
        ask=(cents + 2) / 100,
        ask_size=np.full(n, 100.0),
        price=none,
        size=none,
    )


def open_stamped(spec: options.Spec, symbols: Symbols, name: str, clock: Clock, _: Lateness) -> Stamped:
    return Stamped(open_simulated(spec, symbols, name, clock), clock)


class Stamped:
    """Another feed's ticks, each with the time at which its batch is handed over."""

    warm: Final = True
    trouble: Final = None

    def __init__(self, feed: Any, clock: Clock) -> None:
        self.name, self.epoch, self.closed, self.stats = feed.name, feed.epoch, feed.closed, feed.stats
        self._feed = feed
        self._clock = clock

    async def __aiter__(self) -> AsyncGenerator[Ticks]:
        async for ticks in self._feed:
            now = np.full(len(ticks), self._clock.now())
            yield replace(ticks, ts_event=now, ts_recv=now)


if __name__ == "__main__":
    cast(dict[str, Any], SCHEMES).update(even=open_even, stamped=open_stamped)
    main()
