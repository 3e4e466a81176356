"""Replay: a long day played in process, seeking in it, and paced replays beside live clients.

The day is generated, 50 million rows of 500 symbols, a fifth of them trades. Playing it is held against the least that any way
of doing it takes: pyarrow reading the same columns, and a group-by of NumPy that keeps each second's last values, counts,
highs, lows and volumes. Both run in processes of their own, by CPU time and peak memory.

Beside live clients: 1,000 clients watch 20 of 500 symbols each at 100 ms; the 99th percentile of the time from round to client
with 20 paced replays in the same server, and with an unpaced one, is held against that without, in the same run.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from websockets.asyncio.client import connect

from benchmarks.fanout import SEED, SYMBOLS, WATCHED
from benchmarks.figures import Benchmark, Figure, Measured, Scale, at_least, at_most
from benchmarks.processes import Reading, Server, metered, running
from feeds.simulated import symbol_names

DAY_US: Final = 86_400_000_000
START_US: Final = 1_723_075_200_000_000
GROUP_ROWS: Final = 1 << 20
CLIENTS: Final = 1000
REPLAYS: Final = 20

DAY: Final = (
    Figure("a day in process, rounds of 1 s", "million ticks/s", at_least(1)),
    Figure("a day in process: CPU, as a multiple of pyarrow and a group-by", "", at_most(5)),
    Figure("a day in process: peak memory", "MiB", at_most(300)),
    Figure("a day indexed: time", "s"),
    Figure("a seek in an indexed day", "s", at_most(1)),
)
BESIDE: Final = (
    Figure("live latency with 20 paced replays, as a multiple of that without: 99th percentile", "", at_most(1.25)),
    Figure("live latency with an unpaced replay, as a multiple of that without: 99th percentile", ""),
    Figure("live latency without replays: 99th percentile", "ms"),
)

PLAY: Final = """
import json, sys, time
from ticker.run import replay
start, cpu = time.monotonic(), time.process_time()
with replay(sys.argv[1], interval="1s") as run:
    for batch in run.batches():
        pass
took = {"s": time.monotonic() - start, "cpu_s": time.process_time() - cpu, "ticks": run.ticks}
with open("/proc/self/status") as status:  # what getrusage tells would be the peak of who has started this process, too
    took["rss"] = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
print(json.dumps(took))
"""
LEAST: Final = """
import json, sys, time
import numpy as np, pyarrow.parquet as pq
start, cpu = time.monotonic(), time.process_time()
file = pq.ParquetFile(sys.argv[1], read_dictionary=["symbol", "type"], pre_buffer=False)
names = ("bid", "bid_size", "ask", "ask_size", "price", "size")
for batch in file.iter_batches(1 << 20, use_threads=False):
    symbol = batch.column("symbol").indices.to_numpy()
    trade = batch.column("type").indices.to_numpy() == 1
    received, event = (batch.column(name).cast("int64").to_numpy() for name in ("ts_recv", "ts_event"))
    columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in names]
    key = received // 1_000_000 * 1024 + symbol
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    last = np.append(first[1:], len(key)) - 1
    kept = [column[order][last] for column in (*columns, event)]
    count = np.diff(np.append(first, len(key)))
    price = np.where(trade, columns[4], np.nan)[order]
    high, low = np.fmax.reduceat(price, first), np.fmin.reduceat(price, first)
    volume = np.add.reduceat(np.nan_to_num(columns[5])[order], first)
print(json.dumps({"s": time.monotonic() - start, "cpu_s": time.process_time() - cpu}))
"""


@cache
def generated(rows: int) -> Path:
    """A day of so many rows at the density of fifty million, in a folder of its own until the machine cleans it up."""
    path = Path(mkdtemp(prefix="ticker-bench-")) / "day.parquet"
    rng, names = np.random.default_rng(SEED), pa.array(symbol_names(SYMBOLS))
    kinds, step_us = pa.array(["quote", "trade"]), DAY_US // 50_000_000
    writer: Any = None
    for start in range(0, rows, GROUP_ROWS):
        count = min(GROUP_ROWS, rows - start)
        time_us = START_US + np.arange(start, start + count) * step_us
        trade = rng.random(count) < 0.2
        price = np.round(100 + np.sin(time_us / 1e9) + rng.normal(0, 0.02, count), 2)
        sizes = np.round(rng.random((3, count)) * 10, 1)
        table = pa.table(
            {
                "symbol": pa.DictionaryArray.from_arrays(rng.integers(0, SYMBOLS, count).astype(np.int32), names),
                "type": pa.DictionaryArray.from_arrays(trade.astype(np.int32), kinds),
                "ts_event": pa.array(time_us - 500, pa.timestamp("us", "UTC")),
                "ts_recv": pa.array(time_us, pa.timestamp("us", "UTC")),
                "bid": pa.array(price, mask=trade),
                "bid_size": pa.array(sizes[0], mask=trade),
                "ask": pa.array(np.round(price + 0.01, 2), mask=trade),
                "ask_size": pa.array(sizes[1], mask=trade),
                "price": pa.array(price, mask=~trade),
                "size": pa.array(sizes[2], mask=~trade),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    writer.close()
    return path


def _told(program: str, path: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    told: dict[str, float] = json.loads(done.stdout)
    return told


def _serving(path: Path, *flags: str) -> tuple[str, ...]:
    command = (sys.executable, "-m", "benchmarks.serve", "serve", "--port", "0", "--log-level", "warning")
    feed = f"stamped:?symbols={SYMBOLS}&rate=5000&seed={SEED}"
    return (*command, "--feed", feed, "--source", f"day={path}", *flags)


async def _seek_s(server: Server, rows: int) -> float:
    """The longest of three seeks of a fresh replay, each until the snapshot of every symbol has come."""
    at = START_US + int(rows * 0.75) * (DAY_US // 50_000_000)
    took = []
    async with connect(f"ws://127.0.0.1:{server.port}/v1/replay?source=day&speed=max", max_size=None) as socket:
        await socket.send('{"op":"subscribe","symbols":["*"]}')
        for number in range(3):
            start = time.monotonic()
            await socket.send(json.dumps({"op": "seek", "id": number, "ts": at - number * 1_000_003}))
            while json.loads(await socket.recv()).get("id") != number:
                pass
            took.append(time.monotonic() - start)
    return max(took)


def day(scale: Scale) -> Measured:
    rows = scale.of(50_000_000, 50_000)
    path = generated(rows)
    played, least = _told(PLAY, path), _told(LEAST, path)
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "ticker", "index", str(path)], check=True, capture_output=True)
    indexed_s = time.monotonic() - start
    with running(_serving(path), ready="/readyz") as server:
        seek_s = asyncio.run(_seek_s(server, rows))
    return {
        DAY[0].name: played["ticks"] / played["s"] / 1e6,
        DAY[1].name: played["cpu_s"] / least["cpu_s"],
        DAY[2].name: played["rss"] / 2**20,
        DAY[3].name: indexed_s,
        DAY[4].name: seek_s,
    }


def _live(path: Path, clients: int, replays: int, seconds: int, speed: str = "1") -> Reading:
    names, choice = symbol_names(SYMBOLS), random.Random(SEED)
    messages = [
        json.dumps({"op": "subscribe", "symbols": choice.sample(names, WATCHED), "interval_ms": 100})
        for _ in range(clients + replays)
    ]
    with running(_serving(path), ready="/readyz") as server:
        query = f"/v1/replay?source=day&speed={speed}&autoplay=1"
        beside = threading.Thread(
            target=metered,
            args=(server, messages[clients:]),
            kwargs={"warm_s": 2, "seconds": seconds + 2, "path": query},
        )
        if replays:
            beside.start()
        found = metered(server, messages[:clients], warm_s=2, seconds=seconds, timing=True)
        if replays:
            beside.join()
    return found


def beside(scale: Scale) -> Measured:
    path = generated(scale.of(15_000_000, 50_000))  # as much as an unpaced one gets through meanwhile
    clients, replays, seconds = scale.of(CLIENTS, 5), scale.of(REPLAYS, 2), scale.of(8, 1)
    alone, paced = _live(path, clients, 0, seconds), _live(path, clients, replays, seconds)
    unpaced = _live(path, clients, 1, seconds, "max")
    return {
        BESIDE[0].name: paced.round_us["p99"] / alone.round_us["p99"],
        BESIDE[1].name: unpaced.round_us["p99"] / alone.round_us["p99"],
        BESIDE[2].name: alone.round_us["p99"] / 1000,
    }


BENCHMARKS: Final = (
    Benchmark("day", DAY, day, meters=True),
    Benchmark("beside", BESIDE, beside, meters=True),
)
