"""What docs/feeds.md says is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from feeds.fields import ALIASES, FIELDS
from feeds.options import Spec
from feeds.replay import open_replay
from feeds.simulated import open_simulated
from feeds.ticks import Symbols
from tests.feeds.conftest import HandClock

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "feeds.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_each_example_runs(example: str) -> None:
    ran = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    assert ran.stdout == ("AAPL 1 213.05 nan\nAAPL 2 nan 213.06\nFeedStats(ticks=2, rejected=1, refused=0, lag=None)\n")


def test_there_is_an_example() -> None:
    assert len(EXAMPLES) == 1


def test_the_table_of_fields_is_the_code_s() -> None:
    table = TEXT.split("| field | meaning | also known as |\n|---|---|---|\n")[1].split("\n\n")[0]
    rows = [re.findall(r"`([^`]+)`", f"{row.split('|')[1]}|{row.split('|')[3]}") for row in table.splitlines()]
    assert {row[0]: tuple(row) for row in rows} == dict(ALIASES)
    assert [row[0] for row in rows] == list(FIELDS)


@pytest.mark.parametrize("scheme", ["sim", "replay"])
def test_the_tables_of_options_are_the_code_s(scheme: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("symbol,ts,bid\n")
    spec = Spec("sim:" if scheme == "sim" else f"replay:{tmp_path}/x.csv")
    (open_simulated if scheme == "sim" else open_replay)(spec, Symbols(), scheme, HandClock())
    section = TEXT.split(f"## `{scheme}:`")[1].split("\n## ")[0].split("|---|---|---|\n")[1].split("\n\n")[0]
    documented = {name for row in section.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert documented == set(spec.known)
