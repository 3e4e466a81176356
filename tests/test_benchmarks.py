"""The arithmetic of the figures, the form of what is printed and written, and a smoke of what needs no server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import benchmarks.__main__ as command
from benchmarks import fanout, figures, ingest, processes, rounds, serve
from benchmarks.figures import Benchmark, Figure, Row, Scale, at_least, at_most, markdown, shown, table
from benchmarks.processes import MeterError, lacking

SPEED = Figure("speed", "items/s", at_least(100))
DELAY = Figure("delay", "ms", at_most(5))
SHARE = Figure("share", "")


# -- figures ---------------------------------------------------------------------------------------------------------


def test_a_value_is_the_median_of_its_runs() -> None:
    assert Row(SPEED, (90.0, 300.0, 110.0)).value == 110
    assert Row(SPEED, (90.0, 110.0)).value == 100


def test_the_spread_is_the_range_as_a_part_of_the_median() -> None:
    assert Row(SPEED, (90.0, 120.0, 100.0)).spread == pytest.approx(0.3)
    assert Row(SPEED, (100.0,)).spread == 0
    assert Row(SPEED, (0.0, 0.0)).spread == 0


def test_a_target_is_met_from_its_bound_on() -> None:
    assert Row(SPEED, (100.0,)).met is True
    assert Row(SPEED, (99.9,)).met is False
    assert Row(DELAY, (5.0,)).met is True
    assert Row(DELAY, (5.1,)).met is False
    assert Row(SHARE, (0.5,)).met is None


def test_one_bad_run_of_three_does_not_miss_a_target() -> None:
    assert Row(SPEED, (150.0, 10.0, 140.0)).met is True


def test_a_run_brings_a_number_for_each_figure_and_no_other() -> None:
    found = figures.rows((SPEED, SHARE), [{"speed": 1.0, "share": 2.0}, {"speed": 3.0, "share": 4.0}])
    assert [row.runs for row in found] == [(1.0, 3.0), (2.0, 4.0)]
    with pytest.raises(ValueError, match="share"):
        figures.rows((SPEED, SHARE), [{"speed": 1.0}])
    with pytest.raises(ValueError, match="speeed"):
        figures.rows((SPEED,), [{"speed": 1.0, "speeed": 1.0}])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.5141, "0.514"),
        (31.24, "31.2"),
        (999.6, "1,000"),
        (1_482_345.0, "1,480,000"),
        (0.004912, "0.00491"),
    ],
)
def test_numbers_are_shown_with_three_digits(value: float, text: str) -> None:
    assert shown(value) == text


def test_the_table_has_a_line_for_each_row() -> None:
    lines = table([Row(SPEED, (90.0, 120.0, 100.0)), Row(DELAY, (7.0,)), Row(SHARE, (0.5,))]).splitlines()
    assert lines[0].split() == ["figure", "value", "unit", "target", "met", "spread"]
    assert lines[2].split() == ["speed", "100", "items/s", ">=", "100", "yes", "30%"]
    assert lines[3].split() == ["delay", "7.00", "ms", "<=", "5.00", "NO"]
    assert lines[4].split() == ["share", "0.500"]


def test_the_same_table_can_be_had_as_markdown() -> None:
    lines = markdown([Row(SPEED, (90.0, 120.0, 100.0)), Row(SHARE, (0.5,))]).splitlines()
    assert lines[0] == "| figure | value | unit | target | met | spread |"
    assert lines[2] == "| speed | 100 | items/s | >= 100 | yes | 30% |"
    assert lines[3] == "| share | 0.500 |  |  |  |  |"


def test_a_row_as_json_says_all_that_the_table_says() -> None:
    assert Row(DELAY, (4.0, 6.0, 5.0)).json() == {
        "name": "delay",
        "value": 5.0,
        "unit": "ms",
        "target": "<= 5.00",
        "met": True,
        "spread": 0.4,
        "runs": [4.0, 6.0, 5.0],
    }


# -- what the meter says ---------------------------------------------------------------------------------------------


def metered(**more: object) -> dict[str, object]:
    none = {"frames": 0, "items": 0, "bytes": 0}
    kinds = ("other", "update", "snapshot", "slow", "heartbeat", "bare")
    numbers = ("connections", "connect_s", "closed", "closed_before", "skipped", "rss_idle", "rss")
    return {**dict.fromkeys(kinds, none), **dict.fromkeys(numbers, 0), "seconds": 2.0, "cpu_s": 0.5, **more}


def test_items_are_those_of_updates_heartbeats_and_snapshots_left_out() -> None:
    payload = 10 * processes.AROUND_BYTES + 200 * 110
    reading = processes.reading(
        metered(
            update={"frames": 10, "items": 200, "bytes": payload},
            heartbeat={"frames": 7, "items": 0, "bytes": 700},
            snapshot={"frames": 1, "items": 20, "bytes": 4000},
        )
    )
    assert (reading.items, reading.frames, reading.item_bytes) == (200, 10, 110)
    assert reading.items_per_s == 100
    assert reading.items_per_cpu_s == 400
    assert reading.core_share == 0.25


def test_a_message_without_a_type_is_one_item() -> None:
    reading = processes.reading(metered(bare={"frames": 50, "items": 50, "bytes": 5000}))
    assert (reading.items, reading.item_bytes) == (50, 100)


def test_memory_per_client_is_what_came_on_top_of_an_idle_server() -> None:
    assert processes.reading(metered(rss_idle=90_000_000, rss=150_000_000)).rss_per(2000) == 30_000


def test_a_closed_connection_makes_a_fan_out_worth_nothing() -> None:
    reading = processes.reading(metered(closed=2, closed_before=1))
    assert reading.closed == 3
    with pytest.raises(MeterError, match="3 were closed"):
        fanout._whole("own lists", reading)


# -- the loads -------------------------------------------------------------------------------------------------------


def test_each_client_chooses_its_own_symbols_or_all_have_one_list() -> None:
    def lists(*, own: bool) -> list[tuple[str, ...]]:
        return [tuple(json.loads(text)["symbols"]) for text in fanout.subscriptions(50, own=own)]

    assert len(set(lists(own=True))) == 50
    assert all(len(set(symbols)) == fanout.WATCHED for symbols in lists(own=True))
    assert len(set(lists(own=False))) == 1
    assert lists(own=True) == lists(own=True)


def test_every_turn_of_the_even_load_moves_each_field_of_each_symbol() -> None:
    rows = np.arange(500)
    first, second = serve.quotes(rows, 0, 0, 7), serve.quotes(rows, 500, 1, 8)
    assert first.seq.tolist() == list(range(1, 501))
    assert second.seq.tolist() == list(range(501, 1001))
    for field in ("bid", "ask", "bid_size"):
        assert (getattr(first, field) != getattr(second, field)).all()
    assert (first.bid < first.ask).all()


@pytest.mark.parametrize("name", ["Parquet", "CSV", "NDJSON"])
def test_a_recording_holds_the_ticks_that_it_was_made_of(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"day.{name.lower()}"
    ingest.WRITERS[name](ingest.recorded(2000), path)
    assert ingest._replayed(path, 2000) > 0


# -- the command -----------------------------------------------------------------------------------------------------

PURE = (*rounds.BENCHMARKS, *(benchmark for benchmark in ingest.BENCHMARKS if benchmark.name == "apply"))


@pytest.mark.parametrize("benchmark", PURE, ids=lambda benchmark: benchmark.name)
def test_a_quick_run_brings_every_figure_that_is_declared(benchmark: Benchmark) -> None:
    found = figures.rows(benchmark.figures, [benchmark.run(Scale(quick=True))])
    assert all(row.value > 0 for row in found)


def run(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str, lacking: str | None = None
) -> tuple[int, dict[str, object]]:
    """Run the command over two made-up benchmarks; its code and what it wrote."""
    numbers = iter((10.0, 30.0, 20.0))

    def failing(_: Scale) -> figures.Measured:
        raise MeterError("no server")

    made_up = (
        Benchmark("pure", (SHARE,), lambda _: {"share": next(numbers)}),
        Benchmark("meters", (SPEED,), failing, meters=True),
    )
    monkeypatch.setattr(command, "BENCHMARKS", made_up)
    monkeypatch.setattr(command, "OUT", folder / "out")
    monkeypatch.setattr(command, "lacking", lambda: lacking)
    code = command.main(arguments)
    return code, json.loads((folder / "out" / "bench.json").read_text())


def test_the_json_holds_the_machine_and_the_median_of_three_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, written = run(monkeypatch, tmp_path, "--only", "pure")
    assert code == 0
    assert written["rows"] == [Row(SHARE, (10.0, 30.0, 20.0)).json()]
    assert isinstance(written["machine"], dict)
    assert written["machine"].keys() >= {"cores", "processor", "python", "system"}
    assert "share" in capsys.readouterr().out


def test_what_a_machine_cannot_measure_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, written = run(monkeypatch, tmp_path, "--runs", "1", lacking="there is no cc")
    assert code == 1
    assert written["left_out"] == {"meters": "there is no cc"}
    assert "left out: meters: there is no cc" in capsys.readouterr().out


def test_a_benchmark_that_fails_leaves_the_others_standing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, written = run(monkeypatch, tmp_path, "--quick")
    assert code == 1
    assert written["left_out"] == {"meters": "no server"}
    assert written["rows"] == [Row(SHARE, (10.0,)).json()]


@pytest.mark.parametrize("given", [("--only", "fan"), ("--runs", "0")])
def test_a_mistake_on_the_command_line_ends_with_code_2(given: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(given)
    assert ended.value.code == 2


def test_the_benchmarks_servers_serve() -> None:
    if (why := lacking()) is not None:
        pytest.skip(why)
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "latency"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
