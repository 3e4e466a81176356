"""Columns of any type, of Arrow or of objects, to NumPy columns of one: numbers, times, texts. Pure.

What a text means is said by `number_of` and `time_of`, one value at a time. Arrow's own casts are the fast way for a
whole column; they take nothing that those two would not, and the few values they cannot take go through those two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feeds.ticks import NO_TIME, Floats, Ints

Array = Any  # a pyarrow.Array: pyarrow brings no types
Bools = NDArray[np.bool_]

#: Times lie within this many microseconds of the epoch: every integer on the wire stays below 2**53 (the year 2255).
TIME_US_MAX: Final = 2**53

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

#: The unit of a time that is a bare number is told from its size: below 1e11 seconds, 1e14 ms, 1e17 µs, else ns.
SECONDS_MAX, MILLIS_MAX, MICROS_MAX = 10**11, 10**14, 10**17
#: A longer identifier is none.
IDENTIFIER_BYTES_MAX: Final = 64
_EXACT: Final = 2**53  # whole numbers up to here, and powers of ten up to 22, are exact in float64
_POWER_EXACT_MAX: Final = 22


def number_of(text: str) -> float | None:
    """The float64 nearest to a decimal number such as ``-12.50`` or ``1e-3``; None for any other text."""
    return float(text) if _NUMBER.fullmatch(text) else None


def time_of(text: str) -> int | None:
    """Microseconds since the epoch from a number (its unit told from its size) or an ISO 8601 time (UTC unless it says).

    Digits below the microsecond are cut off. None for any other text, and for a time past `TIME_US_MAX`.
    """
    if _WHOLE.fullmatch(text) and len(text) <= 20:
        return _in_range(micros(int(text)))
    number = number_of(text)
    if number is not None:  # what data frames make of whole numbers with holes: 1723161361280.0
        return _in_range(int(_micros_of_floats(np.array([number]))[0]))
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return _in_range(((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND)


def micros(time: int) -> int:
    """A time as a bare number, in microseconds: its unit is told from its size."""
    size = abs(time)
    if size < SECONDS_MAX:
        return time * 1_000_000
    if size < MILLIS_MAX:
        return time * 1000
    return time if size < MICROS_MAX else time // 1000


def _in_range(time: int) -> int | None:
    return time if abs(time) < TIME_US_MAX else None


@dataclass(frozen=True, slots=True)
class Objects:
    """A column of decoded values, None where there is none. Among the others there are no types but `kinds`.

    If `finite`, its numbers are known to be neither NaN nor infinite.
    """

    values: Sequence[Any]
    kinds: frozenset[type]
    finite: bool = False

    @staticmethod
    def of(values: Sequence[Any]) -> Objects:
        return Objects(values, frozenset(map(type, values)) - {type(None)})

    def __len__(self) -> int:
        return len(self.values)

    def take(self, places: Sequence[int]) -> Objects:
        """The values at `places` alone."""
        return replace(self, values=[self.values[place] for place in places])

    def to_arrow(self) -> Array:
        """The same as an Arrow array. A column of mixed types becomes one of texts that mean the same."""
        kinds = Objects.of(self.values).kinds
        if kinds <= {int, float}:  # told the type, Arrow is twice as fast, but of whole numbers it would make 1.5 to 1
            kind = pa.float64() if float in kinds else pa.int64() if kinds else pa.null()
        elif kinds == {str}:
            kind = pa.string()
        else:
            return self._texts()
        try:
            return pa.array(self.values, kind)
        except (pa.ArrowException, OverflowError):
            return self._texts()

    def _texts(self) -> Array:
        return pa.array([_text_of(value) for value in self.values], pa.string())


#: What a column of records may be.
Column = Array | Objects


def _text_of(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return f"({type(value).__name__} value)"  # neither a number, nor a time, nor a key, which has no space


def numbers(column: Column) -> tuple[Floats, Bools | None]:
    """float64[n], NaN where there is no value, and which values are not finite numbers (bool[n], None for none).

    A decimal becomes the float64 nearest to it, whatever the column's type. An empty text is no value.
    """
    if isinstance(column, Objects) and column.kinds <= {int, float}:
        try:
            return _numbers_of_objects(column)
        except OverflowError:  # an integer past all of float64
            pass
    array = _plain_type(column)
    kind = array.type
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan), None
    if pa.types.is_decimal128(kind):
        return _decimals(array), None
    if pa.types.is_decimal(kind) or pa.types.is_float32(kind):
        array = array.cast(pa.string())  # the decimal that was meant: 0.1, not 0.10000000149011612
    if pa.types.is_string(array.type):
        try:
            array = array.cast(pa.float64())
        except pa.ArrowInvalid:
            return _each(array, number_of, np.nan, np.float64, bad_where=np.isfinite)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        array = array.cast(pa.float64(), safe=False)
    else:
        return np.full(len(array), np.nan), _mask(array.is_valid())
    return _finite(array)


def _numbers_of_objects(column: Objects) -> tuple[Floats, Bools | None]:
    """`numbers` of integers, floats and None. Raises OverflowError."""
    values = column.values
    found = np.fromiter(values, np.float64, len(values))  # NaN for None
    if column.finite:
        return found, None
    finite = np.isfinite(found)
    count = np.count_nonzero(finite)
    if count == len(values) or count == len(values) - values.count(None):
        return found, None
    bad = ~finite & np.fromiter((value is not None for value in values), np.bool_, len(values))
    return np.where(finite, found, np.nan), bad


def _finite(array: Array) -> tuple[Floats, Bools | None]:
    values: Floats = array.to_numpy(zero_copy_only=False)
    finite = np.isfinite(values)
    valid = len(values) - array.null_count
    if np.count_nonzero(finite) == valid:
        return values, None
    bad = ~finite & _mask(array.is_valid())
    return np.where(finite, values, np.nan), bad


def _decimals(array: Array) -> Floats:
    """float64 nearest to each decimal128. A quotient of two exact float64 is rounded once, hence right."""
    if not len(array):
        return np.zeros(0)
    scale, stop = array.type.scale, array.offset + len(array)
    words = np.frombuffer(array.buffers()[1], np.int64, count=2 * stop).reshape(-1, 2)[array.offset :]
    low, high = words[:, 0], words[:, 1]
    valid = _mask(array.is_valid()) if array.null_count else np.True_
    exact = (high == low >> 63) & (np.abs(low) <= _EXACT) & (low != NO_TIME)
    if not 0 <= scale <= _POWER_EXACT_MAX or not (exact | ~valid).all():
        text: Floats = array.cast(pa.string()).cast(pa.float64()).to_numpy(zero_copy_only=False)
        return text
    values: Floats = low / 10.0**scale
    return np.where(valid, values, np.nan) if array.null_count else values


def times(column: Column) -> tuple[Ints, Bools | None]:
    """int64[n] microseconds since the epoch, `NO_TIME` where there is none, and which values are no times."""
    if isinstance(column, Objects):
        if column.kinds == {int}:
            try:
                return _times_of_ints(np.fromiter(column.values, np.int64, len(column)))
            except (TypeError, OverflowError):  # a None, or an integer past all of int64
                pass
        elif column.kinds == {datetime}:
            column = pa.array(column.values, pa.timestamp("us", "UTC"))
    array = _plain_type(column)
    kind = array.type
    if pa.types.is_null(kind):
        return np.full(len(array), NO_TIME), None
    if pa.types.is_date(kind):
        array = array.cast(pa.timestamp("us"))
    if pa.types.is_string(kind):
        return _times_of_text(array)
    if pa.types.is_timestamp(array.type):
        return _ranged(array, _micros_of_timestamps(array))
    if pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
        return _ranged(array, _micros_of_ints(_whole(array)))
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return _times_of_text(array.cast(pa.string()))
    if pa.types.is_floating(kind):
        return _ranged(array, _micros_of_floats(array.cast(pa.float64()).to_numpy(zero_copy_only=False)))
    return np.full(len(array), NO_TIME), _mask(array.is_valid())


def _times_of_ints(count: Ints) -> tuple[Ints, Bools | None]:
    values = _micros_of_ints(count)
    bad = np.abs(values) >= TIME_US_MAX
    return (np.where(bad, NO_TIME, values), bad) if np.count_nonzero(bad) else (values, None)


def _times_of_text(array: Array) -> tuple[Ints, Bools | None]:
    try:
        if not pc.any(pc.match_substring(array, "x")).as_py():  # Arrow would take 0x10
            return _ranged(array, _micros_of_ints(_whole(array.cast(pa.int64()))))
    except pa.ArrowInvalid:
        pass
    for kind in (pa.timestamp("ns", "UTC"), pa.timestamp("ns")):
        try:
            stamps = array.cast(kind)
        except pa.ArrowInvalid:
            continue
        return _ranged(stamps, _micros_of_timestamps(stamps))
    return _each(array, time_of, NO_TIME, np.int64)


def _whole(array: Array) -> Ints:
    values: Ints = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return values


def _micros_of_timestamps(array: Array) -> Ints:
    count = _whole(array.cast(pa.int64()))
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[array.type.unit]
    if per_second > 10**6:
        return count // (per_second // 10**6)
    return _scaled(count, 10**6 // per_second)


def _scaled(count: Ints, factor: int) -> Ints:
    limit = TIME_US_MAX // factor + 1  # past it the product is out of range too, and might wrap
    return np.clip(count, -limit, limit) * factor


def _micros_of_ints(count: Ints) -> Ints:
    if not len(count):
        return count
    low, high = int(count.min()), int(count.max())
    if low >= MICROS_MAX:
        return count // 1000
    if low >= MILLIS_MAX and high < MICROS_MAX:
        return count
    if low >= SECONDS_MAX and high < MILLIS_MAX:
        return count * 1000
    size = np.abs(np.maximum(count, NO_TIME + 1))  # the lowest integer has no positive of its own
    return np.select(
        [size < SECONDS_MAX, size < MILLIS_MAX, size < MICROS_MAX],
        [count * 1_000_000, count * 1000, count],
        count // 1000,
    )


def _micros_of_floats(count: Floats) -> Ints:
    size = np.abs(count)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.select(
            [size < SECONDS_MAX, size < MILLIS_MAX, size < MICROS_MAX],
            [count * 1e6, count * 1e3, count],
            count / 1e3,
        )
        limited = np.clip(np.floor(scaled), -float(TIME_US_MAX), float(TIME_US_MAX))
        return np.where(np.isfinite(count), limited, float(TIME_US_MAX)).astype(np.int64)


def _ranged(array: Array, values: Ints) -> tuple[Ints, Bools | None]:
    """`values` with `NO_TIME` for nulls of `array` and for what lies out of range, and which ones do."""
    valid = _mask(array.is_valid()) if array.null_count else None
    bad = np.abs(values) >= TIME_US_MAX
    some_bad = bool(bad.any())
    if some_bad and valid is not None:
        bad &= valid
    if valid is None and not some_bad:
        return values, None
    good = ~bad if valid is None else valid & ~bad
    return np.where(good, values, NO_TIME), bad if some_bad else None


def texts(column: Column) -> tuple[Ints, list[str]]:
    """int64[n] positions among the distinct texts, -1 where there is none (or an empty one), and those texts."""
    if isinstance(column, Objects):
        of_column = column.values if column.kinds <= {str} else map(_text_of, column.values)
        code_of = _Codes()
        return np.fromiter(map(code_of.__getitem__, of_column), np.int64, len(column)), code_of.texts()
    array = column
    if not pa.types.is_dictionary(array.type):
        array = _plain_type(array)
        if not (pa.types.is_string(array.type) or pa.types.is_integer(array.type) or pa.types.is_null(array.type)):
            return np.where(_mask(array.is_valid()), 0, -1), [
                f"({array.type} value)"
            ]  # no key, no type: it has a space
        array = array.cast(pa.string()).dictionary_encode()
    names = _strings(_plain_type(array.dictionary))
    codes: Ints = array.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    for empty in (code for code, name in enumerate(names) if not name):
        codes = np.where(codes == empty, -1, codes)
    return codes, [name or "" for name in names]


def words(column: Column) -> tuple[Ints, list[str]]:
    """As `texts`, of a column in which yes and no are words too: ``true`` and ``false``."""
    if isinstance(column, Objects):
        if bool in column.kinds:
            column = Objects.of([str(value).lower() if isinstance(value, bool) else value for value in column.values])
    elif pa.types.is_boolean(column.type):
        column = column.cast(pa.string())
    return texts(column)


def identifiers(column: Column) -> Array:
    """A column of names that are texts or whole numbers, as Arrow strings: null where there is none, or no such name."""
    array = _named_objects(column) if isinstance(column, Objects) else _plain_type(column)
    if pa.types.is_integer(array.type):
        return array.cast(pa.string())
    if not pa.types.is_string(array.type):
        return pa.nulls(len(array), pa.string())
    length = pc.binary_length(array)
    ends = pc.min_max(length)
    if (ends["min"].as_py() or 0) > 0 and ends["max"].as_py() <= IDENTIFIER_BYTES_MAX:
        return array
    fits = pc.and_(pc.greater(length, 0), pc.less_equal(length, IDENTIFIER_BYTES_MAX))
    return pc.if_else(fits, array, None)


def _named_objects(column: Objects) -> Array:
    """Integers or texts as Arrow arrays; of mixed types, texts of those that are either."""
    if column.kinds <= {int} or column.kinds == {str}:
        try:
            return pa.array(column.values, pa.string() if str in column.kinds else pa.int64())
        except (pa.ArrowException, OverflowError):  # an integer past int64, a text that is no UTF-8
            pass
    return pa.array([str(value) if type(value) in {str, int} else None for value in column.values], pa.string())


class _Codes(dict[Any, int]):
    """Numbers texts from 0 as they are asked for; no text is -1."""

    def __init__(self) -> None:
        super().__init__({None: -1, "": -1})

    def __missing__(self, text: str) -> int:
        code = self[text] = len(self) - 2
        return code

    def texts(self) -> list[str]:
        return list(self)[2:]


def shown(column: Column, place: int) -> str | None:
    """One value of a column, for a person to read; None where there is none."""
    if isinstance(column, Objects):
        value = column.values[place]
        return str(value) if type(value) in {int, float} else None if value is None else repr(_text_of(value))
    scalar = column[place]
    if not scalar.is_valid:
        return None
    if pa.types.is_string(scalar.type):
        return repr(_strings(pa.array([scalar]))[0])
    try:
        return str(scalar.as_py())
    except ValueError:  # a time with nanoseconds, which datetime does not hold
        return str(scalar.value)


def _strings(array: Array) -> list[str | None]:
    """The texts of a column. Arrow does not check that they are UTF-8 when it reads Parquet."""
    texts = array.cast(pa.binary()).to_pylist()
    return [None if text is None else text.decode(errors="replace") for text in texts]


def _plain_type(column: Column) -> Array:
    """The column as an array without an encoding of its own: no dictionary, no large or view string."""
    array = column.to_arrow() if isinstance(column, Objects) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = array.cast(pa.string())
    elif pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        try:
            array = array.cast(pa.string())
        except pa.ArrowInvalid:
            return array  # no text: none of its values can be read
    return array


def _each(
    array: Array,
    parse: Callable[[str], float | None],
    none: float,
    dtype: type[np.generic],
    bad_where: Callable[[Any], Any] | None = None,
) -> tuple[Any, Bools | None]:
    """A column of texts, value by value: `none` where there is none or it cannot be read, and which cannot be."""
    raw = _strings(array)
    parsed = [parse(text) if text else None for text in raw]
    bad = np.array([value is None and bool(text) for value, text in zip(parsed, raw, strict=True)], np.bool_)
    values = np.array([none if value is None else value for value in parsed], dtype)
    if bad_where is not None:
        infinite = ~bad_where(values) & np.array([value is not None for value in parsed], np.bool_)
        values[infinite] = none
        bad |= infinite
    return values, bad if bad.any() else None


def _mask(array: Array) -> Bools:
    mask: Bools = np.asarray(array.to_numpy(zero_copy_only=False), np.bool_)
    return mask
