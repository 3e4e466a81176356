from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.ticks import Symbols
from tests.reference import DAY_US, Tick, as_batch, exact, quote, trade
from ticker.bars import Bars
from ticker.protocol import BAR_INTERVALS
from ticker.quotes import QuoteTable

S = 1_000_000
DAY = 19_943 * DAY_US
NOON = DAY + DAY_US // 2
DELAY = S


class Market:
    """A table and its bars, over the symbols S0 and S1."""

    def __init__(self, kept: int = 500) -> None:
        self.symbols = Symbols()
        self.symbols.claim_all(("S0", "S1"), self.symbols.part("feed"))
        self.table = QuoteTable(self.symbols, capacity=2)
        self.bars = Bars(self.table, kept, DELAY)
        self.table.follow(self.bars)
        self.ticks = 0

    def apply(self, *ticks: Tick) -> None:
        numbered = [replace(tick, seq=tick.seq or self.ticks + i) for i, tick in enumerate(ticks, 1)]
        self.ticks += len(ticks)
        self.table.apply(as_batch(numbered))

    def all(self, interval: str, row: int = 0, limit: int = 500) -> list[dict[str, Any]]:
        return items(self.bars.series[interval].last(row, limit))

    def show(self, interval: str, *names: str, row: int = 0) -> list[tuple[Any, ...]]:
        return [tuple(bar[name] for name in names) for bar in self.all(interval, row)]


def items(block: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(b"[" + block[:-1] + b"]")
    return found


# -- one bar -------------------------------------------------------------------------------------------------------


def test_a_bar_is_what_its_trades_were() -> None:
    market = Market()
    market.apply(
        trade(0, NOON, 10.5, 1.0),
        quote(0, NOON + 1, 9.0, 1.0, 99.0, 1.0),
        trade(0, NOON + 2, 12.0, 0.1),
        trade(0, NOON + S - 1, 9.5, 0.2),
    )
    assert market.all("1s") == [
        {
            "symbol": "S0",
            "seq": 4,
            "rev": 0,
            "start": NOON,
            "end": NOON + S,
            "open": 10.5,
            "high": 12.0,
            "low": 9.5,
            "close": 9.5,
            "volume": 1.3,
            "vwap": 10.462,
            "trades": 3,
            "closed": False,
        }
    ]


def test_a_bar_is_half_open_and_one_without_a_trade_does_not_exist() -> None:
    market = Market()
    market.apply(trade(0, NOON + S - 1, 1.0, 1.0), trade(0, NOON + S, 2.0, 1.0), trade(0, NOON + 9 * S, 3.0, 1.0))
    assert market.show("1s", "start", "open") == [(NOON, 1.0), (NOON + S, 2.0), (NOON + 9 * S, 3.0)]
    assert market.show("1m", "start", "open", "close", "trades") == [(NOON, 1.0, 3.0, 3)]
    assert market.show("1d", "start", "end") == [(DAY, DAY + DAY_US)]
    assert market.all("1s", row=1) == []


def test_open_and_close_are_by_the_trades_own_time() -> None:
    market = Market()
    market.apply(trade(0, NOON + 5, 5.0, 1.0))
    market.apply(trade(0, NOON + 3, 3.0, 1.0))
    market.apply(trade(0, NOON + 4, 4.0, 1.0))
    assert market.show("1s", "open", "high", "low", "close") == [(3.0, 5.0, 3.0, 5.0)]


def test_of_trades_of_one_time_the_first_of_the_log_opens_and_the_last_closes() -> None:
    market = Market()
    market.apply(trade(0, NOON, 1.0, 1.0), trade(0, NOON, 2.0, 1.0))
    market.apply(trade(0, NOON, 3.0, 1.0))
    assert market.show("1s", "open", "close") == [(1.0, 3.0)]


def test_a_trade_without_a_size_counts_and_moves_the_price_alone() -> None:
    market = Market()
    market.apply(trade(0, NOON, 1.0, None), trade(0, NOON, None, 5.0))
    assert market.show("1s", "close", "volume", "vwap", "trades") == [(1.0, 0.0, None, 1)]


def test_the_bar_of_a_day_has_the_volume_of_the_session() -> None:
    market = Market()
    for _ in range(30):
        market.apply(*[trade(0, NOON, 1.0, 1_234.56789012)] * 100)
    volume = market.table.view(np.array([0]))[10, 0]
    assert market.show("1d", "volume") == [(volume,)] == [(3_703_703.67036,)]


# -- closing -------------------------------------------------------------------------------------------------------


def test_a_bar_closes_a_little_after_its_end() -> None:
    market = Market()
    market.apply(trade(0, NOON, 1.0, 1.0))
    market.bars.close(NOON + S + DELAY - 1)
    assert market.show("1s", "closed") == [(False,)]
    held = market.bars.series["1s"].held(0)
    market.bars.close(NOON + S + DELAY)
    assert market.show("1s", "closed", "rev") == [(True, 0)]
    _, news = market.bars.series["1s"].news(0, held)
    assert [bar["closed"] for bar in items(news)] == [True]
    assert market.show("1m", "closed") == [(False,)]


def test_a_bar_that_another_has_followed_closes_as_well() -> None:
    market = Market()
    market.apply(trade(0, NOON, 1.0, 1.0), trade(0, NOON + S, 2.0, 1.0), trade(0, NOON + 2 * S, 3.0, 1.0))
    series = market.bars.series["1s"]
    held = series.held(0)
    market.bars.close(NOON + 2 * S + DELAY)
    assert [(bar["start"], bar["closed"]) for bar in items(series.news(0, held)[1])] == [
        (NOON, True),
        (NOON + S, True),
    ]
    held = series.held(0)
    market.bars.close(NOON + 3 * S + DELAY)
    assert [(bar["start"], bar["closed"]) for bar in items(series.news(0, held)[1])] == [(NOON + 2 * S, True)]


def test_a_late_trade_revises_a_closed_bar() -> None:
    market = Market()
    market.apply(trade(0, NOON, 1.0, 1.0), trade(0, NOON + 5 * S, 2.0, 1.0))
    market.bars.close(NOON + 4 * S)
    held = market.bars.series["1s"].held(0)
    market.apply(trade(0, NOON + 1, 7.0, 1.0))
    assert [(b["rev"], b["close"], b["closed"]) for b in items(market.bars.series["1s"].news(0, held)[1])] == [
        (1, 7.0, True)
    ]
    market.apply(trade(0, NOON + 2, 8.0, 1.0), trade(0, NOON + 3, 9.0, 1.0))
    assert market.show("1s", "rev", "close") == [(3, 9.0), (0, 2.0)]


def test_what_is_late_is_told_by_the_log_where_nobody_watches() -> None:
    """Two servers, one of which has closed the bar in time, tell the same `rev`."""
    ticks = [
        trade(0, NOON, 1.0, 1.0),
        replace(trade(0, NOON + 1, 2.0, 1.0), ts_recv=NOON + S + DELAY - 1),
        replace(trade(0, NOON + 2, 3.0, 1.0), ts_recv=NOON + S + DELAY),
        replace(trade(1, NOON, 3.0, 1.0), ts_recv=NOON + 60 * S),
    ]
    closing, other = Market(), Market()
    closing.apply(*ticks[:2])
    closing.bars.close(NOON + S + DELAY)
    closing.apply(*ticks[2:])
    other.apply(*ticks)
    other.bars.close(NOON + S + DELAY)
    assert closing.all("1s") == other.all("1s")
    assert closing.show("1s", "rev") == [(1,)]
    assert other.show("1s", "rev", row=1) == [(0,)], "a bar that begins late revises none"


def test_when_the_next_bar_closes() -> None:
    market = Market()
    series = market.bars.series["1s"]
    assert series.due > NOON + 10 * DAY_US
    market.apply(trade(0, NOON, 1.0, 1.0), trade(0, NOON + S, 1.0, 1.0))
    assert series.due == NOON + S + DELAY
    market.bars.close(NOON + S + DELAY)
    assert series.due == NOON + 2 * S + DELAY
    market.bars.close(NOON + 2 * S + DELAY)
    assert series.due > NOON + 10 * DAY_US
    assert market.bars.series["1m"].due == NOON + 60 * S + DELAY


# -- what is kept --------------------------------------------------------------------------------------------------


def test_so_many_are_kept_and_a_trade_of_one_that_is_gone_is_left_out() -> None:
    market = Market(kept=3)
    for i in range(10):
        market.apply(trade(0, NOON + i * S, float(i), 1.0))
    market.apply(trade(0, NOON, 5.0, 1.0), trade(0, NOON + 7 * S, 99.0, 1.0))
    assert market.show("1s", "open", "high") == [(7.0, 99.0), (8.0, 8.0), (9.0, 9.0)]


def test_a_log_made_anew_has_bars_of_its_own() -> None:
    market = Market()
    market.apply(trade(0, NOON, 1.0, 1.0), trade(0, NOON + S, 1.0, 1.0), trade(1, NOON, 1.0, 1.0))
    version = market.bars.series["1s"].version[0]
    market.table.forget(np.array([0]))
    assert market.all("1s") == market.all("1m") == []
    assert market.bars.series["1s"].version[0] > version
    assert len(market.all("1s", row=1)) == 1
    market.apply(trade(0, NOON - 5 * S, 1.0, 1.0))
    assert market.show("1s", "start") == [(NOON - 5 * S,)]


def test_from_a_checkpoint_the_newest_bars_go_on_and_no_other_does() -> None:
    ticks = [trade(0, NOON + i * S // 2, float(i), 0.1) for i in range(10)]
    late = [trade(0, NOON, 77.0, 1.0), trade(0, NOON + 5 * S, 3.0, 0.1)]
    played, resumed = Market(), Market()
    rows = np.array([0, 1])
    for cut in range(11):
        played, resumed = Market(), Market()
        played.apply(*ticks[:cut])
        resumed.table.restore(rows, played.table.save(rows))
        resumed.ticks = cut
        for market in (played, resumed):
            market.apply(*ticks[cut:])
            market.bars.begin(NOON + 5 * S)
            market.apply(*late)
        for interval in BAR_INTERVALS:
            assert played.all(interval) == resumed.all(interval)
    assert played.show("1s", "start", "high") == [(NOON + 4 * S, 9.0), (NOON + 5 * S, 3.0)]


def test_resuming_gives_the_bar_of_that_position_again_and_all_after_it() -> None:
    market = Market()
    series = market.bars.series["1s"]
    for i in range(4):
        market.apply(trade(0, NOON + i * S, float(i), 1.0))
    assert [bar["open"] for bar in items(series.news(0, series.held_at(0, 4))[1])] == [2.0, 3.0]
    assert [bar["open"] for bar in items(series.news(0, series.held_anew(0))[1])] == [3.0]
    assert series.news(0, series.held(0)) == (None, b"")


# -- any stream, cut anyhow ----------------------------------------------------------------------------------------


@dataclass
class Plain:
    """A bar, the obvious way."""

    start: int
    trades: list[tuple[int, float, float | None]] = field(default_factory=list)
    seq: int = 0
    rev: int = 0


def plainly(ticks: Sequence[Tick], interval: int) -> list[Plain]:
    bars: dict[int, Plain] = {}
    for tick in ticks:
        if tick.price is None:
            continue
        ts = tick.ts_event if tick.ts_event is not None else tick.ts_recv
        log = tick.ts_recv if tick.ts_recv is not None else tick.ts_event
        assert ts is not None
        assert log is not None
        start = ts - ts % interval
        known = start in bars
        bar = bars.setdefault(start, Plain(start))
        bar.rev += known and log >= start + interval + DELAY
        bar.trades.append((ts, tick.price, tick.size))
        bar.seq = tick.seq
    return [bars[start] for start in sorted(bars)]


times = st.integers(0, 8 * S).map(lambda ts: NOON + 57 * S + ts)


@st.composite
def streams(draw: st.DrawFn) -> list[Tick]:
    ticks = []
    for seq in range(1, draw(st.integers(1, 30)) + 1):
        event, recv = draw(st.one_of(st.none(), times)), draw(st.one_of(st.none(), times))
        if event is None and recv is None:
            recv = NOON + 57 * S
        price = draw(st.one_of(st.none(), st.integers(-5, 5).map(lambda p: p / 10)))
        size = draw(st.one_of(st.none(), st.integers(0, 100).map(lambda s: s / 100)))
        ticks.append(Tick(draw(st.integers(0, 1)), 1, event, recv, price=price, size=size, seq=seq))
    return ticks


@settings(max_examples=300, deadline=None)
@given(ticks=streams(), data=st.data())
def test_bars_are_those_of_the_trades_however_the_log_was_cut(ticks: list[Tick], data: st.DataObject) -> None:
    market = Market()
    at = 0
    while at < len(ticks):
        size = data.draw(st.integers(1, len(ticks) - at))
        market.apply(*ticks[at : at + size])
        at += size
    for interval, length in BAR_INTERVALS.items():
        for row in (0, 1):
            plain = plainly([tick for tick in ticks if tick.row == row], length)
            shown = market.all(interval, row)
            assert [bar["start"] for bar in shown] == [bar.start for bar in plain]
            for bar, told in zip(plain, shown, strict=True):
                assert_bar(told, bar, length)


def assert_bar(told: dict[str, Any], bar: Plain, length: int) -> None:
    by_time = sorted(bar.trades, key=lambda trade: trade[0])  # stable: the log's order among those of one time
    prices = [price for _, price, _ in bar.trades]
    assert (told["start"], told["end"], told["seq"], told["rev"]) == (bar.start, bar.start + length, bar.seq, bar.rev)
    assert (told["open"], told["close"]) == (by_time[0][1], by_time[-1][1])
    assert (told["high"], told["low"], told["trades"]) == (max(prices), min(prices), len(prices))
    volume = sum((exact(size) for _, _, size in bar.trades if size is not None), Fraction(0))
    assert told["volume"] == float(volume)
    notional = sum((exact(p) * exact(s) for _, p, s in bar.trades if s is not None), Fraction(0))
    if volume:
        assert abs(exact(told["vwap"]) - notional / volume) <= Fraction(5, 10_000), "two decimals more than the prices'"
    else:
        assert told["vwap"] is None


@settings(max_examples=200, deadline=None)
@given(ticks=streams(), data=st.data())
def test_who_asks_what_is_new_has_every_bar_as_it_stands(ticks: list[Tick], data: st.DataObject) -> None:
    """Whenever it asks, whenever bars close: its copies are the bars, and each that has closed was told to be."""
    market = Market()
    now = NOON + 57 * S
    readers = {
        interval: (series, {0: series.held(0), 1: series.held(1)}) for interval, series in market.bars.series.items()
    }
    copies: dict[tuple[str, int, int], dict[str, Any]] = {}

    def read(interval: str) -> None:
        series, held = readers[interval]
        for row in (0, 1):
            gap, news = series.news(row, held[row])
            assert gap is None
            held[row] = series.held(row)
            for bar in items(news) if news else []:
                before = copies.get((interval, row, bar["start"]))
                assert bar != before, "nothing is told twice"
                if before and before["closed"]:
                    assert bar["closed"]
                    assert bar["rev"] > before["rev"], "a closed bar changes by a revision"
                copies[interval, row, bar["start"]] = bar

    for tick in ticks:
        market.apply(tick)
        now += data.draw(st.sampled_from([0, 0, S // 2, 3 * S]))
        if data.draw(st.booleans()):
            market.bars.close(now)
        if data.draw(st.booleans()):
            read(data.draw(st.sampled_from(list(readers))))
    for interval in readers:
        read(interval)
        for row in (0, 1):
            mine = [copies[key] for key in sorted(copies) if key[:2] == (interval, row)]
            assert mine == market.all(interval, row)
