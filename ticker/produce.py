"""`ticker produce`: a feed, mostly a replay, into a Kafka topic, until it ends or a signal comes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from feeds.blocks import NEVER
from feeds.clock import Clock
from feeds.decode import any_key
from feeds.feed import Feed, FeedError
from feeds.kafka.cluster import Missing, Unavailable
from feeds.kafka.producer import Producer, ProducerError, Target
from feeds.pacing import HandOver
from feeds.replay import Replay, Settings, find_files, matcher
from feeds.spec import SCHEMES
from feeds.ticks import NO_TIME, Symbols, Ticks

log: Final = logging.getLogger(__name__)

#: Ticks are handed over as soon as there are so many, or after so long.
HAND_TICKS_MAX: Final = 10_000
HAND_S_MAX: Final = 0.01
#: While so many wait for it, the feed does.
WAITING_TICKS_MAX: Final = 40_000
#: How often a log is told how far it is.
SAY_S: Final = 10.0
#: Signals closer than this are one: some shells send it to the group and to the process.
SIGNAL_S_MIN: Final = 0.3
INTERRUPTED: Final = 128 + signal.SIGINT


@dataclass(frozen=True, slots=True)
class Creation:
    """How to create the topic where it is not there."""

    partitions: int
    replicas: int


@dataclass(slots=True)
class Tally:
    """What has been taken from the feed so far, and how much of it is in the topic."""

    ticks: int = 0
    acknowledged: int = 0
    #: Rows in `Symbols`.
    symbols: set[int] = field(default_factory=set)
    #: The recorded time of the newest tick.
    at: int = NO_TIME
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None

    @property
    def spent_s(self) -> float:
        """How long it took, or has taken so far."""
        return max((time.monotonic() if self.ended is None else self.ended) - self.began, 1e-6)

    def add(self, ticks: Ticks) -> None:
        self.ticks += len(ticks)
        self.symbols.update(np.unique(ticks.row).tolist())
        self.at = int(ticks.ts_log[-1])


def is_spec(file: str) -> bool:
    """Whether what was given for a file is a feed's spec."""
    scheme, colon, _ = file.partition(":")
    return bool(colon) and scheme in SCHEMES


def open_files(
    files: Sequence[str],
    symbols: Symbols,
    clock: Clock,
    *,
    speed: float | None,
    loop: bool,
    start: int | None,
    end: int | None,
    patterns: str | None,
    renamed: Mapping[str, str] | None,
) -> Feed:
    """The files, globs and folders of recordings as one log, merged by time.

    `speed` is a multiple of real time, None for unpaced; `start` and `end` (microseconds) and `patterns` (keys or shell
    patterns, with commas between) leave out what lies outside, None nothing. Raises FeedError.
    """
    settings = Settings(
        speed,
        loop,
        any_key if patterns is None else matcher(patterns),
        NO_TIME if start is None else start,
        NEVER if end is None else end,
        renamed or {},
    )
    if settings.start_us >= settings.end_us:
        raise FeedError("end: expected a time later than start")
    paths = dict.fromkeys(path for file in files for path in find_files(file))
    return Replay(list(paths), settings, symbols, name="replay", clock=clock)


async def produce(
    feed: Feed,
    symbols: Symbols,
    target: Target,
    *,
    creation: Creation | None = None,
    count: int | None = None,
    compression: str = "zstd",
    patience_s: float = 30.0,
) -> int:
    """Produce `feed` to its end, to `count` ticks, or until SIGINT, SIGTERM or SIGHUP; the exit code.

    0: all that was taken from the feed is in the topic, as the broker says. 1: it is not, or the feed failed. 2: there is
    no such topic, and no `creation` of one. 130: SIGINT came; all that was taken until then is in the topic.

    A failure is one line on stderr, what was produced is one on stdout. A second signal ends the process at once.
    """
    try:
        partitions = await _partitions(target, creation)
        before = await target.ends(partitions)
    except (Unavailable, ProducerError, FeedError) as error:
        hint = " (--create makes it)" if isinstance(error, Missing) else ""
        click.echo(f"ticker: {error}{hint}", err=True)
        return 2 if isinstance(error, Missing) else 1

    tally = Tally()
    waiting = HandOver[Ticks](HAND_TICKS_MAX, WAITING_TICKS_MAX)
    reading = asyncio.create_task(_read(feed, waiting, count))
    reading.add_done_callback(lambda _: waiting.end())
    stop = _Stop(reading)
    failure: Exception | None = None
    grown = None
    try:
        async with Producer(target, partitions, symbols, compression=compression, patience_s=patience_s) as producer:
            with _progress_shown(tally, count) as show:
                await _write(reading, waiting, producer, tally, show)
        grown = int((await target.ends(partitions) - before).sum())
        if not reading.cancelled():
            await reading
    except (FeedError, ProducerError) as error:
        failure = error
        click.echo(f"ticker: {error}", err=True)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    where = f"{target.topic} ({partitions} partition{'s' * (partitions != 1)})"
    click.echo(summary(tally, where, grown))
    if grown is not None and grown < tally.acknowledged:
        click.echo(
            f"ticker: topic {target.topic}: acknowledged {tally.acknowledged} records, has {grown} new", err=True
        )
        return 1
    return 1 if failure else stop.code


def summary(tally: Tally, where: str, grown: int | None) -> str:
    """What was produced, in a line; `grown` is how many new records the broker has, None where it was not asked."""
    done, spent_s = tally.acknowledged, tally.spent_s
    parts = [
        f"produced {done} ticks of {len(tally.symbols)} symbols to {where} in {spent_s:.1f} s, {done / spent_s:,.0f}/s"
    ]
    if tally.ticks > done:
        parts.append(f"{tally.ticks - done} more were not acknowledged, and may be there or not")
    if grown is not None:
        others = ", of which others wrote some" if grown > done else ""
        parts.append(f"the broker has {grown} new records{others}")
    return "; ".join(parts)


def progress(tally: Tally) -> str:
    """How far it is, in a line."""
    at = ""
    if tally.at != NO_TIME:
        at = f"   at {datetime.fromtimestamp(tally.at // 1_000_000, UTC):%Y-%m-%d %H:%M:%S}"
    return f"{tally.acknowledged:,} ticks   {tally.acknowledged / tally.spent_s:,.0f}/s{at}"


async def _partitions(target: Target, creation: Creation | None) -> int:
    """How many the topic has, once it is there."""
    try:
        return await target.partitions()
    except Missing:
        if creation is None:
            raise
    await target.create(creation.partitions, creation.replicas)
    log.info("created topic %s", target.topic)
    return await target.partitions()


class _Stop:
    """Ends the reading at a signal, and the process at a second one."""

    def __init__(self, reading: asyncio.Task[None]) -> None:
        #: What the process shall exit with.
        self.code = 0
        self._reading = reading
        self._told: float | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._stop, number)

    def _stop(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self._told is None:
            self._told = now
            self.code = INTERRUPTED if number == signal.SIGINT else 0
            self._reading.cancel()
        elif now - self._told > SIGNAL_S_MIN:
            os._exit(128 + number)


async def _read(feed: Feed, waiting: HandOver[Ticks], count: int | None) -> None:
    left = sys.maxsize if count is None else count
    items: Any = aiter(feed)
    async with aclosing(items):
        async for item in items:
            if isinstance(item, Ticks) and len(item):  # a feed may tell other things too
                await waiting.put(item[:left], len(item))
                left -= len(item)
                if left <= 0:
                    return


async def _write(
    reading: asyncio.Task[None], waiting: HandOver[Ticks], producer: Producer, tally: Tally, show: Callable[[], None]
) -> None:
    """Send what is read until the reading has ended, and see to it that all of it is acknowledged."""
    ended = False
    try:
        while not ended:
            await waiting.wait(HAND_S_MAX)
            ended = reading.done()
            await producer.check()
            if batches := waiting.take():
                ticks = Ticks.concat(batches)
                tally.add(ticks)
                await producer.send(ticks)
            tally.acknowledged = producer.acknowledged
            show()
        await producer.flush()
    finally:
        tally.acknowledged = producer.acknowledged
        tally.ended = time.monotonic()


@contextmanager
def _progress_shown(tally: Tally, count: int | None) -> Iterator[Callable[[], None]]:
    """Gives what to call now and then: it moves a bar on a terminal, and elsewhere tells the log."""
    if not sys.stderr.isatty():
        yield _Teller(tally).tell
        return
    console = Console(stderr=True)
    with Progress(BarColumn(), TextColumn("{task.description}"), console=console, redirect_stdout=False) as bar:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(sys.stderr)  # which is the console by now
        task = bar.add_task(progress(tally), total=count)
        yield lambda: bar.update(task, completed=tally.acknowledged, description=progress(tally))


class _Teller:
    """Tells the log from time to time how far it is."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._said = time.monotonic()

    def tell(self) -> None:
        now = time.monotonic()
        if now - self._said >= SAY_S:
            self._said = now
            log.info("%s", progress(self._tally))
