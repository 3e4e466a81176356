"""Decoded objects to records: what JSON and MessagePack have in common. Pure.

An object is one tick. `ObjectReader` learns the keys of a source, and the types of their values, as they come. Objects
of known keys and types alone are decoded into a struct of just these, of which only the needed ones are looked at. A
batch with any other object is decoded into dicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np
from msgspec.structs import astuple

from feeds.convert import Objects
from feeds.decode import Records
from feeds.fields import LayoutOf
from feeds.ticks import Ints

#: Keys beyond so many are not learned: objects that have them take the slow way, and of them only needed ones are kept.
KEYS_MAX: Final = 100

_SHOWN_BYTES_MAX: Final = 40
_NOT_READ: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
#: What a struct takes for a key whose values have been of these types so far; of any others it takes all.
_FIELD_TYPES: Final[Mapping[frozenset[type], Any]] = {
    frozenset(): None,
    frozenset({str}): str | None,
    frozenset({int}): int | None,
    frozenset({float}): int | float | None,
    frozenset({int, float}): int | float | None,
}

Object = dict[str, Any]
Decode = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How objects are written: what one is called, what makes a decoder of a type, whether all numbers are finite."""

    noun: str
    decoder: Callable[[Any], Any]
    finite: bool


JSON: Final = Encoding("JSON object", msgspec.json.Decoder, finite=True)
MSGPACK: Final = Encoding("MessagePack map", msgspec.msgpack.Decoder, finite=False)


class ObjectReader:
    """Makes records of values that hold one object each, or also arrays of objects if `arrays`. Not for two threads."""

    def __init__(self, layout: LayoutOf, encoding: Encoding, *, arrays: bool) -> None:
        self._layout = layout
        self._encoding = encoding
        self._arrays = arrays
        raw = dict[str, msgspec.Raw]
        self._whole: Decode = encoding.decoder(Any).decode
        self._parts: Decode = encoding.decoder(raw | list[raw] if arrays else raw).decode
        #: The types of each known key's values so far, which keys are needed, and whether a value has held an array.
        self._kinds: dict[str, frozenset[type]] = {}
        self._needed: frozenset[str] = frozenset()
        self._several = False
        #: Decodes values of known keys and types alone, into structs; and one of these without any value.
        self._known: Decode | None = None
        self._blank: Any = None

    def read(self, values: Sequence[bytes]) -> tuple[Records, Ints]:
        """A row for each object, in order, and for each value that cannot be read; and the place of each row's value.

        An empty array gives no row. Never raises.
        """
        known = self._known
        if known is None:
            return self._read_any(values)
        try:
            return self._of_structs(map(known, values), len(values), {})
        except _NOT_READ:
            return self._read_known(known, values) or self._read_any(values)

    def _read_known(self, known: Decode, values: Sequence[bytes]) -> tuple[Records, Ints] | None:
        """The same where all objects are of known keys and types, and other values hold none; None where it is not so."""
        structs: list[Any] = []
        faults: dict[int, str] = {}
        for place, value in enumerate(values):
            try:
                structs.append(known(value))
            except _NOT_READ:
                decoded = self._decoded(value)
                if not isinstance(decoded, str):
                    return None
                faults[place] = decoded
                structs.append(self._blank)
        return self._of_structs(structs, len(values), faults)

    def _of_structs(self, structs: Iterable[Any], count: int, faults: Mapping[int, str]) -> tuple[Records, Ints]:
        """Records of what `count` values hold, each a struct or a list of structs, and blank where it has a fault."""
        origin = np.arange(count)
        if self._several:
            structs, origin = _flat(list(structs))
        fields = list(chain.from_iterable(map(astuple, structs)))  # each struct is gone before the next one is made
        columns = {
            key: self._column(key, fields[place :: len(self._kinds)])
            for place, key in enumerate(self._kinds)
            if key in self._needed
        }
        rows = {int(np.searchsorted(origin, place)): reason for place, reason in faults.items()}
        return Records(columns, len(origin), rows), origin

    def _column(self, key: str, values: Sequence[Any]) -> Objects:
        kinds = self._kinds[key]
        finite = self._encoding.finite
        return Objects(values, kinds, finite) if kinds in _FIELD_TYPES else Objects.of(values)

    # -- what is not known yet -------------------------------------------------------------------------------------

    def _read_any(self, values: Sequence[bytes]) -> tuple[Records, Ints]:
        decoded = [self._decoded(value) for value in values]
        objects, origin = _flat(decoded)
        keys = _keys(objects)
        found = records(objects, keys if len(keys) <= KEYS_MAX else self._needed_of(keys))
        self._learn(found.columns, several=any(isinstance(value, list) for value in decoded))
        return found, origin

    def _decoded(self, value: bytes) -> Object | str | list[Object | str]:
        """The object or objects that `value` holds, or what is wrong with it or with one of them."""
        try:
            decoded = self._whole(value)
        except _NOT_READ as error:
            try:
                return self._decoded_in_part(value)
            except _NOT_READ:
                return f"expected a {self._encoding.noun}, was {_start(value)} ({error})"
        if self._arrays and isinstance(decoded, list):
            return [item if _is_object(item) else f"expected an array of {self._encoding.noun}s" for item in decoded]
        known: Object | None = decoded if _is_object(decoded) else None
        return f"expected a {self._encoding.noun}, was {_start(value)}" if known is None else known

    def _decoded_in_part(self, value: bytes) -> Object | list[Object | str]:
        """The same of needed keys alone: what is not looked at need not be right. Raises what `_NOT_READ` has."""
        parts = self._parts(value)
        if isinstance(parts, list):
            return [self._object_of(part) for part in parts]
        return self._object_of(parts)

    def _object_of(self, part: Mapping[str, msgspec.Raw]) -> Object:
        return {key: self._whole(part[key]) for key in self._needed_of(part)}

    def _needed_of(self, keys: Iterable[str]) -> list[str]:
        return [key for keys in self._layout(tuple(keys)).values() for key in keys]

    def _learn(self, columns: Mapping[str, Objects], *, several: bool) -> None:
        kinds = self._kinds | {
            key: self._kinds.get(key, column.kinds) | column.kinds for key, column in columns.items()
        }
        several |= self._several
        if len(kinds) > KEYS_MAX or (kinds, several) == (self._kinds, self._several):
            return
        self._kinds, self._several, self._needed = kinds, several, frozenset(self._needed_of(kinds))
        names = {key: f"k{number}" for number, key in enumerate(kinds)}
        shape: Any = msgspec.defstruct(
            "Known",
            [
                (names[key], _FIELD_TYPES.get(kinds[key], Any) if key in self._needed else msgspec.Raw, None)
                for key in kinds
            ],
            rename={name: key for key, name in names.items()},
            forbid_unknown_fields=True,
            gc=False,
        )
        self._blank = shape()
        self._known = self._encoding.decoder(shape | list[shape] if several else shape).decode


def records(objects: Sequence[Object | str], keys: Iterable[str] | None = None) -> Records:
    """Columns of objects, of all their keys or of `keys` alone, and the faults (texts) that stand in place of some."""
    faults = {place: item for place, item in enumerate(objects) if isinstance(item, str)}
    rows: list[Object] = [{} if isinstance(item, str) else item for item in objects]
    names = _keys(objects) if keys is None else keys
    return Records({key: Objects.of([row.get(key) for row in rows]) for key in names}, len(rows), faults)


def _keys(objects: Sequence[Object | str]) -> dict[str, None]:
    """All keys of all objects, in the order in which they first come."""
    return dict.fromkeys(
        key for keys in dict.fromkeys(tuple(item) for item in objects if isinstance(item, dict)) for key in keys
    )


def _is_object(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _flat(items: Sequence[Any]) -> tuple[list[Any], Ints]:
    """The items, with those of lists in place of each list; and for each the place that it came from."""
    groups = [item if isinstance(item, list) else [item] for item in items]
    lengths = np.fromiter(map(len, groups), np.int64, len(groups))
    return list(chain.from_iterable(groups)), np.repeat(np.arange(len(groups)), lengths)


def _start(value: bytes) -> str:
    start = value[:_SHOWN_BYTES_MAX].decode(errors="replace").strip()
    return repr(start) + ("..." if len(value) > _SHOWN_BYTES_MAX else "")
