"""What a person sees in a terminal, and what a program reads from a pipe."""

from __future__ import annotations

import asyncio
import os
import re
from io import StringIO
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.test_client import Peer, serving
from tests.test_dialogue import update as update_message
from ticker.client import Complaint, Connected, Feed, Lost, Notice, Quote, Rejected, ShuttingDown, Update
from ticker.errors import Close
from ticker.mirror import AS_OF
from ticker.tail import FIELDS, MOVE_S, Board, Teller, age, decimals, line, narrower, tail, waiting


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def told(symbol: str = "A", *, ts: int = 0, n: int | None = 1, whole: bool = False, **fields: Any) -> Update:
    trades = {name: fields.pop(name) for name in ("hi", "lo", "vol") if name in fields}
    quote = Quote(symbol=symbol, seq=7, n=9, ts=0, **fields)
    return Update(symbol=symbol, quote=quote, change=fields, n=n, whole=whole, ts=ts, **trades)


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


# -- lines ---------------------------------------------------------------------------------------------------------


def test_a_line_is_the_whole_item_as_merged_with_the_ticks_since_the_line_before() -> None:
    item = orjson.loads(line(told(bid=1.5, trades=3, n=4)))
    assert item == {
        **dict.fromkeys(FIELDS),
        "symbol": "A",
        "seq": 7,
        "count": 9,
        "n": 4,
        "ts": 0,
        "bid": 1.5,
        "trades": 3,
    }


def test_a_line_has_only_the_fields_that_were_asked_for_and_what_was_traded() -> None:
    text = line(told(bid=1.5, last=2.0, hi=3.0, lo=1.0, vol=0.3, n=None), ["last", "bid"])
    assert text == '{"symbol":"A","seq":7,"count":9,"n":null,"ts":0,"last":2.0,"bid":1.5,"hi":3.0,"lo":1.0,"vol":0.3}\n'


@given(st.builds(told, bid=st.floats(allow_nan=False, allow_infinity=False), vol=st.none() | st.floats(0, 1e9)))
def test_a_number_comes_out_of_a_line_as_it_went_in(update: Update) -> None:
    text = line(update)
    assert text.count("\n") == 1
    item = orjson.loads(text)
    assert item["bid"] == update.quote.bid
    assert item.get("vol") == update.vol
    assert item.keys() >= AS_OF


# -- the table -----------------------------------------------------------------------------------------------------


def screen(board: Board, now_s: float = 0.0, lines: int = 30, width: int = 110, *, styles: bool = False) -> list[str]:
    console = Console(
        width=width, height=lines, file=StringIO(), record=True, color_system="standard" if styles else None
    )
    console.print(board.render(console, now_s))
    text = console.export_text(styles=styles)
    return [line.replace("\N{NO-BREAK SPACE}", " ").strip() for line in text.splitlines()]


def row(board: Board, symbol: str = "A", now_s: float = 0.0) -> list[str]:
    return next(text.split() for text in screen(board, now_s) if text.split()[:1] == [symbol])


def board_of(*updates: Update, symbols: tuple[str, ...] = ("A",)) -> Board:
    board = Board(symbols)
    for update in updates:
        board.take(update, 0.0)
    return board


def test_a_row_shows_the_quote() -> None:
    values: dict[str, Any] = {"bid": 61685.99, "bid_size": 1.2, "ask": 61686.0, "ask_size": 0.4}
    board = board_of(told(**values, last=61686.0, change_pct=-1.5, volume=1234.5))
    assert row(board) == ["A", "61,685.99", "1.2", "61,686.00", "0.4", "61,686.00", "-1.50%", "1,234.5", "0.0s"]


def test_prices_of_a_symbol_keep_the_decimals_that_it_has_once_had() -> None:
    assert row(board_of(told(bid=12.91), told(bid=13.0)))[1] == "13.00"


def test_a_field_without_a_value_is_a_dash_and_so_is_a_symbol_without_any() -> None:
    assert row(board_of(told(bid=1.5, ask=None)))[1:5] == ["1.5", "-", "-", "-"]
    assert row(board_of()) == ["A"] + ["-"] * 8


@pytest.mark.parametrize(("after", "arrow"), [(2.0, "▲"), (1.0, "▼")])
def test_a_move_is_told_by_an_arrow_for_a_moment(after: float, arrow: str) -> None:
    board = board_of(told(bid=1.5), told(bid=after))
    assert row(board)[2] == arrow
    assert arrow not in row(board, now_s=MOVE_S)


def test_what_did_not_move_has_no_arrow() -> None:
    text = "".join(screen(board_of(told(bid=1.5), told(bid=1.5))))
    assert "▲" not in text
    assert "▼" not in text


def test_age_counts_from_the_last_tick_also_of_a_quote_that_was_old_when_it_came() -> None:
    board = board_of(told(bid=1.0, ts=3_600_000_000, whole=True))
    assert row(board, now_s=5.0)[-1] == "1h"
    board.take(told(bid=2.0, ts=3_600_000_000), 5.0)
    assert row(board, now_s=7.0)[-1] == "2.0s"


def test_symbols_stand_in_the_order_they_were_asked_for_and_matches_of_patterns_behind_them_by_name() -> None:
    board = board_of(told("P2"), told("P1"), told("A"), symbols=("B", "P*", "A"))
    assert [text.split()[0] for text in screen(board)[4:] if text] == ["B", "A", "P1", "P2"]


def test_a_table_that_is_too_long_for_the_window_says_how_much_is_left_out() -> None:
    board = board_of(*(told(f"P{i:03}") for i in range(100)), symbols=())
    shown = screen(board, lines=20)
    assert len(shown) <= 20
    assert shown[-1] == "86 more: a taller window shows them"


def test_columns_of_fields_that_were_not_asked_for_are_left_out() -> None:
    assert screen(Board(["A"], ["bid", "last"]))[2].split() == ["symbol", "bid", "last", "age"]


def test_the_first_line_tells_of_the_connection_and_the_feeds() -> None:
    board = Board(["A"])
    assert screen(board)[0] == "connecting"
    board.tell(Connected("live", "k-1"))
    board.feeds = {"sim": Feed("sim", "live", 3), "kafka": Feed("kafka", "stale", 12_000)}
    assert screen(board)[0] == "connected, live   feed sim: live   feed kafka: stale for 12s"


def test_while_not_connected_no_feed_is_said_to_be_live_and_prices_are_dim() -> None:
    dimmed, board = re.compile(r"\x1b\[2m *1\.5"), board_of(told(bid=1.5))
    board.tell(Connected("live", "k-1"))
    board.feeds = {"sim": Feed("sim", "live", 3)}
    assert not [text for text in screen(board, styles=True) if dimmed.search(text)]
    board.tell(Lost("the connection was cut", 0.8))
    assert screen(board)[0] == "not connected: the connection was cut; trying again"
    assert [text for text in screen(board, styles=True) if dimmed.search(text)]


def test_what_nothing_has_come_for_is_told_until_something_does() -> None:
    board = board_of(symbols=("A", "P*", "Q"))
    board.tell(Connected("live", "k-1"))
    board.wait_for(["A", "P*", "Q"])
    assert screen(board)[0] == "connected, live   nothing yet for 'A', 'P*', 'Q'"
    board.take(told("P1"), 0.0)
    board.take(told("A"), 0.0)
    assert screen(board)[0] == "connected, live   nothing yet for 'Q'"
    board.tell(Rejected("Q", "unknown_symbol"))
    assert screen(board)[0] == "connected, live"


def test_quotes_that_have_gone_are_shown_no_more() -> None:
    board = board_of(told("A", bid=1.5), told("B", bid=2.5), told("P1"), told("P2"), symbols=("A", "B", "P*"))
    board.keep({"B", "P2"})
    assert row(board) == ["A"] + ["-"] * 8
    assert row(board, "B")[1] == "2.5"
    assert [text.split()[0] for text in screen(board)[4:] if text] == ["A", "B", "P2"]


def test_of_many_names_that_are_waited_for_some_are_named() -> None:
    assert waiting(["A", "B", "C", "D", "E"]) == "nothing yet for 'A', 'B', 'C' and 2 more"


# -- narrow windows ------------------------------------------------------------------------------------------------

QUOTED: dict[str, Any] = {"bid": 61685.99, "bid_size": 1.2, "ask": 61686.01, "ask_size": 0.4}
FULL = QUOTED | {"last": 61687.02, "change_pct": -1.5, "volume": 1234.5}
WORDS = {"binance-spot:BTCUSDT", "61,685.99", "1.2", "61,686.01", "0.4", "61,687.02", "-1.50%", "1,234.5", "0.0s"}


@pytest.mark.parametrize("width", range(10, 120))
def test_no_number_and_no_symbol_is_ever_cut(width: int) -> None:
    board = board_of(told("binance-spot:BTCUSDT", **FULL), symbols=())
    board.tell(Connected("live", "k-1"))
    shown = screen(board, width=width)
    assert all(len(text) <= width for text in shown)
    needed = re.match(r"needs (\d+) columns,? ?", " ".join(shown))
    if needed:
        assert int(needed[1]) > width
        assert "binance" in " ".join(screen(board, width=int(needed[1])))
    else:
        cells = set(" ".join(shown[1:]).split()) - {"symbol", "bid", "size", "ask", "last", "change", "volume", "age"}
        assert (
            {"binance-spot:BTCUSDT", "61,685.99", "61,686.01"} <= {cell for cell in cells if "─" not in cell} <= WORDS
        )


def test_a_narrow_window_goes_without_age_then_volume_then_change_then_sizes_then_last() -> None:
    board = board_of(told(**FULL))
    fewest = next(width for width in range(25, 110) if len(screen(board, width=width)) > 1)
    assert screen(board, width=fewest - 1) == [f"needs {fewest} columns, has {fewest - 1}"]
    headings = {" ".join(screen(board, width=width)[2].split()): None for width in range(110, fewest - 1, -1)}
    assert list(headings) == [
        "symbol bid size ask size last change volume age",
        "symbol bid size ask size last change volume",
        "symbol bid size ask size last change",
        "symbol bid size ask size last",
        "symbol bid ask last",
        "symbol bid ask",
    ]


@pytest.mark.parametrize(
    ("columns", "fewest"),
    [
        (["last", "age"], ["last"]),
        (["volume", "age"], ["volume"]),
        (["bid", "last", "age"], ["bid"]),
        (["age"], ["age"]),
    ],
)
def test_a_value_is_always_among_the_columns(columns: list[str], fewest: list[str]) -> None:
    assert list(narrower(columns))[-1] == fewest


@pytest.mark.parametrize(
    ("value", "count"), [(None, 0), (61686.0, 0), (61685.99, 2), (1e-07, 7), (1e22, 0), (0.0, 0), (-1.5, 1), (100.0, 0)]
)
def test_decimals(value: float | None, count: int) -> None:
    assert decimals(value) == count


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0s"), (0.44, "0.4s"), (12, "12s"), (180, "3m"), (7200, "2h"), (432_000, "5d")],
)
def test_age(seconds: float, text: str) -> None:
    assert age(seconds) == text


# -- what is told on stderr ----------------------------------------------------------------------------------------


def lines_told(*notices: Notice) -> list[str]:
    err = StringIO()
    teller = Teller(["A"], err=err)
    for notice in notices:
        teller.tell(notice)
    return [text.removeprefix("ticker: ") for text in err.getvalue().splitlines()]


def test_an_outage_is_told_once_and_its_end_too() -> None:
    assert lines_told(Connected("live", "e"), Lost("cut", 0.5), Lost("no route", 1.0), Connected("live", "e")) == [
        "not connected: cut; retrying in 0.5 s",
        "connected, live",
    ]


def test_a_long_outage_is_told_again_now_and_then() -> None:
    told = lines_told(*(Lost(f"try {i}", 25.0) for i in range(8)))
    assert [text.split(";")[0] for text in told] == [f"not connected: try {i}" for i in (0, 3, 6)]


def test_a_shutdown_says_all_that_the_end_of_its_connection_would() -> None:
    assert lines_told(ShuttingDown(1.5), Lost("the server is shutting down", 1.2), Connected("live", "e")) == [
        "the server is shutting down; reconnecting in 1.5 s",
        "connected, live",
    ]
    assert len(lines_told(ShuttingDown(1.5), Lost("down", 1.2), Connected("live", "e"), Lost("cut", 1.0))) == 3


def test_beside_a_table_only_what_it_does_not_show_is_told() -> None:
    err, board = StringIO(), Board(["A", "B"])
    teller = Teller(["A", "B"], board, err)
    for notice in (Lost("cut", 0.5), Feed("sim", "live"), Rejected("B", "unknown_symbol"), Complaint("a", "b")):
        teller.tell(notice)
    assert err.getvalue().splitlines() == ["ticker: 'B' is not served: unknown_symbol", "ticker: a: b"]
    assert screen(board)[0] == "not connected: cut; trying again"
    assert not [text for text in screen(board) if text.startswith("B")]


def test_none_are_served_once_every_name_was_rejected_not_where_a_pattern_is_served_in_part() -> None:
    calls: list[bool] = []
    teller = Teller(["A", "B", "P*"], err=StringIO())
    teller.on_none_served = lambda: calls.append(teller.none_served)
    for symbol, count in (("A", None), ("P*", 7), ("A", None), ("B", None)):
        teller.tell(Rejected(symbol, "limit_symbols", count))
    assert not calls
    teller.tell(Rejected("P*", "invalid_symbol"))
    assert calls == [True]


# -- the whole -----------------------------------------------------------------------------------------------------


async def done(peer: Peer) -> None:
    """Two updates of A, then the end."""
    await peer.settle(A=5)
    await peer.send(update_message("A", 5, 8, n=3))
    await peer.end(Close.DONE)


async def test_a_pipe_is_given_a_line_for_each_update() -> None:
    out = StringIO()
    async with serving(done) as server:
        assert await tail(server.url, ["A"], fields=["bid"], out=out) == 0
    assert out.getvalue().splitlines() == [
        '{"symbol":"A","seq":5,"count":5,"n":null,"ts":5,"bid":5.0}',
        '{"symbol":"A","seq":8,"count":8,"n":3,"ts":8,"bid":8.0}',
    ]


async def test_a_terminal_is_given_lines_where_it_asks_for_them() -> None:
    out = Terminal()
    async with serving(done) as server:
        assert await tail(server.url, ["A"], json=True, out=out) == 0
    assert len([orjson.loads(text) for text in out.getvalue().splitlines()]) == 2


async def test_a_terminal_is_shown_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    out = Terminal()

    async def script(peer: Peer) -> None:
        await peer.settle(A=5)
        await asyncio.sleep(0.2)
        await peer.end(Close.DONE)

    async with serving(script) as server:
        assert await tail(server.url, ["A"], out=out) == 0
    assert "connected, live" in out.getvalue()


async def test_a_rejected_symbol_is_told_on_stderr() -> None:
    async def rejecting(peer: Peer) -> None:
        await peer.welcome()
        await peer.answer(["no good"], A=5)
        await peer.end(Close.DONE)

    err = StringIO()
    async with serving(rejecting) as server:
        assert await tail(server.url, ["A", "no good"], out=StringIO(), err=err) == 0
    assert err.getvalue() == "ticker: 'no good' is not served: invalid_symbol\n"


@pytest.mark.parametrize("out", [StringIO, Terminal])
@pytest.mark.parametrize("symbols", [[""], ["a b", "NOPE"]])
async def test_where_nothing_that_was_asked_for_is_served_it_ends_with_1(
    symbols: list[str], out: type[StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def rejecting(peer: Peer) -> None:
        await peer.welcome()
        await peer.answer(symbols)

    monkeypatch.setenv("COLUMNS", "110")
    err = StringIO()
    async with serving(rejecting) as server:
        assert await tail(server.url, symbols, out=out(), err=err) == 1
    assert err.getvalue().splitlines() == [
        *(f"ticker: {symbol!r} is not served: invalid_symbol" for symbol in symbols),
        "ticker: the server serves none of what was asked for",
    ]


async def test_it_ends_with_1_also_where_the_server_comes_back_without_what_was_asked_for() -> None:
    async def leaving(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.cut()

    async def rejecting(peer: Peer) -> None:
        await peer.welcome()
        await peer.answer(["A"])

    async with serving(leaving, rejecting) as server:
        assert await tail(server.url, ["A"], out=StringIO(), err=StringIO()) == 1


async def test_what_nothing_has_come_for_is_waited_for_and_told_once() -> None:
    async def script(peer: Peer) -> None:
        await peer.settle(A=5)
        await peer.end(Close.DONE)

    err = StringIO()
    async with serving(script) as server:
        assert await tail(server.url, ["A", "B", "P*"], out=StringIO(), err=err) == 0
    assert err.getvalue() == "ticker: nothing yet for 'B', 'P*'\n"


async def test_a_final_refusal_is_one_line_and_1() -> None:
    err = StringIO()
    async with serving((401, {})) as server:
        assert await tail(server.url, ["A"], out=StringIO(), err=err) == 1
    assert err.getvalue() == "ticker: refused with HTTP 401\n"


async def test_a_wrong_address_is_one_line_and_2() -> None:
    err = StringIO()
    assert await tail("ftp://localhost", ["A"], out=StringIO(), err=err) == 2
    assert err.getvalue().count("\n") == 1


async def test_a_server_that_cannot_be_reached_is_told_once_and_tried_until_cancelled() -> None:
    async with serving(done) as server:
        pass
    err = StringIO()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await tail(server.url, ["A"], out=StringIO(), err=err)
    assert err.getvalue().count("\n") == 1
    assert "retrying in" in err.getvalue()


async def test_a_reader_that_has_had_enough_ends_it_with_success_also_while_nothing_comes() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as out:
        async with serving(lambda peer: peer.settle(A=5)) as server:
            running = asyncio.create_task(tail(server.url, ["A"], out=out))
            await asyncio.to_thread(os.read, reader, 1)
            os.close(reader)
            assert await running == 0


async def test_a_reader_that_has_gone_before_the_first_line_ends_it_with_success() -> None:
    class Unread(StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    async with serving(done) as server:
        assert await tail(server.url, ["A"], out=Unread()) == 0
