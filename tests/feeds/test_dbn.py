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

from feeds.feed import FeedError
from feeds.log import Log
from feeds.ticks import NO_TIME, QUOTE, TRADE

#: As anything: its stubs know no class of all records.
dbn: Any = databento_dbn
DATA = Path(__file__).parents[3] / "shared" / "data" / "databento_dbn"
NS = 1_609_160_400_000_000_000
US = NS // 1000
DAY = date(2020, 12, 28), date(2020, 12, 29)

Row = tuple[str, int, int | None, int | None, tuple[float | None, ...]]


def rows_of(path: Path) -> list[Row]:
    """(key, kind, ts_event, ts_recv, the values of its kind) of each tick."""
    log = Log([path])
    rows: list[Row] = []
    for block in log.blocks():
        ticks = block.ticks
        for i in range(len(ticks)):
            kind = int(ticks.kind[i])
            names = ("bid", "bid_size", "ask", "ask_size") if kind == QUOTE else ("price", "size")
            values = tuple(None if (v := float(getattr(ticks, name)[i])) != v else v for name in names)
            times = [None if t == NO_TIME else int(t) for t in (ticks.ts_event[i], ticks.ts_recv[i])]
            rows.append((log.symbols.names[ticks.row[i]], kind, times[0], times[1], values))
    return rows


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
            mappings=[
                SimpleNamespace(
                    raw_symbol=raw, intervals=[SimpleNamespace(start_date=start, end_date=end, symbol=name)]
                )
                for raw, start, end, name in mappings
            ],
        ).encode()
    )


def trade(price: int, size: int = 3, instrument: int = 5482, at: int = 0) -> bytes:
    return bytes(
        dbn.TradeMsg(
            publisher_id=1,
            instrument_id=instrument,
            ts_event=NS + at,
            price=price,
            size=size,
            action=dbn.Action.TRADE,
            side=dbn.Side.ASK,
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
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_none_is_one_line(tmp_path: Path, case: str) -> None:
    data, text = BAD[case]
    path = write(tmp_path / "x.dbn", data)
    with pytest.raises(FeedError) as error:
        list(Log([path]).blocks())
    assert str(error.value).startswith(f"{path}: {text}")
    assert "\n" not in str(error.value)


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
