"""uvicorn's HTTP protocol, for peers that do not say what they want: a request has to come whole, and in time.

What a connection is before it has sent a request costs a descriptor and nothing else, so that is what is bounded: the time
to its first request, the size of that, and how many connections there are at all.
"""

from __future__ import annotations

import asyncio
from asyncio.transports import Transport
from collections import OrderedDict
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Of a request's head that has not come whole, so much is held.
HEAD_BYTES_MAX: Final = 16_384
TOO_LATE: Final = b"the request: expected whole within the time for it\n"
TIMEOUT: Final = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(TOO_LATE), TOO_LATE)
)
TOO_MANY: Final = b"too many connections: try again later\n"
UNAVAILABLE: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\nretry-after: 1\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(TOO_MANY), TOO_MANY)
)


class Waiting:
    """The connections of a process that have no request under way, oldest first, and how many there may be in all."""

    def __init__(self, connections_max: int) -> None:
        self.connections_max = connections_max
        self.heads: OrderedDict[HeadProtocol, None] = OrderedDict()


class HeadProtocol(H11Protocol):
    """uvicorn's HTTP protocol, which waits for a request, and for a request's body, only so long.

    Where there are as many connections as there may be, WebSockets included, a new one takes the place of the one that has
    waited longest without a request: whoever speaks is let in, whoever opens connections to hold them is not.
    """

    def __init__(self, *args: Any, waiting: Waiting, header_s_max: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting = waiting
        self._header_s_max = header_s_max
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        heads = self._waiting.heads
        if len(self.connections) > self._waiting.connections_max:
            if not heads:
                transport.write(UNAVAILABLE)
                transport.close()
                return
            heads.popitem(last=False)[0].transport.abort()
        self._watch()

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Have a timer run for as long as the peer owes us bytes, from the first moment that it does."""
        here = (
            self in self.connections and not self.transport.is_closing()
        )  # else it is a WebSocket by now, or has gone
        if not here or self.conn.their_state not in {h11.IDLE, h11.SEND_BODY}:
            self._unwatch()
            return
        if self.conn.their_state is h11.IDLE:
            self._waiting.heads.setdefault(self)
        else:
            self._waiting.heads.pop(self, None)
        if self.timeout_keep_alive_task is not None:  # uvicorn's own, between two requests
            self._cancel()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._header_s_max, self._too_late)

    def _unwatch(self) -> None:
        self._waiting.heads.pop(self, None)
        self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE:
            self.transport.write(TIMEOUT)
        elif not self.cycle.response_complete:
            if not self.cycle.response_started:
                self.transport.write(TIMEOUT)
            self.cycle.disconnected = True  # whatever the endpoint has to say, it is too late
            self.cycle.message_event.set()
        self.transport.close()
