"""Outlets: how a message leaves the process.

`StreamProtocol` is uvicorn's WebSocket protocol with one thing added: the scope it makes holds a `SocketOutlet`, through
which the hub writes shared frames straight to the socket. Under another ASGI server, and for Server-Sent Events, the
same hub writes to a `BufferedOutlet`, whose messages the endpoint sends on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import sys
from asyncio.transports import BaseTransport, Transport
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, cast

from uvicorn.protocols.utils import get_client_addr
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import State

from ticker.audiences import Message
from ticker.counts import Counts
from ticker.errors import Close
from ticker.protocol import BARE, FRAMED
from ticker.session import Bucket

log: Final = logging.getLogger(__name__)

#: Where the scope of a WebSocket holds its `SocketOutlet`.
EXTENSION: Final = "ticker.outlet"
#: Stands for a connection that must not be written to but through its transport; writing to it is an error.
NO_DESCRIPTOR: Final = -1
#: How long the peer has to answer a close frame before the connection is cut.
CLOSE_S_MAX: Final = 2.0
#: Of what a peer has sent, so much is taken in before others have their turn.
TURN_BYTES: Final = 4096
BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def _nothing() -> None:
    pass


class _State(Enum):
    """Whether an outlet takes messages: for as long as nothing waits in this process, until the connection ends."""

    TAKING = auto()
    FULL = auto()
    ENDED = auto()


class SocketOutlet:
    """Writes frames to the socket of one WebSocket; see `ticker.lanes.Outlet`.

    Where the socket is plain TCP a frame goes to the kernel with one `write(2)`; what it does not take goes through the
    transport. From then on nothing more is taken until all of it has left.
    """

    __slots__ = ("_counts", "_fd", "_protocol", "_refused", "_state", "_transport", "on_drained")

    encoding = FRAMED
    transport = "websocket"

    def __init__(self, protocol: StreamProtocol, transport: Transport, counts: Counts) -> None:
        self._protocol = protocol
        self._counts = counts
        self._transport = transport
        self._state = _State.TAKING if protocol.writable.is_set() else _State.FULL
        self._refused = False
        plain = os.name == "posix" and transport.get_extra_info("ssl_object") is None
        self._fd: int = transport.get_extra_info("socket").fileno() if plain else NO_DESCRIPTOR
        #: Called when the peer has caught up after an offer was refused.
        self.on_drained: Callable[[], None] = _nothing

    def offer(self, message: Message, *more: Message) -> bool:
        """Take all messages, or none and return False where the peer is not keeping up, or has gone."""
        if self._state is not TAKING:
            self._refused = True
            return False
        counts = self._counts
        counts.messages += 1
        counts.bytes += len(message)
        # While it takes messages nothing waits in the transport, so that the descriptor is free to be written to.
        try:
            sent = os.write(self._fd, message)
        except OSError:  # full, broken or not plain: the transport finds out which
            sent = 0
        if sent != len(message):
            self._transport.write(memoryview(message)[sent:])
        if more:
            self.send(*more)
        return True

    def send(self, *messages: Message) -> None:
        """Take messages that answer the client, keeping up or not."""
        if self._state is not _State.ENDED:
            counts = self._counts
            for message in messages:
                counts.messages += 1
                counts.bytes += len(message)
                self._transport.write(message)

    def unsent(self) -> int:
        """Bytes taken that the peer has not acknowledged: in this process and, where it can be told, in the kernel."""
        return self._transport.get_write_buffer_size() + (0 if self._fd == NO_DESCRIPTOR else _unacknowledged(self._fd))

    def close(self, close: Close) -> None:
        """Send a close frame, and cut the connection where the peer does not answer it."""
        self._protocol.end(close)

    async def writable(self) -> None:
        """Return once all that was taken has left this process, or never will."""
        await self._protocol.writable.wait()

    def bear(self, stall_s: float) -> None:
        """Let the peer take nothing, and answer no ping, for so long before it counts as dead."""
        self._protocol.ping_timeout = stall_s
        if sys.platform == "linux" and self._fd != NO_DESCRIPTOR:
            with socket.fromfd(self._fd, socket.AF_INET, socket.SOCK_STREAM) as same:
                same.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall_s * 1000))

    def turn(self, *, writable: bool) -> None:
        """The protocol tells that writing was paused or goes on."""
        if self._state is not _State.ENDED:
            self._state = _State.TAKING if writable else _State.FULL
            if writable and self._refused:
                self._refused = False
                self.on_drained()

    def end(self) -> None:
        """The protocol tells that no data frame may follow. The descriptor may soon be another connection's."""
        self._state = _State.ENDED
        self._fd = NO_DESCRIPTOR


TAKING: Final = _State.TAKING  # looked up for each frame


def _unacknowledged(fd: int) -> int:
    """Bytes in the kernel's send queue of a TCP socket (SIOCOUTQ, tcp(7)); 0 where the system cannot tell."""
    if sys.platform != "linux":
        return 0
    import fcntl  # noqa: PLC0415 - not on every platform
    import termios  # noqa: PLC0415

    size: int = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))[0]
    return size


class StreamProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, with a `SocketOutlet` in the scope, turns for all, and endings that cannot be delayed."""

    outlet: SocketOutlet | None = None

    def __init__(self, *args: Any, frames_per_s_max: int = 1000, counts: Counts | None = None, **kwargs: Any) -> None:
        """`frames_per_s_max`: control frames and fragments that the peer may send a second, in bursts of twice that;
        `counts` is where what is sent is counted.
        """
        super().__init__(*args, **kwargs)
        self._counts = counts or Counts()
        self._inbound = bytearray()
        self._frames = Bucket(frames_per_s_max, 2 * frames_per_s_max, self._now())

    def _now(self) -> int:
        return int(self.loop.time() * 1e6)

    # -- writing -------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        transport = cast(Transport, transport)
        # Writing counts as paused while anything at all waits in this process: that is what "not keeping up" means.
        # (The limit of a TLS transport is one byte: asyncio's would never be through with none.)
        transport.set_write_buffer_limits(high=int(self.scheme == "wss"))
        if (
            transport.get_write_buffer_size()
        ):  # of a response on this connection before: whoever sent it was told, not we
            self.pause_writing()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.outlet = SocketOutlet(self, self.transport, self._counts)
            extensions = cast(dict[str, Any], self.scope["extensions"])
            extensions[EXTENSION] = self.outlet

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.outlet is not None:
            self.outlet.turn(writable=False)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.outlet is not None:
            self.outlet.turn(writable=True)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.accept":  # nobody asks for them any more, and they take five kilobytes
            self.request.headers.clear()
            self.response.headers.clear()
            cast(list[Any], self.scope["headers"]).clear()

    # -- reading -------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take in what has come, a bounded slice a turn of the loop: a peer that floods us delays nobody else."""
        if self._inbound or len(data) > TURN_BYTES:
            self._inbound += data
            self.transport.pause_reading()
            if len(self._inbound) == len(data):
                self._next_slice()
        else:
            self._take_in(data)

    def _next_slice(self) -> None:
        if self.transport.is_closing() or self.close_sent:
            self._inbound.clear()
        elif self._inbound and not self.read_paused:  # else the endpoint has a message to receive first
            data = bytes(self._inbound[:TURN_BYTES])
            del self._inbound[:TURN_BYTES]
            self._take_in(data)
            if self._inbound:
                self.loop.call_soon(self._next_slice)
            elif not self.read_paused and not self.transport.is_closing():
                self.transport.resume_reading()

    def _take_in(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:  # too long, or no request at all
            self.handshake_initiated = self.handshake_complete = self.close_sent = True
            self.transport.write(BAD_REQUEST)
            self.transport.close()

    async def receive(self) -> Any:
        message = await super().receive()
        if self._inbound and not self.read_paused:
            self.transport.pause_reading()
            self.loop.call_soon(self._next_slice)
        return message

    def handle_ping(self) -> None:
        if self._charge() and self.writable.is_set():
            super().handle_ping()
        else:  # a peer that pings and does not read must not fill our memory with pongs
            self.conn.data_to_send()

    def handle_pong(self, event: Frame) -> None:
        if self._charge():
            super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        if self._charge():
            super().handle_cont(event)

    def _charge(self) -> bool:
        """Let the peer pay for a frame that is no message; False once it has gone too far, which ends the connection."""
        if self.close_sent or self._frames.take(1, self._now()):
            return not self.close_sent
        self.end(Close.RATE_LIMITED)
        return False

    # -- ending --------------------------------------------------------------------------------------------------------

    def end(self, close: Close) -> None:
        """Close with `close`. Harmless for a connection that is ending already."""
        self._end_outlet()
        if self.close_sent or self.transport.is_closing():
            return
        peer = get_client_addr(cast(Any, self.scope))
        about = {"peer": peer, "code": close.code, "reason": close.reason}
        log.info("closing %s: %d %s", peer, close.code, close.reason, extra=about)
        self._counts.closes[close.code] += 1
        self.stop_keepalive()
        self.conn.send_close(close.code, close.reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(CLOSE_S_MAX, self.transport.abort)

    def handle_close(self, event: Frame) -> None:
        self._end_outlet()
        super().handle_close(event)

    def handle_parser_exception(self) -> None:
        self._end_outlet()
        super().handle_parser_exception()

    def keepalive_timeout(self) -> None:
        self._end_outlet()
        super().keepalive_timeout()

    def shutdown(self) -> None:
        self._end_outlet()
        if self.conn.state is not State.CLOSING:  # else the two are parting already
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_outlet()
        self.outlet = None  # or else client and session would live on until the garbage collector comes
        self._inbound.clear()
        super().connection_lost(exc)

    def _end_outlet(self) -> None:
        if self.outlet is not None:
            self.outlet.end()


class BufferedOutlet:
    """Holds messages, at most about `bytes_max`, until the endpoint has sent them; see `ticker.lanes.Outlet`."""

    __slots__ = (
        "_bytes_max",
        "_counts",
        "_emptied",
        "_filled",
        "_messages",
        "_refused",
        "_unsent",
        "closing",
        "on_drained",
    )

    encoding = BARE
    transport = "websocket"

    def __init__(self, bytes_max: int, counts: Counts | None = None) -> None:
        self._bytes_max = bytes_max
        self._counts = counts or Counts()
        self._messages: list[Message] = []
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._unsent = 0
        self._refused = False
        #: How the connection is to end, once that is decided.
        self.closing: Close | None = None
        #: Called when the peer has caught up after an offer was refused.
        self.on_drained: Callable[[], None] = _nothing

    def offer(self, message: Message, *more: Message) -> bool:
        """Take all messages, or none and return False where the peer is not keeping up."""
        if self._refused or self._unsent > self._bytes_max:
            self._refused = True
            return False
        self.send(message, *more)
        return True

    def send(self, *messages: Message) -> None:
        """Take messages that answer the client, keeping up or not."""
        self._messages.extend(messages)
        size = sum(map(len, messages))
        self._unsent += size
        self._counts.messages += len(messages)
        self._counts.bytes += size
        self._emptied.clear()
        self._filled.set()

    def unsent(self) -> int:
        """Bytes taken that have not left the endpoint."""
        return self._unsent

    def close(self, close: Close) -> None:
        """Let `take` end after what it holds."""
        self.closing = close
        self._counts.closes[close.code] += 1
        self._emptied.set()
        self._filled.set()

    async def take(self) -> list[Message]:
        """The messages to send next, in order; none, once the outlet is closed. Those of the call before are sent."""
        self._unsent = sum(map(len, self._messages))
        if not self._messages:
            self._emptied.set()
            if self._refused:
                self._refused = False
                self.on_drained()
        if not self.closing:
            await self._filled.wait()
            self._filled.clear()
        messages, self._messages = self._messages, []
        return messages

    def bear(self, stall_s: float) -> None:
        """The server below decides for how long."""

    async def writable(self) -> None:
        """Return once all that was taken has left the endpoint, or the outlet is closed."""
        if not self.closing:
            await self._emptied.wait()


class EventOutlet(BufferedOutlet):
    """A `BufferedOutlet` whose messages are Server-Sent Events: `event` is the message's type, `data` the message.

    Messages of items come in groups that leave the client's copy whole; the last of a group carries the `id` from which
    a later connection resumes.
    """

    __slots__ = ("position",)

    transport = "sse"

    def __init__(self, bytes_max: int, counts: Counts | None = None) -> None:
        super().__init__(bytes_max, counts)
        #: Gives the id that stands for all that the table holds now; None where there is none to give.
        self.position: Callable[[], str | None] = lambda: None

    def send(self, *messages: Message) -> None:
        """Take messages that answer the client, keeping up or not."""
        events = [b"event: %b\ndata: %b\n\n" % (_type(message), bytes(message)) for message in messages]
        if _type(messages[-1]) in RESUMABLE:
            position = self.position()
            if position is not None:
                events[-1] = b"id: %b\n%b" % (position.encode(), events[-1])
        super().send(*events)


class PollOutlet(BufferedOutlet):
    """A `BufferedOutlet` of one answer over plain HTTP."""

    __slots__ = ()

    transport = "poll"


#: Messages after which a client has all that the table holds.
RESUMABLE: Final = frozenset((b"update", b"snapshot", b"trades", b"bars", b"gap"))


def _type(message: Message) -> bytes:
    """The type of a message: every message's first member."""
    start = len(b'{"type":"')
    return bytes(message[start : message.index(b'"', start)])
