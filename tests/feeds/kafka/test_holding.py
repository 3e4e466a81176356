from __future__ import annotations

import numpy as np
from aiokafka import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from feeds.kafka.consumer import block_of
from feeds.kafka.holding import SEEN_MAX, Holding, Seen
from feeds.kafka.merging import Block
from feeds.ticks import NO_TIME
from tests.feeds.kafka.test_merging import OFFSET_0, block, names

#: The clock that is not late, when reading begins, and how far behind the other one is.
NOW, DELAY = 1000, 100


def holding_of(*parts: Seen) -> Holding:
    """One of four parts, of which nothing has been seen where it is not given."""
    return Holding(dict(enumerate((*parts, *(Seen(DELAY) for _ in range(4 - len(parts)))))))


def offsets(taken: dict[int, Block]) -> dict[int, list[int]]:
    return {part: [offset for _, offset in names(some)] for part, some in taken.items()}


def test_what_is_due_goes_and_the_rest_is_held() -> None:
    holding = holding_of()
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
    holding = holding_of()
    holding.add(1, block(1, [5, NO_TIME, 6]), NOW)
    assert offsets(holding.take(NOW - 1)) == {1: [100]}
    assert offsets(holding.take(NOW)) == {1: [101, 102]}


def test_a_time_in_the_future_counts_as_of_when_it_was_fetched_so_that_it_holds_nothing_up_for_good() -> None:
    holding = holding_of()
    holding.add(1, block(1, [5, NOW + 1, 6]), NOW)
    assert offsets(holding.take(NOW - 1)) == {1: [100]}
    assert offsets(holding.take(NOW)) == {1: [101, 102]}
    holding.add(1, block(1, [7], OFFSET_0 + 3), NOW + 50)
    assert holding.due == NOW, "nothing overtakes what came before"


def test_what_may_follow_of_a_part_is_not_overtaken_by_others() -> None:
    holding = holding_of()
    holding.add(1, block(1, [5, 6]), NOW)
    holding.add(2, block(2, [5, 7]), NOW)
    assert offsets(holding.take(9)) == {1: [100, 101], 2: [100]}
    holding.add(1, block(1, [6, 8], OFFSET_0 + 2), NOW)
    assert offsets(holding.take(9)) == {1: [102], 2: [101]}
    assert offsets(holding.take(9)) == {1: [103]}


def test_a_record_is_known_to_be_there_since_the_first_end_that_is_past_it() -> None:
    seen = Seen(DELAY)
    assert seen.by(np.array([7]), NOW).tolist() == [NOW]
    for end, now in ((5, 10), (7, 20), (7, 30), (9, 40)):
        seen.note(end, now)
    assert seen.by(np.arange(3, 11), NOW).tolist() == [10, 10, 20, 20, 40, 40, NOW, NOW]
    assert seen.by(np.array([8]), 39).tolist() == [39], "the clock was set back"


def test_what_is_noted_of_ends_is_bounded_and_forgets_the_oldest() -> None:
    seen = Seen(0)
    for number in range(3 * SEEN_MAX):
        seen.note(number + 1, number)
    assert seen.by(np.array([0, 3 * SEEN_MAX - 1]), NOW * NOW).tolist() == [2 * SEEN_MAX, 3 * SEEN_MAX - 1]
    sparse = Seen(SEEN_MAX * 1000)
    for number in range(10_000):
        sparse.note(number + 1, number)
    assert sparse.by(np.array([0, 1, 5000]), NOW * NOW).tolist() == [0, 2000, 6000]


def test_records_without_a_right_time_wait_from_when_they_were_there_not_from_when_they_were_fetched() -> None:
    seen = Seen(DELAY)
    seen.note(OFFSET_0 + 2, NOW - 50)
    holding = holding_of(Seen(DELAY), seen)
    holding.add(1, block(1, [NO_TIME, NOW + 5, NO_TIME]), NOW)
    assert offsets(holding.take(NOW - 51)) == {}
    assert offsets(holding.take(NOW - 50)) == {1: [100, 101]}
    assert offsets(holding.take(NOW)) == {1: [102]}


@given(data=st.data())
def test_no_record_goes_early_and_each_goes_once_in_its_order(data: st.DataObject) -> None:
    """Whatever its times are, and however writing, looking, fetching and the clock go on."""
    time = st.one_of(st.integers(NOW - 3 * DELAY, NOW + 5 * DELAY), st.just(NO_TIME))
    logs = data.draw(st.lists(st.lists(time, max_size=12), min_size=1, max_size=3))
    #: Of each part when each record was written, how many were fetched, and those that were told.
    written, fetched, told = ([list[int]() for _ in logs], [0 for _ in logs], [list[int]() for _ in logs])
    seen = [Seen(DELAY) for _ in logs]
    holding, now = holding_of(*seen), NOW
    for _ in range(30):
        for part, log in enumerate(logs):
            written[part] += [now] * data.draw(st.integers(0, min(3, len(log) - len(written[part]))))
            if data.draw(st.booleans()):
                seen[part].note(OFFSET_0 + len(written[part]), now)
            first, past = fetched[part], min(len(written[part]), fetched[part] + data.draw(st.integers(0, 4)))
            if part not in holding and first < past:
                holding.add(part, block(part, log[first:past], OFFSET_0 + first), now)
                fetched[part] = past
        late = now - DELAY
        for part, places in offsets(holding.take(late)).items():
            for place in (offset - OFFSET_0 for offset in places):
                at, there = logs[part][place], written[part][place]
                assert late >= (at if NO_TIME < at < there else there), "early"
            told[part] += places
        assert holding.holds == {
            part: OFFSET_0 + len(told[part]) for part in range(len(logs)) if len(told[part]) < fetched[part]
        }
        now += data.draw(st.integers(0, DELAY))
    for _ in logs:  # and all of it goes in the end, a part's worth each time at least
        for part, places in offsets(holding.take(now)).items():
            told[part] += places
    assert told == [list(range(OFFSET_0, OFFSET_0 + count)) for count in fetched]
    assert len(holding) == 0


def test_a_log_time_of_another_unit_is_none_and_never_an_old_one() -> None:
    of_unit = {
        "s": 1_700_000_000,
        "ms": 1_700_000_000_000,
        "µs": 1_700_000_000_000_000,
        "ns": 1_700_000_000_000_000_000,
    }
    for unit, time in of_unit.items():
        record = ConsumerRecord("t", 0, OFFSET_0, time, 0, None, b"", None, 0, 0, ())
        [known] = block_of([record], 1).time.tolist()
        assert known == (time * 1000 if unit in {"s", "ms"} else NO_TIME)


def test_a_block_that_is_held_keeps_its_own_times() -> None:
    """What a row without a time takes is the record's own, be it held by another."""
    holding = holding_of()
    holding.add(1, block(1, [5, NOW + 9]), NOW)
    assert np.array_equal(holding.take(NOW)[1].time, [5, NOW + 9])
