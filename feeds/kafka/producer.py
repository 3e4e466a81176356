"""Ticks into a topic, keyed by symbol: each of them once, in order, and acknowledged by all replicas.

    ticks -> values -> batches of each partition -> at most two of a partition on their way -> acknowledged

The partition is the one that Java's and most other clients give the key, so that who else writes the symbol writes it
there too. A batch that fails is sent again under the same number, which the broker knows (KIP-98): nothing of it comes
twice, and nothing overtakes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition, errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.transaction import InitProducerIdRequest_v0
from aiokafka.protocol.types import CompactString, Int16, Int32, Int64, Schema, TaggedFields

from feeds.encode import ENCODERS, values
from feeds.feed import FeedError
from feeds.kafka.address import Address
from feeds.kafka.cluster import Lookout, Missing, Unavailable, reason
from feeds.kafka.setup import Security
from feeds.ticks import Ints, Symbols, Ticks

#: What a batch holds before it is compressed; brokers take a little over 1 MB of one by default.
BATCH_BYTES_MAX: Final = 1 << 18
#: Ticks encoded in one turn of the loop: some milliseconds of work.
TURN_TICKS_MAX: Final = 2000
#: How long one request may take before it is made again.
REQUEST_MS_MAX: Final = 10_000
#: How often what is on its way is looked at.
LOOK_S: Final = 0.1
#: How long a new topic may take to be known, and a partition to tell its end.
TOPIC_S_MAX: Final = 10.0
POLL_S: Final = 0.02
STOP_S_MAX: Final = 1.0
CLIENT_ID: Final = "ticker"
#: The cluster's own number of replicas (KIP-464).
DEFAULT_REPLICAS: Final = -1


class ProducerError(Exception):
    """Ticks cannot be produced. The text is one line that names the cluster or topic and the cause."""


class Target:
    """The topic that is written to: is it there, where does it end."""

    def __init__(self, address: Address, security: Security) -> None:
        """Raises FeedError for a format that cannot be written, or a file needed to connect that cannot be read."""
        if address.format not in ENCODERS:
            raise FeedError(f"format {address.format!r}: expected one of {', '.join(ENCODERS)} to write")
        security.options()
        [self.topic] = address.topics
        self.address = address
        self._security = security
        self._lookout = Lookout(address.servers, address.topics, security)

    def options(self) -> dict[str, Any]:
        """Keyword arguments of any of aiokafka's clients. Raises FeedError."""
        servers, options = list(self.address.servers), self._security.options()
        return {"bootstrap_servers": servers, "client_id": CLIENT_ID, "request_timeout_ms": REQUEST_MS_MAX, **options}

    async def partitions(self) -> int:
        """How many partitions the topic has. Raises Missing where it is not there, Unavailable where nobody can tell."""
        try:
            cluster = await self._lookout.look()
        finally:
            await self._lookout.close()
        return cluster.topics[0].partitions

    async def create(self, partitions: int, replicas: int = DEFAULT_REPLICAS) -> None:
        """Have the topic there; one that is there already stays as it is. Raises ProducerError, Unavailable."""
        admin = AIOKafkaAdminClient(**self.options())
        try:
            await admin.start()
            assignments: dict[int, list[int]] | None = (
                {} if replicas == DEFAULT_REPLICAS else None
            )  # the library's demand
            reply = await admin.create_topics([NewTopic(self.topic, partitions, replicas, assignments)])
        except (TimeoutError, errors.KafkaError, OSError) as error:
            raise ProducerError(f"topic {self.topic}: cannot be created: {reason(error)}") from None
        finally:
            await admin.close()
        for _, code, *said in reply.topic_errors:
            kind = errors.for_code(code)
            if kind not in {errors.NoError, errors.TopicAlreadyExistsError}:
                cause = (said[0] if said else None) or kind.__name__.removesuffix("Error")
                raise ProducerError(f"topic {self.topic}: cannot be created: {cause}")
        for _ in range(int(TOPIC_S_MAX / POLL_S)):
            with suppress(Missing):
                await self.partitions()
                return
            await asyncio.sleep(POLL_S)
        raise ProducerError(f"topic {self.topic}: was created, and is not there after {TOPIC_S_MAX:g} s")

    async def ends(self, partitions: int) -> Ints:
        """The offset that each partition's next record will have: int64[partitions]. Raises ProducerError.

        They are what a consumer is told that reads there: of what only some replicas have, nothing counts.
        """
        parts = [TopicPartition(self.topic, number) for number in range(partitions)]
        options: dict[str, Any] = {"auto_offset_reset": "none", "enable_auto_commit": False, "fetch_max_wait_ms": 10}
        consumer = AIOKafkaConsumer(**self.options(), **options)
        try:
            async with asyncio.timeout(TOPIC_S_MAX):
                await consumer.start()
                consumer.assign(parts)
                for part, offset in (await consumer.end_offsets(parts)).items():
                    consumer.seek(part, offset)
                while None in (found := [consumer.highwater(part) for part in parts]):
                    await consumer.getmany(timeout_ms=int(POLL_S * 1000))
        except (TimeoutError, errors.KafkaError, OSError) as error:
            raise ProducerError(f"topic {self.topic}: cannot tell its end: {_cause(error, TOPIC_S_MAX)}") from None
        finally:
            with suppress(TimeoutError, errors.KafkaError, OSError):
                await asyncio.wait_for(consumer.stop(), STOP_S_MAX)
        return np.array(found, np.int64)

    async def why_silent(self) -> str:
        """What stands in the way of a topic that acknowledges nothing."""
        try:
            await self.partitions()
        except (Unavailable, FeedError) as cause:
            return str(cause)
        return f"topic {self.topic}: the cluster answers, and takes nothing"


class Producer:
    """Writes ticks of `symbols` to a target that has `partitions`, as a context. For one task at a time.

    `compression` is none, gzip, snappy, lz4 or zstd. Every method raises ProducerError as soon as a record is refused for
    good, or has not been acknowledged for `patience_s`; what was sent and not acknowledged may be in the topic or not
    then. A record's own time is when it was sent.
    """

    def __init__(
        self, target: Target, partitions: int, symbols: Symbols, *, compression: str, patience_s: float
    ) -> None:
        self.acknowledged = 0
        self._target = target
        self._partitions = partitions
        self._symbols = symbols
        self._encode = ENCODERS[target.address.format]
        self._compression = None if compression == "none" else compression
        self._patience_s = patience_s
        #: Of each row: its key and its partition.
        self._homes: list[tuple[bytes, int]] = []
        #: A batch of each partition that is not on its way yet.
        self._open: dict[int, BatchBuilder] = {}
        #: What is on its way, oldest first, and since when.
        self._sent: dict[asyncio.Future[Any], float] = {}
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._producer = _NumberedProducer(
            **self._target.options(),
            acks="all",
            enable_idempotence=True,
            compression_type=self._compression,
            max_batch_size=BATCH_BYTES_MAX,
        )
        try:
            async with asyncio.timeout(self._patience_s):
                await self._producer.start()
        except (TimeoutError, errors.KafkaError, OSError) as error:
            await self._stop()
            raise ProducerError(
                f"topic {self._target.topic}: cannot begin: {_cause(error, self._patience_s)}"
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._stop()

    async def send(self, ticks: Ticks) -> None:
        """Take ticks, after all those before. Returns when what is on its way is bounded."""
        await self.check()
        for name in self._symbols.names[len(self._homes) :]:
            key = name.encode()
            self._homes.append((key, (murmur2(key) & 0x7FFFFFFF) % self._partitions))
        for start in range(0, len(ticks), TURN_TICKS_MAX):
            await self._append(ticks[start : start + TURN_TICKS_MAX])
            await asyncio.sleep(0)
        for number in list(self._open):
            await self._submit(number)

    async def flush(self) -> None:
        """Wait until all is acknowledged."""
        await self.check()
        while self._sent:
            await asyncio.wait(self._sent, timeout=LOOK_S)
            await self.check()

    async def _append(self, ticks: Ticks) -> None:
        now_ms = time.time_ns() // 1_000_000
        homes, batches = self._homes, self._open
        for row, value in zip(ticks.row.tolist(), values(ticks, self._symbols.names, self._encode), strict=True):
            key, number = homes[row]
            batch = batches.get(number) or self._begin(number)
            if batch.append(timestamp=now_ms, key=key, value=value) is None:  # it is full
                await self._submit(number)
                self._begin(number).append(timestamp=now_ms, key=key, value=value)

    def _begin(self, number: int) -> BatchBuilder:
        batch = self._open[number] = self._producer.create_batch()
        return batch

    async def _submit(self, number: int) -> None:
        """Send what there is of a partition, once no more than one batch of it is on its way."""
        batch = self._open.pop(number)
        batch.close()  # one that grew after it had its number would break the count
        future = None
        while future is None:
            try:
                future = await self._patiently(self._producer.send_batch(batch, self._target.topic, partition=number))
            except errors.KafkaTimeoutError:
                pass  # there is no room yet
            except errors.KafkaError as error:
                raise ProducerError(f"topic {self._target.topic}: {reason(error)}") from None
        self._sent[future] = time.monotonic()
        future.add_done_callback(partial(self._settle, batch.record_count()))

    async def _patiently(self, work: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.create_task(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=LOOK_S)
                await self.check()
        finally:
            task.cancel()
        return task.result()

    def _settle(self, count: int, future: asyncio.Future[Any]) -> None:
        del self._sent[future]
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self.acknowledged += count
        elif self._failure is None:
            self._failure = error

    async def check(self) -> None:
        """Raise what has failed, if anything has."""
        if self._failure is not None:
            raise ProducerError(f"topic {self._target.topic}: {reason(self._failure)}")
        oldest = next(iter(self._sent.values()), None)
        if oldest is not None and time.monotonic() - oldest > self._patience_s:
            cause = await self._target.why_silent()
            raise ProducerError(f"nothing was acknowledged for {self._patience_s:g} s: {cause}")

    async def _stop(self) -> None:
        """Close the connections. What is on its way yet stays behind."""
        with suppress(TimeoutError, errors.KafkaError, OSError):
            await asyncio.wait_for(self._producer.stop(), STOP_S_MAX)
        with suppress(TimeoutError, errors.KafkaError, OSError):
            await asyncio.wait_for(self._producer.client.close(), STOP_S_MAX)


def _cause(error: BaseException, waited_s: float) -> str:
    return f"no answer within {waited_s:g} s" if isinstance(error, TimeoutError) else reason(error)


# -- a producer's number -----------------------------------------------------------------------------------------------

_NO_NUMBER: Final = -1
#: Of transactions, which there are none of; the library's own value.
_TIMEOUT_MS: Final = 2**31 - 1


class _NumberReply(Response):  # type: ignore[misc] # the library's requests and responses are without types
    API_KEY = 22
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )


class _NumberRequest_v3(RequestStruct):  # type: ignore[misc] # noqa: N801 - as the library names its own
    FLEXIBLE_VERSION = True
    API_KEY = 22
    API_VERSION = 3
    RESPONSE_TYPE = _NumberReply
    SCHEMA = Schema(
        ("transactional_id", CompactString("utf-8")),
        ("transaction_timeout_ms", Int32),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )


class _NumberRequest(Request[InitProducerIdRequest_v0 | _NumberRequest_v3]):  # type: ignore[misc]
    """Asks for a producer's number in the newer way (KIP-360) where the broker knows it: some know no other."""

    API_KEY = 22

    def build(self, request_struct_class: type[Any]) -> Any:
        if request_struct_class is _NumberRequest_v3:
            return _NumberRequest_v3(None, _TIMEOUT_MS, _NO_NUMBER, _NO_NUMBER, {})
        return request_struct_class(None, _TIMEOUT_MS)


class _NumberedProducer(AIOKafkaProducer):  # type: ignore[misc]
    """A producer that asks for its number by `_NumberRequest`, and sends to partitions by their number alone."""

    async def start(self) -> None:
        await self.client.bootstrap()
        while (reply := await self.client.send(self.client.get_random_node(), _NumberRequest())).error_code:
            error = errors.for_code(reply.error_code)
            if not error.retriable:
                raise error
            await asyncio.sleep(POLL_S)  # a broker that has just started does not know its producers yet
        self._txn_manager.set_pid_and_epoch(reply.producer_id, reply.producer_epoch)
        await self._sender.start()

    def _partition(self, topic: str, partition: int, *_: object) -> int:
        if partition not in (self._metadata.partitions_for_topic(topic) or ()):
            raise errors.UnknownTopicOrPartitionError("it was there, and is not any more")
        return partition
