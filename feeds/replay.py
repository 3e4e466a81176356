"""Recorded files as a feed: merged by time, paced by a clock, read in a thread of its own.

    files --feeds.log--> blocks --range, claim, shift--> batches --pace--> out

All up to the last arrow happens in the thread, a few batches ahead; the event loop only waits and passes batches on.
"""

from __future__ import annotations

import glob
import logging
import math
import secrets
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import numpy as np

from feeds import options
from feeds.blocks import NEVER, Claims
from feeds.clock import Clock
from feeds.decode import any_key
from feeds.feed import ON_TIME, FeedError, FeedStats, Lateness
from feeds.fields import FIELDS
from feeds.log import Log, Tally
from feeds.merge import Timed
from feeds.pacing import UNPACED, Schedule, ahead
from feeds.readers import is_recording
from feeds.ticks import NO_TIME, REFUSED, Ints, Symbols, Ticks

log = logging.getLogger(__name__)

BATCH_TICKS_MAX: Final = 10_000
BATCHES_AHEAD: Final = 4
KEYS_SAID_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class Settings:
    """How to replay: `speed` is a multiple of real time, None for unpaced; keys that `key` takes, [start_us, end_us)."""

    speed: float | None
    loop: bool
    key: Callable[[str], bool]
    start_us: int
    end_us: int
    renamed: Mapping[str, str]


def open_replay(spec: options.Spec, symbols: Symbols, name: str, clock: Clock, lateness: Lateness = ON_TIME) -> Replay:
    """The feed of ``replay:PATH?speed=&loop=&from=&to=&symbols=&map=``, by a clock that is as late. Raises FeedError."""
    when = "a time in ISO 8601 or since 1970"
    settings = Settings(
        key=spec.option("symbols", any_key, matcher, "keys or shell patterns, separated by commas"),
        start_us=spec.option("from", NO_TIME, options.time, when),
        end_us=spec.option("to", NEVER, options.time, when),
        speed=spec.option("speed", 1.0, _speed, "a number above 0, or max"),
        loop=spec.option("loop", False, options.flag, "0 or 1"),
        renamed=spec.option("map", {}, options.fields_renamed, f"field:name pairs, fields being {', '.join(FIELDS)}"),
    )
    spec.done()
    if settings.start_us >= settings.end_us:
        raise spec.error("to: expected a time later than from")
    if lateness.delay_us and settings.speed is None:
        raise spec.error(UNPACED)
    return Replay(find_files(spec.path), settings, symbols, name=name, clock=clock, lateness=lateness)


def matcher(text: str) -> Callable[[str], bool]:
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

    def __init__(
        self,
        files: list[Path],
        settings: Settings,
        symbols: Symbols,
        *,
        name: str,
        clock: Clock,
        lateness: Lateness = ON_TIME,
    ) -> None:
        self.name = name
        self.epoch = f"replay-{secrets.token_hex(4)}{lateness.suffix}"
        self.stats = FeedStats()
        self._settings = settings
        self._clock = clock
        self._lateness = lateness
        self._log = Log(files, key=settings.key, renamed=settings.renamed)
        self._claims = Claims(self._log.symbols.names, symbols, symbols.part(name))
        self._refusals_said = 0
        self._passes = 0

    @property
    def warm(self) -> bool:
        return self.stats.ticks > 0 or self._lateness.delay_us > 0  # of what is to come, nothing was due at the start

    async def __aiter__(self) -> AsyncGenerator[Ticks]:
        late = self._lateness
        begin = None if late == ON_TIME else late.begin(self._clock.now())
        schedule = Schedule(self._clock, self._settings.speed, begin=begin)
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
        settings, passed = self._settings, 0
        whole = settings.loop or settings.start_us == NO_TIME  # each pass counts all rows
        start = None if whole else self._log.start(settings.start_us)
        end = NEVER if settings.loop else settings.end_us
        tally = _Span()
        while True:
            shift, lead = tally.span() * self._passes, tally.period() * self._passes
            some, rows, read = False, 0, Tally()
            for block in self._log.blocks(start, read, end=end):
                rows = block.rows
                inside = (block.time >= settings.start_us) & (block.time < settings.end_us)
                ticks, time = block.ticks[inside], block.time[inside]
                if not self._passes:
                    tally.add(ticks, time)
                    self.stats.rejected = read.unreadable
                ticks, time = self._claim(ticks, time)
                some |= len(ticks) > 0
                moved = replace(_shifted(ticks, shift), seq=ticks.seq + passed, since=self._since)
                yield from _cut(Timed(moved, time + lead))
            passed += rows
            self._passes += 1
            if not (settings.loop and some):
                return

    @property
    def _since(self) -> int:
        """The time from which the log has been read without a hole: `from`, where that is later."""
        return max(self._settings.start_us, self._log.since)

    def _claim(self, ticks: Ticks, time: Ints) -> tuple[Ticks, Ints]:
        """The ticks in the rows that the service's symbols have for them, without those that another feed brings."""
        row = self._claims.rows(ticks.row)
        for key in self._claims.refused[self._refusals_said : KEYS_SAID_MAX]:
            log.warning("feed %s: left out, since another feed brings it: %s", self.name, key)
            self._refusals_said += 1
        kept = row != REFUSED
        if not kept.all():
            self.stats.refused += int(np.count_nonzero(~kept))
            ticks, time, row = ticks[kept], time[kept], row[kept]
        return replace(ticks, row=row), time


class _Span:
    """The times of the ticks that were asked for, in the first pass."""

    def __init__(self) -> None:
        self._low, self._high = NEVER, NO_TIME
        self._start, self._end = NEVER, NO_TIME

    def add(self, ticks: Ticks, time: Ints) -> None:
        if not len(ticks):
            return
        self._start = min(self._start, int(time[0]))
        self._end = int(time[-1])
        for column in (ticks.ts_event, ticks.ts_recv):
            known = column[column != NO_TIME]
            if len(known):
                self._low = min(self._low, int(known.min()))
                self._high = max(self._high, int(known.max()))

    def span(self) -> int:
        """How far each pass lies behind the one before, on all clocks: past the newest time there is, on any of them."""
        return max(0, self._high - self._low + 1)

    def period(self) -> int:
        """The same on the pacing clock, which no single odd venue time can stretch."""
        return max(0, self._end - self._start + 1)


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
