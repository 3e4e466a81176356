"""What a person sees in a terminal, and what a program reads from a pipe."""

from __future__ import annotations

import asyncio
import os
from io import StringIO
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.test_client import Peer, serving
from tests.test_dialogue import update as update_message
from ticker.client import Complaint, Connected, Feed, Lost, Quote, Rejected, Update
from ticker.errors import Close
from ticker.mirror import AS_OF
from ticker.tail import FIELDS, MOVE_S, Board, Teller, age, decimals, line, tail


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
    assert item == {**dict.fromkeys(FIELDS), "symbol": "A", "seq": 7, "n": 4, "ts": 0, "bid": 1.5, "trades": 3}


def test_a_line_has_only_the_fields_that_were_asked_for_and_what_was_traded() -> None:
    text = line(told(bid=1.5, last=2.0, hi=3.0, lo=1.0, vol=0.3, n=None), ["last", "bid"])
    assert text == '{"symbol":"A","seq":7,"n":null,"ts":0,"last":2.0,"bid":1.5,"hi":3.0,"lo":1.0,"vol":0.3}\n'


@given(st.builds(told, bid=st.floats(allow_nan=False, allow_infinity=False), vol=st.none() | st.floats(0, 1e9)))
def test_a_number_comes_out_of_a_line_as_it_went_in(update: Update) -> None:
    text = line(update)
    assert text.count("\n") == 1
    item = orjson.loads(text)
    assert item["bid"] == update.quote.bid
    assert item.get("vol") == update.vol
    assert item.keys() >= AS_OF


# -- the table -----------------------------------------------------------------------------------------------------


def screen(board: Board, now_s: float = 0.0, lines: int = 30) -> list[str]:
    console = Console(width=110, file=StringIO(), record=True, color_system=None)
    console.print(board.render(now_s, lines))
    return [text.replace("\N{NO-BREAK SPACE}", " ").strip() for text in console.export_text().splitlines()]


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
    board.state = Connected("live", "k-1")
    board.feeds = {"sim": Feed("sim", "live", 3), "kafka": Feed("kafka", "stale", 12_000)}
    assert screen(board)[0] == "connected, live   feed sim: live   feed kafka: stale for 12s"
    board.state = Lost("the connection was cut", 0.8)
    assert screen(board)[0].startswith("not connected: the connection was cut; retrying in 0.8 s")


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


def test_an_outage_is_told_once_and_its_end_too() -> None:
    err = StringIO()
    teller = Teller(err=err)
    for notice in (Connected("live", "e"), Lost("cut", 0.5), Lost("no route", 1.0), Connected("live", "e")):
        teller.tell(notice)
    assert err.getvalue().splitlines() == [
        "ticker: not connected: cut; retrying in 0.5 s",
        "ticker: connected, live",
    ]


def test_beside_a_table_only_what_it_does_not_show_is_told() -> None:
    err, board = StringIO(), Board(["A", "B"])
    teller = Teller(board, err)
    for notice in (Lost("cut", 0.5), Feed("sim", "live"), Rejected("B", "unknown_symbol"), Complaint("a", "b")):
        teller.tell(notice)
    assert err.getvalue().splitlines() == ["ticker: B: unknown_symbol", "ticker: a: b"]
    assert isinstance(board.state, Lost)
    assert not [text for text in screen(board) if text.startswith("B")]


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
        '{"symbol":"A","seq":5,"n":null,"ts":5,"bid":5.0}',
        '{"symbol":"A","seq":8,"n":3,"ts":8,"bid":8.0}',
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
    assert err.getvalue() == "ticker: no good: invalid_symbol\n"


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
