"""The wire, byte for byte as the page of the protocol has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hubs import NAN, read
from ticker.errors import Code, RequestError
from ticker.protocol import (
    ALL_FIELDS,
    BARE,
    FRAMED,
    Auth,
    Encoding,
    Ping,
    Resync,
    Subscribe,
    Unsubscribe,
    error,
    field_set,
    items_head,
    parse,
    snapshot_items,
    update_items,
)
from ticker.quotes import FIELDS

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def one(value: int) -> Any:
    return np.array([value], np.int64)


def column(**values: float) -> Any:
    return np.array([[values.get(name, NAN)] for name in FIELDS])


# -- commands ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "command"),
    [
        ('{"op":"auth","id":1,"token":"t"}', Auth(1, "t")),
        (
            """{"op":"subscribe","id":2,"channel":"ticker","symbols":["BTCUSDT","ETH*"],"interval_ms":250,
                "fields":["bid","ask","last"],"since":{"BTCUSDT":9913},"epoch":"k-7c1e"}""",
            Subscribe(
                2, ("BTCUSDT", "ETH*"), "ticker", 250, field_set(("bid", "ask", "last")), {"BTCUSDT": 9913}, "k-7c1e"
            ),
        ),
        ('{"op":"subscribe","symbols":["A","A"]}', Subscribe(None, ("A",))),
        ('{"op":"unsubscribe","id":3,"channel":"ticker","symbols":["BTCUSDT"]}', Unsubscribe(3, ("BTCUSDT",))),
        ('{"op":"resync","id":4,"symbols":["BTCUSDT"]}', Resync(4, ("BTCUSDT",))),
        ('{"op":"ping","id":5}', Ping(5)),
        ('{"op":"ping","id":"five"}', Ping("five")),
        (b'{"op":"ping"}', Ping(None)),
    ],
)
def test_a_message_is_one_command(message: str | bytes, command: object) -> None:
    assert parse(message) == command


def test_fields_stand_in_the_order_of_the_wire_whatever_order_they_are_asked_for_in() -> None:
    assert field_set(("last", "bid", "last")) == (FIELDS.index("bid"), FIELDS.index("last"))
    assert field_set(FIELDS) == ALL_FIELDS


def test_an_error_names_code_and_cause_and_carries_the_id_where_there_is_one() -> None:
    failure = RequestError(Code.INVALID_REQUEST, "interval_ms: expected 0 to 60000, was -5", 2)
    assert orjson.dumps(error(failure)) == (
        b'{"type":"error","id":2,"code":"invalid_request",'
        b'"message":"interval_ms: expected 0 to 60000, was -5","fatal":false}'
    )
    assert "id" not in error(RequestError(Code.UNKNOWN_OP, "op"))
    assert error(failure, fatal=True)["fatal"] is True


# -- items ---------------------------------------------------------------------------------------------------------

BTC = {
    "bid": 61685.99,
    "bid_size": 1.2,
    "ask": 61686.0,
    "ask_size": 0.4,
    "last": 61686.0,
    "last_size": 0.01,
    "last_ts": 1723161360012000,
    "open": 61000.5,
    "high": 62000.0,
    "low": 60999.0,
    "volume": 120.25,
    "vwap": 61500.1234,
    "trades": 31,
    "change": 685.5,
    "change_pct": 1.1238,
    "session": 1723075200000000,
}


def test_a_snapshot_holds_every_field_in_order() -> None:
    (item,) = snapshot_items(["BTCUSDT"], one(9913), one(412), one(1723161360012468), column(**BTC), ALL_FIELDS)
    message = BARE.join(items_head("snapshot", 1723161360100000), [item])
    assert bytes(message) == (
        b'{"type":"snapshot","channel":"ticker","ts":1723161360100000,"items":['
        b'{"symbol":"BTCUSDT","seq":9913,"n":412,"ts":1723161360012468,"bid":61685.99,"bid_size":1.2,"ask":61686.0,'
        b'"ask_size":0.4,"last":61686.0,"last_size":0.01,"last_ts":1723161360012000,"open":61000.5,"high":62000.0,'
        b'"low":60999.0,"volume":120.25,"vwap":61500.1234,"trades":31,"change":685.5,"change_pct":1.1238,'
        b'"session":1723075200000000}]}'
    )


def test_a_field_with_no_value_is_null() -> None:
    fields = field_set(("bid", "last_ts", "trades"))
    (item,) = snapshot_items(["A"], one(1), one(1), one(2), column(trades=0), fields)
    assert item == b'{"symbol":"A","seq":1,"n":1,"ts":2,"bid":null,"last_ts":null,"trades":0},'


def update(moved: tuple[str, ...], fields: tuple[str, ...], trades: tuple[float, float, float]) -> bytes:
    values = column(bid=61686.5, bid_size=2.0, last=61690.0)
    mask = np.array([[name in moved] for name in FIELDS])
    (item,) = update_items(
        *(["BTCUSDT"], one(9913), one(9951), one(38), one(1723161360198001), values, mask),
        *(field_set(fields), np.array(trades).reshape(3, 1)),
    )
    return item


def test_an_update_holds_what_moved_and_what_was_traded() -> None:
    item = update(("bid", "bid_size"), FIELDS, (61690.0, 61680.1, 3.75))
    message = BARE.join(items_head("update", 1723161360200000), [item])
    assert bytes(message) == (
        b'{"type":"update","channel":"ticker","ts":1723161360200000,"items":['
        b'{"symbol":"BTCUSDT","prev":9913,"seq":9951,"n":38,"ts":1723161360198001,"bid":61686.5,"bid_size":2.0,'
        b'"hi":61690.0,"lo":61680.1,"vol":3.75}]}'
    )


def test_a_field_that_moved_to_no_value_is_null_and_one_that_was_not_asked_for_is_absent() -> None:
    none = (NAN, NAN, 0.0)
    as_of = b'{"symbol":"BTCUSDT","prev":9913,"seq":9951,"n":38,"ts":1723161360198001'
    assert update(("ask",), FIELDS, none) == as_of + b',"ask":null},'
    assert update(("bid", "ask"), ("bid", "last"), none) == as_of + b',"bid":61686.5},'
    assert update((), FIELDS, none) == as_of + b"},"


def test_trades_are_told_only_where_last_is_among_the_fields() -> None:
    traded = (2.0, 1.0, 0.0)
    assert b'"hi":2.0,"lo":1.0,"vol":0.0' in update((), ("last",), traded)
    assert b"hi" not in update((), ("bid",), traded)


@given(FLOATS)
def test_a_number_comes_out_as_it_went_in(value: float) -> None:
    (item,) = snapshot_items(["A"], one(1), one(1), one(1), column(bid=value), field_set(("bid",)))
    assert orjson.loads(item[:-1])["bid"] == value


# -- encodings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [BARE, FRAMED], ids=lambda encoding: encoding.name)
@pytest.mark.parametrize(
    "size", [1, 44, 45, 46, 47, 48, 49, 50, 51, 52, 65_455, 65_456, 65_457, 65_458, 65_459, 70_000]
)
def test_a_message_of_items_is_what_its_json_would_be(encoding: Encoding, size: int) -> None:
    head = items_head("update", 1, "x" * size)
    items = [b'{"symbol":"A"},', b"", b'{"symbol":"B"},']
    body = {
        "type": "update",
        "id": "x" * size,
        "channel": "ticker",
        "ts": 1,
        "items": [{"symbol": "A"}, {"symbol": "B"}],
    }
    assert bytes(encoding.join(head, items)) == encoding.whole(orjson.dumps(body))
    assert read(encoding, encoding.join(head, items)) == body
    assert read(encoding, encoding.whole(orjson.dumps({"a": "x" * size}))) == {"a": "x" * size}


def test_the_items_are_not_changed_by_joining_them() -> None:
    items = [b"1,", b"2,"]
    assert bytes(BARE.join(b"[", items)) == b"[1,2]}"
    assert items == [b"1,", b"2,"]
