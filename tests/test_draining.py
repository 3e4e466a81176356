"""Draining, and what is let in before it: real servers, sockets by hand where a client would be too polite."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import Any

import httpx2 as httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.servers import Server, serving
from tests.test_replays import day

SIM = "sim:?symbols=20&rate=400&seed=3"
SOON_S = 10.0


def address(server: Server) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


async def hear(client: ClientConnection, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(SOON_S):
        while True:
            message: dict[str, Any] = json.loads(await client.recv())
            if message["type"] == kind:
                return message


async def watching(server: Server) -> ClientConnection:
    client = await connect(server.stream)
    await client.send('{"op":"subscribe","symbols":["*"]}')
    await hear(client, "snapshot")
    return client


async def ending(client: ClientConnection) -> tuple[float, list[str], int | None]:
    """When a connection ends, what it was told of in the end, and its close code."""
    told: list[str] = []
    with suppress(ConnectionClosed):
        async with asyncio.timeout(SOON_S):
            while True:
                told.append(json.loads(await client.recv())["type"])
    return time.monotonic(), told, client.close_code


async def refusal(server: Server, **headers: str) -> tuple[int, str | None, str]:
    """How an upgrade is refused: status, Retry-After, and the sentence."""
    with pytest.raises(InvalidStatus) as caught:
        async with connect(server.stream, additional_headers=headers):
            pass
    answer = caught.value.response
    return answer.status_code, answer.headers.get("retry-after"), (answer.body or b"").decode().strip()


# -- draining ------------------------------------------------------------------------------------------------------


async def test_clients_are_served_on_then_sent_away_one_after_another() -> None:
    flags = ["--drain-delay-s", "1", "--drain-spread-s", "2"]
    with serving(SIM, flags=flags) as server:
        clients = [await watching(server) for _ in range(20)]
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SOON_S):
            while server.get("/readyz").status_code == 200:
                await asyncio.sleep(0.01)
        assert time.monotonic() - began < 0.8, "readiness fails at once"
        assert server.get("/livez").status_code == 200
        assert await refusal(server) == (503, "5", "going: try again later")
        assert server.get("/v1/sse?symbols=*").status_code == 503
        assert server.get("/v1/snapshot?symbols=*").status_code == 200, "what is answered at once still is"
        ends = await asyncio.gather(*map(ending, clients))
        assert server.process.wait(SOON_S) == 0
    after = sorted(end - began for end, _, _ in ends)
    assert after[0] >= 0.95, "all are served on for a while"
    assert 2.5 < after[-1] < 5
    gaps = [later - earlier for earlier, later in pairwise(after)]
    assert max(gaps) < 1, "and then go one after another"
    for end, told, code in ends:
        assert code == 1012
        assert told[-1] == "shutdown"
        assert told.count("shutdown") == 1
        assert told.count("update") > (end - began) * 3, "each is served up to its own slot"


async def test_replays_and_streams_of_events_are_sent_away_too(tmp_path: Any) -> None:
    flags = ["--drain-spread-s", "1", "--source", f"day={day(tmp_path / 'day.csv')}"]
    with serving(SIM, flags=flags) as server, httpx.Client(base_url=server.url, timeout=SOON_S) as http:
        replay = await connect(server.url.replace("http", "ws") + "/v1/replay?source=day")
        await hear(replay, "welcome")
        with http.stream("GET", "/v1/sse?symbols=*") as events:
            lines = events.iter_lines()
            next(line for line in lines if line == "event: snapshot")
            server.process.send_signal(signal.SIGTERM)
            rest = await asyncio.to_thread(list, lines)
        assert [line for line in rest if line.startswith("event: ")][-1] == "event: shutdown"
        _, told, code = await ending(replay)
        assert (told[-1], code) == ("shutdown", 1012)
        assert server.process.wait(SOON_S) == 0


def test_a_long_poll_is_answered() -> None:
    with serving(SIM, flags=["--drain-spread-s", "0.2"]) as server:
        answer = server.get("/v1/snapshot?symbols=NONE")
        began = time.monotonic()
        with httpx.Client(base_url=server.url, timeout=SOON_S) as http, ThreadPoolExecutor(1) as pool:
            polling = pool.submit(
                http.get, "/v1/snapshot?symbols=NONE&wait=30", headers={"if-none-match": answer.headers["etag"]}
            )
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            assert polling.result(SOON_S).status_code == 304
        assert time.monotonic() - began < 5
        assert server.process.wait(SOON_S) == 0


def test_without_clients_it_ends_at_once() -> None:
    with serving(SIM, flags=["--drain-delay-s", "30", "--drain-spread-s", "30"]) as server:
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 3


async def test_once_the_last_client_has_left_it_ends() -> None:
    with serving(SIM, flags=["--drain-delay-s", "30"]) as server:
        client = await watching(server)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert server.process.poll() is None
        await client.close()
        assert server.process.wait(5) == 0


async def test_a_second_signal_tells_all_at_once_and_ends_it() -> None:
    with serving(SIM, flags=["--drain-delay-s", "30"]) as server:
        clients = [await watching(server) for _ in range(3)]
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        for _, told, code in await asyncio.gather(*map(ending, clients)):
            assert (told[-1], code) == ("shutdown", 1012)
        assert server.process.wait(3) == 0


async def test_ctrl_c_does_not_wait() -> None:
    with serving(SIM, flags=["--drain-delay-s", "30", "--drain-spread-s", "30"]) as server:
        client = await watching(server)
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        _, told, code = await ending(client)
        assert (told[-1], code) == ("shutdown", 1012)
        assert server.process.wait(5) == 0
        assert time.monotonic() - began < 3


async def test_a_client_that_reads_nothing_does_not_hold_it_up() -> None:
    flags = ["--drain-spread-s", "0.5", "--socket-buffer-bytes", "4096"]
    with serving("sim:?symbols=500&rate=20000&seed=1", flags=flags) as server, socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(address(server))
        stalled.sendall(upgrade("/v1/stream") + text('{"op":"subscribe","symbols":["*"]}'))
        await asyncio.sleep(1.5)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5


def upgrade(path: str, *more: str) -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: x",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
    ]
    return "\r\n".join((*lines, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *more, "", "")).encode()


def text(message: str) -> bytes:
    """A masked text frame whose mask is zero."""
    return bytes((0x81, 0x80 | len(message), 0, 0, 0, 0)) + message.encode()


# -- who is let in -------------------------------------------------------------------------------------------------


async def test_more_than_there_is_room_for_from_one_address_and_pages_of_others_are_refused() -> None:
    flags = ["--connections-per-address-max", "2", "--origins", "https://prices.example", "--connections-max", "3"]
    with serving(SIM, flags=flags) as server:
        good = {"origin": "https://prices.example"}
        async with connect(server.stream, additional_headers=good), connect(server.stream):
            assert await refusal(server) == (429, "5", "expected at most 2 connections from one address")
            assert server.get("/v1/sse?symbols=*").status_code == 429
            assert server.get("/v1/snapshot?symbols=*&wait=1").status_code == 429
            assert server.get("/v1/snapshot?symbols=*").status_code == 200
        async with connect(server.stream):
            pass
        status, retry, why = await refusal(server, origin="https://evil.example")
        assert (status, retry) == (403, None)
        assert why == "origin: expected a page of https://prices.example, was 'https://evil.example'"


async def test_a_forwarded_address_is_believed_of_those_who_may_say_it() -> None:
    far = {"x-forwarded-for": "203.0.113.7"}
    for trusted, counted in ((["--trusted-proxies", "127.0.0.0/8"], True), ([], False)):
        with serving(SIM, flags=["--connections-per-address-max", "1", *trusted]) as server:
            async with connect(server.stream, additional_headers=far):
                if counted:
                    assert (await refusal(server, **far))[0] == 429
                    async with connect(server.stream, additional_headers={"x-forwarded-for": "203.0.113.8"}):
                        pass
                else:
                    assert (await refusal(server, **{"x-forwarded-for": "203.0.113.8"}))[0] == 429


async def test_handshakes_come_at_a_pace() -> None:
    with serving(SIM, flags=["--handshakes-per-s-max", "1"]) as server:
        answers = [server.get("/v1/symbols?limit=1") for _ in range(8)]
        assert [answer.status_code for answer in answers][:4] == [200] * 4
        busy = [answer for answer in answers if answer.status_code == 503]
        assert busy
        assert busy[0].headers["retry-after"] == "5"
        assert (await refusal(server))[0] == 503
        assert server.get("/livez").status_code == 200, "probes are always answered"


# -- heads ---------------------------------------------------------------------------------------------------------


def answer(server: Server, *parts: bytes, pause_s: float = 0.0) -> tuple[bytes, float]:
    """What comes back for bytes that are sent with pauses, to the end, and how long that takes."""
    with socket.create_connection(address(server), SOON_S) as raw:
        began = time.monotonic()
        for part in parts:
            with suppress(ConnectionError):
                raw.sendall(part)
            time.sleep(pause_s)
        got = b""
        with suppress(ConnectionError):
            while chunk := raw.recv(4096):
                got += chunk
    return got, time.monotonic() - began


def test_heads_that_are_slow_or_never_end_are_cut_off() -> None:
    with serving(SIM, flags=["--header-s-max", "0.5"]) as server:
        silent, silent_s = answer(server)
        assert silent.startswith(b"HTTP/1.1 408 ")
        assert 0.4 < silent_s < 5
        dripping, dripping_s = answer(server, *[b"GET /livez HTTP/1.1\r\nX: "] + [b"x"] * 12, pause_s=0.1)
        assert dripping.startswith(b"HTTP/1.1 408 ")
        assert dripping_s < 5
        endless, _ = answer(server, b"GET /livez HTTP/1.1\r\nX: " + b"x" * 100_000)
        assert endless.startswith(b"HTTP/1.1 400 ")
        # After one answer on a connection that is kept alive as well.
        again, again_s = answer(
            server, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /livez HTTP/1.1\r\n", pause_s=0.1
        )
        assert again.startswith(b"HTTP/1.1 200 ")
        assert again.count(b"HTTP/1.1 408 ") == 1
        assert again_s < 5
        # Nor is a body waited for for ever.
        body = b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        _, body_s = answer(server, body, *[b"x"] * 20, pause_s=0.1)
        assert body_s < 5
        assert server.get("/livez").status_code == 200


async def test_a_websocket_outlives_the_time_for_its_head() -> None:
    with serving(SIM, flags=["--header-s-max", "0.3"]) as server:
        client = await watching(server)
        await asyncio.sleep(0.8)
        await hear(client, "update")
        await client.close()


def test_sockets_that_say_nothing_keep_nobody_out() -> None:
    with serving(SIM, flags=["--connections-max", "1", "--header-s-max", "60"]) as server:
        silent = [socket.create_connection(address(server)) for _ in range(120)]
        try:
            assert server.get("/livez").status_code == 200
            first = silent[0]
            first.settimeout(SOON_S)
            with suppress(ConnectionResetError):
                assert first.recv(100) == b"", "who has waited for longest gives way"
        finally:
            for one in silent:
                one.close()
