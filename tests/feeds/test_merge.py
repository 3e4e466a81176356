from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from feeds.merge import Run, Timed, merge
from feeds.ordering import AsWritten
from feeds.ticks import NO_TIME, Ints, Ticks
from tests.feeds.test_ticks import ticks


def run(number: int, times: list[int], block: int, opened: list[int] | None = None) -> Run:
    """A recording with these log times; each tick's `row` is the recording's number, its `seq` its place there."""

    def read() -> Iterator[Timed]:
        if opened is not None:
            opened.append(number)
        order = AsWritten()
        return chain.from_iterable(order.take(rows, time) for rows, time in blocks())

    def blocks() -> Iterator[tuple[Ticks, Ints]]:
        for start in range(0, len(times), block):
            n = len(times[start : start + block])
            yield ticks(n, row=np.full(n, number), seq=np.arange(start, start + n)), np.array(times[start : start + n])

    return Run(times[0] if times else -(NO_TIME + 1), read)


def merged(runs: list[Run]) -> list[tuple[int, int, int]]:
    return [
        (int(time), int(row), int(seq))
        for block in merge(runs)
        for time, row, seq in zip(block.time, block.ticks.row, block.ticks.seq, strict=True)
    ]


TIMES = st.lists(st.integers(0, 9) | st.just(NO_TIME), max_size=12)


@given(st.lists(TIMES, max_size=4), st.integers(1, 4))
@example([[5, 5, 5, 5], [5, 5, 5], [5]], 1)
@example([[NO_TIME, 1], [0, 2]], 1)
def test_a_merge_is_a_sort_by_running_time_recording_and_place(recordings: list[list[int]], block: int) -> None:
    expected = sorted(
        (max(times[: place + 1]), number, place)
        for number, times in enumerate(recordings)
        for place in range(len(times))
    )
    assert merged([run(number, times, block) for number, times in enumerate(recordings)]) == expected


def test_a_recording_is_opened_only_when_its_time_comes() -> None:
    opened: list[int] = []
    days = [run(day, [10 * day + hour for hour in range(10)], 3, opened) for day in (2, 0, 1)]
    blocks = merge(days)
    next(blocks)
    assert opened == [0]
    assert [int(time) for block in blocks for time in block.time] == list(range(3, 30))
    assert opened == [0, 1, 2]


def test_rows_at_hand_come_out_before_an_error() -> None:
    def broken() -> Iterator[Timed]:
        yield Timed(ticks(2), np.array([1, 2]))
        raise OSError

    blocks = merge([Run(1, broken)])
    assert len(next(blocks)) == 2


def test_equal_times_do_not_pile_up() -> None:
    sizes = [len(block) for block in merge([run(0, [1] * 100, 10), run(1, [1] * 100, 10)])]
    assert max(sizes) <= 20
    assert sum(sizes) == 200
