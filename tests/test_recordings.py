"""The main job, end to end: real recorded data from a file, through a real server, to clients in another process."""

from __future__ import annotations

import asyncio
import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import connect

from tests.servers import Server, serving
from ticker.mirror import Item, Mirror

RECORDING = Path(__file__).parent.parent.parent / "shared" / "data" / "binance6"
FORMATS = ("csv.gz", "ndjson.gz", "parquet")
INTERVALS_MS = (0, 20, 100, 250, 1000)
WAIT_S_MAX = 60

pytestmark = pytest.mark.skipif(not RECORDING.is_dir(), reason="the recording ../shared/data/binance6 is not here")


# -- what must come out, computed from the CSV alone, in decimals, one row at a time -------------------------------


@dataclass
class Book:
    """One symbol as it must be after its rows so far."""

    seq: int = 0
    n: int = 0
    ts: int = 0
    quote: tuple[Decimal, ...] = ()
    last: tuple[Decimal, Decimal, int] | None = None
    trades: list[tuple[Decimal, Decimal]] = field(default_factory=list)
    newest: dict[str, int] = field(default_factory=dict)
    price_decimals: int = 0
    size_decimals: int = 0

    def item(self, symbol: str, session: int) -> Item:
        bid, bid_size, ask, ask_size = self.quote
        assert self.last is not None
        prices = [price for price, _ in self.trades]
        volume = sum((size for _, size in self.trades), Decimal(0))
        vwap = sum((price * size for price, size in self.trades), Decimal(0)) / volume
        change = self.last[0] - prices[0]
        return {
            "symbol": symbol,
            "seq": self.seq,
            "n": self.n,
            "ts": self.ts,
            "bid": float(bid),
            "bid_size": float(bid_size),
            "ask": float(ask),
            "ask_size": float(ask_size),
            "last": float(self.last[0]),
            "last_size": float(self.last[1]),
            "last_ts": self.last[2],
            "open": float(prices[0]),
            "high": float(max(prices)),
            "low": float(min(prices)),
            "volume": float(volume),
            "vwap": float(round(vwap, self.price_decimals + 2)),
            "trades": len(prices),
            "change": float(change),
            "change_pct": float(round(change / prices[0] * 100, 4)),
            "session": session,
        }


def decimals(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return max(0, -exponent)


def expected() -> dict[str, Item]:
    books: dict[str, Book] = {}
    session = 0
    with gzip.open(RECORDING / "binance6_l1.csv.gz", "rt", newline="") as file:
        for seq, row in enumerate(csv.DictReader(file), 1):
            recv_us = int(row["recv_ns"]) // 1000
            session = session or recv_us  # all six start within the session, once reading has begun
            book = books.setdefault(f"{row['venue']}:{row['symbol']}", Book())
            book.seq, book.n = seq, book.n + 1
            names = ("price", "size") if row["type"] == "trade" else ("bid", "bid_size", "ask", "ask_size")
            values = tuple(Decimal(row[name]) for name in names)
            for name, value in zip(names, values, strict=True):
                if name.endswith("size"):
                    book.size_decimals = max(book.size_decimals, decimals(value))
                else:
                    book.price_decimals = max(book.price_decimals, decimals(value))
            event_us = int(row["exch_ms"]) * 1000 if row["exch_ms"] else None
            late = event_us is not None and event_us < book.newest.get(row["type"], event_us)
            time = recv_us if event_us is None else event_us
            if not late:
                book.ts = time
                if event_us is not None:
                    book.newest[row["type"]] = event_us
            if row["type"] == "trade":
                book.trades.append((values[0], values[1]))
                if not late:
                    book.last = values[0], values[1], time
            elif not late:
                book.quote = values
    return {symbol: book.item(symbol, session) for symbol, book in books.items()}


@pytest.fixture(scope="module")
def truth() -> dict[str, Item]:
    return expected()


# -- clients -------------------------------------------------------------------------------------------------------


class Watcher:
    """A client that holds the protocol's guarantees to its copy until it has had every tick."""

    def __init__(self, interval_ms: int, truth: dict[str, Item]) -> None:
        self.interval_ms = interval_ms
        self.truth = truth
        self.mirror = Mirror()
        self.updates = 0
        self.volume: dict[str, float] = {}
        self.skipped = 0

    async def watch(self, url: str, symbols: Sequence[str] = ("*",)) -> None:
        async with asyncio.timeout(WAIT_S_MAX), connect(url, compression=None, max_size=None) as socket:
            await socket.send(
                orjson.dumps({"op": "subscribe", "symbols": symbols, "interval_ms": self.interval_ms}).decode()
            )
            while not self.complete:
                self.take(orjson.loads(await socket.recv()))

    @property
    def complete(self) -> bool:
        items = self.mirror.items
        return len(items) == len(self.truth) and all(items[name]["n"] == item["n"] for name, item in self.truth.items())

    def take(self, message: dict[str, Any]) -> None:
        assert message["type"] != "error", message
        before = {name: item["seq"] for name, item in self.mirror.items.items()}
        assert not self.mirror.apply(message), "a chain broke"
        if message["type"] == "update":
            self.updates += 1
        if message["type"] == "slow":
            self.skipped += message["skipped"]
        for item in message.get("items", ()):
            assert item["seq"] >= before.get(item["symbol"], 0), "time ran backwards"


async def watch_all(server: Server, truth: dict[str, Item]) -> list[Watcher]:
    watchers = [Watcher(interval_ms, truth) for interval_ms in INTERVALS_MS]
    async with asyncio.TaskGroup() as group:
        for watcher in watchers:
            group.create_task(watcher.watch(server.stream))
    return watchers


@pytest.mark.parametrize("format", FORMATS)
async def test_every_format_at_full_speed_ends_in_the_states_that_the_file_says(
    format: str, truth: dict[str, Item]
) -> None:
    feed = f"replay:{RECORDING}/binance6_l1.{format}?speed=max"
    with serving(feed, ready=False) as server:
        for watcher in await watch_all(server, truth):
            assert watcher.mirror.items == truth, f"interval {watcher.interval_ms}"
        assert server.get("/readyz").json()["feeds"]["replay"]["state"] == "ended"


async def test_clients_that_watch_it_happen_end_in_the_same_states_at_every_interval(truth: dict[str, Item]) -> None:
    feed = f"replay:{RECORDING}/binance6_l1.parquet?speed=40"
    with serving(feed, ready=False) as server:
        for watcher in await watch_all(server, truth):
            assert watcher.mirror.items == truth, f"interval {watcher.interval_ms}"
            assert watcher.updates >= 1 + 1000 // max(watcher.interval_ms, 20), "it was not sent round by round"
            assert not watcher.skipped


async def test_the_three_formats_as_one_merged_feed_is_each_row_three_times(truth: dict[str, Item]) -> None:
    with serving(f"replay:{RECORDING}?speed=max") as server:
        while server.get("/readyz").json()["feeds"]["replay"]["state"] != "ended":
            await asyncio.sleep(0.05)
        items = {item["symbol"]: item for item in server.get("/v1/snapshot?symbols=*").json()["items"]}
    for symbol, item in truth.items():
        assert items[symbol]["n"] == 3 * item["n"]
        assert items[symbol]["trades"] == 3 * item["trades"]
        assert {name: items[symbol][name] for name in ("bid", "ask", "last", "high", "low", "vwap")} == {
            name: item[name] for name in ("bid", "ask", "last", "high", "low", "vwap")
        }


async def test_the_same_data_by_snapshot_and_by_server_sent_events(truth: dict[str, Item]) -> None:
    import httpx2 as httpx

    with serving(f"replay:{RECORDING}/binance6_l1.parquet?speed=max") as server:
        while server.get("/readyz").json()["feeds"]["replay"]["state"] != "ended":
            await asyncio.sleep(0.05)
        body = server.get("/v1/snapshot?symbols=" + ",".join(truth)).json()
        assert {item["symbol"]: item for item in body["items"]} == truth
        watcher = Watcher(100, truth)
        async with (
            httpx.AsyncClient() as http,
            http.stream("GET", server.url + "/v1/sse?symbols=*&interval_ms=100") as events,
        ):
            async for line in events.aiter_lines():
                if line.startswith("data: "):
                    watcher.take(orjson.loads(line.removeprefix("data: ")))
                if watcher.complete:
                    break
        assert watcher.mirror.items == truth
