"""Real servers for tests: each in a process of its own, on a free port of 127.0.0.1, stopped by its process id."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
import psutil

START_S_MAX = 30.0
STOP_S_MAX = 15.0


def environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of the service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TICKER_")} | more


@dataclass
class Server:
    """A running `ticker serve`."""

    process: subprocess.Popen[str]
    url: str
    #: What it has written to stderr so far.
    log: list[str] = field(default_factory=list)

    @property
    def stream(self) -> str:
        return self.url.replace("http", "ws") + "/v1/stream"

    @property
    def memory_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return httpx.get(self.url + path, headers=headers, timeout=10)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it with a signal; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@contextmanager
def serving(
    *feeds: str | Path, flags: Sequence[str] = (), ready: bool = True, session: bool = False
) -> Iterator[Server]:
    """`ticker serve` over `feeds`, once it is ready (or listens, where `ready` is false).

    With `session` it is in one of its own, which no signal of the terminal reaches.
    """
    command = [sys.executable, "-m", "ticker", "serve", "--port", "0", *flags]
    for feed in feeds:
        command += ["--feed", str(feed)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONUNBUFFERED="1"),
        start_new_session=session,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    server = Server(process, "")
    reader = threading.Thread(target=server.log.extend, args=(process.stderr,), daemon=True)
    reader.start()
    try:
        found = re.search(r"http://[0-9.:]+", process.stdout.readline())
        assert found, f"the server did not start: {_ending(server)}"
        server.url = found[0]
        if ready:
            _wait(server)
        yield server
    finally:
        server.stop()
        reader.join(STOP_S_MAX)
        process.stdout.close()
        process.stderr.close()


def _wait(server: Server) -> None:
    transport = httpx.HTTPTransport(retries=10)
    with httpx.Client(transport=transport, base_url=server.url, timeout=START_S_MAX) as http:
        for _ in range(1000):
            if http.get("/readyz").status_code == 200:
                return
            threading.Event().wait(0.02)
    raise AssertionError("the server did not become ready")


def _ending(server: Server) -> str:
    server.process.wait(START_S_MAX)
    return "".join(server.log)
