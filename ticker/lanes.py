"""Lanes: who is owed what of a round, and the shared bytes that they are sent. Pure: no socket, no clock, no task.

A `Lane` is a pace, a field set and an encoding: a round encodes each changed row once, as an update and, where one is
owed, as a snapshot. An `Audience` is all
members of a lane with the same rows: they share one message. A `Member` is one client on one lane. It is *in step* while
its copy of every row is the last round's; only then may it be sent the shared update. One that is not is served for
itself, until a round has brought it back in step:

* a *stray* row: the client's copy of it is not the last round's; its next change is sent as a snapshot;
* a stray *ahead*: the client holds a later seq than the table; nothing is sent until the table has caught up;
* *behind*: the socket was not draining, so rounds were skipped; when it drains, the rows that moved are sent whole.

Times are microseconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, Protocol

import numpy as np

from ticker.errors import Close, RequestError
from ticker.paces import Pace, Round
from ticker.protocol import Encoding, FieldSet, items_head, snapshot_items, update_items
from ticker.session import LaneKey, Session

Message = bytes | bytearray
NOTHING: Final = b""
#: A round looks at each audience's whole list once more than one in so many of all (audience, row) pairs has changed.
DENSE: Final = 4


class Outlet(Protocol):
    """Where a client's messages go: what the edge gives the hub. No method may raise or block."""

    encoding: Encoding

    def offer(self, message: Message, *more: Message) -> bool:
        """Take all messages, or none and return False where the peer is not keeping up.

        After a False, the edge calls `Hub.drained` once the peer has caught up.
        """

    def send(self, *messages: Message) -> None:
        """Take messages that answer the client, keeping up or not."""

    def unsent(self) -> int:
        """Bytes taken that have not left the process."""

    def close(self, close: Close) -> None:
        """End the connection."""


class Client:
    """A connected client, as the hub knows it."""

    __slots__ = (
        "ahead",
        "anew",
        "blocked_since",
        "deadline",
        "failure",
        "intervals",
        "members",
        "outlet",
        "session",
        "skipped",
        "slot",
    )

    def __init__(self, session: Session, outlet: Outlet, slot: int) -> None:
        self.session = session
        self.outlet = outlet
        #: Which part of the heartbeat interval is its own.
        self.slot = slot
        self.members: dict[LaneKey, Member] = {}
        #: Why its last command was refused as a whole; None where it was not.
        self.failure: RequestError | None = None
        #: Those of its subscriptions.
        self.intervals: frozenset[int] = frozenset()
        #: Watched rows of which it holds a later seq than the table has reached.
        self.ahead: dict[int, int] = {}
        #: Whether the log of what it watches is another one, and it is to be told, and sent all of it whole.
        self.anew = False
        #: When the outlet was first found, at a heartbeat, not to take messages; None while it takes them.
        self.blocked_since: int | None = None
        #: Rounds of its lanes skipped since then.
        self.skipped = 0
        #: When waiting for what it is ahead of ends.
        self.deadline = 0

    @property
    def waits(self) -> bool:
        """Whether it says that it holds something of the log that the table has not read, or not sent on, so far."""
        return bool(self.ahead or self.session.awaited)

    def block(self, now: int) -> None:
        """Its outlet did not take a message."""
        if self.blocked_since is None:
            self.blocked_since = now


class Member:
    """One client on one lane."""

    __slots__ = ("audience", "behind", "client", "lane", "offer", "strays")

    def __init__(self, client: Client, lane: Lane) -> None:
        self.client = client
        self.lane = lane
        self.offer = client.outlet.offer
        self.audience: Audience | None = None
        self.strays: dict[int, None] = {}
        #: The pace's last round that it has; None while nothing was skipped.
        self.behind: int | None = None

    @property
    def rows(self) -> tuple[int, ...]:
        return self.audience.rows if self.audience else ()

    @property
    def in_step(self) -> bool:
        return self.behind is None and not self.strays


class Audience:
    """The members of a lane that watch the same rows, ascending."""

    __slots__ = ("grown", "members", "pick", "rows", "size")

    def __init__(self, rows: tuple[int, ...]) -> None:
        self.rows = rows
        #: How many watch these rows; `members` are those of them that are in step.
        self.size = 0
        self.members: dict[Member, None] = {}
        #: The rows that one of it gained last, and the audience it went to: the others are likely to follow.
        self.grown: tuple[tuple[int, ...], Audience] | None = None
        #: From a lane's items by row, those of this audience.
        self.pick: Callable[[list[bytes]], Iterable[bytes]] = (
            itemgetter(*rows) if len(rows) > 1 else lambda items: [items[row] for row in rows]
        )


#: What an odd member of an audience with certain strays is sent of the running round: messages, the rows that it is sent
#: whole, and the strays that it has then.
Alike = dict[tuple[Audience, tuple[int, ...]], tuple[list[Message], frozenset[int], tuple[int, ...]]]


class Lane:
    """One (interval, field set, encoding) and its members, by what they watch."""

    def __init__(self, pace: Pace[Lane], fields: FieldSet, encoding: Encoding) -> None:
        self.pace = pace
        self.fields = fields
        self.encoding = encoding
        #: Members that are not in step.
        self.odd: dict[Member, None] = {}
        self._audiences: dict[tuple[int, ...], Audience] = {}
        self._watching: dict[int, set[Audience]] = {}
        #: (audience, row) pairs.
        self._pairs = 0
        #: The update item of each row that changed in the running round; nothing elsewhere.
        self._items: list[bytes] = []
        #: The snapshot item of each row that one was needed of in the running round.
        self._wholes: dict[int, bytes] = {}

    # -- membership ------------------------------------------------------------------------------------------------

    def seat(self, member: Member, rows: tuple[int, ...]) -> None:
        """Let `member` watch exactly `rows`, ascending; none, and it is gone from the lane."""
        if member.audience is not None:
            self._unseat(member, member.audience)
        if not rows:
            return
        self._join(member, self._audience(rows))

    def grow(self, member: Member, new: tuple[int, ...]) -> None:
        """Let `member` watch `new`, ascending, as well: at little cost after another that watched and gained the same."""
        old = member.audience
        if old is None:
            self._join(member, self._audience(new))
            return
        # An audience that the last has left serves no more.
        if old.grown is None or old.grown[0] != new or not old.grown[1].size:
            rows = old.rows + new if new[0] > old.rows[-1] else tuple(sorted(old.rows + new))
            old.grown = new, self._audience(rows)
        audience = old.grown[1]
        self._unseat(member, old)
        self._join(member, audience)

    def _audience(self, rows: tuple[int, ...]) -> Audience:
        audience = self._audiences.get(rows)
        if audience is None:
            audience = self._audiences[rows] = Audience(rows)
            self._pairs += len(rows)
            for row in rows:
                self._watching.setdefault(row, set()).add(audience)
        return audience

    def _join(self, member: Member, audience: Audience) -> None:
        audience.size += 1
        member.audience = audience
        self.settle(member)

    def _unseat(self, member: Member, audience: Audience) -> None:
        member.audience = None
        self.odd.pop(member, None)
        audience.members.pop(member, None)
        audience.size -= 1
        if not audience.size:
            audience.grown = None
            del self._audiences[audience.rows]
            self._pairs -= len(audience.rows)
            for row in audience.rows:
                watching = self._watching[row]
                watching.remove(audience)
                if not watching:
                    del self._watching[row]

    def settle(self, member: Member) -> None:
        """Put `member` among those in step or the odd ones, as it is now."""
        assert member.audience is not None
        if member.in_step:
            self.odd.pop(member, None)
            member.audience.members[member] = None
        else:
            member.audience.members.pop(member, None)
            self.odd[member] = None

    @property
    def empty(self) -> bool:
        return not self._audiences

    # -- rounds ----------------------------------------------------------------------------------------------------

    def send(self, round: Round) -> None:
        """Send a round to every member that watches a row of it."""
        rows = round.rows.tolist()
        watching = self._watching
        at: Any = [i for i, row in enumerate(rows) if row in watching]
        if not at:
            return
        if len(at) == len(rows):
            at = slice(None)
        else:
            rows = [rows[i] for i in at]
        self._greet(round.born)
        items = self._encode(round, at, rows)
        head = items_head("update", round.ts)
        odd = list(self.odd)
        late: list[Member] = []
        if DENSE * sum(len(watching[row]) for row in rows) > self._pairs:
            self._send_dense(rows, items, head, late)
        else:
            self._send_sparse(rows, items, head, late)
        for member in late:
            self.fall_behind(member)
        if odd:
            changed = dict(zip(rows, items, strict=True))
            alike: Alike = {}
            for member in odd:
                self._send_odd(member, changed, head, round, alike)
            self._wholes.clear()

    def _greet(self, born: Iterable[int]) -> None:
        """Nobody holds anything of rows that have their first value in this round: who watches one is not in step."""
        for row in born:
            for audience in self._watching.get(row, ()):
                for member in list(audience.members):
                    member.strays[row] = None
                    self.settle(member)

    def _encode(self, round: Round, at: Any, rows: Sequence[int]) -> list[bytes]:
        table = self.pace.table
        names = table.symbols.names
        index = round.rows[at]
        return update_items(
            [names[row] for row in rows],
            round.prev[at],
            table.seq[index],
            round.n[at],
            table.ts[index],
            round.view[:, at],
            round.differs[:, at],
            self.fields,
            round.trades[:, at],
        )

    def _send_dense(self, rows: list[int], items: list[bytes], head: bytes, late: list[Member]) -> None:
        """Much of what is watched changed: look at every audience's whole list."""
        shared = self._items
        if len(shared) < self.pace.table.capacity:
            shared.extend([NOTHING] * (self.pace.table.capacity - len(shared)))
        for row, item in zip(rows, items, strict=True):
            shared[row] = item
        join = self.encoding.join
        for audience in self._audiences.values():
            if audience.members:
                picked = audience.pick(shared)
                if any(picked):
                    message = join(head, picked)
                    for member in audience.members:
                        if not member.offer(message):
                            late.append(member)
        for row in rows:
            shared[row] = NOTHING

    def _send_sparse(self, rows: list[int], items: list[bytes], head: bytes, late: list[Member]) -> None:
        """Little of what is watched changed: go from each changed row to those who watch it."""
        picked: dict[Audience, list[bytes]] = {}
        for row, item in zip(rows, items, strict=True):
            for audience in self._watching[row]:
                if audience in picked:
                    picked[audience].append(item)
                else:
                    picked[audience] = [item]
        join = self.encoding.join
        for audience, parts in picked.items():
            if audience.members:
                message = join(head, parts)
                for member in audience.members:
                    if not member.offer(message):
                        late.append(member)

    def _send_odd(self, member: Member, changed: Mapping[int, bytes], head: bytes, round: Round, alike: Alike) -> None:
        """Send a round to a member that is not in step: what it cannot chain to goes as a snapshot.

        `alike` is what the members before it were sent, for those of an audience that have the same strays.
        """
        assert member.audience is not None
        ahead = member.client.ahead
        if member.behind is not None:
            if self._touched(member.audience, changed):
                member.client.skipped += 1
            return
        like = None if ahead else (member.audience, tuple(member.strays))
        owed = alike.get(like) if like else None
        if owed is None:
            updates, whole = [], []
            for row in self._touched(member.audience, changed):
                if row in ahead:
                    if self.pace.table.seq[row] >= ahead[row]:
                        whole.append(row)
                elif row in member.strays or row in round.born:
                    whole.append(row)
                else:
                    updates.append(changed[row])
            messages: list[Message] = []
            if updates:
                messages.append(self.encoding.join(head, updates))
            if whole:
                messages.append(self.encoding.join(items_head("snapshot", round.ts), self._whole_items(whole)))
            held = frozenset(whole)
            owed = messages, held, tuple(row for row in member.strays if row not in held)
            if like:
                alike[like] = owed
        messages, held, strays = owed
        if messages and not member.offer(*messages):
            self.fall_behind(member)
            return
        # What was sent is as of this round: it is in step with it.
        member.strays = dict.fromkeys(strays)
        if ahead:
            for row in held:
                ahead.pop(row, None)
        self.settle(member)

    def _touched(self, audience: Audience, changed: Mapping[int, bytes]) -> list[int]:
        """The rows of `audience` that changed."""
        if len(audience.rows) <= len(changed):
            return [row for row in audience.rows if row in changed]
        return [row for row in changed if audience in self._watching[row]]

    def _whole_items(self, rows: list[int]) -> list[bytes]:
        """Snapshot items of `rows` as of the running round, each encoded once."""
        wholes = self._wholes
        new = [row for row in rows if row not in wholes]
        if new:
            wholes.update(zip(new, self._snapshot(new), strict=True))
        return [wholes[row] for row in rows]

    def fall_behind(self, member: Member) -> None:
        """The running round did not reach `member`."""
        member.behind = self.pace.number - 1
        member.client.skipped += 1
        self.settle(member)

    # -- between rounds --------------------------------------------------------------------------------------------

    def missed(self, member: Member) -> list[int]:
        """The rows that have changed since the last round that `member` was not skipped in, be it after the last round.

        The caller sends them: its copy is the table's then, but for what it is ahead of, and it is behind no more.
        """
        assert member.behind is not None
        rows = np.asarray(member.rows, np.int64)
        changed = rows[(self.pace.moved(rows) > member.behind) | self.pace.dirty(rows)].tolist()
        member.behind = None
        seq, ahead = self.pace.table.seq, member.client.ahead
        return [row for row in changed if seq[row] >= ahead.get(row, 0)]

    def whole(self, member: Member, rows: Sequence[int], lost: Container[int] = ()) -> list[bytes]:
        """Snapshot items of those of `rows` that have a value, or have `lost` it; the caller sends them, and `member`
        holds them then.
        """
        self.hold(member, rows)
        n = self.pace.table.n
        return self._snapshot([row for row in rows if n[row] or row in lost])

    def hold(self, member: Member, rows: Sequence[int]) -> None:
        """Note that `member` holds `rows` as the table has them now.

        Those that have changed since the last round are strays.
        """
        dirty = self.pace.dirty(np.asarray(rows, np.int64)).tolist()
        for row, stray in zip(rows, dirty, strict=True):
            member.client.ahead.pop(row, None)
            if stray:
                member.strays[row] = None
            else:
                member.strays.pop(row, None)
        self.settle(member)

    def _snapshot(self, rows: Sequence[int]) -> list[bytes]:
        table, index = self.pace.table, np.asarray(rows, np.int64)
        names = table.symbols.names
        return snapshot_items(
            [names[row] for row in rows],
            table.seq[index],
            table.n[index],
            table.ts[index],
            table.view(index),
            self.fields,
        )
