"""Files: each format, each way of being packed, and each way of being broken."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds import readers
from feeds.decode import Decoder
from feeds.feed import FeedError
from feeds.fields import layout
from feeds.readers import LINE_BYTES_MAX, Recording, is_recording
from feeds.ticks import Symbols
from tests.feeds.conftest import T0, quote, trade, write_csv, write_ndjson, write_parquet

CSV = f"symbol,ts_recv,bid,ask\nA,{T0},1,2\nB,{T0 + 1},3,\n"


def recording(path: Path) -> Recording:
    return Recording(path, lambda names: layout(names, {}))


def rows(path: Path) -> list[str]:
    """The key of each row, or the reason why it cannot be read."""
    symbols, found = Symbols(), []
    decoder = Decoder(symbols, symbols.part("test"))
    for block in recording(path):
        decoded = decoder.decode(block)
        for place, row in enumerate(decoded.ticks.row.tolist()):
            found.append(symbols.names[row] if row >= 0 else decoded.reason(place))
    return found


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


PACKINGS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(
    ("suffix", "writer"), [(".csv", write_csv), (".ndjson", write_ndjson), (".jsonl", write_ndjson)]
)
def test_lines_plain_and_packed(tmp_path: Path, suffix: str, writer: Any, packing: str) -> None:
    plain = writer(tmp_path / "plain", [quote(T0, "A"), trade(T0 + 1, "B")])
    packed = PACKINGS[packing](plain.read_bytes())
    assert rows(write(tmp_path / f"x{suffix}{packing}", packed)) == ["A", "B"]
    assert rows(write(tmp_path / "without a suffix", packed)) == ["A", "B"]
    assert rows(write(tmp_path / f"twice{suffix}{packing}", packed[:0] + PACKINGS[packing](b"") + packed)) == ["A", "B"]


def test_parquet(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [quote(T0, "A"), trade(T0 + 1, "B")])
    assert rows(path) == ["A", "B"]
    assert rows(write(tmp_path / "without a suffix", path.read_bytes())) == ["A", "B"]


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        CSV.rstrip("\n"),
        CSV.replace("\n", "\r\n"),
        CSV.replace("\n", "\n\n  \n"),
        CSV.replace("\n", "\r\n\r\n"),
        "\n\n" + CSV,
        "\ufeff" + CSV,
        CSV.replace("A,", '"A",').replace(",bid", ',"bid"'),
        CSV.replace("symbol,", " symbol ,"),
    ],
)
def test_csv_however_it_is_written(tmp_path: Path, content: str) -> None:
    assert rows(write(tmp_path / "x.csv", content)) == ["A", "B"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n", "\r\n \r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n"])
@pytest.mark.parametrize("end", [True, False])
def test_ndjson_however_it_is_written(tmp_path: Path, newline: str, start: str, end: bool) -> None:
    lines = [f'{{"s":"{name}","T":{T0},"b":1}}' for name in "AB"]
    content = start + newline.join(lines) + (newline if end else "")
    assert rows(write(tmp_path / "x.ndjson", content)) == ["A", "B"]


def test_csv_rows_of_another_width_are_unreadable(tmp_path: Path) -> None:
    content = CSV + "C\nD,1\nE,1,2,3,4,5\n" + CSV.split("\n", 1)[1]
    wide = "expected 4 columns, was "
    assert rows(write(tmp_path / "x.csv", content)) == ["A", "B", wide + "1", wide + "2", wide + "6", "A", "B"]


@pytest.mark.parametrize("bad", [f'"C,{T0},1,2', f'C,{T0},"1,2', "\x00\xff,\xfe", '"a""b', f'"C\r",{T0},1,2'])
def test_a_broken_csv_line_breaks_no_other(tmp_path: Path, bad: str) -> None:
    lines = CSV.split("\n", 1)[1]
    content = CSV.encode() + bad.encode("latin-1") + b"\n" + lines.encode()
    found = rows(write(tmp_path / "x.csv", content))
    assert [found[0], found[1], *found[3:]] == ["A", "B", "A", "B"]
    assert "expected" in found[2]


def test_a_broken_json_line_breaks_no_other(tmp_path: Path) -> None:
    good = f'{{"s":"A","T":{T0},"b":1}}\n'
    found = rows(write(tmp_path / "x.ndjson", good + '{"s":"A",\n' + good + "[]\n" + good))
    assert [found[0], found[2], found[4]] == ["A"] * 3
    assert found[1].startswith('expected a JSON object, was \'{"s":"A",\'')


def test_a_line_without_end_is_one_unreadable_row(tmp_path: Path) -> None:
    long = b"x" * (3 * LINE_BYTES_MAX)
    content = CSV.encode() + long + b"\n" + CSV.encode().split(b"\n", 1)[1] + long
    found = rows(write(tmp_path / "x.csv", content))
    assert [found[0], found[1], found[3], found[4]] == ["A", "B", "A", "B"]
    assert len(found) == 6


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize("suffix", [".csv", ".ndjson"])
def test_blocks_may_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, suffix: str) -> None:
    written = [quote(T0 + number, f"S{number}") for number in range(60)]
    path = (write_csv if suffix == ".csv" else write_ndjson)(tmp_path / f"x{suffix}", written)
    monkeypatch.setattr(readers, "CSV_BLOCK_BYTES", block)
    monkeypatch.setattr(readers, "JSON_BLOCK_BYTES", block)
    assert rows(path) == [f"S{number}" for number in range(60)]


def refused(path: Path) -> str:
    with pytest.raises(FeedError) as error:
        recording(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.ndjson", "x.ndjson.zst", "x.parquet", "x"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    assert refused(write(tmp_path / name, b"")) == "empty file"


@pytest.mark.parametrize("name", ["x.csv", "x.ndjson", "x"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_a_file_of_nothing(tmp_path: Path, name: str, packing: str) -> None:
    assert refused(write(tmp_path / (name + packing), PACKINGS[packing](b"\n \n"))) == "empty file"


@pytest.mark.parametrize("after", ["", "\n", "\n\n \n\r\n"])
def test_a_header_alone_is_a_recording_of_nothing(tmp_path: Path, after: str) -> None:
    found = recording(write(tmp_path / "x.csv", CSV.split("\n", maxsplit=1)[0] + after))
    assert found.head is None
    assert sum(block.rows for block in found) == 0


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert refused(tmp_path / "x.csv") == "No such file or directory"
    assert refused(tmp_path) == "expected a file, was a folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", CSV)
    path.chmod(0)
    assert refused(path) == "Permission denied"


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("x.csv", "a,b\n1,2\n", "unknown columns: expected a symbol, found only 'a, b'; map= can name it"),
        (
            "x.csv",
            "symbol,bid\nA,2\n",
            "unknown columns: expected a time (ts_event or ts_recv), found only 'symbol, bid'",
        ),
        ("x.csv", "symbol,time\nA,2\n", "unknown columns: expected a price (bid, ask or price), found only"),
        ("x.ndjson", '{"a":1}\n', "unknown columns: expected a symbol, found only 'a'"),
        ("x.ndjson", "hello\n", "not NDJSON: line 1: expected a JSON object, was 'hello'"),
        ("x.json", '[\n{"s":1}]\n', "not NDJSON: line 1: expected a JSON object, was '['"),
        ("x.parquet", CSV, "not a Parquet file: expected it to start with b'PAR1', was b'symb'"),
        ("x.parquet", "PAR1" + "x" * 100, "Parquet"),
        ("x.csv.gz", CSV, "expected gzip data, as the name says, was b'symb'"),
        ("x.csv.zst", CSV, "expected zstd data, as the name says, was b'symb'"),
        ("x.csv", b"\x00\x01\x02\xff" * 500, "unknown columns: expected a symbol"),
        ("x.csv", b"\x1f\x8b" + b"junk" * 100, "zlib inflate failed"),
        ("x.csv.gz", gzip.compress(CSV.encode())[:-9], "Truncated compressed stream"),
        ("x.ndjson.zst", zstd(os.urandom(1000))[:-9], "Truncated compressed stream"),
    ],
)
def test_what_is_no_recording(tmp_path: Path, name: str, content: str | bytes, cause: str) -> None:
    assert cause in refused(write(tmp_path / name, content))


def test_parquet_without_the_columns_and_cut_off(tmp_path: Path) -> None:
    assert "expected a symbol, found only 'a'" in refused(write_parquet(tmp_path / "x.parquet", [{"a": 1}]))
    whole = write_parquet(tmp_path / "y.parquet", [quote(T0)]).read_bytes()
    assert refused(write(tmp_path / "y.parquet", whole[:-20]))


def test_a_gzip_cut_off_late_gives_its_rows_first(tmp_path: Path) -> None:
    many = [quote(T0 + number, f"S{number * 7919 % 10007}") for number in range(60_000)]
    packed = gzip.compress(write_csv(tmp_path / "plain", many).read_bytes())
    found = recording(write(tmp_path / "x.csv.gz", packed[:-1000]))
    seen = 0

    def read() -> None:
        nonlocal seen
        for block in found:
            seen += block.rows

    with pytest.raises(FeedError, match=r"x\.csv\.gz: Truncated compressed stream"):
        read()
    assert seen > 10_000


@given(content=st.binary(max_size=300), name=st.sampled_from(["x.csv", "x.ndjson", "x.parquet", "x.csv.gz", "x"]))
def test_any_bytes_are_rows_or_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = write(tmp_path_factory.mktemp("any") / name, content)
    said = f"{path}: one line"
    try:
        rows(path)
    except FeedError as error:
        said = str(error)
    assert said.startswith(str(path))
    assert "\n" not in said


LINE = st.text(st.sampled_from('AB12,"\r \x00é\ufeff'), max_size=12)


@given(lines=st.lists(LINE, max_size=6))
def test_any_lines_after_good_ones_count_one_each(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.mktemp("any") / "x.csv"
    found = rows(write(path, CSV + "".join(line + "\n" for line in lines) + CSV.split("\n", 1)[1]))
    assert len(found) == 4 + sum(bool(line.encode().strip()) for line in lines)
    assert found[:2] == found[-2:] == ["A", "B"]


def test_which_files_of_a_folder_are_recordings() -> None:
    names = ["a.csv", "a.CSV.gz", "a.ndjson.zst", "a.jsonl", "a.json", "a.parquet", "a.pq"]
    assert all(is_recording(Path(name)) for name in names)
    assert not any(is_recording(Path(name)) for name in ["README.md", "a.txt", "a.gz", "a", "csv"])


def test_columns_that_are_not_needed_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"symbol": ["A"], "ts_recv": [T0], "bid": [1.0], "blob": [b"x" * 10]}), path)
    assert [set(block.columns) for block in recording(path)] == [{"symbol", "ts_recv", "bid"}]
