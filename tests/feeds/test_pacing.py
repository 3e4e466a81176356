from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from time import monotonic, sleep

import numpy as np
import pytest

from feeds.pacing import GRAIN_US, Schedule, ahead
from tests.feeds.conftest import T0, HandClock


async def out(clock: HandClock, times: list[int], speed: float | None) -> list[tuple[int, int]]:
    """(when, how many) for each lot let out."""
    schedule, lots, start = Schedule(clock, speed), [], 0
    while start < len(times):
        stop = await schedule.due(np.array(times), start)
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
    schedule, times = Schedule(clock, 1.0), np.array([0, 10_000, 20_000, 90_000])
    assert await schedule.due(times, 0) == 1
    clock.time += 50_000
    assert await schedule.due(times, 1) == 3
    assert await schedule.due(times, 3) == 4
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
    schedule = Schedule(clock, 1.0)
    await schedule.due(np.array([0]), 0)
    clock.time += 10**9
    for _ in range(10):
        await schedule.due(np.array([1]), 0)
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


class Stuck:
    """A generator that makes 0, then blocks until it is let go, and makes 1 and on."""

    def __init__(self) -> None:
        self.blocked, self.go, self.closed = threading.Event(), threading.Event(), threading.Event()
        self.made = 0

    def items(self) -> Generator[int]:
        try:
            yield 0
            self.blocked.set()
            self.go.wait()
            while True:
                self.made += 1
                yield self.made
        finally:
            self.closed.set()


def feed_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "feed"]


def eventually(holds: Callable[[], object]) -> bool:
    until = monotonic() + 5
    while not holds() and monotonic() < until:
        sleep(0.005)
    return bool(holds())


async def test_closing_does_not_wait_for_a_blocked_read_which_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feeds.pacing.CLOSE_WAIT_S", 0.05)
    stuck = Stuck()
    items = ahead(stuck.items(), 3)
    assert await anext(items) == 0
    assert await asyncio.to_thread(stuck.blocked.wait, 5)
    begin = monotonic()
    await items.aclose()
    assert monotonic() - begin < 1
    assert not stuck.closed.is_set()
    stuck.go.set()
    assert await asyncio.to_thread(eventually, lambda: stuck.closed.is_set() and not feed_threads())
    assert stuck.made == 1


async def test_the_loop_is_free_while_a_read_blocks_and_waiting_can_be_cancelled() -> None:
    stuck = Stuck()
    items = ahead(stuck.items(), 3)
    assert await anext(items) == 0
    waiting = asyncio.ensure_future(anext(items))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.02)
    waiting.cancel()
    await asyncio.sleep(0)
    stuck.go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert stuck.closed.is_set()
    assert not feed_threads()


BLOCKED = """
import asyncio, os, threading
from feeds.pacing import ahead

blocked = threading.Event()

def blocks():
    yield b"first"
    blocked.set()
    yield os.read(os.pipe()[0], 1)

async def main():
    async for block in ahead(blocks(), 2):
        print(block, flush=True)
        while not blocked.is_set():
            await asyncio.sleep(0.01)
        if {given_up}:
            break
        os.kill(os.getpid(), 2)

asyncio.run(main())
"""


@pytest.mark.parametrize("given_up", [True, False], ids=["given up", "Ctrl-C"])
def test_a_blocked_read_does_not_hold_up_the_exit(given_up: bool) -> None:
    code = BLOCKED.format(given_up=given_up)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout == "b'first'\n"
    assert (done.returncode == 0) == given_up
    assert "KeyboardInterrupt" in done.stderr or not done.stderr


@pytest.mark.parametrize("blocked", [True, False], ids=["blocked", "without room"])
def test_a_thread_ends_when_its_loop_is_closed_under_it(monkeypatch: pytest.MonkeyPatch, blocked: bool) -> None:
    monkeypatch.setattr("feeds.pacing.LOOK_S", 0.02)
    stuck = Stuck()
    if not blocked:
        stuck.go.set()

    async def begun() -> AsyncGenerator[int]:
        items = ahead(stuck.items(), 3)
        assert await anext(items) == 0
        return items

    loop = asyncio.new_event_loop()
    items = loop.run_until_complete(begun())
    assert stuck.blocked.wait(5)
    assert blocked or eventually(lambda: stuck.made == 3)
    loop.close()
    stuck.go.set()
    assert eventually(lambda: stuck.closed.is_set() and not feed_threads())
    assert stuck.made == (1 if blocked else 3)
    del items  # it was held until now


async def test_no_thread_is_left_behind() -> None:
    def broken() -> Generator[int]:
        yield 1
        raise OSError("cut off")

    for _ in range(20):
        assert [number async for number in ahead(numbers(5, []), 2)] == [0, 1, 2, 3, 4]
        assert not feed_threads()
        with pytest.raises(OSError, match="cut off"):
            [number async for number in ahead(broken(), 2)]
        assert not feed_threads()
