from __future__ import annotations

import pytest

from feeds.fields import ALIASES, FIELDS, lacking, layout, plain


def test_each_alias_names_one_field() -> None:
    plain_names = [plain(alias) for aliases in ALIASES.values() for alias in aliases]
    assert len(plain_names) == len(set(plain_names))
    assert set(ALIASES) == set(FIELDS)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time,symbol",
            {"bid": "best_bid_price", "ask_size": "best_ask_qty", "ts_event": "transaction_time"},
        ),
        ("u,s,b,B,a,A,T,E", {"symbol": "s", "bid": "b", "bid_size": "B", "ask": "a", "ask_size": "A", "ts_event": "T"}),
        ("e,E,s,t,p,q,T,m", {"type": "e", "price": "p", "size": "q", "ts_event": "T"}),
        (
            "ts_recv,ts_event,publisher_id,action,side,price,size,bid_px_00,bid_sz_00,ask_px_00,ask_sz_00,symbol",
            {"ts_recv": "ts_recv", "type": "action", "bid": "bid_px_00", "ask_size": "ask_sz_00", "price": "price"},
        ),
        (
            "exchange,symbol,timestamp,local_timestamp,ask_amount,ask_price,bid_price,bid_amount",
            {"venue": "exchange", "ts_event": "timestamp", "ts_recv": "local_timestamp", "ask_size": "ask_amount"},
        ),
        ("bidPx,Bid Size,ASK,recv_ns,exch_ms,SYMBOL", {"bid": "bidPx", "bid_size": "Bid Size", "ask": "ASK"}),
    ],
    ids=["binance-files", "binance-quote", "binance-trade", "databento", "tardis", "spelling"],
)
def test_known_names(names: str, expected: dict[str, str]) -> None:
    found = layout(names.split(","), {})
    assert {field: found[field][0] for field in expected} == expected
    assert lacking(found) is None


def test_transaction_time_comes_before_event_time_in_any_order() -> None:
    assert layout(["E", "T"], {})["ts_event"] == ("T", "E")


def test_one_letter_names_keep_their_case() -> None:
    assert layout(["t", "P", "Q"], {}) == {}


def test_map_stands_in_place_of_the_aliases() -> None:
    found = layout(["price", "px", "time"], {"price": "px", "ts_recv": "time"})
    assert found == {"price": ("px",), "ts_recv": ("time",)}


def test_a_name_may_serve_two_mapped_fields() -> None:
    assert layout(["t"], {"ts_event": "t", "ts_recv": "t"}) == {"ts_event": ("t",), "ts_recv": ("t",)}


@pytest.mark.parametrize(
    ("names", "lack"),
    [("time,bid", "a symbol"), ("symbol,bid", "a time"), ("symbol,time,size", "a price"), ("symbol,time,ask", None)],
)
def test_what_is_lacking(names: str, lack: str | None) -> None:
    found = lacking(layout(names.split(","), {}))
    assert found is None if lack is None else found is not None and found.startswith(lack)
