"""The client on a replay, and the client where nothing is async, both against a real server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

import ticker
from tests.feeds.conftest import T0
from tests.servers import Server, serving
from tests.test_replays import SIM, day
from ticker import client as clients
from ticker.client import Clock, Completed, RefusedError, StreamError

SECOND = 1_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = day(tmp_path_factory.mktemp("client") / "day.csv", 20_000)
    with serving("sim:?symbols=5&rate=500&seed=1", flags=["--source", f"day={path}"]) as running:
        yield running


def replay_of(server: Server, query: str = "speed=max") -> str:
    return server.url.replace("http", "ws") + f"/v1/replay?source=day&{query}"


async def test_a_replay_gives_every_update_in_order_and_then_ends(server: Server) -> None:
    notices: list[Any] = []
    async with ticker.connect(
        replay_of(server), ["A", "B", "C"], interval_ms=0, autoplay=True, on_notice=notices.append
    ) as stream:
        seqs, ticks = [], 0
        async for update in stream:
            seqs.append((update.ts, update.quote.seq))
            ticks += update.n or update.quote.n  # a symbol's first comes whole
        assert [ts for ts, _ in seqs] == sorted(ts for ts, _ in seqs)
        assert ticks == 20_000
        assert Completed(T0 + 9999 * 10_000 + 1, 20_000) in notices
        assert stream.clock is not None
        assert stream.clock.speed is None


async def test_a_loop_that_is_slow_holds_the_replay_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "OWED_MAX", 50)
    async with ticker.connect(replay_of(server), "*", interval_ms=0, autoplay=True) as stream:
        count = most = 0
        async for _ in stream:
            count += 1
            most = max(most, len(stream._owed))
        assert most < 60, "some are read ahead, and no more"
        assert count > 10_000


async def test_controls_are_answered(server: Server) -> None:
    async with ticker.connect(replay_of(server, "speed=5"), "*", interval_ms=250) as stream:
        assert await stream.step(4) == Clock(T0 + SECOND, 5.0, "paused")
        assert await stream.speed("max") == Clock(T0 + SECOND, None, "paused")
        assert await stream.seek(T0 + 30 * SECOND) == Clock(T0 + 30 * SECOND, None, "paused")
        assert {quote.ts for quote in stream.quotes.values()} <= set(range(T0 + 29 * SECOND, T0 + 30 * SECOND))
        assert (await stream.play()).state == "playing"
        seen = [update.ts async for update in stream]
        assert seen[-1] > T0 + 99 * SECOND
        with pytest.raises(RefusedError, match="ts: expected a time from"):
            await stream.seek(5)
        assert (await stream.seek(datetime.fromtimestamp(T0 / 1e6, UTC).isoformat())).ts == T0
        assert await stream.pause() == Clock(T0, None, "paused")


async def test_a_live_stream_has_no_clock(server: Server) -> None:
    async with ticker.connect(server.url, "SIM001") as stream:
        assert stream.clock is None
        with pytest.raises(RefusedError, match="not_replay"):
            await stream.play()
    with pytest.raises(ValueError, match="when: expected a time with a zone"):
        await stream.seek("2024-01-01")


async def test_a_replay_that_cannot_be_is_told(server: Server) -> None:
    with pytest.raises(StreamError, match="source: expected one of day, was 'nope'"):
        async with ticker.connect(replay_of(server).replace("source=day", "source=nope"), "*"):
            pass


async def test_a_replay_whose_server_goes_is_lost(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = day(tmp_path_factory.mktemp("lost") / "day.csv", 20_000)
    with serving(SIM, flags=["--source", f"day={path}"]) as server:
        async with ticker.connect(replay_of(server, "speed=1"), "*", autoplay=True) as stream:
            await anext(stream)
            server.stop()
            with pytest.raises(StreamError, match="the replay was lost: "):
                async for _ in stream:
                    pass


# -- where nothing is async ----------------------------------------------------------------------------------------


def test_a_live_stream_in_a_plain_with(server: Server) -> None:
    with ticker.connect(server.url, ["SIM001", "SIM002"], interval_ms=50) as stream:
        assert stream.quotes["SIM001"].bid is not None
        for number, update in enumerate(stream):
            assert update.symbol in {"SIM001", "SIM002"}
            if number == 10:
                break
        answer = stream.subscribe("SIM003")
        assert answer.accepted == ("SIM003",)
        assert set(stream.quotes) == {"SIM001", "SIM002", "SIM003"}
        assert stream.connected
    assert not [thread for thread in threading.enumerate() if thread.name == "stream"]


def test_a_replay_in_a_plain_with(server: Server) -> None:
    with ticker.connect(replay_of(server), "*", interval_ms=1000) as stream:
        assert stream.step().ts == T0 + SECOND
        stream.play()
        assert sum(1 for _ in stream) > 290
        assert stream.seek(T0).state == "paused"


async def test_it_works_where_a_loop_runs_already(server: Server) -> None:
    with ticker.connect(server.url, "SIM001") as stream:
        assert stream.quotes["SIM001"].n > 0


def test_waiting_can_be_given_up(server: Server) -> None:
    with ticker.connect(replay_of(server), "*") as stream:
        with pytest.raises(TimeoutError):
            stream.next(timeout_s=0.05)
        stream.step(5)
        assert stream.next(timeout_s=5).quote.n > 0


def test_what_cannot_be_is_raised_here_and_leaves_no_thread(server: Server) -> None:
    stream = ticker.connect(replay_of(server).replace("source=day", "source=nope"), "*")
    with pytest.raises(StreamError, match="source: expected one of day"):
        stream.__enter__()
    assert not [thread for thread in threading.enumerate() if thread.name == "stream"]
