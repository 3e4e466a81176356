"""DBN: each schema against known values, and against the library's own records; files that are none."""

from __future__ import annotations

import gzip
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import databento_dbn
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.feed import FeedError
from feeds.log import Log
from feeds.ticks import BUY, NO_SIDE, QUOTE, SELL, TRADE
from tests.feeds.conftest import SHARED_DATA, sides_and_ids
from tests.feeds.rows import Row, rows_of

#: As anything: its stubs know no class of all records.
dbn: Any = databento_dbn
DATA = SHARED_DATA / "databento_dbn"
NS = 1_609_160_400_000_000_000
US = NS // 1000
DAY = date(2020, 12, 28), date(2020, 12, 29)


def metadata(schema: Any, **more: Any) -> bytes:
    mappings = more.pop("mappings", [("ESH1", DAY[0], DAY[1], "5482")])
    return bytes(
        dbn.Metadata(
            dataset="GLBX.MDP3",
            start=NS,
            stype_in=more.pop("stype_in", dbn.SType.RAW_SYMBOL),
            stype_out=dbn.SType.INSTRUMENT_ID,
            schema=schema,
            symbols=[],
            ts_out=more.pop("ts_out", False),
            mappings=[
                SimpleNamespace(
                    raw_symbol=raw, intervals=[SimpleNamespace(start_date=start, end_date=end, symbol=name)]
                )
                for raw, start, end, name in mappings
            ],
        ).encode()
    )


def trade(price: int, size: int = 3, instrument: int = 5482, at: int = 0, side: dbn.Side = dbn.Side.ASK) -> bytes:
    return bytes(
        dbn.TradeMsg(
            publisher_id=1,
            instrument_id=instrument,
            ts_event=NS + at,
            price=price,
            size=size,
            action=dbn.Action.TRADE,
            side=side,
            depth=0,
            ts_recv=NS + at + 5000,
        )
    )


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


def test_trades_are_exact_and_an_undefined_price_is_no_trade(tmp_path: Path) -> None:
    large = 123_456_789_012_345_678
    path = write(
        tmp_path / "x.dbn",
        metadata(dbn.Schema.TRADES),
        trade(3720250000000),
        trade(100_000_000, at=1000),
        trade(large, at=2000),
        trade(dbn.UNDEF_PRICE, at=3000),
        trade(-1_500_000_000, at=4000),
    )
    assert rows_of(path) == [
        ("ESH1", TRADE, US, US + 5, (3720.25, 3.0)),
        ("ESH1", TRADE, US + 1, US + 6, (0.1, 3.0)),
        ("ESH1", TRADE, US + 2, US + 7, (123456789.012345678, 3.0)),
        ("ESH1", TRADE, US + 4, US + 9, (-1.5, 3.0)),
    ]


def test_who_took_is_the_side_of_a_trade(tmp_path: Path) -> None:
    sides = [dbn.Side.ASK, dbn.Side.BID, dbn.Side.NONE]
    path = write(tmp_path / "x.dbn", metadata(dbn.Schema.TRADES), *(trade(10**9, side=side) for side in sides))
    ticks = next(Log([path]).blocks()).ticks
    assert [side for side, _ in sides_and_ids(ticks)] == [SELL, BUY, NO_SIDE]


def test_a_symbol_without_a_mapping_that_day_is_the_instruments_number(tmp_path: Path) -> None:
    day = 86_400 * 10**9
    path = write(
        tmp_path / "x.dbn",
        metadata(dbn.Schema.TRADES, mappings=[("SPXW  240816C", *DAY, "5482")]),
        trade(1, at=0),
        trade(1, at=day),
        trade(1, instrument=7, at=2 * day),
    )
    assert [row[0] for row in rows_of(path)] == ["SPXW240816C", "5482", "7"]


def mapping(instrument: int, symbol: str) -> bytes:
    return bytes(
        dbn.SymbolMappingMsg(
            publisher_id=1,
            instrument_id=instrument,
            ts_event=NS,
            stype_in=dbn.SType.PARENT,
            stype_in_symbol="ES.FUT",
            stype_out=dbn.SType.RAW_SYMBOL,
            stype_out_symbol=symbol,
            start_ts=NS,
            end_ts=NS,
        )
    )


@pytest.mark.parametrize("block", [100, 300, 1 << 20])
def test_a_stream_of_many_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """As captured live: mappings that come with it hold from there on; what the gateway says is no row."""
    monkeypatch.setattr("feeds.dbn.BLOCK_BYTES", block)
    path = write(
        tmp_path / "x.dbn",
        metadata(None, mappings=[]),
        trade(10**9, at=0),
        bytes(dbn.SystemMsg(ts_event=NS, msg="Heartbeat")),
        mapping(5482, "ESH1"),
        mapping(7, "NQH1"),
        *(trade(10**9, at=at * 1000) for at in (1, 2, 3)),
        trade(2 * 10**9, instrument=7, at=4000),
        bytes(dbn.ErrorMsg(ts_event=NS, err="slow reader")),
        mapping(5482, "ESM1"),
        trade(10**9, at=5000),
    )
    found = rows_of(path)
    assert [row[0] for row in found] == ["5482", "ESH1", "ESH1", "ESH1", "NQH1", "ESM1"]
    assert [row[3] for row in found] == [US + 5 + at for at in range(6)]


@pytest.mark.parametrize("block", [300, 1 << 20])
def test_a_time_of_sending_at_each_record_s_end_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("feeds.dbn.BLOCK_BYTES", block)
    sent = [bytes((14,)) + trade(10**9 * at, at=1000 * at)[1:] + NS.to_bytes(8, "little") for at in range(1, 40)]
    path = write(tmp_path / "x.dbn", metadata(dbn.Schema.TRADES, ts_out=True), *sent)
    assert [row[4] for row in rows_of(path)] == [(float(at), 3.0) for at in range(1, 40)]


def test_an_undefined_size_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "x.dbn", metadata(dbn.Schema.TRADES), trade(10**9, size=dbn.UNDEF_ORDER_SIZE))
    assert rows_of(path) == [("ESH1", TRADE, US, US + 5, (1.0, None))]


@pytest.mark.parametrize("suffix", [".dbn", ".dbn.zst", ".csv", ".dbn.gz"])
def test_a_file_is_told_from_its_content(tmp_path: Path, suffix: str) -> None:
    data = metadata(dbn.Schema.TRADES) + trade(10**9)
    if suffix.endswith(".zst"):
        data = pa.compress(data, "zstd", asbytes=True)
    elif suffix.endswith(".gz"):
        data = gzip.compress(data)
    path = write(tmp_path / f"x{suffix}", data)
    assert rows_of(path) == [("ESH1", TRADE, US, US + 5, (1.0, 3.0))]


def test_reading_can_begin_at_any_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feeds.dbn.BLOCK_BYTES", 500)
    path = write(tmp_path / "x.dbn", metadata(dbn.Schema.TRADES), *(trade(10**9 + at, at=at) for at in range(100)))
    log = Log([path])
    recording = log._recordings[0]
    blocks = list(recording.blocks())
    assert len(blocks) > 5
    for block in blocks:
        rest = [r for each in recording.blocks(block.place) for r in each.records.columns["price"].to_pylist()]  # type: ignore[union-attr]
        assert rest == [(10**9 + at) / 1e9 for at in range(block.place, 100)]


BAD = {
    "another schema": (metadata(dbn.Schema.MBO), "schema mbo: expected one of trades, tbbo, "),
    "cut off": (metadata(dbn.Schema.TRADES) + trade(1)[:-3], "cut off: it ends in the middle of a record"),
    "garbage": (b"DBN" + bytes(range(60)) * 9, "not DBN: "),
    "no more than the magic": (b"DBN", "not DBN: "),
    "a record shorter than its type": (metadata(dbn.Schema.TRADES, ts_out=True) + trade(1), "not DBN: Malformed "),
    "a record of no length": (metadata(dbn.Schema.TRADES) + bytes(48), "not DBN: "),
    "zstd that is cut off": (pa.compress(metadata(dbn.Schema.TRADES), "zstd", asbytes=True)[:-9], "Truncated "),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_none_is_one_line(tmp_path: Path, case: str) -> None:
    data, text = BAD[case]
    path = write(tmp_path / "x.dbn", data)
    with pytest.raises(FeedError) as error:
        list(Log([path]).blocks())
    assert str(error.value).startswith(f"{path}: {text}")
    assert "\n" not in str(error.value)


WHOLE = metadata(dbn.Schema.TRADES) + trade(1) + mapping(7, "NQH1") + trade(2)


@given(
    cut=st.integers(4, len(WHOLE)),
    changes=st.lists(st.tuples(st.integers(4, len(WHOLE) - 1), st.integers(0, 255)), max_size=3),
    block=st.sampled_from([50, 1 << 20]),
)
def test_any_damage_is_rows_or_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int, changes: list[tuple[int, int]], block: int
) -> None:
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    path = write(tmp_path_factory.mktemp("dbn") / "x.dbn", bytes(data[:cut]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("feeds.dbn.BLOCK_BYTES", block)
        said = f"{path}: rows"
        try:
            rows_of(path)
        except FeedError as error:
            said = str(error)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said


def test_a_text_that_begins_like_it_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", b"DBN_id,symbol,ts_event,price,size\n1,A,%d,2,3\n" % US)
    assert rows_of(path) == [("A", TRADE, US, None, (2.0, 3.0))]


def test_a_name_that_promises_dbn(tmp_path: Path) -> None:
    path = write(tmp_path / "x.dbn", b"symbol,ts_event,bid\n")
    with pytest.raises(FeedError, match=r"not DBN: expected it to start with b'DBN', was b'symb'$"):
        Log([path])


# -- Databento's own files -----------------------------------------------------------------------------------------

FILES = sorted(DATA.iterdir()) if DATA.exists() else []


def oracle(path: Path) -> list[Row]:
    """The same by the library's own objects, one by one."""
    decoder = dbn.DBNDecoder(compression=dbn.Compression.ZSTD if path.suffix == ".zst" else dbn.Compression.NONE)
    decoder.write(path.read_bytes())
    found: list[Any] = decoder.decode()
    records = found[1:]
    rows: list[Row] = []
    for record in records:
        if isinstance(record, dbn.OHLCVMsg):
            length = {32: 1, 33: 60, 34: 3600, 35: 86_400}[int(record.rtype)]
            at = record.ts_event // 1000 + length * 1_000_000 - 1
            for price, size in ((record.open, 0), (record.high, 0), (record.low, 0), (record.close, record.volume)):
                rows.append(("ESH1", TRADE, at, None, (price / 1e9, float(size))))
            continue
        times = record.ts_event // 1000, record.ts_recv // 1000
        if isinstance(record, dbn.TradeMsg):
            rows.append(("ESH1", TRADE, *times, (record.price / 1e9, float(record.size))))
            continue
        level = record.levels[0]
        values = (level.bid_px / 1e9, float(level.bid_sz), level.ask_px / 1e9, float(level.ask_sz))
        interval = isinstance(record, dbn.BBOMsg | dbn.CBBOMsg)
        rows.append(("ESH1", QUOTE, None if interval else times[0], times[1], values))
        if not interval and record.action == dbn.Action.TRADE:
            rows.append(("ESH1", TRADE, *times, (record.price / 1e9, float(record.size))))
    return rows


@pytest.mark.skipif(not FILES, reason="../shared/data is absent")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_schema_and_version_as_the_library_reads_it(path: Path) -> None:
    assert rows_of(path) == oracle(path)


@pytest.mark.skipif(not FILES, reason="../shared/data is absent")
def test_known_values() -> None:
    assert rows_of(DATA / "test_data.tbbo.v1.dbn.zst")[:2] == [
        ("ESH1", QUOTE, 1609160400098821, 1609160400099150, (3720.25, 26.0, 3720.5, 7.0)),
        ("ESH1", TRADE, 1609160400098821, 1609160400099150, (3720.25, 5.0)),
    ]
    assert rows_of(DATA / "test_data.bbo-1s.dbn")[0] == (
        "ESH1",
        QUOTE,
        None,
        1609113600000000,
        (3702.25, 18.0, 3702.75, 13.0),
    )
