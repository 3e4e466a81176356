"""`ticker replay`: recordings played to a terminal, as NDJSON into a pipe, or into a Parquet file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import orjson
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from feeds.feed import FeedError
from ticker.mirror import Update
from ticker.run import Run

#: Updates between two looks at how far the run is.
LOOK_UPDATES: Final = 200


def play(run: Run, out: Path | None, stdout: IO[str]) -> int:
    """Play `run` into the file `out`, else to `stdout`.

    Returns the exit code: 0, or 1 where the recording could not be read on, or held no tick of those asked for.
    """
    try:
        with run, _progress(run) as look:
            if out is not None:
                _to_file(run, out, look)
            else:
                _to_stream(run, stdout, look)
    except FeedError as failure:
        sys.stderr.write(f"ticker: {failure}\n")
        return 1
    except BrokenPipeError:  # whoever read has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        return 0
    if not run.ticks:
        sys.stderr.write("ticker: the recording holds no tick of those asked for\n")
        return 1
    if run.tally.unreadable or run.tally.displaced:
        sys.stderr.write(
            f"ticker: {run.tally.unreadable} rows could not be read, {run.tally.displaced} came too late for their place\n"
        )
    return 0


def _to_file(run: Run, out: Path, look: Callable[[], None]) -> None:
    """Write all rows; the file has its name once it is whole."""
    unfinished = out.with_name(out.name + ".unfinished")
    try:
        with pq.ParquetWriter(unfinished, run.schema, compression="zstd") as writer:
            for batch in run.batches():
                writer.write_batch(batch)
                look()
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)


def _to_stream(run: Run, stdout: IO[str], look: Callable[[], None]) -> None:
    line = _shown if stdout.isatty() else _json
    for number, update in enumerate(run):
        stdout.write(line(update))
        if not number % LOOK_UPDATES:
            look()
    stdout.flush()


def _json(update: Update) -> str:
    """An update as a line of JSON: the round's time, what the row is now, and what went into it."""
    quote = update.quote
    row: dict[str, Any] = {"round": update.ts, "symbol": update.symbol, "seq": quote.seq, "n": update.n, "ts": quote.ts}
    row |= update.change
    if update.hi is not None:
        row |= {"hi": update.hi, "lo": update.lo, "vol": update.vol}
    return orjson.dumps(row).decode() + "\n"


def _shown(update: Update) -> str:
    quote = update.quote
    prices = "  ".join(f"{name} {_number(getattr(quote, name)):>12}" for name in ("bid", "ask", "last"))
    return f"{_time(update.ts)}  {update.symbol:<28} {prices}  n {update.n}\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.12g}"


def _time(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


@contextmanager
def _progress(run: Run) -> Iterator[Callable[[], None]]:
    """A bar in replay time on stderr, where that is a terminal; gives what is to be called now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[ticks]:,} ticks"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        total = None if run.end is None else max(1, run.end - run.start)
        task = progress.add_task(_time(run.start), total=total, ticks=0)

        def look() -> None:
            done = max(0, run.position - run.start)
            progress.update(task, completed=done, ticks=run.ticks, description=_time(run.position))

        yield look
