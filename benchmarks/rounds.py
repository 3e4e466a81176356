"""The cost of a round in the hub, without any socket: it grows with (clients x symbols that changed for them).

Everything is as in the service but for the outlets, which take each message and do nothing with it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from benchmarks.figures import Benchmark, Figure, Measured, Scale, at_most
from benchmarks.serve import quotes
from feeds.simulated import symbol_names
from feeds.ticks import Symbols
from ticker.audiences import Message
from ticker.errors import Close
from ticker.hub import Hub
from ticker.protocol import FRAMED, Subscribe
from ticker.quotes import QuoteTable
from ticker.settings import Settings

INTERVAL_US: Final = 100_000

FIGURES: Final = (
    Figure("round, 100,000 quiet symbols: nothing changed", "ms", at_most(1)),
    Figure("round, 100,000 quiet symbols: one changed", "ms", at_most(1)),
    Figure("round, 1,000 quiet symbols: one changed", "ms"),
    Figure("round, 100 clients x 20 changed: each (client, symbol)", "ns"),
    Figure("round, 1,000 clients x 20 changed: each (client, symbol)", "ns"),
    Figure("round, 1,000 clients x 100 changed: each (client, symbol)", "ns"),
)


class Sink:
    """An outlet that takes everything and keeps nothing."""

    encoding = FRAMED
    transport = "websocket"

    def __init__(self) -> None:
        self.messages = 0

    def offer(self, *messages: Message) -> bool:
        self.messages += len(messages)
        return True

    def send(self, *messages: Message) -> None:
        self.messages += len(messages)

    def unsent(self) -> int:
        return 0

    def close(self, close: Close) -> None:
        raise AssertionError(f"expected no end, was {close}")


class Market:
    """A hub over `symbols` that are all quoted, with a client for each of `lists`, the rows that it watches."""

    def __init__(self, symbols: int, lists: Iterable[Sequence[int]]) -> None:
        self.symbols = Symbols()
        self.rows = self.symbols.claim_all(symbol_names(symbols), self.symbols.part("bench"))
        self.table = QuoteTable(self.symbols)
        self.hub = Hub(self.table, Settings(), {"bench": "bench-1"})
        self.now = 1_700_000_000_000_000
        self.turn = self.number = 0
        self.sink = Sink()
        self.change(self.rows)
        names = self.symbols.names
        for watched in lists:
            command = Subscribe(None, tuple(names[row] for row in watched), interval_ms=INTERVAL_US // 1000)
            self.hub.receive(self.hub.join(self.sink, self.now), command, self.now)
        for _ in range(2):
            self.change(self.rows)
            self.flush()

    def change(self, rows: np.typing.NDArray[np.int64]) -> None:
        self.turn += 1
        changes = self.table.apply(quotes(rows, self.number, self.turn, self.now))
        self.number += len(rows)
        self.hub.fold(changes)

    def flush(self) -> None:
        self.now += INTERVAL_US
        self.hub.flush(self.now)

    def round_s(self, rows: np.typing.NDArray[np.int64], times: int) -> float:
        """The time of a round in which `rows` have changed: the median of `times` rounds."""
        spent = []
        for _ in range(times):
            if len(rows):
                self.change(rows)
            start = time.perf_counter()
            self.flush()
            spent.append(time.perf_counter() - start)
        return float(np.median(spent))


def apart(symbols: int, clients: int) -> list[range]:
    """All rows dealt out among `clients`: each is watched, by one of them."""
    return [range(start, start + symbols // clients) for start in range(0, symbols, symbols // clients)]


def chosen(symbols: int, clients: int, watched: int) -> list[list[int]]:
    """Lists of `watched` rows each, every one by a choice of its own."""
    choice = random.Random(clients)
    return [choice.sample(range(symbols), watched) for _ in range(clients)]


def rounds(scale: Scale) -> Measured:
    times, quiet, less = scale.of(100, 5), scale.of(100_000, 5000), scale.of(1, 20)
    nothing, one = np.zeros(0, np.int64), np.array([3])
    many, few = Market(quiet, apart(quiet, 100)), Market(1000, apart(1000, 100))
    found = {
        "round, 100,000 quiet symbols: nothing changed": many.round_s(nothing, times) * 1e3,
        "round, 100,000 quiet symbols: one changed": many.round_s(one, times) * 1e3,
        "round, 1,000 quiet symbols: one changed": few.round_s(one, times) * 1e3,
    }
    for clients, watched in ((100, 20), (1000, 20), (1000, 100)):
        market = Market(500, chosen(500, clients // less, watched))  # all of them change in every round
        each_s = market.round_s(market.rows, max(5, times // 5)) / (clients // less * watched)
        found[f"round, {clients:,} clients x {watched} changed: each (client, symbol)"] = each_s * 1e9
    return found


BENCHMARKS: Final = (Benchmark("rounds", FIGURES, rounds),)
