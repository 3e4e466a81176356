"""Outlets: how a message leaves the process.

`StreamProtocol` is uvicorn's WebSocket protocol with one thing added: the scope it makes holds a `SocketOutlet`, through
which the hub writes shared frames straight to the socket. Under another ASGI server, and for Server-Sent Events, the
same hub writes to a `BufferedOutlet`, whose messages the endpoint sends on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import sys
from asyncio.transports import BaseTransport, Transport
from collections.abc import Callable
from typing import Any, Final, cast

from uvicorn.protocols.utils import get_client_addr
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import State

from ticker.errors import Close
from ticker.lanes import Message
from ticker.protocol import BARE, FRAMED

log: Final = logging.getLogger(__name__)

#: Where the scope of a WebSocket holds its `SocketOutlet`.
EXTENSION: Final = "ticker.outlet"
#: Stands for a connection that must not be written to but through its transport; writing to it is an error.
NO_DESCRIPTOR: Final = -1
#: How long the peer has to answer a close frame before the connection is cut.
CLOSE_S_MAX: Final = 2.0
#: How long a stop of the whole server waits for a peer to take what it was sent.
SHUTDOWN_S_MAX: Final = 0.5


def _nothing() -> None:
    pass


class SocketOutlet:
    """Writes frames to the socket of one WebSocket; see `ticker.lanes.Outlet`.

    Where the socket is plain TCP a frame goes to the kernel with one `write(2)`; what it does not take goes through the
    transport. From then on nothing more is taken until all of it has left.
    """

    __slots__ = ("_fd", "_protocol", "_refused", "_taking", "_transport", "on_drained")

    encoding = FRAMED

    def __init__(self, protocol: StreamProtocol, transport: Transport) -> None:
        self._protocol = protocol
        self._transport = transport
        self._taking = True
        self._refused = False
        plain = transport.get_extra_info("ssl_object") is None
        self._fd: int = transport.get_extra_info("socket").fileno() if plain else NO_DESCRIPTOR
        #: Called when the peer has caught up after an offer was refused.
        self.on_drained: Callable[[], None] = _nothing

    def offer(self, message: Message, *more: Message) -> bool:
        """Take all messages, or none and return False where the peer is not keeping up, or has gone."""
        if not self._taking:
            self._refused = True
            return False
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
        if not (self._protocol.close_sent or self._transport.is_closing()):
            for message in messages:
                self._transport.write(message)

    def unsent(self) -> int:
        """Bytes taken that the peer has not acknowledged: in this process and, where it can be told, in the kernel."""
        return self._transport.get_write_buffer_size() + (0 if self._fd == NO_DESCRIPTOR else _unacknowledged(self._fd))

    def close(self, close: Close) -> None:
        """Send a close frame, and cut the connection where the peer does not answer it."""
        self._taking = False
        self._protocol.end(close)

    async def writable(self) -> None:
        """Return once all that was taken has left this process, or never will."""
        await self._protocol.writable.wait()

    # -- what the protocol tells ---------------------------------------------------------------------------------------

    def paused(self) -> None:
        self._taking = False

    def resumed(self) -> None:
        self._taking = not self._protocol.close_sent
        if self._refused:
            self._refused = False
            self.on_drained()

    def lost(self) -> None:
        """The descriptor is no longer this connection's."""
        self._taking = False
        self._fd = NO_DESCRIPTOR


def _unacknowledged(fd: int) -> int:
    """Bytes in the kernel's send queue of a TCP socket (SIOCOUTQ, tcp(7)); 0 where the system cannot tell."""
    if sys.platform != "linux":
        return 0
    import fcntl  # noqa: PLC0415 - not on every platform
    import termios  # noqa: PLC0415

    size: int = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))[0]
    return size


class StreamProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, with a `SocketOutlet` in the scope and an ending that a stalled peer cannot delay."""

    outlet: SocketOutlet | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        # Writing counts as paused while anything at all waits in this process: that is what "not keeping up" means.
        cast(Transport, transport).set_write_buffer_limits(high=0)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.outlet = SocketOutlet(self, self.transport)
            extensions = cast(dict[str, Any], self.scope["extensions"])
            extensions[EXTENSION] = self.outlet

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:  # a peer that pings and does not read must not fill our memory with pongs
            self.conn.data_to_send()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.outlet is not None:
            self.outlet.paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.outlet is not None:
            self.outlet.resumed()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.accept":  # nobody asks for them any more, and they take five kilobytes
            self.request.headers.clear()
            self.response.headers.clear()
            cast(list[Any], self.scope["headers"]).clear()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.outlet is not None:
            self.outlet.lost()
            self.outlet = None  # or else client and session would live on until the garbage collector comes
        super().connection_lost(exc)

    def end(self, close: Close) -> None:
        """Close with `close`. Harmless for a connection that is ending already."""
        if self.close_sent or self.transport.is_closing():
            return
        log.info("closing %s: %d %s", get_client_addr(cast(Any, self.scope)), close.code, close.reason)
        self.stop_keepalive()
        self.conn.send_close(close.code, close.reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(CLOSE_S_MAX, self.transport.abort)

    def shutdown(self) -> None:
        if self.conn.state is not State.CLOSING:  # else the two are parting already
            super().shutdown()
        self.loop.call_later(SHUTDOWN_S_MAX, self.transport.abort)


class BufferedOutlet:
    """Holds messages, at most about `bytes_max`, until the endpoint has sent them; see `ticker.lanes.Outlet`."""

    __slots__ = ("_bytes_max", "_emptied", "_filled", "_messages", "_refused", "_unsent", "closing", "on_drained")

    encoding = BARE

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
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
        self._unsent += sum(map(len, messages))
        self._emptied.clear()
        self._filled.set()

    def unsent(self) -> int:
        """Bytes taken that have not left the endpoint."""
        return self._unsent

    def close(self, close: Close) -> None:
        """Let `take` end after what it holds."""
        self.closing = close
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

    async def writable(self) -> None:
        """Return once all that was taken has left the endpoint, or the outlet is closed."""
        if not self.closing:
            await self._emptied.wait()


class EventOutlet(BufferedOutlet):
    """A `BufferedOutlet` whose messages are Server-Sent Events: `event` is the message's type, `data` the message.

    Messages of items come in groups that leave the client's copy whole; the last of a group carries the `id` from which
    a later connection resumes.
    """

    __slots__ = ("_position",)

    def __init__(self, bytes_max: int, position: Callable[[], str | None]) -> None:
        """`position` gives the id that stands for all that the table holds now; None where there is none to give."""
        super().__init__(bytes_max)
        self._position = position

    def send(self, *messages: Message) -> None:
        """Take messages that answer the client, keeping up or not."""
        events = [b"event: %b\ndata: %b\n\n" % (_type(message), bytes(message)) for message in messages]
        if _type(messages[-1]) in (b"update", b"snapshot"):
            position = self._position()
            if position is not None:
                events[-1] = b"id: %b\n%b" % (position.encode(), events[-1])
        super().send(*events)


def _type(message: Message) -> bytes:
    """The type of a message: every message's first member."""
    start = len(b'{"type":"')
    return bytes(message[start : message.index(b'"', start)])
