"""Paces: a round costs what is watched and changed, and nothing else."""

from __future__ import annotations

import numpy as np

from tests.hubs import NOON, Desk, quote
from ticker.lanes import Lane
from ticker.paces import Pace


def test_a_pace_takes_no_memory_for_what_nobody_watches() -> None:
    desk = Desk(*(f"S{i}" for i in range(1000)), capacity=1024)
    pace: Pace[Lane] = Pace(desk.table, 100, NOON)
    pace.watch(np.array([7], np.int64))
    pace._seq[5] = 3  # as if it were held of a row that nobody watches: it is not worth copying
    desk.read(*(quote(f"T{i}", 1, 1.0) for i in range(3000)))
    pace.watch(np.array([9], np.int64))
    assert pace._seq.shape == (desk.table.capacity,)
    assert (pace.watchers[[7, 9]].tolist(), pace._seq[5]) == ([1, 1], 0)


def test_a_row_that_nobody_watches_any_more_costs_nothing() -> None:
    desk = Desk("AA", "BB")
    one, two = desk.join(), desk.join()
    one.subscribe("AA", "BB")
    two.subscribe("BB")
    one.leave()
    (pace,) = desk.hub.paces.values()
    assert pace.watchers[:2].tolist() == [0, 1]
    desk.read(quote("AA", 1, 1.0))
    assert not pace.dirty.any()
