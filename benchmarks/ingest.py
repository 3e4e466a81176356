"""Ingest: folding batches into the quote table, and unpaced replay of recordings into it, on one core.

A recording is the simulator's, seeded, in the columns of a typical one: decimal prices, nanosecond receive times. Rates are
by CPU time of the process, all of its threads on one core: what else runs on the machine then counts for little.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from benchmarks.figures import Benchmark, Figure, Measured, Scale, at_least
from benchmarks.processes import cores, pinned
from feeds.simulated import Market, Settings, symbol_names
from feeds.spec import open_feed
from feeds.ticks import TRADE, Symbols, Ticks
from ticker.quotes import QuoteTable

BATCH: Final = 10_000
SYMBOLS: Final = 500
RATE: Final = 100_000
START_US: Final = 1_723_075_200_000_000
MILLION: Final = 1e6

APPLY: Final = (Figure("table.apply, batches of 10,000", "million ticks/s", at_least(5)),)
REPLAY: Final = (
    Figure("replay into the table, Parquet", "million rows/s", at_least(1.5)),
    Figure("replay into the table, CSV", "million rows/s", at_least(0.7)),
    Figure("replay into the table, NDJSON", "million rows/s", at_least(0.4)),
)


@cache
def recorded(ticks: int) -> Ticks:
    """So many of the simulator's ticks."""
    symbols = Symbols()
    rows = symbols.claim_all(symbol_names(SYMBOLS), symbols.part("sim"))
    market = Market(Settings(symbols=SYMBOLS, rate=RATE, seed=1), rows, START_US)
    chunks: list[Ticks] = []
    while sum(map(len, chunks)) < ticks:
        chunks.append(market.chunk())
    return Ticks.concat(chunks)[:ticks]


def apply(scale: Scale) -> Measured:
    ticks = recorded(scale.of(2_000_000, 20_000))
    batches = [ticks[start : start + BATCH] for start in range(0, len(ticks), BATCH)]
    symbols = Symbols()
    symbols.claim_all(symbol_names(SYMBOLS), symbols.part("sim"))
    table = QuoteTable(symbols)
    table.apply(batches[0])
    with pinned(cores()[0]):
        gc.collect()
        start = time.process_time()
        for batch in batches[1:]:
            table.apply(batch)
        spent_s = time.process_time() - start
    return {"table.apply, batches of 10,000": (len(ticks) - len(batches[0])) / spent_s / MILLION}


def replay(scale: Scale) -> Measured:
    ticks = recorded(scale.of(1_000_000, 20_000))
    found = {}
    with TemporaryDirectory() as folder:
        for name, write in WRITERS.items():
            path = Path(folder) / f"day.{name.lower()}"
            write(ticks, path)
            found[f"replay into the table, {name}"] = _replayed(path, len(ticks)) / MILLION
            path.unlink()
    return found


def _replayed(path: Path, expected: int) -> float:
    """Rows a second of CPU time from a file into a table."""
    symbols = Symbols()
    table = QuoteTable(symbols)
    feed = open_feed(f"replay:{path}?speed=max", symbols)

    async def run() -> None:
        rows = 0
        async for ticks in feed:
            assert isinstance(ticks, Ticks)
            table.apply(ticks)
            rows += len(ticks)
            if rows > expected:
                return

    with pinned(cores()[0]):
        gc.collect()
        start = time.process_time()
        asyncio.run(run())
        spent_s = time.process_time() - start
    rows = int(table.n.sum())
    if rows != expected:
        raise RuntimeError(f"{path.name}: expected {expected} rows in the table, was {rows}")
    return rows / spent_s


# -- writing recordings ------------------------------------------------------------------------------------------------


def _columns(ticks: Ticks) -> pa.Table:
    """The ticks as a recording's columns: a row is a quote or a trade, what it has not is null."""
    names = np.array(symbol_names(SYMBOLS))

    def numbers(column: np.typing.NDArray[np.float64]) -> pa.Array:
        return pa.array(column, mask=np.isnan(column))

    receive_ns = ticks.ts_recv * 1000 + 617
    return pa.table(
        {
            "ts_recv": pa.array(receive_ns),
            "ts_event": pa.array(ticks.ts_event),
            "symbol": pa.array(names[ticks.row]),
            "type": pc.if_else(pa.array(ticks.kind == TRADE), "trade", "quote"),
            **{name: numbers(getattr(ticks, name)) for name in ("bid", "bid_size", "ask", "ask_size", "price", "size")},
        }
    )


def _write_parquet(ticks: Ticks, path: Path) -> None:
    pa.parquet.write_table(_columns(ticks), path)


def _write_csv(ticks: Ticks, path: Path) -> None:
    pa.csv.write_csv(_columns(ticks), path)


def _write_ndjson(ticks: Ticks, path: Path) -> None:
    with path.open("wb") as out:
        for batch in _columns(ticks).to_batches(max_chunksize=BATCH):
            for record in batch.to_pylist():
                line = {name: value for name, value in record.items() if value is not None}
                out.write(orjson.dumps(line) + b"\n")


WRITERS: Final[dict[str, Callable[[Ticks, Path], None]]] = {
    "Parquet": _write_parquet,
    "CSV": _write_csv,
    "NDJSON": _write_ndjson,
}

BENCHMARKS: Final = (Benchmark("apply", APPLY, apply), Benchmark("replay", REPLAY, replay))
