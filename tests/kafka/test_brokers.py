"""The brokers and the proxy of these tests do what they say."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import AuthenticationFailedError, KafkaConnectionError
from aiokafka.helpers import create_ssl_context

from tests.apache_kafka import PASSWORD, UNAVAILABLE, USER, Apache
from tests.brokers import REPLY_S_MAX, Broker, Local, MakeTopic, Record, Tansu, topics
from tests.proxies import Proxy, free_port

ROOT = Path(__file__).parents[2]
#: Long enough for what is sent to come through, had it been let.
SILENCE_S = 0.2


@asynccontextmanager
async def consuming(bootstrap: str, topic: str, partitions: int = 1, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """An aiokafka consumer of all of a topic, from its start."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, **options)
    try:
        await consumer.start()
        consumer.assign([TopicPartition(topic, partition) for partition in range(partitions)])
        await consumer.seek_to_beginning()
        yield consumer
    finally:
        await consumer.stop()


async def take(consumer: AIOKafkaConsumer, count: int) -> list[Any]:
    """The next `count` records, in the order of their offsets within each partition."""
    taken: list[Any] = []
    async with asyncio.timeout(3 * REPLY_S_MAX):
        while len(taken) < count:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                taken += records
    return sorted(taken, key=lambda record: (record.partition, record.offset))


async def values(bootstrap: str, topic: str, count: int, partitions: int = 1, **options: Any) -> list[bytes | None]:
    async with consuming(bootstrap, topic, partitions, **options) as consumer:
        return [record.value for record in await take(consumer, count)]


def numbers(first: int, past: int) -> list[tuple[None, bytes]]:
    return [(None, b"%d" % number) for number in range(first, past)]


# Any broker


async def test_records_are_read_as_they_were_written(broker: Broker, topic: MakeTopic) -> None:
    name = topic(2)
    written = [
        Record(b"AAPL", b"one", partition=1, timestamp_ms=1_700_000_000_123, headers=[("venue", b"X"), ("none", None)]),
        Record(b"AAPL", None, partition=1, timestamp_ms=1_600_000_000_000),
    ]
    assert broker.produce(name, written) == 2
    async with consuming(broker.bootstrap, name, 2) as consumer:
        read = await take(consumer, 2)
    assert [Record(r.key, r.value, r.partition, r.timestamp, list(r.headers)) for r in read] == [
        written[0],
        written[1]._replace(headers=[]),
    ]
    assert broker.end_offsets(name) == [0, 2]


async def test_a_key_keeps_its_partition_and_records_without_take_turns(broker: Broker, topic: MakeTopic) -> None:
    name = topic(3)
    broker.produce(name, [(b"AAPL", b"k"), (b"AAPL", b"k"), (None, b"1"), (None, b"2"), (None, b"3")])
    async with consuming(broker.bootstrap, name, 3) as consumer:
        read = await take(consumer, 5)
    assert len({record.partition for record in read if record.key}) == 1
    assert [record.partition for record in read if not record.key] == [0, 1, 2]


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_batches_are_compressed(broker: Broker, topic: MakeTopic, compression: str) -> None:
    name = topic()
    broker.produce(name, [(None, b"AAPL" * 20)] * 100, compression)
    assert await values(broker.bootstrap, name, 100) == [b"AAPL" * 20] * 100


def test_end_offsets_count_what_was_written(broker: Broker, topic: MakeTopic) -> None:
    name = topic(2)
    assert broker.end_offsets(name) == [0, 0]
    assert broker.produce(name, numbers(0, 20_001)) == 20_001
    assert broker.end_offsets(name) == [10_001, 10_000]
    assert broker.start_offsets(name) == [0, 0]


async def test_a_topic_made_anew_starts_at_0(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    broker.produce(name, numbers(0, 3))
    broker.delete(name)
    broker.create(name)
    broker.produce(name, numbers(7, 8))
    assert broker.end_offsets(name) == [1]
    assert await values(broker.bootstrap, name, 1) == [b"7"]


def test_topics_of_a_test_are_gone_after_it(broker: Broker) -> None:
    with topics(broker) as make:
        kept, deleted = make(), make(2)
        broker.delete(deleted)
    for name in (kept, deleted):
        with pytest.raises(AssertionError, match="there is no topic"):
            broker.produce(name, numbers(0, 1))


# A broker of one's own, and the proxy before it


async def test_a_client_finds_its_way_back_through_a_proxy_that_was_cut(own_broker: Local, proxy: Proxy) -> None:
    own_broker.create("ticks")
    own_broker.produce("ticks", numbers(0, 3))
    assert own_broker.bootstrap == proxy.bootstrap
    async with consuming(proxy.bootstrap, "ticks") as consumer:
        assert len(await take(consumer, 3)) == 3
        assert proxy.connections > 0
        proxy.cut()
        assert proxy.connections == 0
        own_broker.produce("ticks", numbers(3, 5))
        assert await consumer.getmany(timeout_ms=SILENCE_S * 1000) == {}
        proxy.heal()
        assert [record.value for record in await take(consumer, 2)] == [b"3", b"4"]


@pytest.mark.parametrize("fault", ["proxy stalls", "broker freezes"])
async def test_a_client_waits_while_nothing_comes(own_broker: Local, proxy: Proxy, fault: str) -> None:
    own_broker.create("ticks")
    own_broker.produce("ticks", numbers(0, 3))
    async with consuming(proxy.bootstrap, "ticks") as consumer:
        assert len(await take(consumer, 3)) == 3
        if fault == "proxy stalls":
            proxy.stall()
            own_broker.produce("ticks", numbers(3, 5))
            assert await consumer.getmany(timeout_ms=SILENCE_S * 1000) == {}
            proxy.heal()
        else:
            own_broker.freeze()
            assert await consumer.getmany(timeout_ms=SILENCE_S * 1000) == {}
            own_broker.thaw()
            own_broker.produce("ticks", numbers(3, 5))
        assert [record.value for record in await take(consumer, 2)] == [b"3", b"4"]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_broker_comes_back_on_its_port(end: str) -> None:
    with Tansu() as broker:
        address = broker.bootstrap
        broker.create("ticks")
        broker.stop() if end == "stop" else broker.kill()
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", broker.port)):
            pass
        broker.start()
        assert broker.bootstrap == address
        broker.create("ticks")
        assert broker.produce("ticks", numbers(0, 2)) == 2


def test_what_a_broker_wrote_is_removed(tmp_path: Path) -> None:
    with Tansu() as broker:
        process = broker.process
        assert process is not None
        assert broker.folder.is_dir()
    assert process.returncode is not None
    assert not broker.folder.exists()


# The proxy by itself


@contextmanager
def echoing() -> Iterator[tuple[Proxy, socket.socket, socket.socket]]:
    """A proxy, with a client's socket and the server's that belongs to it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Proxy(listener.getsockname()[1]) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port)) as client,
        listener.accept()[0] as server,
    ):
        client.settimeout(REPLY_S_MAX)
        server.settimeout(REPLY_S_MAX)
        assert passes(client, server)
        assert passes(server, client)
        yield proxy, client, server


def passes(source: socket.socket, target: socket.socket) -> bool:
    source.sendall(b"ping")
    return target.recv(4, socket.MSG_WAITALL) == b"ping"


def test_a_cut_closes_connections_and_refuses_new_ones_until_healed() -> None:
    with echoing() as (proxy, client, server):
        proxy.cut()
        assert client.recv(1) == b""
        assert server.recv(1) == b""
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", proxy.port)):
            pass
        proxy.heal()
        with socket.create_connection(("127.0.0.1", proxy.port)):
            pass


def test_a_stalled_proxy_holds_what_comes_until_healed() -> None:
    with echoing() as (proxy, client, server):
        proxy.stall()
        client.sendall(b"held")
        server.settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            server.recv(1)
        proxy.heal()
        server.settimeout(REPLY_S_MAX)
        assert server.recv(4, socket.MSG_WAITALL) == b"held"
        assert passes(server, client)


def test_half_closed_the_client_is_told_the_end_and_may_still_send() -> None:
    with echoing() as (proxy, client, server):
        proxy.half_close()
        assert client.recv(1) == b""
        assert passes(client, server)
        server.sendall(b"dropped")
        assert passes(client, server)


def test_the_end_of_one_direction_is_passed_on() -> None:
    with echoing() as (_, client, server):
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
        assert passes(server, client)


def test_a_proxy_of_nobody_closes_at_once() -> None:
    with Proxy(free_port()) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.settimeout(REPLY_S_MAX)
        assert client.recv(1) == b""


# What only Apache Kafka does


async def test_a_topic_grows(apache: Apache, apache_topic: MakeTopic) -> None:
    name = apache_topic(2)
    apache.grow(name, 3)
    apache.produce(name, numbers(0, 3))
    assert apache.end_offsets(name) == [1, 1, 1]


async def test_records_are_dropped_from_the_start(apache: Apache, apache_topic: MakeTopic) -> None:
    name = apache_topic()
    apache.produce(name, numbers(0, 5))
    apache.truncate(name, {0: 3})
    assert apache.start_offsets(name) == [3]
    assert await values(apache.bootstrap, name, 2) == [b"3", b"4"]


def turned_away(address: str, topic: str, **options: Any) -> None:
    """A client that is not let in; aiokafka 0.14 may leave its transport unclosed, which is swept up here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises((KafkaConnectionError, AuthenticationFailedError)):
            asyncio.run(values(address, topic, 1, **options))
        gc.collect()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_a_user_comes_in_by_the_password(
    apache: Apache, apache_topic: MakeTopic, protocol: str, mechanism: str
) -> None:
    name = apache_topic()
    apache.produce(name, numbers(0, 2))
    address = apache.sasl if protocol == "SASL_PLAINTEXT" else apache.sasl_ssl
    options = {
        "security_protocol": protocol,
        "sasl_mechanism": mechanism,
        "sasl_plain_username": USER,
        "ssl_context": create_ssl_context(cafile=apache.certificates.ca),
    }
    assert asyncio.run(values(address, name, 2, sasl_plain_password=PASSWORD, **options)) == [b"0", b"1"]
    turned_away(address, name, sasl_plain_password="guess", **options)


def test_tls_needs_the_authority_and_where_it_is_mutual_a_certificate(apache: Apache, apache_topic: MakeTopic) -> None:
    name = apache_topic()
    apache.produce(name, numbers(0, 2))
    files = apache.certificates
    trusting = create_ssl_context(cafile=files.ca)
    known = create_ssl_context(cafile=files.ca, certfile=files.client, keyfile=files.client_key)
    for address, context in ((apache.ssl, trusting), (apache.mutual, known)):
        assert asyncio.run(values(address, name, 2, security_protocol="SSL", ssl_context=context)) == [b"0", b"1"]
    for address, context in ((apache.ssl, create_ssl_context()), (apache.mutual, trusting)):
        turned_away(address, name, security_protocol="SSL", ssl_context=context)


def test_apache_kafka_keeps_its_data_over_a_restart(apache: Apache) -> None:
    with Apache() as node:
        node.create("ticks")
        node.produce("ticks", numbers(0, 3))
        node.stop()
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", node.port)):
            pass
        node.start()
        assert node.end_offsets("ticks") == [3]


def test_the_starter_serves_until_stopped(apache: Apache) -> None:
    command = [sys.executable, "-m", "tests.apache_kafka", "--port", str(free_port())]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        node = Broker(starter.stdout.readline().strip())
        node.create("ticks")
        starter.terminate()
        assert starter.wait(REPLY_S_MAX) == 0


def test_the_starter_says_in_a_line_why_it_cannot(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.apache_kafka"]
    nothing = os.environ | {"PATH": str(tmp_path)}
    told = subprocess.run(command, cwd=ROOT, env=nothing, capture_output=True, text=True, check=False)
    assert told.returncode == UNAVAILABLE
    assert told.stderr == "no Apache Kafka: there is no java on the PATH\n"
