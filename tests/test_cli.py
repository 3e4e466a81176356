"""`ticker serve` as its operator meets it: a process with flags, signals, an exit code, and clients that misbehave."""

from __future__ import annotations

import asyncio
import gzip
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import orjson
import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.servers import Server, environment, serving
from ticker.mirror import Mirror

SIM = "sim:?symbols=20&rate=2000&seed=1"
SYMBOLS = 40
TICKS_PER_S = 2000
RECORDED_S = 60


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(SIM) as server:
        yield server


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of quotes of forty symbols, each of whose bids tells its row number."""
    path = tmp_path_factory.mktemp("recording") / "minute.csv"
    with path.open("w") as file:
        file.write("symbol,ts_event,bid,bid_size,ask,ask_size\n")
        for row in range(RECORDED_S * TICKS_PER_S):
            ts = 1_723_161_600_000_000 + row * 1_000_000 // TICKS_PER_S
            file.write(f"S{row % SYMBOLS:02d},{ts},{row},1,{row + 0.5},1\n")
    return path


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`ticker` with arguments that make it end by itself."""
    command = [sys.executable, "-m", "ticker", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=30, env=environment(**(env or {})), check=False
    )


@asynccontextmanager
async def subscribed(url: str, *symbols: str, **more: Any) -> AsyncIterator[ClientConnection]:
    """A connection that has subscribed, and reads only what the test reads."""
    sock = socket.create_connection(httpx.URL(url).netloc.decode().rsplit(":", 1))  # type: ignore[arg-type]
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    client = await connect(url, compression=None, max_size=None, max_queue=1, sock=sock)
    try:
        await client.send(orjson.dumps({"op": "subscribe", "symbols": symbols, **more}).decode())
        yield client
    finally:
        client.transport.abort()
        await client.wait_closed()


async def receive(client: ClientConnection, type: str) -> dict[str, Any]:
    while True:
        message: dict[str, Any] = orjson.loads(await client.recv())
        if message["type"] == type:
            return message


# -- starting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--nope"], "No such option"),
        (["serve", "--port", "http"], "'http' is not a valid integer"),
        (["serve", "--port", "70000"], "port: expected 0 to 65535, was 70000"),
        (["serve", "--heartbeat-ms", "1"], "heartbeat_ms: expected 50 to 60000, was 1"),
        (["serve", "--session-start", "25:00"], "session_start: expected a time of day"),
        (["serve", "--socket-buffer-bytes", "99999999999"], "socket_buffer_bytes: expected 0 to"),
        (["serve", "--log-level", "loud"], "log_level: expected one of debug, info, warning, error, was 'loud'"),
        (["serve", "--log-format", "xml"], "log_format: expected one of text, json, was 'xml'"),
        (["serve", "--origins", "prices.example"], "origins: expected such as https://prices.example"),
        (["serve", "--trusted-proxies", "10.0.0.1/8"], "trusted_proxies: expected addresses or networks such as"),
        (["serve", "--trusted-proxies", "proxy"], "trusted_proxies: expected addresses or networks such as"),
        (["serve", "--ping-timeout-s", "inf"], "ping_timeout_s: expected 0.05 to 3600, was inf"),
        (["serve", "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid port 8000: "),
        (["serve", "--feed", "kafak:x"], "kafak"),
        (["serve", "--feed", "sim:?rate=fast"], "rate"),
        (["serve", "--feed", "replay:no/such/file.csv"], "no/such/file.csv"),
        (["srve"], "No such command 'srve'"),
        (["tail"], "Missing argument"),
        (["tail", "A", "--fields", "bid,zz"], "fields: expected one of bid,"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("ticker: ")
    assert "Traceback" not in result.stderr
    assert "Unknown error" not in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.csv", b"", "empty"),
        ("columns.csv", b"apples,pears\n1,2\n", "unknown columns"),
        (
            "cut.csv.gz",
            gzip.compress(b"symbol,ts_event,bid,ask\n" + b"A,1723161600000000,1,2\n" * 9999)[:-50],
            "cut.csv.gz",
        ),
        ("not.parquet", b"PAR0 and more", "not a Parquet file"),
        ("not.csv.gz", b"plain", "gzip"),
    ],
)
def test_a_file_that_is_no_recording_is_named_with_the_cause(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    result = run("serve", "--port", "0", "--feed", f"replay:{path}?speed=max")
    assert result.returncode == 2
    line = result.stderr.splitlines()[-1]
    assert str(path) in line
    assert says in line
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_said(server: Server) -> None:
    port = server.url.rsplit(":", 1)[1]
    result = run("serve", "--port", port)
    assert result.returncode == 2
    assert result.stderr == f"ticker: cannot listen on 127.0.0.1 port {port}: Address already in use\n"


def test_settings_come_from_the_environment_too() -> None:
    result = run("serve", env={"TICKER_PORT": "-1"})
    assert (result.returncode, result.stderr) == (2, "ticker: port: expected 0 to 65535, was -1\n")


def test_help_names_every_command_and_the_version_is_told() -> None:
    assert re.search(r"serve .*\n\s+tail ", run("--help").stdout)
    assert "--send-buffer-bytes-max" in run("serve", "--help").stdout
    assert re.fullmatch(r"ticker, version [\d.]+\n", run("--version").stdout)


def test_several_feeds_are_served_together(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("symbol,ts_event,bid,ask\nAAPL,1723161600000000,1,2\n")
    with serving(SIM, f"replay:{path}?speed=max", f"replay:{path}?speed=max") as server:
        body = server.get("/v1/symbols?prefix=A").json()
        assert [part.split("-")[0] for part in body["epoch"].split("+")] == ["sim", "replay", "replay"]
        [item] = body["items"]
        assert (item["symbol"], item["seq"]) == ("AAPL", 1)
        assert item["feed"] in {"replay", "replay-2"}, "whichever brought it first"
        assert set(server.get("/readyz").json()["feeds"]) == {"sim", "replay", "replay-2"}
    assert any("AAPL" in line for line in server.log), "a key that two feeds bring is said"


# -- stopping ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_at_once_with_clients_of_every_kind(number: signal.Signals) -> None:
    with serving(SIM, flags=["--socket-buffer-bytes", "4096"]) as server:
        async with (
            subscribed(server.stream, "*", interval_ms=0),
            connect(server.stream, compression=None) as reader,
            httpx.AsyncClient(timeout=30) as http,
            http.stream("GET", server.url + "/v1/sse?symbols=*") as events,
        ):
            await reader.send('{"op":"subscribe","symbols":["*"]}')
            await receive(reader, "update")
            poll = server.url + "/v1/snapshot?symbols=NONE"
            tag = (await http.get(poll)).headers["etag"]
            polling = asyncio.create_task(http.get(poll + "&wait=20", headers={"if-none-match": tag}))
            await asyncio.sleep(0.5)
            began = time.monotonic()
            stopping = asyncio.create_task(asyncio.to_thread(server.stop, number))
            shutdown = await receive(reader, "shutdown")
            assert 0 <= shutdown["reconnect_after_ms"] < 60_000
            with pytest.raises(ConnectionClosed) as ended:
                await receive(reader, "nothing more")
            assert ended.value.rcvd is not None
            assert ended.value.rcvd.code == 1012
            last = [line async for line in events.aiter_lines() if line.startswith("event: ")][-1]
            assert last == "event: shutdown"
            assert (await polling).status_code == 304
            assert await stopping == 0
            assert time.monotonic() - began < 3
    assert "Traceback" not in "".join(server.log), "".join(server.log)


async def test_a_second_signal_ends_it_where_the_first_has_not_yet() -> None:
    with serving(SIM, flags=["--shutdown-s-max", "60"]) as server:
        server.process.send_signal(signal.SIGSTOP)  # so that it meets both before it can have stopped
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGCONT)
        server.process.wait(10)
    assert server.process.returncode == 0


def test_a_bug_in_a_feed_is_a_traceback_and_exit_code_1() -> None:
    program = """
import sys
from feeds import spec
from feeds.simulated import Simulated, open_simulated
from ticker.cli import main

async def broken(self):
    raise ZeroDivisionError("a bug")
    yield

Simulated.__aiter__ = broken
sys.argv[1:] = ["serve", "--port", "0"]
main()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, env=environment(), check=False
    )
    assert result.returncode == 1
    assert "ZeroDivisionError: a bug" in result.stderr


# -- bad clients ---------------------------------------------------------------------------------------------------


async def test_a_message_past_the_size_limit_closes_with_1009(server: Server) -> None:
    async with connect(server.stream) as client:
        await client.send('{"op":"ping","id":"' + "x" * 262_144 + '"}')
        with pytest.raises(ConnectionClosed) as ended:
            await receive(client, "pong")
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1009


async def test_a_thousand_long_symbols_with_since_fit_into_a_message(server: Server) -> None:
    names = [f"{number:064d}" for number in range(1000)]
    async with connect(server.stream) as client:
        since = dict.fromkeys(names, 2**53 - 1)
        await client.send(orjson.dumps({"op": "subscribe", "symbols": names, "since": since, "epoch": "x"}).decode())
        answer = await receive(client, "subscribed")
        assert [entry["code"] for entry in answer["rejected"]] == ["unknown_symbol"] * 1000


async def test_a_flood_of_commands_is_limited_and_delays_nobody(server: Server) -> None:
    async with connect(server.stream, compression=None) as other, connect(server.stream, compression=None) as flood:
        await other.send('{"op":"subscribe","symbols":["*"],"interval_ms":10}')
        await receive(other, "snapshot")
        toggle = ('{"op":"subscribe","symbols":["*"]}', '{"op":"unsubscribe","symbols":["*"]}') * 300

        async def send_all() -> None:
            with suppress(ConnectionClosed):
                for message in toggle:
                    await flood.send(message)

        async def read_all() -> ConnectionClosed:
            try:
                while True:
                    await flood.recv()
            except ConnectionClosed as ended:
                return ended

        sending = asyncio.create_task(send_all())
        reading = asyncio.create_task(read_all())
        delays = []
        while not reading.done():
            message = await receive(other, "update")
            delays.append(time.time() - message["ts"] / 1e6)
        await sending
        ended = reading.result()
        assert ended.rcvd is not None
        assert (ended.rcvd.code, ended.rcvd.reason) == (4429, "rate limited")
        assert sorted(delays)[len(delays) // 2] < 0.05


async def test_the_server_compresses_nothing_whatever_the_client_offers(server: Server) -> None:
    async with connect(server.stream, compression="deflate") as client:
        assert client.response is not None
        assert "sec-websocket-extensions" not in client.response.headers


async def test_a_peer_that_answers_no_ping_is_disconnected() -> None:
    with serving(SIM, flags=["--ping-interval-s", "0.1", "--ping-timeout-s", "0.3"]) as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET /v1/stream HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        async with asyncio.timeout(10):
            received = await reader.read()
        assert b"\x88" in received[-40:], "a close frame ends it"
        writer.close()


async def test_a_client_that_asks_and_does_not_read_is_not_read_from() -> None:
    flags = ["--messages-per-s-max", "100000", "--socket-buffer-bytes", "8192"]
    flags += ["--trades-max", "1", "--bars-max", "1"]  # or what is kept of them would grow meanwhile
    with serving("sim:?symbols=500&rate=5000", flags=flags) as server:
        async with subscribed(server.stream, "*", interval_ms=60_000) as client:
            await receive(client, "snapshot")
            names = [f"SIM{number:03d}" for number in range(1, 501)]
            before = server.memory_bytes
            ask = orjson.dumps({"op": "resync", "symbols": names}).decode()

            async def ask_on() -> None:
                for _ in range(1000):
                    await client.send(ask)

            asking = asyncio.create_task(ask_on())
            await asyncio.sleep(2)
            assert server.memory_bytes - before < 8 << 20
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking


async def test_an_upgrade_past_the_number_of_connections_is_refused_with_503() -> None:
    with serving(SIM, flags=["--connections-max", "1"]) as server:
        async with connect(server.stream):
            with pytest.raises(InvalidStatus) as refused:
                await connect(server.stream)
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["retry-after"] == "5"
            assert server.get("/v1/sse?symbols=*").status_code == 503


async def test_a_client_too_slow_for_too_long_is_closed() -> None:
    flags = ["--socket-buffer-bytes", "4096", "--send-buffer-bytes-max", "1000", "--send-buffer-s-max", "0.5"]
    with serving(SIM, flags=[*flags, "--heartbeat-ms", "100"]) as server:
        async with subscribed(server.stream, "*", interval_ms=0), connect(server.stream, compression=None) as other:
            async with asyncio.timeout(20):
                while _connections(server) > 1:
                    await asyncio.sleep(0.05)
            await other.send('{"op":"ping","id":1}')
            assert (await receive(other, "pong"))["id"] == 1
    assert any("4408" in line for line in server.log), "it is not said"


def _connections(server: Server) -> int:
    """Established connections of the server's."""
    port = int(server.url.rsplit(":", 1)[1])
    connections = psutil.Process(server.process.pid).net_connections("tcp")
    return len([c for c in connections if c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port])


# -- slow clients --------------------------------------------------------------------------------------------------


async def test_clients_that_stop_reading_cost_no_memory_delay_nobody_and_catch_up(recording: Path) -> None:
    """Thirty seconds of the recording pass while they do not read; then each must come to hold the final state."""
    speed, stalled_s = 10, 3.0
    flags = ["--socket-buffer-bytes", "32768", "--send-buffer-s-max", "60"]
    with serving(f"replay:{recording}?speed={speed}", flags=flags) as server:
        async with AsyncExitStack() as stack, connect(server.stream, compression=None, close_timeout=0.1) as reader:
            watching = [subscribed(server.stream, "*", interval_ms=20) for _ in range(20)]
            stalled = [await stack.enter_async_context(client) for client in watching]
            await reader.send('{"op":"subscribe","symbols":["*"],"interval_ms":50}')
            await receive(reader, "update")
            await _delays(reader, 0.5)
            before = server.memory_bytes
            delays = await _delays(reader, stalled_s)
            grown = server.memory_bytes - before
            assert grown < 4 << 20, f"the server grew by {grown} bytes for 20 clients that do not read"
            assert sorted(delays)[len(delays) // 2] < 0.03
            await asyncio.gather(*(_catches_up(client) for client in stalled))


async def _delays(client: ClientConnection, for_s: float) -> list[float]:
    """Seconds from each round to its arrival."""
    delays = []
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        message = await receive(client, "update")
        delays.append(time.time() - message["ts"] / 1e6)
    return delays


async def _catches_up(client: ClientConnection) -> None:
    """Read on to the end of the recording: told of what was skipped, never with a broken chain, to the final state."""
    mirror, skipped = Mirror(), 0
    last = RECORDED_S * TICKS_PER_S
    async with asyncio.timeout(60):
        while not (len(mirror.items) == SYMBOLS and max(item["seq"] for item in mirror.items.values()) == last):
            message = orjson.loads(await client.recv())
            assert not mirror.apply(message), "a chain broke"
            if message["type"] == "slow":
                skipped += message["skipped"]
    assert skipped > 50
    for symbol, item in mirror.items.items():
        seq = last - SYMBOLS + int(symbol[1:]) + 1
        assert (item["seq"], item["n"], item["bid"]) == (seq, last // SYMBOLS, seq - 1)


# -- server-sent events --------------------------------------------------------------------------------------------


async def test_server_sent_events_resume_where_they_were_cut(recording: Path) -> None:
    mirror, last_id, resumed = Mirror(), "", 0
    last = RECORDED_S * TICKS_PER_S
    with serving(f"replay:{recording}?speed=20") as server:
        async with httpx.AsyncClient(timeout=30) as http:
            for connection in range(100):
                headers = {"last-event-id": last_id} if last_id else {}
                request = http.stream("GET", server.url + "/v1/sse?symbols=*&interval_ms=20", headers=headers)
                async with request as response:
                    assert response.headers["content-type"].startswith("text/event-stream")
                    count = 0
                    async for event in _events(response):
                        message = orjson.loads(event["data"])
                        assert message["type"] == event["event"]
                        assert not mirror.apply(message), "a chain broke"
                        last_id = event.get("id", last_id)
                        resumed += len(message.get("resumed", ()))
                        count += message["type"] == "update"
                        if count == 5 + connection or _highest(mirror) == last:
                            break
                if _highest(mirror) == last:
                    break
    assert _highest(mirror) == last
    assert connection > 2
    assert {item["n"] for item in mirror.items.values()} == {last // SYMBOLS}


async def test_a_long_poll_whose_caller_has_gone_keeps_no_place() -> None:
    with serving(SIM, flags=["--connections-max", "3"]) as server:
        host, port = server.url.removeprefix("http://").split(":")
        tag = server.get("/v1/snapshot?symbols=NONE").headers["etag"]
        for _ in range(9):
            _, writer = await asyncio.open_connection(host, int(port))
            request = f"GET /v1/snapshot?symbols=NONE&wait=20 HTTP/1.1\r\nhost: x\r\nif-none-match: {tag}\r\n\r\n"
            writer.write(request.encode())
            await asyncio.sleep(0.05)
            writer.close()
            await writer.wait_closed()
            await asyncio.sleep(0.05)
        assert server.get("/v1/snapshot?symbols=NONE").status_code == 200


async def test_events_of_a_quiet_list_resume_without_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    path.write_text("symbol,ts_event,bid,ask\nA,1723161600000000,1,2\nB,1723161600000001,1,2\n")
    with serving(f"replay:{path}?speed=max") as server:
        first = await _first_events(server, "A,B", None, 3)
        assert [event["event"] for event in first] == ["welcome", "subscribed", "snapshot"]
        last_id = first[-1]["id"]
        assert re.fullmatch(r"replay-\w+ replay=2", last_id)
        again = await _first_events(server, "A,B", last_id, 3)
        assert [event["event"] for event in again] == ["welcome", "subscribed", "heartbeat"]
        assert orjson.loads(again[1]["data"])["resumed"] == {"A": 1, "B": 1}
        for nonsense in ("other-epoch replay=2", "x", "a b c", "a replay=-1", "a replay=" + "9" * 5000):
            anew = await _first_events(server, "A,B", nonsense, 3)
            assert anew[2]["event"] == "snapshot"


async def _first_events(server: Server, symbols: str, last_id: str | None, count: int) -> list[dict[str, str]]:
    headers = {} if last_id is None else {"last-event-id": last_id}
    found = []
    url = f"{server.url}/v1/sse?symbols={symbols}"
    async with httpx.AsyncClient(timeout=30) as http, http.stream("GET", url, headers=headers) as response:
        async for event in _events(response):
            if event["event"] != "status":
                found.append(event)
            if len(found) == count:
                break
    return found


def _highest(mirror: Mirror) -> int:
    return max((item["seq"] for item in mirror.items.values()), default=0)


async def _events(response: httpx.Response) -> Any:
    event: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
        elif event:
            yield event
            event = {}
