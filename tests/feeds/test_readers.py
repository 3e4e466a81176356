"""Files: each format, each way of being packed, and each way of being broken."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import databento_dbn
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds import readers
from feeds.decode import Decoder, Records
from feeds.feed import FeedError
from feeds.fields import layout
from feeds.readers import LINE_BYTES_MAX, Recording, is_recording
from feeds.ticks import Symbols
from tests.feeds.conftest import T0, quote, trade, write_csv, write_ndjson, write_parquet
from tests.feeds.rows import rows_of

#: As anything: its stubs take the members of its enumerations for texts.
dbn: Any = databento_dbn
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


# -- places --------------------------------------------------------------------------------------------------------


def as_csv(numbers: Sequence[int]) -> bytes:
    body = "".join(BAD.get(number, f"S{number % 3},{T0 + number},{number},9\n") for number in numbers)
    return f"\ufeff\nsymbol,ts_recv,bid,ask\n{body}".encode()


def as_ndjson(numbers: Sequence[int]) -> bytes:
    lines = [f'{{"symbol":"S{number % 3}","ts_recv":{T0 + number},"bid":{number}}}\n' for number in numbers]
    return "".join(BAD.get(number, line) for number, line in zip(numbers, lines, strict=True)).encode()


def as_capture(numbers: Sequence[int]) -> bytes:
    other = f'{T0}000 {{"e":"depthUpdate","s":"S"}}\n'
    lines = [
        f'{T0 + number}000 {{"u":1,"s":"S{number % 3}","b":"{number}","B":"1","a":"9","A":"1"}}\n{other * (number % 4)}'
        for number in numbers
    ]
    return "".join(BAD.get(number, line) for number, line in zip(numbers, lines, strict=True)).encode()


def as_databento_csv(numbers: Sequence[int]) -> bytes:
    header = "ts_recv,rtype,publisher_id,instrument_id,action,price,size,bid_px_00,ask_px_00,symbol\n"
    lines = [f"{T0 + n}000,1,1,5,{'AT'[n % 2]},{n}.0,1,{n}.0,9.0,S{n % 3}\n" for n in numbers]
    return "".join([header, *(BAD.get(n, line) for n, line in zip(numbers, lines, strict=True))]).encode()


def as_dbn(numbers: Sequence[int]) -> bytes:
    by_number = dbn.SType.INSTRUMENT_ID
    known = dbn.Metadata("X", 0, by_number, by_number, dbn.Schema.MBP_1, symbols=[], mappings=[])
    return bytes(known.encode()) + b"".join(bytes(book(number)) for number in numbers)


def book(number: int) -> Any:
    return dbn.MBP1Msg(
        publisher_id=1,
        instrument_id=1 + number % 3,
        ts_event=(T0 + number) * 1000,
        price=number * 10**9,
        size=1,
        action=(dbn.Action.ADD, dbn.Action.TRADE)[number % 2],
        side=dbn.Side.ASK,
        depth=0,
        ts_recv=(T0 + number) * 1000,
        levels=dbn.BidAskPair(bid_px=number * 10**9, ask_px=9 * 10**9),
    )


def as_parquet(numbers: Sequence[int]) -> bytes:
    sink = io.BytesIO()
    names = pa.array([None if n in BAD else f"S{n % 3}" for n in numbers], pa.string())
    times, bids = (pa.array([start + n for n in numbers], pa.int64()) for start in (T0, 0))
    pq.write_table(pa.table({"symbol": names, "ts_recv": times, "bid": bids}), sink, row_group_size=7)
    return sink.getvalue()


#: Blank lines, lines that are no rows, and a long one.
BAD = {4: "\n\n", 9: "junk\n", 13: '{"a":\n', 17: "y" * 700 + "\n", 21: " \n"}
#: In bytes; always less than the longest line may have.
SIZE = st.integers(20, 500)
WRITERS: dict[str, Callable[[Sequence[int]], bytes]] = {
    "csv": as_csv,
    "ndjson": as_ndjson,
    "capture": as_capture,
    "databento csv": as_databento_csv,
    "dbn": as_dbn,
    "parquet": as_parquet,
}


@pytest.mark.parametrize(
    ("format", "packing"),
    [(name, packing) for name in WRITERS for packing in PACKINGS if not packing or name != "parquet"],
)
@given(count=st.integers(1, 40), first=SIZE, then=SIZE, which=st.integers(0, 50))
def test_reading_from_any_place_gives_the_rest_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory, format: str, packing: str, count: int, first: int, then: int, which: int
) -> None:
    content = PACKINGS[packing](WRITERS[format](range(count)))
    path = write(tmp_path_factory.mktemp("places") / f"x{packing}", content)
    with pytest.MonkeyPatch.context() as patch:
        set_blocks(patch, first)
        found = recording(path)
        blocks = list(found.blocks())
        places = [block.place for block in blocks]
        assert places == sorted(set(places))
        set_blocks(patch, then)
        whole = [row for block in blocks for row in rows_in(block.records)]
        start = which % len(blocks)
        before = sum(block.records.rows for block in blocks[:start])
        assert [row for rest in found.blocks(places[start]) for row in rows_in(rest.records)] == whole[before:]


def set_blocks(patch: pytest.MonkeyPatch, size: int) -> None:
    for name in ("feeds.readers.CSV_BLOCK_BYTES", "feeds.readers.JSON_BLOCK_BYTES", "feeds.dbn.BLOCK_BYTES"):
        patch.setattr(name, size)
    patch.setattr("feeds.readers.BLOCK_ROWS", size // 20)
    patch.setattr("feeds.readers.LINE_BYTES_MAX", 600)


def rows_in(records: Records) -> list[tuple[object, ...]]:
    """Each row: its key, time, bid and price, or why it cannot be read."""
    symbols = Symbols()
    decoded = Decoder(symbols, 0).decode(records)
    ticks = decoded.ticks
    values = zip(
        ticks.row.tolist(), *(map(str, c.tolist()) for c in (ticks.ts_log, ticks.bid, ticks.price)), strict=True
    )
    return [
        (symbols.names[row], *rest) if row >= 0 else (decoded.reason(place),)
        for place, (row, *rest) in enumerate(values)
    ]


def test_whether_a_line_is_too_long_is_told_by_its_length_alone(tmp_path: Path) -> None:
    lengths = (500_000, 1_040_000, 700_000, 1_300_000, 1_900_000, 10, LINE_BYTES_MAX - 100, LINE_BYTES_MAX)
    lines = [b"A,%d,1,2,%s\n" % (T0, b"y" * length) for length in lengths]
    path = write(tmp_path / "x.csv", b"symbol,ts_recv,bid,ask,x\n" + b"".join(lines))
    whole = rows(path)
    assert [row == "A" for row in whole] == [length < LINE_BYTES_MAX - 50 for length in lengths]
    found = recording(path)
    for block in list(found.blocks())[1:]:
        rest = [row for each in found.blocks(block.place) for row in rows_in(each.records)]
        assert [row[0] for row in rest] == whole[-len(rest) :]


# -- a file that is another one ------------------------------------------------------------------------------------


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feeds.readers.CSV_BLOCK_BYTES", 100)
    path = write_csv(tmp_path / "x.csv", [quote(T0 + at) for at in range(100)])
    found = recording(path)
    assert found.fingerprint == (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino)
    blocks = found.blocks()
    next(blocks)
    with path.open("a") as file:
        file.write("\n")
    for read in (lambda: next(blocks), found.check, lambda: next(found.blocks())):
        with pytest.raises(FeedError, match=f"^{path}: changed while it was read$"):
            read()


def test_a_file_that_is_replaced_or_vanishes_while_it_is_read(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [quote(T0)])
    found = recording(path)
    other = write(tmp_path / "y.csv", path.read_bytes())
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.rename(path)
    with pytest.raises(FeedError, match=f"^{path}: changed while it was read$"):
        found.check()
    path.unlink()
    with pytest.raises(FeedError, match=f"^{path}: No such file or directory$"):
        found.check()


# -- the real ones -------------------------------------------------------------------------------------------------


def test_the_three_forms_of_a_real_recording_are_the_same_ticks(binance6: dict[str, Path]) -> None:
    found = {name: rows_of(path) for name, path in binance6.items()}
    assert sorted(found) == ["csv", "ndjson", "parquet"]
    assert len(found["csv"]) == 81_781
    assert found["csv"] == found["ndjson"]
    assert found["csv"] == found["parquet"]


def test_which_files_of_a_folder_are_recordings() -> None:
    names = ["a.csv", "a.CSV.gz", "a.ndjson.zst", "a.jsonl", "a.json", "a.parquet", "a.pq"]
    assert all(is_recording(Path(name)) for name in names)
    assert not any(is_recording(Path(name)) for name in ["README.md", "a.txt", "a.gz", "a", "csv"])


def test_columns_that_are_not_needed_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"symbol": ["A"], "ts_recv": [T0], "bid": [1.0], "blob": [b"x" * 10]}), path)
    assert [set(block.columns) for block in recording(path)] == [{"symbol", "ts_recv", "bid"}]
