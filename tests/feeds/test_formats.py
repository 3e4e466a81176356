from __future__ import annotations

from pathlib import Path

import pytest

from feeds.feed import FeedError
from feeds.fields import layout
from feeds.formats import GROUP, open_format
from feeds.values import Format, JsonValues, MsgpackValues


def opened(name: str) -> Format:
    return open_format(name, lambda names: layout(names, {}))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that brings formats, as an installer leaves it."""
    info = tmp_path / "more_formats-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more-formats\nVersion: 1.0\n")
    lines = ("csv = more_formats:CsvValues", "gone = no_such_module:Values", "lost = more_formats:NoSuchName")
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, "json = more_formats:CsvValues", ""]))
    (tmp_path / "more_formats.py").write_text("class CsvValues:\n    def __init__(self, layout):\n        pass\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_formats_that_are_built_in() -> None:
    assert isinstance(opened("json"), JsonValues)
    assert isinstance(opened("msgpack"), MsgpackValues)


def test_what_is_no_format_is_said_with_what_there_is() -> None:
    with pytest.raises(FeedError) as error:
        opened("xml")
    assert str(error.value).startswith("format 'xml': expected one of json, msgpack")


@pytest.mark.usefixtures("installed")
def test_a_package_brings_a_format_but_does_not_replace_one() -> None:
    assert type(opened("csv")).__name__ == "CsvValues"
    assert isinstance(opened("json"), JsonValues)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("xml", "format 'xml': expected one of json, msgpack, csv, gone, lost"),
        ("gone", "format 'gone': cannot load no_such_module:Values: No module named 'no_such_module'"),
        (
            "lost",
            "format 'lost': cannot load more_formats:NoSuchName: module 'more_formats' has no attribute 'NoSuchName'",
        ),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_line(name: str, message: str) -> None:
    with pytest.raises(FeedError) as error:
        opened(name)
    assert str(error.value) == message
