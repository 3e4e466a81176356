"""Trades and bars over the hub: who is told what, with slow readers, resumes and logs made anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.hubs import NOON, Desk, Message, Peer, quote, trade
from ticker.protocol import BARE, FRAMED

S = 1_000_000


def trades(messages: list[Message]) -> list[tuple[str, int]]:
    return [(item["symbol"], item["seq"]) for m in messages if m["type"] == "trades" for item in m["items"]]


def bars(messages: list[Message]) -> list[tuple[str, int, float, bool]]:
    return [
        (item["symbol"], item["start"], item["close"], item["closed"])
        for m in messages
        if m["type"] == "bars"
        for item in m["items"]
    ]


def of_trades(peer: Peer, *symbols: str, **options: Any) -> list[Message]:
    return peer.subscribe(*symbols, channel="trades", **options)


def of_bars(peer: Peer, *symbols: str, interval: str = "1s", **options: Any) -> list[Message]:
    return peer.subscribe(*symbols, channel="bars", interval=interval, **options)


# -- trades --------------------------------------------------------------------------------------------------------


def test_every_trade_comes_once_in_the_order_of_the_log() -> None:
    desk = Desk("A", "B", "C")
    peer = desk.join()
    desk.read(trade("A", 1, 1.0))
    (reply,) = of_trades(peer, "A", "B", id=1)
    assert reply == {
        "type": "subscribed",
        "id": 1,
        "channel": "trades",
        "symbols": ["A", "B"],
        "pending": ["B"],
        "patterns": [],
        "resumed": {},
        "rejected": [],
        "interval_ms": 100,
    }
    desk.read(trade("A", 2, 1.5, 0.25), quote("A", 3, 1.0), trade("B", 4, 2.0), trade("C", 5, 2.0), trade("A", 6, 3.0))
    desk.round()
    (message,) = peer.take()
    assert message == {
        "type": "trades",
        "ts": desk.now,
        "items": [
            {"symbol": "A", "seq": 2, "i": 0, "ts": NOON, "price": 1.5, "size": 0.25, "side": None, "id": None},
            {"symbol": "A", "seq": 6, "i": 0, "ts": NOON, "price": 3.0, "size": None, "side": None, "id": None},
            {"symbol": "B", "seq": 4, "i": 0, "ts": NOON, "price": 2.0, "size": None, "side": None, "id": None},
        ],
    }
    desk.read(quote("A", 7, 1.0))
    desk.round()
    assert peer.take() == []


def test_who_watches_the_same_shares_the_bytes_and_others_are_told_their_own() -> None:
    desk = Desk("A", "B")
    peers = [desk.join(encoding) for encoding in (FRAMED, FRAMED, BARE)]
    of_trades(peers[0], "A")
    of_trades(peers[1], "*")
    of_trades(peers[2], "A", "B", interval_ms=0)
    desk.read(trade("A", 1, 1.0), trade("B", 2, 1.0), trade("NEW", 3, 1.0))
    desk.round()
    assert [trades(peer.take()) for peer in peers] == [
        [("A", 1)],
        [("A", 1), ("B", 2), ("NEW", 3)],
        [("A", 1), ("B", 2)],
    ]


def test_trades_between_two_rounds_reach_who_subscribes_between_them_from_then_on() -> None:
    desk = Desk("A")
    early, late = desk.join(), desk.join()
    of_trades(early, "A")
    desk.read(trade("A", 1, 1.0))
    assert trades(of_trades(late, "A")) == []
    desk.read(trade("A", 2, 1.0))
    desk.round()
    assert trades(early.take()) == [("A", 1), ("A", 2)]
    assert trades(late.take()) == [("A", 2)]
    desk.read(trade("A", 3, 1.0))
    desk.round()
    assert trades(early.take()) == trades(late.take()) == [("A", 3)]


def test_subscribing_again_loses_nothing_between() -> None:
    desk = Desk("A")
    peer = desk.join()
    of_trades(peer, "A")
    desk.read(trade("A", 1, 1.0))
    assert trades(of_trades(peer, "A", interval_ms=500)) == [("A", 1)]
    desk.read(trade("A", 2, 1.0))
    assert trades(of_trades(peer, "A", interval_ms=500)) == []
    desk.round(1000)
    assert trades(peer.take()) == [("A", 2)]


def test_a_slow_reader_is_told_all_that_is_kept_and_the_gap_before() -> None:
    desk = Desk("A", "B", trades_max=3)
    peer, other = desk.join(), desk.join()
    of_trades(peer, "A", "B")
    of_trades(other, "A", "B")
    desk.read(trade("A", 1, 1.0))
    desk.round()
    peer.take()
    peer.outlet.stall()
    for seq in range(2, 9):
        desk.read(trade("A", seq, 1.0), *([trade("B", seq, 1.0)] if seq == 8 else []))
        desk.round()
    slow, gap, rest = peer.drain()
    assert (slow["type"], slow["skipped"]) == ("slow", 7)
    assert gap == {"type": "gap", "channel": "trades", "symbol": "A", "from": 1, "to": 5, "count": 4}
    assert trades([rest]) == [("A", 6), ("A", 7), ("A", 8), ("B", 8)]
    assert len(trades(other.take())) == 9
    desk.read(trade("A", 9, 1.0))
    desk.round()
    assert trades(peer.take()) == trades(other.take()) == [("A", 9)]


def test_more_trades_in_one_round_than_are_kept_are_a_gap_for_all() -> None:
    desk = Desk("A", trades_max=3)
    peers = [desk.join(), desk.join()]
    for peer in peers:
        of_trades(peer, "A")
    desk.read(*(trade("A", seq, 1.0) for seq in range(1, 9)))
    desk.round()
    for peer in peers:
        gap, rest = peer.take()
        assert (gap["from"], gap["to"], gap["count"]) == (0, 5, 5)
        assert trades([rest]) == [("A", 6), ("A", 7), ("A", 8)]
    desk.read(trade("A", 9, 1.0))
    desk.round()
    assert trades(peers[0].take()) == [("A", 9)]


def test_resuming_brings_what_was_missed_and_says_how_much() -> None:
    desk = Desk("A", "B", "C", trades_max=3)
    desk.read(*(trade("A", seq, 1.0) for seq in (1, 2, 3)), *(trade("B", seq, 1.0) for seq in range(4, 9)))
    peer = desk.join()
    reply, gap, rest = of_trades(peer, "A", "B", "C", since={"A": 1, "B": 4, "C": 0}, epoch="k-1")
    assert reply["resumed"] == {"A": 2, "C": 0}
    assert (gap["symbol"], gap["from"], gap["to"], gap["count"]) == ("B", 4, 5, None)
    assert trades([rest]) == [("A", 2), ("A", 3), ("B", 6), ("B", 7), ("B", 8)]
    assert of_trades(desk.join(), "A", since={"A": 1}, epoch="another")[1:] == []


def test_who_is_ahead_is_told_nothing_that_it_has_had() -> None:
    desk = Desk("A")
    desk.read(trade("A", 5, 1.0))
    peer = desk.join()
    (reply,) = of_trades(peer, "A", since={"A": 7}, epoch="k-1")
    assert reply["resumed"] == {}
    for seq in (6, 7, 8):
        desk.read(trade("A", seq, 1.0))
        desk.round()
    assert trades(peer.take()) == [("A", 8)]


def test_who_waits_too_long_for_what_it_has_had_begins_anew() -> None:
    desk = Desk("A", catch_up_s_max=1)
    desk.read(trade("A", 5, 1.0))
    peer = desk.join()
    of_trades(peer, "A", since={"A": 99}, epoch="k-1")
    desk.read(trade("A", 6, 1.0))
    desk.round()
    desk.now += 2 * S
    for slot in range(20):
        desk.hub.announce({"type": "heartbeat"}, desk.now, slot)
    assert [m for m in peer.take() if m["type"] == "epoch"]
    desk.read(trade("A", 7, 1.0))
    desk.round()
    assert trades(peer.take()) == [("A", 7)]


def test_a_name_that_no_feed_has_brought_is_resumed_once_it_is_here() -> None:
    desk = Desk()
    peer = desk.join()
    of_trades(peer, "A", since={"A": 2}, epoch="k-1")
    desk.read(trade("A", 2, 1.0), trade("A", 3, 1.0))
    desk.round()
    assert trades(peer.take()) == [("A", 3)]


def test_a_log_made_anew_is_told_before_its_trades() -> None:
    desk = Desk("A")
    peer = desk.join()
    of_trades(peer, "A")
    desk.read(trade("A", 50, 1.0))
    desk.round()
    peer.take()
    desk.epochs["feed"] = "k-2"
    desk.hub.fold(desk.table.forget(np.array([0])))
    desk.hub.begin_anew()
    desk.read(trade("A", 1, 1.0))
    desk.round()
    assert peer.take() == []
    for slot in range(20):
        desk.hub.announce({"type": "heartbeat"}, desk.now, slot)
    epoch, *rest = [m for m in peer.take() if m["type"] != "heartbeat"]
    assert epoch == {"type": "epoch", "epoch": "k-2"}
    assert trades(rest) == [("A", 1)]


def test_unsubscribing_ends_it_and_leaves_nothing_behind() -> None:
    desk = Desk("A", "B")
    peer = desk.join()
    of_trades(peer, "A", "*")
    of_bars(peer, "A")
    peer.subscribe("A")
    (reply,) = peer.say(op="unsubscribe", channel="trades", symbols=["A", "X"])
    assert (reply["symbols"], reply["rejected"]) == (["A"], [{"symbol": "X", "code": "unknown_symbol"}])
    desk.read(trade("A", 1, 1.0))
    desk.round()
    assert trades(peer.take()) == [("A", 1)], "the pattern still has it"
    peer.say(op="unsubscribe", channel="trades", symbols=["*"])
    desk.read(trade("A", 2, 1.0))
    desk.round()
    assert [m["type"] for m in peer.take()] == ["update", "bars"]
    peer.leave()
    assert not desk.hub.paces
    assert not desk.hub.journal_paces


def test_a_catch_up_is_sent_piece_by_piece_as_it_is_taken() -> None:
    desk = Desk(*(f"S{i}" for i in range(50)), trades_max=101)
    for seq in range(1, 101):
        desk.read(*(trade(f"S{i}", seq, 1.0) for i in range(50)))
    peer = desk.join()
    peer.outlet.stall(after=2)
    since = {f"S{i}": 0 for i in range(50)}
    messages = of_trades(peer, "*", since=since, epoch="k-1")
    assert 1 < len(messages) < 4
    had = trades(messages)
    assert 0 < len(had) < 5000
    desk.read(trade("S0", 101, 1.0), trade("S49", 101, 1.0))
    desk.round()
    had += trades(peer.drain())
    assert len(had) == len(set(had)) == 5002
    desk.read(trade("S0", 102, 1.0))
    desk.round()
    assert trades(peer.take()) == [("S0", 102)]


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ({"channel": "trades", "fields": ["bid"]}, "unknown_field", "subscribe of trades: expected one of channel,"),
        ({"channel": "ticker", "interval": "1s"}, "unknown_field", "subscribe of ticker: expected"),
        ({"channel": "bars"}, "invalid_request", "subscribe: expected interval, which is missing"),
        ({"channel": "bars", "interval": "2s"}, "invalid_request", "interval: expected one of 1s, 1m, 5m, 1h, 1d"),
        ({"channel": "bars", "interval": 1}, "invalid_request", "interval: expected a string, was 1"),
        ({"channel": "depth"}, "unknown_channel", "channel: expected one of ticker, trades, bars, was 'depth'"),
    ],
)
def test_bad_input(command: dict[str, Any], code: str, text: str) -> None:
    peer = Desk("A").join()
    (reply,) = peer.subscribe("A", **command)
    assert (reply["type"], reply["code"]) == ("error", code)
    assert reply["message"].startswith(text)


def test_each_channel_has_limits_of_its_own() -> None:
    desk = Desk("A", "B", "C", symbols_max=2, lanes_max=2)
    peer = desk.join()
    for channel in ({"channel": "trades"}, {"channel": "bars", "interval": "1m"}, {}):
        (reply, *_) = peer.subscribe("A", "B", "C", **channel)
        assert reply["rejected"] == [{"symbol": "C", "code": "limit_symbols"}]
    (reply,) = of_bars(peer, "A", interval="1s")
    assert reply["type"] == "subscribed"
    of_bars(peer, "B", interval="5m")
    (reply,) = of_bars(peer, "B", interval="5m", interval_ms=0)
    assert reply["type"] == "subscribed"
    (reply,) = of_trades(peer, "A", interval_ms=5)
    (reply,) = of_trades(peer, "B", interval_ms=6)
    (reply,) = of_bars(peer, "C*", interval="1h")
    assert reply["code"] == "limit_lanes"
    assert reply["message"] == "expected at most 2 different pairs of interval and interval_ms, was 3"


# -- bars ----------------------------------------------------------------------------------------------------------


def test_the_open_bar_comes_at_once_then_at_the_pace_and_once_when_it_closes() -> None:
    desk = Desk("A")
    desk.now = NOON
    desk.read(trade("A", 1, 1.0, ts=NOON))
    peer = desk.join()
    reply, bar = of_bars(peer, "A")
    assert (reply["channel"], reply["interval"], reply["interval_ms"]) == ("bars", "1s", 100)
    assert bar["interval"] == "1s"
    assert bars([bar]) == [("A", NOON, 1.0, False)]
    desk.read(trade("A", 2, 2.0, ts=NOON + 1), trade("A", 3, 3.0, ts=NOON + 2))
    desk.round()
    assert bars(peer.take()) == [("A", NOON, 3.0, False)]
    told = []
    for _ in range(40):
        desk.round()
        told += [(desk.now, *bar) for bar in bars(peer.take())]
    assert told == [(NOON + 2 * S, "A", NOON, 3.0, True)], "a second after its end, once"
    desk.read(trade("A", 4, 9.0, ts=NOON + 3))
    desk.round()
    (message,) = peer.take()
    assert [(b["close"], b["rev"], b["closed"]) for b in message["items"]] == [(9.0, 1, True)]


def test_another_interval_of_the_same_symbol_replaces_the_first() -> None:
    desk = Desk("A")
    peer = desk.join()
    of_bars(peer, "A", interval="1s")
    of_bars(peer, "A", interval="1m")
    desk.read(trade("A", 1, 1.0))
    desk.round()
    (message,) = peer.take()
    assert message["interval"] == "1m"


def test_bars_resume_with_those_that_may_have_been_open_at_that_position_and_all_after() -> None:
    desk = Desk("A")
    for i in range(5):
        desk.read(trade("A", i + 1, float(i), ts=NOON + i * S))
    desk.now = NOON + 5 * S
    reply, message = of_bars(desk.join(), "A", since={"A": 3}, epoch="k-1")
    assert reply["resumed"] == {"A": 4}
    assert bars([message]) == [
        ("A", NOON + 1 * S, 1.0, True),
        ("A", NOON + 2 * S, 2.0, True),
        ("A", NOON + 3 * S, 3.0, True),
        ("A", NOON + 4 * S, 4.0, False),
    ]


def test_a_slow_reader_of_bars_has_every_bar_as_it_stands() -> None:
    desk = Desk("A")
    peer = desk.join()
    of_bars(peer, "A")
    peer.outlet.stall()
    for i in range(30):
        desk.read(trade("A", i + 1, float(i), ts=NOON + i * S // 2))
        desk.round(500)
    slow, message = peer.drain()
    assert slow["type"] == "slow"
    assert [bar[1] for bar in bars([message])] == [NOON + i * S for i in range(15)]
    assert [bar[3] for bar in bars([message])] == [True] * 14 + [False]


# -- any run -------------------------------------------------------------------------------------------------------


class Copy:
    """What a client makes of what it is told: its trades with the gaps between them, and its bars."""

    def __init__(self) -> None:
        self.trades: dict[str, list[tuple[int, int] | Message]] = {}
        self.bars: dict[tuple[str, str, int], Message] = {}

    def take(self, messages: list[Message]) -> None:
        for message in messages:
            if message["type"] == "trades":
                for item in message["items"]:
                    self.trades.setdefault(item["symbol"], []).append((item["seq"], item["i"]))
            elif message["type"] == "gap":
                self.trades.setdefault(message["symbol"], []).append(message)
            elif message["type"] == "bars":
                for bar in message["items"]:
                    key = bar["symbol"], message["interval"], bar["start"]
                    before = self.bars.get(key)
                    assert before is None or bar != before or bar["closed"]
                    assert before is None or not before["closed"] or (bar["closed"] and bar["rev"] >= before["rev"])
                    self.bars[key] = bar
            else:
                assert message["type"] in {"slow", "subscribed", "snapshot", "update", "unsubscribed", "pong"}


def assert_is_all(told: list[Any], log: list[tuple[int, int]]) -> None:
    """What was told of a symbol since it was subscribed, and what was said to be lost, is all there was."""
    at = 0
    for piece in told:
        if isinstance(piece, tuple):
            assert piece == log[at]
            at += 1
            continue
        lost = sum(piece["from"] < seq <= piece["to"] for seq, _ in log[at:])
        assert piece["count"] in {lost, None}
        at += lost
    assert at == len(log)


SYMBOLS = ("A", "B", "C")


@settings(max_examples=200, deadline=None)
@given(data=st.data(), kept=st.integers(1, 8), dense=st.booleans())
def test_trades_told_and_gaps_are_all_there_was_and_bars_are_as_they_stand(
    data: st.DataObject, kept: int, dense: bool
) -> None:
    desk = Desk("A", trades_max=kept)
    peers = [desk.join(data.draw(st.sampled_from((FRAMED, BARE)))) for _ in range(3)]
    copies = [Copy() for _ in peers]
    log: dict[str, list[tuple[int, int]]] = {name: [] for name in SYMBOLS}
    #: By peer: from where in the log of each symbol it is to be told.
    since: list[dict[str, int]] = [{} for _ in peers]
    seq = 0
    for number, peer in enumerate(peers):
        interval = data.draw(st.sampled_from((0, 100, 300)))
        copies[number].take(of_trades(peer, "*", interval_ms=interval))
        copies[number].take(of_bars(peer, "*", interval="1s", interval_ms=interval))
        since[number] = dict.fromkeys(SYMBOLS, 0)
    for _ in range(data.draw(st.integers(1, 15))):
        what = data.draw(st.sampled_from(("read", "read", "round", "stall", "drain", "again")))
        number = data.draw(st.integers(0, 2))
        peer, copy = peers[number], copies[number]
        if what == "read":
            records = []
            for _ in range(data.draw(st.integers(1, 6))):
                seq += 1
                for i in range(data.draw(st.integers(1, 2))):
                    name = data.draw(st.sampled_from(SYMBOLS))
                    ts = desk.now - data.draw(st.sampled_from((0, 0, 0, 400_000, 3 * S)))
                    records.append(trade(name, seq, float(seq), 1.0, ts=ts))
                    log[name].append((seq, i))
            desk.read(*records)
        elif what == "round":
            desk.round(data.draw(st.sampled_from((50, 100, 700))))
        elif what == "stall":
            peer.outlet.stall(data.draw(st.integers(0, 3)))
            event("stalled")
        elif what == "drain":
            copy.take(peer.drain())
        else:
            copy.take(of_trades(peer, "*", interval_ms=data.draw(st.sampled_from((0, 100, 300)))))
        for other, its in zip(peers, copies, strict=True):
            its.take(other.take())
    for peer, copy in zip(peers, copies, strict=True):
        copy.take(peer.drain())
    desk.round(5000)
    desk.round(5000)
    for peer, copy in zip(peers, copies, strict=True):
        copy.take(peer.take())
        for name in SYMBOLS:
            if any(isinstance(piece, dict) for piece in copy.trades.get(name, [])):
                event("gap")
            assert_is_all(copy.trades.get(name, []), log[name])
        for name in SYMBOLS:
            row = desk.symbols.find(name)
            if row is not None:
                block = desk.hub.journals.by_name["1s"].last(row, 500)
                stands = {bar["start"]: bar for bar in _items(block)}
                mine = {start: bar for (symbol, _, start), bar in copy.bars.items() if symbol == name}
                assert mine == stands


def _items(block: bytes) -> list[Message]:
    import json

    found: list[Message] = json.loads(b"[" + block[:-1] + b"]")
    return found
