"""`/v1/replay` of a topic of a real broker, from some time ago until it is live: nothing twice, nothing left out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

import ticker
from tests.apache_kafka import Apache
from tests.brokers import Broker, MakeTopic, Record
from tests.feeds.conftest import T0
from tests.kafka.test_feed import quote
from tests.kafka.watching import WAIT_S_MAX
from tests.proxies import free_port
from tests.servers import Server, serving
from tests.test_replays import Message, Replay, day, replaying
from ticker.client import Live, RefusedError
from ticker.mirror import Mirror

S = 1_000_000
SYMBOLS = tuple(f"S{number}" for number in range(7))
FLAGS = ("--heartbeat-ms", "100", "--stale-ms", "60000")


def now() -> int:
    return time.time_ns() // 1000


def past(count: int, ago_s: float = 600, until_s: float = 1) -> list[Record]:
    """So many quotes of all symbols, of evenly spread times from some time ago until shortly before now."""
    begin, step = now() - int(ago_s * S), (ago_s - until_s) * S / count
    return [quote(bid, begin + int(bid * step), SYMBOLS[bid * 5 % 7]) for bid in range(count)]


class Production:
    """Quotes that come now, many a second, until it is stopped; bids count on from `first`."""

    def __init__(self, broker: Broker, topic: str, first: int) -> None:
        self.bid = first
        self._stopped = threading.Event()
        self._args = broker, topic
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        broker, topic = self._args
        while not self._stopped.wait(0.005):
            records = [quote(bid, None, SYMBOLS[bid * 5 % 7]) for bid in range(self.bid, self.bid + 10)]
            broker.produce(topic, records)
            self.bid += len(records)

    def stop(self) -> int:
        """The bid that would be next."""
        self._stopped.set()
        self._thread.join()
        return self.bid

    def __enter__(self) -> Production:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def server_of(broker: Broker, topic: str, *flags: str) -> Iterator[Server]:
    """A server whose own feed of the topic begins with what comes now."""
    with serving(f"kafka://{broker.bootstrap}/{topic}?start=latest", flags=[*FLAGS, *flags]) as server:
        yield server


def catching_up(server: Server, topic: str, **query: Any) -> Any:
    return replaying(server, **{"source": f"kafka:{topic}", "then": "live", "from": "-15m"} | query)


class Copy:
    """What a client of everything holds, and what of it broke a promise."""

    def __init__(self) -> None:
        self.mirror = Mirror()
        self.live: list[int] = []
        self.rounds: list[int] = []

    @property
    def ticks(self) -> int:
        return sum(item["n"] for item in self.mirror.items.values())

    def take(self, message: Message) -> None:
        if message["type"] in {"snapshot", "update"}:
            if message["type"] == "update":
                self.rounds.append(message["ts"])
            before = {
                item["symbol"]: self.mirror.items.get(item["symbol"], {"seq": -1, "bid": -1})
                for item in message["items"]
            }
            assert not self.mirror.apply(message), "the chain is broken"
            for symbol, held in before.items():
                item = self.mirror.items[symbol]
                assert item["seq"] > held["seq"]
                assert item["bid"] > held["bid"]
        elif message["type"] == "live":
            self.live.append(message["ts"])
        assert message["type"] not in {"error", "gap", "epoch"}

    async def until(self, replay: Replay, ticks: int) -> None:
        async with asyncio.timeout(WAIT_S_MAX):
            while self.ticks < ticks or not self.live:
                self.take(await replay.next())
        assert self.ticks == ticks


@pytest.mark.parametrize("speed", ["max", 400])
@pytest.mark.parametrize("interval_ms", [0, 100])
async def test_a_topic_is_caught_up_with_and_goes_on_live_without_a_gap_or_a_repeat(
    broker: Broker, topic: MakeTopic, speed: float | str, interval_ms: int
) -> None:
    name = topic(3)
    broker.produce(name, past(8000))
    with server_of(broker, name) as server, Production(broker, name, 8000) as production:
        async with catching_up(server, name, speed=speed) as replay:
            assert replay.welcome["mode"] == "replay"
            copy = Copy()
            await replay.say("subscribe", symbols=["*"], interval_ms=interval_ms)
            await replay.say("play")
            while not copy.live:
                copy.take(await replay.next())
            caught_up = len(copy.rounds)
            for _ in range(60 if interval_ms else 300):
                copy.take(await replay.next())
            await copy.until(replay, await asyncio.to_thread(production.stop))
            assert copy.rounds == sorted(copy.rounds)
            assert all(ts <= copy.live[0] for ts in copy.rounds[:caught_up])
            assert all(ts >= copy.live[0] for ts in copy.rounds[caught_up:])
            assert len(copy.rounds) > caught_up > 100
            if interval_ms:
                assert all(ts % 100_000 == 0 for ts in copy.rounds)
        assert len(copy.live) == 1
        assert "WARNING" not in "".join(server.log), "".join(server.log)


async def test_it_begins_with_what_is_as_old_as_was_asked_for(apache: Apache, apache_topic: MakeTopic) -> None:
    name = apache_topic()
    apache.produce(name, [quote(-ago, now() - ago * 60 * S) for ago in (50, 40, 30, 20, 10)])
    with server_of(apache, name) as server:
        for start in ("-35m", now() - 35 * 60 * S):
            async with catching_up(server, name, **{"from": start}, autoplay=1) as replay:
                await replay.say("subscribe", symbols=["A"], interval_ms=0)
                copy = Copy()
                while not copy.live:
                    message = await replay.next()
                    if message["type"] in {"snapshot", "update"}:
                        copy.mirror.apply(message)
                    elif message["type"] == "live":
                        copy.live.append(message["ts"])
                assert (copy.ticks, copy.mirror.items["A"]["bid"]) == (3, -10)


async def test_a_reader_that_stalls_while_it_catches_up_loses_nothing(broker: Broker, topic: MakeTopic) -> None:
    name = topic(2)
    broker.produce(name, past(12_000))
    with server_of(broker, name, "--socket-buffer-bytes", "16384") as server:
        async with catching_up(server, name) as replay:
            await replay.say("subscribe", symbols=["*"], interval_ms=0)
            await replay.say("play")
            copy, stalled = Copy(), 0
            while not copy.live:
                copy.take(await replay.next())
                if len(copy.rounds) % 5000 == 2500:
                    stalled += 1
                    await asyncio.sleep(1)
            assert stalled >= 2
            await copy.until(replay, 12_000)
            assert len(copy.rounds) > 11_900, "each time is a round of its own"


async def test_pausing_for_long_is_no_outage(broker: Broker, topic: MakeTopic) -> None:
    name = topic(2)
    broker.produce(name, past(12_000))
    with server_of(broker, name) as server:
        async with catching_up(server, name, speed=100) as replay:
            await replay.say("subscribe", symbols=["*"], interval_ms=0)
            await replay.control("play")
            copy = Copy()
            while len(copy.rounds) < 100:
                copy.take(await replay.next())
            await replay.say("pause", id=1)
            while (message := await replay.next()).get("id") != 1:
                copy.take(message)
            assert message["state"] == "paused"
            held = copy.ticks
            until = time.monotonic() + 3.6
            while time.monotonic() < until:
                message = await replay.next()
                assert message["type"] in {"heartbeat", "clock", "status"}
            await replay.say("speed", value="max")
            await replay.say("play")
            await copy.until(replay, 12_000)
            assert held < 4000
        assert "WARNING" not in "".join(server.log), "".join(server.log)


async def test_what_shares_the_clock_is_told_alike_and_one_may_come_later(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    broker.produce(name, past(1000))
    with server_of(broker, name) as server:
        async with catching_up(server, name) as first, replaying(server, session=first.welcome["session"]) as second:
            for each in (first, second):
                await each.say("subscribe", symbols=["*"], interval_ms=0)
                await each.until("subscribed")
            await first.say("play")
            assert await first.until("live") == await second.until("live")
            async with replaying(server, session=first.welcome["session"]) as late:
                assert (late.welcome["state"], late.welcome["speed"]) == ("live", 1)
                await late.say("subscribe", symbols=["S0"])
                broker.produce(name, [quote(5000, None, "S0")])
                for each in (first, second, late):
                    while (await each.until("update"))["items"][-1]["bid"] != 5000:
                        pass


async def test_a_topic_made_anew_is_a_new_epoch(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    broker.produce(name, past(500))
    with server_of(broker, name) as server:
        async with catching_up(server, name) as replay:
            await replay.say("subscribe", symbols=["*"], interval_ms=0)
            await replay.say("play")
            await replay.until("live")
            broker.delete(name)
            broker.create(name)
            broker.produce(name, [quote(1, None, "S3")])
            assert (await replay.until("epoch"))["epoch"] != replay.welcome["epoch"]
            mirror = Mirror()
            async with asyncio.timeout(WAIT_S_MAX):
                while mirror.items.get("S3", {}).get("n") != 1:
                    message = await replay.next()
                    if message["type"] in {"snapshot", "update"}:
                        mirror.apply(message)


# -- what is refused -----------------------------------------------------------------------------------------------


async def test_controls_that_make_no_sense_are_refused(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    broker.produce(name, past(100))
    with server_of(broker, name) as server:
        async with catching_up(server, name) as replay:
            for command in ({"op": "seek", "ts": now() - 60 * S}, {"op": "step"}):
                answer = await replay.control(**command)
                assert answer["message"] == "op: expected play, pause or speed, as the replay goes on live"
            answer = await replay.control("speed", value=1)
            assert answer["message"] == "value: expected max or a number above 1, to catch up with what is live, was 1"
            await replay.say("play")
            await replay.until("live")
            for op in ("pause", "play"):
                answer = await replay.control(op)
                assert answer["message"] == "op: expected a replay that is catching up, it is live"


BAD_QUERY: dict[str, tuple[dict[str, Any], str]] = {
    "no time": ({"from": "-10"}, "from: expected a time in ISO 8601 or since 1970, or back such as -10m, was '-10'"),
    "a time to come": ({"from": "2100-01-01"}, "from: expected a time that has passed ("),
    "another then": ({"then": "dead"}, "then: expected live, was 'dead'"),
    "to": ({"to": "2024-01-01"}, "to: expected none with a topic that goes on live"),
    "symbols": ({"symbols": "A"}, "symbols: expected none with a topic that goes on live"),
    "too slow to catch up": ({"speed": 1}, "speed: expected max or a number above 1, to catch up with what is live"),
    "files": ({"source": "day"}, "then: expected a topic to go on with, was day, files"),
    "unknown topic": ({"source": "kafka:q"}, "source: expected one of day, kafka:nowhere, was 'kafka:q'"),
}


@pytest.fixture(scope="module")
def brokerless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ["--source", f"day={day(tmp_path_factory.mktemp('day') / 'day.csv', 100)}", "--replay-sessions-max", "2"]
    with serving(f"kafka://127.0.0.1:{free_port()}/nowhere", flags=flags, ready=False) as server:
        yield server


@pytest.mark.parametrize("case", BAD_QUERY)
async def test_a_query_that_makes_no_sense_is_refused(brokerless: Server, case: str) -> None:
    query, text = BAD_QUERY[case]
    async with catching_up(brokerless, "nowhere", **query) as replay:
        assert (replay.welcome["type"], replay.welcome["code"]) == ("error", "invalid_request")
        assert replay.welcome["message"].startswith(text)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"from": "2024-01-01"}, "then: expected live with a topic, which is missing"),
        ({"then": "live"}, "from: expected a time, or one back such as -10m, which is missing"),
    ],
)
async def test_a_query_that_lacks_what_it_takes_is_refused(
    brokerless: Server, query: dict[str, str], text: str
) -> None:
    async with replaying(brokerless, source="kafka:nowhere", **query) as replay:
        assert replay.welcome["message"] == text


async def test_a_topic_that_does_not_answer_is_told_and_leaves_nothing_behind(brokerless: Server) -> None:
    async with catching_up(brokerless, "nowhere") as replay:
        assert (replay.welcome["code"], replay.welcome["fatal"]) == ("source_failed", True)
        assert replay.welcome["message"] == "source: kafka:nowhere: cannot be read at present"
        with pytest.raises(ConnectionClosed) as closed:
            await replay.socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
    async with replaying(brokerless) as replay:
        assert replay.welcome["type"] == "welcome", "of two replays at most, that one is over"
        with pytest.raises(InvalidStatus):
            async with replaying(brokerless), replaying(brokerless):
                pass


def test_topics_are_listed_beside_recordings(brokerless: Server) -> None:
    recording, topic = brokerless.get("/v1/sources").json()["items"]
    assert (recording["source"], recording["from"]) == ("day", T0)
    assert topic == {"source": "kafka:nowhere", "then": "live"}


# -- the client ----------------------------------------------------------------------------------------------------


async def test_the_client_goes_on_and_comes_back_to_the_live_stream(broker: Broker, topic: MakeTopic) -> None:
    name, port = topic(2), free_port()
    broker.produce(name, past(2000))
    notices: list[Any] = []
    ticks = 0
    with server_of(broker, name, "--port", str(port)) as server:
        url = f"{server.url}/v1/replay?source=kafka:{name}&from=-15m&then=live"
        stream = ticker.connect(url, ["*"], interval_ms=0, autoplay=True, on_notice=notices.append)
        await stream.__aenter__()
        try:
            async for update in stream:
                ticks += update.n or update.quote.n
                if ticks == 2000:
                    break
            while not any(isinstance(notice, Live) for notice in notices):
                await asyncio.sleep(0.01)
            assert stream.clock is not None
            assert stream.clock.state == "live"
            with pytest.raises(RefusedError, match="it is live"):
                await stream.pause()
            broker.produce(name, [quote(7777, None, "S1")])
            assert (await anext(stream)).quote.bid == 7777
            server.stop()
            broker.produce(name, [quote(8888, None, "S2")])
            with serving(f"kafka://{broker.bootstrap}/{name}?start=-15m", flags=[*FLAGS, "--port", str(port)]):
                assert (await anext(stream)).quote.bid == 8888, "all others are held already, and come no more"
                assert stream.url.endswith(f":{port}/v1/stream")
        finally:
            await stream.__aexit__(None, None, None)


async def test_a_stop_is_told_to_the_clients_of_replays(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    broker.produce(name, past(100))
    with server_of(broker, name) as server:
        async with catching_up(server, name, autoplay=1) as replay:
            await replay.until("live")
            await asyncio.to_thread(server.stop)
            await replay.until("shutdown")
            with pytest.raises(ConnectionClosed) as closed:
                await replay.socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
