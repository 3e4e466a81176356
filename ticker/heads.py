"""HTTP connections until their request is in: a peer that is slow with it, or never ends it, is cut off.

`HeadProtocol` is uvicorn's HTTP protocol with a limit on that time, and one on all connections of the process, those
that say nothing among them. An upgrade to a WebSocket ends its part.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio.transports import Transport
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

log: Final = logging.getLogger(__name__)

#: A token of the largest size fits, and some cookies.
HEAD_BYTES_MAX: Final = 16_384
TOO_LATE: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\ncontent-length: 0\r\n\r\n"
)
#: States of a peer that has sent a part of a request, or nothing yet.
SENDING: Final = frozenset((h11.IDLE, h11.SEND_BODY))


class HeadProtocol(H11Protocol):
    """uvicorn's HTTP protocol, for peers that may be slow or hostile."""

    def __init__(self, *args: Any, head_s_max: float, sockets_max: int, **kwargs: Any) -> None:
        """`head_s_max`: time for a whole request to come; `sockets_max`: connections at once, whatever they are for."""
        super().__init__(*args, **kwargs)
        self._head_s_max = head_s_max
        self._sockets_max = sockets_max
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._sockets_max:
            log.info("refused %s: %d sockets are open", transport.get_extra_info("peername"), self._sockets_max)
            transport.write(TOO_MANY)
            transport.close()
            return
        self._expect()

    def data_received(self, data: bytes) -> None:
        if self._timer is None:
            self._expect()
        super().data_received(data)
        if self.conn.their_state not in SENDING:
            self._stop_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE:  # kept alive: uvicorn has a timer of its own until the next byte
            self._stop_timer()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop_timer()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._timer = self.loop.call_later(self._head_s_max, self._too_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if self.conn.our_state is h11.IDLE:
            self.transport.write(TOO_LATE)
            self.transport.close()
        else:  # it is being answered, and still sends
            self.transport.abort()
