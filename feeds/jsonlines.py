"""JSON to records: lines of a file, or the values of a log such as Kafka's. Pure.

A line of a file holds one object, which is one tick. A value of a log holds one object or an array of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
import numpy as np

from feeds.convert import Array, from_objects
from feeds.decode import Records
from feeds.fields import LayoutOf
from feeds.ticks import Ints

#: Keys beyond so many are not learned: lines that have them take the slow way.
KEYS_MAX: Final = 100

_SHOWN_BYTES_MAX: Final = 40
_NEWLINE, _RETURN, _OPEN, _CLOSE = b"\n\r{}"
_DECODER: Final = msgspec.json.Decoder()
_NOT_READ: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Object = dict[str, Any]


class LineReader:
    """Makes records of blocks of lines.

    It learns the keys as they come: lines with known keys alone are decoded into a struct of just these, of which only
    the needed ones are looked at. A block with any other line is decoded line by line into dicts.
    """

    def __init__(self, layout: LayoutOf) -> None:
        self._layout = layout
        self._keys: dict[str, None] = {}
        self._decoder: msgspec.json.Decoder[Any] | None = None
        self._getters: dict[str, attrgetter[Any]] = {}

    def records(self, block: bytes) -> Records:
        """One row for each line that is not blank. `block` is whole lines, each with its newline."""
        lines = _lines_of_one_object(block)
        if lines and self._decoder is not None:
            try:
                rows = self._decoder.decode_lines(block)
            except _NOT_READ:
                rows = []
            if len(rows) == lines:
                columns = {key: from_objects(list(map(get, rows))) for key, get in self._getters.items()}
                return Records(columns, lines)
        filled = without_blank_lines(block)
        if len(filled) < len(block):
            return self.records(filled)
        objects = [_object(line) for line in block.split(b"\n")[:-1]]
        self._learn(objects)
        return records(objects)

    def _learn(self, objects: Sequence[Object | str]) -> None:
        keys = dict.fromkeys([*self._keys, *_keys(objects)])
        if len(keys) > KEYS_MAX or keys == self._keys:
            return
        self._keys = keys
        needed = {name for names in self._layout(tuple(keys)).values() for name in names}
        names = {key: f"k{number}" for number, key in enumerate(keys)}
        shape = msgspec.defstruct(
            "Line",
            [(name, Any if key in needed else msgspec.Raw, None) for key, name in names.items()],
            rename={name: key for key, name in names.items()},
            forbid_unknown_fields=True,
            gc=False,
        )
        self._decoder = msgspec.json.Decoder(shape)
        self._getters = {key: attrgetter(name) for key, name in names.items() if key in needed}


def without_blank_lines(block: bytes) -> bytes:
    """The block without its lines of nothing but white space."""
    return b"\n".join([*filter(bytes.strip, block.split(b"\n")), b""])


def _lines_of_one_object(block: bytes) -> int:
    """The number of lines where each starts and ends with a brace, else 0.

    No JSON value spans two such lines, since ``}`` is never followed by ``{``. So if there are as many values as lines
    each line is exactly one object.
    """
    if not block.startswith(b"{"):
        return 0
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == _NEWLINE)
    last = text[ends - 1]
    last = np.where(last == _RETURN, text[ends - 2], last)
    braced = (last == _CLOSE).all() and (text[ends[:-1] + 1] == _OPEN).all()
    return len(ends) if braced else 0


def _object(line: bytes) -> Object | str:
    value = _value(line)
    return value if isinstance(value, dict | str) else f"expected a JSON object, was {_start(line)}"


def _value(text: bytes) -> Object | list[Any] | str:
    """The object or array that `text` holds, or what is wrong with it."""
    try:
        value = _DECODER.decode(text)
    except _NOT_READ as error:
        return f"expected a JSON object, was {_start(text)} ({error})"
    return value if isinstance(value, dict | list) else f"expected a JSON object, was {_start(text)}"


def _start(text: bytes) -> str:
    start = text[:_SHOWN_BYTES_MAX].decode(errors="replace").strip()
    return repr(start) + ("..." if len(text) > _SHOWN_BYTES_MAX else "")


def of_values(values: Sequence[bytes]) -> tuple[Records, Ints]:
    """Records of a log's values, in order, and the place in `values` that each came from (int64[records])."""
    objects: list[Object | str] = []
    origin: list[int] = []
    for place, value in enumerate(values):
        decoded = _value(value)
        several = [_item(item) for item in decoded] if isinstance(decoded, list) else [decoded]
        objects += several
        origin += [place] * len(several)
    return records(objects), np.array(origin, np.int64)


def _item(value: object) -> Object | str:
    return value if isinstance(value, dict) else "expected an array of JSON objects"


def records(objects: Sequence[Object | str]) -> Records:
    """Columns of objects, and of the faults (texts) that stand in place of some."""
    faults = {place: item for place, item in enumerate(objects) if isinstance(item, str)}
    rows: list[Object] = [{} if isinstance(item, str) else item for item in objects]
    columns: Mapping[str, Array] = {key: from_objects([row.get(key) for row in rows]) for key in _keys(objects)}
    return Records(columns, len(rows), faults)


def _keys(objects: Sequence[Object | str]) -> dict[str, None]:
    """All keys of all objects, in the order in which they first come."""
    return dict.fromkeys(
        key for keys in dict.fromkeys(tuple(item) for item in objects if isinstance(item, dict)) for key in keys
    )
