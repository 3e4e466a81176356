"""`ticker record` as its operator meets it: a process with signals, an exit code, and a folder of files."""

from __future__ import annotations

import asyncio
import gzip
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from feeds.recorder import Limits, Recorder, Tally
from feeds.ticks import Ticks
from tests.feeds.test_recorder import closed, footers, opened, quotes, symbols_of
from tests.servers import START_S_MAX, STOP_S_MAX, environment
from ticker.record import WAITING_TICKS_MAX, progress, record

T0 = 1_700_000_000_000_000
SIM = "sim:?symbols=20&rate=5000&seed=1"
SUMMARY = re.compile(r"recorded (\d+) ticks of (\d+) symbols in (\d+) parts?, (\d+\.\d) MB, to (.+)\n")


def command(feed: str, folder: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "ticker", "record", "--feed", feed, "--out", str(folder), *flags]


@contextmanager
def recording(feed: str, folder: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """A running `ticker record`, which is killed at the end if it still runs."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command(feed, folder, *flags), stdout=pipe, stderr=pipe, text=True, env=environment()
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ran(feed: str, folder: Path, *flags: str, limit_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """A `ticker record` that ends by itself. No file may grow past `limit_bytes`."""
    arguments = command(feed, folder, *flags)
    if limit_bytes is not None:
        limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes}))"
        code = f"import resource, sys; {limit}; from ticker.cli import main; main()"
        arguments = [sys.executable, "-c", code, *arguments[3:]]
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=START_S_MAX, env=environment(), check=False
    )


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + START_S_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def positions(folder: Path) -> list[int]:
    return [seq for path in closed(folder) for seq in pq.read_table(path)["seq"].to_pylist()]


# -- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_the_open_part_and_nothing_is_lost(tmp_path: Path, number: signal.Signals) -> None:
    with recording(SIM, tmp_path, "--part-s", "0.3") as process:
        until(lambda: len(closed(tmp_path)) >= 2 and opened(tmp_path))
        process.send_signal(number)
        out, err = process.communicate(timeout=STOP_S_MAX)
    assert process.returncode == 0
    assert not opened(tmp_path)
    said = SUMMARY.fullmatch(out)
    assert said
    seqs = positions(tmp_path)
    assert seqs == list(range(1, int(said[1]) + 1))
    assert (int(said[2]), int(said[3]), said[5]) == (20, len(closed(tmp_path)), str(tmp_path))
    assert [footer.number for footer in footers(tmp_path)] == list(range(1, int(said[3]) + 1))
    assert [line.partition(": closed ")[2].partition(":")[0] for line in err.splitlines()] == [
        path.name for path in closed(tmp_path)
    ]


def test_kill_9_loses_the_open_part_alone_and_the_next_run_says_so(tmp_path: Path) -> None:
    with recording(SIM, tmp_path, "--part-s", "1") as process:
        until(lambda: len(closed(tmp_path)) >= 2)
        until(lambda: opened(tmp_path))  # which has just begun
        process.kill()
        process.communicate()
    seqs = positions(tmp_path)
    assert seqs == list(range(1, len(seqs) + 1))
    [left] = opened(tmp_path)
    whole = {path: path.read_bytes() for path in closed(tmp_path)}
    again = tmp_path / "again"
    again.mkdir()
    csv = again / "one.csv"
    csv.write_text(f"symbol,ts_recv,price\nA,{T0},1\n")
    result = ran(f"replay:{csv}?speed=max", tmp_path)
    assert result.returncode == 0
    lost = [line for line in result.stderr.splitlines() if "WARNING" in line]
    assert len(lost) == 1
    assert f"{left}: the open part of an earlier run was never closed" in lost[0]
    assert not opened(tmp_path)
    assert len(closed(tmp_path)) == len(whole) + 1
    assert all(path.read_bytes() == content for path, content in whole.items())


# -- what goes wrong -----------------------------------------------------------------------------------------------


def test_a_file_that_may_not_grow_is_one_line_and_closed_parts_stay(tmp_path: Path) -> None:
    csv = tmp_path / "x.csv"
    noise = np.random.default_rng(1).random((75_000, 4)).tolist()
    with csv.open("w") as file:  # what a row group of the last ones takes is more than a file may
        file.write("symbol,ts_recv,price,bid,bid_size,ask,ask_size\n")
        file.writelines(f"A,{T0},{row[0]},,,,\n" for row in noise[:50_000])
        file.writelines(f"A,{T0},,{bid},{size},{ask},{more}\n" for bid, size, ask, more in noise[50_000:])
    out = tmp_path / "out"
    flags = ("--part-mb", "0.2", "--log-level", "warning")
    result = ran(f"replay:{csv}?speed=max", out, *flags, limit_bytes=300_000)
    assert result.returncode == 1
    said = re.fullmatch(rf"ticker: {out}/\.\S+\.open: File too large; what came .*: (\d+)\n", result.stderr)
    assert said
    assert len(closed(out)) == int(said[1]) >= 1
    assert not opened(out)
    seqs = positions(out)
    assert seqs == list(range(1, len(seqs) + 1))
    assert result.stdout.startswith(f"recorded {len(seqs)} ticks of 1 symbols in {said[1]} part")


def test_a_feed_that_fails_is_one_line_and_what_it_brought_is_kept(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(1, 10**9, 60_000).tolist()
    rows = "".join(f"A,{T0 + at},{price}\n" for at, price in enumerate(noise))
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(f"symbol,ts_recv,price\n{rows}".encode())[:-1000])
    result = ran(f"replay:{path}?speed=max", tmp_path / "out", "--log-level", "warning")
    assert result.returncode == 1
    assert result.stderr == f"ticker: {path}: Truncated compressed stream\n"
    seqs = positions(tmp_path / "out")
    assert len(seqs) > 10_000
    assert result.stdout.startswith(f"recorded {len(seqs)} ticks of 1 symbols in 1 part, ")


@pytest.mark.parametrize(
    ("feed", "out", "said"),
    [
        ("what:", "out", r"ticker: feed 'what:': expected one of .*\n"),
        (SIM, "a file/x", r"ticker: \S+/a file/x: cannot record there: Not a directory\n"),
        (SIM, "a file", r"ticker: Invalid value for '--out': Directory '.*/a file' is a file\.\n"),
    ],
)
def test_a_mistake_of_the_caller_s_is_one_line(tmp_path: Path, feed: str, out: str, said: str) -> None:
    (tmp_path / "a file").touch()
    result = ran(feed, tmp_path / out)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(said, result.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_somebody_else_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    result = ran(SIM, tmp_path)
    assert (result.returncode, result.stderr) == (2, f"ticker: {tmp_path}: cannot record there: Permission denied\n")


# -- a terminal ----------------------------------------------------------------------------------------------------


def test_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    shown = bytearray()

    def look() -> None:
        while True:
            try:
                shown.extend(os.read(ours, 4096))
            except OSError:  # the other end has closed
                return

    with subprocess.Popen(
        command(SIM, tmp_path), stdout=subprocess.PIPE, stderr=theirs, env=environment(TERM="xterm", COLUMNS="100")
    ) as process:
        os.close(theirs)
        looking = threading.Thread(target=look)
        looking.start()
        try:
            until(lambda: re.search(rb"[1-9][0-9,]* ticks of 20 symbols   part 1: ", shown))
            process.terminate()
            assert SUMMARY.fullmatch(process.communicate(timeout=STOP_S_MAX)[0].decode())
        finally:
            process.kill()
            looking.join()
            os.close(ours)


def test_the_line_of_progress() -> None:
    whole = Tally(parts=2, ticks=1_000_000, bytes=12_340_000, symbols={1, 2, 3})
    part = Tally(parts=1, ticks=2345, bytes=60_000, symbols={3, 4})
    assert progress(whole, part) == "1,002,345 ticks of 4 symbols   part 3: 0.1 MB   all: 12.4 MB"


# -- inside --------------------------------------------------------------------------------------------------------


class HandFeed:
    """A feed that brings what it is given, each thing under its epoch, until its end."""

    name = "hand"
    closed = True
    trouble = None
    warm = True
    stats: Any = None

    def __init__(self, items: Sequence[tuple[str, Any]]) -> None:
        self.epoch = ""
        self.brought = 0
        self._items = items

    async def __aiter__(self) -> AsyncGenerator[Any]:
        for epoch, item in self._items:
            self.epoch = epoch
            self.brought += len(item) if isinstance(item, Ticks) else 0
            yield item


async def test_a_log_made_anew_begins_a_part_and_other_news_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [("k-1", quotes(T0)), ("k-1", quotes(T0 + 1)), ("k-2", object()), ("k-2", quotes(T0 + 2)), ("k-2", None)]
    feed: Any = HandFeed(items)
    recorder = Recorder(tmp_path, symbols_of("hand"), feed.name, Limits(), lambda: T0)
    assert await record(feed, recorder) == 0
    assert [footer.epoch for footer in footers(tmp_path)] == ["k-1", "k-2"]
    assert [pq.read_metadata(path).num_rows for path in closed(tmp_path)] == [2, 1]
    assert capsys.readouterr().out == f"recorded 3 ticks of 1 symbols in 2 parts, 0.0 MB, to {tmp_path}\n"


async def test_a_feed_that_breaks_crashes_when_its_ticks_are_safe(tmp_path: Path) -> None:
    class Broken(HandFeed):
        async def __aiter__(self) -> AsyncGenerator[Any]:
            yield quotes(T0)
            raise ZeroDivisionError

    feed: Any = Broken([])
    recorder = Recorder(tmp_path, symbols_of("hand"), feed.name, Limits(), lambda: T0)
    with pytest.raises(ZeroDivisionError):
        await record(feed, recorder)
    assert len(closed(tmp_path)) == 1


async def test_a_slow_disk_makes_the_feed_wait() -> None:
    batch = quotes(*range(T0, T0 + 10_000))
    feed: Any = HandFeed([("k-1", batch)] * 100)
    go, wrote = threading.Event(), 0

    def write(ticks: Ticks, _: str) -> None:
        nonlocal wrote
        assert go.wait(START_S_MAX)
        wrote += len(ticks)

    recorder: Any = SimpleNamespace(
        write=write, tend=bool, close=bool, closed=Tally(), open=Tally(), folder=Path("folder")
    )
    running = asyncio.create_task(record(feed, recorder))
    before = -1
    while feed.brought > before or feed.brought < WAITING_TICKS_MAX:  # goes on for as long as the feed does
        before = feed.brought
        await asyncio.sleep(0.02)
    assert feed.brought <= 2 * WAITING_TICKS_MAX + len(batch)
    go.set()
    assert await running == 0
    assert wrote == 1_000_000
