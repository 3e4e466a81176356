"""What fan-out is compared with: a plain Starlette endpoint that awaits one `send_json` for each update.

The same items at the same pace to as many clients, on the same uvicorn and uvloop; each item is made once for all of
them. `python -m benchmarks.naive SYMBOLS HZ` prints its port. It never ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from benchmarks.serve import quotes
from feeds.clock import WallClock
from feeds.simulated import symbol_names


class Market:
    """The items of the newest round by symbol, and a wait for the next one."""

    def __init__(self, count: int, hz: int) -> None:
        self._hz = hz
        self._names = symbol_names(count)
        self._clock = WallClock()
        self._news = asyncio.Event()
        self.items: dict[str, dict[str, Any]] = {}

    async def next(self) -> None:
        await self._news.wait()

    async def run(self) -> None:
        rows = np.arange(len(self._names))
        turn, number = 0, 0
        while True:
            await asyncio.sleep(1 / self._hz)
            ticks = quotes(rows, number, turn, self._clock.now())
            columns = (ticks.seq, ticks.ts, ticks.bid, ticks.bid_size, ticks.ask)
            self.items = {
                name: {
                    "symbol": name, "prev": seq - len(rows), "seq": seq, "n": 1, "ts": ts,
                    "bid": bid, "bid_size": bid_size, "ask": ask,
                }
                for name, seq, ts, bid, bid_size, ask in zip(
                    self._names, *(column.tolist() for column in columns), strict=True
                )
            }  # fmt: skip
            turn, number = turn + 1, number + len(rows)
            news, self._news = self._news, asyncio.Event()
            news.set()


def create_app(market: Market) -> Starlette:
    async def stream(websocket: WebSocket) -> None:
        await websocket.accept()
        symbols = json.loads(await websocket.receive_text())["symbols"]
        while True:
            await market.next()
            for symbol in symbols:
                await websocket.send_json(market.items[symbol])

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(market.run())
        yield
        running.cancel()

    return Starlette(routes=[WebSocketRoute("/v1/stream", stream)], lifespan=lifespan)


def main(count: int, hz: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        create_app(Market(count, hz)),
        loop="uvloop",
        ws_per_message_deflate=False,
        backlog=4096,
        log_level="critical",
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
