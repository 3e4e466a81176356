"""Access: what it costs to ask for tokens, as a part of what fan-out costs without.

The same clients watch the same symbols of the same feed, once where nobody is asked who they are and once where each
shows a token whose grant is of some symbols, a slowest pace and an end: so every check that there is takes place. The
two follow each other within a run: five runs are five pairs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.fanout import HZ, SYMBOLS, subscriptions
from benchmarks.figures import Benchmark, Figure, Measured, Scale, at_most
from benchmarks.processes import MeterError, Reading, metered, running
from ticker.access import Rights
from ticker.keys import add

FIGURES: Final = (
    Figure("access, 2,000 clients with tokens: CPU an item, as a multiple of that without", "", at_most(1.05)),
    Figure("access, without tokens: items per CPU second", "items/s"),
    Figure("access, with tokens: items per CPU second", "items/s"),
)
RIGHTS: Final = Rights(("SIM*", "OTHER"), 0, ("ticker", "bars"), symbols_max=100, interval_ms_min=50)
DAY_US: Final = 86_400_000_000


def access(scale: Scale) -> Measured:
    """One pair."""
    messages, seconds = subscriptions(scale.of(2000, 100), own=True), scale.of(5, 1)
    open_ = _served(messages, seconds)
    with TemporaryDirectory() as folder:
        keys, now = Path(folder) / "keys.json", time.time_ns() // 1000
        token = add(keys, "bench", RIGHTS, now, now + DAY_US)
        flags = ("--api-keys-file", str(keys), "--connections-per-subject-max", str(len(messages)))
        guarded = _served(messages, seconds, *flags, header=f"Authorization: Bearer {token}")
    return {
        FIGURES[0].name: open_.items_per_cpu_s / guarded.items_per_cpu_s,
        FIGURES[1].name: open_.items_per_cpu_s,
        FIGURES[2].name: guarded.items_per_cpu_s,
    }


def _served(messages: list[str], seconds: int, *flags: str, header: str | None = None) -> Reading:
    command = (sys.executable, "-m", "benchmarks.serve", "serve", "--port", "0", "--log-level", "warning", *flags)
    with running((*command, "--feed", f"even:?symbols={SYMBOLS}&hz={HZ}"), ready="/readyz") as server:
        found = metered(server, messages, warm_s=2, seconds=seconds, header=header)
    if found.closed:
        raise MeterError(f"expected every connection to hold, {found.closed} were closed")
    return found


BENCHMARKS: Final = (Benchmark("access", FIGURES, access, meters=True),)
