"""The outlet of a replay's client: it takes every message, and says when whoever plays is to wait for it."""

from __future__ import annotations

from typing import Protocol

from ticker.audiences import Message, Outlet
from ticker.errors import Close
from ticker.protocol import Encoding


class Writable(Outlet, Protocol):
    """An outlet that tells when its peer keeps up."""

    async def writable(self) -> None: ...


class PatientOutlet:
    """Takes every message, so that its client is never skipped: whoever plays waits until it is writable again."""

    __slots__ = ("_inner", "behind", "encoding", "patient", "transport")

    def __init__(self, inner: Writable) -> None:
        self._inner = inner
        self.encoding: Encoding = inner.encoding
        self.transport = inner.transport
        #: Whether a round may wait for this client, and whether it is to.
        self.patient = True
        self.behind = False

    def offer(self, message: Message, *more: Message) -> bool:
        """Take all messages; where other clients share the clock, none if the peer is not keeping up."""
        if self._inner.offer(message, *more):
            return True
        if self.patient:
            self.behind = True
            self._inner.send(message, *more)
        return self.patient

    def send(self, *messages: Message) -> None:
        """Take messages that answer the client."""
        self._inner.send(*messages)

    def unsent(self) -> int:
        """Bytes taken that have not left the process."""
        return self._inner.unsent()

    def close(self, close: Close) -> None:
        """End the connection."""
        self._inner.close(close)

    async def writable(self) -> None:
        """Return once all that was taken has left."""
        await self._inner.writable()
        self.behind = False
