"""Raw captures of Binance's streams to records: lines of a receive time in nanoseconds, a space, and the message. Pure.

    1723161360012468685 {"stream":"ethusdt@bookTicker","data":{"e":"bookTicker","s":"ETHUSDT","b":"2680.73",...}}

Book tickers are quotes; trades and aggregated trades are trades; every other message is passed over, and is no row. Which
of the three markets a message is of is told from its members, as the exchange documents them: only the coin-margined
futures name a pair (``ps``) in a book ticker, only the futures time one (``T``); only a spot trade says whether it is the best price match
(``M``), and only the coin-margined futures are of a symbol such as BTCUSD_PERP, in dollars.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from feeds import objects
from feeds.decode import Records

#: How the first line of a capture begins.
LINE: Final = re.compile(rb"\s*\d{10,19} \{")
_TRADES: Final = ("trade", "aggTrade")
#: In the symbols of coin-margined futures alone: BTCUSD_PERP, BTCUSD_240927. BTCUSDT_240927 is USD-margined.
_COIN_MARGINED: Final = re.compile("USD_")
_COLUMNS: Final = (
    *("symbol", "venue", "type", "ts_event", "ts_recv"),
    *("bid", "bid_size", "ask", "ask_size", "price", "size", "is_buyer_maker", "trade_id"),
)
_DIGITS_MAX: Final = 30  # of a time; with so many it is out of range
_NOT_READ: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_decode = msgspec.json.Decoder().decode
Row = dict[str, Any]


def records(lines: bytes) -> Records:
    """The quotes and trades of whole lines. A line that is no such capture is a row with a fault."""
    found = (_row_of_line(line) for line in lines.split(b"\n") if line.strip())
    return objects.records([row for row in found if row is not None], _COLUMNS)


def _row_of_line(line: bytes) -> Row | str | None:
    """The quote or trade of a line, or what is wrong with the line; None where it holds another message."""
    time, _, body = line.partition(b" ")
    try:
        message = _decode(body)
    except _NOT_READ:
        return _no_capture(line)
    if not time.isdigit():
        return _no_capture(line)
    row = _row(message)
    return None if row is None else {**row, "ts_recv": int(time[:_DIGITS_MAX])}


def _no_capture(line: bytes) -> str:
    return f"expected a time in ns and a message of JSON, was {line[:40]!r}"


def _row(message: object) -> Row | None:
    """The quote or trade in a message; None where it is another one."""
    data = message.get("data", message) if isinstance(message, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("s"), str):
        return None
    event = data.get("e", "bookTicker" if "u" in data and "b" in data else None)
    if event == "bookTicker":
        row = {"type": "quote", "bid": data.get("b"), "bid_size": data.get("B"), "ask": data.get("a")}
        row["ask_size"] = data.get("A")
        venue = "coinm" if "ps" in data else "usdm" if "T" in data else "spot"
    elif event in _TRADES:
        row = {"type": "trade", "price": data.get("p"), "size": data.get("q"), "is_buyer_maker": data.get("m")}
        row["trade_id"] = data.get("t" if event == "trade" else "a")
        venue = "spot" if "M" in data else "coinm" if _COIN_MARGINED.search(data["s"]) else "usdm"
    else:
        return None
    time = data.get("E")
    return {
        **row,
        "ts_event": data.get("T") if time is None else time,
        "symbol": data["s"],
        "venue": f"binance-{venue}",
    }
