"""The service's clock: batches into the table, rounds when they are due, heartbeats in their slots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import orjson
import pytest

from feeds.clock import WallClock
from feeds.feed import Anew, FeedError
from feeds.ticks import Symbols
from tests.hand import HandFeed
from ticker.clients import Client
from ticker.health import FeedHealth, FeedState
from ticker.hub import HEARTBEAT_SLOTS
from ticker.service import Service
from ticker.settings import Settings
from ticker.transport import BufferedOutlet


@asynccontextmanager
async def running(*names: str, **settings: Any) -> AsyncIterator[tuple[Service, list[HandFeed]]]:
    """A service at work over hand-turned feeds."""
    symbols = Symbols()
    feeds = [HandFeed(symbols, name=name, epoch=f"{name}-1") for name in names or ("hand",)]
    service = Service(Settings(**settings), symbols, feeds, WallClock())
    work = asyncio.create_task(service.run())
    try:
        yield service, feeds
    finally:
        work.cancel()
        await asyncio.wait((work,))


class Listener:
    """A client of the hub, and what it has been sent."""

    def __init__(self, service: Service) -> None:
        self.outlet = BufferedOutlet(1 << 20)
        self.client: Client = service.hub.join(self.outlet, service.clock.now())
        self._service = service
        self._heard: list[dict[str, Any]] = []

    def subscribe(self, *symbols: str, **more: Any) -> None:
        command = orjson.dumps({"op": "subscribe", "symbols": symbols, **more})
        self._service.hub.receive(self.client, command, self._service.clock.now())
        self._service.wake()

    async def hear(self, type: str) -> dict[str, Any]:
        """The next message of a type; others before it are passed over."""
        async with asyncio.timeout(5):
            while True:
                while self._heard:
                    message = self._heard.pop(0)
                    if message["type"] == type:
                        return message
                self._heard += map(orjson.loads, await self.outlet.take())


async def test_each_batch_is_a_round_of_its_own_at_interval_0() -> None:
    async with running() as (service, [feed]):
        listener = Listener(service)
        listener.subscribe("A", interval_ms=0)
        for bid in range(1, 6):
            feed.batches.put_nowait(feed.quotes(A=bid))
        rounds = [await listener.hear("snapshot")]
        while rounds[-1]["items"][0]["bid"] != 5:
            rounds.append(await listener.hear("update"))
        assert [message["items"][0]["bid"] for message in rounds] == [1, 2, 3, 4, 5]


async def test_interval_0_does_not_wait_for_a_slower_one_beside_it() -> None:
    async with running() as (service, [feed]):
        slow, fast = Listener(service), Listener(service)
        slow.subscribe("A", interval_ms=60_000)
        fast.subscribe("A", interval_ms=0)
        feed.batches.put_nowait(feed.quotes(A=1.0))
        await fast.hear("snapshot")
        feed.batches.put_nowait(feed.quotes(A=2.0))
        assert (await fast.hear("update"))["items"][0]["bid"] == 2.0


async def test_rounds_fall_on_multiples_of_their_interval() -> None:
    async with running() as (service, [feed]):
        listener = Listener(service)
        listener.subscribe("A", interval_ms=20)
        for bid in range(20):
            feed.batches.put_nowait(feed.quotes(A=bid))
            await asyncio.sleep(0.01)
        seen = 0
        for message in map(orjson.loads, await listener.outlet.take()):
            if message["type"] == "update":
                seen += 1
                assert message["ts"] % 20_000 < 15_000, "a round is not that late"
        assert 3 <= seen <= 11


async def test_a_new_interval_is_served_without_waiting_for_an_older_slower_one() -> None:
    async with running() as (service, [feed]):
        slow, fast = Listener(service), Listener(service)
        slow.subscribe("A", interval_ms=60_000)
        await asyncio.sleep(0.02)
        fast.subscribe("A", interval_ms=10)
        feed.batches.put_nowait(feed.quotes(A=1.0))
        assert (await fast.hear("snapshot"))["items"][0]["bid"] == 1.0


async def test_heartbeats_are_spread_and_each_client_has_its_own_pace() -> None:
    async with running(heartbeat_ms=100) as (service, _):
        listeners = [Listener(service) for _ in range(HEARTBEAT_SLOTS)]
        assert sorted(listener.client.slot for listener in listeners) == list(range(HEARTBEAT_SLOTS))
        first = [(await listener.hear("heartbeat"))["ts"] for listener in listeners]
        second = [(await listener.hear("heartbeat"))["ts"] for listener in listeners]
        assert len(set(first)) == HEARTBEAT_SLOTS
        periods = sorted(late - early for early, late in zip(first, second, strict=True))
        assert periods[len(periods) // 2] == pytest.approx(100_000, rel=0.3)


async def test_a_failing_feed_leaves_the_others_live() -> None:
    async with running("one", "two") as (service, [one, two]):
        listener = Listener(service)
        one.batches.put_nowait(one.quotes(A=1.0))
        two.batches.put_nowait(two.quotes(B=2.0))
        one.batches.put_nowait(FeedError("one.csv: truncated"))
        states: dict[str, str] = {}
        while states != {"one": "down", "two": "live"}:
            status = await listener.hear("status")
            states[status["feed"]] = status["state"]
        two.batches.put_nowait(two.quotes(B=3.0))
        while service.table.seq[1] != 2:
            await asyncio.sleep(0)
        assert service.ready


async def test_anything_but_a_feeds_own_error_ends_the_service() -> None:
    symbols = Symbols()
    feed = HandFeed(symbols)
    service = Service(Settings(), symbols, [feed], WallClock())
    feed.batches.put_nowait(ValueError("a bug"))  # type: ignore[arg-type]
    with pytest.raises(ExceptionGroup) as raised:
        await service.run()
    assert raised.group_contains(ValueError, match="a bug")


async def test_stopping_tells_every_client_a_time_to_come_back_and_fails_readiness() -> None:
    async with running() as (service, [feed]):
        feed.batches.put_nowait(feed.quotes(A=1.0))
        listeners = [Listener(service) for _ in range(40)]
        while not service.ready:
            await asyncio.sleep(0)
        for _ in range(2):
            service.stop()
            assert not service.ready
        waits = {(await listener.hear("shutdown"))["reconnect_after_ms"] for listener in listeners}
        assert len(waits) > 20, "they would all come back at once"


def test_a_feed_is_starting_then_live_then_stale_until_it_ends() -> None:
    feed = HandFeed(Symbols())
    health = FeedHealth(feed, stale_ms=100)
    assert (health.state(0), health.age_ms(0)) == (FeedState.STARTING, None)
    health.arrived = 1_000_000
    assert health.state(1_100_000) is FeedState.STARTING, "it has not brought all that there was"
    feed.warm = True
    assert (health.state(1_100_000), health.age_ms(1_100_000)) == (FeedState.LIVE, 100)
    assert (health.state(1_100_001), health.age_ms(999_999)) == (FeedState.STALE, 0)
    feed.trouble = "the source does not answer"
    assert health.state(1_100_000) is FeedState.DOWN
    feed.trouble = None
    assert health.state(1_100_000) is FeedState.LIVE
    health.ending = FeedState.ENDED
    assert health.state(1_100_001) is FeedState.ENDED


async def test_a_log_made_anew_is_told_with_its_epoch_and_forgets_what_was() -> None:
    async with running(heartbeat_ms=50) as (service, [feed]):
        listener = Listener(service)
        listener.subscribe("A", interval_ms=0)
        feed.batches.put_nowait(feed.quotes(A=1.0))
        await listener.hear("snapshot")
        feed.epoch = "hand-2"
        feed.batches.put_nowait(Anew(np.array([0])))
        assert (await listener.hear("epoch"))["epoch"] == "hand-2"
        assert (await listener.hear("snapshot"))["items"][0]["bid"] is None
        feed.seq = 0
        feed.batches.put_nowait(feed.quotes(A=2.0))
        assert (await listener.hear("snapshot"))["items"][0]["bid"] == 2.0
        assert service.hub.epoch == "hand-2"


async def test_a_feed_in_trouble_is_down_and_comes_back() -> None:
    async with running(heartbeat_ms=50) as (service, [feed]):
        listener = Listener(service)
        feed.batches.put_nowait(feed.quotes(A=1.0))
        assert (await listener.hear("status"))["state"] == "live"
        feed.trouble = "no broker answers"
        assert (await listener.hear("status"))["state"] == "down"
        assert service.ready, "what it brought is served on"
        feed.trouble = None
        assert (await listener.hear("status"))["state"] == "live"
