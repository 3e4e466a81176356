"""Playing a log: its ticks into the table, and rounds at the times at which they fall, by a clock of the log's own. Pure.

A playback stands at a *position*: the table holds every tick before it and none after. It is offered blocks of the log,
says when the next thing happens in replay time, and does it when told to; how fast that time goes by is the caller's
business. What happens, and at which replay time, depends on the log and on what is watched, never on how fast it is
played or how it is read:

* a round at a multiple T of an interval carries the ticks before T;
* a round of interval 0 falls at each distinct time, and carries the ticks of that time.

Times are microseconds since the Unix epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from feeds.blocks import NEVER, Block, Claims, Cursor
from feeds.ticks import Ints, Ticks
from ticker.checkpoints import Checkpoint
from ticker.quotes import Changes, QuoteTable

#: The horizon of what goes on for ever. Nothing is as late, but for `NEVER`.
OPEN: Final = NEVER - 1
#: Blocks that are held at most, before some have been played.
BLOCKS_AHEAD: Final = 4


class Timer(Protocol):
    """When the rounds of one pace fall: the pace."""

    @property
    def interval_us(self) -> int: ...

    @property
    def due(self) -> int: ...

    @property
    def pending(self) -> bool:
        """Whether something may have changed since the last round."""

    @property
    def closing(self) -> int:
        """When the round falls that tells of what changes by itself: a bar closes."""

    def schedule(self, now: int) -> None:
        """Let the next round fall after `now`."""


class Rounds(Protocol):
    """Who is sent the rounds: a hub."""

    @property
    def timers(self) -> Iterable[Timer]:
        """All paces."""

    @property
    def intervals(self) -> Iterable[int]:
        """All intervals in milliseconds that have been subscribed to, those among them that no symbol is served at yet."""

    def fold(self, changes: Changes, ts: int | None = None) -> None: ...

    def flush(self, now: int) -> int | None: ...


@dataclass(slots=True, eq=False)
class _Piece:
    """Ticks of a log that are next to each other: no tick before `until` comes after them."""

    ticks: Ticks
    time: Ints
    until: int
    #: Where reading can go on for all from `until` on.
    cursor: Cursor | None = None
    #: So many of the ticks have been folded in.
    done: int = 0

    @property
    def first(self) -> int:
        """The time of the next tick to be folded in; `NEVER` where there is none."""
        return int(self.time[self.done]) if self.done < len(self.time) else NEVER


@dataclass(frozen=True, slots=True)
class _Event:
    """Something that happens at a replay time, after which the position is `until`."""

    time: int
    until: int
    #: The multiple of an interval, or the distinct time, at which rounds fall; None where there is none.
    round: int | None = None


class Playback:
    """One log being played into one table."""

    def __init__(
        self,
        table: QuoteTable,
        rounds: Rounds,
        *,
        part: int,
        start: int,
        end: int,
        since: int | None = None,
        keep: Callable[[Checkpoint], None] | None = None,
    ) -> None:
        """Play the ticks in [start, end) into rows of `part`; `keep` is given checkpoints.

        `since` is as in `Ticks`; where it is None, as the ticks that are offered have it.
        """
        self.table = table
        self.start = start
        self.end = end
        #: All ticks before it are in the table, none after.
        self.position = start
        #: How many those are.
        self.ticks = 0
        self._rounds = rounds
        self._part = part
        self._since = since
        self._keep = keep
        self._pieces: deque[_Piece] = deque()
        #: All ticks before it have been offered.
        self.horizon = start
        #: Rows with a value, in the order of their first ticks.
        self._order: dict[int, None] = {}
        self._claims: Claims | None = None
        self._deaf = False

    # -- reading -------------------------------------------------------------------------------------------------------

    def open(self, names: Sequence[str]) -> None:
        """What is offered from now on is of a log with these `names`, by row; they may grow. Else its rows are the table's."""
        self._claims = Claims(names, self.table.symbols, self._part)

    @property
    def finished(self) -> bool:
        """Whether all has been offered that there is."""
        return self.horizon == NEVER

    @property
    def hungry(self) -> bool:
        """Whether there is room for another block, and one to come."""
        return not self.finished and (len(self._pieces) < 2 * BLOCKS_AHEAD or self._event() is None)

    def offer(self, block: Block) -> None:
        """Take the next block of the log. From the end on, what it holds is left out, and there is nothing more."""
        ticks, time, last = block.ticks, np.maximum(block.time, self.start), max(block.last, self.start)
        if last >= self.end:
            ticks, time = self._before_end(ticks, time)
        if self._since is not None:
            ticks = replace(ticks, since=self._since)
        at = int(np.searchsorted(time, last))
        # What stands at the last time may go on in the next block: a piece of its own.
        self._pieces.append(_Piece(ticks[:at], time[:at], last, block.cursor))
        if at < len(time):
            self._pieces.append(_Piece(ticks[at:], time[at:], last + 1))
        self.horizon = max(self.horizon, last)
        if last >= self.end:
            self.finish()

    def finish(self) -> None:
        """There is nothing more."""
        self.horizon = NEVER

    def go_live(self) -> None:
        """What is offered from now on happens as it is offered, at no time that has passed: nothing waits for it."""
        self.horizon = OPEN

    def _before_end(self, ticks: Ticks, time: Ints) -> tuple[Ticks, Ints]:
        count = int(np.searchsorted(time, self.end))
        return ticks[:count], time[:count]

    # -- playing -------------------------------------------------------------------------------------------------------

    def next(self) -> int | None:
        """The replay time of what happens next; None where a block has to be offered first, or all has been played."""
        event = self._event()
        return None if event is None else event.time

    @property
    def completed(self) -> bool:
        """Whether all has been played, and every round has gone out."""
        return self.finished and self._event() is None

    def run(self) -> None:
        """Do what happens next. There must be something."""
        event = self._event()
        assert event is not None
        self._do(event)

    def settle(self, ts: int) -> bool:
        """Play up to the position `ts`; False where blocks have to be offered first."""
        while (event := self._event()) is not None and event.until <= ts:
            self._do(event)
        if self.horizon < ts:
            return False
        self._apply(ts)
        self.position = max(self.position, ts)
        return True

    def grid(self, rounds: int, default_us: int) -> int | None:
        """The position after the next so many rounds of the fastest lane, or of `default_us` where there is none.

        None for a lane of interval 0: its rounds fall wherever there are ticks.
        """
        interval = min(self._rounds.intervals, default=default_us // 1000) * 1000
        if not interval:
            return None
        return self.position - self.position % interval + rounds * interval

    def _event(self) -> _Event | None:
        first = next((first for piece in self._pieces if (first := piece.first) != NEVER), None)
        due, each = NEVER, False
        for timer in self._rounds.timers:
            if timer.interval_us:
                if timer.pending:
                    due = min(due, timer.due)
                if timer.closing < due and self._comes(timer.closing, first):
                    due = timer.closing
        for interval_ms in self._rounds.intervals:
            interval = interval_ms * 1000
            if not interval:
                each = True
            elif first is not None:
                due = min(due, first - first % interval + interval)
        if each and first is not None and first < due:
            if first < self.horizon:
                return _Event(first, first + 1, first)
        elif due < NEVER and due <= self.horizon:
            return _Event(due, due, due)
        piece = self._pieces[0] if self._pieces else None
        if piece is not None and piece.until <= self.horizon and not (each and piece.first != NEVER):
            return _Event(max(piece.until, self.position), piece.until)
        return None

    def _comes(self, ts: int, first: int | None) -> bool:
        """Whether the clock comes to `ts`, which has no tick of its own: there is a later one, or it goes on for ever."""
        return self.horizon == OPEN or (first is not None and ts <= first)

    def _do(self, event: _Event) -> None:
        self._apply(event.until)
        self.position = max(self.position, event.until)
        if event.round is not None:
            self._rounds.flush(event.round)

    def _apply(self, until: int) -> None:
        """Fold in all ticks before `until`, piece by piece."""
        while self._pieces:
            piece = self._pieces[0]
            whole = piece.until <= until
            stop = len(piece.time) if whole else int(np.searchsorted(piece.time, until))
            if stop > piece.done:
                self._fold(piece.ticks[piece.done : stop], piece.time[piece.done : stop])
                piece.done = stop
            if not whole:
                return
            self._pieces.popleft()
            if piece.cursor is not None and self._keep is not None:
                self._keep(self._checkpoint(piece.cursor))

    def _fold(self, ticks: Ticks, time: Ints) -> None:
        """Fold ticks in, of these times."""
        first = int(time[0])
        if self._claims is not None:
            ticks = replace(ticks, row=self._claims.rows(ticks.row))
        if self._keep is not None and len(self._order) < len(self.table.symbols):
            self._note_order(ticks.row)
        self.ticks += len(ticks)
        if not self._deaf:
            for timer in self._rounds.timers:
                if not timer.pending and timer.due <= first:  # rounds in which nothing changed
                    timer.schedule(first)
        changes = self.table.apply(ticks, time, passing=self._deaf)
        if not self._deaf:
            self._rounds.fold(changes, first)

    def _note_order(self, row: Ints) -> None:
        known = row < self.table.capacity
        new = row[~known | (self.table.n[np.where(known, row, 0)] == 0)]
        self._order.update(dict.fromkeys(new.tolist()))

    def begin_anew(self, rows: Ints) -> None:
        """The log of `rows` is another one: play what was offered of the old one, and forget it."""
        self._apply(NEVER)
        self._rounds.fold(self.table.forget(rows))

    # -- seeking -------------------------------------------------------------------------------------------------------

    def _checkpoint(self, cursor: Cursor) -> Checkpoint:
        rows = np.fromiter(self._order, np.int64, len(self._order))
        names = self.table.symbols.names
        return Checkpoint(cursor, tuple(names[row] for row in self._order), self.table.save(rows), self.ticks)

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Begin anew at a checkpoint, or at the start. Blocks are to be offered from there on, after `open`.

        No round is told: who plays goes on with `absorb`, and has the paces restarted.
        """
        symbols = self.table.symbols
        names: Sequence[str] = checkpoint.names if checkpoint else ()
        rows = symbols.claim_all(names, self._part)
        if checkpoint is not None:
            self.table.restore(rows, checkpoint.state)
        else:
            self.table.forget(np.arange(self.table.capacity))
        self._order = dict.fromkeys(rows.tolist())
        self.ticks = checkpoint.ticks if checkpoint else 0
        self.position = self.horizon = checkpoint.time if checkpoint else self.start
        self._pieces.clear()

    def absorb(self, ts: int) -> bool:
        """Bring the table to the position `ts` without a round; False where blocks have to be offered first."""
        self._deaf = True
        try:
            self._apply(min(ts, self.horizon))
        finally:
            self._deaf = False
        self.position = max(self.position, min(ts, self.horizon))
        return self.horizon >= ts
