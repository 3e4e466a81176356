"""What handshakes cost those who are connected: live latency beside 200 of them a second, and without.

    python -m benchmarks.handshakes [--clients 1000] [--rate 200] [--seconds 8]

One server, one run: the same clients are measured quiet, then busy, then quiet again. Latency is from an update's round to
the client's having read it, on one machine's clock; a sample of the clients takes it, the others only read.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import time
from typing import Final

import numpy as np
from websockets.asyncio.client import connect

from benchmarks.processes import cores, raise_limits, running

SYMBOLS: Final = 100
RATE: Final = 1000
INTERVAL_MS: Final = 100
CONNECTING: Final = 50
TS: Final = re.compile(rb'"ts":(\d+)')
UPDATE: Final = b'{"type":"update"'
SUBSCRIBE: Final = '{"op":"subscribe","symbols":["SIM001","SIM002"],"interval_ms":%d}'
#: Clients that take the time.
SAMPLE: Final = 50


class Readings:
    """Latencies in milliseconds, of the phase that is on."""

    def __init__(self) -> None:
        self.now: list[float] = []

    def note(self, data: bytes) -> None:
        at = data.find(UPDATE)
        if at >= 0 and (found := TS.search(data, at)):
            self.now.append((time.time_ns() // 1000 - int(found[1])) / 1000)


HANDSHAKE: Final = (
    b"GET /v1/stream HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def _watch(url: str, readings: Readings | None, gate: asyncio.Semaphore, joined: asyncio.Event) -> None:
    async with gate:
        socket = await connect(url, compression=None, ping_interval=None, proxy=None)
        interval_ms = INTERVAL_MS if readings is not None else 10 * INTERVAL_MS
        await socket.send(SUBSCRIBE % interval_ms)
        joined.set()
    async with socket:
        async for message in socket:
            if readings is not None:
                readings.note(str(message).encode())


async def _shake(port: int) -> bool:
    """One handshake; whether it was admitted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(HANDSHAKE)
        return (await reader.readline()).startswith(b"HTTP/1.1 101 ")
    finally:
        writer.close()


async def _shake_on(port: int, rate: int, seconds: float) -> int:
    """Handshakes at their rate for a time; how many were admitted."""
    loop = asyncio.get_running_loop()
    begun, tasks = loop.time(), []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + number / rate - loop.time()))
        tasks.append(asyncio.create_task(_shake(port)))
    return sum(await asyncio.gather(*tasks))


async def measure(port: int, clients: int, rate: int, seconds: float) -> tuple[list[float], float]:
    """The 99th percentiles quiet, busy and quiet again, in milliseconds, and the handshakes admitted a second."""
    readings, gate, url = Readings(), asyncio.Semaphore(CONNECTING), f"ws://127.0.0.1:{port}/v1/stream"
    joined = [asyncio.Event() for _ in range(clients)]
    tasks = [
        asyncio.create_task(_watch(url, readings if number < SAMPLE else None, gate, event))
        for number, event in enumerate(joined)
    ]
    found, admitted = [], 0
    try:
        async with asyncio.timeout(60):
            for event in joined:
                await event.wait()
        await asyncio.sleep(2)
        for busy in (False, True, False):
            readings.now = []
            if busy:
                admitted = await _shake_on(port, rate, seconds)
            else:
                await asyncio.sleep(seconds)
            found.append(float(np.percentile(readings.now, 99)))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return found, admitted / seconds


def main() -> int:
    """0 where all were admitted and latency was at most doubled."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.handshakes", description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=8)
    asked = parser.parse_args()
    raise_limits()
    feed = f"sim:?symbols={SYMBOLS}&rate={RATE}&seed=1"
    command = (sys.executable, "-m", "ticker", "serve", "--port", "0", "--log-level", "warning", "--feed", feed)
    with running(command, ready="/readyz") as server:
        os.sched_setaffinity(0, {cores()[1]})
        p99, admitted = asyncio.run(measure(server.port, asked.clients, asked.rate, asked.seconds))
    ratio = p99[1] / max(p99[0], p99[2])
    print(f"handshakes admitted a second: {admitted:.0f} of {asked.rate}")
    print(
        f"latency, 99th percentile in ms: quiet {p99[0]:.2f}, busy {p99[1]:.2f}, quiet {p99[2]:.2f}; ratio {ratio:.2f}"
    )
    return 0 if admitted >= 0.99 * asked.rate and ratio <= 2 else 1


if __name__ == "__main__":
    sys.exit(main())
