from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.decode import Decoder, Records
from feeds.fields import layout
from feeds.jsonlines import LineReader
from feeds.objects import KEYS_MAX
from feeds.ticks import COLUMNS, NO_TIME, Symbols
from feeds.values import FORMATS, Format

T = 1_700_000_000_000_000
FORMAT_NAMES = sorted(FORMATS)


def reader(name: str) -> Format:
    return FORMATS[name](lambda names: layout(names, {}))


def encode(name: str, value: object) -> bytes:
    return json.dumps(value).encode() if name == "json" else msgspec.msgpack.encode(value)


def rows(found: Records) -> list[object]:
    """Each row as a dict of its values but for notes, or what is wrong with it."""
    columns = {name: column.values for name, column in found.columns.items() if name != "note"}
    return [found.faults.get(row) or {name: columns[name][row] for name in columns} for row in range(found.rows)]


def read(name: str, values: Sequence[bytes]) -> tuple[list[object], list[int]]:
    """The rows of `values`, which are the same whether their keys are known or not; and where each came from."""
    format_ = reader(name)
    first, again = format_.records(values), format_.records(values)
    assert rows(again[0]) == rows(first[0])
    assert again[1].tolist() == first[1].tolist()
    assert first[1].dtype == again[1].dtype == np.int64
    return rows(first[0]), first[1].tolist()


# -- what a value holds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_value_holds_one_tick_or_several(name: str) -> None:
    values = [encode(name, value) for value in ({"s": "A"}, [{"s": "B"}, {"s": "C"}], [], {"s": "D"})]
    assert read(name, values) == ([{"s": "A"}, {"s": "B"}, {"s": "C"}, {"s": "D"}], [0, 1, 1, 3])


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_value_that_cannot_be_read_is_one_row_with_a_fault(name: str) -> None:
    good = encode(name, {"s": "A"})
    found, origin = read(name, [good, good[:-1], encode(name, 7), encode(name, [{"s": "A"}, 7]), b"", good])
    noun = {"json": "JSON object", "msgpack": "MessagePack map"}[name]
    assert origin == [0, 1, 2, 3, 3, 4, 5]
    assert found[0] == found[3] == found[6] == {"s": "A"}
    for place in (1, 2, 5):
        assert str(found[place]).startswith(f"expected a {noun}, was ")
    assert found[4] == f"expected an array of {noun}s"


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_no_values(name: str) -> None:
    assert read(name, []) == ([], [])
    assert read(name, [encode(name, [])] * 3) == ([], [])


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_only_known_keys_are_looked_at_once_they_are_learnt(name: str) -> None:
    format_ = reader(name)
    value = encode(name, {"s": "A", "bid": 1.5, "note": {"deep": [1]}, "class": 1, "a b": 2})
    assert set(format_.records([value])[0].columns) == {"s", "bid", "note", "class", "a b"}
    assert rows(format_.records([value, value])[0]) == [{"s": "A", "bid": 1.5}] * 2


@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize("later", ["1", 1.5, None, True, [1], {"x": 1}, 2**63, -(2**63), 1])
def test_a_key_may_change_its_type(name: str, later: object) -> None:
    format_ = reader(name)
    values = [encode(name, {"s": "A", "bid": value}) for value in (1, later)]
    for value in values[0], values[1], values[0], values[1]:
        found = rows(format_.records([value])[0])
        assert found == [{"s": "A", "bid": 1 if value == values[0] else later}]


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_keys_without_end_are_read_all_the_same(name: str) -> None:
    format_ = reader(name)
    for number in range(3 * KEYS_MAX):
        found, _ = format_.records([encode(name, {"s": "A", f"x{number}": 1})])
        assert rows(found) == [{"s": "A", f"x{number}": 1}]
    many = {"s": "A", **{f"x{number}": 1 for number in range(3 * KEYS_MAX)}, "bid": 1}
    assert rows(format_.records([encode(name, many)])[0]) == [{"s": "A", "bid": 1}]


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_deep_nesting_is_a_fault(name: str) -> None:
    deep = {"json": b'{"s":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "msgpack": b"\x81\xa1s" + b"\x91" * 100_000}[
        name
    ]
    found, _ = read(name, [encode(name, {"s": 1}), deep])
    assert str(found[1]).startswith("expected a ")


# -- JSON ----------------------------------------------------------------------------------------------------------


def test_json_may_be_written_over_several_lines() -> None:
    assert read("json", [b' {\n"s":"A"}\r\n', b'{"s":"B"}']) == ([{"s": "A"}, {"s": "B"}], [0, 1])


def test_json_of_two_objects_is_a_fault() -> None:
    found, origin = read("json", [b'{"s":"A"}', b'{"s":"A"}\n{"s":"B"}', b'{"s":"A"} {}'])
    assert origin == [0, 1, 2]
    assert [isinstance(row, dict) for row in found] == [True, False, False]


@pytest.mark.parametrize("rest", [b'"\xff"', b"1e400", b'{"\xff":[1e400]}'])
def test_what_is_not_looked_at_need_not_be_right(rest: bytes) -> None:
    values = [b'{"s":"A","note":1}', b'{"s":"B","note":' + rest + b"}", b'[{"s":"C","note":' + rest + b"}]"]
    format_ = reader("json")
    for _ in range(2):
        found, origin = format_.records(values)
        assert [column.values for key, column in found.columns.items() if key == "s"] == [["A", "B", "C"]]
        assert origin.tolist() == [0, 1, 2]
    assert read("json", [b'{"bid":' + rest + b"}"])[1] == [0]
    assert reader("json").records([b'{"bid":' + rest + b"}"])[0].faults


def test_of_a_key_that_comes_twice_the_last_is_taken() -> None:
    assert read("json", [b'{"s":"A","s":"B"}', b'{"s":1,"s":"B"}'])[0] == [{"s": "B"}] * 2


# -- MessagePack ---------------------------------------------------------------------------------------------------


def decoded(name: str, values: Sequence[bytes], format_: Format | None = None) -> list[tuple[Any, ...]]:
    """What `Decoder` makes of each row: key and values to the last bit, or why it has none; and where it came from."""
    symbols = Symbols()
    records, origin = (format_ or reader(name)).records(values)
    found = Decoder(symbols, symbols.part("test")).decode(records)
    row, _, *columns = (getattr(found.ticks, column).tolist() for column in COLUMNS)
    return [
        (symbols.names[row[at]], *(repr(column[at]) for column in columns), place)
        if row[at] >= 0
        else (row[at], found.reason(at), place)
        for at, place in enumerate(origin.tolist())
    ]


def tick(**values: object) -> dict[str, object]:
    return {"symbol": "A", "ts_event": T, "bid": 1.5, **values}


def test_timestamps_of_messagepack_are_times() -> None:
    when = datetime.fromtimestamp(T // 10**6, UTC).replace(microsecond=7526)
    values = [tick(ts_event=when), tick(ts_event=when.isoformat()), tick(ts_event=T + 7526)]
    of_all = decoded("msgpack", [encode("msgpack", value) for value in values])
    assert [row[2] for row in of_all] == [str(T + 7526)] * 3
    alone = decoded("msgpack", [encode("msgpack", values[0])])
    assert alone == of_all[:1]


@pytest.mark.parametrize(("nanoseconds", "expected"), [(7_526_400, 7526), (7_526_600, 7527)])
def test_timestamps_of_messagepack_are_rounded_to_the_microsecond(nanoseconds: int, expected: int) -> None:
    stamp = b"\xd7\xff" + struct.pack(">Q", nanoseconds << 34 | T // 10**6)
    value = encode("msgpack", tick(ts_event=0)).replace(b"ts_event\x00", b"ts_event" + stamp)
    assert decoded("msgpack", [value])[0][2] == str(T + expected)


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        ({"bid": b"1.5"}, "bid: expected a finite number, was '(bytes value)'"),
        ({"bid": math.nan}, "bid: expected a finite number, was nan"),
        ({"bid": -math.inf}, "bid: expected a finite number, was -inf"),
        ({"bid": datetime.fromtimestamp(0, UTC)}, "bid: expected a finite number, was '1970-01-01T00:00:00+00:00'"),
        ({"bid": msgspec.msgpack.Ext(5, b"x")}, "bid: expected a finite number, was '(Ext value)'"),
        ({"symbol": b"A"}, "symbol: expected a key of 1 to 64 printable characters"),
        ({"ts_event": b"1"}, "ts_event: expected s, ms, us or ns since 1970, or ISO 8601, was '(bytes value)'"),
    ],
)
def test_what_messagepack_has_besides_is_unreadable(odd: dict[str, object], expected: str) -> None:
    format_ = reader("msgpack")
    values = [encode("msgpack", tick(**odd)), encode("msgpack", tick())]
    for _ in range(2):
        found = decoded("msgpack", values, format_)
        assert found[0][1].startswith(expected)
        assert found[1][0] == "A"


@pytest.mark.parametrize("value", [{1: 2}, {b"s": "A"}, {(): 1}, [{"s": "A"}, {1: 2}], datetime.fromtimestamp(0, UTC)])
def test_maps_have_texts_as_keys(value: object) -> None:
    found, _ = read("msgpack", [encode("msgpack", value)])
    assert str(found[-1]).startswith("expected a")


# -- the fast way equals the slow one ------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from(
        [0, 1, 100, 2**53 + 1, 2**63, -(2**63), 2**64, 10**400, -0.0, 1.5, 1e308, "1.5", "-0", "1e400", "x"]
    ),
    st.floats(allow_nan=False, allow_infinity=False),
)
ODD = st.sampled_from([None, "", True, [1], {"x": 1}, "nan"])
PLAIN = st.fixed_dictionaries(
    {"symbol": st.sampled_from("ABC"), "ts_event": st.integers(T, T + 9)},
    optional={"bid": st.floats(1, 2), "ask": st.floats(1, 2), "price": st.floats(1, 2), "note": st.text(max_size=3)},
)
WILD = st.fixed_dictionaries(
    {},
    optional={
        "symbol": st.sampled_from(["A", "B", "no good"]) | NUMBERS | ODD,
        "venue": st.sampled_from(["X", "", None]) | ODD,
        "type": st.sampled_from(["quote", "trade", "other"]) | ODD,
        "ts_event": st.sampled_from([T, T + 10**8, T // 10**6, str(T), "2023-11-14T22:13:20Z", T / 10**6])
        | NUMBERS
        | ODD,
        "ts_recv": st.sampled_from([T, str(T), None]) | ODD,
        **dict.fromkeys(("bid", "bidSize", "ask", "ask_size", "price", "size"), NUMBERS | ODD),
        "note": NUMBERS | ODD,
    },
)
OBJECTS = st.one_of(PLAIN, WILD, st.lists(PLAIN | WILD | ODD, max_size=3))
JSON_TEXTS = st.sampled_from(
    [
        *(b"", b" ", b"{", b"{}{}", b"1", b"null", b"[]", b"[[]]", b"\xff", b'{"s":"A"}\n{"s":"B"}', b' {\n"s":"A"}'),
        *(b'{"bid":1e400,"symbol":"A"}', b'{"note":1e400,"symbol":"A"}', b'{"note":"\xff"}', b'{"bid":"\xff"}'),
        *(b'{"bid":1,"bid":"x"}', b'{"bid":1e400,"bid":1}', b'{"note":1e400,"note":1}', b'{"bid":-0,"ts":"5"}'),
        *(b'{"bid":1' + b"0" * 5000 + b"}", b'{"symbol":"\\ud800"}', b'{"symbol":"\\u0041","ts":1,"price":1}'),
        *(b'{"a":' * 5000, b'{"note":' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"symbol":"A","ts":1,"bid":1.}'),
    ]
)
MSGPACK_BYTES = st.sampled_from(
    [
        *(b"", b"\xc1", b"\x80", b"\x90", b"\x81\x01\x02", b"\x81\xa4note\xa1\xff", b"\x81\xa3bid\xa1\xff", b"\xc0"),
        *(b"\x81\xa3bid\xcf" + b"\xff" * 8, b"\x81\xa3bid\xd3\x80" + bytes(7), b"\x82\xa3bid\x01\xa3bid\xa1x"),
        *(b"\x81\xa3bid\xca" + struct.pack(">f", 0.1), b"\x81\xa3bid\xcb" + struct.pack(">d", math.nan)),
        *(b"\x81\xa2ts\xd6\xff" + struct.pack(">I", 5), b"\x81\xa2ts\xc7\x0c\xff" + struct.pack(">Iq", 5, 2**60)),
        *(b"\x81\xa1s\xc4\x01A", b"\x81\xa1s\xd4\x05A", b"\x91" * 5000, b"\x81\xa4note" + b"\x91" * 5000),
    ]
)


def packed(value: object) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:
        return b"\xc1"


WRITTEN = {"json": OBJECTS.map(lambda value: json.dumps(value).encode()), "msgpack": OBJECTS.map(packed)}
VALUES = {
    "json": st.one_of(WRITTEN["json"], JSON_TEXTS, st.binary(max_size=9)),
    "msgpack": st.one_of(WRITTEN["msgpack"], MSGPACK_BYTES, st.binary(max_size=9)),
}


@pytest.mark.parametrize("name", FORMAT_NAMES)
@given(st.data())
def test_known_keys_or_not_ticks_and_faults_and_reasons_are_the_same(name: str, data: st.DataObject) -> None:
    batch = st.lists(VALUES[name], max_size=5) | st.lists(WRITTEN[name], max_size=5)
    batches = data.draw(st.lists(batch, min_size=1, max_size=4))
    taught = reader(name)
    for values in [*batches, *batches]:
        of_all = decoded(name, values)
        assert decoded(name, values, taught) == of_all
        alone = [(place, row) for place, value in enumerate(values) for row in decoded(name, [value])]
        assert of_all == [(*row[:-1], place) for place, row in alone]


@pytest.mark.parametrize("name", FORMAT_NAMES)
@given(st.lists(st.binary(max_size=60)), st.lists(PLAIN, max_size=3))
def test_any_bytes_are_one_fault_or_ticks_and_nothing_is_raised(
    name: str, values: list[bytes], known: list[dict[str, object]]
) -> None:
    format_ = reader(name)
    format_.records([encode(name, value) for value in known])
    found, origin = format_.records(values)
    assert len(origin) == found.rows
    assert set(origin.tolist()) <= set(range(len(values)))
    assert [*origin] == sorted(origin)
    assert set(range(len(values))) - set(origin.tolist()) <= {
        place for place, value in enumerate(values) if value.strip() in {b"[]", b"\x90", b"\xdc\0\0", b"\xdd\0\0\0\0"}
    }


@given(st.lists(PLAIN.map(lambda value: json.dumps(value).encode()), max_size=5))
def test_a_line_of_a_file_means_what_a_value_of_a_log_means(values: list[bytes]) -> None:
    lines = LineReader(lambda names: layout(names, {})).records(b"".join(value + b"\n" for value in values))
    assert rows(lines) == read("json", values)[0] or not values


def test_no_time_is_no_time_that_can_be_said() -> None:
    assert decoded("json", [b'{"symbol":"A","bid":1,"ts":%d}' % NO_TIME])[0][1].startswith("ts_event: expected s, ms")
