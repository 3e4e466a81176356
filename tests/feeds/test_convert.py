from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feeds.convert import TIME_US_MAX, Objects, number_of, numbers, shown, texts, time_of, times
from feeds.ticks import NO_TIME, is_key

NUMBERS = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**9), max_value=10**9).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.from_regex(r"[+-]?[0-9]{0,20}\.?[0-9]{0,20}([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)
ODD = st.sampled_from(
    ["", "nan", "NaN", "-inf", "Infinity", "0x10", " 1", "1 ", "1_0", "1,5", "1e999", "1f", "٣", "--1"]
)
TEXTS = st.one_of(NUMBERS, ODD, st.text(max_size=8))


def expected_number(text: str | None) -> tuple[float, bool]:
    """The plain reading of one number: its value (NaN for none), and whether it is bad."""
    if not text:
        return math.nan, False
    number = float(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII) else math.nan
    return (number, False) if math.isfinite(number) else (math.nan, True)


def read_numbers(array: Any) -> list[tuple[float, bool]]:
    values, bad = numbers(array)
    assert values.dtype == np.float64
    return list(zip(values.tolist(), np.zeros(len(values)) if bad is None else bad.tolist(), strict=True))


def same(left: list[tuple[float, bool]], right: list[tuple[float, bool]]) -> bool:
    return [(repr(value), bool(bad)) for value, bad in left] == [(repr(value), bool(bad)) for value, bad in right]


@given(st.lists(st.none() | TEXTS))
@example(["2682.20000000", "0.1", None])
@example(["1", "x"])
def test_texts_are_numbers_as_python_reads_them_to_the_last_bit(column: list[str | None]) -> None:
    expected = [expected_number(text) for text in column]
    array = pa.array(column, pa.string())
    assert same(read_numbers(array), expected)
    assert same(read_numbers(array.cast(pa.large_string())), expected)
    assert same(read_numbers(array.dictionary_encode()), expected)


@given(st.text(max_size=10) | NUMBERS)
def test_one_number(text: str) -> None:
    value, bad = expected_number(text)
    number = number_of(text)
    assert bad or not text or repr(number) == repr(value)
    assert not bad or number is None or not math.isfinite(number)


@given(
    st.lists(st.none() | st.decimals(-(10**29), 10**29, places=8, allow_nan=False)),
    st.integers(0, 3),
)
@example([Decimal("90071992.54740992"), Decimal("90071992.54740993"), None], 0)
def test_decimals_are_the_nearest_floats(column: list[Decimal | None], cut: int) -> None:
    expected = [(math.nan if value is None else float(value), False) for value in column]
    for kind in (pa.decimal128(38, 8), pa.decimal256(50, 8)):
        assert read_numbers(pa.array(column, kind).slice(cut))[:0] == []
        got = read_numbers(pa.array(column, kind).slice(cut))
        assert [repr(value + 0.0) for value, _ in got] == [repr(value + 0.0) for value, _ in expected[cut:]]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([1, None, 2**53 + 1]), [1.0, math.nan, 2.0**53]),
        (pa.array([2**64 - 1], pa.uint64()), [2.0**64]),
        (pa.array([0.1, None], pa.float32()), [0.1, math.nan]),
        (pa.array([Decimal("1.5")], pa.decimal128(3, -1 + 2)), [1.5]),
        (pa.array([Decimal(1500)], pa.decimal128(5, -2)), [1500.0]),
        (pa.array([None, None]), [math.nan, math.nan]),
        (pa.array([], pa.decimal128(5, 2)), []),
    ],
)
def test_numbers_of_other_types(array: Any, expected: list[float]) -> None:
    assert same(read_numbers(array), [(value, False) for value in expected])


@pytest.mark.parametrize(
    "array",
    [
        pa.array([True, False]),
        pa.array([[1], [2]]),
        pa.array([math.nan, math.inf]),
        pa.array([math.nan, -math.inf], pa.float32()),
        pa.array([b"\xff", b"1"], pa.binary()),
        pa.array([datetime(2024, 1, 1)] * 2),
    ],
)
def test_what_is_no_number(array: Any) -> None:
    assert read_numbers(array)[0][1]
    assert all(math.isnan(value) for value, bad in read_numbers(array) if bad)


SECOND = 1_723_161_360
MICROS = SECOND * 10**6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (str(SECOND), MICROS),
        (f"{SECOND}007", MICROS + 7000),
        (f"{SECOND}007526", MICROS + 7526),
        (f"{SECOND}007526485", MICROS + 7526),
        ("-1", -1_000_000),
        ("0", 0),
        (f"{SECOND}007.0", MICROS + 7000),
        (f"{SECOND}.5", MICROS + 500_000),
        ("2024-08-08T23:56:00Z", MICROS),
        ("2024-08-08T23:56:00.007526485Z", MICROS + 7526),
        ("2024-08-08 23:56:00", MICROS),
        ("2024-08-09T01:56:00+02:00", MICROS),
        ("2024-08-08", MICROS - 86_160_000_000),
        ("1969-12-31T23:59:59.9999999Z", -1),
        ("soon", None),
        ("0x10", None),
        ("nan", None),
        ("", None),
        ("1e30", None),
        ("9" * 19, None),
        ("9" * 30, None),
        ("2256-01-01", None),
        ("24:00", None),
    ],
)
def test_times(text: str, expected: int | None) -> None:
    assert time_of(text) == expected
    values, bad = times(pa.array([text, None]))
    assert values.tolist() == [NO_TIME if expected is None else expected, NO_TIME]
    assert (bad is not None and bad.tolist()) == ([True, False] if expected is None and text else False)


TIME_TEXTS = st.one_of(
    st.integers(-(2**64), 2**64).map(str),
    st.integers(1_600_000_000, 1_800_000_000).map(str),
    st.datetimes(datetime(1900, 1, 1), datetime(2300, 1, 1)).map(datetime.isoformat),
    st.datetimes(datetime(1900, 1, 1), datetime(2300, 1, 1), timezones=st.just(UTC)).map(datetime.isoformat),
    st.floats().map(repr),
    st.sampled_from(["", "0x66", "+5", "2024-08-08T23:56:00.123456789Z", "2024-02-30", "x"]),
    st.text(max_size=12),
)


@given(st.lists(st.none() | TIME_TEXTS))
def test_a_column_of_times_is_its_times_one_by_one(column: list[str | None]) -> None:
    values, bad = times(pa.array(column, pa.string()))
    one_by_one = [time_of(text) if text else None for text in column]
    assert values.tolist() == [NO_TIME if time is None else time for time in one_by_one]
    expected_bad = [time is None and bool(text) for time, text in zip(one_by_one, column, strict=True)]
    assert (bad.tolist() if bad is not None else [False] * len(column)) == expected_bad


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
def test_whole_numbers_are_times_like_their_texts(column: list[int | None]) -> None:
    got, bad = times(pa.array(column, pa.int64()))
    expected, bad_expected = times(pa.array([None if value is None else str(value) for value in column], pa.string()))
    assert got.tolist() == expected.tolist()
    assert np.array_equal(bad if bad is not None else [], bad_expected if bad_expected is not None else [])


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_timestamps_of_parquet(unit: str, zone: str | None) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    array = pa.array([SECOND * per_second, None], pa.int64()).cast(pa.timestamp(unit, zone))
    values, bad = times(array)
    assert values.tolist() == [MICROS, NO_TIME]
    assert bad is None


def test_times_of_other_types() -> None:
    assert times(pa.array([SECOND * 1000.0, None]))[0].tolist() == [MICROS, NO_TIME]
    assert times(pa.array([MICROS], pa.uint64()))[0].tolist() == [MICROS]
    assert times(pa.array([2**64 - 1], pa.uint64()))[1] is not None
    assert times(pa.array([19943], pa.int32()).cast(pa.date32()))[0].tolist() == [19943 * 86_400_000_000]
    assert times(pa.array([True]))[1] is not None
    assert times(pa.array([math.nan, math.inf]))[1] is not None
    far = pa.array([2**62], pa.int64()).cast(pa.timestamp("s"))
    assert times(far)[0].tolist() == [NO_TIME]
    assert TIME_US_MAX == 2**53


@given(st.lists(st.none() | st.text(max_size=3)))
def test_texts_and_their_codes(column: list[str | None]) -> None:
    array = pa.array(column, pa.string())
    for same_array in (array, array.dictionary_encode(), array.cast(pa.large_string())):
        codes, names = texts(same_array)
        assert [names[code] if code >= 0 else None for code in codes.tolist()] == [text or None for text in column]


def test_texts_of_other_types() -> None:
    assert texts(pa.array([7, None]))[1] == ["7"]
    assert texts(pa.array([None]))[0].tolist() == [-1]
    for odd in (pa.array([True]), pa.array([1.5]), pa.array([[1]]), pa.array([b"\xff"])):
        codes, names = texts(odd)
        assert not is_key(names[codes[0]])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


def text_of(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else "()"


@given(st.lists(JSON))
@example([1, 1.5, True])
@example([1.5, True])
@example([2**53 + 1, 0.5])
def test_json_values_mean_what_their_texts_mean(values: list[object]) -> None:
    assert same(read_numbers(Objects.of(values)), [expected_number(text_of(value)) for value in values])


NUMBER_OBJECTS = st.lists(st.none() | st.integers() | st.integers(-(10**400), 10**400) | st.floats())
TIME_OBJECTS = st.lists(
    st.none()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False)
    | st.datetimes(datetime(1600, 1, 1), datetime(2400, 1, 1), timezones=st.just(UTC))
    | TEXTS
)


@given(NUMBER_OBJECTS)
@example([1.5, None, math.nan, -math.inf, -0.0, 10**400])
@example([2**53 + 1, -(2**63), 2**64])
def test_numbers_of_objects(values: list[Any]) -> None:
    expected = [expected_number(text_of(value)) for value in values]
    assert same(read_numbers(Objects.of(values)), expected)
    assert same(read_numbers(Objects(values, frozenset({int, float, str}))), expected)


@given(TIME_OBJECTS | st.lists(st.integers(-(2**63), 2**63 - 1)) | st.lists(st.integers(10**11, 10**18)))
@example([SECOND, SECOND * 1000, MICROS, MICROS * 1000])
@example([NO_TIME])
@example([datetime.fromtimestamp(SECOND, UTC), None])
def test_times_of_objects_are_those_of_their_texts(values: list[Any]) -> None:
    of_objects, bad = times(Objects.of(values))
    one_by_one = [time_of(text) if (text := text_of(value)) else None for value in values]
    assert of_objects.tolist() == [NO_TIME if time is None else time for time in one_by_one]
    expected_bad = [time is None and bool(text_of(value)) for time, value in zip(one_by_one, values, strict=True)]
    assert (bad.tolist() if bad is not None else [False] * len(values)) == expected_bad


@given(st.lists(st.none() | st.text(max_size=3)) | st.lists(st.none() | st.text(max_size=3) | st.integers()))
def test_texts_of_objects(values: list[Any]) -> None:
    codes, names = texts(Objects.of(values))
    assert [names[code] if code >= 0 else None for code in codes.tolist()] == [
        text_of(value) or None for value in values
    ]
    assert len(set(names)) == len(names)


def test_objects_are_taken_and_shown_one_by_one() -> None:
    column = Objects.of([None, 1, 1.5, "x", True, [1], datetime.fromtimestamp(0, UTC)])
    assert len(column) == 7
    assert column.take([1]).values == [1]
    assert [shown(column, place) for place in range(7)] == [
        *(None, "1", "1.5", "'x'", "'(bool value)'", "'(list value)'", "'1970-01-01T00:00:00+00:00'")
    ]


def test_values_are_shown_for_people() -> None:
    assert shown(pa.array(["x"]), 0) == "'x'"
    assert shown(pa.array([None, 1.5]), 1) == "1.5"
    assert shown(pa.array([SECOND * 10**9 + 1]).cast(pa.timestamp("ns")), 0) == str(SECOND * 10**9 + 1)
    assert shown(pa.array([None]), 0) is None


def broken_text() -> Any:
    """What a Parquet file can hold: a text column with bytes that are no UTF-8."""
    raw = pa.array([b"\xff\xfe", b"1"], pa.binary())
    return pa.Array.from_buffers(pa.string(), 2, raw.buffers())


def test_texts_that_are_no_utf8_can_not_be_read_and_raise_nothing() -> None:
    array = broken_text()
    assert texts(array)[1][0] == "\ufffd\ufffd"
    assert texts(array.dictionary_encode())[1][0] == "\ufffd\ufffd"
    assert read_numbers(array)[1] == (1.0, False)
    assert read_numbers(array)[0][1]
    bad = times(array)[1]
    assert bad is not None
    assert bad.tolist() == [True, False]
    assert shown(array, 0) == "'\ufffd\ufffd'"
