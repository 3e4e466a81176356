"""Vendors' tables: known values of each, and those that hold no ticks."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import databento_dbn
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feeds.feed import FeedError
from feeds.log import Log
from feeds.ticks import QUOTE, TRADE
from feeds.vendors import databento, refusal
from tests.feeds.conftest import SHARED_DATA
from tests.feeds.rows import Row, rows_of

#: As anything: its stubs take the members of its enumerations for texts.
dbn: Any = databento_dbn
NS = 1_609_160_400_098_821_953
US = NS // 1000
RECV = "2020-12-28T13:00:00.099150057Z", 1_609_160_400_099_150
EVENT = "2020-12-28T13:00:00.098821953Z", US

TRADES = "ts_recv,ts_event,rtype,publisher_id,instrument_id,action,side,depth,price,size,flags,ts_in_delta,sequence"
BOOK = f"{TRADES},bid_px_00,ask_px_00,bid_sz_00,ask_sz_00,bid_ct_00,ask_ct_00"
INTERVALS = (
    "ts_recv,ts_event,rtype,publisher_id,instrument_id,side,price,size,flags,sequence,"
    "bid_px_00,ask_px_00,bid_sz_00,ask_sz_00,bid_ct_00,ask_ct_00"
)


def rows(path: Path, *lines: str) -> list[Row]:
    """The ticks of a file of these lines."""
    path.write_text("\n".join(lines) + "\n")
    return rows_of(path)


# -- Databento -----------------------------------------------------------------------------------------------------


def test_whole_prices_are_billionths_and_the_highest_is_none(tmp_path: Path) -> None:
    found = rows(
        tmp_path / "x.csv",
        TRADES,
        f"{NS},{NS},0,1,5482,T,A,0,3720250000000,5,129,0,1",
        f"{NS},{NS},0,1,5482,T,A,0,123456789012345678,5,129,0,1",
        f"{NS},{NS},0,1,5482,T,A,0,-1500000000,5,129,0,1",
        f"{NS},{NS},0,1,5482,T,A,0,{2**63 - 1},5,129,0,1",
    )
    assert found == [("5482", TRADE, US, US, (price, 5.0)) for price in (3720.25, 123456789.012345678, -1.5)]


def test_decimal_prices_iso_times_and_symbols(tmp_path: Path) -> None:
    line = f"{RECV[0]},{EVENT[0]},0,1,5482,T,A,0,3720.250000000,5,129,19251,1170380,SPXW  240816C"
    assert rows(tmp_path / "x.csv", f"{TRADES},symbol", line) == [
        ("SPXW240816C", TRADE, EVENT[1], RECV[1], (3720.25, 5.0))
    ]


def test_a_trade_with_its_book_is_a_quote_and_then_a_trade(tmp_path: Path) -> None:
    found = rows(
        tmp_path / "x.csv",
        f"{BOOK},symbol",
        f"{NS},{NS},1,1,5482,A,A,0,3720500000000,1,128,0,1,3720250000000,3720500000000,24,11,15,9,ESH1",
        "broken",
        f"{NS},{NS},1,1,5482,T,A,0,3720250000000,5,129,0,1,3720250000000,{2**63 - 1},26,0,16,0,ESH1",
        f"{NS},{NS},1,1,5482,R,N,0,{2**63 - 1},0,129,0,1,3720250000000,3720500000000,26,7,16,6,ESH1",
    )
    assert found == [
        ("ESH1", QUOTE, US, US, (3720.25, 24.0, 3720.5, 11.0)),
        ("ESH1", QUOTE, US, US, (3720.25, 26.0, None, None)),
        ("ESH1", TRADE, US, US, (3720.25, 5.0)),
        ("ESH1", QUOTE, US, US, (3720.25, 26.0, 3720.5, 7.0)),
    ]


def test_a_broken_line_is_said_at_its_own_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quoted = f"{NS},{NS},1,1,5482,T,A,0,1000000000,1,128,0,1,1000000000,2000000000,24,11,15,9"
    path = tmp_path / "x.csv"
    assert len(rows(path, BOOK, quoted, "broken", quoted)) == 4
    assert caplog.messages == [f"{path}: row 3: expected 19 columns, was 1"]


def test_the_book_at_an_intervals_end_has_the_intervals_time(tmp_path: Path) -> None:
    line = f"{RECV[0]},{EVENT[0]},195,1,5482,A,3702.500000000,2,168,1,3702.250000000,3702.750000000,18,13,10,13,ESH1"
    assert rows(tmp_path / "x.csv", f"{INTERVALS},symbol", line) == [
        ("ESH1", QUOTE, None, RECV[1], (3702.25, 18.0, 3702.75, 13.0))
    ]


@pytest.mark.parametrize("type", [pa.int64(), pa.float64(), pa.decimal128(18, 9), pa.string()], ids=str)
def test_parquet_with_prices_of_any_type(tmp_path: Path, type: pa.DataType) -> None:
    def prices(*values: float) -> pa.Array:
        billionths = pa.array([round(value * 10**9) for value in values], pa.int64())
        return billionths if type == pa.int64() else pa.array([f"{value:.9f}" for value in values]).cast(type)

    times = pa.array([NS, NS + 10**6], pa.timestamp("ns", "UTC"))
    table = {
        "ts_recv": times,
        "ts_event": times,
        "rtype": [1, 1],
        "publisher_id": [1, 1],
        "instrument_id": [5482, 5482],
        "action": ["T", "M"],
        "price": prices(3720.25, 0.1),
        "size": [5, 6],
        "bid_px_00": prices(3720.25, 3720.0),
        "ask_px_00": prices(3720.5, 3720.75),
        "bid_sz_00": [26, 27],
        "ask_sz_00": [7, 8],
        "symbol": ["ESH1", "ESH1"],
    }
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(table), path)
    assert rows_of(path) == [
        ("ESH1", QUOTE, US, US, (3720.25, 26.0, 3720.5, 7.0)),
        ("ESH1", TRADE, US, US, (3720.25, 5.0)),
        ("ESH1", QUOTE, US + 1000, US + 1000, (3720.0, 27.0, 3720.75, 8.0)),
    ]
    assert Log([path]).last is None, "its rows are not its ticks, so nothing can be skipped by counting them"


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize("pretty", [False, True])
@pytest.mark.parametrize("schema", ["trades", "tbbo", "mbp-1", "cmbp-1", "bbo-1s", "bbo-1m"])
def test_csv_made_of_dbn_is_the_dbn(tmp_path: Path, schema: str, pretty: bool) -> None:
    source = SHARED_DATA / "databento_dbn" / f"test_data.{schema}.dbn"
    made = io.BytesIO()
    options = {"pretty_px": pretty, "pretty_ts": pretty, "map_symbols": True}
    transcoder = dbn.Transcoder(made, dbn.Encoding.CSV, dbn.Compression.NONE, **options)
    transcoder.write(source.read_bytes())
    transcoder.flush()
    path = tmp_path / "x.csv"
    path.write_bytes(made.getvalue())
    assert rows_of(path) == rows_of(source) != []


# -- Tardis --------------------------------------------------------------------------------------------------------

T = 1_582_934_400_068_986
STAMP = f"binance-futures,BTCUSDT,{T},{T + 1234}"
QUOTED = ("binance-futures:BTCUSDT", QUOTE, T, T + 1234, (8530.25, 0.5, 8530.5, 12.0))


@pytest.mark.parametrize("amounts", ["12,8530.5,8530.25,0.5"])
@pytest.mark.parametrize("table", ["quotes", "book_ticker"])
def test_quotes_of_tardis(tmp_path: Path, table: str, amounts: str) -> None:
    header = "exchange,symbol,timestamp,local_timestamp,ask_amount,ask_price,bid_price,bid_amount"
    assert rows(tmp_path / f"{table}.csv", header, f"{STAMP},{amounts}", f"{STAMP},,,8530.25,0.5") == [
        QUOTED,
        (*QUOTED[:4], (8530.25, 0.5, None, None)),
    ]


def test_trades_of_tardis(tmp_path: Path) -> None:
    header = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount"
    assert rows(tmp_path / "x.csv", header, f"{STAMP},282412,buy,8531.5,0.014") == [
        ("binance-futures:BTCUSDT", TRADE, T, T + 1234, (8531.5, 0.014))
    ]


# -- tables without ticks ------------------------------------------------------------------------------------------

OF_DATABENTO = "expected Databento's trades, tbbo, mbp-1, bbo-1s or bbo-1m"
OF_TARDIS = "expected Tardis' trades, quotes or book_ticker"
VENDOR = "rtype,publisher_id,instrument_id"
STAMPED = "exchange,symbol,timestamp,local_timestamp"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (f"ts_recv,ts_event,{VENDOR},action,side,price,size,order_id,symbol", f"{OF_DATABENTO}, was mbo"),
        (f"ts_event,{VENDOR},open,high,low,close,volume,symbol", f"{OF_DATABENTO}, or DBN, was ohlcv"),
        (f"{STAMPED},is_snapshot,side,price,amount", f"{OF_TARDIS}, was incremental_book_L2"),
        (f"{STAMPED},asks[0].price,asks[0].amount,bids[0].price,bids[0].amount", f"{OF_TARDIS}, was book_snapshot"),
        (f"{STAMPED},type,strike_price,expiration,bid_price,ask_price", f"{OF_TARDIS}, was options_chain"),
        (f"{STAMPED},funding_timestamp,funding_rate,last_price", f"{OF_TARDIS}, was derivative_ticker"),
    ],
)
def test_a_table_that_holds_no_ticks_is_named(tmp_path: Path, header: str, said: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(header + "\n")
    with pytest.raises(FeedError) as error:
        Log([path])
    assert str(error.value) == f"{path}: {said}"


def test_columns_of_others_are_left_alone() -> None:
    assert refusal(("symbol", "ts_event", "price", "order_id", "is_snapshot")) is None
    assert databento(("symbol", "instrument_id", "price")) is None
