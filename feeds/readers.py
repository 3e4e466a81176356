"""Files of ticks to blocks of records: CSV, NDJSON and Parquet, the first two also as gzip or zstd.

`Recording(path, layout)` looks at a file and says at once, as a `FeedError`, what makes it no recording of ticks.
Iterating it reads the file from its start, a block at a time, and never holds more than a block or two of it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from feeds import jsonlines, parts
from feeds.decode import Records
from feeds.feed import FeedError
from feeds.fields import TEXTS, Layout, LayoutOf, lacking
from feeds.jsonlines import without_blank_lines

#: Rows of a block of Parquet. CSV and JSON blocks are bytes: JSON's are small, since decoding one lets no other thread run.
BLOCK_ROWS: Final = 10_000
CSV_BLOCK_BYTES: Final = 1 << 20
JSON_BLOCK_BYTES: Final = 1 << 19
LINE_BYTES_MAX: Final = 1 << 20

_COMPRESSION: Final = {".gz": ("gzip", b"\x1f\x8b"), ".zst": ("zstd", b"\x28\xb5\x2f\xfd")}
_FORMATS: Final = {
    **dict.fromkeys((".csv",), "csv"),
    **dict.fromkeys((".ndjson", ".jsonl", ".json"), "ndjson"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
_PARQUET_MAGIC: Final = b"PAR1"
_BOM: Final = b"\xef\xbb\xbf"
_NAMES_SHOWN_MAX: Final = 20


def is_recording(path: Path) -> bool:
    """Whether a file's name says that it is a recording; others are passed over in a folder."""
    return _suffixes(path)[0] in _FORMATS


def _suffixes(path: Path) -> tuple[str, str]:
    """The suffix of a file's format and that of its compression, each "" where there is none."""
    suffix = path.suffix.lower()
    if suffix in _COMPRESSION:
        return Path(path.stem).suffix.lower(), suffix
    return suffix, ""


class Recording:
    """One file of ticks. Iterate it for its records, from the start, as often as needed.

    Raises FeedError, here for what the start of the file shows and while iterating for what comes later: missing or
    unreadable, empty, not of the format that its name says, without the columns of ticks, cut off.
    """

    def __init__(self, path: Path, layout: LayoutOf) -> None:
        self.path = path
        self._layout = layout
        #: The names of all columns; None for JSON, of which any line may bring new keys.
        self.columns: tuple[str, ...] | None = None
        #: Where it belongs, if it is a part that a recorder wrote.
        self.footer: parts.Footer | None = None
        with self._errors():
            start = _first_bytes(path)
            self._compression = self._find_compression(start)
            self._format = self._find_format(start)
        with closing(self._blocks()) as blocks:
            first = next((block for block in blocks if block.rows), None)
        #: The first row; None where there is no row.
        self.head = first.head() if first else None

    def __iter__(self) -> Iterator[Records]:
        return self._blocks()

    def _blocks(self) -> Generator[Records]:
        blocks = {"csv": self._csv, "ndjson": self._ndjson, "parquet": self._parquet}[self._format]
        with self._errors():
            yield from blocks()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What reading a file can raise, as one line that names it."""
        try:
            yield
        except OSError as error:
            raise self._error(error.strerror or str(error)) from None
        except (pa.ArrowException, msgspec.DecodeError) as error:
            raise self._error(str(error)) from None

    def _error(self, cause: str) -> FeedError:
        return FeedError(f"{self.path}: {(cause.strip() or 'cannot be read').splitlines()[0]}")

    # -- what kind of file -----------------------------------------------------------------------------------------

    def _find_compression(self, start: bytes) -> str | None:
        suffix = _suffixes(self.path)[1]
        for known, (name, magic) in _COMPRESSION.items():
            if start.startswith(magic):
                return name
            if known == suffix:
                raise self._error(
                    f"expected {name} data, as the name says, was {start!r}..." if start else "empty file"
                )
        return None

    def _find_format(self, start: bytes) -> str:
        named = _FORMATS.get(_suffixes(self.path)[0])
        if not start:
            raise self._error("empty file")
        if start.startswith(_PARQUET_MAGIC):
            return "parquet"
        if named == "parquet":
            raise self._error(f"not a Parquet file: expected it to start with {_PARQUET_MAGIC!r}, was {start!r}")
        if named:
            return named
        with closing(self._lines(JSON_BLOCK_BYTES)) as blocks:
            return "ndjson" if next(blocks, b"").lstrip().startswith(b"{") else "csv"

    def _check(self, found: Layout, names: tuple[str, ...]) -> None:
        lack = lacking(found)
        if lack:
            shown = ", ".join(names[:_NAMES_SHOWN_MAX]) + (", ..." if len(names) > _NAMES_SHOWN_MAX else "")
            raise self._error(f"unknown columns: expected {lack}, found only {shown[:400]!r}; map= can name it")

    # -- lines -----------------------------------------------------------------------------------------------------

    def _lines(self, block_bytes: int) -> Generator[bytes]:
        """Blocks of whole lines, the first without a byte order mark and blank lines before it. At least one."""
        some = False
        with pa.input_stream(str(self.path), compression=self._compression) as stream:
            for block in _whole_lines(stream.read, block_bytes):
                lines = block if some else block.removeprefix(_BOM).lstrip()
                some = some or bool(lines)
                if lines:
                    yield lines
        if not some:
            raise self._error("empty file")

    # -- NDJSON ----------------------------------------------------------------------------------------------------

    def _ndjson(self) -> Iterator[Records]:
        reader = jsonlines.LineReader(self._layout)
        for number, block in enumerate(self._lines(JSON_BLOCK_BYTES)):
            records = reader.records(block)
            if number == 0:
                if len(records.faults) == records.rows:
                    raise self._error(f"not NDJSON: line 1: {records.faults[0]}")
                names = tuple(records.columns)
                self._check(self._layout(names), names)
            yield records

    # -- CSV -------------------------------------------------------------------------------------------------------

    def _csv(self) -> Iterator[Records]:
        table: _CsvTable | None = None
        for block in self._lines(CSV_BLOCK_BYTES):
            lines = block
            if table is None:
                header, _, lines = block.partition(b"\n")
                table = _CsvTable(header, self._layout)
                self._check(table.layout, table.names)
                self.columns = table.names
            if lines:
                yield table.records(lines)

    # -- Parquet ---------------------------------------------------------------------------------------------------

    def _parquet(self) -> Iterator[Records]:
        metadata = pq.read_metadata(self.path)
        self.footer = parts.footer(metadata.metadata)
        schema = metadata.schema.to_arrow_schema()
        found = self._layout(tuple(schema.names))
        self._check(found, tuple(schema.names))
        self.columns = tuple(schema.names)
        needed = [name for names in found.values() for name in names]
        texts = [
            name for field in TEXTS for name in found.get(field, ()) if pa.types.is_string(schema.field(name).type)
        ]
        with pq.ParquetFile(self.path, read_dictionary=texts, pre_buffer=False) as file:
            for batch in file.iter_batches(BLOCK_ROWS, columns=needed, use_threads=False):
                yield Records(dict(zip(batch.schema.names, batch.columns, strict=True)), batch.num_rows)


def _first_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise FeedError(f"{path}: expected a file, was a folder")
    with path.open("rb") as file:
        return file.read(4)


def _whole_lines(read: Callable[[int], bytes], block_bytes: int) -> Iterator[bytes]:
    """Blocks that end where a line ends. A line past `LINE_BYTES_MAX` gives way to a short one that is no tick."""
    rest = b""
    skipping = False
    while chunk := read(block_bytes):
        if skipping:
            _, newline, chunk = chunk.partition(b"\n")
            skipping = not newline
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            yield rest + head + newline
            rest = tail
        else:
            rest += chunk
        if len(rest) > LINE_BYTES_MAX:
            rest, skipping = b"", True
            yield b"(a line of over %d bytes)\n" % LINE_BYTES_MAX
    if rest:
        yield rest + b"\n"


class _CsvTable:
    """The columns of a CSV file, by its header, and the reading of blocks of its lines."""

    def __init__(self, header: bytes, layout: LayoutOf) -> None:
        self.names = tuple(name.strip() for name in _fields(header.decode(errors="replace")))
        self._width = len(self.names)
        self.layout = layout(self.names)
        #: Position of each column that is needed.
        self._needed = {name: self.names.index(name) for names in self.layout.values() for name in names}

    def records(self, lines: bytes) -> Records:
        """Records of whole lines without blank ones. Texts all of them: what they mean is for the decoder to say."""
        if not _is_plain(lines):
            return self._one_by_one(lines)
        bad: dict[int, str] = {}
        blank = False

        def note(row: Any) -> str:
            nonlocal blank
            blank = blank or not row.text.strip()
            bad[row.number - 1] = self._miscounted(row.actual_columns)
            return "skip"

        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(lines),
                arrow_csv.ReadOptions(
                    use_threads=False,
                    block_size=len(lines) + 1,
                    column_names=[str(place) for place in range(self._width)],
                ),
                arrow_csv.ParseOptions(invalid_row_handler=note),
                self._conversion(),
            )
        except pa.ArrowInvalid:
            return self._one_by_one(lines)
        rows = table.num_rows + len(bad)
        if blank or rows != lines.count(b"\n"):  # blank lines, or a quote that spans some
            filled = without_blank_lines(lines)
            return self.records(filled) if len(filled) < len(lines) else self._one_by_one(lines)
        if bad:
            good = iter(range(table.num_rows))
            table = table.take(pa.array([None if row in bad else next(good) for row in range(rows)], pa.int64()))
        columns = {name: table.column(str(place)).combine_chunks() for name, place in self._needed.items()}
        return Records(columns, rows, bad)

    def _conversion(self) -> Any:
        texts = {str(self._needed[name]) for field in TEXTS for name in self.layout.get(field, ())}
        dictionary = pa.dictionary(pa.int32(), pa.string())
        columns = [str(place) for place in self._needed.values()]
        return arrow_csv.ConvertOptions(
            include_columns=columns,
            column_types={place: dictionary if place in texts else pa.string() for place in columns},
            strings_can_be_null=True,
            null_values=[""],
        )

    def _one_by_one(self, lines: bytes) -> Records:
        """The slow and sure way, for a block with a line that the fast one stumbles over."""
        bad: dict[int, str] = {}
        rows: list[list[str]] = []
        for line in without_blank_lines(lines).split(b"\n")[:-1]:
            fields = _fields(line.decode(errors="replace"))
            if len(fields) != self._width:
                bad[len(rows)] = self._miscounted(len(fields))
                fields = [""] * self._width
            rows.append(fields)
        columns = {
            name: pa.array([row[place] or None for row in rows], pa.string()) for name, place in self._needed.items()
        }
        return Records(columns, len(rows), bad)

    def _miscounted(self, fields: int) -> str:
        return f"expected {self._width} columns, was {fields}"


def _is_plain(lines: bytes) -> bool:
    """Whether all is UTF-8, and a carriage return only ever the first half of a line's end. Arrow stumbles over others."""
    if b"\r" in lines and lines.count(b"\r") != lines.count(b"\r\n"):
        return False
    try:
        return lines.isascii() or bool(lines.decode())
    except UnicodeDecodeError:
        return False


def _fields(line: str) -> list[str]:
    """The fields of one line of CSV; none for a line that is none."""
    try:
        return next(csv.reader([line.rstrip("\r")]), [])
    except csv.Error:
        return []
