"""A soak: clients that come, stall, change their minds and go, for minutes. `make soak` runs it."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.servers import Server, serving
from ticker.mirror import Mirror

CLIENTS = 150
LASTS_S = 120
LISTS = (["*"], ["SIM0*"], ["SIM001", "SIM002", "SIM10*"], ["SIM001", "NONE"])


class Fickle:
    """A client of many connections that holds the server to its guarantees through all of them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.mirror = Mirror()
        self.connections = 0

    async def live(self, server: Server, until: float) -> None:
        while time.monotonic() < until:
            with suppress(ConnectionClosed):
                await self.connection(server, until)
            self.connections += 1

    async def connection(self, server: Server, until: float) -> None:
        leaves = min(until, time.monotonic() + self.random.expovariate(1 / 4))
        async with connect(server.stream, compression=None, max_queue=4, close_timeout=0.1) as socket:
            welcome = orjson.loads(await socket.recv())
            held = self.mirror.since() if welcome["epoch"] == self.mirror.epoch else {}
            self.mirror.apply(welcome)
            await socket.send(self.subscription(held, welcome["epoch"]))
            while time.monotonic() < leaves:
                if self.random.random() < 0.002:
                    await asyncio.sleep(self.random.uniform(0, 2))
                if self.random.random() < 0.002:
                    await socket.send(self.subscription({}, ""))
                self.take(orjson.loads(await socket.recv()))

    def subscription(self, since: dict[str, int], epoch: str) -> str:
        command = {
            "op": "subscribe",
            "symbols": self.random.choice(LISTS),
            "interval_ms": self.random.choice((0, 20, 100, 500)),
        }
        return orjson.dumps({**command, **({"since": since, "epoch": epoch} if since else {})}).decode()

    def take(self, message: dict[str, object]) -> None:
        assert message["type"] != "error", message
        before = self.mirror.since()
        broken = self.mirror.apply(message)
        assert not broken, f"a chain broke: {broken}"
        after = self.mirror.since()
        assert all(after[symbol] >= seq for symbol, seq in before.items()), "time ran backwards"


@pytest.mark.slow
async def test_memory_is_flat_and_every_guarantee_holds_while_clients_come_and_go() -> None:
    with serving("sim:?symbols=200&rate=2000") as server:
        clients = [Fickle(seed) for seed in range(CLIENTS)]
        until = time.monotonic() + LASTS_S
        memory: list[int] = []
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.live(server, until))
            while time.monotonic() < until:
                await asyncio.sleep(5)
                memory.append(server.memory_bytes)
        assert sum(client.connections for client in clients) > CLIENTS * LASTS_S / 20
        middle = len(memory) // 2
        assert max(memory[middle:]) < 1.1 * max(memory[:middle]), memory
    assert "Traceback" not in "".join(server.log)
