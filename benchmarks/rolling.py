"""A rolling restart: three replicas of one topic give way to three others while clients are connected.

    python -m benchmarks.rolling [--clients 3000] [--exact 150]

As a Deployment with `maxSurge: 100%` does it: new replicas start, and once they are ready the old ones get SIGTERM, all at
once. A balancer on 127.0.0.1 sends connections to ready replicas in turn. Most clients only shake hands, subscribe, read,
and come back when told to; some are real ones (`ticker.connect`), whose ticks are counted against those produced.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast

import orjson
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import ticker
from benchmarks.processes import raise_limits
from tests.brokers import Tansu, topics
from tests.servers import Server, serving
from ticker.client import Notice, ShuttingDown

REPLICAS: Final = 3
SYMBOLS: Final = tuple(f"S{number:02}" for number in range(20))
INTERVAL_MS: Final = 1000
#: Of the batches that are produced.
BATCH: Final = 100
PAUSE_S: Final = 0.25
#: How often the balancer asks whether a replica is ready.
PROBE_S: Final = 0.1
#: Clients that connect at once at the start.
CONNECTING: Final = 100
SETTLE_S: Final = 3.0


# -- the balancer --------------------------------------------------------------------------------------------------


class _Pipe(asyncio.Protocol):
    """Hands on what comes in to the other side, and its end."""

    def __init__(self) -> None:
        self.other: asyncio.Transport | None = None
        self.early = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early += data
        else:
            self.other.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


class _Entry(_Pipe):
    """A client's side of a connection through the balancer."""

    def __init__(self, balancer: Balancer) -> None:
        super().__init__()
        self._balancer = balancer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._balancer.keep(asyncio.create_task(self._balancer.join(self)))


class Balancer:
    """Sends connections to ready replicas in turn."""

    def __init__(self) -> None:
        self.ready: list[int] = []
        self.ports: list[int] = []
        self.sent: Counter[int] = Counter()
        self.port = 0
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Entry(self), "127.0.0.1", 0, backlog=4096)
        self.port = server.sockets[0].getsockname()[1]
        self.keep(asyncio.create_task(self._probe()))
        return server

    def keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def join(self, entry: _Entry) -> None:
        assert entry.transport is not None
        if not self.ready:
            entry.transport.abort()
            return
        port = self.ready[self._turn % len(self.ready)]
        self._turn += 1
        self.sent[port] += 1
        exit_ = _Pipe()
        try:
            await asyncio.get_running_loop().create_connection(lambda: exit_, "127.0.0.1", port)
        except OSError:
            entry.transport.abort()
            return
        assert exit_.transport is not None
        exit_.other, entry.other = entry.transport, exit_.transport
        exit_.transport.write(bytes(entry.early))
        if entry.transport.is_closing():
            exit_.transport.close()

    async def _probe(self) -> None:
        while True:
            self.ready = [port for port in self.ports if await _is_ready(port)]
            await asyncio.sleep(PROBE_S)


async def _is_ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: balancer\r\nconnection: close\r\n\r\n")
        return (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False
    finally:
        writer.close()


# -- the clients ---------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What the clients went through."""

    #: Connections after the first, by client; and when each came about.
    reconnects: Counter[int] = field(default_factory=Counter)
    at: list[float] = field(default_factory=list)
    #: Handshakes that were refused or cut.
    failures: int = 0
    #: Longest time without data, by light client, in seconds.
    gap_s: float = 0.0
    connected: int = 0
    #: Whole states that real clients were sent though they held them: by a replica that was behind them at first.
    again: int = 0
    #: What the real clients found wrong.
    flaws: list[str] = field(default_factory=list)


SUBSCRIBE: Final = orjson.dumps({"op": "subscribe", "symbols": SYMBOLS, "interval_ms": INTERVAL_MS}).decode()


async def _light(number: int, url: str, seen: Seen, gate: asyncio.Semaphore) -> None:
    """Shake hands, subscribe, read, and come back when told to."""
    first, last = True, 0.0
    while True:
        told, wait_s = False, 0.5
        try:
            async with gate:
                socket = await connect(url, compression=None, ping_interval=None, open_timeout=30, proxy=None)
                await socket.send(SUBSCRIBE)
            if first:
                seen.connected += 1
            else:
                seen.reconnects[number] += 1
                seen.at.append(time.monotonic())
            first = False
            async with socket:
                async for message in socket:
                    text = str(message)
                    if text.startswith('{"type":"shutdown"'):
                        told, wait_s = True, orjson.loads(text)["reconnect_after_ms"] / 1000
                    elif text.startswith(('{"type":"update"', '{"type":"snapshot"')):
                        now = time.monotonic()
                        seen.gap_s = max(seen.gap_s, now - last if last else 0.0)
                        last = now
        except (OSError, ConnectionClosed, TimeoutError):
            seen.failures += not told
        await asyncio.sleep(wait_s)


async def _exact(number: int, url: str, seen: Seen, counts: dict[str, int], quotes: dict[int, Any]) -> None:
    """Count every tick that a real client is told of, from what it was first told on."""

    def note(notice: Notice) -> None:
        if isinstance(notice, ShuttingDown):
            seen.reconnects[number] += 1
            seen.at.append(time.monotonic())

    async with ticker.connect(url, SYMBOLS, interval_ms=INTERVAL_MS, on_notice=note) as stream:
        seen.connected += 1
        quotes[number] = stream.quotes
        told: dict[str, tuple[int, int]] = {}
        async for update in stream:
            symbol, quote = update.symbol, update.quote
            seq, n = told.get(symbol, (-1, 0))
            seen.again += quote.seq == seq and update.whole
            if quote.seq < seq or (quote.seq == seq and not update.whole):
                seen.flaws.append(f"{number}: {symbol} was told {quote.seq} after {seq}")
            told[symbol] = quote.seq, quote.n if update.n is None else n + update.n
            if told[symbol][1] != quote.n:
                seen.flaws.append(f"{number}: {symbol}: told {told[symbol][1]} ticks, the server counted {quote.n}")
            if quote.n > counts[symbol]:
                seen.flaws.append(f"{number}: {symbol}: {quote.n} ticks of {counts[symbol]} produced")


# -- the run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What came of a rolling restart."""

    clients: int
    #: How many clients reconnected so many times.
    histogram: dict[int, int]
    #: Clients of each new replica, at the end.
    shares: list[int]
    failures: int
    gap_s: float
    peak: int
    again: int
    flaws: list[str]
    codes: list[int]

    def __str__(self) -> str:
        return "\n".join(
            (
                f"clients by reconnects: {self.histogram}",
                f"clients of each new replica: {self.shares}",
                f"handshakes refused or cut: {self.failures}",
                f"longest time without data: {self.gap_s:.2f} s (rounds are {INTERVAL_MS / 1000:g} s apart)",
                f"reconnects in the busiest second: {self.peak}",
                f"whole states sent again by a replica that had to catch up: {self.again}",
                f"lost or repeated: {len(self.flaws)} {self.flaws[:3]}",
                f"exit codes of the old replicas: {self.codes}",
            )
        )


async def rolling(clients: int, exact: int, *, delay_s: float, spread_s: float) -> Found:
    """Restart three replicas under `clients`, of which `exact` are real ones."""
    flags = ["--drain-delay-s", str(delay_s), "--drain-spread-s", str(spread_s), "--log-level", "warning"]
    with ExitStack() as stack:
        broker = await asyncio.to_thread(stack.enter_context, Tansu())
        topic = stack.enter_context(topics(broker))(3)
        counts: dict[str, int] = dict.fromkeys(SYMBOLS, 0)
        bids: dict[str, int] = {}
        produce = _producer(broker, topic, counts, bids)
        await asyncio.to_thread(produce)
        spec = f"kafka://{broker.bootstrap}/{topic}"
        start: Callable[[], Server] = lambda: stack.enter_context(serving(spec, flags=flags))  # noqa: E731
        old = [await asyncio.to_thread(start) for _ in range(REPLICAS)]
        balancer = Balancer()
        balancer.ports = balancer.ready = [_port(server) for server in old]
        listening = await balancer.start()
        url, seen, gate = f"ws://127.0.0.1:{balancer.port}/v1/stream", Seen(), asyncio.Semaphore(CONNECTING)
        quotes: dict[int, Any] = {}
        tasks = [asyncio.create_task(_exact(number, url, seen, counts, quotes)) for number in range(exact)]
        tasks += [asyncio.create_task(_light(number, url, seen, gate)) for number in range(exact, clients)]
        producing = asyncio.create_task(_produce_on(produce))
        try:
            async with asyncio.timeout(60):
                while seen.connected < clients:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            new = [await asyncio.to_thread(start) for _ in range(REPLICAS)]
            balancer.ports = balancer.ports + [_port(server) for server in new]
            await asyncio.sleep(1.0)
            seen.gap_s, seen.failures = 0.0, 0
            for server in old:
                server.process.send_signal(signal.SIGTERM)
            codes = [await asyncio.to_thread(server.process.wait, 60) for server in old]
            await asyncio.sleep(SETTLE_S)
            producing.cancel()
            with suppress(asyncio.CancelledError):
                await producing
            await asyncio.sleep(SETTLE_S)
            shares = [await asyncio.to_thread(_connections, server) for server in new]
            for number, held in quotes.items():
                wrong = [name for name in SYMBOLS if (held[name].bid, held[name].n) != (bids[name], counts[name])]
                seen.flaws += [f"{number}: {name} is not what it is in the log" for name in wrong]
            seen.flaws += [repr(task.exception()) for task in tasks if task.done()]
        finally:
            for task in (*tasks, producing):
                task.cancel()
            await asyncio.gather(*tasks, producing, return_exceptions=True)
            balancer.stop()
            listening.close()
        histogram = Counter(seen.reconnects[number] for number in range(clients))
        at = Counter(int(when - min(seen.at)) for when in seen.at)
        peak = max(at.values(), default=0)
        return Found(clients, dict(histogram), shares, seen.failures, seen.gap_s, peak, seen.again, seen.flaws, codes)


def _producer(broker: Tansu, topic: str, counts: dict[str, int], bids: dict[str, int]) -> Callable[[], None]:
    """What produces one batch; `counts` and `bids` are what is in the log, or about to be."""
    choice = random.Random(1)

    def produce() -> None:
        names = [*SYMBOLS, *choice.choices(SYMBOLS, k=BATCH - len(SYMBOLS))]
        records: list[tuple[bytes | None, bytes | None]] = []
        for name in names:
            counts[name] += 1
            bids[name] = bids.get(name, 0) + 1
            value = {"symbol": name, "ts_event": time.time_ns() // 1000, "bid": bids[name], "ask": bids[name] + 1}
            records.append((name.encode(), orjson.dumps(value)))
        broker.produce(topic, records)

    return produce


async def _produce_on(produce: Callable[[], None]) -> None:
    """Until cancelled, which waits for the batch under way."""
    while True:
        await asyncio.shield(asyncio.to_thread(produce))
        await asyncio.sleep(PAUSE_S)


def _port(server: Server) -> int:
    return int(server.url.rsplit(":", 1)[1])


def _connections(server: Server) -> int:
    """WebSockets of a replica: its established connections."""
    import psutil  # noqa: PLC0415 - nothing else of the benchmarks needs it

    found = psutil.Process(server.process.pid).net_connections(kind="tcp")
    port = _port(server)
    return sum(each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port for each in found)


def main() -> int:
    """0 where each client has come back once, no replica has more than its share and a tenth, and nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rolling", description=__doc__)
    parser.add_argument("--clients", type=int, default=3000)
    parser.add_argument("--exact", type=int, default=150, help="how many of them are real ones")
    parser.add_argument("--delay-s", type=float, default=1.0)
    parser.add_argument("--spread-s", type=float, default=15.0)
    asked = parser.parse_args()
    raise_limits()
    found = asyncio.run(rolling(asked.clients, asked.exact, delay_s=asked.delay_s, spread_s=asked.spread_s))
    print(found)
    once = found.histogram == {1: found.clients}
    return 0 if once and not found.flaws and max(found.shares) <= 1.1 * found.clients / REPLICAS else 1


if __name__ == "__main__":
    sys.exit(main())
