"""A scrape of the metrics, with 5,000 clients: how long it takes, which is how long the loop stands still for it."""

from __future__ import annotations

import random
import time
from statistics import median
from typing import Final

from benchmarks.fanout import SEED, SYMBOLS, WATCHED
from benchmarks.figures import Benchmark, Figure, Measured, Scale, at_most
from benchmarks.rounds import Sink
from feeds.clock import WallClock
from feeds.options import Spec
from feeds.simulated import open_simulated, symbol_names
from feeds.ticks import Symbols
from ticker.credentials import Credentials
from ticker.gate import Gate
from ticker.metrics import Metrics
from ticker.protocol import Subscribe
from ticker.service import Service
from ticker.settings import Settings
from ticker.tiers import Tiers

FIGURES: Final = (
    Figure("a scrape with 5,000 clients: median", "ms", at_most(50)),
    Figure("a scrape with 5,000 clients: longest pause of the loop", "ms", at_most(5)),
)
SCRAPES: Final = 50


def scrape(scale: Scale) -> Measured:
    """One run: a hub full of clients, scraped again and again."""
    settings, symbols, clock = Settings(), Symbols(), WallClock()
    feed = open_simulated(Spec(f"sim:?symbols={SYMBOLS}"), symbols, "sim", clock)
    tiers = Tiers([Service(settings, symbols, [feed], clock)])
    hub, now, choice = tiers.live.hub, clock.now(), random.Random(SEED)
    names = symbol_names(SYMBOLS)
    for _ in range(scale.of(5000, 200)):
        client = hub.join(Sink(), now)
        hub.receive(client, Subscribe(None, tuple(choice.sample(names, WATCHED))), now)
    metrics = Metrics(tiers, None, Credentials(settings), Gate(settings, now))
    taken: list[float] = []
    for _ in range(scale.of(SCRAPES, 5)):
        began = time.perf_counter()
        metrics.render("")
        taken.append((time.perf_counter() - began) * 1000)
    return {FIGURES[0].name: median(taken), FIGURES[1].name: max(taken)}


BENCHMARKS: Final = (Benchmark("scrape", FIGURES, scrape),)
