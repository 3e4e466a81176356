"""Ticks to files: a recording, cut into Parquet parts that each become whole at one stroke.

The part being written has a name that begins with a dot, which every reader of a folder passes over, and is locked. Once
it is complete and on the disk it gets its own name. So a file without a dot is whole, whatever happens to the process, and
an open part that nobody has locked is what a process that is gone left behind.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feeds import parts
from feeds.feed import Held
from feeds.ticks import NO_TIME, Symbols, Ticks

log = logging.getLogger(__name__)

MB: Final = 1_000_000
#: Ticks go to the file in row groups: as soon as there are so many, or after so long.
GROUP_TICKS_MAX: Final = 100_000
GROUP_US_MAX: Final = 5_000_000
#: About what a tick takes in a file. By it a row group is never much of a small part.
TICK_BYTES: Final = 16

_OPEN_NAME: Final = re.compile(r"\.(?P<opened>\d{8}T\d{6}\.\d{6}Z)-[0-9a-f]+-\d+\.open")


class RecordError(Exception):
    """A recording cannot be begun or cannot go on. The text is one line that names the file and the cause."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a part is closed: past so many bytes, or after so much time."""

    part_bytes: int = 128 * MB
    part_us: int = 300_000_000

    @property
    def group_ticks(self) -> int:
        return max(1, min(GROUP_TICKS_MAX, self.part_bytes // TICK_BYTES))


@dataclass(slots=True)
class Tally:
    """What some parts hold."""

    parts: int = 0
    ticks: int = 0
    bytes: int = 0
    #: Rows in `Symbols`.
    symbols: set[int] = field(default_factory=set)

    def add(self, other: Tally) -> None:
        self.parts += other.parts
        self.ticks += other.ticks
        self.bytes += other.bytes
        self.symbols |= other.symbols


class Recorder:
    """Writes one feed's ticks into parts in a folder. Its methods block; they are not for two threads at once.

    Each raises RecordError where it cannot write: the open part is given up then, those closed before it stay.
    """

    def __init__(self, folder: Path, symbols: Symbols, feed: str, limits: Limits, now: Callable[[], int]) -> None:
        """Make the folder where there is none, and remove what recorders that are gone left open in it.

        `feed` is the feed's name; `now` gives microseconds since the Unix epoch.
        """
        self.folder = folder
        self._recording = secrets.token_hex(6)
        #: The parts of the recording that were there before; and of each log the newest part that there is.
        self._before = 0
        self._earlier: dict[str, parts.Footer] = {}
        #: All parts closed since.
        self.closed = Tally()
        self._symbols = symbols
        self._feed = feed
        self._limits = limits
        self._now = now
        self._part: _Part | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass  # it can be written to
            _remove_leftovers(folder)
        except OSError as error:
            raise RecordError(f"{folder}: cannot record there: {error.strerror}") from None

    def held(self) -> Held:
        """What the folder's recordings hold of each log, but for those that a living recorder is at.

        A log that is among them is gone on with, in the recording that holds the newest of it. To be called before
        anything is written. Raises RecordError where a part cannot be read.
        """
        held: dict[str, dict[str, int]] = {}
        for footer in self._footers():
            if not any(self.folder.glob(f".*-{footer.recording}-*.open")):
                last = {part: last for part, (_, last) in footer.positions.items()}
                held.setdefault(footer.epoch, {}).update(last)
                self._earlier[footer.epoch] = footer
        return held

    def _footers(self) -> list[parts.Footer]:
        """The footers of all parts in the folder, in the order in which the parts were begun."""
        found = []
        for path in sorted(self.folder.glob("*.parquet")):
            try:
                footer = parts.footer(pq.read_metadata(path).metadata)
            except (OSError, pa.ArrowInvalid, msgspec.DecodeError) as error:
                raise RecordError(f"{path}: expected a part of a recording: {' '.join(str(error).split())}") from None
            if footer is not None:
                found.append(footer)
        return found

    @property
    def open(self) -> Tally:
        """What the open part holds: ticks that wait count, bytes are those in its file."""
        return self._part.tally if self._part else Tally()

    def write(self, ticks: Ticks, epoch: str) -> None:
        """Take ticks, in their order, of the log that `epoch` names: another one begins a new part."""
        if self._part is not None and self._part.epoch != epoch:
            self.close()
        start = 0
        while start < len(ticks):  # a row group at a time, however the ticks came in batches
            stop = start + self._limits.group_ticks - (self._part.waiting if self._part else 0)
            while stop < len(ticks) and ticks.seq[stop] == ticks.seq[stop - 1]:
                stop += 1  # a record stays whole: after one a recording goes on
            self._add(ticks[start:stop], epoch)
            self.tend()
            start = stop

    def tend(self) -> None:
        """Write and close what has become due. To be called now and then also when no ticks come."""
        part, limits, now = self._part, self._limits, self._now()
        if part is None:
            return
        if part.waiting >= limits.group_ticks or _past(part.waiting_from, GROUP_US_MAX, now):
            with self._writing(part.path):
                part.flush()
        if part.tally.bytes >= limits.part_bytes or _past(part.opened, limits.part_us, now):
            self.close()

    def close(self) -> None:
        """Close the open part, if there is one."""
        part = self._part
        if part is None:
            return
        with self._writing(part.path):
            part.close(self._recording, self._number, self._feed)
        self._part = None
        self.closed.add(part.tally)
        log.info("closed %s: %d ticks, %.1f MB", part.whole.name, part.tally.ticks, part.tally.bytes / MB)

    @property
    def _number(self) -> int:
        """That of the part which is open, or will be."""
        return self._before + self.closed.parts + 1

    def _add(self, ticks: Ticks, epoch: str) -> None:
        now = self._now()
        if self._part is None:
            if not self.closed.parts and epoch in self._earlier:
                self._recording, self._before = self._earlier[epoch].recording, self._earlier[epoch].number
                log.info("%s: going on with the recording after part %d", self.folder, self._before)
            name = f"{_stamp(now)}-{self._recording}-{self._number:06d}"
            with self._writing(self.folder / f".{name}.open"):
                self._part = _Part(self.folder, name, self._symbols, epoch, now)
        self._part.add(ticks, now)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """What writing can raise, as one line; the open part is given up then."""
        try:
            yield
        except OSError as error:
            if self._part is not None:
                self._part.abandon()
                self._part = None
            state = f"what came since this part was begun is lost, closed parts are whole: {self.closed.parts}"
            raise RecordError(f"{path}: {error.strerror or error}; {state}") from None


class _Part:
    """The part that is being written. Every method may raise OSError."""

    def __init__(self, folder: Path, name: str, symbols: Symbols, epoch: str, now: int) -> None:
        self.path = folder / f".{name}.open"
        self.whole = folder / f"{name}.parquet"
        self.epoch = epoch
        self.opened = now
        self.tally = Tally(parts=1)
        #: Ticks not written yet, and since when.
        self.waiting = 0
        self.waiting_from: int | None = None
        self._waiting: list[Ticks] = []
        self._symbols = symbols
        self._since = NO_TIME
        self._positions: dict[str, tuple[int, int]] = {}
        self._file = _locked(self.path)
        self._writer = pq.ParquetWriter(self._file, parts.SCHEMA, **parts.PACKING)

    def add(self, ticks: Ticks, now: int) -> None:
        if self.waiting_from is None:
            self.waiting_from = now
        if not self.tally.ticks:
            self._since = ticks.since
        self.tally.ticks += len(ticks)
        self.tally.symbols.update(np.unique(ticks.row).tolist())
        self._waiting.append(ticks)
        self.waiting += len(ticks)

    def flush(self) -> None:
        """Write what waits, as one row group."""
        if not self._waiting:
            return
        table = parts.table(Ticks.concat(self._waiting), self._symbols)
        self._waiting, self.waiting, self.waiting_from = [], 0, None
        self._writer.write_table(table, row_group_size=len(table))
        self._file.flush()
        self.tally.bytes = self._file.tell()
        for label, (low, last) in parts.positions(table).items():
            lowest, _ = self._positions.get(label, (low, last))
            self._positions[label] = min(low, lowest), last

    def close(self, recording: str, number: int, feed: str) -> None:
        """Make the file whole and give it its name."""
        self.flush()
        since = None if self._since == NO_TIME else self._since
        footer = parts.Footer(recording, number, feed, self.epoch, since, self._positions)
        self._writer.add_key_value_metadata(footer.encode())
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self.tally.bytes = self._file.tell()
        self.path.rename(self.whole)
        self._file.close()  # not before it has its name: an open part without a lock is taken for a leftover
        _sync(self.whole.parent)

    def abandon(self) -> None:
        """Give the part up, and remove its file as far as that is possible."""
        self._writer.is_open = False  # else it would try to write its footer when it is collected
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self.path.unlink()


def _past(start: int | None, limit: int, now: int) -> bool:
    """Whether `limit` microseconds have gone since `start`; so it is too where the clock was set back."""
    return start is not None and not 0 <= now - start < limit


def _stamp(time_us: int) -> str:
    """A time as a part's name begins: names sort by it."""
    seconds, micros = divmod(time_us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%S") + f".{micros:06d}Z"


def _locked(path: Path) -> BinaryIO:
    """A new file, locked as long as it is open."""
    while True:
        file = path.open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another recorder took it for a leftover before it was locked


def _sync(folder: Path) -> None:
    """Have the names in `folder` on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """Remove open parts that no living recorder writes, and say what that means."""
    for path in sorted(folder.iterdir()):
        name = _OPEN_NAME.fullmatch(path.name)
        if name is None:
            continue
        try:
            size = _remove_unlocked(path)
        except (BlockingIOError, FileNotFoundError):
            continue  # a living recorder writes it, or has closed it just now
        except OSError as error:
            log.warning("%s: an open part, left as it is: %s", path, error.strerror)
            continue
        log.warning(
            "%s: the open part of an earlier run was never closed (%d bytes, now removed): its ticks since %s are lost, but for what the feed brings again",
            *(path, size, datetime.strptime(name["opened"], "%Y%m%dT%H%M%S.%f%z").isoformat()),
        )


def _remove_unlocked(path: Path) -> int:
    """Remove a file that nobody has locked; its size. Raises OSError, BlockingIOError where it is locked."""
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(file.fileno())
        if not os.path.samestat(found, path.stat()):
            raise FileNotFoundError(path)
        path.unlink()
        return found.st_size
