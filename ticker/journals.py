"""Journals on their way to clients: trades and bars, by pace, and the bytes that clients share. Pure.

A `JournalPace` knows up to which version each watched row has been told, so that a round is "what is there of each row
after that?", encoded once. A `Reader` is one client on one lane; its strays are the rows of which it holds another
version than the last round's: one that has just subscribed or resumed, or that was skipped. What it is owed is read from
the journal when it can be sent, in pieces of a bounded size, and what the journal holds no more is told as a gap.

Times are microseconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from ticker.audiences import Audiences, Member, Message, Recipient
from ticker.bars import Bars
from ticker.columns import Ints, longer
from ticker.counts import Tally
from ticker.journal import UNKNOWN, Gap, Held, Journal
from ticker.protocol import Encoding, encode, journal_head
from ticker.quotes import QuoteTable
from ticker.tape import Tape

#: No journal has moved so often.
NOTHING_SEEN: Final = -1
#: What one is sent that catches up comes in messages of about so many bytes.
PIECE_BYTES: Final = 1 << 16
#: Stands for the round before which a reader was skipped: versions tell what it has had.
SKIPPED: Final = 0


class Journals:
    """The trades and the bars of all symbols of a table, kept from now on."""

    def __init__(self, table: QuoteTable, *, trades: int, bars: int, bars_delay_us: int) -> None:
        """So many `trades`, and `bars` of each interval, are kept of a symbol; bars close so long after their end."""
        self.tape = Tape(table.symbols, trades)
        self.bars = Bars(table, bars, bars_delay_us)
        table.follow(self.tape)
        table.follow(self.bars)
        self.by_name: dict[str, Journal] = {self.tape.name: self.tape, **self.bars.series}

    def begin(self, now: int) -> None:
        """The table is as of `now`, and what was before it is not known."""
        self.tape.begin(now)
        self.bars.begin(now)


class JournalRound:
    """One flush of a pace: what there is new of the rows that have something new, ascending, and what was told before."""

    __slots__ = ("_told", "before", "gaps", "items", "journal", "rows", "ts")

    def __init__(self, journal: Journal, ts: int, rows: list[int], before: list[Held]) -> None:
        self.journal = journal
        self.ts = ts
        self.rows = rows
        self.before = dict(zip(rows, before, strict=True))
        self._told: dict[tuple[int, Held], tuple[Gap | None, bytes]] = {}
        self.items: dict[int, bytes] = {}
        #: Rows that have had more within one round than is kept.
        self.gaps: set[int] = set()
        for row, held in self.before.items():
            gap, self.items[row] = self.news(row, held)
            if gap is not None:
                self.gaps.add(row)

    def news(self, row: int, held: Held) -> tuple[Gap | None, bytes]:
        """What is owed to who holds `held`, encoded once for all who hold the same."""
        told = self._told.get((row, held))
        if told is None:
            told = self._told[row, held] = self.journal.news(row, held)
        return told


class Reader(Member):
    """One client on one lane of a journal."""

    __slots__ = ("ahead", "client", "lane", "strays")

    def __init__(self, client: Recipient, lane: JournalLane) -> None:
        super().__init__(client.outlet)
        self.client = client
        self.lane = lane
        #: Rows of which it holds another version than the last round's.
        self.strays: dict[int, Held] = {}
        #: Strays of which it holds a later seq than the table has reached.
        self.ahead: dict[int, int] = {}

    @property
    def in_step(self) -> bool:
        return self.behind is None and not self.strays


class JournalLane(Audiences[Reader]):
    """One (journal, interval, encoding) and its readers, by what they watch."""

    def __init__(self, pace: JournalPace, encoding: Encoding, tally: Tally) -> None:
        super().__init__(encoding, tally)
        self.pace = pace
        self.journal = pace.journal

    # -- rounds --------------------------------------------------------------------------------------------------------

    def send(self, round: JournalRound) -> None:
        """Send a round to every reader that watches a row of it."""
        rows = [row for row in round.rows if row in self._watching]
        if not rows:
            return
        for row in round.gaps.intersection(rows):  # a gap is a message of its own
            for audience in self._watching[row]:
                for reader in list(audience.members):
                    reader.strays[row] = round.before[row]
                    self.settle(reader)
        odd = list(self.odd)
        for reader in self._share(rows, [round.items[row] for row in rows], self._head(round.ts)):
            self._skip(reader, round)
        for reader in odd:
            if reader.behind is None:
                self._send_odd(reader, round)
            else:
                self._skip(reader, round)

    def _head(self, ts: int) -> bytes:
        return journal_head(self.journal.channel, self.journal.name, ts)

    def _skip(self, reader: Reader, round: JournalRound) -> None:
        """The running round does not reach a reader: note what it holds of the rows that have moved."""
        assert reader.audience is not None
        touched = self._touched(reader.audience, round.items)
        if touched:
            reader.behind = SKIPPED
            reader.client.skipped += 1
            self.tally.skipped += 1
            for row in touched:
                reader.strays.setdefault(row, round.before[row])
            self.settle(reader)

    def _send_odd(self, reader: Reader, round: JournalRound) -> None:
        assert reader.audience is not None
        gaps: list[Gap] = []
        items: list[bytes] = []
        sent = []
        for row in self._touched(reader.audience, round.items):
            if row not in reader.strays and row not in round.gaps:
                items.append(round.items[row])
                continue
            held = self._held(reader, row) if row in reader.strays else round.before[row]
            if held is not None:
                gap, news = round.news(row, held)
                gaps += [gap] if gap else []
                items += [news] if news else []
                sent.append(row)
        messages = self._messages(round.ts, gaps, items)
        if messages and not reader.offer(*messages):
            self._skip(reader, round)
            return
        self.tally.items += len(items)
        for row in sent:
            self._hold(reader, row)
        self.settle(reader)

    def _messages(self, ts: int, gaps: Iterable[Gap], items: list[bytes]) -> list[Message]:
        messages: list[Message] = [self.encoding.whole(encode(self._gap(gap))) for gap in gaps]
        if items:
            messages.append(self.encoding.join(self._head(ts), items))
        return messages

    def _gap(self, gap: Gap) -> Mapping[str, Any]:
        told = {"symbol": gap.symbol, "from": gap.start, "to": gap.end, "count": gap.lost}
        return {"type": "gap", "channel": self.journal.channel, **told}

    # -- strays --------------------------------------------------------------------------------------------------------

    def _held(self, reader: Reader, row: int) -> Held | None:
        """What a reader holds of a stray; None where it is to be told nothing of it for now."""
        if reader.client.anew:
            return None
        seq = reader.ahead.get(row)
        if seq is not None:
            if self.pace.table.seq[row] < seq:
                return None
            del reader.ahead[row]
            reader.strays[row] = self.journal.held_at(row, seq)
        return reader.strays[row]

    def _hold(self, reader: Reader, row: int) -> None:
        """A reader holds all of a row that there is."""
        held = self.journal.held(row)
        if held.version == self.pace.told(row):
            reader.strays.pop(row, None)
        else:
            reader.strays[row] = held

    def begin(
        self, reader: Reader, rows: Iterable[int], since: Mapping[int, int], kept: Mapping[int, Held]
    ) -> dict[str, int]:
        """Let a reader be owed the beginning of `rows`, all after the seq `since` that it holds, or after what it `kept`.

        Returns how many items follow, by symbol, of those rows of which it says what it holds, and misses nothing.
        """
        resumed: dict[str, int] = {}
        names, seq = self.pace.table.symbols.names, self.pace.table.seq
        for row in rows:
            at = since.get(row)
            reader.ahead.pop(row, None)
            if at is None:
                held = kept.get(row) or self.journal.held_anew(row)
                if held.version != self.pace.told(row):
                    reader.strays[row] = held
            elif at > seq[row]:
                reader.ahead[row] = at
                reader.strays[row] = Held(UNKNOWN, at)
            else:
                reader.strays[row] = held = self.journal.held_at(row, at)
                owed = self.journal.owed(row, held)
                if owed is not None:
                    resumed[names[row]] = owed
        self.settle(reader)
        return resumed

    def holds(self, reader: Reader, row: int) -> Held:
        """What a reader holds of a row that it watches."""
        return reader.strays.get(row) or self.pace.held(row)

    def restart(self, reader: Reader, ts: int) -> None:
        """The table is another one: a reader is owed the beginning of all that it watches."""
        reader.ahead.clear()
        reader.strays = {row: self.journal.held_anew(row) for row in reader.rows}
        self.catch_up(reader, ts)

    def give_up(self, reader: Reader, ts: int) -> None:
        """What a reader is ahead of does not come, and it has been told: it is owed the beginning of that."""
        for row in reader.ahead:
            reader.strays[row] = self.journal.held_anew(row)
        reader.ahead.clear()
        self.catch_up(reader, ts)

    def withhold(self, reader: Reader, rows: Iterable[int]) -> None:
        """Tell a reader nothing more of `rows` until it has been told that their log is another one."""
        for row in rows:
            reader.ahead.pop(row, None)
            reader.strays.setdefault(row, self.pace.held(row))
        self.settle(reader)

    def catch_up(self, reader: Reader, ts: int) -> None:
        """Send a reader what it is owed, as far as it takes it."""
        gaps: list[Gap] = []
        items: list[bytes] = []
        size, rows = 0, list(reader.strays)
        sent: list[int] = []
        for at, row in enumerate(rows, 1):
            held = self._held(reader, row)
            if held is not None:
                gap, news = self.journal.news(row, held)
                gaps += [gap] if gap else []
                items += [news] if news else []
                size += len(news)
                sent.append(row)
            if sent and (size >= PIECE_BYTES or at == len(rows)):
                reader.behind = None if at == len(rows) else SKIPPED
                messages = self._messages(ts, gaps, items)
                if messages and not reader.offer(*messages):
                    reader.behind = SKIPPED
                    break
                self.tally.items += len(items)
                for done in sent:
                    self._hold(reader, done)
                gaps, items, sent, size = [], [], [], 0
        else:
            reader.behind = None
        self.settle(reader)


class JournalPace:
    """One interval of one journal: up to which version each row has been told."""

    def __init__(self, table: QuoteTable, journal: Journal, interval_ms: int, now: int) -> None:
        self.table = table
        self.journal = journal
        self.interval_us = interval_ms * 1000
        #: When the next round falls: on a multiple of the interval; for interval 0 it is always due.
        self.due = 0
        self.schedule(now)
        #: Who is sent its rounds, by encoding.
        self.lanes: dict[Encoding, JournalLane] = {}
        self._moves = journal.moves
        # By row: how many watch it, and what has been told of it.
        self._watchers: Ints = np.zeros(0, np.int64)
        self._version: Ints = np.zeros(0, np.int64)
        self._seq: Ints = np.zeros(0, np.int64)

    def schedule(self, now: int) -> None:
        """Let the next round fall on the first multiple of the interval after `now`."""
        self.due = now - now % self.interval_us + self.interval_us if self.interval_us else 0

    @property
    def pending(self) -> bool:
        """Whether something that is watched may have moved since the last round."""
        return self.journal.moves != self._moves

    @property
    def closing(self) -> int:
        """When the round falls that tells of what moves by itself; far away where nothing does."""
        due = self.journal.due
        return -(-due // self.interval_us) * self.interval_us if self.interval_us else due

    def watchers(self) -> tuple[Ints, Ints]:
        """The rows that are watched, and how many watch each: int64, as long as each other."""
        rows = self._watchers.nonzero()[0]
        return rows, self._watchers[rows]

    def watch(self, rows: Ints, *, born: bool = False) -> None:
        """One more reader watches each of `rows`, which are distinct; those that nobody did have been told as of now.

        Of rows that are `born` nothing has been told: the next round tells all of it.
        """
        self._reach()
        new = rows[self._watchers[rows] == 0]
        if born:
            self._version[new] = self._seq[new] = 0
            self._moves = NOTHING_SEEN
        else:
            self._tell(new)
        self._watchers[rows] += 1

    def unwatch(self, rows: Ints) -> None:
        """One reader fewer watches each of `rows`, which are distinct."""
        self._watchers[rows] -= 1

    def told(self, row: int) -> int:
        """The version of a watched row that the last round told."""
        return int(self._version[row])

    def held(self, row: int) -> Held:
        """What a client holds that is in step with the last round."""
        return Held(int(self._version[row]), int(self._seq[row]))

    def restart(self, now: int) -> None:
        """The table is another one: whatever is watched is told as of now."""
        self._reach()
        self._tell(self._watchers.nonzero()[0])
        self._moves = self.journal.moves
        self.schedule(now)

    def round(self, ts: int) -> None:
        """Flush: tell every lane what there is new. Costs nothing where nothing is."""
        self.journal.close(ts)
        if not self.pending:
            return
        self._moves = self.journal.moves
        version = self.journal.version[: len(self._watchers)]
        known = len(version)
        moved = ((version > self._version[:known]) & (self._watchers[:known] > 0)).nonzero()[0]
        if not len(moved):
            return
        rows: list[int] = moved.tolist()
        told = JournalRound(self.journal, ts, rows, [self.held(row) for row in rows])
        self._tell(moved)
        for lane in list(self.lanes.values()):
            lane.send(told)

    def _tell(self, rows: Ints) -> None:
        for row in rows.tolist():
            self._version[row], self._seq[row] = self.journal.held(row)

    def _reach(self) -> None:
        more = self.table.capacity
        if more > len(self._watchers):
            self._watchers, self._version, self._seq = (
                longer(column, more, 0) for column in (self._watchers, self._version, self._seq)
            )
