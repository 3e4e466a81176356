"""`/v1/replay` of a real server: the same bytes at any speed, controls, clocks that are shared, and bad input."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from feeds.clock import WallClock
from tests.feeds.conftest import T0, quote, trade, write_csv
from tests.servers import Server, serving
from ticker.access import Grant, Rights
from ticker.errors import RequestError
from ticker.replaying import Request
from ticker.replays import Replays
from ticker.settings import Settings
from ticker.transport import BufferedOutlet

SIM = "sim:?symbols=2&rate=10&seed=1"
SECOND = 1_000_000
Message = dict[str, Any]
BINANCE6 = Path(__file__).parents[2] / "shared" / "data" / "binance6"


def day(path: Path, rows: int = 20_000) -> Path:
    """A generated day: three symbols, 200 ticks a second, times that repeat."""
    records = []
    for at in range(rows):
        time, symbol = T0 + at // 2 * 10_000, "ABC"[at * 7 % 3]
        price = 100 + (at * 7919 % 1009) / 100
        if at % 4 == 3:
            records.append(trade(time, symbol, price=price, size=at % 10 / 8))
        else:
            records.append(quote(time, symbol, bid=price, ask=price + 0.01))
    return write_csv(path, records)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("sources")
    flags = ["--source", f"day={day(folder / 'day.csv')}", "--heartbeat-ms", "200", "--replay-linger-s-max", "0.5"]
    with serving(SIM, flags=flags) as running:
        yield running


class Replay:
    """A client of a replay."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.items: list[bytes] = []
        #: Messages of trades and bars, as they came.
        self.told: list[bytes] = []
        self.welcome: Message = {}

    async def say(self, op: str, **more: Any) -> None:
        await self.socket.send(json.dumps({"op": op, **more}))

    async def next(self) -> Message:
        """The next message; those of items are kept as they came."""
        async with asyncio.timeout(20):
            raw = await self.socket.recv(decode=False)
        assert isinstance(raw, bytes)
        message: Message = json.loads(raw)
        if message["type"] in {"snapshot", "update"}:
            self.items.append(raw)
        elif message["type"] in {"trades", "bars", "gap"}:
            self.told.append(raw)
        return message

    async def until(self, type: str, **members: Any) -> Message:
        while True:
            message = await self.next()
            if message["type"] == type and members.items() <= message.items():
                return message

    async def control(self, op: str, **more: Any) -> Message:
        """The answer to a command to the clock: a `clock` message or an `error`."""
        await self.say(op, id=op, **more)
        while True:
            message = await self.next()
            if message.get("id") == op:
                return message


@asynccontextmanager
async def replaying(server: Server, **query: Any) -> AsyncIterator[Replay]:
    url = server.url.replace("http", "ws") + "/v1/replay?" + urlencode({"source": "day", **query})
    async with connect(url, compression=None, max_size=None, close_timeout=1) as socket:
        replay = Replay(socket)
        replay.welcome = await replay.next()
        yield replay


# -- the same bytes ------------------------------------------------------------------------------------------------


async def script(replay: Replay, speed: float | str, slow_s: float = 0) -> list[bytes]:
    """A pause, seeks and steps at set replay times, then to the end at `speed`."""
    start = replay.welcome["from"]
    await replay.say("subscribe", symbols=["*"], interval_ms=250)
    await replay.control("step", rounds=3)
    await replay.control("seek", ts=start + 40 * SECOND)
    await replay.say("subscribe", symbols=["A", "binance-spot:BTCUSDT"], interval_ms=0, fields=["bid", "last"])
    await replay.control("step", rounds=5)
    await replay.control("seek", ts=start + 7 * SECOND + 123)
    await replay.control("speed", value=speed)
    await replay.control("play")
    if slow_s:
        for _ in range(5):
            await asyncio.sleep(slow_s)
            await replay.next()
    await replay.until("replay_completed")
    return replay.items


async def run(server: Server, speed: float | str, slow_s: float = 0, **query: Any) -> list[bytes]:
    async with replaying(server, **query) as replay:
        return await script(replay, speed, slow_s)


async def test_a_generated_day_gives_the_same_bytes_at_any_speed_to_any_reader(server: Server) -> None:
    fast = await run(server, "max")
    assert len(fast) > 5000
    others = await asyncio.gather(run(server, 100), run(server, 33.5), run(server, "max", slow_s=0.2))
    for other in others:
        assert other == fast


async def test_a_server_that_reads_in_other_sizes_and_remembers_nothing_gives_the_same_bytes(
    server: Server, tmp_path: Path
) -> None:
    path = day(tmp_path / "day.csv")
    flags = ["--source", f"day={path}", "--replay-checkpoint-bytes-max", "0"]
    with serving(SIM, flags=flags) as other:
        assert await run(other, "max") == await run(server, "max")


@pytest.mark.skipif(not BINANCE6.exists(), reason="../shared/data is absent")
async def test_a_real_recording_gives_the_same_bytes_in_each_of_its_forms() -> None:
    flags = ["--source", f"day={BINANCE6 / 'binance6_l1.parquet'}"]
    for form in ("csv.gz", "ndjson.gz"):
        flags += ["--source", f"{form}={BINANCE6}/binance6_l1.{form}"]
    with serving(SIM, flags=flags) as server:
        fast = await run(server, "max")
        assert len(fast) > 1000
        assert await run(server, "max", source="csv.gz") == fast
        assert await run(server, 40, source="ndjson.gz") == fast


async def test_a_reader_that_stalls_loses_nothing_and_slows_only_itself(server: Server) -> None:
    async with replaying(server, speed="max") as stalled:
        await stalled.say("subscribe", symbols=["*"], interval_ms=0)
        await stalled.say("play")
        await asyncio.sleep(0.5)  # its socket fills, and the clock waits
        async with replaying(server, speed="max") as other:
            await other.say("subscribe", symbols=["*"], interval_ms=0)
            await other.say("play")
            await other.until("replay_completed")
        await stalled.until("replay_completed")
        assert stalled.items == other.items
        assert sum(item["n"] for raw in other.items for item in json.loads(raw)["items"]) == 20_000


class Stalled(Replay):
    """A client whose library reads no further than the program does, so that it answers no ping meanwhile."""


@asynccontextmanager
async def stalled(server: Server) -> AsyncIterator[Stalled]:
    """One that has asked for all of an unpaced day, and does not read."""
    url = server.url.replace("http", "ws") + "/v1/replay?source=day&speed=max"
    async with connect(url, compression=None, max_size=None, max_queue=1, close_timeout=0.1) as socket:
        replay = Stalled(socket)
        await replay.say("subscribe", symbols=["*"], interval_ms=0)
        await replay.say("play")
        await asyncio.sleep(2)
        yield replay


async def test_who_does_not_read_for_longer_than_a_ping_may_take_is_not_dead(tmp_path: Path) -> None:
    flags = ["--ping-interval-s", "0.2", "--ping-timeout-s", "0.2", "--socket-buffer-bytes", "32768"]
    with serving(SIM, flags=["--source", f"day={day(tmp_path / 'day.csv')}", *flags]) as server:
        async with stalled(server) as replay:
            await replay.until("replay_completed")
            assert sum(item["n"] for raw in replay.items for item in json.loads(raw)["items"]) == 20_000


async def test_who_does_not_read_for_longer_than_the_limit_is_closed(tmp_path: Path) -> None:
    flags = ["--replay-stall-s-max", "0.5", "--socket-buffer-bytes", "32768"]
    with serving(SIM, flags=["--source", f"day={day(tmp_path / 'day.csv')}", *flags]) as server:
        async with stalled(server) as replay:
            with pytest.raises(ConnectionClosed):
                await replay.until("replay_completed")
    assert any("4408" in line for line in server.log)


# -- the clock -----------------------------------------------------------------------------------------------------


async def test_it_opens_paused_with_nothing_and_says_what_it_is(server: Server) -> None:
    async with replaying(server) as replay:
        welcome = replay.welcome
        assert (welcome["mode"], welcome["state"], welcome["speed"], welcome["control"]) == (
            "replay",
            "paused",
            1.0,
            True,
        )
        assert (welcome["ts"], welcome["from"]) == (T0, T0)
        await replay.say("subscribe", symbols=["A"])
        assert (await replay.next())["pending"] == ["A"]
        heartbeat = await replay.until("heartbeat")
        assert heartbeat["ts"] == T0


async def test_the_clock_runs_at_its_speed(server: Server) -> None:
    loop = asyncio.get_running_loop()
    async with replaying(server, speed=20, autoplay=1) as replay:
        await replay.say("subscribe", symbols=["*"], interval_ms=100)
        first, began = await replay.until("update"), loop.time()
        while (last := await replay.until("update"))["ts"] < first["ts"] + 20 * SECOND:
            pass
        elapsed = loop.time() - began
        assert 0.5 * 1.0 <= elapsed <= 3.0, "20 s at 20 times real time"
        clock = await replay.control("pause")
        assert clock["state"] == "paused"
        assert clock["ts"] >= last["ts"]


async def test_stepping_runs_so_many_rounds_of_the_fastest_lane(server: Server) -> None:
    async with replaying(server) as replay:
        await replay.say("subscribe", symbols=["*"], interval_ms=500)
        clock = await replay.control("step", rounds=4)
        assert clock["ts"] == T0 + 2 * SECOND
        assert [json.loads(raw)["ts"] - T0 for raw in replay.items] == [500_000, 1_000_000, 1_500_000, 2_000_000]


async def test_from_and_to_are_half_open_and_symbols_are_those_asked_for(server: Server) -> None:
    query = {"from": T0 + SECOND, "to": T0 + 2 * SECOND, "symbols": "A,B*", "autoplay": 0, "speed": "max"}
    async with replaying(server, **query) as replay:
        await replay.say("subscribe", symbols=["*"], interval_ms=0)
        await replay.say("play")
        done = await replay.until("replay_completed")
        items = [item for raw in replay.items for item in json.loads(raw)["items"]]
        assert {item["symbol"] for item in items} == {"A", "B"}
        assert all(T0 + SECOND <= item["ts"] < T0 + 2 * SECOND for item in items)
        assert done["ticks"] == sum(item["n"] for item in items)


async def test_an_idle_stretch_sends_clocks_and_a_gap_can_be_skipped(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [quote(T0, "A"), quote(T0 + 3600 * SECOND, "A")])
    with serving(SIM, flags=["--source", f"day={path}", "--heartbeat-ms", "100"]) as server:
        async with replaying(server, autoplay=1) as replay:
            await replay.say("subscribe", symbols=["A"], interval_ms=100)
            await replay.until("snapshot")
            clock = await replay.until("clock")
            assert clock["state"] == "playing"
            assert T0 < clock["ts"] < T0 + 60 * SECOND
        async with replaying(server, autoplay=1, skip_gap_s=10) as replay:
            await replay.say("subscribe", symbols=["A"], interval_ms=100)
            clock = await replay.until("clock")
            while "skipped_us" not in clock:
                clock = await replay.until("clock")
            assert clock["skipped_us"] > 3500 * SECOND
            await replay.until("replay_completed")


# -- sharing a clock -----------------------------------------------------------------------------------------------


async def test_several_share_a_clock_that_the_first_controls_and_hands_on(server: Server) -> None:
    async with replaying(server, speed=50) as owner:
        session = owner.welcome["session"]
        async with replaying(server, session=session) as guest:
            assert (guest.welcome["control"], guest.welcome["session"]) == (False, session)
            refused = await guest.control("play")
            assert (refused["type"], refused["code"]) == ("error", "not_entitled")
            await owner.say("seek", ts=T0 + 5 * SECOND)
            assert (await guest.until("epoch")) == (await owner.until("epoch"))
            assert (await guest.until("clock"))["ts"] == T0 + 5 * SECOND
            await owner.socket.close()
            for _ in range(100):  # until the server has seen it go
                answer = await guest.control("pause")
                if answer["type"] == "clock":
                    break
            assert answer["state"] == "paused"


async def test_a_session_without_clients_ends(server: Server) -> None:
    async with replaying(server) as owner:
        session = owner.welcome["session"]
    await asyncio.sleep(0.2)
    async with replaying(server, session=session) as late:
        assert (late.welcome["type"], late.welcome["code"]) == ("error", "invalid_request")


async def test_who_comes_just_as_a_replay_ends_is_told_so_and_reads_nothing(tmp_path: Path) -> None:
    replays = Replays(Settings(), {"day": str(day(tmp_path / "day.csv", 100))}, WallClock())
    replay = await replays.open(Request("day"))
    await asyncio.sleep(0)  # it runs
    await replays.stop()
    outlet = BufferedOutlet(1000)
    with pytest.raises(RequestError, match=f"session: expected one that is open, was '{replay.id}'"):
        await replay.join(outlet)
    assert not replay.hub.clients
    assert not replays.replays
    assert not [thread for thread in threading.enumerate() if thread.name == "feed"]


# -- bad input -----------------------------------------------------------------------------------------------------

BAD_QUERY: dict[str, tuple[dict[str, Any], str]] = {
    "unknown source": ({"source": "nope"}, "source: expected one of day, was 'nope'"),
    "a path": ({"source": "../day.csv"}, "source: expected one of day, was '../day.csv'"),
    "from after to": ({"from": T0 + 2, "to": T0 + 1}, f"to: expected a time later than from ({T0 + 2}), was {T0 + 1}"),
    "no time": ({"from": "soon"}, "from: expected a time in ISO 8601 or since 1970, was 'soon'"),
    "speed 0": ({"speed": "0"}, "speed: expected max or a number above 0, up to 1e+06, was '0'"),
    "negative speed": ({"speed": "-1"}, "speed: expected max or a number above 0, up to 1e+06, was '-1'"),
    "NaN": ({"speed": "nan"}, "speed: expected max or a number above 0, up to 1e+06, was 'nan'"),
    "unknown parameter": ({"sped": "1"}, "query: expected one of source, "),
    "unknown session": ({"session": "0"}, "session: expected one that is open, was '0'"),
    "autoplay": ({"autoplay": "yes"}, "autoplay: expected 0 or 1, was 'yes'"),
}


@pytest.mark.parametrize("case", BAD_QUERY)
async def test_a_bad_query_is_answered_with_an_error_and_closed(server: Server, case: str) -> None:
    query, text = BAD_QUERY[case]
    async with replaying(server, **query) as replay:
        assert (replay.welcome["type"], replay.welcome["code"], replay.welcome["fatal"]) == (
            "error",
            "invalid_request",
            True,
        )
        assert replay.welcome["message"].startswith(text)
        with pytest.raises(ConnectionClosed) as closed:
            await replay.socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4400


BAD_CONTROL: dict[str, tuple[dict[str, Any], str]] = {
    "speed 0": ({"op": "speed", "value": 0}, "value: expected max or a number above 0"),
    "negative speed": ({"op": "speed", "value": -2}, "value: expected max or a number above 0"),
    "no number": ({"op": "speed", "value": "fast"}, "value: expected max or a number above 0"),
    "seek before the start": ({"op": "seek", "ts": T0 - 1}, f"ts: expected a time from {T0} to "),
    "no time": ({"op": "seek", "ts": 1.5}, "ts: expected microseconds since 1970, was 1.5"),
    "no rounds": ({"op": "step", "rounds": 0}, "rounds: expected a whole number from 1"),
}


@pytest.mark.parametrize("case", BAD_CONTROL)
async def test_a_bad_control_is_refused_and_changes_nothing(server: Server, case: str) -> None:
    command, text = BAD_CONTROL[case]
    async with replaying(server) as replay:
        answer = await replay.control(**command)
        assert (answer["type"], answer["code"]) == ("error", "invalid_request")
        assert answer["message"].startswith(text)
        assert (await replay.control("pause"))["ts"] == T0


async def test_seeks_past_a_known_end_are_refused(server: Server) -> None:
    async with replaying(server, to=T0 + SECOND) as replay:
        answer = await replay.control("seek", ts=T0 + 2 * SECOND)
        assert answer["message"] == f"ts: expected a time from {T0} to {T0 + SECOND}, was {T0 + 2 * SECOND}"


async def test_a_live_stream_has_no_clock(server: Server) -> None:
    async with connect(server.stream) as socket:
        await socket.send('{"op":"play","id":1}')
        while (message := json.loads(await socket.recv()))["type"] != "error":
            pass
        assert message["code"] == "not_replay"


@pytest.mark.parametrize("how", ["changed", "gone"])
async def test_a_file_that_changes_or_vanishes_under_a_session_is_told(tmp_path: Path, how: str) -> None:
    path = day(tmp_path / "day.csv", 100_000)
    with serving(SIM, flags=["--source", f"day={path}"]) as server:
        async with replaying(server, speed="max") as replay:
            await replay.say("subscribe", symbols=["*"], interval_ms=1000)
            if how == "gone":
                path.unlink()
            else:
                path.write_text(path.read_text() + "\n")
            await replay.say("play")
            failure = await replay.until("error")
            cause = "No such file or directory" if how == "gone" else "changed while it was read"
            assert (failure["code"], failure["message"]) == ("source_failed", f"source: day.csv: {cause}")
            assert failure["fatal"] is True
            with pytest.raises(ConnectionClosed) as closed:
                await replay.socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1013


async def test_one_replay_too_many_is_told_to_come_later(tmp_path: Path) -> None:
    flags = ["--source", f"day={day(tmp_path / 'day.csv', 100)}", "--replay-sessions-max", "1"]
    with serving(SIM, flags=flags) as server:
        async with replaying(server) as first:
            with pytest.raises(InvalidStatus) as refused:
                async with replaying(server):
                    pass
            assert refused.value.response.status_code == 503
            async with replaying(server, session=first.welcome["session"]) as guest:
                assert guest.welcome["type"] == "welcome"


async def test_without_a_source_there_is_no_replay() -> None:
    with serving(SIM) as server:
        with pytest.raises(InvalidStatus) as refused:
            async with replaying(server):
                pass
        assert refused.value.response.status_code == 404
        assert server.get("/v1/sources").json() == {"items": []}


def test_the_catalogue(server: Server) -> None:
    assert server.get("/v1/sources").json() == {
        "items": [
            {
                "source": "day",
                "files": 1,
                "from": T0,
                "to": T0 + 9999 * 10_000,
                "rows": 20_000,
                "symbols": ["A", "B", "C"],
            }
        ]
    }


# -- who is served late --------------------------------------------------------------------------------------------


class Stopped:
    """A clock that stands."""

    def __init__(self, now: int) -> None:
        self._now = now

    def now(self) -> int:
        return self._now

    async def sleep_until(self, time_us: int) -> None:
        raise AssertionError(f"expected nobody to wait, until {time_us}")


async def test_whoever_is_served_late_replays_nothing_sooner(tmp_path: Path) -> None:
    path = day(tmp_path / "day.csv")
    minute = 60_000_000
    begin = T0
    late, live = Grant("a", Rights(("*",), 1)), Grant("b", Rights(("*",), 0))

    async def end_at(now: int, grant: Grant, **asked: Any) -> int | None:
        replays = Replays(Settings(), {"day": str(path)}, Stopped(now), {"kafka:ticks": _no_topic})
        try:
            return (await replays.open(Request("day", **asked), grant)).end
        finally:
            await replays.stop()

    half = begin + minute + 50_000_000  # a minute after the recording's first fifty seconds
    assert await end_at(half, late) == begin + 50_000_000
    assert await end_at(half, late, end=begin + 10_000_000) == begin + 10_000_000
    assert await end_at(half, late, end=begin + 60_000_000) == begin + 50_000_000
    assert await end_at(half, live, end=begin + 60_000_000) == begin + 60_000_000
    for now, asked in ((begin + minute, {}), (half, {"start": begin + 60_000_000})):
        with pytest.raises(RequestError):
            await end_at(now, late, **asked)
    replays = Replays(Settings(), {}, Stopped(half), {"kafka:ticks": _no_topic})
    with pytest.raises(RequestError) as caught:
        await replays.open(Request("kafka:ticks", start=begin, then_live=True), late)
    assert caught.value.code == "not_entitled"


async def test_nor_by_way_of_somebody_elses_session(tmp_path: Path) -> None:
    path, now = day(tmp_path / "day.csv"), T0 + 70_000_000
    replays = Replays(Settings(), {"day": str(path)}, Stopped(now))
    late, later = Grant("a", Rights(("*",), 1)), Grant("a", Rights(("*",), 2))
    session = (await replays.open(Request("day", end=T0 + 5_000_000))).id
    try:
        assert (await replays.enter(session, _no_request, late)).id == session
        with pytest.raises(RequestError, match="as old as the grant says"):
            await replays.enter(session, _no_request, later)
    finally:
        await replays.stop()


def _no_topic(*_: object) -> Any:
    raise AssertionError("expected no topic to be opened")


def _no_request() -> Request:
    raise AssertionError("expected no replay to be begun")
