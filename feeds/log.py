"""Recorded files as one log: merged by time, numbered from 1, read from its start or from any time in it.

    files --readers--> records --decode--> ticks --ordering--> runs --merge--> one log --number, filter, cut--> blocks

A row's number is its place among all rows of all files, those included that cannot be read or were not asked for. Where
one block ends and the next begins depends on these numbers alone, so two readings of the same files give the same
blocks, whatever the files' own blocks are and wherever reading began.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from feeds.blocks import BEGINNING, NEVER, Block, Cursor, Mark
from feeds.decode import UNREADABLE, Decoded, Decoder, Wanted, any_key
from feeds.feed import FeedError
from feeds.merge import Run, Timed, merge
from feeds.ordering import WINDOW_ROWS, WINDOW_US, AsWritten, Ordering
from feeds.readers import Recording
from feeds.ticks import NO_TIME, Ints, Symbols, Ticks

log = logging.getLogger(__name__)

#: Rows of a block, at most.
BLOCK_ROWS: Final = 8_192
#: Every so many rows there is a place from which reading can go on later.
CURSOR_ROWS: Final = 32 * BLOCK_ROWS
#: Unreadable rows of each file that are logged one by one; the others are only counted.
SAMPLES_MAX: Final = 5


@dataclass(slots=True)
class Tally:
    """What reading has met so far. The counts only grow."""

    #: Rows that cannot be read, and the unreadable rows that were said one by one, by file.
    unreadable: int = 0
    #: Rows that came too late to be put where their time belongs.
    displaced: int = 0


class Log:
    """Recorded files as one log. Making it reads the start of each file; raises FeedError for what is no recording."""

    def __init__(
        self, files: Sequence[Path], *, key: Callable[[str], bool] = any_key, renamed: Mapping[str, str] | None = None
    ) -> None:
        """`key` says which keys are wanted; `renamed` maps fields to columns."""
        #: The log's own rows: in the order in which reading has met their keys.
        self.symbols = Symbols()
        self._part = self.symbols.part("log")
        self._key = key
        self._renamed = renamed or {}
        self._recordings = [Recording(file, self._decoder().layout) for file in files]
        _check_names(self._renamed, self._recordings)
        self._runs = _runs(self._recordings)
        self._firsts = [self._first_time(run[0]) for run in self._runs]
        self._said = False

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(recording.path for recording in self._recordings)

    @property
    def since(self) -> int:
        """The time from which the log has been read without a hole; `NO_TIME` where that is not known."""
        first = min(range(len(self._runs)), key=self._firsts.__getitem__)
        footer = self._runs[first][0].footer
        if footer is not None and footer.number == 1:
            return NO_TIME if footer.since is None else footer.since
        return NO_TIME if self._firsts[first] == NEVER else self._firsts[first]

    @property
    def first(self) -> int:
        """The time of the first readable row, as the files are written; `NEVER` where there is none."""
        return min(self._firsts)

    @property
    def last(self) -> int | None:
        """The newest time in the log; None where the files do not tell without being read."""
        spans = [recording.spans() for recording in self._recordings]
        known = [span.high_us for some in spans if some for span in some]
        return max(known) if known and None not in spans else None

    def start(self, time: int) -> Cursor:
        """A cursor at `time` that is found without reading rows: by what the files say of their own contents."""
        return Cursor(time, tuple(_skip(run, time) for run in self._runs))

    def blocks(self, cursor: Cursor | None = None, tally: Tally | None = None, *, end: int = NEVER) -> Generator[Block]:
        """All rows from the cursor on, or from the log's start; reading ends once it is past the time `end`.

        Raises FeedError where a file cannot be read, or is another one than it was when the log was made.
        """
        at = cursor or Cursor(NO_TIME, (BEGINNING,) * len(self._runs))
        tally = tally or Tally()
        quiet, self._said = self._said, True
        readings = [
            _Reading(run, mark, self._decoder(), tally, quiet=quiet)
            for run, mark in zip(self._runs, at.marks, strict=True)
        ]
        firsts = [
            first - WINDOW_US if mark == BEGINNING and first > NO_TIME + WINDOW_US else NO_TIME
            for first, mark in zip(self._firsts, at.marks, strict=True)
        ]
        runs = [Run(first, partial(iter, reading)) for first, reading in zip(firsts, readings, strict=True)]
        rows = sum(mark.rows for mark in at.marks)
        cutter = _Cutter(readings, rows, at.time)
        try:
            for piece in merge(runs):
                yield from cutter.add(piece)
                if piece.time[-1] >= end:
                    break
        except FeedError:
            yield from cutter.rest()  # what could be read comes before what could not
            raise
        yield from cutter.rest()
        if tally.displaced and not quiet:
            log.warning(
                "%s: %d rows lie further behind than %g s or %d rows: they stand later than their time says",
                self._recordings[0].path,
                tally.displaced,
                WINDOW_US / 1e6,
                WINDOW_ROWS,
            )

    def _decoder(self) -> Decoder:
        return Decoder(self.symbols, self._part, renamed=self._renamed, wanted=Wanted(key=self._key))

    def _first_time(self, recording: Recording) -> int:
        """The time of a recording's first readable row, found out without claiming any symbol."""
        if recording.head is None:
            return NEVER
        decoder = Decoder(Symbols(), 0, renamed=self._renamed)
        ticks = decoder.decode(recording.head).ticks
        if ticks.row[0] != UNREADABLE:
            return int(ticks.ts_log[0])
        for records in recording:
            ticks = decoder.decode(records).ticks
            readable = ticks.ts_log[ticks.row != UNREADABLE]
            if len(readable):
                return int(readable[0])
        return NEVER


class _Cutter:
    """Cuts a log's rows into blocks by their numbers."""

    def __init__(self, readings: Sequence[_Reading], rows: int, start: int) -> None:
        self._readings = readings
        #: Rows that have gone out, or lie before the start.
        self._rows = rows
        self._start = start
        self._pieces: list[Timed] = []
        self._count = 0

    def add(self, piece: Timed) -> Iterator[Block]:
        if self._start != NO_TIME:  # only the first pieces hold rows before it
            before = int(np.searchsorted(piece.time, self._start))
            self._rows += before
            piece = piece[before:]
            if len(piece):
                self._start = NO_TIME
        while len(piece):
            room = BLOCK_ROWS - (self._rows + self._count) % BLOCK_ROWS
            self._pieces.append(piece[:room])
            self._count += len(self._pieces[-1])
            piece = piece[room:]
            if not (self._rows + self._count) % BLOCK_ROWS:
                yield self._block()

    def rest(self) -> Iterator[Block]:
        if self._count:
            yield self._block()

    def _block(self) -> Block:
        time = np.concatenate([piece.time for piece in self._pieces])
        ticks = Ticks.concat([piece.ticks for piece in self._pieces])
        first = self._rows + 1
        self._rows += self._count
        self._pieces, self._count = [], 0
        last, cursor = int(time[-1]), None
        if not self._rows % CURSOR_ROWS and time[0] < last:
            cursor = Cursor(last, tuple(reading.mark(last) for reading in self._readings))
        kept = np.flatnonzero(ticks.row >= 0)
        return Block(replace(ticks[kept], seq=first + kept), time[kept], last, self._rows, cursor)


class _Reading:
    """One run being read, from a mark on: iterate it for its rows in order."""

    def __init__(self, run: Sequence[Recording], start: Mark, decoder: Decoder, tally: Tally, *, quiet: bool) -> None:
        self._run = run
        self._start = start
        self._decoder = decoder
        self._tally = tally
        self._quiet = quiet
        self._rows = start.rows
        self._window = 0 if run[0].footer else WINDOW_ROWS
        unknown = self._window if start.rows else 0
        self._order = Ordering(start.newest, unknown=unknown) if self._window else AsWritten(start.newest)
        #: Where the blocks began that have been read, oldest first.
        self._marks = [start]

    def __iter__(self) -> Iterator[Timed]:
        start = self._start
        try:
            for number in range(start.file, len(self._run)):
                yield from self._file(number, start.place if number == start.file else 0)
        except FeedError:
            rest = self._order.rest()
            if rest is not None:
                yield rest
            raise
        self._marks.append(Mark(len(self._run), 0, self._rows, self._order.newest))
        rest = self._order.rest()
        self._tally.displaced += self._order.displaced
        if rest is not None:
            yield rest

    def mark(self, time: int) -> Mark:
        """Where to begin for all rows from `time` on, in their order. Times asked for never fall."""
        past = [
            mark for mark in self._marks if mark.newest < time
        ]  # no row from `time` on lies before the last of them
        if past[-1].file < len(self._run):  # where its rows belong is told by those in the window before it
            past = [mark for mark in past if mark.rows + self._window <= past[-1].rows] or past[:1]
        del self._marks[: len(past) - 1]
        return past[-1]

    def _file(self, number: int, place: int) -> Iterator[Timed]:
        recording, unreadable = self._run[number], 0
        for place_, records in recording.blocks(place):
            if place_ or number:
                self._marks.append(Mark(number, place_, self._rows, self._order.newest))
            decoded = self._decoder.decode(records)
            row = decoded.ticks.row
            broken = np.flatnonzero(row == UNREADABLE)
            if len(broken):
                self._say(recording, decoded, broken[: max(0, SAMPLES_MAX - unreadable)])
                unreadable += len(broken)
                self._tally.unreadable += len(broken)
            self._rows += len(row)
            if len(row):
                time = (
                    np.where(row == UNREADABLE, NO_TIME, decoded.ticks.ts_log) if len(broken) else decoded.ticks.ts_log
                )
                yield from self._order.take(decoded.ticks, time)
        if unreadable > SAMPLES_MAX and not self._quiet:
            log.warning("%s: %d of %d rows could not be read", recording.path, unreadable, self._rows)

    def _say(self, recording: Recording, decoded: Decoded, sample: Ints) -> None:
        if not self._quiet:
            for place in sample.tolist():
                log.warning("%s: row %d: %s", recording.path, self._rows + place + 1, decoded.reason(place))


def _runs(recordings: Sequence[Recording]) -> list[list[Recording]]:
    """The files that are one run each, in its order: the parts of one recording; any other file by itself."""
    runs: dict[object, list[Recording]] = {}
    for place, recording in enumerate(recordings):
        footer = recording.footer
        runs.setdefault(footer.recording if footer else place, []).append(recording)
    return [sorted(files, key=lambda file: file.footer.number if file.footer else 0) for files in runs.values()]


def _skip(run: Sequence[Recording], time: int) -> Mark:
    """The furthest mark of a run before all rows from `time` on, as far as its files tell what times they hold."""
    marks, rows, newest = [BEGINNING], 0, NO_TIME
    for number, recording in enumerate(run):
        spans = recording.spans()
        if spans is None:
            break
        for span in spans:
            if newest < time:
                marks.append(Mark(number, span.place, rows, newest))
            rows, newest = rows + span.rows, max(newest, span.high_us)
    window = 0 if run[0].footer else WINDOW_ROWS
    whole = marks[-1].rows
    return next(mark for mark in reversed(marks) if mark.rows + window <= whole or mark is marks[0])


def _check_names(renamed: Mapping[str, str], recordings: Sequence[Recording]) -> None:
    """FeedError where a name given by ``map=`` is in no file; of JSON it is not known before the end."""
    columns = {name for recording in recordings for name in recording.columns or renamed.values()}
    absent = [name for name in renamed.values() if name not in columns]
    if absent:
        raise FeedError(f"{recordings[0].path}: map: expected a column {absent[0]!r}, found none in any file")
