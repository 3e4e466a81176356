from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feeds.kafka.holding import Holding
from feeds.kafka.merging import Block
from feeds.ticks import NO_TIME
from tests.feeds.kafka.test_merging import OFFSET_0, block, names

#: The clock that is not late, when reading begins, and how far behind the other one is.
NOW, DELAY = 1000, 100


def offsets(taken: dict[int, Block]) -> dict[int, list[int]]:
    return {part: [offset for _, offset in names(some)] for part, some in taken.items()}


def test_what_is_due_goes_and_the_rest_is_held() -> None:
    holding = Holding()
    holding.add(1, block(1, [5, 6, 8]), NOW)
    holding.add(2, block(2, [7]), NOW)
    assert offsets(holding.take(4)) == {}
    assert (holding.due, len(holding), 1 in holding, 3 in holding) == (5, 4, True, False)
    assert offsets(holding.take(6)) == {1: [100, 101]}
    assert holding.holds == {1: 102, 2: 100}
    assert offsets(holding.take(7)) == {2: [100]}
    assert offsets(holding.take(8)) == {1: [102]}
    assert (holding.due, len(holding), dict(holding.holds)) == (None, 0, {})


def test_a_record_without_a_time_counts_as_of_when_it_was_fetched() -> None:
    holding = Holding()
    holding.add(1, block(1, [5, NO_TIME, 6]), NOW)
    assert offsets(holding.take(NOW - 1)) == {1: [100]}
    assert offsets(holding.take(NOW)) == {1: [101, 102]}


def test_a_time_in_the_future_counts_as_of_when_it_was_fetched_so_that_it_holds_nothing_up_for_good() -> None:
    holding = Holding()
    holding.add(1, block(1, [5, NOW + 1, 6]), NOW)
    assert offsets(holding.take(NOW - 1)) == {1: [100]}
    assert offsets(holding.take(NOW)) == {1: [101, 102]}
    holding.add(1, block(1, [7], OFFSET_0 + 3), NOW + 50)
    assert holding.due == NOW, "nothing overtakes what came before"


def test_what_may_follow_of_a_part_is_not_overtaken_by_others() -> None:
    holding = Holding()
    holding.add(1, block(1, [5, 6]), NOW)
    holding.add(2, block(2, [5, 7]), NOW)
    assert offsets(holding.take(9)) == {1: [100, 101], 2: [100]}
    holding.add(1, block(1, [6, 8], OFFSET_0 + 2), NOW)
    assert offsets(holding.take(9)) == {1: [102], 2: [101]}
    assert offsets(holding.take(9)) == {1: [103]}


@given(data=st.data())
def test_no_record_goes_early_and_each_goes_once_in_its_order(data: st.DataObject) -> None:
    """Whatever its times are, and however fetching and the clock go on."""
    time = st.one_of(st.integers(NOW - 3 * DELAY, NOW + 5 * DELAY), st.just(NO_TIME))
    logs = data.draw(st.lists(st.lists(time, max_size=12), min_size=1, max_size=3))
    now, fetched, given_ = NOW, dict.fromkeys(range(len(logs)), 0), {part: list[int]() for part in range(len(logs))}
    born: dict[tuple[int, int], int] = {}
    holding = Holding()
    for _ in range(40):
        for part, log in enumerate(logs):
            count = data.draw(st.integers(0, 4))
            some = log[fetched[part] : fetched[part] + count]
            if some and part not in holding:
                holding.add(part, block(part, some, OFFSET_0 + fetched[part]), now)
                for place, at in enumerate(some, OFFSET_0 + fetched[part]):
                    born[part, place] = now if at == NO_TIME else min(at, now)
                fetched[part] += len(some)
        late = now - DELAY
        for part, places in offsets(holding.take(late)).items():
            given_[part] += places
            assert all(born[part, place] <= late for place in places), "early"
        for part, first in holding.holds.items():
            assert first == OFFSET_0 + len(given_[part])
        now += data.draw(st.integers(0, DELAY))
    for part, log in enumerate(logs):
        assert given_[part] == list(range(OFFSET_0, OFFSET_0 + len(given_[part])))
        count = fetched[part] - len(given_[part])
        assert len(log) - fetched[part] >= 0
        assert (part in holding) == (count > 0)
    for _ in logs:  # and all of it goes in the end, a part's worth each time at least
        for part, places in offsets(holding.take(now + DELAY)).items():
            given_[part] += places
    assert all(len(given_[part]) == fetched[part] for part in given_)
    assert not len(holding)


def test_a_block_that_is_held_keeps_its_own_times() -> None:
    """What a row without a time takes is the record's own, be it held by another."""
    holding = Holding()
    holding.add(1, block(1, [5, NOW + 9]), NOW)
    assert np.array_equal(holding.take(NOW)[1].time, [5, NOW + 9])
