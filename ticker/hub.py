"""The hub: all clients and lanes over one table. Pure: no socket, no clock, no task; time is an argument.

Conflation is a query, not a queue. Nothing that a client is owed is ever stored: when a round comes and its socket can
take it, the lanes ask the table which of its rows have changed since what it was last sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from ticker.errors import Close
from ticker.lanes import Client, Lane, Member, Message, Outlet, Pace
from ticker.protocol import PROTOCOL, Encoding, encode, items_head
from ticker.quotes import Changes, QuoteTable
from ticker.session import LaneKey, Outcome, Session
from ticker.settings import Settings

HEARTBEAT_SLOTS: Final = 20  # heartbeats are spread over their interval, so that they never come as one burst


class Hub:
    """All clients and lanes over one table."""

    def __init__(
        self, table: QuoteTable, settings: Settings, epochs: Mapping[str, str], *, closed: bool = False
    ) -> None:
        """`epochs` maps each feed's name to its epoch; `closed` says that no symbol will come that is not known."""
        self.table = table
        self.settings = settings
        self.clients: dict[Client, None] = {}
        self.paces: dict[int, Pace] = {}
        self._epochs = epochs
        self._closed = closed
        self._seen = len(table.symbols)
        self._joined = 0
        self._waiting: dict[Client, None] = {}

    @property
    def epoch(self) -> str:
        return "+".join(self._epochs.values())

    # -- clients ---------------------------------------------------------------------------------------------------

    def join(self, outlet: Outlet, now: int) -> Client:
        """Take in a client and send it its `welcome`."""
        settings = self.settings
        session = Session(self.table, settings, self._epochs, now, closed=self._closed, pace=self._served)
        self._joined += 1
        client = Client(session, outlet, self._joined % HEARTBEAT_SLOTS)
        self.clients[client] = None
        welcome = {
            "type": "welcome",
            "protocol": PROTOCOL,
            "mode": "live",
            "epoch": self.epoch,
            "ts": now,
            "heartbeat_ms": settings.heartbeat_ms,
            "interval_ms": settings.interval_ms,
            "delay_ms": 0,
            "limits": {
                "symbols": settings.symbols_max,
                "patterns": settings.patterns_max,
                "lanes": settings.lanes_max,
                "message_bytes": settings.message_bytes_max,
                "messages_per_s": settings.messages_per_s_max,
            },
        }
        outlet.send(outlet.encoding.whole(encode(welcome)))
        return client

    def leave(self, client: Client) -> None:
        """Forget a client. Harmless for one that has left."""
        if client in self.clients:
            del self.clients[client]
            self._waiting.pop(client, None)
            for member in list(client.members.values()):
                self._move(member, dropped=member.audience.rows if member.audience else ())

    def receive(self, client: Client, message: str | bytes, now: int) -> Close | None:
        """Carry out a client's message and answer it; returns how to end the connection, if that is due."""
        outcome = client.session.receive(message, now)
        self._carry_out(client, outcome, now)
        return outcome.close

    def drained(self, client: Client, now: int) -> None:
        """The outlet of `client` takes messages again: tell it what it has missed."""
        client.blocked_since = None
        behind = [member for member in client.members.values() if member.behind is not None]
        if not behind:
            return
        whole = client.outlet.encoding.whole
        messages: list[Message] = [whole(encode({"type": "slow", "ts": now, "skipped": client.skipped}))]
        client.skipped = 0
        for member in behind:
            message = member.lane.catch_up(member, now)
            if message is not None:
                messages.append(message)
        client.outlet.send(*messages)

    # -- rounds ----------------------------------------------------------------------------------------------------

    def fold(self, changes: Changes) -> None:
        """Note what a batch changed. Nothing is sent before the next `flush`, but no change is ever lost to it."""
        if len(self.table.symbols) > self._seen:
            self._introduce(range(self._seen, len(self.table.symbols)))
        for pace in self.paces.values():
            pace.fold(changes)

    def flush(self, now: int) -> int | None:
        """Run the rounds that are due, and return the time of the next one; None while nobody watches.

        Rounds fall on multiples of their interval; one that comes too late is left out, not made up for. A pace of
        interval 0 is always due.
        """
        following = None
        for pace in self.paces.values():
            if pace.due <= now:
                pace.round(now)
                pace.due = now - now % pace.interval_us + pace.interval_us if pace.interval_us else 0
            if pace.interval_us and (following is None or pace.due < following):
                following = pace.due
        return following

    def announce(self, message: Mapping[str, Any], now: int, slot: int | None = None) -> None:
        """Offer a message to all clients, or to those of a slot, and look after those who do not keep up."""
        payload = encode(message)
        encoded: dict[Encoding, bytes] = {}
        for client in list(self.clients):
            if slot is None or client.slot == slot:
                encoding = client.outlet.encoding
                if encoding not in encoded:
                    encoded[encoding] = encoding.whole(payload)
                if not client.outlet.offer(encoded[encoding]):
                    self._look_after(client, now)
        for client in list(self._waiting):
            if client.deadline is not None and client.deadline <= now:
                self._renew(client, now)

    def _look_after(self, client: Client, now: int) -> None:
        client.block(now)
        settings, since = self.settings, client.blocked_since
        assert since is not None
        if client.outlet.unsent() > settings.send_buffer_bytes_max and now - since > settings.send_buffer_s_max * 1e6:
            client.outlet.close(Close.TOO_SLOW)

    # -- plans -----------------------------------------------------------------------------------------------------

    def _carry_out(self, client: Client, outcome: Outcome, now: int) -> None:
        """Move what the client watches, answer it, then send the snapshots that it is owed, in this order."""
        encoding = client.outlet.encoding
        messages: list[Message] = [encoding.whole(encode(reply)) for reply in outcome.replies]
        for key in outcome.dropped.keys() | outcome.added.keys():
            self._move(self._member(client, key), outcome.dropped.get(key, ()), outcome.added.get(key, ()))
        for row, since in outcome.ahead.items():
            member = self._member(client, client.session.rows[row])
            member.ahead[row] = since
            member.lane.settle(member)
            client.deadline = now + int(self.settings.catch_up_s_max * 1e6)
            self._waiting[client] = None
        snapshots = []
        for key, rows in outcome.fresh.items():
            member = self._member(client, key)
            # A resync does not turn time back for a client that is ahead: it is answered by what may be sent.
            whole = [row for row in rows if outcome.id is None or row not in member.ahead]
            member.lane.sent_whole(member, whole)
            valued = [row for row in whole if self.table.seq[row]]
            if valued:
                snapshots.append(member.lane.snapshot(valued, now, outcome.id))
        if outcome.id is not None and not snapshots:
            snapshots.append(encoding.whole(items_head("snapshot", now, outcome.id) + b"]}"))
        if messages or snapshots:
            client.outlet.send(*messages, *snapshots)

    def _member(self, client: Client, key: LaneKey) -> Member:
        pace = self.paces.get(key.interval_ms)
        if pace is None:
            pace = self.paces[key.interval_ms] = Pace(self.table, key.interval_ms)
        name = key.fields, client.outlet.encoding
        lane = pace.lanes.get(name)
        if lane is None:
            lane = pace.lanes[name] = Lane(pace, *name)
        member = client.members.get(lane)
        if member is None:
            member = client.members[lane] = Member(client, lane)
        return member

    def _move(self, member: Member, dropped: Iterable[int] = (), added: Iterable[int] = ()) -> None:
        lane, pace = member.lane, member.lane.pace
        gone, new = np.fromiter(dropped, np.int64), np.fromiter(added, np.int64)
        pace.unwatch(gone)
        pace.watch(new)
        rows = set(member.audience.rows) if member.audience else set()
        rows.difference_update(gone.tolist())
        rows.update(new.tolist())
        member.strays.intersection_update(rows)
        member.ahead = {row: since for row, since in member.ahead.items() if row in rows}
        member.strays.update(new[pace.dirty[new]].tolist())
        lane.seat(member, rows)
        if not rows:
            del member.client.members[lane]
            if lane.empty:
                del pace.lanes[lane.fields, lane.encoding]
                if not pace.lanes:
                    del self.paces[pace.interval_us // 1000]

    def _introduce(self, rows: range) -> None:
        """Tell those who wait for symbols that `rows` are here. Their first round sends each of them whole."""
        self._seen = rows.stop
        for client in list(self.clients):
            if client.session.expecting:
                outcome = client.session.appeared(rows)
                self._carry_out(client, outcome, 0)
                for key, added in outcome.added.items():
                    member = self._member(client, key)
                    member.strays.update(added)
                    member.lane.settle(member)

    def _renew(self, client: Client, now: int) -> None:
        """Waiting is over: the client's copy is of a log that this one will not reach. Begin anew with it."""
        self._waiting.pop(client)
        client.deadline = None
        members = list(client.members.values())
        if not any(member.ahead for member in members):
            return
        messages: list[Message] = [client.outlet.encoding.whole(encode({"type": "epoch", "epoch": self.epoch}))]
        for member in members:
            assert member.audience is not None
            member.behind = None
            member.lane.sent_whole(member, member.audience.rows)
            rows = [row for row in member.audience.rows if self.table.seq[row]]
            if rows:
                messages.append(member.lane.snapshot(rows, now))
        client.outlet.send(*messages)

    def _served(self, interval_ms: int) -> int:
        """The interval served to one who asks for `interval_ms`: that one, unless too many others are served."""
        if interval_ms in self.paces or len(self.paces) < self.settings.intervals_max:
            return interval_ms
        return min((held for held in self.paces if held >= interval_ms), default=max(self.paces))
