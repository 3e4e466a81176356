"""Recorded files as a feed: merged by time, paced by a clock, read in a thread of its own.

    files --readers--> records --decode--> ticks --merge--> one log --number, filter, shift--> batches --pace--> out

All up to the last arrow happens in the thread, a few batches ahead; the event loop only waits and passes batches on.
"""

from __future__ import annotations

import glob
import logging
import math
import secrets
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np

from feeds import options
from feeds.clock import Clock
from feeds.decode import UNREADABLE, Decoded, Decoder, Wanted, any_key
from feeds.feed import FeedError, FeedStats
from feeds.fields import FIELDS
from feeds.merge import Run, Timed, merge, timed
from feeds.pacing import Schedule, ahead
from feeds.readers import Recording, is_recording
from feeds.ticks import NO_TIME, REFUSED, Ints, Symbols, Ticks

log = logging.getLogger(__name__)

BATCH_TICKS_MAX: Final = 10_000
BATCHES_AHEAD: Final = 4
#: Unreadable rows of each file that are logged one by one; the others are only counted.
SAMPLES_MAX: Final = 5
KEYS_SAID_MAX: Final = 10
#: How far past `to` a recording is read, since rows may be out of order by so much.
PAST_END_US: Final = 60_000_000

_NEVER: Final = -(NO_TIME + 1)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to replay: `speed` is a multiple of real time, None for unpaced."""

    speed: float | None
    loop: bool
    wanted: Wanted
    renamed: Mapping[str, str]


def open_replay(spec: options.Spec, symbols: Symbols, name: str, clock: Clock) -> Replay:
    """The feed of ``replay:PATH?speed=&loop=&from=&to=&symbols=&map=``. Raises FeedError."""
    when = "a time in ISO 8601 or since 1970"
    wanted = Wanted(
        key=spec.option("symbols", any_key, _matcher, "keys or shell patterns, separated by commas"),
        start_us=spec.option("from", NO_TIME, options.time, when),
        end_us=spec.option("to", _NEVER, options.time, when),
    )
    settings = Settings(
        speed=spec.option("speed", 1.0, _speed, "a number above 0, or max"),
        loop=spec.option("loop", False, options.flag, "0 or 1"),
        wanted=wanted,
        renamed=spec.option("map", {}, options.fields_renamed, f"field:name pairs, fields being {', '.join(FIELDS)}"),
    )
    spec.done()
    if wanted.start_us >= wanted.end_us:
        raise spec.error("to: expected a time later than from")
    return Replay(find_files(spec.path), settings, symbols, name=name, clock=clock)


def _matcher(text: str) -> Callable[[str], bool]:
    patterns = tuple(filter(None, text.split(",")))
    if not patterns:
        raise ValueError
    return lambda key: any(fnmatchcase(key, pattern) for pattern in patterns)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    speed = float(text)
    if not 0 < speed < math.inf:
        raise ValueError
    return speed


def find_files(path: str) -> list[Path]:
    """The files of a path: itself, what a glob matches (``**`` for any depth), or a folder's recordings at any depth.

    Raises FeedError where there is none.
    """
    whole = Path(path)
    if not path:
        raise FeedError("replay: expected a file, a glob or a folder, was nothing")
    if whole.is_dir():
        files = [file for file in whole.rglob("*") if is_recording(file) and not _hidden(file.relative_to(whole))]
        expected = "a folder with .csv, .ndjson, .jsonl, .json, .parquet or .pq files (or .gz, .zst of them)"
    elif whole.exists() or not glob.has_magic(path):
        return [whole]
    else:
        files = [Path(match) for match in glob.glob(path, recursive=True)]  # noqa: PTH207 - PATH may be absolute
        expected = "a glob that matches files"
    files = sorted(file for file in files if file.is_file())
    if not files:
        raise FeedError(f"{path}: expected {expected}, found none")
    return files


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


class Replay:
    """A feed of recorded files. Opening it reads the start of each; raises FeedError for what is no recording."""

    closed = False
    trouble = None

    def __init__(self, files: list[Path], settings: Settings, symbols: Symbols, *, name: str, clock: Clock) -> None:
        self.name = name
        self.epoch = f"replay-{secrets.token_hex(4)}"
        self.stats = FeedStats()
        self._settings = settings
        self._clock = clock
        self._decoder = Decoder(symbols, symbols.part(name), renamed=settings.renamed, wanted=settings.wanted)
        self._recordings = [Recording(file, self._decoder.layout) for file in files]
        _check_names(settings.renamed, self._recordings)
        self._logs = _logs(self._recordings)
        self._passes = 0

    @property
    def warm(self) -> bool:
        return self.stats.ticks > 0

    async def __aiter__(self) -> AsyncGenerator[Ticks]:
        schedule = Schedule(self._clock, self._settings.speed)
        async with aclosing(ahead(self._batches(), BATCHES_AHEAD)) as batches:
            async for batch in batches:
                start = 0
                while start < len(batch):
                    stop = await schedule.due(batch.time, start)
                    ticks = batch.ticks[start:stop]
                    self.stats.ticks += len(ticks)
                    yield ticks
                    start = stop

    # -- in the reading thread -------------------------------------------------------------------------------------

    def _batches(self) -> Generator[Timed]:
        """All batches of all passes, each tick with the time that paces it."""
        rows = 0
        tally = _Tally(self._settings.wanted, self._since())
        while True:
            shift, lead = tally.span() * self._passes, tally.period() * self._passes
            some = False
            for block in self._pass():
                if not self._passes:
                    tally.add(block)
                kept = np.flatnonzero(block.ticks.row >= 0)
                some |= len(kept) > 0
                seq = rows + 1 + kept
                rows += len(block)
                ticks = replace(_shifted(block.ticks[kept], shift), seq=seq, since=tally.since())
                yield from _cut(Timed(ticks, block.time[kept] + lead))
            self._passes += 1
            if not (self._settings.loop and some):
                return

    def _pass(self) -> Iterator[Timed]:
        """All rows of all files once, in the log's order, up to well past the end that was asked for."""
        end_us = self._settings.wanted.end_us
        runs = [Run(_first_time(files[0], self._settings), partial(self._timed, files)) for files in self._logs]
        for block in merge(runs):
            if not self._settings.loop and int(block.time[0]) - PAST_END_US >= end_us:
                return
            yield block

    def _timed(self, files: Sequence[Recording]) -> Iterator[Timed]:
        return timed(chain.from_iterable(map(self._read, files)))

    def _since(self) -> int | None:
        """Since when the log that comes first had been read without a hole, where its first file tells."""
        first = min((files[0] for files in self._logs), key=lambda file: _first_time(file, self._settings))
        footer = first.footer
        if footer is None or footer.number != 1:
            return None
        return NO_TIME if footer.since is None else footer.since

    def _read(self, recording: Recording) -> Iterator[tuple[Ticks, Ints]]:
        rows = unreadable = 0
        for records in recording:
            decoded = self._decoder.decode(records)
            row = decoded.ticks.row
            broken = np.flatnonzero(row == UNREADABLE)
            self._report(recording.path, decoded, broken[: max(0, SAMPLES_MAX - unreadable)], rows)
            rows += len(row)
            unreadable += len(broken)
            self.stats.rejected += len(broken)
            self.stats.refused += int(np.count_nonzero(row == REFUSED))
            yield decoded.ticks, np.where(row == UNREADABLE, NO_TIME, decoded.ticks.ts_log)
        if unreadable > SAMPLES_MAX and not self._passes:
            log.warning("%s: %d of %d rows could not be read", recording.path, unreadable, rows)

    def _report(self, path: Path, decoded: Decoded, sample: Ints, rows_before: int) -> None:
        if self._passes:
            return
        for place in sample.tolist():
            log.warning("%s: row %d: %s", path, rows_before + place + 1, decoded.reason(place))
        if decoded.refused:
            said, more = decoded.refused[:KEYS_SAID_MAX], len(decoded.refused) - KEYS_SAID_MAX
            tail = f" and {more} more" if more > 0 else ""
            log.warning("%s: left out, since another feed brings it: %s%s", path, ", ".join(said), tail)


def _logs(recordings: Sequence[Recording]) -> list[list[Recording]]:
    """The files that are one log each, in its order: the parts of one recording; any other file by itself."""
    logs: dict[object, list[Recording]] = {}
    for place, recording in enumerate(recordings):
        footer = recording.footer
        logs.setdefault(footer.recording if footer else place, []).append(recording)
    return [sorted(files, key=lambda file: file.footer.number if file.footer else 0) for files in logs.values()]


def _check_names(renamed: Mapping[str, str], recordings: Sequence[Recording]) -> None:
    """FeedError where a name given by ``map=`` is in no file; of JSON it is not known before the end."""
    columns = {name for recording in recordings for name in recording.columns or renamed.values()}
    absent = [name for name in renamed.values() if name not in columns]
    if absent:
        raise FeedError(f"{recordings[0].path}: map: expected a column {absent[0]!r}, found none in any file")


class _Tally:
    """The times of the readable rows that lie in the range asked for, in the first pass."""

    def __init__(self, wanted: Wanted, since: int | None) -> None:
        """`since` is the time from which the log has been read without a hole, None where its first time tells."""
        self._wanted = wanted
        self._since = since
        self._low, self._high = _NEVER, NO_TIME
        self._start, self._end = _NEVER, NO_TIME

    def add(self, block: Timed) -> None:
        ticks = block.ticks
        inside = (ticks.row != UNREADABLE) & self._wanted.times(ticks.ts_log)
        if inside.any():
            self._start = min(self._start, int(block.time[inside][0]))
            self._end = int(block.time[inside][-1])
            for time in (ticks.ts_event[inside], ticks.ts_recv[inside]):
                known = time[time != NO_TIME]
                if len(known):
                    self._low = min(self._low, int(known.min()))
                    self._high = max(self._high, int(known.max()))

    def since(self) -> int:
        """The time from which the log has been read: `from`, where that is later."""
        if self._end == NO_TIME:
            return NO_TIME
        return max(self._wanted.start_us, self._start if self._since is None else self._since)

    def span(self) -> int:
        """How far each pass lies behind the one before, on all clocks: past the newest time there is, on any of them."""
        return max(0, self._high - self._low + 1)

    def period(self) -> int:
        """The same on the pacing clock, which no single odd venue time can stretch."""
        return max(0, self._end - self._start + 1)


def _first_time(recording: Recording, settings: Settings) -> int:
    """The running time of a recording's first row, found out without claiming any symbol."""
    if recording.head is None:
        return _NEVER
    ticks = Decoder(Symbols(), 0, renamed=settings.renamed).decode(recording.head).ticks
    return NO_TIME if ticks.row[0] == UNREADABLE else int(ticks.ts_log[0])


def _shifted(ticks: Ticks, shift: int) -> Ticks:
    if not shift:
        return ticks
    event, recv = ticks.ts_event, ticks.ts_recv
    return replace(
        ticks,
        ts_event=np.where(event == NO_TIME, NO_TIME, event + shift),
        ts_recv=np.where(recv == NO_TIME, NO_TIME, recv + shift),
    )


def _cut(block: Timed) -> Iterator[Timed]:
    """`block` in batches, one at least: the thread can only be stopped between two, and a filter may keep nothing for long."""
    for start in range(0, max(1, len(block)), BATCH_TICKS_MAX):
        yield block[start : start + BATCH_TICKS_MAX]
