"""The topics as the cluster has them now: asked of any broker, by a connection of its own.

It is asked with version 12 of the metadata request (KIP-516, KIP-700), which tells a topic's id where the client
library's own asks less; brokers older than that answer version 5, without one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from typing import Any, Final

from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v4, MetadataRequest_v5
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from feeds.kafka.setup import Security

# The library tells of every attempt, and at its finest level of the bytes that sign in. What matters of it is told here.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

#: What the library raises where a broker cannot be asked. The second line is of answers that make no sense to it: of a
#: broker that is too old, of bytes that are no answer, of a sign-in whose steps do not fit. It is caught around the library's
#: own calls alone, never around ours.
FAILURES: Final = (
    *(TimeoutError, errors.KafkaError, OSError),
    *(ValueError, LookupError, AssertionError, NotImplementedError),
)
#: How long a broker may take to answer.
REQUEST_S_MAX: Final = 5.0
NO_ID: Final = "00" * 16
TOPIC_RESOURCE: Final = 2


class Unavailable(Exception):  # noqa: N818 - a state that passes
    """The cluster, or a topic, cannot be read now. The text is one line that names it and the cause."""


class Missing(Unavailable):
    """A topic is not there."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is now. `id` is empty where the broker does not tell it."""

    name: str
    id: str
    partitions: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster and the topics asked for, by name."""

    id: str
    topics: tuple[Topic, ...]

    @property
    def epoch(self) -> str:
        """Names the log that these topics are: the same for everybody who reads them."""
        topics = sorted(f"{topic.name} {topic.id} {topic.partitions}" for topic in self.topics)
        text = "\n".join([self.id, *topics])
        return f"k-{blake2b(text.encode(), digest_size=6).hexdigest()}"


class Lookout:
    """Asks how the topics are, of whichever broker answers."""

    def __init__(self, servers: Iterable[str], topics: Sequence[str], security: Security) -> None:
        self._topics = sorted(topics)
        self._security = security
        #: Where brokers are, as the user told, and as the cluster told last.
        self._servers: dict[tuple[str, int], None] = {}
        for server in servers:
            host, _, port = server.rpartition(":")
            self._servers[host.strip("[]"), int(port)] = None
        self._brokers: dict[tuple[str, int], None] = {}
        #: The id that each topic had when a broker last told it: older ones do not.
        self._ids: dict[str, str] = {}
        #: The partitions that each topic, by name and id, was seen to have.
        self._most: dict[tuple[str, str], int] = {}
        self._connection: AIOKafkaConnection | None = None
        self._asking = asyncio.Lock()

    async def look(self) -> Cluster:
        """The topics as they are now.

        Raises Unavailable where no broker answers or a topic may not be read, Missing where there is none; FeedError
        where a file that is needed to connect cannot be read.
        """
        response = await self._ask(_TopicsRequest(self._topics))
        if response.API_VERSION >= _FLEXIBLE:
            found = {name: (error, topic_id, parts) for error, name, topic_id, _, parts, *_ in response.topics}
        else:
            found = {name: (error, NO_ID, parts) for error, name, _, parts in response.topics}
        self._brokers = {(host, port): None for _, host, port, *_ in response.brokers}
        topics = []
        for name in self._topics:
            error, topic_id, parts = found.get(name, (errors.UnknownTopicOrPartitionError.errno, NO_ID, []))
            if error:
                kind = Missing if error == errors.UnknownTopicOrPartitionError.errno else Unavailable
                raise kind(f"topic {name}: {_SAID.get(error) or errors.for_code(error).__name__}")
            if topic_id != NO_ID:
                most = self._most.setdefault((name, topic_id), len(parts))
                if len(parts) < most:  # a topic never shrinks
                    raise Unavailable(f"topic {name}: a broker that is behind tells of {len(parts)} partitions")
                self._most[name, topic_id] = len(parts)
                self._ids[name] = topic_id
            topics.append(Topic(name, self._ids.get(name, ""), len(parts)))
        return Cluster(response.cluster_id or "", tuple(topics))

    async def compacted(self) -> frozenset[str]:
        """Those of the topics of which only the newest record of each key is kept; those that do not tell are not."""
        resources = [(TOPIC_RESOURCE, name, None) for name in self._topics]
        response = await self._ask(DescribeConfigsRequest(resources))
        return frozenset(
            name
            for error, _, _, name, entries in response.resources
            if not error and any("compact" in (value or "") for key, value, *_ in entries if key == "cleanup.policy")
        )

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def _ask(self, request: Any) -> Any:
        async with self._asking:
            return await self._ask_alone(request)

    async def _ask_alone(self, request: Any) -> Any:
        if self._connection is None or not self._connection.connected():
            self._connection = await self._connect()
        connection = self._connection
        try:
            return await connection.send(request)
        except FAILURES as error:
            await self.close()
            raise Unavailable(f"{_place(connection.host, connection.port)}: {reason(error)}") from None

    async def _connect(self) -> AIOKafkaConnection:
        options = self._security.options()
        causes = []
        servers = list(self._servers | self._brokers)
        for host, port in random.sample(servers, len(servers)):
            try:
                return await create_conn(
                    host, port, client_id="ticker", request_timeout_ms=int(REQUEST_S_MAX * 1000), **options
                )
            except FAILURES as error:
                causes.append(f"{_place(host, port)}: {reason(error)}")
        raise Unavailable("; ".join(sorted(causes)))


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reason(error: BaseException) -> str:
    """Why a broker could not be asked, in a few words without any secret."""
    match error:
        case asyncio.TimeoutError():
            return f"no answer within {REQUEST_S_MAX:g} s"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"no TLS: {(error.reason or 'handshake failed').replace('_', ' ').lower()}"
        case errors.KafkaConnectionError():
            return "the connection was closed" if error.__cause__ is None else reason(error.__cause__)
        case errors.KafkaError():
            words = (word for argument in error.args if isinstance(argument, str) for word in argument.split())
            said = " ".join(words)  # in one line, whatever a broker says
            name = type(error).__name__.removesuffix("Error")
            return f"{name}: {said}" if said else name
        case OSError() if error.errno is not None and error.errno > 0:
            return os.strerror(error.errno).lower()
        case socket.gaierror():
            return (error.strerror or "there is no such host").lower()
        case OSError() if "Connect call failed" in str(error):  # several addresses of one host
            return "connection refused"
        case EOFError() | ConnectionError():
            return "the connection was closed"
        case ValueError() | LookupError() | AssertionError() | NotImplementedError():
            # The kind alone: the library's text may hold the bytes of the answer.
            return f"its answer cannot be read ({type(error).__name__})"
        case _:
            return str(error) or type(error).__name__


_SAID: Final = {
    errors.UnknownTopicOrPartitionError.errno: "there is no such topic",
    errors.TopicAuthorizationFailedError.errno: "not allowed to read it",
    errors.LeaderNotAvailableError.errno: "it has no leader yet",
}


# -- the request -------------------------------------------------------------------------------------------------------

_FLEXIBLE: Final = 12
_NO_TOPIC_ID: Final = bytes(16)


class _Uuid:
    """Sixteen bytes, as hexadecimal digits."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> str:
        return data.read(16).hex()

    @classmethod
    def repr(cls, value: object) -> str:
        return repr(value)


class _TopicsResponse(Response):
    API_KEY = 3
    API_VERSION = _FLEXIBLE
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("topic_authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _TopicsRequest_v12(RequestStruct):  # noqa: N801 - as the library names its own
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = _FLEXIBLE
    RESPONSE_TYPE = _TopicsResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _TopicsRequest(Request[MetadataRequest_v4 | MetadataRequest_v5 | _TopicsRequest_v12]):
    """Asks about topics without making those that are not there."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[Any]) -> Any:
        if request_struct_class is _TopicsRequest_v12:
            return _TopicsRequest_v12([(_NO_TOPIC_ID, name, {}) for name in self._topics], False, False, {})
        return request_struct_class(list(self._topics), False)
