"""Files of ticks to blocks of records: Parquet; and CSV, NDJSON, raw captures and DBN, these also as gzip or zstd.

`Recording(path, layout)` looks at a file and says at once, as a `FeedError`, what makes it no recording of ticks.
Iterating it reads the file from its start, a block at a time, and never holds more than a block or two of it;
`blocks(place)` reads it from where a block began.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from feeds import capture, jsonlines, parts, vendors
from feeds.csvlines import CsvTable
from feeds.decode import Records
from feeds.feed import FeedError
from feeds.fields import TEXTS, Layout, LayoutOf, lacking
from feeds.spans import Span, spans

#: Rows of a block of Parquet. CSV and JSON blocks are bytes: JSON's are small, since decoding one lets no other thread run.
#: Neither is larger than the longest line may be.
BLOCK_ROWS: Final = 16_384
CSV_BLOCK_BYTES: Final = 1 << 20
JSON_BLOCK_BYTES: Final = 1 << 19
LINE_BYTES_MAX: Final = 1 << 20
_TOO_LONG: Final = b"(a line of over %d bytes)\n" % LINE_BYTES_MAX

_COMPRESSION: Final = {".gz": ("gzip", b"\x1f\x8b"), ".zst": ("zstd", b"\x28\xb5\x2f\xfd")}
_FORMATS: Final = {
    **dict.fromkeys((".csv",), "csv"),
    **dict.fromkeys((".ndjson", ".jsonl", ".json"), "ndjson"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    ".dbn": "dbn",
}
_PARQUET_MAGIC: Final = b"PAR1"
_DBN_MAGIC: Final = b"DBN"
_DBN_VERSION_MAX: Final = b"\x1f"  # beyond, the byte after the magic is one of a text
#: So much of a file's start tells what it is.
_LOOK_BYTES: Final = 256
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


class Block(NamedTuple):
    """Records that follow each other in a file, and the place at which they begin.

    A place is a row's number in Parquet, from 0; else an offset in bytes into the text, be it compressed or not.
    """

    place: int
    records: Records


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
            #: Size, time of change and inode: what tells that the file is still the same.
            self.fingerprint = _fingerprint(path)
            start = _first_bytes(path)
            self._compression = self._find_compression(start)
            #: csv, ndjson, parquet, capture or dbn: what the content is, where the name says otherwise.
            self.format = self._find_format(start)
        with closing(self.blocks()) as blocks:
            first = next((block.records for block in blocks if block.records.rows), None)
        #: The first row; None where there is no row.
        self.head = first.head() if first else None

    def __iter__(self) -> Iterator[Records]:
        return (block.records for block in self.blocks())

    def blocks(self, start: int = 0) -> Generator[Block]:
        """The records from a place on: 0, or where a block began that came before. Blocks may be cut otherwise then."""
        blocks = {
            "csv": self._csv,
            "ndjson": self._ndjson,
            "parquet": self._parquet,
            "capture": self._captured,
            "dbn": self._dbn,
        }[self.format]
        self.check()
        with self._errors():
            for block in blocks(start):
                self.check()
                yield block

    def check(self) -> None:
        """Raise FeedError where the file is another one than when it was opened, or gone."""
        with self._errors():
            if _fingerprint(self.path) != self.fingerprint:
                raise self._error("changed while it was read")

    def spans(self) -> tuple[Span, ...] | None:
        """The row groups of a Parquet file, where its statistics tell the times of all of them, and a row is a tick."""
        if self.format != "parquet":
            return None
        with self._errors():
            metadata = pq.read_metadata(self.path)
            vendor = vendors.databento(metadata.schema.to_arrow_schema().names)
            return None if vendor and vendor.doubles else spans(metadata, self._layout)

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
        with pa.input_stream(str(self.path), compression=self._compression) as stream:
            first = stream.read(_LOOK_BYTES)
        if first.startswith(_DBN_MAGIC) and (named == "dbn" or first[3:4] <= _DBN_VERSION_MAX):
            return "dbn"
        if named == "dbn":
            raise self._error(f"not DBN: expected it to start with {_DBN_MAGIC!r}, was {first[:4]!r}")
        if capture.LINE.match(first.removeprefix(_BOM)):
            return "capture"
        if named:
            return named
        with closing(self._lines(JSON_BLOCK_BYTES)) as blocks:
            return "ndjson" if next(blocks, (0, b""))[1].lstrip().startswith(b"{") else "csv"

    def _check(self, found: Layout, names: tuple[str, ...]) -> None:
        refusal = vendors.refusal(names)
        if refusal:
            raise self._error(refusal)
        lack = lacking(found)
        if lack:
            shown = ", ".join(names[:_NAMES_SHOWN_MAX]) + (", ..." if len(names) > _NAMES_SHOWN_MAX else "")
            raise self._error(f"unknown columns: expected {lack}, found only {shown[:400]!r}; map= can name it")

    # -- lines -----------------------------------------------------------------------------------------------------

    def _lines(self, block_bytes: int, start: int = 0) -> Generator[tuple[int, bytes]]:
        """Blocks of whole lines from an offset on, each with its own.

        The first of all is without a byte order mark and blank lines before it, which its offset counts in. There is one at
        least, from the start.
        """
        some = start > 0
        with pa.input_stream(str(self.path), compression=self._compression) as stream:
            _skip(stream, start, seekable=self._compression is None)
            for place, block in _whole_lines(stream.read, block_bytes, start):
                if some:
                    yield place, block
                elif lines := block.removeprefix(_BOM).lstrip():
                    some = True
                    yield start, lines
        if not some:
            raise self._error("empty file")

    # -- NDJSON ----------------------------------------------------------------------------------------------------

    def _ndjson(self, start: int) -> Iterator[Block]:
        reader = jsonlines.LineReader(self._layout)
        for number, (place, lines) in enumerate(self._lines(JSON_BLOCK_BYTES, start)):
            records = reader.records(lines)
            if start == number == 0:
                if len(records.faults) == records.rows:
                    raise self._error(f"not NDJSON: line 1: {records.faults[0]}")
                names = tuple(records.columns)
                self._check(self._layout(names), names)
            yield Block(place, records)

    # -- raw captures ----------------------------------------------------------------------------------------------

    def _captured(self, start: int) -> Iterator[Block]:
        for place, lines in self._lines(JSON_BLOCK_BYTES, start):
            yield Block(place, capture.records(lines))

    # -- DBN -------------------------------------------------------------------------------------------------------

    def _dbn(self, start: int) -> Iterator[Block]:
        """A place is a row's number: mappings in the stream count from its beginning, so all of it is decoded."""
        try:
            from feeds import dbn  # noqa: PLC0415 - who reads no DBN need not have its library
        except ModuleNotFoundError as error:
            if error.name != "databento_dbn":
                raise
            raise self._error("DBN needs databento-dbn, which is not installed: pip install databento-dbn") from None

        with pa.input_stream(str(self.path), compression=self._compression) as stream:
            try:
                for place, records in dbn.Reader().records(stream.read, start):
                    yield Block(place, records)
            except dbn.DbnError as error:
                raise self._error(str(error)) from None

    # -- CSV -------------------------------------------------------------------------------------------------------

    def _csv(self, start: int) -> Iterator[Block]:
        table: CsvTable | None = None
        if start:
            with closing(self._lines(CSV_BLOCK_BYTES)) as blocks:
                table = CsvTable(next(blocks)[1].partition(b"\n")[0], self._layout)
        for place, block in self._lines(CSV_BLOCK_BYTES, start):
            lines = block
            if table is None:
                header, _, lines = block.partition(b"\n")
                table = CsvTable(header, self._layout)
                self._check(table.layout, table.names)
                self.columns = table.names
            vendor = vendors.databento(table.names)
            if lines:
                records = table.records(lines)
                yield Block(place, vendor.rows(records) if vendor else records)

    # -- Parquet ---------------------------------------------------------------------------------------------------

    def _parquet(self, start: int) -> Iterator[Block]:
        metadata = pq.read_metadata(self.path)
        self.footer = parts.footer(metadata.metadata)
        schema = metadata.schema.to_arrow_schema()
        found = self._layout(tuple(schema.names))
        self._check(found, tuple(schema.names))
        self.columns = tuple(schema.names)
        needed = [name for names in found.values() for name in names]
        vendor = vendors.databento(schema.names)
        texts = [
            name for field in TEXTS for name in found.get(field, ()) if pa.types.is_string(schema.field(name).type)
        ]
        group, place = _group_of(metadata, start)
        with pq.ParquetFile(self.path, read_dictionary=texts, pre_buffer=False, buffer_size=1 << 16) as file:
            groups = range(group, metadata.num_row_groups)
            for batch in file.iter_batches(BLOCK_ROWS, row_groups=groups, columns=needed, use_threads=False):
                skipped = min(max(0, start - place), batch.num_rows)
                kept = batch.slice(skipped)
                if kept.num_rows:
                    columns = dict(zip(kept.schema.names, kept.columns, strict=True))
                    records = Records(columns, kept.num_rows)
                    yield Block(place + skipped, vendor.rows(records) if vendor else records)
                place += batch.num_rows


def _first_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise FeedError(f"{path}: expected a file, was a folder")
    with path.open("rb") as file:
        return file.read(4)


def _fingerprint(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _skip(stream: Any, count: int, *, seekable: bool) -> None:
    """Pass over the first `count` bytes of a stream."""
    if seekable:
        stream.seek(count)
        return
    while count > 0 and (chunk := stream.read(min(count, CSV_BLOCK_BYTES))):
        count -= len(chunk)


def _whole_lines(read: Callable[[int], bytes], block_bytes: int, start: int) -> Iterator[tuple[int, bytes]]:
    """Blocks that end where a line ends, each with its offset; reading begins at `start`, where a line does.

    A line past `LINE_BYTES_MAX` gives way to a short one that is no tick. Of a block only the first line can be one:
    it alone may have begun in what was read before.
    """
    rest, place = b"", start
    skipping = False
    while chunk := read(block_bytes):
        if skipping:
            passed, newline, chunk = chunk.partition(b"\n")
            place += len(passed) + len(newline)
            skipping = not newline
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            lines = rest + head + newline
            yield place, _without_long(lines, len(rest))
            place += len(lines)
            rest = tail
        else:
            rest += chunk
        if len(rest) > LINE_BYTES_MAX:
            yield place, _TOO_LONG
            place += len(rest)
            rest, skipping = b"", True
    if rest:
        yield place, rest + b"\n"


def _without_long(lines: bytes, known: int) -> bytes:
    """`lines`, with another one for a first line that is too long. Its end is not among the first `known` bytes."""
    end = lines.index(b"\n", known)
    return _TOO_LONG + lines[end + 1 :] if end > LINE_BYTES_MAX else lines


def _group_of(metadata: Any, start: int) -> tuple[int, int]:
    """The row group that holds row `start`, and its first row's number; past the last one where there is none."""
    place = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if start < place + rows:
            return group, place
        place += rows
    return metadata.num_row_groups, place
