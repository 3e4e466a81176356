from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import trustme
from aiokafka import errors

from feeds.feed import FeedError
from feeds.kafka import cluster
from feeds.kafka.cluster import NO_ID, Cluster, Lookout, Missing, Topic, Unavailable, reason
from feeds.kafka.setup import Security

ID = bytes(range(16))
API_VERSIONS, METADATA, DESCRIBE_CONFIGS = 18, 3, 32
UNKNOWN_TOPIC, NO_LEADER, NOT_AUTHORIZED, INVALID_TOPIC = 3, 5, 29, 17


# -- what names the log --------------------------------------------------------------------------------------------

TICKS = Topic("ticks", ID.hex(), 3)
MORE = Topic("more", bytes(reversed(ID)).hex(), 1)
HERE = Cluster("4L6g3nShT-eMCtK--X86sw", (MORE, TICKS))


def test_an_epoch_never_changes_what_it_is_made_of() -> None:
    """Replicas of two releases read one log: a client that goes from one to the other resumes."""
    assert HERE.epoch == "k-98f3dfedc19b"


@pytest.mark.parametrize(
    "other",
    [
        replace(HERE, id="another"),
        replace(HERE, id=""),
        replace(HERE, topics=(TICKS,)),
        replace(HERE, topics=(MORE, replace(TICKS, id=MORE.id))),
        replace(HERE, topics=(MORE, replace(TICKS, id=""))),
        replace(HERE, topics=(MORE, replace(TICKS, partitions=4))),
        replace(HERE, topics=(MORE, replace(TICKS, name="tick"))),
        replace(HERE, topics=(MORE, TICKS, Topic("x", "", 1))),
    ],
)
def test_another_log_has_another_epoch(other: Cluster) -> None:
    assert other.epoch != HERE.epoch
    assert other.epoch.startswith("k-")
    assert "+" not in other.epoch  # it joins the epochs of several feeds


# -- what a broker says, byte by byte ------------------------------------------------------------------------------
#
# Written by hand from the protocol's own definition (MetadataRequest.json and MetadataResponse.json of Apache Kafka):
# from version 9 on lengths are variable (compact: one more than there are), and tagged fields end each struct.


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def compact(value: str) -> bytes:
    assert len(value) < 127
    return bytes([len(value) + 1]) + value.encode()


def compact_array(items: Sequence[bytes]) -> bytes:
    assert len(items) < 127
    return bytes([len(items) + 1]) + b"".join(items)


def array(items: Sequence[bytes]) -> bytes:
    return struct.pack(">i", len(items)) + b"".join(items)


def ints(*values: int) -> list[bytes]:
    return [struct.pack(">i", value) for value in values]


NO_TAGS = b"\x00"


@dataclass
class Told:
    """What a broker tells of a topic."""

    name: str
    partitions: int = 1
    id: bytes = ID
    error: int = 0

    def v12(self) -> bytes:
        partitions = [
            struct.pack(">hiii", 0, number, 1, 7)  # error, number, leader, its epoch
            + compact_array(ints(1, 2))  # replicas
            + compact_array(ints(1))  # of which in sync
            + compact_array([])  # of which offline
            + NO_TAGS
            for number in range(self.partitions)
        ]
        operations = struct.pack(">i", -(2**31))
        return (
            struct.pack(">h", self.error)
            + compact(self.name)
            + self.id
            + b"\x00"  # not internal
            + compact_array(partitions)
            + operations
            + NO_TAGS
        )

    def v5(self) -> bytes:
        partitions = [
            struct.pack(">hii", 0, number, 1) + array(ints(1, 2)) + array(ints(1)) + array([])
            for number in range(self.partitions)
        ]
        return struct.pack(">h", self.error) + text(self.name) + b"\x00" + array(partitions)


Brokers = Sequence[tuple[str, int]]


def response_v12(topics: Sequence[Told], brokers: Brokers, cluster_id: str | None = "C") -> bytes:
    return (
        struct.pack(">i", 0)  # throttled for no time
        + compact_array(
            [
                struct.pack(">i", number) + compact(host) + struct.pack(">i", port) + b"\x00" + NO_TAGS  # no rack
                for number, (host, port) in enumerate(brokers)
            ]
        )
        + (b"\x00" if cluster_id is None else compact(cluster_id))
        + struct.pack(">i", 1)  # controller
        + compact_array([topic.v12() for topic in topics])
        + NO_TAGS
    )


def response_v5(topics: Sequence[Told], brokers: Brokers, cluster_id: str | None = "C") -> bytes:
    return (
        struct.pack(">i", 0)
        + array(
            [
                struct.pack(">i", number) + text(host) + struct.pack(">i", port) + text("rack")
                for number, (host, port) in enumerate(brokers)
            ]
        )
        + (struct.pack(">h", -1) if cluster_id is None else text(cluster_id))
        + struct.pack(">i", 1)
        + array([topic.v5() for topic in topics])
    )


def request(versions: tuple[int, int], *topics: str) -> Any:
    return cluster._TopicsRequest(topics).prepare({METADATA: versions})


def test_topics_are_asked_for_by_name_without_making_them() -> None:
    asked = request((0, 13), "ticks", "a")
    assert asked.API_VERSION == 12
    assert asked.build_request_header(correlation_id=7, client_id="ticker").encode() == (
        b"\x00\x03\x00\x0c\x00\x00\x00\x07\x00\x06ticker\x00"
    )
    assert asked.encode() == (
        b"\x03"  # two topics
        + bytes(16)
        + b"\x06ticks"
        + b"\x00"
        + bytes(16)
        + b"\x02a"
        + b"\x00"
        + b"\x00"  # make none
        + b"\x00"  # no operations
        + b"\x00"
    )


@pytest.mark.parametrize(("most", "version"), [(13, 12), (12, 12), (11, 5), (9, 5), (5, 5), (4, 4)])
def test_older_brokers_are_asked_what_they_know(most: int, version: int) -> None:
    asked = request((0, most), "ticks")
    assert version == asked.API_VERSION
    if version < 12:
        assert asked.encode() == b"\x00\x00\x00\x01\x00\x05ticks\x00"


def test_an_answer_of_version_12() -> None:
    asked = request((0, 12), "ticks")
    data = BytesIO(b"\x00\x00\x00\x07\x00" + response_v12([Told("ticks", 2), Told("x", 0, bytes(16), 3)], [("h", 9)]))
    assert asked.parse_response_header(data).correlation_id == 7
    answer = asked.RESPONSE_TYPE.decode(data)
    assert data.read() == b""
    assert answer.API_VERSION == 12
    assert (answer.cluster_id, answer.controller_id) == ("C", 1)
    assert [tuple(broker[:4]) for broker in answer.brokers] == [(0, "h", 9, None)]
    (error, name, topic_id, internal, partitions, *_), unknown = answer.topics
    assert (error, name, topic_id, internal) == (0, "ticks", ID.hex(), False)
    assert [partition[:7] for partition in partitions] == [(0, n, 1, 7, [1, 2], [1], []) for n in range(2)]
    assert unknown[:5] == (3, "x", NO_ID, False, [])


def test_tagged_fields_of_later_releases_are_passed_over() -> None:
    told = response_v12([Told("ticks")], [])[:-1] + b"\x01\x05\x02hi"
    assert cluster._TopicsResponse.decode(BytesIO(told)).topics[0][1] == "ticks"


# -- a broker that says so -----------------------------------------------------------------------------------------

#: Makes the answer to a request, by its API, version and body; None where there is to be none.
Answer = Callable[[int, int, bytes], bytes | None]


@dataclass
class Broker:
    """Listens on 127.0.0.1 and answers as it is told."""

    topics: list[Told] = field(default_factory=lambda: [Told("ticks", 3)])
    #: Other brokers of the cluster that it tells of.
    brokers: list[tuple[str, int]] = field(default_factory=list)
    metadata: tuple[int, int] = (0, 12)
    policies: dict[str, str | None] = field(default_factory=dict)
    #: What it does to answers: None gives none, and what is too short is cut off after that.
    spoil: Callable[[int, bytes], bytes | None] = lambda _, answer: answer
    heard: list[tuple[int, int]] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    port: int = 0

    def __post_init__(self) -> None:
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        return self.heard.count((API_VERSIONS, 0))

    def cut(self) -> None:
        """Close every connection, with nothing more said."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                message = await reader.readexactly(size)
                api, version, number, name_chars = struct.unpack(">hhih", message[:10])
                self.heard.append((api, version))
                flexible = api == METADATA and version >= 9
                answer = self._answer(api, version, message[10 + name_chars + flexible :])
                whole = struct.pack(">i", number) + (NO_TAGS if flexible else b"") + answer
                frame = struct.pack(">i", len(whole)) + whole
                said = self.spoil(api, frame)
                if said is not None:
                    writer.write(said)
                    await writer.drain()
                    if len(said) < len(frame):
                        return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()

    def _answer(self, api: int, version: int, body: bytes) -> bytes:
        if api == API_VERSIONS:
            apis = [(API_VERSIONS, 0, 2), (METADATA, *self.metadata), (DESCRIBE_CONFIGS, 0, 0)]
            return struct.pack(">h", 0) + array([struct.pack(">hhh", *each) for each in apis])
        if api == DESCRIBE_CONFIGS:
            return struct.pack(">i", 0) + array([self._config(name, policy) for name, policy in self.policies.items()])
        assert api == METADATA
        assert not any(body[-3:] if version == 12 else body[-1:])  # no topic is to be made
        brokers = [("127.0.0.1", self.port), *self.brokers]
        return (response_v12 if version == 12 else response_v5)(self.topics, brokers)

    def _config(self, name: str, policy: str | None) -> bytes:
        """Its error is "not authorized" where there is no policy."""
        entries = [("retention.ms", "compact"), ("cleanup.policy", policy)] if policy is not None else []
        return (
            struct.pack(">h", 0 if policy is not None else NOT_AUTHORIZED)
            + text("")
            + b"\x02"  # a topic
            + text(name)
            + array([text(key) + text(value or "") + b"\x00\x00\x00" for key, value in entries])
        )


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with Broker() as started:
        yield started


class Looking(Lookout):
    """A lookout that is closed in the end."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def looking(*servers: str, topics: Sequence[str] = ("ticks",), security: Security | None = None) -> Looking:
    return Looking(servers, topics, security or Security())


async def unavailable(lookout: Lookout) -> str:
    with pytest.raises(Unavailable) as error:
        await lookout.look()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# -- looking -------------------------------------------------------------------------------------------------------


async def test_the_topics_are_told_with_their_ids(broker: Broker) -> None:
    broker.topics = [Told("ticks", 3), Told("other", 7), Told("a", 1, bytes(15) + b"\x01")]
    async with looking(broker.address, topics=("ticks", "a")) as lookout:
        seen = await lookout.look()
        assert seen == Cluster("C", (Topic("a", "00" * 15 + "01", 1), Topic("ticks", ID.hex(), 3)))
        broker.topics[0].partitions = 4
        again = await lookout.look()
    assert again.topics[1].partitions == 4
    assert again.epoch != seen.epoch
    assert broker.heard == [(API_VERSIONS, 0), (METADATA, 12), (METADATA, 12)]


async def test_the_epoch_is_the_same_in_whatever_order_topics_are_named(broker: Broker) -> None:
    broker.topics = [Told("b", 2), Told("a", 1, bytes(15) + b"\x01"), Told("c", 9)]
    epochs = set()
    for topics in (("a", "b"), ("b", "a")):
        async with looking(broker.address, topics=topics) as lookout:
            epochs.add((await lookout.look()).epoch)
        broker.topics.reverse()
    assert len(epochs) == 1


@pytest.mark.parametrize("most", [4, 5, 11])
async def test_an_older_broker_tells_no_id(broker: Broker, most: int) -> None:
    broker.metadata = (0, most)
    if most == 4:  # without the replicas that are offline
        broker.topics = [Told("ticks", 0)]
    async with looking(broker.address) as lookout:
        assert await lookout.look() == Cluster("C", (Topic("ticks", "", 3 if most > 4 else 0),))


async def test_an_id_that_was_told_once_is_remembered_where_an_older_broker_answers(broker: Broker) -> None:
    async with looking(broker.address) as lookout:
        told = await lookout.look()
        broker.metadata = (0, 5)
        broker.cut()
        await asyncio.sleep(0.01)
        assert await lookout.look() == told
    assert broker.heard[-1] == (METADATA, 5)


async def test_an_id_of_zeros_is_none(broker: Broker) -> None:
    broker.topics = [Told("ticks", 3, bytes(16))]
    async with looking(broker.address) as lookout:
        assert (await lookout.look()).topics == (Topic("ticks", "", 3),)


@pytest.mark.parametrize(
    ("told", "kind", "cause"),
    [
        ([], Missing, "there is no such topic"),
        ([Told("ticks", 0, bytes(16), UNKNOWN_TOPIC)], Missing, "there is no such topic"),
        ([Told("ticks", 0, bytes(16), NOT_AUTHORIZED)], Unavailable, "not allowed to read it"),
        ([Told("ticks", 0, ID, NO_LEADER)], Unavailable, "it has no leader yet"),
        ([Told("ticks", 0, ID, INVALID_TOPIC)], Unavailable, "InvalidTopicError"),
        ([Told("ticks", 0, ID, 999)], Unavailable, "UnknownError"),
    ],
)
@pytest.mark.parametrize("version", [5, 12])
async def test_a_topic_that_cannot_be_read_is_said(
    broker: Broker, told: list[Told], kind: type[Unavailable], cause: str, version: int
) -> None:
    broker.topics, broker.metadata = [Told("a"), *told], (0, version)
    async with looking(broker.address, topics=("ticks", "a")) as lookout:
        with pytest.raises(Unavailable) as error:
            await lookout.look()
        assert type(error.value) is kind
        assert str(error.value) == f"topic ticks: {cause}"
        broker.topics = [Told("a"), Told("ticks")]
        await lookout.look()
    assert broker.connections == 1  # that a topic is missing is no reason to connect anew


@pytest.mark.parametrize(
    ("policy", "compacted"),
    [("compact", True), ("compact,delete", True), ("delete", False), ("", False), (None, False)],
)
async def test_which_topics_are_compacted(broker: Broker, policy: str | None, compacted: bool) -> None:
    broker.policies = {"a": "delete", "ticks": policy}
    async with looking(broker.address, topics=("a", "ticks")) as lookout:
        assert await lookout.compacted() == (frozenset(("ticks",)) if compacted else frozenset())


# -- what stands in the way ----------------------------------------------------------------------------------------


async def test_no_broker(closed_port: int) -> None:
    where = f"127.0.0.1:{closed_port}"
    async with looking(where) as lookout:
        assert await unavailable(lookout) == f"{where}: connection refused"


async def test_a_host_of_several_addresses_that_all_refuse(closed_port: int) -> None:
    async with looking(f"localhost:{closed_port}") as lookout:
        assert await unavailable(lookout) == f"localhost:{closed_port}: connection refused"


async def test_a_host_that_nobody_knows() -> None:
    async with looking("nobody.invalid:9092") as lookout:
        said = await unavailable(lookout)
    assert said.startswith("nobody.invalid:9092: ")
    assert "Errno" not in said


async def test_all_that_was_tried_is_said(closed_port: int) -> None:
    async with looking(f"127.0.0.1:{closed_port}", f"127.0.0.2:{closed_port}") as lookout:
        assert await unavailable(lookout) == (
            f"127.0.0.1:{closed_port}: connection refused; 127.0.0.2:{closed_port}: connection refused"
        )


async def test_one_of_two_is_enough(broker: Broker, closed_port: int) -> None:
    for _ in range(10):  # they are tried in any order
        async with looking(f"127.0.0.1:{closed_port}", broker.address) as lookout:
            assert (await lookout.look()).topics[0].name == "ticks"


async def test_brokers_that_the_cluster_told_of_are_asked_when_the_first_is_gone(broker: Broker) -> None:
    async with Broker() as first:
        first.brokers = [("127.0.0.1", broker.port)]
        async with looking(first.address) as lookout:
            await lookout.look()
            assert broker.heard == []
            first._server.close()
            first.cut()
            await asyncio.sleep(0.01)
            await lookout.look()
    assert broker.heard == [(API_VERSIONS, 0), (METADATA, 12)]


async def test_who_the_user_named_is_asked_where_none_that_the_cluster_told_of_answers(
    broker: Broker, closed_port: int
) -> None:
    async with looking(broker.address) as lookout:
        await lookout.look()
        lookout._brokers = {("127.0.0.1", closed_port): None}
        broker.cut()
        await asyncio.sleep(0.01)
        assert (await lookout.look()).topics[0].name == "ticks"


async def test_a_connection_that_was_closed_meanwhile_is_opened_anew(broker: Broker) -> None:
    async with looking(broker.address) as lookout:
        await lookout.look()
        broker.cut()
        await asyncio.sleep(0.01)
        await lookout.look()
        assert broker.connections == 2


def cut_short(api: int) -> Callable[[int, bytes], bytes | None]:
    return lambda asked, answer: answer[: len(answer) // 2] if asked == api else answer


@pytest.mark.parametrize("api", [API_VERSIONS, METADATA])
async def test_a_connection_cut_in_the_middle_of_an_answer(broker: Broker, api: int) -> None:
    broker.spoil = cut_short(api)
    async with looking(broker.address) as lookout:
        assert await unavailable(lookout) == f"{broker.address}: the connection was closed"
        broker.spoil = lambda _, answer: answer
        await lookout.look()


@pytest.mark.parametrize("api", [API_VERSIONS, METADATA])
async def test_an_answer_that_never_comes(broker: Broker, api: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "REQUEST_S_MAX", 0.05)
    broker.spoil = lambda asked, answer: None if asked == api else answer
    async with looking(broker.address) as lookout:
        assert await unavailable(lookout) == f"{broker.address}: no answer within 0.05 s"
        broker.spoil = lambda _, answer: answer
        monkeypatch.setattr(cluster, "REQUEST_S_MAX", 5.0)
        await lookout.look()
        assert broker.connections == 2


@pytest.mark.parametrize("api", [API_VERSIONS, METADATA])
async def test_an_answer_that_cannot_be_read(broker: Broker, api: int) -> None:
    def garbled(asked: int, answer: bytes) -> bytes:
        return answer[:9] + b"\x7f" * (len(answer) - 9) if asked == api else answer

    broker.spoil = garbled
    async with looking(broker.address) as lookout:
        assert (await unavailable(lookout)).startswith(f"{broker.address}: ")
        broker.spoil = lambda _, answer: answer
        await lookout.look()


async def test_what_answers_may_be_no_broker_at_all() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with looking(where) as lookout:
        assert (await unavailable(lookout)).startswith(f"{where}: ")
    server.close()


async def test_a_look_that_is_given_up_leaves_the_next_one_right(broker: Broker) -> None:
    async with looking(broker.address) as lookout:
        await lookout.look()
        given_up = asyncio.create_task(lookout.look())
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait((given_up,))
        assert (await lookout.look()).topics[0].name == "ticks"


async def test_what_was_never_opened_can_be_closed(broker: Broker) -> None:
    lookout = looking(broker.address)
    await lookout.close()
    await lookout.look()
    await lookout.close()
    await lookout.close()


# -- security ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def secure(authority: trustme.CA) -> AsyncIterator[Broker]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with Broker(tls=tls) as started:
        yield started


@pytest.fixture
def ca_file(tmp_path: Path, authority: trustme.CA) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


async def test_a_broker_behind_tls(secure: Broker, ca_file: Path) -> None:
    async with looking(secure.address, security=Security(protocol="SSL", ca_file=str(ca_file))) as lookout:
        assert (await lookout.look()).id == "C"


async def test_a_broker_whom_nobody_trusts(secure: Broker, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    async with looking(secure.address, security=Security(protocol="SSL", ca_file=str(other))) as lookout:
        said = await unavailable(lookout)
    assert said.startswith(f"{secure.address}: its certificate is not trusted: ")


async def test_a_broker_of_another_name(authority: trustme.CA, ca_file: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("broker.example").configure_cert(tls)
    async with (
        Broker(tls=tls) as broker,
        looking(broker.address, security=Security(protocol="SSL", ca_file=str(ca_file))) as lookout,
    ):
        said = await unavailable(lookout)
    assert said.startswith(f"{broker.address}: its certificate is not trusted: ")
    assert "127.0.0.1" in said


async def test_a_broker_without_tls(broker: Broker, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "REQUEST_S_MAX", 0.2)  # it waits for the rest of what it takes for a long request
    async with looking(broker.address, security=Security(protocol="SSL", ca_file=str(ca_file))) as lookout:
        assert await unavailable(lookout) == f"{broker.address}: no answer within 0.2 s"


def move(path: Path, to: Path) -> None:
    path.rename(to)


async def test_a_file_that_is_missing_is_said_at_each_connect(secure: Broker, ca_file: Path) -> None:
    async with looking(secure.address, security=Security(protocol="SSL", ca_file=str(ca_file))) as lookout:
        move(ca_file, away := ca_file.with_name("away"))
        with pytest.raises(FeedError, match=r"^\S*ca\.pem: No such file or directory$"):
            await lookout.look()
        move(away, ca_file)
        await lookout.look()


def test_the_librarys_own_log_is_silent() -> None:
    """At its finest level it holds the bytes that sign in."""
    assert not logging.getLogger("aiokafka").isEnabledFor(logging.ERROR)
    assert not logging.getLogger("aiokafka.conn").isEnabledFor(logging.ERROR)


# -- reasons -------------------------------------------------------------------------------------------------------


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:992)")
    error.verify_message = "certificate has expired"
    return error


def no_tls(reason: Any) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:992)")
    error.reason = reason  # None where OpenSSL tells none
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "no answer within 5 s"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 9092)"), "connection refused"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "connection reset by peer"),
        (OSError(errno.EHOSTUNREACH, "Connect call failed"), "no route to host"),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] Connect call"),
            "connection refused",
        ),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (untrusted(), "its certificate is not trusted: certificate has expired"),
        (no_tls("WRONG_VERSION_NUMBER"), "no TLS: wrong version number"),
        (no_tls(None), "no TLS: handshake failed"),
        (EOFError(), "the connection was closed"),
        (asyncio.IncompleteReadError(b"", 4), "the connection was closed"),
        (errors.KafkaConnectionError("Connection at h:1 closed"), "the connection was closed"),
        (
            caused(errors.KafkaConnectionError("Connection at h:1 closed"), asyncio.IncompleteReadError(b"", 4)),
            "the connection was closed",
        ),
        (
            caused(errors.KafkaConnectionError("broken"), BrokenPipeError(errno.EPIPE, "Broken pipe")),
            "broken pipe",
        ),
        (errors.NotLeaderForPartitionError(), "NotLeaderForPartition"),
        (
            errors.SaslAuthenticationFailed("Invalid username or password"),
            "SaslAuthenticationFailed: Invalid username or password",
        ),
        (errors.SaslAuthenticationFailed(None), "SaslAuthenticationFailed"),
        (errors.TopicAuthorizationFailedError({"ticks"}), "TopicAuthorizationFailed"),
        (errors.UnsupportedSaslMechanismError("no\nSCRAM\r\n here"), "UnsupportedSaslMechanism: no SCRAM here"),
        (RuntimeError("boom"), "boom"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_reason_is_a_few_words_in_one_line(error: BaseException, said: str) -> None:
    assert reason(error) == said


@pytest.mark.parametrize("error", [ValueError("b'hunter2'"), KeyError("hunter2"), AssertionError("hunter2")])
def test_an_answer_that_makes_no_sense_is_told_by_its_kind_alone(error: Exception) -> None:
    assert reason(error) == f"its answer cannot be read ({type(error).__name__})"
