"""A hub without an edge: ticks in, and an outlet that reads the very bytes a socket would be handed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from feeds.ticks import NO_TIME, QUOTE, TRADE, Symbols, Ticks
from ticker.access import OPEN, Grant
from ticker.audiences import Message as Bytes
from ticker.clients import Client
from ticker.errors import Close
from ticker.hub import Hub
from ticker.protocol import FRAMED, Encoding
from ticker.quotes import QuoteTable
from ticker.session import Check
from ticker.settings import Settings

Message = dict[str, Any]
#: A time to start from: noon of some day, in microseconds.
NOON: Final = 1_723_075_200_000_000 + 12 * 3_600_000_000
NAN: Final = float("nan")


class FakeOutlet:
    """An outlet whose peer reads all, or nothing: `stall` and `drain` it, and `take` the messages that have come."""

    transport = "websocket"

    def __init__(self, encoding: Encoding = FRAMED) -> None:
        self.encoding = encoding
        self.closed: Close | None = None
        self.unsent_bytes = 0
        #: Whether an offer was refused since the last drain.
        self.refused = False
        self._messages: list[Message] = []
        self._room: int | None = None

    def offer(self, *messages: Bytes) -> bool:
        if self._room is not None:
            if self._room <= 0:
                self.refused = True
                return False
            self._room -= 1
        self.send(*messages)
        return True

    def send(self, *messages: Bytes) -> None:
        self._messages += [read(self.encoding, message) for message in messages]

    def unsent(self) -> int:
        return self.unsent_bytes

    def close(self, close: Close) -> None:
        self.closed = close

    def stall(self, after: int = 0) -> None:
        """Refuse what is offered, but for the next `after` offers."""
        self._room = after

    def drain(self, hub: Hub, client: Client, now: int) -> None:
        """Take messages again, and say so as the edge does."""
        self._room = None
        if self.refused:
            self.refused = False
            hub.drained(client, now)

    def take(self) -> list[Message]:
        """The messages that have come since this was asked last."""
        messages, self._messages = self._messages, []
        return messages


def read(encoding: Encoding, message: Bytes) -> Message:
    """A message as its peer reads it: the frame (RFC 6455, section 5.2) and the JSON in it, both to the letter."""
    payload = _payload(bytes(message)) if encoding is FRAMED else bytes(message)
    body = json.loads(payload.decode(), object_pairs_hook=_without_doubles, parse_constant=_refuse)
    assert isinstance(body, dict), f"expected one JSON object, was {payload!r}"
    return body


def _payload(frame: bytes) -> bytes:
    assert frame[0] == 0x81, f"expected a whole text frame, was {frame[:2]!r}"
    size, start = frame[1], 2
    assert size < 128, "a server's frames are not masked"
    if size == 126:
        size, start = int.from_bytes(frame[2:4], "big"), 4
        assert size >= 126, "a shorter length fits"
    elif size == 127:
        size, start = int.from_bytes(frame[2:10], "big"), 10
        assert size >= 65_536, "a shorter length fits"
    assert len(frame) - start == size, f"expected one frame of {size} bytes, was {len(frame) - start}"
    return frame[start:]


def _without_doubles(pairs: list[tuple[str, Any]]) -> Message:
    body = dict(pairs)
    assert len(body) == len(pairs), f"a member stands twice: {pairs}"
    return body


def _refuse(constant: str) -> None:
    raise AssertionError(f"expected JSON, was {constant}")


def quote(
    symbol: str,
    seq: int,
    bid: float = NAN,
    ask: float = NAN,
    *,
    bid_size: float = NAN,
    ask_size: float = NAN,
    ts: int = NOON,
) -> Message:
    """One quote, as a record of the log."""
    sides = {"bid": bid, "bid_size": bid_size, "ask": ask, "ask_size": ask_size, "price": NAN, "size": NAN}
    return {"symbol": symbol, "seq": seq, "kind": QUOTE, "ts": ts, **sides}


def trade(symbol: str, seq: int, price: float, size: float = NAN, *, ts: int = NOON) -> Message:
    """One trade, as a record of the log."""
    sides = {"bid": NAN, "bid_size": NAN, "ask": NAN, "ask_size": NAN, "price": price, "size": size}
    return {"symbol": symbol, "seq": seq, "kind": TRADE, "ts": ts, **sides}


def batch(symbols: Symbols, records: Sequence[Message], feed: str = "feed", part: str = "") -> Ticks:
    """Records as the batch that `feed` would bring, all of them of one part of its log."""
    number = symbols.part(feed, part)
    count = len(records)

    def column(name: str) -> Any:
        return np.array([record[name] for record in records], np.float64)

    return Ticks(
        row=symbols.claim_all((record["symbol"] for record in records), number),
        seq=np.array([record["seq"] for record in records], np.int64),
        kind=np.array([record["kind"] for record in records], np.uint8),
        ts_event=np.array([record["ts"] for record in records], np.int64),
        ts_recv=np.full(count, NO_TIME, np.int64),
        bid=column("bid"),
        bid_size=column("bid_size"),
        ask=column("ask"),
        ask_size=column("ask_size"),
        price=column("price"),
        size=column("size"),
    )


class Desk:
    """A hub over a table that one feed, `feed`, writes; with a clock that moves when told to."""

    def __init__(self, *names: str, capacity: int = 1024, closed: bool = False, **settings: Any) -> None:
        self.now = NOON
        self.symbols = Symbols()
        self.symbols.claim_all(names, self.symbols.part("feed"))
        self.table = QuoteTable(self.symbols, capacity=capacity)
        self.epochs = {"feed": "k-1"}
        self.hub = Hub(self.table, Settings(**settings), self.epochs, closed=closed)

    def join(self, encoding: Encoding = FRAMED, grant: Grant = OPEN, check: Check | None = None) -> Peer:
        """A client that has had its welcome."""
        outlet = FakeOutlet(encoding)
        peer = Peer(self, outlet, self.hub.join(outlet, self.now, grant=grant, check=check))
        (peer.welcome,) = outlet.take()
        return peer

    def read(self, *records: Message) -> None:
        """Fold records in, as one batch."""
        self.hub.fold(self.table.apply(batch(self.symbols, records)))

    def round(self, after_ms: int = 100) -> int | None:
        """Let time pass, and run the rounds that are due."""
        self.now += after_ms * 1000
        return self.hub.flush(self.now)


class Peer:
    """A client of a desk: what it says, and what it is told."""

    def __init__(self, desk: Desk, outlet: FakeOutlet, client: Client) -> None:
        self.desk = desk
        self.outlet = outlet
        self.client = client
        self.welcome: Message = {}

    def say(self, **command: Any) -> list[Message]:
        """Send a command; returns all that has come by then."""
        return self.raw(json.dumps(command))

    def raw(self, message: str | bytes) -> list[Message]:
        close = self.desk.hub.receive(self.client, message, self.desk.now)
        if close is not None:
            self.outlet.close(close)
        return self.outlet.take()

    def subscribe(self, *symbols: str, **options: Any) -> list[Message]:
        return self.say(op="subscribe", symbols=symbols, **options)

    def drain(self) -> list[Message]:
        self.outlet.drain(self.desk.hub, self.client, self.desk.now)
        return self.outlet.take()

    def take(self) -> list[Message]:
        return self.outlet.take()

    def leave(self) -> None:
        self.desk.hub.leave(self.client)
