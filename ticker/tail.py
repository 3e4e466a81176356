"""`ticker tail`: prices as a live table in a terminal, as NDJSON in a pipe."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
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
    ShuttingDown,
    Stream,
    StreamError,
    Update,
    connect,
)
from ticker.mirror import AS_OF

FIELDS: Final = tuple(name for name in Quote.__struct_fields__ if name not in AS_OF)
PRICES: Final = ("bid", "ask", "last", "open", "high", "low")
SIZES: Final = ("bid_size", "ask_size", "last_size", "volume")
#: The columns of the table between symbol and age: the fields' headings.
HEADINGS: Final = {
    "bid": "bid",
    "bid_size": "size",
    "ask": "ask",
    "ask_size": "size",
    "last": "last",
    "change_pct": "change",
    "volume": "volume",
}
AGE: Final = "age"
#: What a narrow window goes without, first to last; bid and ask stay.
SPARE: Final = ((AGE,), ("volume",), ("change_pct",), ("bid_size", "ask_size"), ("last",))
#: Columns that tell each move by an arrow, for so long.
MOVING: Final = frozenset(("bid", "ask", "last"))
MOVE_S: Final = 1.5
UP, DOWN, NONE = ("▲", "green"), ("▼", "red"), "-"
ARROW_ROOM: Final = "\N{NO-BREAK SPACE}" * 2
REFRESH_S: Final = 0.125
#: Lines that are neither rows nor the state: the heading and its rule, what is left out, two to spare.
FRAME_LINES: Final = 5
#: Wider than any window: to measure a table.
UNBOUNDED: Final = 10_000
#: An outage is told again after so long.
SAY_AGAIN_S: Final = 60.0
#: As many names are told in one line.
NAMES_MAX: Final = 3


async def tail(
    url: str,
    symbols: Sequence[str],
    *,
    token: str | None = None,
    interval_ms: int | None = None,
    fields: Sequence[str] | None = None,
    json: bool = False,
    out: TextIO,
    err: TextIO | None = None,
) -> int:
    """Show `symbols`, names or patterns, until the server is done or nobody reads `out`; returns the exit code.

    A terminal is shown a table. Anything else, or a terminal with `json`, is given one JSON object a line (NDJSON) for
    each update of a symbol: `symbol`, `seq`, `count`, `n`, `ts`, every field as it now is (`fields`, or all; null where
    there is no value), and, where there were trades since the symbol's line before, `hi`, `lo` and `vol`. `count` is
    the server's count of the symbol's ticks since the server started; `n` is the number of ticks since the symbol's
    line before, null where nobody knows it: in the first line, and the first after some reconnects. On one connection
    the `count` of the line before and `n` give this `count`. So every line stands for itself, and ``jq .bid`` always
    finds the bid.

    What else there is to tell goes to `err` (stderr), a line each. A server that cannot be reached is tried again; one
    that refuses for good, or serves none of `symbols`, ends it with 1, a wrong address with 2. Names that may yet come
    are waited for. Cancelling it, as Ctrl-C does, ends it at once.
    """
    in_table = out.isatty() and not json
    board = Board(symbols, fields)
    teller = Teller(symbols, board if in_table else None, err)
    try:
        stream = connect(url, symbols, token=token, interval_ms=interval_ms, fields=fields, on_notice=teller.tell)
    except ValueError as error:
        teller.say(str(error))
        return 2
    shown = _show(stream, symbols, board, out) if in_table else _print(stream, symbols, fields, out, teller)
    running = asyncio.create_task(shown)
    teller.on_none_served = running.cancel
    try:
        await running
    except StreamError as error:
        teller.say(str(error))
        return 1
    except asyncio.CancelledError:
        if not teller.none_served:
            raise
        teller.say("the server serves none of what was asked for")
        return 1
    return 0


def line(update: Update, fields: Sequence[str] | None = None) -> str:
    """An update as a line of NDJSON, as `tail` documents it."""
    quote = msgspec.structs.asdict(update.quote)
    item = {"symbol": update.symbol, "seq": quote["seq"], "count": quote["n"], "n": update.n, "ts": quote["ts"]}
    for name in fields or FIELDS:
        item[name] = quote[name]
    for name in ("hi", "lo", "vol"):
        if (value := getattr(update, name)) is not None:
            item[name] = value
    return orjson.dumps(item).decode() + "\n"


def missing(stream: Stream, symbols: Iterable[str]) -> list[str]:
    """Those of `symbols`, names and patterns, that are served but that no quote has come for."""
    names = [name for name in dict.fromkeys(symbols) if name not in stream.rejected]
    known = list(stream.quotes)
    return [name for name in names if not any(fnmatchcase(symbol, name) for symbol in known)]


def waiting(names: Sequence[str]) -> str:
    """What to tell of `names`, the `missing` ones."""
    more = len(names) - NAMES_MAX
    return f"nothing yet for {', '.join(map(repr, names[:NAMES_MAX]))}" + (f" and {more} more" if more > 0 else "")


class Teller:
    """Tells a person what there is to tell beside prices: of an outage now and then, not at every try."""

    def __init__(self, symbols: Iterable[str] = (), board: Board | None = None, err: TextIO | None = None) -> None:
        """`board` shows the states of connection and feeds, where there is one; all else are lines to `err`.

        `on_none_served` is called once the last of `symbols` was rejected.
        """
        self.on_none_served: Callable[[], object] = lambda: None
        self.none_served = False
        self._served = set(symbols)
        self._board = board
        self._err = err
        self._lost = False
        #: The waits for a next try since the outage was told.
        self._silent_s = 0.0

    def say(self, text: str) -> None:
        print(f"ticker: {text}", file=self._err or sys.stderr, flush=True)

    def tell(self, notice: Notice) -> None:
        if self._board is not None:
            self._board.tell(notice)
        match notice:
            case Rejected():
                self.say(str(notice))
                self._reject(notice)
            case Complaint():
                self.say(str(notice))
            case _ if self._board is not None:
                pass
            case Connected():
                if self._lost:
                    self.say(str(notice))
                self._lost = False
            case Lost() | ShuttingDown():  # a shutdown says all that the end of its connection would
                self._outage(notice)
            case _:
                self.say(str(notice))

    def _outage(self, notice: Lost | ShuttingDown) -> None:
        if not self._lost or self._silent_s >= SAY_AGAIN_S:
            self.say(str(notice))
            self._silent_s = 0.0
        self._lost = True
        if isinstance(notice, Lost):
            self._silent_s += notice.retry_s

    def _reject(self, rejected: Rejected) -> None:
        if rejected.count is None and rejected.symbol in self._served:
            self._served.remove(rejected.symbol)
            self.none_served = not self._served
            if self.none_served:
                self.on_none_served()


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
        age_s = 0.0 if before is not None or quote.ts is None else max(0.0, (update.ts - quote.ts) / 1e6)
        self.quote, self.ticked_s = quote, now_s - age_s
        for name in MOVING & update.change.keys():
            old, new = getattr(before, name, None), getattr(quote, name)
            if old is not None and new is not None and old != new:
                self.moves[name] = new > old, now_s
        self.price_decimals = max(self.price_decimals, *(decimals(getattr(quote, name)) for name in PRICES))
        self.size_decimals = max(self.size_decimals, *(decimals(getattr(quote, name)) for name in SIZES))

    def cell(self, name: str, now_s: float) -> Text:
        """A column's value as it is shown."""
        if name == AGE:
            return Text(age(now_s - self.ticked_s) if self.quote else NONE)
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
    """The table: rows in the order that symbols were asked for, what patterns bring behind them by name.

    While there is no connection its prices are dim, as they may be old, and no feed is said to be anything.
    """

    def __init__(self, symbols: Sequence[str] = (), fields: Sequence[str] | None = None) -> None:
        self.feeds: Mapping[str, Feed] = {}
        self._state: Connected | Lost | None = None
        self._asked = {symbol: Row() for symbol in symbols if not set(symbol) & set("*?[")}
        self._matched: dict[str, Row] = {}
        #: Names and patterns that nothing has come for, once it could have.
        self._missing: list[str] = []
        self._columns = [name for name in (*HEADINGS, AGE) if fields is None or name == AGE or name in fields]

    def take(self, update: Update, now_s: float) -> None:
        row = self._asked.get(update.symbol)
        if row is None:
            row = self._matched.setdefault(update.symbol, Row())
        row.take(update, now_s)
        if self._missing:
            self._missing = [name for name in self._missing if not fnmatchcase(update.symbol, name)]

    def keep(self, symbols: Container[str]) -> None:
        """Show the quotes of `symbols` only: the others have gone."""
        self._asked = {symbol: row if symbol in symbols else Row() for symbol, row in self._asked.items()}
        self._matched = {symbol: row for symbol, row in self._matched.items() if symbol in symbols}

    def tell(self, notice: Notice) -> None:
        if isinstance(notice, Connected | Lost):
            self._state = notice
        elif isinstance(notice, Rejected) and notice.count is None:
            self._asked.pop(notice.symbol, None)
            self._missing = [name for name in self._missing if name != notice.symbol]

    def wait_for(self, names: Sequence[str]) -> None:
        """Say that nothing has come for `names`, each until something does."""
        self._missing = list(names)

    def render(self, console: Console, now_s: float) -> Group | Text:
        """The table as of `now_s`, as much of it as the console's window takes without a number or symbol cut."""
        head = self._head()
        rows = [*self._asked.items(), *sorted(self._matched.items())]
        room = max(1, console.height - FRAME_LINES - len(head.wrap(console, max(1, console.width))))
        for columns in narrower(self._columns):
            table = self._table(rows[:room], columns, now_s)
            width = console.measure(table, options=console.options.update_width(UNBOUNDED)).maximum
            if width <= console.width:
                break
        else:
            return Text(f"needs {width} columns, has {console.width}", style="yellow")
        parts: list[Any] = [head, table]
        if rows[room:]:
            parts.append(Text(f"{len(rows) - room} more: a taller window shows them", style="dim"))
        return Group(*parts)

    def _head(self) -> Text:
        match self._state:
            case None:
                return Text("connecting", style="yellow")
            case Lost():
                return Text(f"not connected: {self._state.reason}; trying again", style="bold red")
            case Connected():
                head = Text(str(self._state), style="green")
        for feed in self.feeds.values():
            style = {"live": "green", "starting": "yellow", "ended": ""}.get(feed.state, "bold red")
            late = "" if feed.state == "live" or feed.age_ms is None else f" for {age(feed.age_ms / 1000)}"
            head.append("   ").append(f"{feed}{late}", style=style)
        if self._missing:
            head.append("   ").append(waiting(self._missing), style="yellow")
        return head

    def _table(self, rows: Sequence[tuple[str, Row]], columns: Sequence[str], now_s: float) -> Table:
        connected = isinstance(self._state, Connected)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("symbol", no_wrap=True)
        for name in columns:
            heading = HEADINGS.get(name, name) + ARROW_ROOM * (name in MOVING)
            table.add_column(heading, justify="right", no_wrap=True)
        for symbol, row in rows:
            cells = (row.cell(name, now_s) for name in columns)
            table.add_row(Text(symbol), *cells, style="" if connected else "dim")
        return table


def narrower(columns: Sequence[str]) -> Iterator[Sequence[str]]:
    """`columns`, then always fewer of them as `SPARE` says; a value is always among them, where there was one."""
    yield columns
    for spare in SPARE:
        fewer = [name for name in columns if name not in spare]
        if len(fewer) < len(columns) and set(fewer) - {AGE}:
            yield fewer
            columns = fewer


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


async def _show(stream: Stream, symbols: Sequence[str], board: Board, out: TextIO) -> None:
    """Keep the table on the terminal until the stream ends."""
    console = Console(file=out)

    async def read() -> None:
        async with stream:
            board.wait_for(missing(stream, symbols))
            async for update in stream:
                board.take(update, time.monotonic())

    with Live(console=console, auto_refresh=False, redirect_stderr=sys.stderr.isatty()) as live:
        reading = asyncio.create_task(read())
        try:
            while not reading.done():
                board.feeds = stream.feeds
                board.keep(set(stream.quotes))
                live.update(board.render(console, time.monotonic()), refresh=True)
                await asyncio.wait([reading], timeout=REFRESH_S)
        finally:
            reading.cancel()
            await asyncio.wait([reading])
    await reading


async def _print(
    stream: Stream, symbols: Sequence[str], fields: Sequence[str] | None, out: TextIO, teller: Teller
) -> None:
    """Print a line for each update until the stream ends, or nobody reads them any more."""

    async def write() -> None:
        async with stream:
            if names := missing(stream, symbols):
                teller.say(waiting(names))
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
