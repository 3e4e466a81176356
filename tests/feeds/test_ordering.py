from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feeds import ordering
from feeds.merge import Timed
from feeds.ordering import AsWritten, Ordering
from feeds.ticks import NO_TIME
from tests.feeds.test_ticks import ticks

US, ROWS = 3, 4
TIMES = st.lists(st.integers(0, 20) | st.just(NO_TIME), max_size=30)


@pytest.fixture(autouse=True, scope="module")
def small_window() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "WINDOW_US", US)
        patch.setattr(ordering, "WINDOW_ROWS", ROWS)
        yield


def sorted_rows(order: Ordering | AsWritten, times: list[int], block: int, start: int = 0) -> list[tuple[int, int]]:
    """(time at which it takes its place, number) of each row, in the order in which they come out."""
    out: list[Timed] = []
    for at in range(start, len(times), block):
        n = len(times[at : at + block])
        out += order.take(ticks(n, seq=np.arange(at, at + n)), np.array(times[at : at + n]))
    rest = order.rest()
    out += [] if rest is None else [rest]
    return [pair for rows in out for pair in zip(rows.time.tolist(), rows.ticks.seq.tolist(), strict=True)]


def expected(times: list[int]) -> list[tuple[int, int]]:
    """The definition, row by row."""
    places = []
    for i, time in enumerate(times):
        newest = max(times[: i + 1])
        edge = max(newest - US if newest != NO_TIME else NO_TIME, max(times[: max(0, i - ROWS + 1)], default=NO_TIME))
        places.append((max(newest if time == NO_TIME else time, edge), i))
    return sorted(places)


@given(TIMES, st.integers(1, 7))
@example([10, 5, 10, 1, 1, 1, 1, 1, 9], 1)
def test_rows_stand_by_their_time_within_the_window(times: list[int], block: int) -> None:
    assert sorted_rows(Ordering(), times, block) == expected(times)


@given(TIMES, st.integers(1, 7))
def test_rows_that_lie_further_behind_are_counted(times: list[int], block: int) -> None:
    order = Ordering()
    rows = sorted_rows(order, times, block)
    assert order.displaced == sum(time > times[i] != NO_TIME for time, i in rows)


@given(TIMES, st.integers(1, 7))
def test_few_rows_are_ever_held_back(times: list[int], block: int) -> None:
    order, out = Ordering(), 0
    for at in range(0, len(times), block):
        n = len(times[at : at + block])
        out += sum(map(len, order.take(ticks(n), np.array(times[at : at + n]))))
        assert at + n - out < ROWS


@given(TIMES, st.integers(0, 29), st.integers(1, 7))
def test_begun_in_the_middle_all_but_the_first_rows_stand_where_they_did(times: list[int], at: int, block: int) -> None:
    order = Ordering(max(times[:at], default=NO_TIME), unknown=ROWS if at else 0)
    blind = at + ROWS if at else 0
    rows = sorted_rows(order, times, block, start=at)
    assert [row for row in rows if row[1] >= blind] == [row for row in expected(times) if row[1] >= blind]


@given(TIMES, st.integers(1, 7))
def test_what_a_recorder_wrote_keeps_its_order(times: list[int], block: int) -> None:
    assert sorted_rows(AsWritten(), times, block) == [(max(times[: i + 1]), i) for i in range(len(times))]
