"""What the feeds' tests share: a hand-turned clock, small recordings, and the real ones beside the repository."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feeds.feed import Feed
from feeds.spec import open_feed
from feeds.ticks import Symbols, Ticks

#: Recordings for tests that lie beside the repository; tests that use them skip where they are absent.
SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"

T0 = 1_700_000_000_000_000


class HandClock:
    """A clock that stands still until someone sleeps on it: then it is that time at once. Notes each wake-up."""

    def __init__(self, now: int = T0) -> None:
        self.time = now
        self.woken: list[int] = []

    def now(self) -> int:
        return self.time

    async def sleep_until(self, time_us: int) -> None:
        self.time = max(self.time, time_us)
        self.woken.append(self.time)
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def binance6() -> dict[str, Path]:
    """The recording of six instruments in its three formats, by format."""
    folder = SHARED_DATA / "binance6"
    if not folder.is_dir():
        pytest.skip("../shared/data/binance6 is absent")
    return {file.name.split(".")[1]: file for file in sorted(folder.iterdir())}


async def batches_of(feed: Feed) -> AsyncIterator[Ticks]:
    """The batches of a feed whose log is never made anew."""
    async for batch in feed:
        assert isinstance(batch, Ticks)
        yield batch


async def collect(feed: Feed, most: int | None = None) -> list[Ticks]:
    """The batches of a feed, up to at least `most` ticks."""
    batches: list[Ticks] = []
    count = 0
    async for batch in batches_of(feed):
        batches.append(batch)
        count += len(batch)
        if most is not None and count >= most:
            break
    return batches


def sides_and_ids(ticks: Ticks) -> list[tuple[int, str | None]]:
    """Who took in each tick, and what the venue calls it."""
    ids = [None] * len(ticks) if ticks.trade_id is None else ticks.trade_id.to_pylist()
    return list(zip(ticks.sides.tolist(), ids, strict=True))


async def replayed(spec: str, symbols: Symbols | None = None) -> Ticks:
    """All ticks of an unpaced replay, at least one."""
    feed = open_feed(spec, Symbols() if symbols is None else symbols, clock=HandClock())
    return Ticks.concat(await collect(feed))


def quote(ts: object, symbol: object = "A", bid: object = 1, ask: object = 2, **more: object) -> dict[str, object]:
    return {"symbol": symbol, "ts_recv": ts, "bid": bid, "ask": ask, **more}


def trade(ts: object, symbol: object = "A", price: object = 1, size: object = 1, **more: object) -> dict[str, object]:
    return {"symbol": symbol, "ts_recv": ts, "price": price, "size": size, **more}


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join("" if row.get(name) is None else str(row[name]) for name in names) for row in rows]
    path.write_text("\n".join([",".join(names), *lines]) + "\n")
    return path


def write_ndjson(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path
