"""Lanes: who is owed what of a round, and the shared bytes that they are sent. Pure: no socket, no clock, no task.

A `Lane` is a pace, a field set and an encoding: a round encodes each changed row once, as an update and, where one is
owed, as a snapshot. A `Watcher` is one client on one lane; its strays are sent whole:

* a *stray* row: the client's copy of it is not the last round's; its next change is sent as a snapshot;
* a stray *ahead*: the client holds a later seq than the table; nothing is sent until the table has caught up;
* *behind*: rounds were skipped; when its socket drains, the rows that moved are sent whole.

Times are microseconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ticker.audiences import Audience, Audiences, Member, Message, Recipient
from ticker.counts import Tally
from ticker.paces import Pace, Round
from ticker.protocol import Encoding, FieldSet, items_head, snapshot_items, update_items


class Watcher(Member):
    """One client on one lane."""

    __slots__ = ("client", "lane", "strays")

    def __init__(self, client: Recipient, lane: Lane) -> None:
        super().__init__(client.outlet)
        self.client = client
        self.lane = lane
        self.strays: dict[int, None] = {}

    @property
    def in_step(self) -> bool:
        return self.behind is None and not self.strays


#: What an odd member of an audience with certain strays is sent of the running round: messages, the rows that it is sent
#: whole, the strays that it has then, and how many items that is.
Alike = dict[tuple[Audience[Watcher], tuple[int, ...]], tuple[list[Message], frozenset[int], tuple[int, ...], int]]


class Lane(Audiences[Watcher]):
    """One (interval, field set, encoding) and its members, by what they watch."""

    def __init__(self, pace: Pace[Lane], fields: FieldSet, encoding: Encoding, tally: Tally) -> None:
        super().__init__(encoding, tally)
        self.pace = pace
        self.fields = fields
        #: The snapshot item of each row that one was needed of in the running round.
        self._wholes: dict[int, bytes] = {}

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
        for member in self._share(rows, items, head):
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
        self.tally.changes += len(rows)
        self.tally.ticks += int(round.n[at].sum())
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

    def _send_odd(self, member: Watcher, changed: Mapping[int, bytes], head: bytes, round: Round, alike: Alike) -> None:
        """Send a round to a member that is not in step: what it cannot chain to goes as a snapshot.

        `alike` is what the members before it were sent, for those of an audience that have the same strays.
        """
        assert member.audience is not None
        ahead = member.client.ahead
        if member.behind is not None:
            if self._touched(member.audience, changed):
                member.client.skipped += 1
                self.tally.skipped += 1
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
            owed = messages, held, tuple(row for row in member.strays if row not in held), len(updates) + len(whole)
            if like:
                alike[like] = owed
        messages, held, strays, sent = owed
        if messages and not member.offer(*messages):
            self.fall_behind(member)
            return
        self.tally.items += sent
        # What was sent is as of this round: it is in step with it.
        member.strays = dict.fromkeys(strays)
        if ahead:
            for row in held:
                ahead.pop(row, None)
        self.settle(member)

    def _whole_items(self, rows: list[int]) -> list[bytes]:
        """Snapshot items of `rows` as of the running round, each encoded once."""
        wholes = self._wholes
        new = [row for row in rows if row not in wholes]
        if new:
            wholes.update(zip(new, self._snapshot(new), strict=True))
        return [wholes[row] for row in rows]

    def fall_behind(self, member: Watcher) -> None:
        """The running round did not reach `member`."""
        member.behind = self.pace.number - 1
        member.client.skipped += 1
        self.tally.skipped += 1
        self.settle(member)

    # -- between rounds --------------------------------------------------------------------------------------------

    def missed(self, member: Watcher) -> list[int]:
        """The rows that have changed since the last round that `member` was not skipped in, be it after the last round.

        The caller sends them: its copy is the table's then, but for what it is ahead of, and it is behind no more.
        """
        assert member.behind is not None
        rows = np.asarray(member.rows, np.int64)
        changed = rows[(self.pace.moved(rows) > member.behind) | self.pace.dirty(rows)].tolist()
        member.behind = None
        seq, ahead = self.pace.table.seq, member.client.ahead
        return [row for row in changed if seq[row] >= ahead.get(row, 0)]

    def whole(self, member: Watcher, rows: Sequence[int], lost: Container[int] = ()) -> list[bytes]:
        """Snapshot items of those of `rows` that have a value, or have `lost` it; the caller sends them, and `member`
        holds them then.
        """
        self.hold(member, rows)
        n = self.pace.table.n
        return self._snapshot([row for row in rows if n[row] or row in lost])

    def hold(self, member: Watcher, rows: Sequence[int]) -> None:
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
