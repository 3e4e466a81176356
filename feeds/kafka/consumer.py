"""The library's consumer as this feed needs it: in no group, asked for a bounded amount, stopped whatever state it is in."""

from __future__ import annotations

import asyncio
import gzip
import logging
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition, errors
from cramjam import DecompressionError

from feeds.kafka.merging import Block
from feeds.kafka.setup import Security
from feeds.ticks import NO_TIME

log: Final = logging.getLogger(__name__)

CLIENT_ID: Final = "ticker"
#: What asking for records raises where a batch of them cannot be unpacked.
BROKEN: Final = (errors.CorruptRecordException, zlib.error, EOFError, gzip.BadGzipFile, DecompressionError)
#: What a broker may send at once, of all its partitions and of each: with these, memory is bounded whatever the lag.
FETCH_BYTES_MAX: Final = 8 << 20
PARTITION_BYTES_MAX: Final = 1 << 20
#: How long a broker waits for records before it answers that there are none. Meanwhile it is not asked for any others:
#: where one partition has much to catch up with and another nothing, the one waits for the other.
FETCH_WAIT_MS: Final = 50
REQUEST_MS_MAX: Final = 5000
#: A log time past this is none: of another unit than milliseconds, maybe, and no longer a number of microseconds.
TIME_MS_MAX: Final = 2**53 // 1000
STOP_S_MAX: Final = 2.0
#: What a consumer takes to let its requests go, well counted.
LET_GO_S: Final = 0.02


def make(servers: Sequence[str], security: Security) -> AIOKafkaConsumer:
    """A consumer that is not started. It commits nothing, and raises where an offset is out of range.

    Raises FeedError where a file that is needed to connect cannot be read.
    """
    return AIOKafkaConsumer(
        bootstrap_servers=list(servers),
        client_id=CLIENT_ID,
        auto_offset_reset="none",
        enable_auto_commit=False,
        isolation_level="read_committed",
        fetch_max_wait_ms=FETCH_WAIT_MS,
        fetch_max_bytes=FETCH_BYTES_MAX,
        max_partition_fetch_bytes=PARTITION_BYTES_MAX,
        request_timeout_ms=REQUEST_MS_MAX,
        **security.options(),
    )


async def stop(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer, whatever state it is in, within a time.

    Its own stop passes on the cancellation of a request that waits to be tried again, as if the caller had been
    cancelled, and leaves the connections open; without an assignment it has no such request.
    """
    consumer.unsubscribe()
    await asyncio.sleep(LET_GO_S)
    stopping = asyncio.create_task(consumer.stop())
    await asyncio.wait((stopping,), timeout=STOP_S_MAX)
    if not stopping.done():
        stopping.cancel()
    elif not stopping.cancelled() and (error := stopping.exception()) is not None:
        log.debug("a consumer was not stopped in order: %s", error)


def end_of(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int | None:
    """The end of what can be read of a partition, as a broker told it last; None before it has."""
    end: int | None = consumer.last_stable_offset(partition)
    if end is None or end < 0:
        end = consumer.highwater(partition)
    return end


def block_of(records: Sequence[ConsumerRecord], part: int) -> Block:
    """Records of one partition, at least one, as a block of `part`."""
    first, count = records[0].offset, len(records)
    if records[-1].offset - first == count - 1:
        offset = np.arange(first, first + count)
    else:  # some are gone: compacted, or never were records
        offset = np.array([record.offset for record in records], np.int64)
    time_ms = np.array([-1 if record.timestamp is None else record.timestamp for record in records], np.int64)
    return Block(
        [record.value for record in records],
        [record.key for record in records],
        np.full(count, part),
        offset,
        np.where((time_ms < 0) | (time_ms > TIME_MS_MAX), NO_TIME, time_ms * 1000),
    )
