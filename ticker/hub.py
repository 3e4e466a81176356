"""The hub: all clients and lanes over one table. Pure: no socket, no clock, no task; time is an argument.

Conflation is a query, not a queue. Nothing that a client is owed is ever stored: when a round comes and its socket can
take it, the lanes ask the table which of its rows have changed since what it was last sent.

Two times are told apart: `now`, by which clients are limited and looked after, and `ts`, the time of the data, which
messages carry and rounds fall by. Live they are the same, and `ts` is left out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final
from weakref import WeakValueDictionary

import numpy as np

from ticker.access import OPEN, Grant
from ticker.audiences import Message, Outlet
from ticker.clients import Client
from ticker.counts import Counts
from ticker.directory import Directory
from ticker.errors import Close, Code, RequestError
from ticker.journal import Held
from ticker.journals import JournalLane, JournalPace, Journals, Reader
from ticker.lanes import Lane, Watcher
from ticker.paces import Pace
from ticker.protocol import (
    INTERVAL_MS_MAX,
    PROTOCOL,
    TICKER,
    Command,
    Encoding,
    encode,
    error,
    items_head,
    snapshot_items,
)
from ticker.quotes import FIELDS, Changes, QuoteTable
from ticker.session import Check, Control, JournalKey, JournalMoves, LaneKey, Outcome, Session
from ticker.settings import Settings

#: A seq that no log reaches: what is withheld until the client has been told of the log.
NEVER: Final = 1 << 62
#: What is held of a symbol by who has watched for it since before it appeared.
BEFORE: Final = Held(0, 0)
RECONNECT_SPREAD_MS: Final = 2000  # clients of a stopped server come back spread over this long
HEARTBEAT_SLOTS: Final = 20  # heartbeats are spread over their interval, so that they never come as one burst


class Hub:
    """All clients and lanes over one table."""

    def __init__(
        self,
        table: QuoteTable,
        settings: Settings,
        epochs: Mapping[str, str],
        *,
        closed: bool = False,
        delay_ms: int = 0,
        counts: Counts | None = None,
    ) -> None:
        """`epochs` maps each feed's name to its epoch; `closed` says that no symbol will come that is not known.

        `delay_ms` is how late the data is, as clients are told; `counts` is where what is sent is counted.
        """
        self.table = table
        self.settings = settings
        self.clients: dict[Client, None] = {}
        self.paces: dict[int, Pace[Lane]] = {}
        self.journals = Journals(
            table, trades=settings.trades_max, bars=settings.bars_max, bars_delay_us=settings.bars_delay_ms * 1000
        )
        self.journal_paces: dict[JournalKey, JournalPace] = {}
        self._epochs = epochs
        self._closed = closed
        self._delay_ms = delay_ms
        self.counts = counts or Counts()
        self.directory = Directory(table)
        #: Those of clients who are entitled to some symbols alone, by the names and patterns of these.
        self._directories: WeakValueDictionary[tuple[str, ...], Directory] = WeakValueDictionary()
        #: The intervals of all subscriptions, and how many clients have each.
        self._granted: Counter[int] = Counter()
        self._joined = 0
        self._slots: tuple[dict[Client, None], ...] = tuple({} for _ in range(HEARTBEAT_SLOTS))
        #: The time of the data, as of the last that was heard of it.
        self._ts = 0
        #: Clients that are ahead of the table, or were.
        self._waiting: dict[Client, None] = {}

    @property
    def epoch(self) -> str:
        return "+".join(self._epochs.values())

    # -- clients ---------------------------------------------------------------------------------------------------

    @property
    def timers(self) -> Iterable[Pace[Lane] | JournalPace]:
        """All paces."""
        return chain(self.paces.values(), self.journal_paces.values())

    @property
    def intervals(self) -> Collection[int]:
        """The intervals in milliseconds of all subscriptions, be a symbol served at them yet or not."""
        return self._granted.keys()

    def join(
        self,
        outlet: Outlet,
        now: int,
        ts: int | None = None,
        *,
        replay: Mapping[str, Any] | None = None,
        control: Control | None = None,
        grant: Grant = OPEN,
        check: Check | None = None,
    ) -> Client:
        """Take in a client and send it its `welcome`.

        `replay` is what there is to say of the replay that it is, `control` carries out commands to its clock; `grant`
        is what the client may see, and `check` says what another token grants, where tokens are asked for.
        """
        self._ts = now if ts is None else ts
        settings = self.settings
        session = Session(
            self.table,
            settings,
            self._epochs,
            now,
            closed=self._closed,
            pace=self._served,
            directory=self.directory_of(grant),
            control=control,
            grant=grant,
            check=check,
            delay_us=self._delay_ms * 1000,
        )
        self._joined += 1
        client = Client(session, outlet, self._joined % HEARTBEAT_SLOTS)
        self.clients[client] = self._slots[client.slot][client] = None
        welcome = {
            "type": "welcome",
            "protocol": PROTOCOL,
            "mode": "live" if replay is None else "replay",
            "epoch": self.epoch,
            "ts": self._ts,
            "heartbeat_ms": settings.heartbeat_ms,
            "interval_ms": session.interval_ms,
            "delay_ms": self._delay_ms,
            "limits": {
                "symbols": session.symbols_max,
                "patterns": settings.patterns_max,
                "lanes": settings.lanes_max,
                "message_bytes": settings.message_bytes_max,
                "messages_per_s": settings.messages_per_s_max,
            },
            **(replay or {}),
        }
        outlet.send(outlet.encoding.whole(encode(welcome)))
        return client

    def directory_of(self, grant: Grant) -> Directory:
        """The symbols that `grant` entitles to."""
        entitled = grant.rights.symbols
        if "*" in entitled:
            return self.directory
        directory = self._directories.get(entitled)
        if directory is None:
            directory = self._directories[entitled] = Directory(self.table, entitled)
        return directory

    def end_grants(self, holds: Callable[[Grant], bool]) -> None:
        """Close the clients whose grant does not hold any more."""
        for client in self.clients:
            if not holds(client.session.grant):
                self._end_grant(client, "the key of the token is not valid any more")

    def _end_grant(self, client: Client, why: str) -> None:
        failure = RequestError(Code.AUTH_FAILED, why)
        client.outlet.send(client.outlet.encoding.whole(encode(error(failure, fatal=True))))
        client.outlet.close(Close.AUTH)

    def leave(self, client: Client) -> None:
        """Forget a client. Harmless for one that has left."""
        if client in self.clients:
            del self.clients[client], self._slots[client.slot][client]
            self._waiting.pop(client, None)
            self._grant(client, frozenset())
            for key, member in list(client.members.items()):
                self._seat(client, key, member, gone=member.rows)
            for journal, reader in list(client.readers.items()):
                self._seat_reader(client, journal, reader, gone=reader.rows)

    def receive(self, client: Client, message: str | bytes | Command, now: int, ts: int | None = None) -> Close | None:
        """Carry out a client's message and answer it; returns how to end the connection, if that is due.

        `Client.failure` says afterwards whether the command was refused as a whole, and why.
        """
        self._ts = now if ts is None else ts
        outcome = client.session.receive(message, now, self._ts)
        client.failure = outcome.failure
        if outcome.subscribed:
            self._grant(client, client.session.intervals)
        self._carry_out(client, outcome, now)
        return outcome.close

    def drained(self, client: Client, now: int, ts: int | None = None) -> None:
        """The outlet of `client` takes messages again: tell it what it has missed."""
        skipped, client.blocked_since, client.skipped = client.skipped, None, 0
        self._ts = now if ts is None else ts
        if skipped:
            self._make_up(client, skipped)
        for reader in client.readers.values():
            if reader.behind is not None:
                reader.lane.catch_up(reader, self._ts)

    def _make_up(self, client: Client, skipped: int) -> None:
        """Tell a client that so many rounds were skipped, and send it whole what moved in them."""
        slow = client.outlet.encoding.whole(encode({"type": "slow", "ts": self._ts, "skipped": skipped}))
        behind = {key: member for key, member in client.members.items() if member.behind is not None}
        rows = {key: member.lane.missed(member) for key, member in behind.items()}
        client.outlet.send(slow, *self._snapshot(client, rows))

    def snapshot_of(self, client: Client, now: int) -> Message | None:
        """One snapshot of all that `client` watches, for the caller to send; None where none of it has a value.

        It holds that then: what it was skipped in before is made up for. What it is ahead of is left out.
        """
        seq, ahead = self.table.seq, client.ahead
        rows = {
            key: [row for row in member.rows if seq[row] >= ahead.get(row, 0)] for key, member in client.members.items()
        }
        for member in client.members.values():
            member.behind = None
        self._ts = now
        return next(iter(self._snapshot(client, rows)), None)

    # -- rounds ----------------------------------------------------------------------------------------------------

    def fold(self, changes: Changes, ts: int | None = None) -> None:
        """Note what a batch changed. Nothing is sent before the next `flush`, but no change is ever lost to it.

        `ts` is the time of its first tick, where that is the clock.
        """
        if ts is not None:
            self._ts = ts
        self._admit()
        if changes.fell:
            self._turn_back(changes.fell)
        for pace in self.paces.values():
            pace.fold(changes)

    def flush(self, now: int) -> int | None:
        """Run the rounds that are due, and return the time of the next one; None while nobody watches.

        Rounds fall on multiples of their interval; one that comes too late is left out, not made up for. A pace of
        interval 0 is always due.
        """
        self._ts = now
        following = None
        for pace in self.timers:
            if pace.due <= now or pace.due > now + pace.interval_us:  # or else the clock was set back
                pace.round(now)
                pace.schedule(now)
            if pace.interval_us and (following is None or pace.due < following):
                following = pace.due
        return following

    def lanes(self) -> dict[str, int]:
        """How many different ways of being served there are, by channel."""
        lanes = dict.fromkeys(self.counts.tallies, 0)
        lanes[TICKER] = sum(len(pace.lanes) for pace in self.paces.values())
        for pace in self.journal_paces.values():
            lanes[pace.journal.channel] += len(pace.lanes)
        return lanes

    def newest(self) -> int:
        """The newest tick's time in the rounds of quotes since this was asked last; 0 where there was none."""
        newest = 0
        for pace in self.paces.values():
            newest, pace.newest = max(newest, pace.newest), 0
        return newest

    def announce(self, message: Mapping[str, Any], now: int, slot: int | None = None) -> None:
        """Offer a message to all clients, or to those of a slot, and look after those who do not keep up."""
        payload = encode(message)
        encoded: dict[Encoding, bytes] = {}
        for client in list(self.clients if slot is None else self._slots[slot]):
            encoding = client.outlet.encoding
            if encoding not in encoded:
                encoded[encoding] = encoding.whole(payload)
            if client.session.grant.ended(now + self._delay_ms * 1000):
                self._end_grant(client, "the token has expired")
            elif not client.outlet.offer(encoded[encoding]):
                self._look_after(client, now)
            elif client.anew and slot is not None:
                self._renew(client)
        wait_us = int(self.settings.catch_up_s_max * 1e6)
        for client in list(self._waiting):
            due = client.deadline <= now or client.deadline > now + wait_us  # or else the clock was set back
            if due or client.slot == slot:
                if not self._is_ahead(client):
                    self._end_waiting(client)
                elif due and client.blocked_since is None and not client.skipped:
                    self._renew(client)

    def dismiss(self, now: int) -> None:
        """Tell every client to come back elsewhere or later, each in a time of its own. It is the last that it is told."""
        for client in self.clients:
            wait_ms = random.randrange(RECONNECT_SPREAD_MS)  # noqa: S311 - spreads load, hides nothing
            message = encode({"type": "shutdown", "ts": now, "reconnect_after_ms": wait_ms})
            client.outlet.offer(client.outlet.encoding.whole(message))

    def send_away(self, client: Client, now: int) -> None:
        """Tell a client to come back elsewhere, at once, and close it. Harmless for one that has left."""
        if client in self.clients:
            message = encode({"type": "shutdown", "ts": now, "reconnect_after_ms": 0})
            client.outlet.offer(client.outlet.encoding.whole(message))
            client.outlet.close(Close.RESTARTING)

    def _look_after(self, client: Client, now: int) -> None:
        client.block(now)
        settings, since = self.settings, client.blocked_since
        assert since is not None
        if client.outlet.unsent() > settings.send_buffer_bytes_max and now - since > settings.send_buffer_s_max * 1e6:
            client.outlet.close(Close.TOO_SLOW)

    def begin_anew(self) -> None:
        """The log of a feed is another one: each client is told, and sent all that it watches, in its heartbeat slot."""
        seq = self.table.seq
        for client in self.clients:
            client.anew = True
            client.ahead = {row: NEVER if seq[row] < held else held for row, held in client.ahead.items()}

    def restart(self, ts: int) -> None:
        """The table is as of another time, `ts`, under another epoch: each client is told, and sent all that it watches.

        Symbols without a value are sent too: as such.
        """
        self._ts = ts
        self._admit()
        self.journals.begin(ts)
        for pace in self.timers:
            pace.restart(ts)
        for client in self.clients:
            client.ahead.clear()
            client.session.awaited.clear()
            client.session.awaited_journals.clear()
            client.session.had.clear()
            client.skipped, client.blocked_since, client.anew = 0, None, False
            self._waiting.pop(client, None)
            rows = {key: member.rows for key, member in client.members.items()}
            for member in client.members.values():
                member.behind = None
            encoding = client.outlet.encoding
            epoch = encoding.whole(encode({"type": "epoch", "epoch": self.epoch}))
            items = [
                item for key in rows for item in client.members[key].lane.whole(client.members[key], rows[key], ALL)
            ]
            items += _valueless(client.session.pending)
            client.outlet.send(epoch, *([encoding.join(items_head("snapshot", ts), items)] if items else []))
            for reader in client.readers.values():
                reader.lane.restart(reader, ts)

    # -- what a client watches -------------------------------------------------------------------------------------

    def _carry_out(self, client: Client, outcome: Outcome, now: int, *, born: bool = False) -> None:
        """Move what the client watches, answer it, then send what it is owed at once, in this order.

        What is `born`, it is owed with the next round.
        """
        encoding, session = client.outlet.encoding, client.session
        self._move(client, outcome.was)
        begun = [self._move_reader(client, channel, moves, born) for channel, moves in outcome.journals.items()]
        self._await(client, outcome, now)
        for key, held in _by_lane(session, outcome.resumed).items():
            member = client.members[key]
            member.lane.hold(member, held)
        # Time does not turn back for a client that is ahead, whatever it asks.
        fresh = [row for row in outcome.fresh if row not in client.ahead or self.table.seq[row] >= client.ahead[row]]
        messages: list[Message] = [encoding.whole(encode(reply)) for reply in outcome.replies]
        messages += self._snapshot(client, _by_lane(session, fresh), outcome.id)
        if messages:
            client.outlet.send(*messages)
        for reader in chain.from_iterable(begun):
            if reader.strays and not born:
                reader.lane.catch_up(reader, self._ts)

    def _snapshot(
        self,
        client: Client,
        rows: Mapping[LaneKey, Sequence[int]],
        id: int | str | None = None,
        lost: Container[int] = (),
    ) -> list[Message]:
        """One snapshot of `rows`, by the lane that serves them; none where no row has a value, unless it has an id.

        Rows that have `lost` their value are in it as well.
        """
        items: list[bytes] = []
        for key, held in rows.items():
            member = client.members[key]
            items += member.lane.whole(member, held, lost)
        self.counts.tallies[TICKER].items += len(items)
        head, encoding = items_head("snapshot", self._ts, id), client.outlet.encoding
        if items:
            return [encoding.join(head, items)]
        return [] if id is None else [encoding.whole(head + b"]}")]

    def _move(self, client: Client, was: Mapping[int, LaneKey | None]) -> None:
        """Seat the client where its session has it now; `was` maps rows to the lane that served each before."""
        gone: dict[LaneKey, list[int]] = {}
        new: dict[LaneKey, list[int]] = {}
        rows, last, of_last = client.session.rows, None, list[int]()
        for row, old in was.items():
            key = rows.get(row)
            if key != old:
                if old is not None:
                    gone.setdefault(old, []).append(row)
                if key is None:
                    client.ahead.pop(row, None)
                else:
                    if key is not last:  # nearly always it is, and that is quicker than its hash
                        last, of_last = key, new.setdefault(key, [])
                    of_last.append(row)
        for key in gone | new:
            self._seat(client, key, self._member(client, key), gone.get(key, ()), new.get(key, ()))

    def _member(self, client: Client, key: LaneKey) -> Watcher:
        member = client.members.get(key)
        if member is None:
            pace = self.paces.get(key.interval_ms)
            if pace is None:
                pace = self.paces[key.interval_ms] = Pace(self.table, key.interval_ms, self._ts)
            name = key.fields, client.outlet.encoding
            lane = pace.lanes.get(name)
            if lane is None:
                lane = pace.lanes[name] = Lane(pace, *name, self.counts.tallies[TICKER])
            member = client.members[key] = Watcher(client, lane)
        return member

    def _seat(
        self, client: Client, key: LaneKey, member: Watcher, gone: Sequence[int] = (), new: Sequence[int] = ()
    ) -> None:
        """Let `member` watch `new` and no longer `gone`. What it holds of `new` is not known: they are strays."""
        lane, pace = member.lane, member.lane.pace
        if new:
            pace.watch(np.asarray(new, np.int64))
            member.strays.update(dict.fromkeys(new))
        if not gone:
            lane.grow(member, tuple(sorted(new)))
            return
        pace.unwatch(np.asarray(gone, np.int64))
        left = set(gone)
        rows = tuple(sorted([*(row for row in member.rows if row not in left), *new]))
        member.strays = {row: None for row in member.strays if row not in left}
        lane.seat(member, rows)
        if not rows:
            del client.members[key]
            if lane.empty:
                del pace.lanes[lane.fields, lane.encoding]
                if not pace.lanes:
                    del self.paces[pace.interval_us // 1000]

    def _move_reader(self, client: Client, channel: str, moves: JournalMoves, born: bool) -> Iterable[Reader]:
        """Seat the client where its session has it now, on a channel of journals; returns who is owed something."""
        rows = client.session.journals[channel].rows
        gone: dict[JournalKey, list[int]] = {}
        new: dict[JournalKey, list[int]] = {}
        kept: dict[int, Held] = {}
        for row, old in moves.was.items():
            key = rows.get(row)
            if old is not None:
                if key is not None and key.journal == old.journal:
                    kept[row] = client.readers[old].lane.holds(client.readers[old], row)
                if key != old:
                    gone.setdefault(old, []).append(row)
            elif born:
                kept[row] = BEFORE
            if key is not None and key != old:
                new.setdefault(key, []).append(row)
        fresh: dict[JournalKey, list[int]] = {}
        for row in moves.fresh:
            fresh.setdefault(rows[row], []).append(row)
        for key in gone | new | fresh:
            reader = self._reader(client, key)
            self._seat_reader(client, key, reader, gone.get(key, ()), new.get(key, ()), born=born)
            if key in fresh:
                moves.resumed.update(reader.lane.begin(reader, fresh[key], moves.since, kept))
        return [client.readers[key] for key in fresh]

    def _reader(self, client: Client, key: JournalKey) -> Reader:
        reader = client.readers.get(key)
        if reader is None:
            pace = self.journal_paces.get(key)
            if pace is None:
                journal = self.journals.by_name[key.journal]
                journal.close(self._ts)
                pace = self.journal_paces[key] = JournalPace(self.table, journal, key.interval_ms, self._ts)
            lane = pace.lanes.get(client.outlet.encoding)
            if lane is None:
                tally = self.counts.tallies[pace.journal.channel]
                lane = pace.lanes[client.outlet.encoding] = JournalLane(pace, client.outlet.encoding, tally)
            reader = client.readers[key] = Reader(client, lane)
        return reader

    def _seat_reader(
        self,
        client: Client,
        key: JournalKey,
        reader: Reader,
        gone: Sequence[int] = (),
        new: Sequence[int] = (),
        *,
        born: bool = False,
    ) -> None:
        """Let `reader` watch `new` and no longer `gone`; with `born`, nothing has been told of `new`."""
        lane, pace = reader.lane, reader.lane.pace
        if new:
            pace.watch(np.asarray(new, np.int64), born=born)
        if not gone:
            if new:
                lane.grow(reader, tuple(sorted(new)))
            return
        pace.unwatch(np.asarray(gone, np.int64))
        left = set(gone)
        rows = tuple(sorted([*(row for row in reader.rows if row not in left), *new]))
        for row in gone:
            reader.strays.pop(row, None)
            reader.ahead.pop(row, None)
        lane.seat(reader, rows)
        if not rows:
            del client.readers[key]
            if lane.empty:
                del pace.lanes[lane.encoding]
                if not pace.lanes:
                    del self.journal_paces[key]

    def _admit(self) -> None:
        """Let in the symbols that are new. Who waits for one is told; its first round sends it whole."""
        arrived = self.directory.admit()
        if not arrived:
            return
        for directory in self._directories.values():
            directory.admit()
        for client in self.clients:
            if client.session.expecting:
                held = client.session.awaited.keys() & arrived.keys() if client.anew else ()
                outcome = client.session.appeared(arrived)
                outcome.ahead |= {arrived[name]: NEVER for name in held if arrived[name] in client.session.rows}
                self._carry_out(client, outcome, self._ts, born=True)

    # -- a client that is ahead ------------------------------------------------------------------------------------

    def _await(self, client: Client, outcome: Outcome, now: int) -> None:
        """Note what the client holds of a log that this table has not read so far; it waits for that, for a while."""
        self._withhold(client, outcome.ahead)
        if outcome.waits or client.session.awaited_journals or any(reader.ahead for reader in client.readers.values()):
            client.deadline = now + int(self.settings.catch_up_s_max * 1e6)
            self._waiting[client] = None

    def _is_ahead(self, client: Client) -> bool:
        seq, session = self.table.seq, client.session
        if session.awaited_journals or any(
            seq[row] < held for reader in client.readers.values() for row, held in reader.ahead.items()
        ):
            return True
        if session.had:
            return session.unread
        return bool(session.awaited) or any(seq[row] < held for row, held in client.ahead.items())

    def _end_waiting(self, client: Client) -> None:
        """The table has read all that the client held. What has not moved since that, it holds."""
        del self._waiting[client]
        if client.session.had and not client.anew:
            client.session.had.clear()
            client.ahead.clear()

    def _turn_back(self, fell: Mapping[int, int]) -> None:
        """The log of some rows is another one. Whoever watches one has it withheld until it has been told so."""
        for client in self.clients:
            rows = client.session.rows
            held = {row: NEVER for row in fell if row in rows}
            if held:
                self._withhold(client, held)
                client.anew = True
            for reader in client.readers.values():
                watched = fell.keys() & set(reader.rows)
                if watched:
                    reader.lane.withhold(reader, watched)
                    client.anew = True

    def _withhold(self, client: Client, held: Mapping[int, int]) -> None:
        """Send nothing of rows of which the client holds a later seq, `held`, than the table, until that is reached."""
        for row, seq in held.items():
            client.ahead[row] = max(seq, client.ahead.get(row, 0))
            member = client.members[client.session.rows[row]]
            member.strays[row] = None
            member.lane.settle(member)

    def _renew(self, client: Client) -> None:
        """The client holds a copy of a log that this is not: begin anew with it."""
        self._waiting.pop(client, None)
        lost = [row for row in client.ahead if not self.table.n[row]] if client.anew else []
        client.anew = False
        client.session.awaited.clear()
        client.session.awaited_journals.clear()
        client.session.had.clear()
        for member in client.members.values():
            member.behind = None
        epoch = client.outlet.encoding.whole(encode({"type": "epoch", "epoch": self.epoch}))
        rows = {key: member.rows for key, member in client.members.items()}
        client.outlet.send(epoch, *self._snapshot(client, rows, lost=lost))
        for reader in client.readers.values():
            reader.lane.give_up(reader, self._ts)

    def _served(self, interval_ms: int) -> int:
        """The interval served to one who asks for `interval_ms`: that one, or the next slower where too many others are.

        The slowest of all is always served and does not count, so that there is always a slower one.
        """
        others = len(self._granted) - (INTERVAL_MS_MAX in self._granted)
        if interval_ms in self._granted or others < self.settings.intervals_max:
            return interval_ms
        return min((held for held in self._granted if held >= interval_ms), default=INTERVAL_MS_MAX)

    def _grant(self, client: Client, intervals: frozenset[int]) -> None:
        """Note that the subscriptions of `client` have `intervals` now, whether or not a symbol is served at each yet."""
        for interval_ms in intervals - client.intervals:
            self._granted[interval_ms] += 1
        for interval_ms in client.intervals - intervals:
            self._granted[interval_ms] -= 1
            if not self._granted[interval_ms]:
                del self._granted[interval_ms]
        client.intervals = intervals


class _All(Container[int]):
    def __contains__(self, _: object) -> bool:
        return True


ALL: Final = _All()


def _valueless(pending: Mapping[str, LaneKey]) -> list[bytes]:
    """Snapshot items of symbols that no feed has brought."""
    items: list[bytes] = []
    for name, key in pending.items():
        nothing = np.zeros(1, np.int64)
        items += snapshot_items([name], nothing, nothing, nothing, np.full((len(FIELDS), 1), np.nan), key.fields)
    return items


def _by_lane(session: Session, rows: Iterable[int]) -> dict[LaneKey, list[int]]:
    lanes: dict[LaneKey, list[int]] = {}
    for row in rows:
        lanes.setdefault(session.rows[row], []).append(row)
    return lanes
