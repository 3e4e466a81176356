"""`ticker.replay`: recordings played in process, into columns; and the command of that name."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import ticker
from feeds.feed import FeedError
from tests.feeds.conftest import T0, quote, trade, write_csv
from tests.servers import environment, serving
from tests.test_replays import BINANCE6, SIM, day, replaying
from ticker.run import Run

SECOND = 1_000_000


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return day(tmp_path_factory.mktemp("run") / "day.csv", 4000)


def test_one_row_for_each_symbol_and_round(tmp_path: Path) -> None:
    rows = [
        quote(T0, "A", bid=1.5, ask=2),
        trade(T0 + 300_000, "A", price=2, size=3),
        trade(T0 + 400_000, "A", price=1.9, size=1),
        quote(T0 + 500_000, "B", bid=7, ask=8),
        quote(T0 + 1_200_000, "A", bid=1.6, ask=2),
    ]
    with ticker.replay(write_csv(tmp_path / "x.csv", rows), interval="1s", fields=["bid", "last", "trades"]) as run:
        table = run.to_arrow()
    whole = T0 - T0 % SECOND

    def at(us: int) -> datetime:
        return datetime.fromtimestamp(us / 1e6, UTC)

    rounds = sorted({T0 - T0 % SECOND + SECOND, T0 + 1_200_000 - (T0 + 1_200_000) % SECOND + SECOND})
    assert whole < rounds[0]
    got = [
        {name: row[name] for name in ("round", "symbol", "seq", "n", "bid", "last", "trades", "hi", "lo", "vol")}
        for row in table.to_pylist()
    ]
    names = ("round", "symbol", "seq", "n", "bid", "last", "trades", "hi", "lo", "vol")
    assert got == [
        dict(zip(names, (at(rounds[0]), "A", 3, 3, 1.5, 1.9, 2, 2.0, 1.9, 4.0), strict=True)),
        dict(zip(names, (at(rounds[0]), "B", 4, 1, 7.0, None, 0, None, None, None), strict=True)),
        dict(zip(names, (at(rounds[1]), "A", 5, 1, 1.6, 1.9, 2, None, None, None), strict=True)),
    ]


def test_a_loop_gets_every_update_and_their_counts_add_up(recording: Path) -> None:
    counted: dict[str, int] = {}
    with ticker.replay(recording, interval="250ms") as run:
        for update in run:
            counted[update.symbol] = counted.get(update.symbol, 0) + update.n  # type: ignore[operator]
            assert update.quote.n == counted[update.symbol]
    assert sum(counted.values()) == run.ticks == 4000


async def test_the_rows_are_what_a_client_of_a_replay_is_sent(recording: Path) -> None:
    sent: list[tuple[int, str, int, float | None]] = []
    with serving(SIM, flags=["--source", f"day={recording}"]) as server:
        async with replaying(server, speed="max") as replay:
            await replay.say("subscribe", symbols=["*"], interval_ms=250)
            await replay.say("play")
            await replay.until("replay_completed")
            last: dict[str, Any] = {}
            for raw in replay.items:
                message = json.loads(raw)
                for item in message["items"]:
                    last[item["symbol"]] = last.get(item["symbol"], {}) | item
                    sent.append((message["ts"], item["symbol"], item["seq"], last[item["symbol"]]["last"]))
    with ticker.replay(recording, interval=250) as run:
        played = [(update.ts, update.symbol, update.quote.seq, update.quote.last) for update in run]
    assert sorted(played) == sorted(sent)


@pytest.mark.skipif(not BINANCE6.exists(), reason="../shared/data is absent")
def test_a_real_recording_is_the_same_table_in_each_form() -> None:
    tables = []
    for form in ("parquet", "csv.gz", "ndjson.gz"):
        with ticker.replay(BINANCE6 / f"binance6_l1.{form}", interval="1s") as run:
            tables.append(run.to_arrow().to_pylist())
    assert tables[0] == tables[1] == tables[2]
    assert len(tables[0]) == 6 * 120, "six symbols, two minutes"
    assert sum(row["n"] for row in tables[0]) == 81_781


def test_a_part_of_the_day(recording: Path) -> None:
    start = datetime.fromtimestamp((T0 + SECOND) / 1e6, UTC)
    with ticker.replay(recording, start=start, end=T0 + 2 * SECOND, symbols="A,B", interval=0) as run:
        symbols, ticks = set(), 0
        for update in run:
            symbols.add(update.symbol)
            ticks += update.n or 0
            assert T0 + SECOND <= update.ts < T0 + 2 * SECOND
    assert symbols == {"A", "B"}
    assert ticks == run.ticks


def test_pandas_where_it_is_installed(recording: Path) -> None:
    pandas = pytest.importorskip("pandas")
    with ticker.replay(recording) as run:
        assert isinstance(run.to_pandas(), pandas.DataFrame)


def test_polars_where_it_is_installed(recording: Path) -> None:
    polars = pytest.importorskip("polars")
    with ticker.replay(recording) as run:
        assert isinstance(run.to_polars(), polars.DataFrame)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "speed 0": ({"speed": 0}, "speed: expected a number above 0, or 'max', was 0"),
    "NaN": ({"speed": float("nan")}, "speed: expected a number above 0, or 'max', was nan"),
    "interval": ({"interval": "3h"}, "interval: expected '250ms', '1s', or 0 to 60000 ms, was '3h'"),
    "field": ({"fields": ["bit"]}, "fields: expected one of bid, "),
    "no zone": ({"start": datetime(2024, 1, 1)}, "start: expected a datetime with a zone, was "),
    "no time": ({"end": "soon"}, "end: expected microseconds or ISO 8601, was 'soon'"),
    "end before start": ({"start": T0 + 5, "end": T0 + 5}, f"end: expected a time later than start ({T0 + 5}), was "),
}


@pytest.mark.parametrize("case", BAD)
def test_an_argument_that_makes_no_sense_is_told(recording: Path, case: str) -> None:
    arguments, text = BAD[case]
    with pytest.raises(ValueError, match="^" + text.replace("(", r"\(").replace(")", r"\)")):
        ticker.replay(recording, **arguments)


def test_a_run_has_to_be_entered(recording: Path) -> None:
    run: Run = ticker.replay(recording)
    with pytest.raises(RuntimeError, match="entered"):
        run.to_arrow()


def test_a_file_that_is_none() -> None:
    with pytest.raises(FeedError, match=r"^nope\.csv: No such file or directory$"):
        ticker.replay("nope.csv")


# -- the command ---------------------------------------------------------------------------------------------------


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ticker", "replay", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, env=environment(), check=False)


def test_into_a_pipe_it_writes_lines_of_json(recording: Path) -> None:
    done = command(recording, "--interval", "1s", "--symbols", "A", "--fields", "bid,last")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["symbol"] for row in rows} == {"A"}
    assert set(rows[0]) <= {"round", "symbol", "seq", "n", "ts", "bid", "last", "hi", "lo", "vol"}
    with ticker.replay(recording, symbols=["A"]) as run:
        assert [row["n"] for row in rows] == [update.n for update in run]


def test_into_a_file(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert command(recording, "--out", out).returncode == 0
    with ticker.replay(recording) as run:
        assert pq.read_table(out).to_pylist() == run.to_arrow().to_pylist()
    assert list(tmp_path.iterdir()) == [out]


def test_whoever_reads_may_stop(recording: Path) -> None:
    line = [sys.executable, "-m", "ticker", "replay", str(recording), "--interval", "0ms"]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "text", "code"),
    [
        (["--from", str(T0 + 10**12)], "the recording holds no tick of those asked for", 1),
        (["--symbols", "NONE"], "the recording holds no tick of those asked for", 1),
        (["--speed", "-1"], "Invalid value for '--speed': expected a number above 0, or max, was '-1'", 2),
        (["--interval", "x"], "interval: expected '250ms', '1s', or 0 to 60000 ms, was 'x'", 2),
    ],
)
def test_a_mistake_is_one_line(recording: Path, arguments: list[str], text: str, code: int) -> None:
    done = command(recording, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"ticker: {text}\n")
