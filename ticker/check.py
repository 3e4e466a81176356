"""`ticker check`: whether a server serves, as a client sees it: a handshake, and a snapshot."""

from __future__ import annotations

import asyncio
from typing import TextIO

from ticker.client import StreamError, connect


async def check(url: str, token: str | None, timeout_s: float, out: TextIO, err: TextIO) -> int:
    """Connect and wait for the first price; the exit code: 0 once it is there, 1 where none comes in time."""
    try:
        async with asyncio.timeout(timeout_s), connect(url, "*", token=token, on_notice=lambda _: None) as stream:
            while not stream.quotes:
                await anext(stream)
            symbol = next(iter(stream.quotes))
            print(f"{url}: {len(stream.quotes)} symbols, {symbol} at seq {stream.quotes[symbol].seq}", file=out)
            return 0
    except TimeoutError:
        print(f"ticker: {url}: expected a price within {timeout_s:g} s, there was none", file=err)
    except (StreamError, ValueError) as failure:
        print(f"ticker: {url}: {failure}", file=err)
    return 1
