"""Lines of JSON to records: each line holds one object, which is one tick. Pure."""

from __future__ import annotations

from feeds.decode import Records
from feeds.fields import LayoutOf
from feeds.objects import JSON, ObjectReader


class LineReader:
    """Makes records of blocks of lines. Not for two threads at once."""

    def __init__(self, layout: LayoutOf) -> None:
        self._objects = ObjectReader(layout, JSON, arrays=False)

    def records(self, block: bytes) -> Records:
        """One row for each line that is not blank. `block` is whole lines, each with its newline."""
        return self._objects.read(list(filter(bytes.strip, block.split(b"\n"))))[0]


def without_blank_lines(block: bytes) -> bytes:
    """The block without its lines of nothing but white space."""
    return b"\n".join([*filter(bytes.strip, block.split(b"\n")), b""])
