"""The client against a server that does what a script says. No test waits longer than some milliseconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

import orjson
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.test_dialogue import snapshot, subscribed, update, welcome
from ticker.client import (
    Answer,
    Complaint,
    Connected,
    Lost,
    Notice,
    Rejected,
    ShuttingDown,
    Slow,
    Stream,
    StreamError,
    connect,
    stream_url,
)
from ticker.dialogue import Message
from ticker.errors import Close
from ticker.reconnect import Backoff

TIMEOUT_S = 5
N = TypeVar("N", bound=Notice)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


# -- a server that does what a script says ---------------------------------------------------------------------------


class Peer:
    """The server's end of one connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket

    async def send(self, *messages: Message) -> None:
        for message in messages:
            await self.socket.send(orjson.dumps(message), text=True)

    async def hear(self) -> Message:
        message: Message = orjson.loads(await self.socket.recv())
        return message

    async def expect(self, op: str) -> Message:
        message = await self.hear()
        assert message["op"] == op
        return message

    async def settle(self, *, heartbeat_ms: int = 1000, **seqs: int) -> Message:
        """Welcome the client, answer its first subscription with the items of `seqs`; returns that subscription."""
        await self.welcome(heartbeat_ms)
        return await self.answer((), **seqs)

    async def welcome(self, heartbeat_ms: int = 1000) -> None:
        await self.send(welcome(heartbeat_ms=heartbeat_ms))

    async def answer(self, rejected: Sequence[str], **seqs: int) -> Message:
        """Answer a command and the ping behind it."""
        command = await self.hear()
        if command["op"] == "subscribe":
            names = [name for name in command["symbols"] if name not in rejected]
            pending = [name for name in names if name not in seqs]
            refused = [{"symbol": name, "code": "invalid_symbol"} for name in rejected]
            await self.send(subscribed(command["id"], names, pending=pending, rejected=refused))
            await self.send(snapshot(**seqs))
        else:
            await self.send({"type": command["op"] + "d", "id": command["id"], "symbols": command["symbols"]})
        await self.pong()
        return command

    async def pong(self) -> None:
        ping = await self.expect("ping")
        await self.send({"type": "pong", "id": ping["id"], "ts": 1})

    async def end(self, close: Close) -> None:
        await self.socket.close(close.code, close.reason)

    async def cut(self) -> None:
        self.socket.transport.abort()
        await asyncio.sleep(0)


Script = Callable[[Peer], Awaitable[object]]


@dataclass
class Server:
    """Each connection is given the next script; the last one is for all that come after it.

    An HTTP status and headers in a script's place refuse the connection.
    """

    scripts: list[Script | tuple[int, dict[str, str]]]
    url: str = ""
    failures: list[BaseException] = field(default_factory=list)
    came: int = 0

    def next(self) -> Script | tuple[int, dict[str, str]]:
        return self.scripts[min(self.came, len(self.scripts)) - 1]

    def refuse(self, _: ServerConnection, __: Request) -> Response | None:
        self.came += 1
        script = self.next()
        return Response(script[0], "", Headers(script[1])) if isinstance(script, tuple) else None

    async def converse(self, socket: ServerConnection) -> None:
        script = self.next()
        assert not isinstance(script, tuple)
        try:
            await script(Peer(socket))
            await socket.wait_closed()
        except ConnectionClosed:
            pass
        except BaseException as failure:
            self.failures.append(failure)
            raise


@asynccontextmanager
async def serving(*scripts: Script | tuple[int, dict[str, str]]) -> AsyncIterator[Server]:
    server = Server(list(scripts))
    async with (
        asyncio.timeout(TIMEOUT_S),
        serve(server.converse, "127.0.0.1", 0, process_request=server.refuse, close_timeout=0.1) as listener,
    ):
        server.url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        yield server
    assert not server.failures


class Watcher:
    """Time and chance for a client, and what it was told."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.notices: list[Notice] = []
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)

    def connect(self, server: Server, symbols: str | list[str] = "A", **options: Any) -> Stream:
        backoff = Backoff(lambda: 0.5, base_s=1.0, ceiling_s=8.0, stable_s=60.0)
        pace: dict[str, Any] = {"backoff": backoff, "sleep": self.sleep, "clock": lambda: self.now}
        return connect(server.url, symbols, on_notice=self.notices.append, **pace, **options)

    def told(self, kind: type[N]) -> list[N]:
        return [notice for notice in self.notices if isinstance(notice, kind)]


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


async def until(ready: Callable[[], bool]) -> None:
    while not ready():
        await asyncio.sleep(0.001)


# -- reading -------------------------------------------------------------------------------------------------------


async def test_quotes_are_there_once_entered(watcher: Watcher) -> None:
    async with serving(lambda peer: peer.settle(A=5)) as server, watcher.connect(server) as stream:
        assert stream.connected
        assert stream.quotes["A"].bid == 5.0


async def test_a_loop_is_given_the_quote_and_every_change_of_it(watcher: Watcher) -> None:
    async def script(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.send(update("A", 5, 8, n=3))

    async with serving(script) as server, watcher.connect(server) as stream:
        first = await anext(stream)
        assert (first.whole, first.n, first.quote.bid) == (True, None, 5.0)
        second = await anext(stream)
        assert (second.whole, second.n, second.quote.bid, second.change) == (False, 3, 8.0, {"bid": 8.0})


async def test_a_slow_loop_is_given_one_update_a_symbol_and_told_what_was_conflated(watcher: Watcher) -> None:
    async def script(peer: Peer) -> None:
        await peer.settle(A=1, B=1)
        for seq in range(1, 100):
            await peer.send(update("A", seq, seq + 1), update("B", seq, seq + 1))

    async with serving(script) as server, watcher.connect(server, ["A", "B"]) as stream:
        await anext(stream), await anext(stream)
        await until(lambda: stream.quotes["A"].seq == stream.quotes["B"].seq == 100)
        updates = [await anext(stream), await anext(stream)]
    assert {told.symbol: told.n for told in updates} == {"A": 99, "B": 99}
    assert [told.quote.seq for told in updates] == [100, 100]


async def test_a_second_loop_goes_on_where_the_first_one_stopped(watcher: Watcher) -> None:
    async def script(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.send(update("A", 5, 6), snapshot(B=1))

    async with serving(script) as server, watcher.connect(server, ["A", "B"]) as stream:
        async for _ in stream:
            break
        await until(lambda: "B" in stream.quotes)
        assert [(await anext(stream)).symbol, (await anext(stream)).symbol] == ["A", "B"]


async def test_leaving_ends_at_once_though_nothing_comes(watcher: Watcher) -> None:
    async with serving(lambda peer: peer.settle()) as server:
        async with watcher.connect(server) as stream:
            reading = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
        with pytest.raises(StopAsyncIteration):
            await reading


async def test_a_stream_that_was_not_entered_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await anext(connect("ws://localhost", "A"))


# -- subscribing ---------------------------------------------------------------------------------------------------


async def test_subscribing_within_the_loop_answers_what_became_of_each_symbol(watcher: Watcher) -> None:
    async def script(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.answer(["no good"], B=1)

    async with serving(script) as server, watcher.connect(server) as stream:
        async for _ in stream:
            answer = await stream.subscribe(["B", "C", "no good"])
            break
        assert answer == Answer(("B", "C"), ("C",), {"no good": "invalid_symbol"})
        assert stream.quotes["B"].bid == 1.0
        assert stream.pending == {"C"}
        assert stream.rejected == {"no good": "invalid_symbol"}
    assert watcher.told(Rejected) == [Rejected("no good", "invalid_symbol")]


async def test_what_is_unsubscribed_is_forgotten(watcher: Watcher) -> None:
    async def script(peer: Peer) -> None:
        await peer.settle(A=5, B=5)
        await peer.answer(())
        await peer.send(update("B", 5, 6))

    async with serving(script) as server, watcher.connect(server, ["A", "B"]) as stream:
        await stream.unsubscribe("A")
        assert list(stream.quotes) == ["B"]
        assert (await anext(stream)).symbol == "B"


async def test_a_subscription_made_while_not_connected_is_answered_by_the_next_connection(watcher: Watcher) -> None:
    async def first(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.expect("subscribe")
        await peer.cut()

    async with serving(first, lambda peer: peer.settle(A=5, B=1)) as server, watcher.connect(server) as stream:
        assert (await stream.subscribe("B")).accepted == ("B",)
        assert stream.quotes["B"].bid == 1.0


async def test_a_refused_subscription_is_raised(watcher: Watcher) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(welcome())
        command = await peer.expect("subscribe")
        text = "fields: expected one of bid, ask, was 'bod'"
        await peer.send(
            {"type": "error", "id": command["id"], "code": "unknown_field", "message": text, "fatal": False}
        )

    async with serving(script) as server:
        with pytest.raises(StreamError, match="unknown_field: fields: expected one of bid, ask, was 'bod'"):
            async with watcher.connect(server, fields=["bod"]):
                pass


def test_symbols_are_strings() -> None:
    with pytest.raises(TypeError, match="symbols: expected strings, was 5"):
        connect("ws://localhost", ["A", 5])  # type: ignore[list-item]


# -- chains and reconnects -----------------------------------------------------------------------------------------


async def test_a_broken_chain_is_resynced(watcher: Watcher) -> None:
    async def script(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.send(update("A", 6, 7))
        resync = await peer.expect("resync")
        assert resync["symbols"] == ["A"]
        await peer.send({**snapshot(A=7), "id": resync["id"]})
        await peer.answer((), B=1)

    async with serving(script) as server, watcher.connect(server) as stream:
        await anext(stream)
        told = await anext(stream)
        assert (await stream.subscribe("B")).accepted == ("B",)
    assert (told.whole, told.n, told.quote.seq) == (True, 2, 7)
    assert not watcher.told(Lost)


async def test_a_cut_connection_is_resumed_from_what_is_held(watcher: Watcher) -> None:
    async def first(peer: Peer) -> None:
        await peer.settle(A=5, B=6)
        await peer.cut()

    resumed = asyncio.Queue[Message]()

    async def second(peer: Peer) -> None:
        await peer.send(welcome())
        command = await peer.expect("subscribe")
        resumed.put_nowait(command)
        await peer.send(subscribed(command["id"], ["A", "B"], resumed={"A": 5}), snapshot(B=9))
        await peer.pong()
        await peer.send(update("A", 5, 6))

    async with serving(first, second) as server, watcher.connect(server, ["A", "B"]) as stream:
        command = await resumed.get()
        assert (command["since"], command["epoch"]) == ({"A": 5, "B": 6}, "k-1")
        await until(lambda: stream.quotes["A"].seq == 6)
        assert stream.quotes["B"].seq == 9
    assert watcher.told(Lost) == [Lost("the connection was cut", 0.5)]
    assert len(watcher.told(Connected)) == 2


async def test_a_socket_without_heartbeats_is_dead(watcher: Watcher) -> None:
    silent = lambda peer: peer.settle(heartbeat_ms=5)  # noqa: E731
    async with serving(silent, lambda peer: peer.settle(A=5)) as server, watcher.connect(server) as stream:
        await until(lambda: "A" in stream.quotes)
    assert watcher.told(Lost) == [Lost("no message for 3 heartbeats", 0.5)]


async def test_a_program_that_was_busy_does_not_take_its_socket_for_dead(watcher: Watcher) -> None:
    async def script(peer: Peer) -> None:
        await peer.settle(A=5, heartbeat_ms=10)
        while True:
            await peer.send({"type": "heartbeat", "ts": 1, "feeds": {}})
            await asyncio.sleep(0.002)

    async with serving(script) as server, watcher.connect(server):
        for _ in range(3):
            time.sleep(0.05)  # noqa: ASYNC251
            await asyncio.sleep(0.005)
    assert not watcher.told(Lost)


async def test_a_server_that_shuts_down_is_left_when_it_asks_for_it_and_read_until_then(watcher: Watcher) -> None:
    async def first(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.send({"type": "shutdown", "ts": 1, "reconnect_after_ms": 2000})
        await peer.send(update("A", 5, 6))

    async with serving(first, lambda peer: peer.settle(A=7)) as server, watcher.connect(server) as stream:
        await until(lambda: stream.quotes["A"].seq == 7)
    assert watcher.told(ShuttingDown) == [ShuttingDown(2.5)]
    assert watcher.slept[0] == 2.5


async def test_a_server_that_closes_while_it_shuts_down_is_come_back_to_no_sooner(watcher: Watcher) -> None:
    async def first(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.send({"type": "shutdown", "ts": 1, "reconnect_after_ms": 2000})
        await until(lambda: bool(watcher.slept))
        await peer.end(Close.RESTARTING)

    async def sleep(seconds: float) -> None:
        watcher.slept.append(seconds)
        if len(watcher.slept) == 1:  # the time to leave never comes: the server closes first
            await asyncio.Event().wait()

    async with serving(first, lambda peer: peer.settle(A=7)) as server:
        stream = connect(server.url, "A", backoff=Backoff(lambda: 0.5, base_s=1.0), sleep=sleep, clock=lambda: 0.0)
        async with stream:
            await until(lambda: stream.quotes["A"].seq == 7)
    assert watcher.slept == [2.5, 2.5]


@pytest.mark.parametrize("close", [close for close in Close if close.reconnect])
async def test_a_close_code_that_invites_it_is_followed_by_a_reconnect(close: Close, watcher: Watcher) -> None:
    async def first(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.end(close)

    async with serving(first, lambda peer: peer.settle(A=7)) as server, watcher.connect(server) as stream:
        await until(lambda: stream.quotes["A"].seq == 7)
    assert watcher.told(Lost) == [Lost(f"closed with {close.code} {close.reason}", 0.5)]


@pytest.mark.parametrize("close", [Close.VIOLATION, Close.AUTH, Close.FORBIDDEN, Close.TOO_BIG])
async def test_a_close_code_that_is_final_is_raised_once_all_updates_are_given(close: Close, watcher: Watcher) -> None:
    async def script(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.end(close)

    async with serving(script) as server, watcher.connect(server) as stream:
        await until(lambda: not stream.connected)
        assert (await anext(stream)).symbol == "A"
        with pytest.raises(StreamError, match=f"closed with {close.code} {close.reason}"):
            await anext(stream)
        with pytest.raises(StreamError):
            await stream.subscribe("B")
    assert server.came == 1


async def test_a_failure_that_nobody_has_met_is_raised_on_leaving(watcher: Watcher) -> None:
    async def script(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.end(Close.FORBIDDEN)

    async with serving(script) as server:
        stream = await watcher.connect(server).__aenter__()
        await until(lambda: not stream.connected)
        await asyncio.sleep(0.01)
        with pytest.raises(StreamError, match="closed with 4403"):
            await stream.__aexit__(None, None, None)


async def test_a_server_that_is_done_ends_the_loop(watcher: Watcher) -> None:
    async def script(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.end(Close.DONE)

    async with serving(script) as server, watcher.connect(server) as stream:
        assert [told.symbol async for told in stream] == ["A"]
        with pytest.raises(StreamError, match="the stream has ended"):
            await stream.subscribe("B")


async def test_a_fatal_error_says_more_than_the_close_code_behind_it(watcher: Watcher) -> None:
    async def script(peer: Peer) -> None:
        assert await peer.expect("auth") == {"op": "auth", "id": 1, "token": "secret"}
        await peer.send({"type": "error", "code": "auth_failed", "message": "the token has expired", "fatal": True})
        await peer.end(Close.AUTH)

    async with serving(script) as server:
        with pytest.raises(StreamError, match="auth_failed: the token has expired"):
            async with watcher.connect(server, token="secret"):
                pass


async def test_a_function_gives_a_token_for_each_connection_and_anew_before_it_ends(watcher: Watcher) -> None:
    made = (f"token {number}" for number in count(1))

    async def first(peer: Peer) -> None:
        assert (await peer.expect("auth"))["token"] == "token 1"
        await peer.send({"type": "authenticated", "id": 1, "expires_in_ms": 10_000})
        assert await peer.expect("auth") == {"op": "auth", "id": 2, "token": "token 2"}
        await peer.send({"type": "error", "id": 2, "code": "auth_failed", "message": "not that", "fatal": False})
        await peer.settle(A=5)
        await peer.send({"type": "error", "code": "auth_failed", "message": "the token has expired", "fatal": True})
        await peer.end(Close.AUTH)

    async def second(peer: Peer) -> None:
        assert (await peer.expect("auth"))["token"] == "token 3"
        await peer.send({"type": "authenticated", "id": 5})
        await peer.settle(A=7)
        await peer.end(Close.DONE)

    async def token() -> str:
        return next(made)

    async with serving(first, second) as server, watcher.connect(server, token=token) as stream:
        assert [told.quote.seq async for told in stream][-1] == 7
    assert watcher.slept[0] == 8.0
    assert watcher.told(Complaint) == [Complaint("auth_failed", why) for why in ("not that", "the token has expired")]


async def test_a_token_that_cannot_be_had_is_asked_for_again(watcher: Watcher) -> None:
    asked = count(1)

    def token() -> str:
        if next(asked) == 1:
            raise OSError("no answer")
        return "good"

    async def script(peer: Peer) -> None:
        assert (await peer.expect("auth"))["token"] == "good"
        await peer.send({"type": "authenticated", "id": 1})
        await peer.settle(A=5)
        await peer.end(Close.DONE)

    async with serving(script) as server, watcher.connect(server, token=token) as stream:
        assert stream.quotes["A"].seq == 5
    assert [lost.reason for lost in watcher.told(Lost)] == ["no token: OSError: no answer"]


async def test_a_function_whose_first_token_is_refused_is_not_asked_for_ever(watcher: Watcher) -> None:
    async def script(peer: Peer) -> None:
        await peer.expect("auth")
        await peer.send({"type": "error", "id": 1, "code": "auth_failed", "message": "no", "fatal": True})
        await peer.end(Close.AUTH)

    async with serving(script) as server:
        with pytest.raises(StreamError, match="auth_failed: no"):
            async with watcher.connect(server, token=lambda: "bad"):
                pass
    assert server.came == 1


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refusal_before_the_upgrade_is_raised(status: int, watcher: Watcher) -> None:
    async with serving((status, {})) as server:
        with pytest.raises(StreamError, match=f"refused with HTTP {status}"):
            async with watcher.connect(server):
                pass
    assert server.came == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_server_is_come_back_to_when_it_says(status: int, watcher: Watcher) -> None:
    busy = (status, {"Retry-After": "7"})
    async with serving(busy, busy, lambda peer: peer.settle(A=5)) as server, watcher.connect(server) as stream:
        assert stream.connected
    assert watcher.slept == [7.5, 8.0]
    assert watcher.told(Lost)[0].reason == f"refused with HTTP {status}"


async def test_a_server_that_cannot_be_reached_is_tried_again(watcher: Watcher) -> None:
    async with serving(lambda peer: peer.settle(A=5)) as server:
        pass
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), watcher.connect(server):
            pass
    assert watcher.slept[:6] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


async def test_only_a_connection_that_lasted_makes_the_next_wait_short_again(watcher: Watcher) -> None:
    async def brief(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.end(Close.RESTARTING)

    async def lasting(peer: Peer) -> None:
        await peer.settle(A=5)
        watcher.now += 60
        await peer.end(Close.RESTARTING)

    server_of_all = serving(brief, brief, lasting, lambda peer: peer.settle(A=7))
    async with server_of_all as server, watcher.connect(server) as stream:
        await until(lambda: stream.quotes["A"].seq == 7)
    assert watcher.slept == [0.5, 1.0, 0.5]


async def test_being_slow_is_told(watcher: Watcher) -> None:
    async def script(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.send({"type": "slow", "ts": 1, "skipped": 12}, snapshot(A=9))

    async with serving(script) as server, watcher.connect(server) as stream:
        await until(lambda: stream.quotes["A"].seq == 9)
        assert (await anext(stream)).whole
    assert watcher.told(Slow) == [Slow(12)]


async def test_a_server_that_speaks_something_else_is_of_no_use(watcher: Watcher) -> None:
    async with serving(lambda peer: peer.socket.send("hello")) as server:
        with pytest.raises(StreamError, match="expected JSON"):
            async with watcher.connect(server):
                pass


async def test_a_mistake_in_the_programs_own_callback_is_raised(watcher: Watcher) -> None:
    def broken(_: Notice) -> None:
        raise BrokenPipeError

    async with serving(lambda peer: peer.settle(A=5)) as server:
        with pytest.raises(BrokenPipeError):
            async with connect(server.url, "A", on_notice=broken):
                pass


# -- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("localhost:8000", "ws://localhost:8000/v1/stream"),
        ("ws://localhost:8000", "ws://localhost:8000/v1/stream"),
        ("ws://localhost:8000/", "ws://localhost:8000/v1/stream"),
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/v1/stream"),
        ("https://ticks.example", "wss://ticks.example/v1/stream"),
        ("wss://ticks.example/v1/stream", "wss://ticks.example/v1/stream"),
        ("wss://example.com/market/v1/stream", "wss://example.com/market/v1/stream"),
        ("http://[::1]:8000", "ws://[::1]:8000/v1/stream"),
    ],
)
def test_an_address_is_what_a_person_would_write(url: str, address: str) -> None:
    assert stream_url(url) == address


@pytest.mark.parametrize(
    "url", ["", "ftp://localhost", "ws://", "ws://host:port", "ws://host:99999", "ws://host/#part"]
)
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)port|url: expected"):
        connect(url, "A")
