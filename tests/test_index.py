"""An index: what is read from it is what playing gives, and no other recording's is ever used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from feeds import log as logs
from feeds.blocks import NEVER
from feeds.log import Log
from feeds.ticks import Symbols
from tests.servers import environment, serving
from tests.test_replays import SIM, day, replaying, run
from ticker.checkpoints import Checkpoint
from ticker.index import Index, _Silence, beside, build
from ticker.journals import Journals
from ticker.playback import Playback
from ticker.quotes import QuoteTable
from ticker.settings import Settings


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "BLOCK_ROWS", 256)
    monkeypatch.setattr(logs, "CURSOR_ROWS", 1024)


def played(path: Path) -> list[Checkpoint]:
    """The checkpoints of a straight run."""
    source, symbols = Log([path]), Symbols()
    kept: list[Checkpoint] = []
    table = QuoteTable(symbols)
    Journals(table, trades=10, bars=10, bars_delay_us=1_000_000)
    playback = Playback(
        table,
        _Silence(),
        part=symbols.part("replay"),
        start=source.first,
        end=NEVER,
        since=source.since,
        keep=kept.append,
    )
    playback.open(source.symbols.names)
    for block in source.blocks(source.start(source.first)):
        playback.offer(block)
        playback.absorb(block.last)
    return kept


@pytest.mark.usefixtures("small")
def test_what_is_read_back_is_what_was_played(tmp_path: Path) -> None:
    path = day(tmp_path / "day.csv", 6000)
    out = beside(str(path))
    assert out == tmp_path / ".day.csv.index"
    seen: list[int] = []
    count = build([path], out, Settings(), seen.append)
    expected = played(path)
    assert count == len(expected) == 5
    assert seen[-1] == 6000
    index = Index.open(out, [path], Settings())
    assert index is not None
    assert len(index) == count
    assert index.latest(expected[0].time - 1) is None
    for checkpoint in expected:
        found = index.latest(checkpoint.time + 1)
        assert found is not None
        assert (found.cursor, found.names, found.ticks) == (checkpoint.cursor, checkpoint.names, checkpoint.ticks)
        assert np.array_equal(found.state.counts, checkpoint.state.counts)
        assert np.array_equal(found.state.newest, checkpoint.state.newest)
        assert np.array_equal(found.state.values, checkpoint.state.values, equal_nan=True)
        for held, followed in zip(found.state.followed, checkpoint.state.followed, strict=True):
            assert np.array_equal(held, followed, equal_nan=True)


@pytest.mark.usefixtures("small")
def test_an_index_of_anything_else_is_none(tmp_path: Path) -> None:
    path = day(tmp_path / "day.csv", 3000)
    out = tmp_path / ".day.csv.index"
    assert Index.open(out, [path], Settings()) is None
    build([path], out, Settings())
    assert Index.open(out, [path], Settings(session_start="22:00")) is None
    assert Index.open(out, [path], Settings(bars_delay_ms=5)) is None
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) // 2])
    assert Index.open(out, [path], Settings()) is None
    out.write_bytes(b"not an index")
    assert Index.open(out, [path], Settings()) is None
    out.write_bytes(whole)
    assert Index.open(out, [path], Settings()) is not None
    os.utime(path, (1, 1))
    assert Index.open(out, [path], Settings()) is None


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ticker", "index", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, env=environment(), check=False)


async def test_a_replay_of_an_indexed_recording_gives_the_same_bytes(tmp_path: Path) -> None:
    path = day(tmp_path / "day.csv", 600_000)
    start = 0
    flags = ["--source", f"day={path}"]
    with serving(SIM, flags=flags) as server:
        async with replaying(server) as replay:
            start = replay.welcome["from"]
            await replay.say("subscribe", symbols=["*"], interval_ms=250)
            await replay.control("seek", ts=start + 2_900_000_000)
            await replay.control("step", rounds=5)
            plain = replay.items
    done = command(path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path}/.day.csv.index: 2 checkpoints\n", "")
    with serving(SIM, flags=flags) as server:
        async with replaying(server) as replay:
            await replay.say("subscribe", symbols=["*"], interval_ms=250)
            await replay.control("seek", ts=start + 2_900_000_000)
            await replay.control("step", rounds=5)
            assert replay.items == plain
            assert len(plain) == 6
    path.write_text(path.read_text() + "\n")
    with serving(SIM, flags=flags) as server:
        await run(server, "max", to=start + 1_000_000_000)
    assert any("not of this recording as it is now" in line for line in server.log)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nope.csv"], "nope.csv: No such file or directory"),
        (["--session-start", "9", "x.csv"], "session_start: expected a time of day such as 00:00 or 22:30, was '9'"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], text: str) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"ticker: {text}\n")
