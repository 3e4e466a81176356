from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.kafka.merging import Block, Merge, concat
from feeds.ticks import NO_TIME

#: A record, as the tests name it: its part and its offset.
Name = tuple[int, int]

OFFSET_0 = 100  # of each part's first record


def block(part: int, times: Sequence[int], offset: int = OFFSET_0) -> Block:
    """Records of one part; each one's value and key tell its place."""
    n = len(times)
    offsets = range(offset, offset + n)
    return Block(
        [f"{part}/{at}".encode() for at in offsets],
        [f"key {at}".encode() if at % 2 else None for at in offsets],
        np.full(n, part),
        np.array(offsets, np.int64),
        np.array(times, np.int64),
    )


def names(taken: Block | None) -> list[Name]:
    """The records of a block, whose columns agree."""
    if taken is None:
        return []
    found = list(zip(taken.part.tolist(), taken.offset.tolist(), strict=True))
    assert taken.values == [f"{part}/{at}".encode() for part, at in found]
    assert taken.keys == [f"key {at}".encode() if at % 2 else None for _, at in found]
    assert len(taken) == len(found) == len(taken.time)
    return found


# -- blocks --------------------------------------------------------------------------------------------------------


def test_a_block_cut_and_put_in_another_order() -> None:
    whole = block(1, [5, 6, 7, 8])
    assert names(whole[1:3]) == [(1, 101), (1, 102)]
    assert whole[1:3].time.tolist() == [6, 7]
    assert names(whole.take(np.array([3, 0]))) == [(1, 103), (1, 100)]
    assert whole.take(np.array([3, 0])).time.tolist() == [8, 5]


def test_blocks_one_after_another() -> None:
    one, other = block(1, [5, 6]), block(2, [1])
    assert concat([one]) is one
    assert names(concat([one, other])) == [(1, 100), (1, 101), (2, 100)]


# -- what may be given out -----------------------------------------------------------------------------------------


def test_nothing_is_given_out_while_a_part_has_not_been_heard() -> None:
    merge = Merge([1, 2])
    assert sorted(merge.hungry) == [1, 2]
    merge.add(1, block(1, [5, 6]))
    assert list(merge.hungry) == [2]
    assert merge.take() is None
    assert (len(merge), merge.holds) == (2, {1: 100})
    merge.add(2, block(2, [5]))
    assert names(merge.take()) == [(1, 100), (2, 100)]
    assert (len(merge), merge.holds) == (1, {1: 101})
    assert list(merge.hungry) == [2]


def test_a_part_that_ends_is_waited_for_no_more() -> None:
    merge = Merge([1, 2])
    merge.add(1, block(1, [5, 6]))
    merge.end(2)
    assert names(merge.take()) == [(1, 100), (1, 101)]
    assert (merge.open, list(merge.hungry)) == (True, [1])
    merge.end(1)
    assert (merge.open, list(merge.hungry)) == (False, [])
    assert merge.take() is None
    assert (len(merge), merge.holds) == (0, {})


def test_what_is_held_when_all_end_is_given_out() -> None:
    merge = Merge([1, 2])
    merge.add(1, block(1, [5, 9]))
    merge.add(2, block(2, [7, 7]))
    assert names(merge.take()) == [(1, 100), (2, 100), (2, 101)]
    merge.end(1)
    merge.end(2)
    assert names(merge.take()) == [(1, 101)]


def test_times_that_run_back_keep_their_place_in_the_part() -> None:
    merge = Merge([1, 2])
    merge.add(1, block(1, [5, 9, 3, 4]))
    merge.add(2, block(2, [4, 6, 9]))
    merge.end(1)
    merge.end(2)
    assert names(merge.take()) == [(2, 100), (1, 100), (2, 101), (1, 101), (1, 102), (1, 103), (2, 102)]


def test_times_that_run_back_from_one_block_to_the_next_keep_their_place_as_well() -> None:
    merge = Merge([1, 2])
    merge.add(1, block(1, [9]))
    merge.add(2, block(2, [9, 10]))
    assert names(merge.take()) == [(1, 100), (2, 100)]
    merge.add(1, block(1, [3, 11], offset=101))
    assert names(merge.take()) == [(1, 101), (2, 101)]


def test_records_without_a_time_wait_for_nothing() -> None:
    merge = Merge([1, 2])
    merge.add(1, block(1, [NO_TIME, NO_TIME]))
    merge.add(2, block(2, [NO_TIME, 5]))
    assert names(merge.take()) == [(1, 100), (1, 101), (2, 100)]


def test_what_comes_of_a_part_after_its_end_is_given_out_all_the_same() -> None:
    """A partition is caught up with, others are not, and its new records come meanwhile."""
    merge = Merge([1, 2])
    merge.end(1)
    merge.add(1, block(1, [5, 20]))
    assert merge.take() is None
    merge.add(2, block(2, [4, 6]))
    assert names(merge.take()) == [(2, 100), (1, 100), (2, 101)]
    assert merge.holds == {1: 101}
    merge.end(2)
    assert names(merge.take()) == [(1, 101)]


def test_without_parts_there_is_nothing() -> None:
    merge = Merge([])
    assert not merge.open
    assert merge.take() is None


@pytest.mark.parametrize("parts", [1, 3])
def test_taking_twice_gives_nothing_new(parts: int) -> None:
    merge = Merge(range(parts))
    for part in range(parts):
        merge.add(part, block(part, [part, part + 1]))
    merge.take()
    assert merge.take() is None


# -- whatever comes in whatever chunks ------------------------------------------------------------------------------

TIMES = st.lists(st.integers(0, 9) | st.just(NO_TIME), max_size=12)


@dataclass
class Run:
    """Brings the records of some parts, with these times, in chunks of any size and in any order, and takes any time."""

    times: list[list[int]]
    data: st.DataObject
    merge: Merge = field(init=False)
    #: How many records of each part have been brought, and what has been given out, in order.
    brought: list[int] = field(init=False)
    out: list[Name] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.merge = Merge(range(len(self.times)))
        self.brought = [0] * len(self.times)
        self.ended: set[int] = set()

    @property
    def running(self) -> dict[Name, int]:
        return {
            (part, OFFSET_0 + place): time
            for part, times in enumerate(self.times)
            for place, time in enumerate(accumulate(times, max))
        }

    def go(self) -> None:
        while self.merge.open:
            part = self.data.draw(st.sampled_from([p for p in range(len(self.times)) if p not in self.ended]))
            start = self.brought[part]
            rest = self.times[part][start:]
            if rest:
                count = self.data.draw(st.integers(1, len(rest)))
                self.merge.add(part, block(part, rest[:count], OFFSET_0 + start))
                self.brought[part] += count
            else:
                self.merge.end(part)
                self.ended.add(part)
            self.check()
            if self.data.draw(st.booleans()):
                self.take()
        self.take()

    def take(self) -> None:
        taken = names(self.merge.take())
        running = self.running
        still_to_come = [
            running[part, OFFSET_0 + self.brought[part]]
            for part in range(len(self.times))
            if part not in self.ended and self.brought[part] < len(self.times[part])
        ]
        assert all(running[name] <= time for name in taken for time in still_to_come)
        self.out += taken
        self.check()

    def check(self) -> None:
        """Reading again from `holds` on loses nothing and repeats nothing."""
        given_out = [sum(part == name[0] for name in self.out) for part in range(len(self.times))]
        held = [brought - out for brought, out in zip(self.brought, given_out, strict=True)]
        assert len(self.merge) == sum(held)
        assert self.merge.holds == {part: OFFSET_0 + given_out[part] for part, count in enumerate(held) if count}
        assert set(self.merge.hungry) == {part for part, count in enumerate(held) if not count} - self.ended


@given(st.lists(TIMES, min_size=1, max_size=4), st.data())
def test_everything_is_given_out_once_in_the_order_of_running_times(
    times: list[list[int]], data: st.DataObject
) -> None:
    run = Run(times, data)
    run.go()
    assert sorted(run.out) == sorted(run.running)
    for part in range(len(times)):
        offsets = [offset for number, offset in run.out if number == part]
        assert offsets == sorted(offsets)
    order = [run.running[name] for name in run.out]
    assert order == sorted(order)


@given(st.lists(TIMES, min_size=1, max_size=4), st.data())
def test_all_at_once_is_a_sort_by_running_time_part_and_offset(times: list[list[int]], data: st.DataObject) -> None:
    run = Run(times, data)
    for part in data.draw(st.permutations(range(len(times)))):
        if times[part]:
            run.merge.add(part, block(part, times[part]))
        run.merge.end(part)
    assert names(run.merge.take()) == sorted(run.running, key=lambda name: (run.running[name], name))


@given(st.lists(TIMES, min_size=1, max_size=4), st.data())
def test_it_holds_no_more_than_what_is_ahead_of_the_part_that_is_behind(
    times: list[list[int]], data: st.DataObject
) -> None:
    """A caller that brings the hungry parts alone keeps one chunk of each."""
    merge = Merge(range(len(times)))
    rest = [list(enumerate(each, OFFSET_0)) for each in times]
    size = data.draw(st.integers(1, 4))
    while merge.open:
        for part in list(merge.hungry):
            chunk, rest[part] = rest[part][:size], rest[part][size:]
            if chunk:
                merge.add(part, block(part, [time for _, time in chunk], chunk[0][0]))
            else:
                merge.end(part)
        assert len(merge) <= size * len(times)
        merge.take()
    assert len(merge) == 0
