"""Lines of CSV to records: each line is a row, and a broken one breaks no other."""

from __future__ import annotations

import csv
from typing import Any

import pyarrow as pa
import pyarrow.csv as arrow_csv

from feeds.decode import Records
from feeds.fields import TEXTS, LayoutOf
from feeds.jsonlines import without_blank_lines


class CsvTable:
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
