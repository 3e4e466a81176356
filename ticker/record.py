"""`ticker record`: a feed into a folder of Parquet parts, until it ends or a signal comes."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from itertools import groupby
from operator import itemgetter
from typing import Final

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from feeds.feed import Feed, FeedError
from feeds.pacing import HandOver
from feeds.recorder import MB, Recorder, RecordError, Tally
from feeds.ticks import Ticks

#: Ticks are handed to the writing thread as soon as there are so many, or after so long.
HAND_TICKS_MAX: Final = 50_000
HAND_S_MAX: Final = 0.25
#: While so many wait for it, the feed does.
WAITING_TICKS_MAX: Final = 200_000
REFRESHES_PER_S: Final = 4

#: The epoch of a log, and ticks of it.
Batch = tuple[str, Ticks]


async def record(feed: Feed, recorder: Recorder) -> int:
    """Record `feed` to its end, or until SIGINT, SIGTERM or SIGHUP; the exit code: 1 where feed or recorder failed.

    A failure is one line on stderr, what was recorded is one on stdout. However it ends, all that was read is in closed
    parts, but for what a recorder that fails says to be lost.
    """
    failure: Exception | None = None
    waiting = HandOver[Batch](HAND_TICKS_MAX, WAITING_TICKS_MAX)
    reading = asyncio.create_task(_read(feed, waiting))
    reading.add_done_callback(lambda _: waiting.end())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, reading.cancel)
    try:
        with _progress_shown(recorder):
            await _write(reading, waiting, recorder)
        await reading
    except (FeedError, RecordError) as error:
        failure = error
        click.echo(f"ticker: {error}", err=True)
    except asyncio.CancelledError:
        if not reading.cancelled():
            raise
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    click.echo(summary(recorder))
    return 1 if failure else 0


def summary(recorder: Recorder) -> str:
    """What was recorded, in a line."""
    closed = recorder.closed
    parts = f"{closed.parts} part{'s' * (closed.parts != 1)}"
    return (
        f"recorded {closed.ticks} ticks of {len(closed.symbols)} symbols in {parts}, "
        f"{closed.bytes / MB:.1f} MB, to {recorder.folder}"
    )


def progress(closed: Tally, part: Tally) -> str:
    """How far it is, in a line."""
    return (
        f"{closed.ticks + part.ticks:,} ticks of {len(closed.symbols | part.symbols):,} symbols   "
        f"part {closed.parts + part.parts}: {part.bytes / MB:.1f} MB   all: {(closed.bytes + part.bytes) / MB:.1f} MB"
    )


async def _read(feed: Feed, waiting: HandOver[Batch]) -> None:
    async with aclosing(feed.__aiter__()) as items:
        async for item in items:
            if isinstance(item, Ticks):  # a feed may tell other things too
                await waiting.put((feed.epoch, item), len(item))


async def _write(reading: asyncio.Task[None], waiting: HandOver[Batch], recorder: Recorder) -> None:
    """Write, in a thread, what is read, until the reading has ended; close the last part then."""
    ended = False
    while not ended:
        await waiting.wait(HAND_S_MAX)
        ended = reading.done()
        await asyncio.to_thread(_hand_over, recorder, waiting.take())
    await asyncio.to_thread(recorder.close)


def _hand_over(recorder: Recorder, batches: Sequence[Batch]) -> None:
    for epoch, some in groupby(batches, key=itemgetter(0)):
        recorder.write(Ticks.concat([ticks for _, ticks in some]), epoch)
    recorder.tend()


@contextmanager
def _progress_shown(recorder: Recorder) -> Iterator[None]:
    """On a terminal, keep a line that says how far it is; what is logged goes above it."""
    if not sys.stderr.isatty():
        yield
        return

    def line() -> Text:
        return Text(progress(recorder.closed, recorder.open), no_wrap=True, overflow="ellipsis")

    console = Console(stderr=True)
    with Live(get_renderable=line, console=console, refresh_per_second=REFRESHES_PER_S, redirect_stdout=False):
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(sys.stderr)  # which is the console by now
        yield
