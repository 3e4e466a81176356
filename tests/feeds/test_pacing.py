from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator

import numpy as np
import pytest

from feeds.pacing import GRAIN_US, Pace, ahead
from tests.feeds.conftest import T0, HandClock


async def out(clock: HandClock, times: list[int], speed: float | None) -> list[tuple[int, int]]:
    """(when, how many) for each lot let out."""
    pace, lots, start = Pace(clock, speed), [], 0
    while start < len(times):
        stop = await pace.due(np.array(times), start)
        lots.append((clock.now() - T0, stop - start))
        start = stop
    return lots


@pytest.mark.parametrize("speed", [0.5, 1.0, 10.0])
async def test_each_tick_leaves_when_it_is_due(clock: HandClock, speed: float) -> None:
    times = [7, 7, 10_007, 50_007]
    assert await out(clock, times, speed) == [(0, 2), (10_000 / speed, 1), (50_000 / speed, 1)]


async def test_ticks_within_a_grain_leave_together_and_none_is_late_by_more(clock: HandClock) -> None:
    times = list(range(0, 100_000, 100))
    lots = await out(clock, times, 1.0)
    assert {size for _, size in lots[1:-1]} == {10}
    sent = 0
    for when, size in lots:
        for time in times[sent : sent + size]:
            assert 0 <= when - time <= GRAIN_US
        sent += size


async def test_being_late_once_delays_nothing_after(clock: HandClock) -> None:
    pace, times = Pace(clock, 1.0), np.array([0, 10_000, 20_000, 90_000])
    assert await pace.due(times, 0) == 1
    clock.time += 50_000
    assert await pace.due(times, 1) == 3
    assert await pace.due(times, 3) == 4
    assert clock.now() == T0 + 90_000


async def test_a_late_feed_lets_other_tasks_have_a_turn(clock: HandClock) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await out(clock, [0] * 5, None)
    pace = Pace(clock, 1.0)
    await pace.due(np.array([0]), 0)
    clock.time += 10**9
    for _ in range(10):
        await pace.due(np.array([1]), 0)
    task.cancel()
    assert turns > 10


async def test_unpaced_ticks_leave_at_once(clock: HandClock) -> None:
    assert await out(clock, [0, 10**12], None) == [(0, 2)]


def numbers(count: int, made: list[int]) -> Generator[int]:
    try:
        for number in range(count):
            made.append(number)
            yield number
    finally:
        made.append(-1)


async def test_work_done_ahead_comes_in_order_and_from_another_thread() -> None:
    def threads() -> Generator[int]:
        for _ in range(3):
            yield threading.get_ident()

    assert [number async for number in ahead(numbers(50, []), 3)] == list(range(50))
    idents = [ident async for ident in ahead(threads(), 2)]
    assert len(set(idents)) == 1
    assert threading.get_ident() not in idents


async def test_no_more_than_asked_is_done_ahead_and_the_rest_is_given_up() -> None:
    made: list[int] = []
    items = ahead(numbers(1000, made), 3)
    assert await anext(items) == 0
    await items.aclose()
    assert made[-1] == -1
    assert len(made) <= 6


async def test_an_error_comes_after_what_was_made_before_it() -> None:
    def broken() -> Generator[int]:
        yield 1
        raise OSError("cut off")

    items = ahead(broken(), 4)
    assert await anext(items) == 1
    with pytest.raises(OSError, match="cut off"):
        await anext(items)
