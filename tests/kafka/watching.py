"""A client that is connected all through a fault: what it is told, and whether the protocol's promises to it are kept."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.servers import Server, serving
from ticker.mirror import Item, Mirror

#: For whatever is to come by itself; a test that waits so long has failed.
WAIT_S_MAX = 40.0
HEARTBEAT_MS = 100
FEED = "kafka"


@dataclass
class Watch:
    """What a client of everything has been told so far. Kept up by a thread of its own."""

    server: Server
    mirror: Mirror = field(default_factory=Mirror)
    #: The states of the feed that `status` told, in order, and the epochs of `epoch`.
    states: list[str] = field(default_factory=list)
    epochs: list[str] = field(default_factory=list)
    #: The time of each heartbeat, by the server's clock, and what it told of the feed.
    beats: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    #: Promises that were broken, and anything else that must not come.
    flaws: list[str] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    @property
    def feed(self) -> dict[str, Any]:
        """The feed as the last heartbeat told it."""
        return self.beats[-1][1] if self.beats else {"state": None, "age_ms": None, "lag": None}

    @property
    def ticks(self) -> int:
        """The server's count of the ticks of all symbols."""
        return sum(item["n"] for item in self.mirror.items.values())

    def item(self, symbol: str) -> Item:
        return self.mirror.items[symbol]

    def values(self, name: str) -> dict[str, Any]:
        """A field of every symbol."""
        return {symbol: item[name] for symbol, item in self.mirror.items.items()}

    def until(self, done: Callable[[], object], within_s: float = WAIT_S_MAX) -> None:
        """Wait until what was told makes `done` true."""
        with self.news:
            assert self.news.wait_for(done, within_s), f"not within {within_s:g} s; told: {self}"

    def until_state(self, state: str, within_s: float = WAIT_S_MAX) -> None:
        self.until(lambda: self.feed["state"] == state, within_s)

    def until_ticks(self, count: int, within_s: float = WAIT_S_MAX) -> None:
        """Wait until so many ticks have been counted, and the feed has nothing left to read."""
        self.until(lambda: self.ticks >= count and not self.mirror.broken and self.feed["lag"] == 0, within_s)
        assert self.ticks == count

    def until_said(self, text: str) -> None:
        """Wait until the server has logged a line that holds `text`."""
        self.until(lambda: said(self.server, text))

    def take(self, message: dict[str, Any]) -> None:
        """Note a message, and what of it breaks a promise."""
        match message["type"]:
            case "heartbeat":
                self.beats.append((message["ts"], message["feeds"][FEED]))
            case "status":
                self.states.append(message["state"])
            case "epoch":
                self.epochs.append(message["epoch"])
            case "error" | "slow" | "shutdown":
                self.flaws.append(str(message))
            case _:
                pass
        before = self.mirror.since()
        self.flaws += [f"the chain of {symbol} broke" for symbol in self.mirror.apply(message)]
        self.flaws += [
            f"{symbol} fell from {seq} to {now['seq']}"
            for symbol, seq in before.items()
            if symbol not in self.mirror.broken and (now := self.mirror.items[symbol])["seq"] < seq
        ]

    def __str__(self) -> str:
        items = list(itertools.islice(self.mirror.items.values(), 3))
        return (
            f"{self.feed}, states {self.states}, epochs {self.epochs}, {self.ticks} ticks of {len(self.mirror.items)}"
            f" symbols, such as {items}; logged: {''.join(self.server.log[-10:])}"
        )


@contextmanager
def watching(server: Server) -> Iterator[Watch]:
    """A client of all symbols; on a test's way out, that all promises were kept."""
    watch = Watch(server)
    with connect(server.stream, compression=None, max_size=None) as socket:
        socket.send(orjson.dumps({"op": "subscribe", "symbols": ["*"], "interval_ms": 50}).decode())

        def listen() -> None:
            try:
                for text in socket:
                    with watch.news:
                        watch.take(orjson.loads(text))
                        watch.news.notify_all()
            except ConnectionClosed as ending:
                watch.flaws.append(f"closed: {ending}")

        reader = threading.Thread(target=listen, name="watch", daemon=True)
        reader.start()
        yield watch
    reader.join(WAIT_S_MAX)
    assert watch.flaws == []
    assert "Traceback" not in "".join(server.log)


@contextmanager
def served(spec: str, *flags: str, ready: bool = True) -> Iterator[tuple[Server, Watch]]:
    """`ticker serve` over a feed, and a client that watches it from its start to its end."""
    with (
        serving(spec, flags=("--heartbeat-ms", str(HEARTBEAT_MS), *flags), ready=ready) as server,
        watching(server) as watch,
    ):
        yield server, watch


def quotes(first: int, past: int, symbols: int = 10) -> list[tuple[bytes, bytes]]:
    """Records of quotes that come now, for `Broker.produce`: S00, S01, ... in turn, with bids that count on from `first`."""
    keys = [b"S%02d" % number for number in range(symbols)]
    value = b'{"symbol":"%%b","ts_event":%d,"bid":%%d,"ask":%%d}' % (time.time_ns() // 1000)
    return [(key := keys[bid % symbols], value % (key, bid, bid + 1)) for bid in range(first, past)]


def newest(records: list[tuple[bytes, bytes]]) -> dict[str, float]:
    """The last bid of each symbol."""
    return {key.decode(): orjson.loads(value)["bid"] for key, value in records}


def said(server: Server, text: str) -> list[str]:
    """The lines that the server has logged and that hold `text`, without their times."""
    return [re.sub(r"^\S+ \S+ ", "", line).rstrip() for line in server.log if text in line]
