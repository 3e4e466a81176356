"""Every limit is declared once; flags, environment and the README's table are made from that declaration."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from ticker.cli import cli
from ticker.settings import Settings, flag, session_start_us, table, variable

README = Path(__file__).parent.parent / "README.md"


def test_the_readme_shows_every_setting_as_declared() -> None:
    assert table() in README.read_text(), "the table in README.md is not what `ticker.settings.table()` gives"


def test_every_setting_is_a_flag_with_its_default_and_variable() -> None:
    options = {option.name: option for option in cli.commands["serve"].params}
    for setting in fields(Settings):
        option = options[setting.name]
        assert option.opts == [flag(setting)]
        assert option.default == setting.default
        assert option.envvar == variable(setting)
        assert option.help == setting.metadata["help"]


@pytest.mark.parametrize("setting", fields(Settings), ids=lambda setting: setting.name)
def test_a_number_out_of_range_is_refused_by_name(setting: object) -> None:
    name, metadata = setting.name, setting.metadata  # type: ignore[attr-defined]
    assert (metadata["least"] is None) == (metadata["most"] is None) == isinstance(setting.default, str)  # type: ignore[attr-defined]
    for limit, step in (("least", -1), ("most", 1), ("most", math.inf), ("least", math.nan)):
        if metadata[limit] is not None:
            with pytest.raises(ValueError, match=f"{name}: expected .*, was"):
                Settings(**{name: metadata[limit] + step})
            Settings(**{name: metadata[limit]})


@pytest.mark.parametrize("text", ["", "24:00", "12:60", "noon", "12", "-1:00", "1:2:3"])
def test_a_time_of_day_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="session_start: expected a time of day"):
        session_start_us(text)


def test_a_flag_beats_the_environment_and_the_environment_the_default() -> None:
    arguments = ["serve", "--port", "99999"]
    result = CliRunner().invoke(cli, arguments, env={"TICKER_PORT": "88888"})
    assert "was 99999" in result.output
    result = CliRunner().invoke(cli, ["serve"], env={"TICKER_PORT": "88888"})
    assert "was 88888" in result.output
