"""Traces: spans of requests and handshakes go to a sink, none of messages, and nothing in them is a secret."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from subprocess import run

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from websockets.asyncio.client import connect

from tests.servers import environment, serving

SECRET = "tk_secret"


@contextmanager
def sink() -> Iterator[tuple[str, list[bytes]]]:
    """Something that takes spans, and what has come."""
    bodies: list[bytes] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_requests_and_handshakes_are_traced_and_messages_are_not() -> None:
    with sink() as (endpoint, bodies):
        with serving("sim:?symbols=2&rate=200", flags=["--otel-endpoint", endpoint]) as server:
            server.get(f"/v1/snapshot?symbols=A&fields={SECRET}", {"authorization": f"Bearer {SECRET}"})
            subprotocols = ["ticker.v1", f"bearer.{SECRET}"]
            async with connect(server.stream, subprotocols=subprotocols) as client, asyncio.timeout(10):  # type: ignore[arg-type]
                await client.send('{"op":"subscribe","symbols":["*"],"interval_ms":0}')
                for _ in range(30):
                    await client.recv()
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 5
        spans = [
            span
            for body in bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
    names = [span.name for span in spans]
    assert any("/v1/snapshot" in name for name in names)
    assert sum("/v1/stream" in name for name in names) == 1
    assert not any("receive" in name or "send" in name for name in names)
    assert SECRET.encode() not in b"".join(bodies)


def test_a_sink_that_is_not_there_does_not_hold_up_the_end() -> None:
    with serving("sim:?symbols=2", flags=["--otel-endpoint", "http://127.0.0.1:9/v1/traces"]) as server:
        server.get("/v1/symbols")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 6


def test_without_the_libraries_it_is_one_line() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from ticker.cli import main\n"
        "sys.argv = ['ticker', 'serve', '--port', '0', '--otel-endpoint', 'http://127.0.0.1:9']\n"
        "main()"
    )
    done = run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), check=False, timeout=30
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'ticker[otel]'" in done.stderr
