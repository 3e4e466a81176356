"""A feed that a test turns by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import numpy as np

from feeds.feed import Anew, FeedError, FeedStats
from feeds.ticks import NO_TIME, QUOTE, Symbols, Ticks

NOON = 1_723_161_600_000_000


@dataclass
class HandFeed:
    """A feed of what the test puts in."""

    symbols: Symbols
    name: str = "hand"
    epoch: str = "hand-1"
    closed: bool = False
    stats: FeedStats = field(default_factory=FeedStats)
    #: Warm with its first batch, where it is not told otherwise.
    warm: bool = False
    trouble: str | None = None
    seq: int = 0
    batches: asyncio.Queue[Ticks | Anew | FeedError | None] = field(default_factory=asyncio.Queue)

    async def __aiter__(self) -> AsyncGenerator[Ticks | Anew]:
        while (batch := await self.batches.get()) is not None:
            if isinstance(batch, Exception):
                raise batch
            self.warm = True
            yield batch

    def quotes(self, **bids: float) -> Ticks:
        """A batch of one quote a symbol: one seq each, a spread of 0.5."""
        bid = np.array(list(bids.values()), np.float64)
        seq = np.arange(self.seq + 1, self.seq + 1 + len(bid))
        self.seq += len(bid)
        nothing = np.full(len(bid), np.nan)
        return Ticks(
            row=self.symbols.claim_all(bids, self.symbols.part(self.name)),
            seq=seq,
            kind=np.full(len(bid), QUOTE, np.uint8),
            ts_event=NOON + seq,
            ts_recv=np.full(len(bid), NO_TIME),
            bid=bid,
            bid_size=np.ones(len(bid)),
            ask=bid + 0.5,
            ask_size=np.ones(len(bid)),
            price=nothing,
            size=nothing,
        )
