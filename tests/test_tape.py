from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.ticks import BUY, NO_SIDE, SELL, Symbols, Ticks
from tests.hubs import NOON, Message, batch, quote, trade
from ticker.journal import Gap
from ticker.quotes import QuoteTable
from ticker.tape import Tape


class Market:
    """A table and its tape, over whatever symbols its trades name."""

    def __init__(self, kept: int = 5) -> None:
        self.symbols = Symbols()
        self.table = QuoteTable(self.symbols, capacity=1)
        self.tape = Tape(self.symbols, kept)
        self.table.follow(self.tape)

    def read(self, *records: Message, part: str = "") -> Ticks:
        ticks = batch(self.symbols, records, part=part)
        self.table.apply(ticks)
        return ticks

    def last(self, symbol: str = "A", limit: int = 100) -> list[dict[str, Any]]:
        row = self.symbols.find(symbol)
        assert row is not None
        return items(self.tape.last(row, limit))

    def seqs(self, symbol: str = "A", limit: int = 100) -> list[int]:
        return [item["seq"] for item in self.last(symbol, limit)]


def items(block: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(b"[" + block[:-1] + b"]")
    return found


def test_a_trade_is_told_as_it_came() -> None:
    market = Market()
    ticks = batch(market.symbols, [trade("A", 7, 1.5, 0.25), quote("A", 8, 1.0), trade("A", 9, 2.5)])
    columns = {**ticks.__dict__} if hasattr(ticks, "__dict__") else {n: getattr(ticks, n) for n in ticks.__slots__}
    columns |= {"side": np.array([BUY, NO_SIDE, SELL], np.uint8), "trade_id": pa.array(["x1", None, None])}
    market.table.apply(Ticks(**columns))
    assert market.last() == [
        {"symbol": "A", "seq": 7, "i": 0, "ts": NOON, "price": 1.5, "size": 0.25, "side": "buy", "id": "x1"},
        {"symbol": "A", "seq": 9, "i": 0, "ts": NOON, "price": 2.5, "size": None, "side": "sell", "id": None},
    ]
    market.read(trade("A", 10, 3.0))
    assert (market.last()[-1]["side"], market.last()[-1]["id"]) == (None, None)


def test_ticks_of_one_record_are_told_apart() -> None:
    market = Market()
    market.read(trade("A", 7, 1.0), quote("A", 7, 1.0), trade("B", 7, 2.0), trade("A", 7, 3.0), trade("A", 8, 4.0))
    assert [(t["seq"], t["i"]) for t in market.last("A")] == [(7, 0), (7, 3), (8, 0)]
    assert [(t["seq"], t["i"]) for t in market.last("B")] == [(7, 2)]


def test_so_many_are_kept_of_each_symbol() -> None:
    market = Market(kept=3)
    market.read(trade("B", 1, 1.0), *(trade("A", seq, 1.0) for seq in range(2, 12)))
    assert market.seqs("A") == [9, 10, 11]
    assert market.seqs("A", limit=2) == [10, 11]
    assert market.seqs("B") == [1]


def test_what_is_new_and_what_is_lost() -> None:
    market = Market(kept=3)
    market.read(trade("A", 5, 1.0), trade("A", 6, 1.0))
    held = market.tape.held(0)
    assert market.tape.news(0, held) == (None, b"")
    market.read(*(trade("A", seq, 1.0) for seq in (7, 8, 9)))
    gap, news = market.tape.news(0, held)
    assert gap is None
    assert [t["seq"] for t in items(news)] == [7, 8, 9]
    market.read(*(trade("A", seq, 1.0) for seq in (10, 11)))
    gap, news = market.tape.news(0, held)
    assert gap == Gap("A", 6, 8, 2)
    assert [t["seq"] for t in items(news)] == [9, 10, 11]


def test_a_record_that_is_not_held_whole_is_lost_whole() -> None:
    market = Market(kept=3)
    held_before = market.tape.held(0)
    market.read(*[trade("A", 5, 1.0)] * 4, trade("A", 6, 1.0))
    gap, news = market.tape.news(0, held_before)
    assert gap == Gap("A", 0, 5, 4)
    assert [t["seq"] for t in items(news)] == [6]


def test_resuming_by_a_position() -> None:
    market = Market(kept=3)
    market.read(*(trade("A", seq, 1.0) for seq in (10, 12, 14)))
    for seq, after in ((9, [10, 12, 14]), (10, [12, 14]), (11, [12, 14]), (13, [14]), (14, []), (20, [])):
        gap, news = market.tape.news(0, market.tape.held_at(0, seq))
        assert gap is None
        assert ([t["seq"] for t in items(news)] if news else []) == after
    assert market.tape.news(0, market.tape.held_at(0, 7))[0] == Gap("A", 7, 9, None), "reading began at 10"
    market.read(trade("A", 16, 1.0))
    gap, news = market.tape.news(0, market.tape.held_at(0, 9))
    assert gap == Gap("A", 9, 10, None)
    assert [t["seq"] for t in items(news)] == [12, 14, 16]
    assert market.tape.news(0, market.tape.held_at(0, 10))[0] is None


def test_a_symbol_without_a_trade_has_lost_none_unless_reading_began_later() -> None:
    market = Market()
    market.read(quote("A", 50, 1.0), quote("B", 60, 1.0))
    assert market.tape.news(0, market.tape.held_at(0, 49)) == (None, b"")
    assert market.tape.news(0, market.tape.held_at(0, 30)) == (Gap("A", 30, 49, None), b"")


def test_a_log_made_anew_is_no_gap() -> None:
    market = Market(kept=3)
    market.read(trade("A", 5, 1.0), trade("B", 6, 1.0))
    held = market.tape.held(0)
    market.table.forget(np.array([0, 1]))
    assert market.seqs("A") == []
    market.read(trade("A", 1, 1.0))
    gap, news = market.tape.news(0, held)
    assert gap is None
    assert [t["seq"] for t in items(news)] == [1]
    assert market.tape.news(0, market.tape.held_at(0, 0))[0] is None


def test_parts_of_a_log_have_positions_of_their_own() -> None:
    market = Market()
    market.read(trade("A", 100, 1.0), part="0")
    market.read(trade("B", 3, 1.0), part="1")
    assert market.tape.news(1, market.tape.held_at(1, 2))[0] is None
    assert market.tape.news(0, market.tape.held_at(0, 50))[0] == Gap("A", 50, 99, None)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), kept=st.integers(1, 6))
def test_what_is_told_and_what_is_lost_are_all_there_was(data: st.DataObject, kept: int) -> None:
    """Readers ask whenever they like: the trades that each is told and the gaps are all trades, in order, once."""
    market = Market(kept)
    names = ("A", "B")
    market.symbols.claim_all(names, market.symbols.part("feed"))
    log: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    readers = [{name: market.tape.held(row) for row, name in enumerate(names)} for _ in range(2)]
    had: list[dict[str, int]] = [dict.fromkeys(names, 0) for _ in readers]
    seq = 0
    for _ in range(data.draw(st.integers(1, 8))):
        records = []
        for _ in range(data.draw(st.integers(1, 6))):
            seq += 1
            for i in range(data.draw(st.integers(1, 3))):
                name = data.draw(st.sampled_from(names))
                records.append(trade(name, seq, float(i)))
                log[name].append((seq, i))
        market.read(*records)
        for reader, at in zip(readers, had, strict=True):
            if not data.draw(st.booleans()):
                continue
            for row, name in enumerate(names):
                by_seq = data.draw(st.booleans())
                held = market.tape.held_at(row, reader[name].seq) if by_seq else reader[name]
                gap, news = market.tape.news(row, held)
                lost = 0
                if gap is not None:
                    lost = sum(gap.start < s <= gap.end for s, _ in log[name][at[name] :])
                    assert gap.lost in ({None} if held.version < 0 else {lost})
                    at[name] += lost
                told = [(t["seq"], t["i"]) for t in items(news)] if news else []
                assert told == log[name][at[name] :]
                assert len(told) <= kept
                if gap is not None:
                    assert lost, "a gap is of something"
                at[name] = len(log[name])
                reader[name] = market.tape.held(row)
