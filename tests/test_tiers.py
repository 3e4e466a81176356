"""Delayed data: a service of its own for each delay, that has nothing before its time, and is no other's to resume on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from starlette.testclient import TestClient
from websockets.sync.client import connect

from feeds.clock import Behind, WallClock
from feeds.feed import Feed, Lateness
from feeds.spec import open_feed
from feeds.ticks import Symbols
from tests.feeds.conftest import T0, HandClock
from tests.hand import HandFeed
from tests.servers import environment, serving
from tests.test_service import Listener
from ticker.server import create_app
from ticker.service import Service
from ticker.settings import Settings, delays_ms
from ticker.tiers import Tiers, open_tiers

#: As a setting in minutes, and in milliseconds.
DELAY, DELAY_MS = "0.01", 600
#: Ticks of the same millisecond may leave together.
GRAIN_MS = 2


def tiers_by_hand(delays: str = "15,60", **settings: Any) -> tuple[Tiers, list[HandFeed], HandClock]:
    """Tiers over hand-turned feeds, one for each, and the clock that theirs are behind."""
    feeds: list[HandFeed] = []

    def open_feeds(symbols: Symbols, lateness: Lateness) -> Sequence[Feed]:
        name = f"hand{lateness.suffix}"
        feeds.append(HandFeed(symbols, name=name, epoch=f"log{lateness.suffix}"))
        return feeds[-1:]

    clock = HandClock()
    return open_tiers(Settings(delays=delays, **settings), clock, open_feeds), feeds, clock


@asynccontextmanager
async def running(tiers: Tiers) -> AsyncIterator[None]:
    work = asyncio.create_task(tiers.run())
    try:
        yield
    finally:
        work.cancel()
        await asyncio.wait((work,))


# -- which there are -----------------------------------------------------------------------------------------------


def test_delays_are_minutes_the_shortest_first() -> None:
    assert delays_ms("") == delays_ms(" ") == ()
    assert delays_ms("15") == (900_000,)
    assert delays_ms("60, 15,0.05") == (3000, 900_000, 3_600_000)


@pytest.mark.parametrize("text", ["x", "15,", "0", "-15", "nan", "inf", "1e999", "1441", "15;60", "0.000001"])
def test_what_is_no_delay_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"^delays: expected minutes above 0 and up to 1440, such as 15 or 15,60, was "
    ):
        Settings(delays=text)


def test_delays_are_told_once_and_are_few() -> None:
    with pytest.raises(ValueError, match=r"^delays: expected each once, was '15,15.0'$"):
        Settings(delays="15,15.0")
    with pytest.raises(ValueError, match=r"^delays: expected 4 at most, as each reads every feed once more, was "):
        Settings(delays="1,2,3,4,5")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("--delays", "soon"), "delays: expected minutes above 0 and up to 1440, such as 15 or 15,60, was 'soon'"),
        (("--delays", "15", "--feed", "sim:?speed=max"), "feed 'sim:': speed: expected a multiple of real time with a"),
    ],
)
def test_a_start_that_cannot_be_late_is_refused(arguments: Sequence[str], cause: str) -> None:
    command = [sys.executable, "-m", "ticker", "serve", "--port", "0", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment(), check=False)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"ticker: {cause}")


def test_who_may_see_data_that_is_so_late_is_served_by_the_least_late_that_is() -> None:
    tiers, _, _ = tiers_by_hand()
    live, quarter, hour = tiers
    assert (live, live.delay_ms, quarter.delay_ms, hour.delay_ms) == (tiers.live, 0, 900_000, 3_600_000)
    asked = (0, 1, 900_000, 900_001, 3_600_000, 3_600_001)
    assert [tiers.of(delay_ms) for delay_ms in asked] == [live, quarter, quarter, hour, hour, None]


def test_without_delays_there_is_the_live_service_alone() -> None:
    tiers, [_], clock = tiers_by_hand("")
    assert list(tiers) == [tiers.live]
    assert (tiers.of(0), tiers.of(1)) == (tiers.live, None)
    assert tiers.live.clock is clock


def test_each_has_symbols_a_table_a_hub_and_a_clock_of_its_own() -> None:
    tiers, _, clock = tiers_by_hand()
    assert len({id(service.table.symbols) for service in tiers}) == 3
    assert len({id(service.hub) for service in tiers}) == 3
    assert [clock.now() - service.clock.now() for service in tiers] == [0, 900_000_000, 3_600_000_000]


# -- how they are together -----------------------------------------------------------------------------------------


async def test_they_are_ready_once_all_are() -> None:
    tiers, feeds, _ = tiers_by_hand()
    async with running(tiers):
        for feed in feeds:
            assert not tiers.ready
            feed.batches.put_nowait(feed.quotes(A=1.0))
            while not feed.warm:
                await asyncio.sleep(0)
        assert tiers.ready
        tiers.stop()
        assert all(service.stopping.is_set() for service in tiers)
        assert not tiers.ready


async def test_what_fails_in_one_ends_all() -> None:
    tiers, [_, late, _], _ = tiers_by_hand()
    late.batches.put_nowait(ValueError("a bug"))  # type: ignore[arg-type]
    with pytest.raises(ExceptionGroup) as raised:
        await tiers.run()
    assert raised.group_contains(ExceptionGroup)
    assert raised.group_contains(ValueError, match="a bug")


def test_readiness_tells_of_the_feeds_of_all() -> None:
    tiers, _, _ = tiers_by_hand("15")
    with TestClient(create_app(tiers)) as http:
        answer = http.get("/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert list(answer.json()["feeds"]) == ["hand", "hand~900s"]


# -- what their clients are told -----------------------------------------------------------------------------------


async def test_clients_are_told_how_late_their_data_is_and_the_time_of_the_data() -> None:
    tiers, [_, feed, _], clock = tiers_by_hand(heartbeat_ms=50)
    _, quarter, _ = tiers
    async with running(tiers):
        listener = Listener(quarter)
        welcome = await listener.hear("welcome")
        assert (welcome["mode"], welcome["delay_ms"], welcome["epoch"]) == ("live", 900_000, "log~900s")
        assert welcome["ts"] == T0 - 900_000_000
        listener.subscribe("A", interval_ms=0)
        feed.batches.put_nowait(feed.quotes(A=1.0))
        assert (await listener.hear("snapshot"))["ts"] == T0 - 900_000_000
        clock.time += 2_000_000
        while (beat := await listener.hear("heartbeat"))["ts"] != T0 + 2_000_000 - 900_000_000:
            pass
        assert beat["feeds"] == {"hand~900s": {"state": "live", "age_ms": 2000, "lag": None}}, "by arrival, not by data"


async def test_nobody_resumes_on_data_that_is_less_late_or_later() -> None:
    tiers, feeds, _ = tiers_by_hand()
    async with running(tiers):
        for feed in feeds:
            feed.batches.put_nowait(feed.quotes(A=1.0))
            while not feed.warm:
                await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        for service in tiers:
            for epoch in (other.hub.epoch for other in tiers):
                listener = Listener(service)
                listener.subscribe("A", since={"A": 1}, epoch=epoch)
                resumed = (await listener.hear("subscribed"))["resumed"]
                assert resumed == ({"A": 1} if epoch == service.hub.epoch else {})


async def test_each_tick_comes_as_it_came_live_and_so_much_later_at_least() -> None:
    def open_feeds(symbols: Symbols, lateness: Lateness) -> Sequence[Feed]:
        return [open_feed("sim:?symbols=3&rate=300&seed=5", symbols, clock=WallClock(), lateness=lateness)]

    tiers = open_tiers(Settings(delays=DELAY), WallClock(), open_feeds)
    assert [service.ready for service in tiers] == [False, True], "what is late has nothing yet, and waits for nothing"
    seen: dict[int, dict[tuple[str, int], tuple[int, bytes]]] = {}

    async def watch(service: Service) -> None:
        listener = Listener(service)
        listener.subscribe("*", channel="trades", interval_ms=0)
        trades: dict[tuple[str, int], tuple[int, bytes]] = {}
        seen[service.delay_ms] = trades
        while len(trades) < 40:
            message = await listener.hear("trades")
            for trade in message["items"]:
                trades[trade["symbol"], trade["seq"]] = WallClock().now(), orjson.dumps(trade)

    async with running(tiers), asyncio.TaskGroup() as group:
        for service in tiers:
            group.create_task(watch(service))
    live, late = seen[0], seen[DELAY_MS]
    both = live.keys() & late.keys()
    assert len(both) > 30
    for trade in both:
        assert late[trade][1] == live[trade][1]
        told, what = late[trade]
        assert told - orjson.loads(what)["ts"] >= (DELAY_MS - GRAIN_MS) * 1000, "early"


def test_a_server_of_delayed_data_is_ready_before_it_has_any() -> None:
    began = time.monotonic()
    with (
        serving("sim:?symbols=3", flags=("--delays", "15,60")) as server,
        connect(server.stream, compression=None) as client,
    ):
        assert time.monotonic() - began < 60
        assert orjson.loads(client.recv())["delay_ms"] == 0
        body = server.get("/readyz").json()
        assert body["ready"]
        assert list(body["feeds"]) == ["sim", "sim~900s", "sim~3600s"]
        assert (body["feeds"]["sim~900s"]["state"], body["feeds"]["sim~900s"]["age_ms"]) == ("stale", None)
        assert server.stop() == 0


def test_a_service_of_its_own_is_the_only_tier() -> None:
    symbols = Symbols()
    service = Service(Settings(), symbols, [HandFeed(symbols)], Behind(WallClock(), 1_000_000), delay_ms=1000)
    assert list(Tiers([service])) == [service]
    assert create_app(service).state.tiers.live is service
