"""Paces: a round costs what is watched and changed, and nothing else."""

from __future__ import annotations

import time

import numpy as np

from feeds.ticks import Symbols
from tests.hubs import NOON, Desk, batch, quote
from ticker.lanes import Lane
from ticker.paces import NO_SLOT, SLOTS_MIN, Pace
from ticker.quotes import QuoteTable


def test_a_pace_takes_memory_for_what_is_watched_alone() -> None:
    desk = Desk(*(f"S{i}" for i in range(1000)), capacity=1024)
    pace: Pace[Lane] = Pace(desk.table, 100, NOON)
    pace.watch(np.array([7], np.int64))
    desk.read(*(quote(f"T{i}", 1, 1.0) for i in range(3000)))
    pace.watch(np.array([9, 3999], np.int64))
    assert pace._view.shape[1] == SLOTS_MIN
    pace.watch(np.arange(1000, 1200))
    assert pace._view.shape[1] < 400
    assert pace._seq[pace._slot[[7, 9, 1000, 3999]]].tolist() == desk.table.seq[[7, 9, 1000, 3999]].tolist()


def test_a_slot_that_is_left_is_taken_anew_without_what_it_held() -> None:
    desk = Desk("AA", "BB")
    pace: Pace[Lane] = Pace(desk.table, 100, NOON)
    a, b = np.array([0]), np.array([1])
    for _ in range(1000):
        pace.watch(a)
        pace.fold(desk.table.apply(batch(desk.table.symbols, [quote("AA", 1, 1.0)])))
        assert pace.dirty(a).tolist() == [True]
        pace.unwatch(a)
        pace.watch(b)
        assert (pace.dirty(b).tolist(), pace.moved(b).tolist()) == ([False], [0])
        pace.unwatch(b)
    assert pace._view.shape[1] == SLOTS_MIN
    pace.round(NOON)


def test_growing_to_a_hundred_thousand_symbols_pauses_nobody() -> None:
    """The last batch doubles the table; so many intervals as there may be take part."""
    assert min(slowest_growth() for _ in range(3)) < 0.05


def slowest_growth() -> float:
    """CPU seconds of the slowest batch; what else the machine does makes it longer now and then."""
    symbols = Symbols()
    table = QuoteTable(symbols)
    paces: list[Pace[Lane]] = [Pace(table, interval, NOON) for interval in range(1, 65)]
    worst = 0.0
    for start in range(0, 100_000, 5000):
        ticks = batch(symbols, [quote(f"S{number}", 1, 1.0) for number in range(start, start + 5000)])
        began = time.process_time()
        changes = table.apply(ticks)
        for pace in paces:
            pace.fold(changes)
        worst = max(worst, time.process_time() - began)
        if not start:
            for pace in paces:
                pace.watch(np.arange(20))
    return worst


def test_a_row_that_nobody_watches_any_more_costs_nothing() -> None:
    desk = Desk("AA", "BB")
    one, two = desk.join(), desk.join()
    one.subscribe("AA", "BB")
    two.subscribe("BB")
    one.leave()
    (pace,) = desk.hub.paces.values()
    assert (pace._slot[:2] == NO_SLOT).tolist() == [True, False]
    desk.read(quote("AA", 1, 1.0))
    assert not pace._changed
