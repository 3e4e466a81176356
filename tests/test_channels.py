"""Trades and bars at the edge: over WebSocket, Server-Sent Events and plain HTTP, live and replayed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.servers import Server, serving
from tests.test_replays import Replay, day, replaying

SECOND = 1_000_000
Message = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    source = day(tmp_path_factory.mktemp("sources") / "day.csv")
    with serving("sim:?symbols=5&rate=500&seed=3", flags=["--source", f"day={source}"]) as running:
        yield running


@asynccontextmanager
async def streaming(server: Server) -> AsyncIterator[ClientConnection]:
    async with connect(server.stream, compression=None, max_size=None, close_timeout=1) as socket:
        await socket.recv()
        yield socket


async def until(socket: ClientConnection, what: str, count: int = 1) -> list[Message]:
    """The next so many messages of a type."""
    found: list[Message] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            message = json.loads(await socket.recv())
            if message["type"] == what:
                found.append(message)
    return found


def of(messages: list[Message], symbol: str) -> list[Message]:
    return [item for message in messages for item in message["items"] if item["symbol"] == symbol]


def first_symbol(server: Server) -> str:
    name: str = server.get("/v1/symbols").json()["items"][0]["symbol"]
    return name


# -- live ----------------------------------------------------------------------------------------------------------


async def test_the_stream_of_trades_is_what_the_list_of_trades_has(server: Server) -> None:
    symbol = first_symbol(server)
    async with streaming(server) as socket:
        await socket.send(json.dumps({"op": "subscribe", "channel": "trades", "symbols": ["*"], "interval_ms": 50}))
        told = of(await until(socket, "trades", 25), symbol)
    answer = server.get(f"/v1/trades/{symbol}?limit=500").json()
    assert answer["symbol"] == symbol
    listed = answer["items"]
    at = listed.index(told[0])
    assert listed[at : at + len(told)] == told
    assert len(server.get(f"/v1/trades/{symbol}?limit=3").json()["items"]) == 3


async def test_bars_close_once_and_the_list_of_bars_has_them(server: Server) -> None:
    symbol = first_symbol(server)
    async with streaming(server) as socket:
        await socket.send(
            json.dumps({"op": "subscribe", "channel": "bars", "interval": "1s", "symbols": [symbol], "interval_ms": 50})
        )
        closed: list[Message] = []
        async with asyncio.timeout(30):
            while len(closed) < 3:
                closed += [bar for bar in of(await until(socket, "bars"), symbol) if bar["closed"]]
    assert len({bar["start"] for bar in closed}) == len(closed), "each closes once"
    listed = {bar["start"]: bar for bar in server.get(f"/v1/bars/{symbol}?interval=1s").json()["items"]}
    assert all(listed[bar["start"]] == bar for bar in closed)
    day_bar = server.get(f"/v1/bars/{symbol}?interval=1d").json()["items"][-1]
    (item,) = server.get(f"/v1/snapshot?symbols={symbol}").json()["items"]
    assert (day_bar["open"], day_bar["trades"] <= item["trades"]) == (item["open"], True)


async def test_events_of_trades_resume_without_a_hole(server: Server) -> None:
    symbol = first_symbol(server)
    url = f"{server.url}/v1/sse?symbols=*&channel=trades&interval_ms=20"
    told: list[Message] = []
    last: str | None = None
    for _ in range(4):
        headers = {"last-event-id": last} if last else {}
        with httpx.Client(timeout=10) as http, http.stream("GET", url, headers=headers) as events:
            seen = 0
            for line in events.iter_lines():
                if line.startswith("id: "):
                    last = line[4:]
                    seen += 1
                elif line.startswith("data: "):
                    message = json.loads(line[6:])
                    assert message["type"] != "gap"
                    if message["type"] == "trades":
                        told += of([message], symbol)
                elif not line and seen >= 5:
                    break
        await asyncio.sleep(0.2)
    listed = server.get(f"/v1/trades/{symbol}?limit=500").json()["items"]
    at = listed.index(told[0])
    assert listed[at : at + len(told)] == told


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v1/trades/NONE", 404, "symbol: expected one that a feed has brought, was 'NONE'"),
        ("/v1/trades/{}?limit=0", 400, "limit: expected 1 to 500, was '0'"),
        ("/v1/bars/{}", 400, "interval: expected one of 1s, 1m, 5m, 1h, 1d, was none"),
        ("/v1/bars/{}?interval=2s", 400, "interval: expected one of 1s, 1m, 5m, 1h, 1d, was '2s'"),
        ("/v1/sse?symbols=*&channel=bars", 400, "subscribe: expected interval, which is missing"),
        ("/v1/sse?symbols=*&channel=trades&fields=bid", 400, "subscribe of trades: expected one of"),
    ],
)
def test_bad_input(server: Server, path: str, status: int, text: str) -> None:
    answer = server.get(path.format(first_symbol(server)))
    assert answer.status_code == status
    assert answer.json()["message"].startswith(text)


# -- replayed ------------------------------------------------------------------------------------------------------


async def watch(replay: Replay, *, interval_ms: int = 100, bar: str = "1s") -> None:
    more = {"symbols": ["*"], "interval_ms": interval_ms}
    await replay.say("subscribe", channel="trades", **more)
    await replay.until("subscribed")
    await replay.say("subscribe", channel="bars", interval=bar, **more)
    await replay.until("subscribed")
    replay.told = []


async def play(replay: Replay) -> list[bytes]:
    await replay.control("play")
    await replay.until("replay_completed")
    return replay.told


@pytest.mark.parametrize("interval_ms", [0, 100, 700])
async def test_trades_and_bars_are_the_same_bytes_at_any_speed(server: Server, interval_ms: int) -> None:
    runs = []
    for speed in ("max", "200"):
        async with replaying(server, speed=speed) as replay:
            await watch(replay, interval_ms=interval_ms)
            runs.append(await play(replay))
    assert runs[0] == runs[1]
    messages = [json.loads(raw) for raw in runs[0]]
    trades = [item for message in messages if message["type"] == "trades" for item in message["items"]]
    assert len(trades) == 5000
    closed = [
        (b["symbol"], b["start"], b["rev"]) for m in messages if m["type"] == "bars" for b in m["items"] if b["closed"]
    ]
    assert len(closed) == len(set(closed))
    assert len(closed) > 250


async def test_after_a_seek_the_bars_of_that_time_go_on_and_trades_from_there(server: Server) -> None:
    runs = []
    for way in ((), (90,), (60, 95), (10,)):
        async with replaying(server, speed="max") as replay:
            start = replay.welcome["from"]
            await watch(replay, bar="1m")
            for seconds in way:
                await replay.control("seek", ts=start + seconds * SECOND)
            await replay.control("seek", ts=start + 75 * SECOND)
            replay.told = []
            told = [message async for message in rest(replay)]
            runs.append(told)
    assert runs[0] == runs[1] == runs[2] == runs[3]
    bars = [item for message in runs[0] if message["type"] == "bars" for item in message["items"]]
    assert len({bar["symbol"] for bar in bars}) == 3
    trades = [item for message in runs[0] if message["type"] == "trades" for item in message["items"]]
    assert min(trade["ts"] for trade in trades) >= start + 75 * SECOND


async def rest(replay: Replay) -> AsyncIterator[Message]:
    """What is told of trades and bars to the end."""
    for raw in await play(replay):
        yield json.loads(raw)


async def test_a_bar_closes_in_a_pause_of_trading_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.feeds.conftest import T0, quote, trade, write_csv

    path = write_csv(
        tmp_path_factory.mktemp("gap") / "gap.csv",
        [trade(T0, "A", price=1.0, size=1.0), quote(T0 + 60 * SECOND, "A", bid=1.0, ask=2.0)],
    )
    with serving("sim:?symbols=1&rate=1", flags=["--source", f"day={path}"]) as running:
        async with replaying(running, speed="max") as replay:
            await watch(replay)
            messages = [json.loads(raw) for raw in await play(replay)]
    bars = [
        (message["ts"], bar["closed"]) for message in messages if message["type"] == "bars" for bar in message["items"]
    ]
    start = T0 - T0 % SECOND
    assert bars == [(T0 - T0 % 100_000 + 100_000, False), (start + 2 * SECOND, True)]
