"""What is written of ticks is read back as the same ticks, to the last bit."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.decode import Decoder
from feeds.encode import ENCODERS, values
from feeds.ticks import COLUMNS, NO_TIME, QUOTE, TRADE, Symbols, Ticks
from feeds.values import FORMATS
from tests.feeds.conftest import sides_and_ids

T0 = 1_723_161_600_000_000
#: Times that readers take for microseconds: from 1973 to 2255.
TIMES = st.integers(10**14, 2**53 - 1 - 60_000_000)
#: How far a venue's clock is from ours; further ahead, and the tick would be none.
AHEAD_US = st.integers(-(10**9), 60_000_000)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SIZES = st.floats(0, allow_infinity=False)
KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\"',\\"), min_size=1, max_size=64)
IDS = st.text(min_size=1, max_size=16)
NAN = st.just(np.nan)


@st.composite
def ticks_of_one(draw: st.DrawFn) -> dict[str, Any]:
    recv = draw(TIMES)
    event = max(10**14, recv + draw(AHEAD_US))
    which = draw(st.sampled_from(["both", "event", "recv"]))
    tick: dict[str, Any] = {
        "kind": draw(st.sampled_from([QUOTE, TRADE])),
        "ts_event": NO_TIME if which == "recv" else event,
        "ts_recv": NO_TIME if which == "event" else recv,
        **dict.fromkeys(("bid", "bid_size", "ask", "ask_size", "price", "size"), np.nan),
    }
    if tick["kind"] == QUOTE:
        tick |= {"bid": draw(NUMBERS | NAN), "bid_size": draw(SIZES | NAN)}
        tick |= {"ask": draw(NUMBERS | NAN), "ask_size": draw(SIZES | NAN)}
    else:
        tick |= {"price": draw(NUMBERS), "size": draw(SIZES | NAN)}
        tick |= {"side": draw(st.integers(0, 2)), "trade_id": draw(st.none() | IDS)}
    return tick


def batch(rows: list[int], ticks: list[dict[str, Any]]) -> Ticks:
    dtypes = {"kind": np.uint8, "ts_event": np.int64, "ts_recv": np.int64}
    columns: dict[str, Any] = {
        name: np.array([tick[name] for tick in ticks], dtypes.get(name, np.float64)) for name in COLUMNS[2:]
    }
    columns["side"] = np.array([tick.get("side", 0) for tick in ticks], np.uint8)
    columns["trade_id"] = pa.array([tick.get("trade_id") for tick in ticks], pa.string())
    return Ticks(row=np.array(rows, np.int64), seq=np.arange(len(rows)), **columns)


def read_back(encoded: list[bytes], format: str) -> tuple[Ticks, list[str]]:
    symbols = Symbols()
    decoder = Decoder(symbols, symbols.part("test"))
    records, origin = FORMATS[format](decoder.layout).records(encoded)
    assert origin.tolist() == list(range(len(encoded)))
    ticks = decoder.decode(records).ticks
    return ticks, [symbols.names[row] for row in ticks.row]


@pytest.mark.parametrize("format", sorted(ENCODERS))
@given(data=st.data())
def test_what_is_written_is_read_back_bit_for_bit(format: str, data: st.DataObject) -> None:
    names = data.draw(st.lists(KEYS, min_size=1, max_size=5, unique=True))
    ticks = data.draw(st.lists(ticks_of_one(), min_size=1, max_size=20))
    rows = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=len(ticks), max_size=len(ticks)))
    written = batch(rows, ticks)
    read, keys = read_back(values(written, names, ENCODERS[format]), format)
    assert keys == [names[row] for row in rows]
    for column in COLUMNS:
        if column not in {"row", "seq"}:
            assert getattr(read, column).tobytes() == getattr(written, column).tobytes(), column
    assert sides_and_ids(read) == sides_and_ids(written)


def one(kind: int, **fields: float) -> dict[str, Any]:
    nothing: dict[str, Any] = dict.fromkeys(("bid", "bid_size", "ask", "ask_size", "price", "size"), np.nan)
    return {"kind": kind, "ts_event": NO_TIME, "ts_recv": NO_TIME} | nothing | fields


def test_a_quote_has_all_its_fields_and_a_trade_its_own_and_absent_times_are_left_out() -> None:
    ticks = batch(
        [1, 0, 1],
        [
            one(QUOTE, ts_event=T0, bid=0.1, ask_size=3.0),
            one(TRADE, ts_recv=T0, price=-1e-7, size=1e22),
            one(TRADE, ts_event=T0 - 1, ts_recv=T0, price=5.0) | {"side": 2, "trade_id": "77"},
        ],
    )
    assert values(ticks, ["A", "venue:B"], ENCODERS["json"]) == [
        b'{"type":"quote","symbol":"venue:B","ts_event":1723161600000000,"bid":0.1,"bid_size":null,"ask":null,"ask_size":3.0}',
        b'{"type":"trade","symbol":"A","ts_recv":1723161600000000,"price":-1e-7,"size":1e22}',
        b'{"type":"trade","symbol":"venue:B","ts_event":1723161599999999,"ts_recv":1723161600000000,"price":5.0,"size":null,"side":"sell","trade_id":"77"}',
    ]


def test_the_formats_say_the_same() -> None:
    ticks = batch([0, 0], [one(QUOTE, ts_event=T0, bid=0.1), one(TRADE, ts_recv=T0, price=7.25, size=0.3)])
    json, packed = (values(ticks, ["A"], ENCODERS[name]) for name in ("json", "msgpack"))
    assert [msgspec.json.decode(value) for value in json] == [msgspec.msgpack.decode(value) for value in packed]


def test_no_ticks_are_no_values() -> None:
    ticks = batch([0], [one(TRADE, ts_recv=T0, price=1.0)])
    assert values(ticks[:0], ["A"], ENCODERS["json"]) == []


def test_every_format_that_is_written_can_be_read() -> None:
    assert ENCODERS.keys() <= FORMATS.keys()
