"""Audiences: the members of a lane by what they watch, and the message that those of one audience share. Pure.

An `Audience` is all members of a lane with the same rows. A `Member` is one client on one lane. It is *in step* while
what it holds is the last round's; only then may it be sent what its audience shares. One that is not is *odd*, and is
served for itself, until a round has brought it back in step:

* a *stray* row: what the client holds of it is not the last round's;
* *behind*: the socket was not draining, so rounds were skipped; when it drains, it is told what it has missed.

Times are microseconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import itemgetter
from typing import Any, Final, Generic, Protocol, TypeVar

from ticker.counts import Tally
from ticker.errors import Close
from ticker.protocol import Encoding

Message = bytes | bytearray
NOTHING: Final = b""
#: A round looks at each audience's whole list once more than one in so many of all (audience, row) pairs has changed.
DENSE: Final = 4


class Outlet(Protocol):
    """Where a client's messages go: what the edge gives the hub. No method may raise or block."""

    encoding: Encoding
    #: The way that it leaves by: `websocket`, `sse` or `poll`.
    transport: str

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


class Recipient:
    """A client, as far as lanes know it."""

    __slots__ = ("ahead", "anew", "blocked_since", "outlet", "skipped")

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
        #: Rows watched on the channel ticker of which it holds a later seq than the table has reached.
        self.ahead: dict[int, int] = {}
        #: Whether the log of what it watches is another one, and it is to be told, and sent all of it whole.
        self.anew = False
        #: When the outlet was first found, at a heartbeat, not to take messages; None while it takes them.
        self.blocked_since: int | None = None
        #: Rounds of its lanes skipped since then.
        self.skipped = 0

    def block(self, now: int) -> None:
        """Its outlet did not take a message."""
        if self.blocked_since is None:
            self.blocked_since = now


class Member:
    """One client on one lane."""

    __slots__ = ("audience", "behind", "offer")

    def __init__(self, outlet: Outlet) -> None:
        self.offer = outlet.offer
        self.audience: Audience[Any] | None = None
        #: The lane's last round that it has; None while nothing was skipped.
        self.behind: int | None = None

    @property
    def rows(self) -> tuple[int, ...]:
        return self.audience.rows if self.audience else ()

    @property
    def in_step(self) -> bool:
        return self.behind is None


MemberT = TypeVar("MemberT", bound=Member)


class Audience(Generic[MemberT]):
    """The members of a lane that watch the same rows, ascending."""

    __slots__ = ("grown", "members", "pick", "rows", "size")

    def __init__(self, rows: tuple[int, ...]) -> None:
        self.rows = rows
        #: How many watch these rows; `members` are those of them that are in step.
        self.size = 0
        self.members: dict[MemberT, None] = {}
        #: The rows that one of it gained last, and the audience it went to: the others are likely to follow.
        self.grown: tuple[tuple[int, ...], Audience[MemberT]] | None = None
        #: From a lane's items by row, those of this audience.
        self.pick: Callable[[list[bytes]], Sequence[bytes]] = (
            itemgetter(*rows) if len(rows) > 1 else lambda items: [items[row] for row in rows]
        )


class Audiences(Generic[MemberT]):
    """The members of a lane, by what they watch."""

    def __init__(self, encoding: Encoding, tally: Tally) -> None:
        self.encoding = encoding
        self.tally = tally
        #: Members that are not in step.
        self.odd: dict[MemberT, None] = {}
        self._audiences: dict[tuple[int, ...], Audience[MemberT]] = {}
        self._watching: dict[int, set[Audience[MemberT]]] = {}
        #: (audience, row) pairs.
        self._pairs = 0
        #: By row: its item, where it changed in the running round; nothing elsewhere.
        self._items: list[bytes] = []

    # -- membership ------------------------------------------------------------------------------------------------

    def seat(self, member: MemberT, rows: tuple[int, ...]) -> None:
        """Let `member` watch exactly `rows`, ascending; none, and it is gone from the lane."""
        if member.audience is not None:
            self._unseat(member, member.audience)
        if not rows:
            return
        self._join(member, self._audience(rows))

    def grow(self, member: MemberT, new: tuple[int, ...]) -> None:
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

    def _audience(self, rows: tuple[int, ...]) -> Audience[MemberT]:
        audience = self._audiences.get(rows)
        if audience is None:
            audience = self._audiences[rows] = Audience(rows)
            self._pairs += len(rows)
            self._items += [NOTHING] * (rows[-1] + 1 - len(self._items))
            for row in rows:
                self._watching.setdefault(row, set()).add(audience)
        return audience

    def _join(self, member: MemberT, audience: Audience[MemberT]) -> None:
        audience.size += 1
        member.audience = audience
        self.settle(member)

    def _unseat(self, member: MemberT, audience: Audience[MemberT]) -> None:
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

    def settle(self, member: MemberT) -> None:
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

    # -- what a round shares -------------------------------------------------------------------------------------------

    def _share(self, rows: list[int], items: list[bytes], head: bytes) -> list[MemberT]:
        """Send every member in step its items, of rows that somebody watches; returns those that did not take them."""
        late: list[MemberT] = []
        self.tally.rounds += 1
        if DENSE * sum(len(self._watching[row]) for row in rows) > self._pairs:
            self._send_dense(rows, items, head, late)
        else:
            self._send_sparse(rows, items, head, late)
        return late

    def _send_dense(self, rows: list[int], items: list[bytes], head: bytes, late: list[MemberT]) -> None:
        """Much of what is watched changed: look at every audience's whole list."""
        shared = self._items
        for row, item in zip(rows, items, strict=True):
            shared[row] = item
        join, sent = self.encoding.join, 0
        for audience in self._audiences.values():
            if audience.members:
                picked = audience.pick(shared)
                if any(picked):
                    message = join(head, picked)
                    before = len(late)
                    for member in audience.members:
                        if not member.offer(message):
                            late.append(member)
                    taken = len(audience.members) - len(late) + before
                    sent += taken * (len(picked) - picked.count(NOTHING))
        for row in rows:
            shared[row] = NOTHING
        self.tally.items += sent

    def _send_sparse(self, rows: list[int], items: list[bytes], head: bytes, late: list[MemberT]) -> None:
        """Little of what is watched changed: go from each changed row to those who watch it."""
        picked: dict[Audience[MemberT], list[bytes]] = {}
        for row, item in zip(rows, items, strict=True):
            for audience in self._watching[row]:
                if audience in picked:
                    picked[audience].append(item)
                else:
                    picked[audience] = [item]
        join, sent = self.encoding.join, 0
        for audience, parts in picked.items():
            if audience.members:
                message = join(head, parts)
                before = len(late)
                for member in audience.members:
                    if not member.offer(message):
                        late.append(member)
                sent += len(parts) * (len(audience.members) - len(late) + before)
        self.tally.items += sent

    def _touched(self, audience: Audience[MemberT], changed: Collection[int]) -> list[int]:
        """The rows of `audience` that changed."""
        if len(audience.rows) <= len(changed):
            return [row for row in audience.rows if row in changed]
        return [row for row in changed if audience in self._watching[row]]
