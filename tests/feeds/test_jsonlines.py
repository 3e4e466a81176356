from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from feeds.decode import Records
from feeds.fields import layout
from feeds.jsonlines import LineReader, without_blank_lines
from feeds.objects import KEYS_MAX


def reader() -> LineReader:
    return LineReader(lambda names: layout(names, {}))


def rows(found: Records) -> list[object]:
    """Each row as a dict of its values, or the word "fault"."""
    return [
        "fault" if row in found.faults else {name: column.values[row] for name, column in found.columns.items()}
        for row in range(found.rows)
    ]


LINES = st.one_of(
    st.dictionaries(st.sampled_from(["s", "bid", "price", "T", "other"]), st.integers(0, 9) | st.text(max_size=3)).map(
        lambda value: json.dumps(value).encode()
    ),
    st.sampled_from(
        [
            b"",
            b"  ",
            b"{",
            b"}",
            b"[]",
            b"[{}]",
            b"1",
            b'{"s":',
            b"1}",
            b'{"a":[{}',
            b"{}]}",
            b"{} {}",
            b"{},{}",
            b"\xff",
        ]
    ),
    st.binary(max_size=6).map(lambda line: line.replace(b"\n", b"")),
)


def is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.decode(), parse_constant=lambda _: 1 / 0), dict)
    except (ValueError, ZeroDivisionError):
        return False


@given(st.lists(st.lists(LINES), max_size=3), st.sampled_from([b"\n", b"\r\n"]))
@example([[b'{"s":1}'], [b'{"s":', b"1}", b'{"s":2} {"s":3}']], b"\n")
@example([[b'{"s":1}'], [b'{"s":[{}', b"{}]}", b'{"s":2} {"s":3}']], b"\n")
def test_each_line_is_one_object_or_one_fault(blocks: list[list[bytes]], newline: bytes) -> None:
    read = reader()
    for lines in blocks:
        found = read.records(b"".join(line + newline for line in lines))
        filled = [line for line in lines if line.strip()]
        assert [row != "fault" for row in rows(found)] == [is_object(line) for line in filled]
        for row, line in zip(rows(found), filled, strict=True):
            if isinstance(row, dict) and len(found.columns):
                held = {key: value for key, value in json.loads(line).items() if key in row and value is not None}
                assert {key: text(value) for key, value in row.items() if value is not None} == {
                    key: text(value) for key, value in held.items()
                }


def text(value: object) -> str:
    return str(value)


@given(st.lists(st.binary(max_size=200)))
def test_any_bytes_at_all(blocks: list[bytes]) -> None:
    read = reader()
    for block in blocks:
        read.records(block + b"\n")


def test_only_known_keys_are_looked_at_once_they_are_learnt() -> None:
    read = reader()
    line = b'{"s":"A","bid":"1.5","note":{"deep":[1]},"class":1,"a b":2}\n'
    assert set(read.records(line).columns) == {"s", "bid", "note", "class", "a b"}
    assert rows(read.records(line + line)) == [{"s": "A", "bid": "1.5"}] * 2


def test_a_new_key_is_never_passed_over() -> None:
    read = reader()
    read.records(b'{"s":"A"}\n')
    assert rows(read.records(b'{"s":"A","bid":2}\n')) == [{"s": "A", "bid": 2}]


def test_keys_without_end_are_read_the_slow_way() -> None:
    read = reader()
    for number in range(3 * KEYS_MAX):
        assert rows(read.records(b'{"s":"A","x%d":1}\n' % number)) == [{"s": "A", f"x{number}": 1}]
        assert len(read._objects._kinds) <= KEYS_MAX


def test_deep_nesting_is_a_fault() -> None:
    found = reader().records(b'{"s":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n")
    assert list(found.faults) == [0]


def test_a_fault_shows_the_start_of_the_line() -> None:
    found = reader().records(b"[1,2]\n" + b"x" * 100 + b"\n")
    assert found.faults[0] == "expected a JSON object, was '[1,2]'"
    assert found.faults[1].startswith("expected a JSON object, was '" + "x" * 40 + "'...")


def test_blank_lines() -> None:
    assert without_blank_lines(b"a\n \n\nb\n") == b"a\nb\n"
    assert without_blank_lines(b"\n") == b""
    assert reader().records(b"\n \r\n") == Records({}, 0)
