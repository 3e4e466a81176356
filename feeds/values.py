"""Values of a log, such as Kafka's, to records: JSON and MessagePack. Pure.

A value holds one object (a map), which is one tick, or an array of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from feeds.decode import Records
from feeds.fields import LayoutOf
from feeds.objects import JSON, MSGPACK, ObjectReader
from feeds.ticks import Ints


class Format(Protocol):
    """Reads the values of a log's records. Not for two threads at once."""

    def records(self, values: Sequence[bytes]) -> tuple[Records, Ints]:
        """One row for each tick, in order; and the place in `values` that each came from (int64[rows], ascending).

        Never raises: a value that cannot be read gives one row with a fault.
        """


#: Makes a format's reader, of which `LayoutOf` says where fields are found among names.
FormatOf = Callable[[LayoutOf], Format]


class JsonValues:
    """JSON: an object or an array of objects a value."""

    def __init__(self, layout: LayoutOf) -> None:
        self._objects = ObjectReader(layout, JSON, arrays=True)

    def records(self, values: Sequence[bytes]) -> tuple[Records, Ints]:
        """See `Format`. An empty array gives no row."""
        return self._objects.read(values)


class MsgpackValues:
    """MessagePack: a map or an array of maps a value. A timestamp means what its ISO 8601 text means."""

    def __init__(self, layout: LayoutOf) -> None:
        self._objects = ObjectReader(layout, MSGPACK, arrays=True)

    def records(self, values: Sequence[bytes]) -> tuple[Records, Ints]:
        """See `Format`. An empty array gives no row."""
        return self._objects.read(values)


#: The formats that are built in.
FORMATS: Final[Mapping[str, FormatOf]] = {"json": JsonValues, "msgpack": MsgpackValues}
