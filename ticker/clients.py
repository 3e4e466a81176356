"""A connected client: its session, and where it is served. Pure."""

from __future__ import annotations

from ticker.audiences import Outlet, Recipient
from ticker.errors import RequestError
from ticker.journals import Reader
from ticker.lanes import Watcher
from ticker.session import JournalKey, LaneKey, Session


class Client(Recipient):
    """A connected client, as the hub knows it."""

    __slots__ = ("deadline", "failure", "intervals", "members", "readers", "session", "slot")

    def __init__(self, session: Session, outlet: Outlet, slot: int) -> None:
        super().__init__(outlet)
        self.session = session
        #: Which part of the heartbeat interval is its own.
        self.slot = slot
        #: Where it is served the channel ticker ...
        self.members: dict[LaneKey, Watcher] = {}
        #: ... and trades and bars.
        self.readers: dict[JournalKey, Reader] = {}
        #: Why its last command was refused as a whole; None where it was not.
        self.failure: RequestError | None = None
        #: Those of its subscriptions.
        self.intervals: frozenset[int] = frozenset()
        #: When waiting for what it is ahead of ends.
        self.deadline = 0

    @property
    def waits(self) -> bool:
        """Whether it says that it holds something of the log that the table has not read, or not sent on, so far."""
        awaited = self.session.awaited or self.session.awaited_journals
        return bool(self.ahead or awaited or any(reader.ahead for reader in self.readers.values()))
