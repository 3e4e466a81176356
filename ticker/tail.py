"""`ticker tail`: prices as a live table in a terminal, as NDJSON in a pipe."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from io import UnsupportedOperation
from typing import Any, Final, TextIO

import msgspec
import orjson
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ticker.client import (
    Complaint,
    Connected,
    Feed,
    Lost,
    Notice,
    Quote,
    Rejected,
    Stream,
    StreamError,
    Update,
    connect,
)
from ticker.mirror import AS_OF

FIELDS: Final = tuple(name for name in Quote.__struct_fields__ if name not in AS_OF)
PRICES: Final = ("bid", "ask", "last", "open", "high", "low")
SIZES: Final = ("bid_size", "ask_size", "last_size", "volume")
#: The columns of the table between symbol and age: field, heading.
COLUMNS: Final = (
    *(("bid", "bid"), ("bid_size", "size"), ("ask", "ask"), ("ask_size", "size")),
    *(("last", "last"), ("change_pct", "change"), ("volume", "volume")),
)
#: Columns that tell each move by an arrow, for so long.
MOVING: Final = frozenset(("bid", "ask", "last"))
MOVE_S: Final = 1.5
UP, DOWN, NONE = ("▲", "green"), ("▼", "red"), "-"
ARROW_ROOM: Final = "\N{NO-BREAK SPACE}" * 2
REFRESH_S: Final = 0.125
#: Lines of the table that are not rows: the state, the heading and its rule, what is left out, two to spare.
FRAME_LINES: Final = 6


async def tail(
    url: str,
    symbols: Sequence[str],
    *,
    interval_ms: int | None = None,
    fields: Sequence[str] | None = None,
    json: bool = False,
    out: TextIO,
    err: TextIO | None = None,
) -> int:
    """Show `symbols`, names or patterns, until the server is done or nobody reads `out`; returns the exit code.

    A terminal is shown a table. Anything else, or a terminal with `json`, is given one JSON object a line (NDJSON) for
    each update of a symbol: `symbol`, `seq`, `n`, `ts`, every field as it now is (`fields`, or all; null where there
    is no value), and, where there were trades since the symbol's line before, `hi`, `lo` and `vol`. `n` is the number
    of ticks since that line, null where nobody knows it: in the first line, and the first after some reconnects. So
    every line stands for itself, and ``jq .bid`` always finds the bid.

    What else there is to tell goes to `err` (stderr), a line each. A server that cannot be reached is tried again; one
    that refuses for good ends it with 1, a wrong address with 2. Cancelling it, as Ctrl-C does, ends it at once.
    """
    in_table = out.isatty() and not json
    board = Board(symbols, fields)
    teller = Teller(board if in_table else None, err)
    try:
        stream = connect(url, symbols, interval_ms=interval_ms, fields=fields, on_notice=teller.tell)
    except ValueError as error:
        teller.say(str(error))
        return 2
    try:
        if in_table:
            await _show(stream, board, out)
        else:
            await _print(stream, fields, out)
    except StreamError as error:
        teller.say(str(error))
        return 1
    return 0


def line(update: Update, fields: Sequence[str] | None = None) -> str:
    """An update as a line of NDJSON, as `tail` documents it."""
    quote = msgspec.structs.asdict(update.quote)
    item = {"symbol": update.symbol, "seq": quote["seq"], "n": update.n, "ts": quote["ts"]}
    for name in fields or FIELDS:
        item[name] = quote[name]
    for name in ("hi", "lo", "vol"):
        if (value := getattr(update, name)) is not None:
            item[name] = value
    return orjson.dumps(item).decode() + "\n"


class Teller:
    """Tells a person what there is to tell beside prices: of an outage once, not at every try."""

    def __init__(self, board: Board | None = None, err: TextIO | None = None) -> None:
        """`board` shows the states of connection and feeds, where there is one; all else are lines to `err`."""
        self._board = board
        self._err = err
        self._lost = False

    def say(self, text: str) -> None:
        print(f"ticker: {text}", file=self._err or sys.stderr, flush=True)

    def tell(self, notice: Notice) -> None:
        if isinstance(notice, Lost | Connected):
            was_lost, self._lost = self._lost, isinstance(notice, Lost)
            if self._board is not None:
                self._board.state = notice
            elif self._lost != was_lost:
                self.say(str(notice))
        elif self._board is None or isinstance(notice, Rejected | Complaint):
            self.say(str(notice))
        if self._board is not None and isinstance(notice, Rejected):
            self._board.leave_out(notice)


# -- the table -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Row:
    """What the table knows of one symbol. Times are seconds of the caller's clock."""

    quote: Quote | None = None
    #: When its last tick came, as far as this client can tell.
    ticked_s: float = 0.0
    #: Fields that moved: up or down, and when.
    moves: dict[str, tuple[bool, float]] = field(default_factory=dict)
    #: The most decimals that its prices and sizes have had: all are shown with as many.
    price_decimals: int = 0
    size_decimals: int = 0

    def take(self, update: Update, now_s: float) -> None:
        before, quote = self.quote, update.quote
        # The first quote may be an old one; from then on a tick has just come.
        age_s = max(0.0, (update.ts - quote.ts) / 1e6) if before is None else 0.0
        self.quote, self.ticked_s = quote, now_s - age_s
        for name in MOVING & update.change.keys():
            old, new = getattr(before, name, None), getattr(quote, name)
            if old is not None and new is not None and old != new:
                self.moves[name] = new > old, now_s
        self.price_decimals = max(self.price_decimals, *(decimals(getattr(quote, name)) for name in PRICES))
        self.size_decimals = max(self.size_decimals, *(decimals(getattr(quote, name)) for name in SIZES))

    def cell(self, name: str, now_s: float) -> Text:
        """A field as it is shown."""
        value = getattr(self.quote, name, None)
        if value is None:
            return Text(NONE + ARROW_ROOM * (name in MOVING), style="dim")
        if name == "change_pct":
            return Text(f"{value:+.2f}%", style=UP[1] if value > 0 else DOWN[1] if value < 0 else "")
        if name not in MOVING:
            return Text(f"{value:,.{self.size_decimals}f}")
        text = f"{value:,.{self.price_decimals}f}"
        up, moved_s = self.moves.get(name, (False, -MOVE_S))
        if now_s - moved_s >= MOVE_S:
            return Text(text + ARROW_ROOM)
        arrow, style = UP if up else DOWN
        return Text(f"{text} {arrow}", style=style)


class Board:
    """The table: rows in the order that symbols were asked for, what patterns bring behind them by name."""

    def __init__(self, symbols: Sequence[str] = (), fields: Sequence[str] | None = None) -> None:
        self.state: Connected | Lost | None = None
        self.feeds: Mapping[str, Feed] = {}
        self._asked = {symbol: Row() for symbol in symbols if not set(symbol) & set("*?[")}
        self._matched: dict[str, Row] = {}
        self._columns = [column for column in COLUMNS if fields is None or column[0] in fields]

    def take(self, update: Update, now_s: float) -> None:
        row = self._asked.get(update.symbol)
        if row is None:
            row = self._matched.setdefault(update.symbol, Row())
        row.take(update, now_s)

    def leave_out(self, rejected: Rejected) -> None:
        self._asked.pop(rejected.symbol, None)

    def render(self, now_s: float, lines: int) -> Group:
        """The table as of `now_s`, on a screen of so many `lines`."""
        rows = [*self._asked.items(), *sorted(self._matched.items())]
        room = max(1, lines - FRAME_LINES)
        parts: list[Any] = [self._head(), self._table(rows[:room], now_s)]
        if rows[room:]:
            parts.append(Text(f"{len(rows) - room} more: a taller window shows them", style="dim"))
        return Group(*parts)

    def _head(self) -> Text:
        match self.state:
            case None:
                head = Text("connecting", style="yellow")
            case Connected():
                head = Text(str(self.state), style="green")
            case Lost():
                head = Text(str(self.state), style="bold red")
        for feed in self.feeds.values():
            style = {"live": "green", "starting": "yellow", "ended": ""}.get(feed.state, "bold red")
            late = "" if feed.state == "live" or feed.age_ms is None else f" for {age(feed.age_ms / 1000)}"
            head.append("   ").append(f"{feed}{late}", style=style)
        return head

    def _table(self, rows: Sequence[tuple[str, Row]], now_s: float) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, style="dim" if isinstance(self.state, Lost) else "")
        table.add_column("symbol", no_wrap=True)
        for name, heading in self._columns:
            table.add_column(heading + ARROW_ROOM * (name in MOVING), justify="right", no_wrap=True)
        table.add_column("age", justify="right", no_wrap=True)
        for symbol, row in rows:
            cells = (row.cell(name, now_s) for name, _ in self._columns)
            table.add_row(Text(symbol), *cells, age(now_s - row.ticked_s) if row.quote else NONE)
        return table


def decimals(value: float | None) -> int:
    """The decimals that a number needs: 2 for 61685.99, 0 for 61686.0."""
    if value is None:
        return 0
    exponent = Decimal(repr(value)).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def age(seconds: float) -> str:
    """A length of time, short: 0.4s, 12s, 3m, 2h, 5d."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f}s"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


# -- the edges -----------------------------------------------------------------------------------------------------


async def _show(stream: Stream, board: Board, out: TextIO) -> None:
    """Keep the table on the terminal until the stream ends."""
    console = Console(file=out)

    async def read() -> None:
        async with stream:
            async for update in stream:
                board.take(update, time.monotonic())

    with Live(console=console, auto_refresh=False, redirect_stderr=sys.stderr.isatty()) as live:
        reading = asyncio.create_task(read())
        try:
            while not reading.done():
                board.feeds = stream.feeds
                live.update(board.render(time.monotonic(), console.height), refresh=True)
                await asyncio.wait([reading], timeout=REFRESH_S)
        finally:
            reading.cancel()
            await asyncio.wait([reading])
    await reading


async def _print(stream: Stream, fields: Sequence[str] | None, out: TextIO) -> None:
    """Print a line for each update until the stream ends, or nobody reads them any more."""

    async def write() -> None:
        async with stream:
            async for update in stream:
                out.write(line(update, fields))
                out.flush()

    unread = False

    def stop() -> None:
        nonlocal unread
        unread = True
        writing.cancel()

    writing = asyncio.create_task(write())
    try:
        with _watched(out, stop):
            await writing
    except BrokenPipeError:
        _discard(out)
    except asyncio.CancelledError:
        if not unread:
            raise
        _discard(out)


@contextmanager
def _watched(out: TextIO, unread: Callable[[], None]) -> Iterator[None]:
    """Call `unread` when the reader of the pipe `out` has gone, also while there is nothing to write."""
    pipe = _pipe(out)
    if pipe is None:
        yield
        return
    loop = asyncio.get_running_loop()
    # The writing end of a pipe never has anything to read, but counts as readable once its reader has gone.
    loop.add_reader(pipe, unread)
    try:
        yield
    finally:
        loop.remove_reader(pipe)


def _pipe(out: TextIO) -> int | None:
    """The descriptor of `out`, where that is a pipe."""
    try:
        descriptor = out.fileno()
    except UnsupportedOperation:
        return None
    return descriptor if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None


def _discard(out: TextIO) -> None:
    """Let what `out` still holds go nowhere, rather than fail when the interpreter flushes it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(UnsupportedOperation):
        os.dup2(nowhere, out.fileno())
    os.close(nowhere)
