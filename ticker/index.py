"""The index of a recording: its checkpoints in a file beside it, so that a replay can begin anywhere at once.

The file is in Arrow's IPC format, one batch of rows a checkpoint, and is read where it is needed only. It tells which
files it is of, by size and time of change: another recording has no use for it.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict
from glob import has_magic
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

from feeds.blocks import NEVER, Cursor, Mark
from feeds.log import Log
from feeds.ticks import Symbols
from ticker import bars
from ticker.checkpoints import Checkpoint
from ticker.journals import Journals
from ticker.playback import Playback, Timer
from ticker.protocol import BAR_INTERVALS
from ticker.quotes import LINES, Changes, QuoteTable, State
from ticker.settings import Settings, session_start_us

VERSION: Final = 2
_ABOUT: Final = b"ticker.index"
_COUNTS: Final = 5
_NEWEST: Final = 2
SCHEMA: Final = pa.schema(
    [
        ("symbol", pa.string()),
        *((f"count_{line}", pa.int64()) for line in range(_COUNTS)),
        *((f"newest_{line}", pa.int64()) for line in range(_NEWEST)),
        *((f"value_{line}", pa.float64()) for line in range(LINES)),
        *((f"bars_{line}", pa.float64()) for line in range(bars.LINES * len(BAR_INTERVALS))),
    ]
)


def beside(path: str) -> Path | None:
    """Where the index of a recording lies: beside the file, or in the folder; None for a glob, which has no place."""
    whole = Path(path)
    if whole.is_dir():
        return whole / ".index"
    return None if has_magic(path) and not whole.exists() else whole.with_name(f".{whole.name}.index")


def _identity(files: Sequence[Path], settings: Settings) -> dict[str, Any]:
    """What an index is of."""
    found = [(file.name, file.stat()) for file in files]
    return {
        "version": VERSION,
        "session_start": settings.session_start,
        "bars_delay_ms": settings.bars_delay_ms,
        "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in found],
    }


class _Silence:
    """Nobody is sent rounds; see `ticker.playback.Rounds`."""

    timers: tuple[Timer, ...] = ()
    intervals: tuple[int, ...] = ()

    def fold(self, changes: Changes, ts: int | None = None) -> None: ...

    def flush(self, now: int) -> int | None: ...


def _unseen(_: int) -> None:
    pass


def build(files: Sequence[Path], out: Path, settings: Settings, look: Callable[[int], None] = _unseen) -> int:
    """Play `files` once and write their index to `out`; returns how many checkpoints it holds.

    `look` is told now and then how many rows have been read. Raises FeedError, OSError.
    """
    source, identity = Log(files), _identity(files, settings)
    symbols = Symbols()
    table = QuoteTable(symbols, session_start_us=session_start_us(settings.session_start))
    Journals(
        table, trades=1, bars=1, bars_delay_us=settings.bars_delay_ms * 1000
    )  # a checkpoint has the newest bars alone
    unfinished = out.with_name(out.name + ".unfinished")
    count = 0
    schema = SCHEMA.with_metadata({_ABOUT: json.dumps(identity)})
    try:
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_file(file, schema) as writer:

            def keep(checkpoint: Checkpoint) -> None:
                nonlocal count
                count += 1
                writer.write_batch(_batch(checkpoint), custom_metadata={_ABOUT: _about(checkpoint)})

            playback = Playback(
                table,
                _Silence(),
                part=symbols.part("replay"),
                start=source.first,
                end=NEVER,
                since=source.since,
                keep=keep,
            )
            playback.open(source.symbols.names)
            for block in source.blocks(source.start(source.first)):
                playback.offer(block)
                playback.absorb(block.last)
                look(block.rows)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def _about(checkpoint: Checkpoint) -> str:
    cursor = checkpoint.cursor
    return json.dumps(
        {"time": cursor.time, "marks": [asdict(mark) for mark in cursor.marks], "ticks": checkpoint.ticks}
    )


def _batch(checkpoint: Checkpoint) -> pa.RecordBatch:
    state = checkpoint.state
    columns = [pa.array(checkpoint.names, pa.string()), *map(pa.array, state.counts)]
    columns += map(pa.array, np.ascontiguousarray(state.newest.reshape(-1, _NEWEST).T))
    columns += map(pa.array, state.values)
    columns += [pa.array(line) for held in state.followed for line in held]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


class Index:
    """An index that has been opened. Checkpoints are read from its file when they are asked for."""

    def __init__(self, file: pa.NativeFile, reader: Any) -> None:
        self._file = file
        self._reader = reader
        abouts = [reader.get_batch_with_custom_metadata(i).custom_metadata for i in range(reader.num_record_batches)]
        self._abouts = [json.loads(about[_ABOUT]) for about in abouts]
        self._times = [about["time"] for about in self._abouts]

    @classmethod
    def open(cls, path: Path, files: Sequence[Path], settings: Settings) -> Self | None:
        """The index at `path`; None where there is none, or it is not of `files` as they are now."""
        try:
            file = pa.memory_map(str(path))
            reader = pa.ipc.open_file(file)
            identity = json.loads((reader.schema.metadata or {}).get(_ABOUT, b"null"))
        except (OSError, pa.ArrowInvalid, json.JSONDecodeError):
            return None
        return cls(file, reader) if identity == _identity(files, settings) else None

    def __len__(self) -> int:
        return len(self._times)

    def latest(self, time: int) -> Checkpoint | None:
        """The newest checkpoint at or before `time`."""
        at = bisect_right(self._times, time) - 1
        if at < 0:
            return None
        about, batch = self._abouts[at], self._reader.get_batch(at)
        columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns[1:]]
        newest = np.stack(columns[_COUNTS : _COUNTS + _NEWEST], axis=1).ravel()
        values = np.array(columns[_COUNTS + _NEWEST :])
        followed = values[LINES:LINES], values[LINES:]  # of the tape, nothing
        state = State(np.array(columns[:_COUNTS]), newest, values[:LINES], followed)
        cursor = Cursor(about["time"], tuple(Mark(**mark) for mark in about["marks"]))
        return Checkpoint(cursor, tuple(batch.column(0).to_pylist()), state, about["ticks"])
