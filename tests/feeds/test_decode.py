from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feeds.convert import TIME_US_MAX, number_of, time_of
from feeds.decode import AHEAD_US_MAX, UNREADABLE, UNWANTED, Decoder, Records, Wanted
from feeds.objects import records
from feeds.ticks import BUY, COLUMNS, NO_SIDE, NO_TIME, QUOTE, REFUSED, SELL, TRADE, Symbols, is_key
from tests.feeds.conftest import sides_and_ids

T = 1_700_000_000_000_000


def decode(rows: Sequence[dict[str, Any]], **how: Any) -> tuple[list[tuple[Any, ...]], list[str], Symbols]:
    """What becomes of each row: (key, kind, event, recv, values...) or a word; and the reasons of the unreadable."""
    symbols = Symbols()
    decoded = Decoder(symbols, symbols.part("test"), **how).decode(records(rows))
    ticks = decoded.ticks
    out: list[Any] = []
    for i in range(len(ticks)):
        row = int(ticks.row[i])
        words = {UNREADABLE: "unreadable", UNWANTED: "unwanted", REFUSED: "refused"}
        values = [repr(float(getattr(ticks, name)[i])) for name in COLUMNS[5:]]
        kind, event, recv = int(ticks.kind[i]), int(ticks.ts_event[i]), int(ticks.ts_recv[i])
        out.append((words[row],) if row < 0 else (symbols.names[row], kind, event, recv, *values))
    reasons = [decoded.reason(i) for i in np.flatnonzero(ticks.row == UNREADABLE).tolist()]
    return out, reasons, symbols


def reason(**row: Any) -> str:
    out, reasons, _ = decode([{"symbol": "A", "ts_recv": T, **row}])
    assert out == [("unreadable",)]
    return reasons[0]


def tick(**row: Any) -> tuple[Any, ...]:
    out, reasons, _ = decode([{"symbol": "A", "ts_recv": T, **row}])
    assert not reasons
    return out[0]


def test_a_quote() -> None:
    got = tick(type="quote", ts_event=T + 1, bid="1.10", bid_size=2, ask=1.2, ask_size="3")
    assert got == ("A", QUOTE, T + 1, T, "1.1", "2.0", "1.2", "3.0", "nan", "nan")


def test_a_trade() -> None:
    got = tick(venue="X", type="trade", price="-37.63", size="0.5", side="buy", trade_id=1)
    assert got == ("X:A", TRADE, NO_TIME, T, "nan", "nan", "nan", "nan", "-37.63", "0.5")


@pytest.mark.parametrize(
    ("word", "side"),
    [
        *(("buy", BUY), ("Sell", SELL), ("B", BUY), ("A", SELL), ("N", NO_SIDE), ("unknown", NO_SIDE), ("", NO_SIDE)),
        *((True, SELL), (False, BUY), (None, NO_SIDE), (7, NO_SIDE), ([], NO_SIDE)),
    ],
)
def test_sides(word: object, side: int) -> None:
    """Yes and no tell whether the buyer was the maker."""
    symbols = Symbols()
    rows = [{"symbol": "A", "ts_recv": T, "price": 1, "m": word}, {"symbol": "A", "ts_recv": T, "bid": 1, "m": "buy"}]
    ticks = Decoder(symbols, symbols.part("test")).decode(records(rows)).ticks
    assert ticks.sides.tolist() == [side, NO_SIDE]
    assert (ticks.side is None) == (side == NO_SIDE)


@pytest.mark.parametrize(
    ("name", "trade_id"),
    [
        (7, "7"),
        ("007", "007"),
        ("x" * 64, "x" * 64),
        ("x" * 65, None),
        ("", None),
        (None, None),
        ([], None),
        (1.5, None),
    ],
)
def test_trade_ids(name: object, trade_id: str | None) -> None:
    symbols = Symbols()
    rows = [{"symbol": "A", "ts_recv": T, "price": 1, "id": name}, {"symbol": "A", "ts_recv": T, "bid": 1, "id": "q"}]
    for some in (rows, rows[:1]):
        ticks = Decoder(symbols, symbols.part("test")).decode(records(some)).ticks
        assert sides_and_ids(ticks)[0] == (NO_SIDE, trade_id)
        assert ticks.trade_id is None or ticks.trade_id.to_pylist()[1:] in ([], [None])


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"bid": 1}, QUOTE),
        ({"ask_size": 1}, QUOTE),
        ({"price": 1}, TRADE),
        ({"price": 1, "bid": None, "ask": ""}, TRADE),
        ({"e": "bookTicker", "b": 1}, QUOTE),
        ({"e": "aggTrade", "p": 1}, TRADE),
        ({"action": "T", "price": 1, "bid_px_00": 2}, TRADE),
        ({"action": "A", "price": 1, "bid_px_00": 2}, QUOTE),
        ({"type": "QUOTE", "bid": None}, QUOTE),
        ({"type": "trade", "price": 1, "bid": "junk", "bid_size": -1}, TRADE),
        ({"type": "quote", "bid": 1, "price": "junk", "size": math.pi}, QUOTE),
    ],
)
def test_kinds(row: dict[str, Any], kind: int) -> None:
    assert tick(**row)[1] == kind


def test_a_quote_replaces_all_four_and_may_empty_the_book() -> None:
    assert tick(type="quote", bid=1)[4:] == ("1.0", *["nan"] * 5)
    assert tick(type="quote")[4:] == ("nan",) * 6


@pytest.mark.parametrize(
    "row", [{"bid": 2, "ask": 1}, {"bid": 1, "bid_size": 0, "ask": 0, "ask_size": "0.000"}, {"price": 0, "size": 0}]
)
def test_crossed_quotes_and_zeros_are_data(row: dict[str, Any]) -> None:
    assert tick(**row)[0] == "A"


def test_a_trade_may_lack_a_size() -> None:
    assert tick(price=1)[-2:] == ("1.0", "nan")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"bid": "abc"}, "bid: expected a finite number, was 'abc'"),
        ({"bid": "NaN"}, "bid: expected a finite number, was 'NaN'"),
        ({"ask": "-inf"}, "ask: expected a finite number, was '-inf'"),
        ({"price": "1e999"}, "price: expected a finite number, was '1e999'"),
        ({"bid": True}, "bid: expected a finite number, was '(bool value)'"),
        ({"bid": [1]}, "bid: expected a finite number, was '(list value)'"),
        ({"bid": "x" * 99}, f"bid: expected a finite number, was '{'x' * 39}..."),
        ({"bid": 1, "bid_size": -1}, "bid_size: expected a size of 0 or more, was -1"),
        ({"price": 1, "size": "-0.5"}, "size: expected a size of 0 or more, was '-0.5'"),
        ({"type": "trade", "size": 1}, "price: expected one in a trade, was none"),
        ({"size": 1}, "price: expected one in a trade, was none"),
        ({"symbol": None, "bid": 1}, "symbol: expected one, was none"),
        ({"symbol": "", "bid": 1}, "symbol: expected one, was none"),
        ({"symbol": True, "bid": 1}, "symbol: expected a key of 1 to 64 printable characters"),
        ({"symbol": "A B", "bid": 1}, "symbol: expected a key of 1 to 64 printable characters"),
        ({"venue": "x" * 63, "bid": 1}, "symbol: expected a key of 1 to 64 printable characters"),
        ({"type": "depthUpdate", "bid": 1}, "type: expected quote or trade, was 'depthUpdate'"),
        ({}, "type: expected fields of a quote or a trade, was none"),
        ({"bid": 1, "price": 1}, "type: expected one where a row has fields of a quote and a trade, was none"),
        ({"bid": 1, "ts_recv": None}, "ts_event: expected a time there or in ts_recv, was none"),
        ({"bid": 1, "ts_recv": "noon"}, "ts_recv: expected s, ms, us or ns since 1970, or ISO 8601, was 'noon'"),
        ({"bid": 1, "ts_event": T + AHEAD_US_MAX + 1}, "ts_event: expected at most 60 s ahead of ts_recv, was"),
    ],
)
def test_reasons(row: dict[str, Any], expected: str) -> None:
    assert reason(**row).startswith(expected)


def test_a_minute_ahead_is_not_too_far_and_behind_is_never() -> None:
    assert tick(bid=1, ts_event=T + AHEAD_US_MAX)[2] == T + AHEAD_US_MAX
    assert tick(bid=1, ts_event=1)[2] == 1_000_000
    assert tick(bid=1, ts_recv=None, ts_event="2200-01-01")[0] == "A"


def test_the_first_source_with_a_value_is_taken() -> None:
    assert tick(T=None, E=T + 5, bid=1)[2] == T + 5
    assert tick(E=T + 5, T=T + 6, bid=1)[2] == T + 6
    assert reason(bid="junk", b=1).startswith("bid")


def test_mapped_names_are_used_instead() -> None:
    out, _, _ = decode([{"symbol": "A", "px": 3, "price": 4, "when": T}], renamed={"price": "px", "ts_event": "when"})
    assert out[0][:3] == ("A", TRADE, T)
    assert out[0][-2] == "3.0"


def test_symbols_get_rows_as_they_first_come() -> None:
    rows = [{"symbol": name, "ts_recv": T, "bid": 1} for name in "CABCA"]
    assert decode(rows)[2].names == ["C", "A", "B"]


def test_only_what_is_wanted_is_claimed() -> None:
    rows = [{"symbol": name, "ts_recv": T + at, "bid": 1} for at, name in enumerate("ABCA")]
    out, _, symbols = decode(rows, wanted=Wanted(key=lambda key: key != "B", start_us=T + 1, end_us=T + 4))
    assert [row[0] for row in out] == ["unwanted", "unwanted", "C", "A"]
    assert symbols.names == ["C", "A"]


def test_a_symbol_of_another_part_is_refused_and_said_once() -> None:
    symbols = Symbols()
    symbols.claim("A", symbols.part("sim"))
    decoder = Decoder(symbols, symbols.part("replay"))
    rows = [{"symbol": name, "ts_recv": T, "bid": 1} for name in "ABA"]
    first, second = decoder.decode(records(rows)), decoder.decode(records(rows))
    assert first.ticks.row.tolist() == [REFUSED, 1, REFUSED]
    assert (first.refused, second.refused) == (("A",), ())


# -- records of several parts, and the log's own times -------------------------------------------------------------


def test_each_part_of_a_log_claims_for_itself() -> None:
    symbols = Symbols()
    first, second = symbols.part("kafka", "0"), symbols.part("kafka", "1")
    rows = [{"symbol": name, "ts_recv": T, "bid": 1} for name in "ABAB"]
    decoder = Decoder(symbols, first)
    found = decoder.decode(records(rows), parts=np.array([second, first, first, first]))
    assert found.ticks.row.tolist() == [0, 1, REFUSED, 1]
    assert found.refused == ("A",)
    assert symbols.owner == [second, first]
    assert decoder.decode(records(rows)).ticks.row.tolist() == [REFUSED, 1, REFUSED, 1]
    assert decoder.decode(records([]), parts=np.zeros(0, np.int64)).ticks.row.tolist() == []


@pytest.mark.parametrize("spread", [1, 10**6])
def test_a_claim_is_asked_once_for_each_key_and_part_where_it_first_comes(spread: int) -> None:
    asked: list[tuple[str, int, int]] = []

    def claim(key: str, part: int, place: int) -> int:
        asked.append((key, part, place))
        return REFUSED if key == "X:B" else len(asked)

    rows: list[dict[str, Any]] = [{"symbol": name, "ts_recv": T, "bid": 1} for name in "A?ABBAA"]
    rows[3]["venue"] = rows[4]["venue"] = "X"
    rows[1]["symbol"] = "no key"
    rows[2]["bid"] = "unreadable"
    symbols = Symbols()
    wanted = Wanted(key=lambda key: key != "C", start_us=T)
    decoder = Decoder(symbols, 0, claim=claim, wanted=wanted)
    more = [{"symbol": "C", "ts_recv": T, "bid": 1}, {"symbol": "D", "ts_recv": T - 1, "bid": 1}]
    parts = 5 + spread * np.array([0, 0, 0, 1, 1, 1, 0, 0, 0])
    found = decoder.decode(records([*rows, *more]), parts=parts)
    assert asked == [("A", 5, 0), ("X:B", 5 + spread, 3), ("A", 5 + spread, 5)]
    expected = [1, UNREADABLE, UNREADABLE, REFUSED, REFUSED, 3, 1, UNWANTED, UNWANTED]
    assert found.ticks.row.tolist() == expected
    assert found.unreadable.tolist() == [1, 2]
    assert found.refused == ("X:B",)
    assert len(symbols) == 0


def logged(row: dict[str, Any], at: int, **how: Any) -> tuple[Any, ...]:
    """(row, ts_event, ts_recv) of a quote that the log has at time `at`, or why it is unreadable."""
    symbols = Symbols()
    found = Decoder(symbols, symbols.part("x"), **how).decode(
        records([{"symbol": "A", "bid": 1, **row}]), logged=np.array([at])
    )
    if len(found.unreadable):
        return (found.reason(0),)
    return int(found.ticks.row[0]), int(found.ticks.ts_event[0]), int(found.ticks.ts_recv[0])


def test_the_log_s_time_is_the_receive_time_of_a_row_without_any() -> None:
    assert logged({}, T) == (0, NO_TIME, T)
    assert logged({"ts_event": T + 5}, T) == (0, T + 5, NO_TIME)
    assert logged({"ts_recv": T + 5}, T) == (0, NO_TIME, T + 5)


@pytest.mark.parametrize("unknown", [NO_TIME, TIME_US_MAX, -TIME_US_MAX, 2**63 - 1, NO_TIME + 1])
def test_a_log_may_not_know_its_time(unknown: int) -> None:
    assert logged({}, unknown) == ("ts_event: expected a time there or in ts_recv, was none",)
    assert logged({"ts_event": "2200-01-01"}, unknown)[0] == 0
    assert logged({"ts_event": -1}, unknown)[:2] == (0, -1_000_000)


def test_a_venue_time_is_held_against_the_receive_time_else_the_log_s() -> None:
    late = T + AHEAD_US_MAX
    assert logged({"ts_event": late}, T) == (0, late, NO_TIME)
    assert logged({"ts_event": late + 1}, T) == (
        f"ts_event: expected at most 60 s ahead of the log's time, was {late + 1}",
    )
    assert logged({"ts_event": late + 1, "ts_recv": T}, late) == (
        f"ts_event: expected at most 60 s ahead of ts_recv, was {late + 1}",
    )
    assert logged({"ts_event": late + 1, "ts_recv": late}, T)[0] == 0
    assert logged({"ts_event": 1}, T)[0] == 0


def test_what_is_wanted_is_told_from_the_time_that_a_row_ends_up_with() -> None:
    wanted = Wanted(start_us=T)
    assert logged({}, T, wanted=wanted)[0] == 0
    assert logged({}, T - 1, wanted=wanted)[0] == UNWANTED
    assert logged({"ts_event": T}, T - 1, wanted=wanted)[0] == 0


def test_a_time_that_cannot_be_read_is_none_that_the_log_s_stands_in_for() -> None:
    assert logged({"ts_event": "noon"}, T)[0].startswith("ts_event: expected s, ms, us or ns since 1970")


def test_the_unreadable_are_told() -> None:
    symbols = Symbols()
    rows = [{"symbol": "A", "ts_recv": T, "bid": bid} for bid in (1, "x", 2, "y")]
    assert Decoder(symbols, symbols.part("x")).decode(records(rows)).unreadable.tolist() == [1, 3]


def test_faults_of_the_format_come_first() -> None:
    columns = {"symbol": pa.array(["A", None]), "ts_recv": pa.array([T, None]), "bid": pa.array([1, None])}
    symbols = Symbols()
    decoded = Decoder(symbols, symbols.part("x")).decode(Records(columns, 2, {1: "cut off"}))
    assert decoded.ticks.row.tolist() == [0, UNREADABLE]
    assert decoded.reason(1) == "cut off"


def test_no_rows() -> None:
    assert decode([])[0] == []


# -- the vectorised decoder equals a plain one, row by row --------------------------------------------------------


def plain(row: dict[str, Any]) -> tuple[Any, ...]:
    """A row's outcome by the rules, one value at a time: texts, or None."""
    value = {name: None if row.get(name) in {None, ""} else str(row[name]) for name in row}

    def read(name: str) -> float | None:
        text = value.get(name)
        number = None if text is None else number_of(text)
        if text is not None and (number is None or not math.isfinite(number)):
            raise ValueError
        return number

    try:
        quoted = any(value.get(name) for name in ("bid", "bid_size", "ask", "ask_size"))
        traded = any(value.get(name) for name in ("price", "size"))
        told = {(True, False): "quote", (False, True): "trade"}.get((quoted, traded), "")
        kind = {"quote": QUOTE, "trade": TRADE}[value.get("type") or told]
        times: list[int] = []
        for name in ("ts_event", "ts_recv"):
            text = value.get(name)
            time = NO_TIME if text is None else time_of(text)
            if time is None:
                return ("unreadable",)
            times.append(time)
        event, recv = times
        if event == recv == NO_TIME or (NO_TIME not in times and event - recv > AHEAD_US_MAX):
            return ("unreadable",)
        names = ("bid", "bid_size", "ask", "ask_size") if kind == QUOTE else ("price", "size")
        numbers = {name: read(name) for name in names}
        if any((numbers.get(name) or 0) < 0 for name in ("bid_size", "ask_size", "size")):
            return ("unreadable",)
        if kind == TRADE and numbers["price"] is None:
            return ("unreadable",)
        symbol = value.get("symbol") or ""
        key = f"{value['venue']}:{symbol}" if value.get("venue") else symbol
        if not symbol or not is_key(key):
            return ("unreadable",)
    except (ValueError, KeyError):
        return ("unreadable",)
    shown = [numbers.get(name) for name in COLUMNS[5:]]
    return (key, kind, event, recv, *(repr(math.nan if number is None else number) for number in shown))


NUMBER = st.sampled_from(["1", "2.5", "-3", "0", "1e3", "", None, "x", "nan", "-0.1", "inf"])
TIME = st.sampled_from([str(T), str(T + 10**8), "1700000000", "2023-11-14T22:13:20Z", "", None, "x", "1700000000000"])
ROW = st.fixed_dictionaries(
    {},
    optional={
        "symbol": st.sampled_from(["A", "B", "", None, "no good"]),
        "venue": st.sampled_from(["X", "Y", "", None, "x" * 63]),
        "type": st.sampled_from(["quote", "trade", "", None, "other"]),
        "ts_event": TIME,
        "ts_recv": TIME,
        **dict.fromkeys(("bid", "bid_size", "ask", "ask_size", "price", "size"), NUMBER),
    },
)


@given(st.lists(ROW, max_size=8))
@example(
    [{"symbol": "A", "ts_recv": str(T), "price": "1"}, {"symbol": "B", "venue": "X", "ts_recv": str(T), "bid": "1"}]
)
def test_all_rows_at_once_are_decoded_like_each_alone(rows: list[dict[str, Any]]) -> None:
    out, reasons, _ = decode(rows)
    assert out == [plain(row) for row in rows]
    assert len(reasons) == out.count(("unreadable",))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from([*"sTEbBaApqem", "price", "id", "venue", "ts_recv", "junk"]), JSON), max_size=6
    )
)
def test_whatever_the_values_are_nothing_is_raised(rows: list[dict[str, Any]]) -> None:
    out, reasons, _ = decode(rows)
    assert len(out) == len(rows)
    assert all("\n" not in reason for reason in reasons)
