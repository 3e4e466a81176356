from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from time import process_time
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from feeds.ticks import QUOTE, TRADE, Symbols
from tests.reference import DAY_US, Facts, Reference, Symbol, Tick, as_batch, exact, quote, trade
from ticker.quotes import FIELDS, Changes, QuoteTable

DAY = 19_943 * DAY_US  # 2024-08-08
NOON = DAY + DAY_US // 2
STEPS_MAX = 2**51  # a number of more steps has no digit at each of them in float64


# -- tables and what they show -------------------------------------------------------------------------------------


class Market:
    """A table with as many symbols as its ticks name, which numbers them as they come."""

    def __init__(self, *, session_start_us: int = 0, since: int | None = None, capacity: int = 1) -> None:
        self.symbols = Symbols()
        self.parts = [self.symbols.part("feed", "0"), self.symbols.part("feed", "1")]
        self.table = QuoteTable(self.symbols, session_start_us=session_start_us, capacity=capacity)
        self.since = since
        self.ticks = 0

    def apply(self, *ticks: Tick) -> Changes:
        """Fold the ticks in as one batch; those without a seq get the next ones."""
        numbered = [replace(tick, seq=tick.seq or self.ticks + i) for i, tick in enumerate(ticks, 1)]
        self.ticks += len(ticks)
        for row in range(len(self.symbols), max((tick.row + 1 for tick in ticks), default=0)):
            self.symbols.claim(f"S{row}", self.parts[row % 2])
        return self.table.apply(as_batch(numbered, self.since))

    def __getitem__(self, name: str) -> float | None:
        """A field of the first symbol."""
        value = float(self.table.view(np.array([0]))[FIELDS.index(name), 0])
        return None if math.isnan(value) else value

    def show(self, *names: str) -> tuple[float | None, ...]:
        return tuple(self[name] for name in names)


def state_of(table: QuoteTable) -> list[Any]:
    """All that a table tells, for a comparison to the last bit."""
    rows = np.arange(len(table.symbols))
    parts = [table.seq[rows], table.n[rows], table.ts[rows], table.positions, *table.decimals(rows), table.view(rows)]
    return [np.ascontiguousarray(part) for part in parts]


def assert_rounded(shown: float, exactly: Fraction, decimals: int, of: Fraction) -> None:
    """`shown` is `exactly` to so many decimals, worked out in float64 from numbers no larger than `of`.

    Where `exactly` has no more decimals than that, this is equality.
    """
    step, error = Fraction(1, 10**decimals), abs(of) / 2**48
    if abs(exactly) < STEPS_MAX // 2 * step:
        assert shown == float(round(Fraction(shown), decimals)), "float dust"
        assert abs(exact(shown) - exactly) <= step / 2 + error
        assert not (shown == 0 and math.copysign(1, shown) < 0), "no -0 on the wire"
    else:
        assert abs(Fraction(shown) - exactly) <= step + error


def assert_shows(shown: Sequence[float], symbol: Symbol) -> None:
    """A column of a view holds what the reference has."""
    item = dict(zip(FIELDS, (None if math.isnan(value) else value for value in shown), strict=True))
    assert (item["bid"], item["bid_size"], item["ask"], item["ask_size"]) == symbol.quote
    assert (item["last"], item["last_size"], item["last_ts"]) == symbol.last
    assert (item["open"], item["high"], item["low"]) == (symbol.open, symbol.high, symbol.low)
    assert (item["trades"], item["session"]) == (symbol.trades, symbol.session)
    volume, vwap, change, percent = item["volume"], item["vwap"], item["change"], item["change_pct"]

    assert volume is not None
    assert_rounded(volume, symbol.volume, symbol.size_decimals, symbol.volume)
    if symbol.volume:
        assert vwap is not None
        mean, gross = symbol.notional / symbol.volume, symbol.gross / symbol.volume
        assert_rounded(vwap, mean, symbol.price_decimals + 2, gross)
    else:
        assert vwap is None

    last, opened = symbol.last[0], symbol.open
    if last is None or opened is None:
        assert change is None
        assert percent is None
        return
    assert change is not None
    largest = max(abs(exact(last)), abs(exact(opened)))
    assert_rounded(change, exact(last) - exact(opened), symbol.price_decimals, largest)
    if opened:
        assert percent is not None
        per = 100 / abs(exact(opened))
        # An open or last of more digits than are rounded to may move the change by half a step of them.
        half = Fraction(1, 2 * 10**symbol.price_decimals) if symbol.price_decimals == 15 else Fraction(0)
        assert_rounded(percent, (exact(last) - exact(opened)) * per, 4, (largest + half * 2**48) * per)
    else:
        assert percent is None


def assert_facts(table: QuoteTable, changes: Changes, at: int, facts: Facts, symbol: Symbol) -> None:
    hi, lo = float(changes.hi[at]), float(changes.lo[at])
    assert (None if math.isnan(hi) else hi, None if math.isnan(lo) else lo) == (facts.hi, facts.lo)
    vol = float(table.sizes_rounded(changes.rows[at : at + 1], changes.vol[at : at + 1])[0])
    assert_rounded(vol, facts.vol, symbol.size_decimals, facts.vol)


# -- any stream, cut anyhow ----------------------------------------------------------------------------------------

PLAIN = st.builds(lambda digits, power: digits / 10**power, st.integers(0, 99_999), st.sampled_from([0, 1, 2, 3, 8]))
ODD = st.sampled_from(
    [
        0.0,
        0.1,
        0.2,
        0.5,
        0.001,
        1e-8,
        61685.99,
        123456789.12345,
        0.1 + 0.2,
        1e-20,
        2.0**53,
        1e15,
        999999999999.123,
        1e18,
    ]
)
SIZES = st.one_of(st.none(), PLAIN, PLAIN, ODD)
PRICES = st.one_of(PLAIN, PLAIN, ODD, PLAIN.map(float.__neg__), ODD.map(float.__neg__))
MAYBE_PRICES = st.one_of(PRICES, PRICES, PRICES, st.none())
SECONDS = st.sampled_from([0, 1, 2, 3, 1_000_000, DAY_US // 2, DAY_US - 1])


def times(days: Sequence[int], session_start_us: int) -> st.SearchStrategy[int]:
    """Times that crowd around the session's turns, in any order."""
    return st.builds(
        lambda day, offset: day * DAY_US + session_start_us + offset,
        st.sampled_from(days),
        st.one_of(SECONDS, SECONDS, st.integers(-5, 10)),
    )


@st.composite
def ticks_at(draw: st.DrawFn, clock: st.SearchStrategy[int], rows: int) -> Tick:
    row, has = draw(st.integers(0, rows - 1)), draw(st.sampled_from(["event", "event", "both", "recv"]))
    ts_event = None if has == "recv" else draw(clock)
    ts_recv = None if has == "event" else draw(clock)
    if draw(st.booleans()):
        return Tick(row, TRADE, ts_event, ts_recv, price=draw(MAYBE_PRICES), size=draw(SIZES))
    return Tick(
        *(row, QUOTE, ts_event, ts_recv),
        *(draw(MAYBE_PRICES), draw(SIZES), draw(MAYBE_PRICES), draw(SIZES)),  # crossed as often as not
    )


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, int | None, list[list[Tick]]]:
    """When sessions start, since when the log was read, and its ticks in batches."""
    session_start_us = draw(st.sampled_from([0, 0, 17 * 3_600_000_000, 1, DAY_US - 1]))
    days = draw(st.sampled_from([(0,), (0, 1), (-2, -1, 0), (19_943, 19_944, 19_950), (-1, 0, 1, 2)]))
    clock = times(days, session_start_us)
    since = draw(st.one_of(st.none(), clock))
    stream = draw(st.lists(ticks_at(clock, draw(st.sampled_from([1, 2, 9]))), max_size=40))
    if draw(st.booleans()):  # as most logs are: in order, but for a few
        stream.sort(key=lambda tick: (tick.ts_event if tick.ts_event is not None else tick.ts_recv) or 0)
        stream = [*stream[3:], *stream[:3]]
    stream = [replace(tick, seq=seq) for seq, tick in enumerate(stream, 1)]
    cuts = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=6)) | {0, len(stream)})
    return session_start_us, since, [stream[a:b] for a, b in pairwise(cuts)]


@settings(deadline=None, max_examples=400)
@given(streams())
def test_a_batch_is_its_ticks_one_by_one(stream: tuple[int, int | None, list[list[Tick]]]) -> None:
    session_start_us, since, batches = stream
    market = Market(session_start_us=session_start_us, since=since)
    single = Market(session_start_us=session_start_us, since=since)
    reference = Reference(session_start_us, since)
    for batch in batches:
        changes = market.apply(*batch)
        for tick in batch:
            single.apply(tick)
            reference.apply(tick)
        table = market.table
        assert changes.rows.tolist() == sorted({tick.row for tick in batch})
        for at, row in enumerate(changes.rows.tolist()):
            assert_facts(table, changes, at, reference.take_facts(row), reference.symbols[row])
        assert_holds(table, reference)
        for batched, singly in zip(state_of(table), state_of(single.table), strict=True):
            assert batched.tobytes() == singly.tobytes()
    event(f"sessions: {min(3, len({symbol.session for symbol in reference.symbols.values()}))}")


def assert_holds(table: QuoteTable, reference: Reference) -> None:
    """A table holds what the reference has, and nothing for any other symbol."""
    positions = [0, 0]
    view = table.view(np.arange(len(table.symbols)))
    price_decimals, size_decimals = table.decimals(np.arange(len(table.symbols)))
    for row in range(len(table.symbols)):
        symbol = reference.symbols.get(row)
        if symbol is None:
            assert table.seq[row] == table.n[row] == 0
            assert np.isnan(view[:, row]).all()
            continue
        assert (table.seq[row], table.n[row], table.ts[row]) == (symbol.seq, symbol.n, symbol.ts)
        assert (price_decimals[row], size_decimals[row]) == (symbol.price_decimals, symbol.size_decimals)
        assert_shows(view[:, row].tolist(), symbol)
        positions[row % 2] = max(positions[row % 2], symbol.seq)
    assert table.positions.tolist() in (positions, [])


def test_a_batch_is_its_ticks_one_by_one_among_very_many_symbols() -> None:
    random = np.random.default_rng(1)
    rows = 70_000
    market, reference = Market(), Reference()
    market.apply(quote(rows - 1, NOON, 1.0, 1.0, 2.0, 1.0))
    reference.apply(replace(quote(rows - 1, NOON, 1.0, 1.0, 2.0, 1.0), seq=1))
    busy = np.append(random.integers(0, rows, 500), rows - 1)
    for _ in range(3):
        ticks = [
            trade(int(row), NOON + int(ts), round(float(price), 2), 0.5)
            if kind
            else quote(int(row), NOON + int(ts), round(float(price), 2), 1.0, round(float(price) + 1, 2), 2.0)
            for row, kind, ts, price in zip(
                *(random.choice(busy, 2000), random.random(2000) < 0.5),
                *(random.integers(0, DAY_US, 2000), random.normal(100, 1, 2000)),
                strict=True,
            )
        ]
        numbered = [replace(tick, seq=market.ticks + i) for i, tick in enumerate(ticks, 1)]
        market.apply(*numbered)
        for tick in numbered:
            reference.apply(tick)
    assert_holds(market.table, reference)


# -- quotes and trades ---------------------------------------------------------------------------------------------


def test_a_row_without_any_tick_has_no_value() -> None:
    market = Market()
    market.apply(quote(1, NOON, 1.0, 1.0, 2.0, 1.0))
    assert market.show(*FIELDS) == (None,) * len(FIELDS)
    assert market.table.seq[0] == market.table.n[0] == 0


def test_a_quote_replaces_all_four_of_its_fields() -> None:
    market = Market()
    market.apply(quote(0, NOON, 99.5, 3.0, 100.5, 4.0))
    market.apply(quote(0, NOON, 99.0, None, None, None))
    assert market.show("bid", "bid_size", "ask", "ask_size") == (99.0, None, None, None)


def test_crossed_quotes_and_zero_sizes_are_data() -> None:
    market = Market()
    market.apply(quote(0, NOON, 101.0, 0.0, 100.0, 0.0))
    assert market.show("bid", "bid_size", "ask", "ask_size") == (101.0, 0.0, 100.0, 0.0)


def test_quotes_alone_open_a_session_without_trades() -> None:
    market = Market()
    market.apply(quote(0, NOON, 99.5, 3.0, 100.5, 4.0))
    assert market.show("last", "open", "vwap", "change", "change_pct") == (None,) * 5
    assert market.show("volume", "trades", "session") == (0, 0, DAY)


def test_a_trade_is_the_last_and_counts_for_its_session() -> None:
    market = Market()
    market.apply(trade(0, NOON, 100.0, 2.0), trade(0, NOON + 1, 103.0, 1.0), trade(0, NOON + 2, 98.0, 1.0))
    assert market.show("last", "last_size", "last_ts") == (98.0, 1.0, NOON + 2)
    assert market.show("open", "high", "low", "volume", "vwap", "trades") == (100.0, 103.0, 98.0, 4.0, 100.25, 3)
    assert market.show("change", "change_pct") == (-2.0, -2.0)


def test_changes_tell_the_range_and_volume_of_a_batch_alone() -> None:
    market = Market()
    market.apply(trade(0, NOON, 500.0, 9.0))
    changes = market.apply(
        trade(2, NOON, 10.0, 0.1),
        trade(0, NOON, 7.0, None),
        quote(1, NOON, 1.0, 1.0, 2.0, 1.0),
        trade(2, NOON, 9.0, 0.2),
    )
    assert changes.rows.tolist() == [0, 1, 2]
    np.testing.assert_equal(changes.hi, [7.0, math.nan, 10.0])
    np.testing.assert_equal(changes.lo, [7.0, math.nan, 9.0])
    assert market.table.sizes_rounded(changes.rows, changes.vol).tolist() == [0.0, 0.0, 0.3]


def test_no_ticks_change_nothing() -> None:
    market = Market()
    changes = market.apply()
    assert [len(part) for part in (changes.rows, changes.hi, changes.lo, changes.vol)] == [0, 0, 0, 0]


def test_positions_are_the_newest_seq_of_each_part_of_the_log() -> None:
    market = Market()  # even rows are of part 0, odd rows of part 1
    market.apply(*(replace(quote(row, NOON, 1.0, 1.0, 2.0, 1.0), seq=seq) for row, seq in [(0, 70), (1, 5), (2, 71)]))
    assert market.table.positions.tolist() == [71, 5]
    market.apply(replace(quote(1, NOON, 1.0, 1.0, 2.0, 1.0), seq=6))
    assert market.table.positions.tolist() == [71, 6]
    assert market.table.seq[:3].tolist() == [70, 6, 71]


Q = (1.25, 2.0, 1.5, 3.0)


def at(seq: int, tick: Tick) -> Tick:
    return replace(tick, seq=seq)


def test_changes_tell_the_rows_whose_seq_went_back_since_they_moved_to_another_part() -> None:
    market = Market()
    assert market.apply(at(7, quote(0, NOON, *Q)), at(8, quote(2, NOON, *Q))).fell == {}
    market.symbols.move(2, market.parts[1])
    changes = market.apply(at(9, quote(0, NOON, *Q)), at(3, quote(2, NOON, *Q)))
    assert changes.fell == {2: 8}
    assert list(market.table.positions) == [9, 3]
    assert market.table.n[2] == 2


def test_forgotten_rows_are_as_before_their_first_tick() -> None:
    market, fresh = Market(), Market()
    market.apply(*[t for row in range(3) for t in (quote(row, NOON, *Q), trade(row, NOON + 9, 5.125, 2.5))])
    forgotten = market.table.forget(np.array([0, 2]))
    assert (list(forgotten.rows), forgotten.fell) == ([0, 2], {0: 2, 2: 6})
    assert not len(market.table.forget(np.array([0, 2])).rows)
    assert market["bid"] is None
    assert market.table.view(np.array([1]))[FIELDS.index("last"), 0] == 5.125
    again = [quote(0, NOON, *Q), trade(0, NOON + 5, 1.0, 2.0)]
    market.apply(*again)
    fresh.apply(*again)
    row = np.array([0])
    assert np.array_equal(market.table.view(row), fresh.table.view(row), equal_nan=True), "nothing is late, no decimals"
    assert [market.table.n[0], market.table.ts[0]] == [2, NOON + 5]


def test_forgetting_the_rows_of_one_part_leaves_the_positions_of_the_others() -> None:
    market = Market()
    market.apply(at(7, quote(0, NOON, *Q)), at(5, quote(1, NOON, *Q)))
    market.table.forget(np.array([1]))
    assert market.table.positions.tolist() == [7, 0]


def test_a_trade_without_a_size_has_no_weight() -> None:
    market = Market()
    market.apply(trade(0, NOON, 100.0, 1.0), trade(0, NOON, 200.0, None), trade(0, NOON, 300.0, 0.0))
    assert market.show("last", "last_size", "high", "trades") == (300.0, 0.0, 300.0, 3)
    assert market.show("volume", "vwap") == (1.0, 100.0)


def test_a_trade_without_a_price_counts_as_a_trade_alone() -> None:
    market = Market()
    market.apply(trade(0, NOON, None, 5.0), trade(0, NOON, 100.0, 1.0))
    assert market.show("open", "high", "low", "volume", "vwap", "trades") == (100.0, 100.0, 100.0, 1.0, 100.0, 2)


# -- late ticks ----------------------------------------------------------------------------------------------------


def test_a_late_trade_counts_for_high_but_not_for_last() -> None:
    market = Market()
    market.apply(trade(0, NOON + 10, 100.0, 1.0))
    changes = market.apply(trade(0, NOON + 5, 110.0, 1.0), trade(0, NOON + 4, 90.0, 2.0))
    assert market.show("last", "last_size", "last_ts", "open") == (100.0, 1.0, NOON + 10, 100.0)
    assert market.show("high", "low", "volume", "vwap", "trades") == (110.0, 90.0, 4.0, 97.5, 3)
    assert (changes.hi[0], changes.lo[0], changes.vol[0]) == (110.0, 90.0, 3.0)
    assert (market.table.n[0], market.table.ts[0]) == (3, NOON + 10)


def test_a_late_quote_counts_in_n_alone() -> None:
    market = Market()
    market.apply(quote(0, NOON + 10, 99.0, 1.0, 101.0, 1.0), quote(0, NOON + 9, 1.0, 1.0, 2.0, 1.0))
    assert market.show("bid", "ask") == (99.0, 101.0)
    assert (market.table.seq[0], market.table.n[0], market.table.ts[0]) == (2, 2, NOON + 10)


def test_a_tick_is_late_only_after_one_of_its_own_kind_and_symbol() -> None:
    market = Market()
    market.apply(quote(0, NOON + 10, 99.0, 1.0, 101.0, 1.0), trade(1, NOON + 10, 1.0, 1.0), trade(0, NOON, 100.0, 1.0))
    assert market.show("last", "last_ts") == (100.0, NOON)


def test_receive_times_never_make_a_tick_late() -> None:
    market = Market()
    market.apply(trade(0, NOON + 10, 100.0, 1.0))
    market.apply(Tick(0, TRADE, None, NOON - 10, price=101.0, size=1.0))
    market.apply(Tick(0, TRADE, NOON + 10, NOON - 99, price=102.0, size=1.0))
    assert market.show("last", "last_ts", "trades") == (102.0, NOON + 10, 3)


# -- sessions ------------------------------------------------------------------------------------------------------


def test_a_session_starts_anew_with_its_first_tick() -> None:
    market = Market()
    market.apply(trade(0, NOON, 100.0, 5.0))
    market.apply(quote(0, DAY + DAY_US, 99.0, 1.0, 101.0, 1.0))
    assert market["session"] == DAY + DAY_US
    assert market.show("open", "high", "low", "vwap", "change", "change_pct") == (None,) * 6
    assert market.show("volume", "trades") == (0, 0)
    assert market.show("last", "last_ts") == (100.0, NOON), "the last trade is still the last"
    market.apply(trade(0, DAY + DAY_US + 1, 80.0, 1.0))
    assert market.show("open", "high", "volume", "change") == (80.0, 80.0, 1.0, 0.0)


def test_a_session_turns_within_a_batch() -> None:
    market = Market()
    turn = DAY + DAY_US
    changes = market.apply(
        *(trade(0, turn - 2, 100.0, 1.0), trade(0, turn - 1, 120.0, 1.0)),
        *(trade(0, turn, 90.0, 2.0), trade(0, turn + 1, 91.0, 2.0)),
    )
    assert market.show("session", "open", "high", "low", "volume") == (turn, 90.0, 91.0, 90.0, 4.0)
    assert (changes.hi[0], changes.vol[0]) == (120.0, 6.0), "what was traded since, whatever the session"


def test_a_tick_older_than_its_session_counts_in_n_alone() -> None:
    market = Market()
    turn = DAY + DAY_US
    market.apply(quote(0, turn, 99.0, 1.0, 101.0, 1.0))
    changes = market.apply(trade(0, turn - 1, 100.0, 1.0))
    assert market.show("last", "high", "volume", "trades") == (None, None, 0, 0)
    assert (market.table.n[0], market.table.ts[0]) == (2, turn)
    assert np.isnan(changes.hi[0])


def test_a_session_starts_at_a_time_of_day() -> None:
    five = 17 * 3_600_000_000
    market = Market(session_start_us=five)
    market.apply(trade(0, DAY + five - 1, 1.0, 1.0))
    assert market["session"] == DAY + five - DAY_US
    market.apply(trade(0, DAY + five, 1.0, 1.0))
    assert market["session"] == DAY + five


@pytest.mark.parametrize("time", [-1, -DAY_US])
def test_sessions_before_1970(time: int) -> None:
    market = Market()
    market.apply(trade(0, time, 1.0, 1.0))
    assert market["session"] == -DAY_US


def test_a_session_counts_since_reading_began() -> None:
    market = Market(since=NOON)
    market.apply(trade(0, NOON + 1, 1.0, 1.0))
    assert market["session"] == NOON
    market.apply(trade(0, NOON - 1, 9.0, 1.0))
    assert market.show("high", "trades") == (1.0, 1), "older than the session"
    market.apply(trade(0, DAY + DAY_US + 5, 1.0, 1.0))
    assert market["session"] == DAY + DAY_US, "the next one is read whole"


def test_a_session_that_began_before_reading_was_whole_stays_where_it_began() -> None:
    market = Market(since=NOON + 10)
    market.apply(trade(0, NOON, 1.0, 1.0))
    market.apply(trade(1, NOON, 1.0, 1.0), trade(0, NOON + 5, 1.0, 1.0), quote(0, NOON + 2, 1.0, 1.0, 2.0, 1.0))
    assert market.show("session", "bid") == (NOON, 1.0)


def test_a_session_after_a_hole_counts_since_the_hole() -> None:
    market = Market()
    market.apply(trade(0, NOON, 1.0, 1.0))
    market.since = NOON + DAY_US
    market.apply(trade(0, NOON + DAY_US + 1, 1.0, 1.0))
    assert market["session"] == NOON + DAY_US


# -- decimals ------------------------------------------------------------------------------------------------------


def test_sums_carry_no_dust() -> None:
    market = Market()
    market.apply(trade(0, NOON, 100.0, 0.1), trade(0, NOON, 100.0, 0.2))
    assert market["volume"] == 0.3
    assert market["vwap"] == 100.0


def test_ten_thousand_tenths_are_a_thousand() -> None:
    market = Market()
    market.apply(*[trade(0, NOON, 0.7, 0.1)] * 10_000)
    assert market.show("volume", "vwap", "trades") == (1000.0, 0.7, 10_000)


def test_large_volumes_of_fine_sizes_carry_no_dust() -> None:
    market = Market()
    for _ in range(30):
        market.apply(*[trade(0, NOON, 1.0, 1_234.56789012)] * 1_000)
    assert market["volume"] == 37_037_036.7036


def test_differences_carry_no_dust_and_no_sign_of_nothing() -> None:
    market = Market()
    market.apply(trade(0, NOON, 0.3, 1.0), trade(0, NOON, 0.1, 1.0))
    assert market.show("change", "change_pct") == (-0.2, -66.6667)
    market = Market()
    market.apply(trade(0, NOON, 61686.01, 1.0), trade(0, NOON, 61686.00, 1.0))
    assert market.show("change", "change_pct") == (-0.01, 0.0)
    assert math.copysign(1, market["change_pct"] or 0) == 1


def test_vwap_has_two_decimals_more_than_the_prices() -> None:
    market = Market()
    market.apply(trade(0, NOON, 10.5, 1.0), trade(0, NOON, 10.0, 2.0))
    assert market["vwap"] == 10.167
    market.apply(quote(0, NOON, 10.25, 1.0, 10.5, 1.0))  # a quote teaches decimals too
    assert market["vwap"] == 10.1667


def test_decimals_are_the_most_that_a_symbol_has_had() -> None:
    market = Market()
    seen = []
    for size in (1.0, 0.5, 0.001, 1e-8, 2.5, 0.1 + 0.2):
        market.apply(trade(0, NOON, 61685.99, size))
        price, sizes = market.table.decimals(np.array([0]))
        seen.append((int(price[0]), int(sizes[0])))
    assert seen == [(2, 0), (2, 1), (2, 3), (2, 8), (2, 8), (2, 15)]


@pytest.mark.parametrize("price", [1e15, 2.0**53 + 2, 1e18, 1e-12, 0.1 + 0.2, 123456.789012345, -37.63, 0.0])
def test_a_price_comes_out_as_it_went_in(price: float) -> None:
    market = Market()
    market.apply(trade(0, NOON, price, 3.0), quote(0, NOON, price, 1.0, price, abs(price)))
    assert market.show("last", "open", "high", "low", "bid", "ask", "ask_size") == (*[price] * 6, abs(price))


def test_a_volume_of_more_digits_than_float64_has_is_the_nearest_there_is() -> None:
    market = Market()
    market.apply(*[trade(0, NOON, 1.0, 1e8 + 1e-8)] * 3, trade(0, NOON, 1.0, 1e15))
    assert market["volume"] == 3e8 + 1e15


def test_negative_prices() -> None:
    market = Market()
    market.apply(trade(0, NOON, -37.63, 1.0), trade(0, NOON, -13.1, 1.0), trade(0, NOON, 10.01, 2.0))
    assert market.show("open", "high", "low", "vwap") == (-37.63, 10.01, -37.63, -7.6775)
    assert market.show("change", "change_pct") == (47.64, 126.6011), "up is positive"


def test_a_percentage_of_nothing_is_no_value() -> None:
    market = Market()
    market.apply(trade(0, NOON, 0.0, 1.0), trade(0, NOON, 1.0, 1.0))
    assert market.show("open", "change", "change_pct") == (0.0, 1.0, None)


def test_what_is_past_float64_is_no_value() -> None:
    market = Market()
    market.apply(trade(0, NOON, 1e308, 1e308), trade(0, NOON, -1e308, 1.0))
    assert market.show("last", "high", "vwap", "change", "change_pct") == (-1e308, 1e308, None, None, None)


# -- growth --------------------------------------------------------------------------------------------------------


def test_growth_keeps_all_state_and_makes_nobody_wait() -> None:
    symbols = Symbols()
    part = symbols.part("feed")
    table = QuoteTable(symbols)
    row0 = [quote(0, NOON, 99.5, 3.0, 100.5, 4.0), trade(0, NOON, 100.0, 0.1), trade(0, NOON, 101.0, 0.2)]
    symbols.claim("S0", part)
    table.apply(as_batch(replace(tick, seq=7) for tick in row0))
    before = table.view(np.array([0]))
    template = as_batch([replace(quote(0, NOON, 99.5, 3.0, 100.5, 4.0), seq=8)] * 1000)
    slowest = 0.0
    for start in range(1, 100_001, 1000):
        rows = symbols.claim_all((f"S{row}" for row in range(start, start + 1000)), part)
        began = process_time()
        table.apply(replace(template, row=rows))
        slowest = max(slowest, process_time() - began)
    assert table.capacity >= len(symbols) == 100_001
    np.testing.assert_array_equal(table.view(np.array([0])), before)
    assert (table.seq[0], table.n[0], table.ts[0]) == (7, 3, NOON)
    assert (table.n[1:100_001] == 1).all()
    assert (table.view(np.array([100_000]))[:4, 0] == [99.5, 3.0, 100.5, 4.0]).all()
    # The largest growth writes a table of some 25 MB once, in 7 to 40 ms: no round of 100 ms is put off by it.
    assert slowest < 0.1


def test_a_symbol_that_is_being_added_meanwhile_waits_for_the_next_batch() -> None:
    symbols = Symbols()
    table = QuoteTable(symbols, capacity=1)
    symbols.claim("A", symbols.part("feed"))
    symbols.owner.append(0)  # a feed's thread is halfway through adding one
    table.apply(as_batch([replace(quote(0, NOON, 1.0, 1.0, 2.0, 1.0), seq=1)]))
    assert table.n[0] == 1
