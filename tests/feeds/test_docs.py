"""What docs/feeds.md says is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from feeds.fields import ALIASES, FIELDS
from feeds.formats import GROUP
from feeds.options import Spec
from feeds.replay import open_replay
from feeds.simulated import open_simulated
from feeds.ticks import Symbols
from tests.feeds.conftest import HandClock

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "feeds.md").read_text()
FEED, PLUG_IN, PLUGGED_IN = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def run(example: str, *, path: Path = ROOT) -> str:
    """What an example prints, with `path` among the places where Python finds modules and installed packages."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-c", example]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    return ran.stdout


def test_the_feed_of_the_example_runs() -> None:
    assert run(FEED).startswith("AAPL 1 213.05 nan\nAAPL 2 nan 213.06\nFeedStats(ticks=2, rejected=1, refused=0, ")


def test_the_format_of_the_example_is_found_where_it_is_installed(tmp_path: Path) -> None:
    project = tomllib.loads(TEXT.split("```toml\n")[1].split("```")[0])["project"]
    (group, entries), *others = project["entry-points"].items()
    assert (group, others) == (GROUP, [])
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()  # as an installer leaves it
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    (tmp_path / PLUG_IN.splitlines()[0].removeprefix("# ")).write_text(PLUG_IN)
    assert run(PLUGGED_IN, path=tmp_path) == (
        "['AAPL'] 213.05 1723161360007000\n1 bid: expected a finite number, was nan\n2 expected 32 bytes, was 31\n"
    )


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
