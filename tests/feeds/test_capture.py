"""Raw captures: the message of each stream as a row, and the rows that were made from real ones."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from feeds.capture import records
from feeds.convert import Objects
from feeds.decode import Decoder
from feeds.log import Log
from feeds.ticks import Symbols
from tests.feeds.conftest import T0

DATA = Path(__file__).parents[3] / "shared" / "data"
T = T0 // 1000
LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "spot quote": (
        '{"stream":"a@bookTicker","data":{"u":5,"s":"AB","b":"1.50","B":"2","a":"1.6","A":"3"}}',
        {"venue": "binance-spot", "type": "quote", "bid": "1.50", "bid_size": "2", "ask": "1.6", "ask_size": "3"},
    ),
    "usd-margined quote": (
        f'{{"e":"bookTicker","u":5,"s":"AB","b":"1","B":"2","a":"3","A":"4","T":{T - 1},"E":{T}}}',
        {
            "venue": "binance-usdm",
            "type": "quote",
            "bid": "1",
            "bid_size": "2",
            "ask": "3",
            "ask_size": "4",
            "ts_event": T,
        },
    ),
    "coin-margined quote": (
        f'{{"e":"bookTicker","u":5,"s":"AB_PERP","ps":"AB","b":"1","B":"2","a":"3","A":"4","T":{T - 1},"E":{T}}}',
        {"venue": "binance-coinm", "symbol": "AB_PERP", "type": "quote", "bid": "1", "ts_event": T},
    ),
    "spot trade": (
        f'{{"e":"trade","E":{T},"s":"AB","t":7,"p":"1.5","q":"2","T":{T - 1},"m":false,"M":true}}',
        {"venue": "binance-spot", "type": "trade", "price": "1.5", "size": "2", "ts_event": T, "trade_id": 7},
    ),
    "usd-margined trade": (
        f'{{"e":"aggTrade","E":{T},"s":"AB","a":7,"p":"1.5","q":"2","f":1,"l":1,"T":{T - 1},"m":false}}',
        {"venue": "binance-usdm", "price": "1.5", "size": "2", "ts_event": T, "trade_id": 7, "is_buyer_maker": False},
    ),
    "usd-margined trade of a delivery": (
        f'{{"e":"aggTrade","E":{T},"s":"ABUSDT_240927","p":"1.5","q":"2","T":{T - 1},"m":false}}',
        {"venue": "binance-usdm", "symbol": "ABUSDT_240927", "type": "trade"},
    ),
    "coin-margined trade": (
        f'{{"e":"trade","E":{T},"s":"ABUSD_240927","t":7,"p":"1.5","q":"2","T":{T - 1},"m":false}}',
        {"venue": "binance-coinm", "symbol": "ABUSD_240927", "type": "trade", "price": "1.5", "size": "2"},
    ),
}


def row_of(line: bytes) -> dict[str, Any]:
    made = records(line)
    assert (made.rows, made.faults) == (1, {})
    return {name: column.values[0] for name, column in made.columns.items() if isinstance(column, Objects)}


@pytest.mark.parametrize("case", LINES)
def test_each_stream_is_told_from_its_message(case: str) -> None:
    message, expected = LINES[case]
    row = row_of(b"1723161360007526485 " + message.encode() + b"\n")
    assert row["ts_recv"] == 1723161360007526485
    assert expected.items() <= row.items()


@pytest.mark.parametrize(
    "message",
    [
        '{"e":"depthUpdate","E":1,"s":"AB","b":[],"a":[]}',
        '{"e":"markPriceUpdate","E":1,"s":"AB","p":"1"}',
        '{"e":["trade"],"s":"AB","p":"1"}',
        '{"stream":"a@trade","data":[]}',
        '{"result":null,"id":1}',
        "[]",
    ],
)
def test_other_messages_are_passed_over(message: str) -> None:
    assert records(b"1723161360007526485 " + message.encode() + b"\n").rows == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"e":"trade","s":"AB","p":{"a":1},"q":"2"}', "price: expected a finite number, was '(dict value)'"),
        ('{"e":"trade","s":"AB","p":true,"q":"2"}', "price: expected a finite number, was '(bool value)'"),
        ('{"e":"trade","s":"AB","q":"2"}', "price: expected one in a trade, was none"),
        ('{"e":"trade","s":"A B","p":"1"}', "symbol: expected a key of 1 to 64 printable characters"),
        ('{"e":"trade","s":"AB","p":"1","E":"soon"}', "ts_event: expected s, ms, us or ns since 1970"),
        ('{"e":"trade","s":"AB","p":"1","E":' + "9" * 30 + "}", "ts_event: expected s, ms, us or ns since 1970"),
    ],
)
def test_a_message_with_something_else_in_it_breaks_its_own_row_alone(line: str, said: str) -> None:
    good = LINES["spot trade"][0].replace("AB", "GOOD")
    lines = "".join(f"{T0 * 1000} {each}\n" for each in (good, line, good))
    symbols = Symbols()
    decoded = Decoder(symbols, 0).decode(records(lines.encode()))
    assert [place for place in range(3) if decoded.ticks.row[place] >= 0] == [0, 2]
    assert decoded.reason(1).startswith(said)


def test_a_number_may_stand_where_a_text_does() -> None:
    line = '{"e":"trade","s":"AB","p":1.5,"q":2,"E":null,"T":1723161360007,"M":true}'
    row = row_of(b"1723161360007526485 " + line.encode() + b"\n")
    assert (row["price"], row["size"], row["ts_event"]) == (1.5, 2, 1723161360007)


def test_a_time_past_all_times_breaks_its_own_row_alone() -> None:
    lines = f"{'9' * 50} {LINES['spot quote'][0]}\n".encode()
    decoded = Decoder(Symbols(), 0).decode(records(lines))
    assert decoded.reason(0).startswith("ts_recv: expected s, ms, us or ns since 1970")


def test_a_line_that_is_no_capture_is_a_row_that_cannot_be_read() -> None:
    made = records(b"1723161360007526485 {\nsoon {}\n-5 {}\n")
    assert made.rows == 3
    assert made.faults == {
        0: "expected a time in ns and a message of JSON, was b'1723161360007526485 {'",
        1: "expected a time in ns and a message of JSON, was b'soon {}'",
        2: "expected a time in ns and a message of JSON, was b'-5 {}'",
    }


def test_a_file_is_told_from_its_content(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    lines = [f"{(T0 + at) * 1000} {LINES['spot quote'][0]}" for at in range(3)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    log = Log([path])
    assert [block.time.tolist() for block in log.blocks()] == [[T0, T0 + 1, T0 + 2]]
    assert log.symbols.names == ["binance-spot:AB"]


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is absent")
def test_real_captures_are_the_rows_that_were_made_from_them() -> None:
    captured = ticks_of(sorted((DATA / "hftbacktest").iterdir()))
    assert len(captured) == 81_781
    assert captured == ticks_of([DATA / "binance6" / "binance6_l1.parquet"])


def ticks_of(files: list[Path]) -> list[tuple[str, ...]]:
    """All columns of each tick but its number, sorted: files that are merged by the microsecond may tie."""
    log = Log(files)
    names = ("kind", "ts_event", "ts_recv", "bid", "bid_size", "ask", "ask_size", "price", "size")
    rows: list[tuple[str, ...]] = []
    for block in log.blocks():
        columns = [getattr(block.ticks, name).tolist() for name in names]
        keys = [log.symbols.names[row] for row in block.ticks.row.tolist()]
        rows += [tuple(map(repr, row)) for row in zip(keys, *columns, strict=True)]
    return sorted(rows)
