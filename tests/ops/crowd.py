"""Clients of all kinds, each in a thread of its own: who reads, who does not, who comes and goes, and who may not come in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import httpx2 as httpx
import orjson
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

#: How long a client waits for a message before it looks whether it is to end, and before it comes again.
PATIENCE_S: Final = 0.5
STOP_S_MAX: Final = 15.0
#: What is watched, and how many watch it.
WATCHED: Final[Sequence[tuple[dict[str, object], int]]] = (
    ({"channel": "ticker", "symbols": ["*"], "interval_ms": 100}, 4),
    ({"channel": "ticker", "symbols": ["SIM0*"], "interval_ms": 1000}, 4),
    ({"channel": "trades", "symbols": ["*"]}, 2),
    ({"channel": "bars", "interval": "1s", "symbols": ["*"]}, 2),
)


@dataclass
class Crowd:
    """Where they go, with which token if any, and whether it is over."""

    url: str
    token: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self, command: dict[str, object]) -> None:
        """Read all that comes."""
        with self._connected(self.token) as client:
            client.send(orjson.dumps({"op": "subscribe", **command}).decode())
            while not self.over.is_set():
                with suppress(TimeoutError):
                    client.recv(timeout=PATIENCE_S)

    def stall(self) -> None:
        """Ask for everything and read nothing."""
        with self._connected(self.token) as client:
            client.send('{"op":"subscribe","symbols":["*"],"interval_ms":0}')
            self.over.wait(5)

    def come_and_go(self) -> None:
        with self._connected(self.token) as client:
            client.recv(timeout=PATIENCE_S)

    def intrude(self) -> None:
        """Show a token that nobody has given."""
        with suppress(InvalidStatus), self._connected("made-up"):
            pass

    def listen(self) -> None:
        """Server-Sent Events."""
        with httpx.stream(
            "GET", f"{self.url}/v1/sse?symbols=*", headers=self._headers(self.token), timeout=5
        ) as events:
            for _ in events.iter_lines():
                if self.over.is_set():
                    return

    def poll(self) -> None:
        """A long-poll after another."""
        address, headers, tag = f"{self.url}/v1/snapshot?symbols=*&wait=1", self._headers(self.token), ""
        while not self.over.is_set():
            answer = httpx.get(address, headers={**headers, "if-none-match": tag} if tag else headers, timeout=5)
            tag = answer.headers.get("etag", "")

    def again(self, act: Callable[[], None]) -> None:
        """Do it until it is over, however it ends."""
        while not self.over.is_set():
            with suppress(ConnectionClosed, InvalidStatus, OSError, TimeoutError, httpx.HTTPError):
                act()
            self.over.wait(PATIENCE_S)

    def _connected(self, token: str) -> ClientConnection:
        address = self.url.replace("http", "ws") + "/v1/stream"
        return connect(address, compression=None, additional_headers=self._headers(token), close_timeout=0.1)

    def _headers(self, token: str) -> dict[str, str]:
        return {"authorization": f"Bearer {token}"} if token else {}


@contextmanager
def crowding(url: str, token: str = "") -> Iterator[Crowd]:
    """A crowd at a service until the end."""
    crowd = Crowd(url, token)
    acts = [crowd.stall, crowd.come_and_go, crowd.intrude, crowd.listen, crowd.poll]
    for command, count in WATCHED:
        acts += [lambda command=command: crowd.watch(command)] * count  # type: ignore[misc]
    threads = [threading.Thread(target=crowd.again, args=(act,), daemon=True) for act in acts]
    for thread in threads:
        thread.start()
    try:
        yield crowd
    finally:
        crowd.over.set()
        for thread in threads:
            thread.join(STOP_S_MAX)
