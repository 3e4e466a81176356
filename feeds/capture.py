"""Raw captures of Binance's streams to records: lines of a receive time in nanoseconds, a space, and the message. Pure.

    1723161360012468685 {"stream":"ethusdt@bookTicker","data":{"e":"bookTicker","s":"ETHUSDT","b":"2680.73",...}}

Book tickers are quotes; trades and aggregated trades are trades; every other message is passed over, and is no row. Which
of the three markets a message is of is told from its members, as the exchange documents them: only the coin-margined
futures name a pair (``ps``) in a book ticker, only the futures time one (``T``), and only a spot trade says whether it is
`M`, the best price match.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import pyarrow as pa

from feeds.decode import Records

#: How the first line of a capture begins.
LINE: Final = re.compile(rb"\s*\d{10,19} \{")
_TRADES: Final = frozenset(("trade", "aggTrade"))
_PERPETUAL: Final = "_"  # in the symbols of coin-margined futures: BTCUSD_PERP, BTCUSD_240927
_TEXTS: Final = ("symbol", "venue", "type", "bid", "bid_size", "ask", "ask_size", "price", "size")

_decode = msgspec.json.Decoder().decode
Row = dict[str, Any]


def records(lines: bytes) -> Records:
    """The quotes and trades of whole lines. A line that is no such capture is a row with a fault."""
    rows: list[Row] = []
    faults: dict[int, str] = {}
    for line in lines.split(b"\n"):
        if not line.strip():
            continue
        time, _, body = line.partition(b" ")
        try:
            message = _decode(body)
            received = int(time)
        except (msgspec.DecodeError, ValueError):
            faults[len(rows)] = f"expected a time in ns and a message of JSON, was {line[:40]!r}"
            rows.append({})
            continue
        row = _row(message)
        if row is not None:
            row["ts_recv"] = received
            rows.append(row)
    columns: dict[str, Any] = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in _TEXTS}
    for name in ("ts_event", "ts_recv"):
        columns[name] = pa.array([row.get(name) for row in rows], pa.int64())
    return Records(columns, len(rows), faults)


def _row(message: object) -> Row | None:
    """The quote or trade in a message; None where it is another one."""
    data = message.get("data", message) if isinstance(message, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(data.get("s"), str):
        return None
    event = data.get("e", "bookTicker" if "u" in data and "b" in data else None)
    if event == "bookTicker":
        row = {"type": "quote", "bid": data.get("b"), "bid_size": data.get("B"), "ask": data.get("a")}
        row["ask_size"] = data.get("A")
        venue = "coinm" if "ps" in data else "usdm" if "T" in data else "spot"
    elif event in _TRADES:
        row = {"type": "trade", "price": data.get("p"), "size": data.get("q")}
        venue = "spot" if "M" in data else "coinm" if _PERPETUAL in data["s"] else "usdm"
    else:
        return None
    times = (data.get("E"), data.get("T"))
    row["ts_event"] = next((time for time in times if isinstance(time, int)), None)
    return {**row, "symbol": data["s"], "venue": f"binance-{venue}"}
