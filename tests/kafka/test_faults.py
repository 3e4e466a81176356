"""A Kafka feed in trouble: the last known state is served on and marked, and the feed comes back by itself.

Each fault is caused for real, to a broker or to the way there, and a client is connected all through it.
"""

from __future__ import annotations

import re
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka.cimpl import NewTopic
from websockets.sync.client import connect

from tests.apache_kafka import Apache
from tests.brokers import REPLY_S_MAX, Broker, Local, MakeTopic, Record, Tansu, new_topic
from tests.kafka.watching import HEARTBEAT_MS, WAIT_S_MAX, newest, quotes, said, served
from tests.proxies import Proxy
from tests.servers import Server, serving

#: A feed that cannot be read is told within so long.
NOTICED_S_MAX = 12.0
STOP_S_MAX = 8.0
BURST = 600_000
#: What a server may grow by, whatever its lag.
MEMORY_MAX = 200 << 20
#: Between heartbeats on a machine that is busy with a broker and a producer as well; how punctual they are is another test.
GAP_US_MAX = 20 * HEARTBEAT_MS * 1000


def spec(broker: Broker, topic: str, options: str = "start=earliest") -> str:
    return f"kafka://{broker.bootstrap}/{topic}?{options}"


# -- the broker is away --------------------------------------------------------------------------------------------


def test_a_broker_that_is_down_at_the_start_is_waited_for() -> None:
    with Tansu() as broker:
        broker.stop()
        with served(spec(broker, "ticks"), ready=False) as (server, watch):
            watch.until_state("down", NOTICED_S_MAX)
            assert server.get("/livez").status_code == 200
            assert server.get("/readyz").status_code == 503
            broker.start()
            broker.create("ticks", 2)
            broker.produce("ticks", quotes(0, 100))
            watch.until_ticks(100)
            watch.until_state("live")
            assert server.get("/readyz").status_code == 200
            assert said(server, "cannot read")[0].endswith(f"cannot read: {broker.bootstrap}: connection refused")
            assert len(said(server, "cannot read")) <= 5
            watch.until_said("reading again after")
            assert len(said(server, "reading again after")) == 1


def test_a_broker_that_is_gone_for_a_while_costs_no_tick_and_counts_none_twice(apache: Apache) -> None:
    with Apache() as broker:
        broker.create("ticks", 3)
        with served(spec(broker, "ticks")) as (server, watch):
            broker.produce("ticks", quotes(0, 10))
            watch.until_ticks(10)
            broker.produce("ticks", quotes(10, 20_000))
            broker.kill()
            watch.until_state("down", NOTICED_S_MAX)
            age_ms = watch.feed["age_ms"]
            watch.until(lambda: watch.feed["age_ms"] > age_ms + 1000)
            assert watch.feed["lag"] is not None
            held = server.get("/v1/snapshot?symbols=S*").json()["items"]
            assert {item["symbol"]: item["bid"] for item in held} == watch.values("bid")
            assert len(held) == 10
            assert server.get("/readyz").status_code == 200
            broker.start()
            broker.produce("ticks", quotes(20_000, 40_000))
            watch.until_ticks(40_000)
            assert watch.values("bid") == newest(quotes(20_000, 40_000))
            assert watch.epochs == []
            assert 1 <= len(said(server, "cannot read")) <= 5
            watch.until_said("reading again after")
            assert len(said(server, "reading again after")) == 1
            assert len(server.log) < 20


def test_a_broker_that_is_mute_at_the_start_is_waited_for(own_broker: Local, proxy: Proxy) -> None:
    own_broker.create("ticks", 2)
    own_broker.produce("ticks", quotes(0, 100))
    proxy.stall()
    with served(spec(own_broker, "ticks"), ready=False) as (server, watch):
        watch.until_state("down", NOTICED_S_MAX)
        assert server.get("/livez").status_code == 200
        assert server.get("/readyz").status_code == 503
        proxy.heal()
        watch.until_ticks(100)
        assert server.get("/readyz").status_code == 200


@pytest.mark.parametrize("fault", ["frozen", "stalled", "cut"])
def test_a_broker_that_does_not_answer_is_noticed_and_waited_for(own_broker: Local, proxy: Proxy, fault: str) -> None:
    faults: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "frozen": (own_broker.freeze, own_broker.thaw),
        "stalled": (proxy.stall, proxy.heal),
        "cut": (proxy.cut, proxy.heal),
    }
    begin, end = faults[fault]
    own_broker.create("ticks", 2)
    own_broker.produce("ticks", quotes(0, 100))
    with served(spec(own_broker, "ticks")) as (server, watch):
        watch.until_ticks(100)
        begin()
        watch.until_state("down", NOTICED_S_MAX)
        assert server.get("/readyz").status_code == 200
        assert len(server.get("/v1/snapshot?symbols=S*").json()["items"]) == 10
        end()
        own_broker.produce("ticks", quotes(100, 200))
        watch.until_ticks(200)
        watch.until_state("live")
        assert "down" in watch.states
        assert watch.states[-1] == "live"
        assert watch.epochs == []
        assert 1 <= len(said(server, "cannot read")) <= 5
        watch.until_said("reading again after")
        assert len(said(server, "reading again after")) == 1


def test_a_stop_waits_for_no_broker(own_broker: Local, proxy: Proxy) -> None:
    own_broker.create("ticks", 2)
    own_broker.produce("ticks", quotes(0, 100))
    with serving(spec(own_broker, "ticks")) as server:
        proxy.stall()
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < STOP_S_MAX
    assert "Traceback" not in "".join(server.log)


def test_connections_that_are_half_closed_are_replaced(own_broker: Local, proxy: Proxy) -> None:
    own_broker.create("ticks", 2)
    own_broker.produce("ticks", quotes(0, 100))
    with served(spec(own_broker, "ticks")) as (_, watch):
        watch.until_ticks(100)
        proxy.half_close()
        own_broker.produce("ticks", quotes(100, 200))
        watch.until_ticks(200, NOTICED_S_MAX)


# -- the topic is another one --------------------------------------------------------------------------------------


def test_a_topic_that_is_missing_is_picked_up_once_it_is_made(apache: Apache, apache_topic: MakeTopic) -> None:
    name = new_topic()
    with served(spec(apache, name), ready=False) as (server, watch):
        watch.until_state("down", NOTICED_S_MAX)
        assert server.get("/readyz").status_code == 503
        watch.until_said("cannot read")
        assert said(server, "cannot read") == [
            f"WARNING feeds.kafka.outage: feed kafka: cannot read: topic {name}: there is no such topic"
        ]
        apache.create(name, 2)
        try:
            apache.produce(name, quotes(0, 100))
            watch.until_ticks(100)
            assert server.get("/readyz").status_code == 200
        finally:
            apache.delete(name)


def test_a_topic_that_is_made_anew_is_another_log(apache: Apache, apache_topic: MakeTopic) -> None:
    name = apache_topic(3)
    apache.produce(name, quotes(0, 3000))
    with served(spec(apache, name)) as (server, watch):
        watch.until_ticks(3000)
        before, held = watch.mirror.epoch, watch.mirror.since()
        apache.delete(name)
        watch.until_state("down", NOTICED_S_MAX)
        assert len(server.get("/v1/snapshot?symbols=S*").json()["items"]) == 10
        apache.create(name, 2)
        apache.produce(name, quotes(5000, 5004))
        watch.until(lambda: watch.epochs)
        watch.until_ticks(4)
        assert watch.epochs == [watch.mirror.epoch] != [before]
        assert {symbol: bid for symbol, bid in watch.values("bid").items() if bid is not None} == newest(
            quotes(5000, 5004)
        )
        nothing = {field for field, value in watch.item("S09").items() if value is not None}
        assert nothing == {"symbol", "seq", "n"}
        assert (watch.item("S09")["seq"], watch.item("S09")["n"]) == (0, 0)
        # A client that was away all the while, and comes back with what it held.
        resumed, began = resume(server, held, before), time.monotonic()
        assert resumed["type"] == "snapshot"
        assert {item["symbol"]: item["bid"] for item in resumed["items"]} == newest(quotes(5000, 5004))
        assert time.monotonic() - began < 5
        assert said(server, "was made anew") == [
            f"WARNING feeds.kafka.feed: feed kafka: topic {name} was made anew: reading it from its beginning"
        ]


@pytest.mark.parametrize("count", [50, 5000], ids=["shorter", "longer"])
def test_a_topic_that_was_made_anew_unseen_is_another_log(apache: Apache, apache_topic: MakeTopic, count: int) -> None:
    name = apache_topic(2)
    apache.produce(name, quotes(0, 1000, symbols=20))
    with served(spec(apache, name)) as (server, watch):
        watch.until_ticks(1000)
        before = watch.mirror.epoch
        server.process.send_signal(signal.SIGSTOP)
        try:
            apache.delete(name)
            apache.create(name, 2)
            apache.produce(name, quotes(9000, 9000 + count))
        finally:
            server.process.send_signal(signal.SIGCONT)
        watch.until(lambda: watch.epochs)
        watch.until(lambda: watch.ticks == count and watch.feed["lag"] == 0 and not watch.mirror.broken)
        assert {watch.mirror.epoch} == set(watch.epochs) != {before}
        bids = {symbol: bid for symbol, bid in watch.values("bid").items() if bid is not None}
        assert bids == newest(quotes(9000, 9000 + count))
        assert watch.item("S19")["seq"] == 0


def test_partitions_that_are_added_are_another_epoch_and_keys_move(apache: Apache, apache_topic: MakeTopic) -> None:
    name = apache_topic(2)
    first, second = quotes(0, 400, symbols=40), quotes(1000, 1200, symbols=40)
    apache.produce(name, first)
    with served(spec(apache, name)) as (server, watch):
        watch.until_ticks(400)
        before = watch.mirror.epoch
        apache.grow(name, 5)
        watch.until(lambda: watch.epochs)
        apache.produce(name, second)
        watch.until_ticks(600)
        assert {watch.mirror.epoch} == set(watch.epochs) != {before}
        assert watch.values("bid") == newest(second)
        assert sum(apache.end_offsets(name)[2:]) > 0
        with served(spec(apache, name)) as (_, other):
            other.until_ticks(600)
            assert other.mirror.epoch == watch.mirror.epoch
            for field in ("seq", "n", "bid", "ask"):
                assert other.values(field) == watch.values(field), field
        assert said(server, "has 5 partitions now") == [
            f"INFO feeds.kafka.feed: feed kafka: topic {name} has 5 partitions now"
        ]


def test_records_that_are_gone_before_they_were_read_are_told_by_their_offsets(
    apache: Apache, apache_topic: MakeTopic
) -> None:
    name = apache_topic()
    apache.produce(name, quotes(0, 100))
    with served(spec(apache, name)) as (server, watch):
        watch.until_ticks(100)
        server.process.send_signal(signal.SIGSTOP)
        try:
            apache.produce(name, quotes(100, 101))  # this may be on its way to the service already
            apache.produce(name, quotes(101, 1000))
            apache.truncate(name, {0: 990})
        finally:
            server.process.send_signal(signal.SIGCONT)
        watch.until(lambda: watch.item("S09")["bid"] == 999)
        assert watch.values("bid") == newest(quotes(990, 1000))
        assert watch.values("seq") == {symbol: int(bid) for symbol, bid in watch.values("bid").items()}
        watch.until(lambda: watch.feed["lag"] == 0)
        assert watch.epochs == []
        watch.until_said("were gone")
        [line] = said(server, "were gone before they could be read")
        assert re.search(rf"{name}/0: offsets 10[01] to 989 were gone .*: going on at 990$", line)


# -- the records are not what they should be -----------------------------------------------------------------------


def test_records_that_cannot_be_read_are_told_by_their_offsets_and_left_out(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    poison = (b"\x00\xff garbage", b"", b"null", b"[[]]", b'{"symbol":"A","bid":[],"ts_event":1}', b"[" * 900_000)
    records = quotes(0, 10)
    for number, value in enumerate(poison):
        records += [(b"A", value), *quotes(10 + number, 11 + number)]
    broker.produce(name, [*records, (b"A", None)])
    with served(spec(broker, name)) as (server, watch):
        watch.until_ticks(16)
        assert watch.values("bid") == newest(quotes(0, 16))
        watch.until_said(f"{name}/0 offset 18")
        lines = said(server, f"{name}/0 offset")
        assert [int(line.partition("offset ")[2].partition(":")[0]) for line in lines] == [10, 12, 14, 16, 18]
        assert max(map(len, lines)) < 300
        assert watch.feed["state"] == "live"


# -- more than one core can take -----------------------------------------------------------------------------------


def test_a_burst_is_caught_up_with_while_heartbeats_go_on(broker: Broker, topic: MakeTopic) -> None:
    name = topic(4)
    burst = quotes(0, BURST, symbols=1000)
    with served(spec(broker, name)) as (server, watch):
        memory = [server.memory_bytes]
        server.process.send_signal(signal.SIGSTOP)
        try:
            broker.produce(name, burst, "lz4")
            before = len(watch.beats)
        finally:
            server.process.send_signal(signal.SIGCONT)

        def caught_up() -> bool:
            memory.append(server.memory_bytes)
            return watch.ticks >= BURST and watch.feed["lag"] == 0

        watch.until(caught_up)
        assert watch.ticks == BURST
        assert watch.values("bid") == newest(burst[-1000:])
        beats = watch.beats[before:]
        assert max(beat["lag"] or 0 for _, beat in beats) > 10_000
        gaps_us = [later - earlier for (earlier, _), (later, _) in pairwise(beats)]
        assert max(gaps_us) < GAP_US_MAX, sorted(gaps_us)[-10:]
        assert max(memory) - memory[0] < MEMORY_MAX


# -- the leader is another one -------------------------------------------------------------------------------------


class Second(Apache):
    """One more broker in the cluster of `first`, under its controller."""

    def __init__(self, first: Apache) -> None:
        self._first = first
        super().__init__()

    def _format(self) -> None:
        super()._format()
        first, data = self._first.folder, Path("data", "meta.properties")
        node = properties(self.folder / "node.properties")
        node |= {
            "node.id": "2",
            "process.roles": "broker",
            "listeners": node["listeners"].partition(",CONTROLLER:")[0],
            "controller.quorum.voters": properties(first / "node.properties")["controller.quorum.voters"],
        }
        write_properties(self.folder / "node.properties", node)
        same = {"node.id": "2", "cluster.id": properties(first / data)["cluster.id"]}
        write_properties(self.folder / data, properties(self.folder / data) | same)


def properties(file: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in file.read_text().splitlines())
    return {name: value for name, _, value in pairs}


def write_properties(file: Path, content: Mapping[str, str]) -> None:
    file.write_text("".join(f"{name}={value}\n" for name, value in content.items()))


@pytest.fixture(scope="module")
def pair(apache: Apache) -> Iterator[tuple[Apache, Apache]]:
    """Two brokers of one cluster, the second of which may be killed."""
    with Apache() as first, Second(first) as second:
        yield first, second


def make_topic(pair: tuple[Apache, Apache], replicas: list[list[int]]) -> str:
    """A topic whose partitions lie on the brokers of `replicas`, the first of which leads."""
    first, second = pair
    if second.process is None:
        second.start()
    name = new_topic()
    topic = NewTopic(name, len(replicas), replica_assignment=replicas)
    first._admin.create_topics([topic])[name].result(REPLY_S_MAX)
    first._wait(lambda: first._serves(name, len(replicas)))
    return name


def test_a_leader_that_is_gone_is_followed_by_another(pair: tuple[Apache, Apache]) -> None:
    first, second = pair
    name = make_topic(pair, [[2, 1], [1, 2]])
    first.produce(name, quotes(0, 1000))
    with served(spec(first, name)) as (server, watch):
        watch.until_ticks(1000)
        second.kill()
        first.produce(name, quotes(1000, 2000))
        watch.until_ticks(2000)
        watch.until_state("live")
        assert watch.values("bid") == newest(quotes(1000, 2000))
        assert watch.epochs == []
        assert len(said(server, "cannot read")) <= 5


def test_partitions_that_can_be_read_are_read_while_others_cannot(pair: tuple[Apache, Apache]) -> None:
    first, second = pair
    name = make_topic(pair, [[2], [1]])
    first.produce(name, quotes(0, 1000))
    with served(spec(first, name)) as (_, watch):
        watch.until_ticks(1000)
        second.kill()
        watch.until_state("down", NOTICED_S_MAX)
        here = [record for record in quotes(1000, 2000) if zlib.crc32(record[0]) % 2 == 1]
        first.produce(name, [Record(*record, partition=1) for record in here])
        watch.until(lambda: watch.ticks == 1000 + len(here))
        assert watch.feed["state"] == "down"
        watch.until_said(f"cannot read: no answer from {name}/0 for ")
        second.start()
        there = [record for record in quotes(1000, 2000) if zlib.crc32(record[0]) % 2 == 0]
        first.produce(name, there)
        watch.until_ticks(2000)
        watch.until_state("live")
        assert watch.values("bid") == newest(quotes(1000, 2000))
        assert watch.epochs == []


def resume(server: Server, held: Mapping[str, int], epoch: str | None) -> dict[str, Any]:
    """What a client is sent after `subscribed` that comes with what it held of another epoch."""
    command = {"op": "subscribe", "symbols": sorted(held), "since": held, "epoch": epoch}
    with connect(server.stream, compression=None) as socket:
        socket.send(orjson.dumps(command).decode())
        while orjson.loads(socket.recv(timeout=WAIT_S_MAX))["type"] != "subscribed":
            pass
        message: dict[str, Any] = orjson.loads(socket.recv(timeout=WAIT_S_MAX))
        return message


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.25, 0.5])
def test_a_stop_while_it_warms_up_is_a_stop(broker: Broker, topic: MakeTopic, after_s: float) -> None:
    name = topic(2)
    broker.produce(name, quotes(0, 200_000), "lz4")
    with serving(f"kafka://{broker.bootstrap}/{name}?start=earliest", ready=False) as server:
        threading.Event().wait(after_s)  # any moment will do
        assert server.stop() == 0
        said = "".join(server.log)
    assert "Unclosed" not in said
    assert "Traceback" not in said
