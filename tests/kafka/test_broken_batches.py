"""Batches that no reader can unpack: what is in them is lost, and nothing else is."""

from __future__ import annotations

import logging
import time

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record._crecords import default_records

from tests.brokers import MakeTopic, Tansu, topics
from tests.kafka.test_feed import quote, reading


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_a_batch_that_cannot_be_unpacked_is_skipped_offset_by_offset_and_said(
    compression: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Tansu() as broker, topics(broker) as make:  # Apache Kafka takes no such batch in
        name = await _broken(broker, make, compression, monkeypatch)
        broker.produce(name, [quote(2)])
        with caplog.at_level(logging.WARNING):
            async with reading(broker, name, "start=earliest") as reader:
                await reader.until(lambda: reader.bids == [1, 2])
                assert reader.feed.stats.rejected == 3
                assert reader.feed.trouble is None
        [said] = [line for line in caplog.messages if "cannot be unpacked" in line]
        assert said.startswith(f"feed kafka: {name}/0 offsets 1 to 3 cannot be unpacked and are skipped: ")


async def _broken(broker: Tansu, make: MakeTopic, compression: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A topic of a good record and three in a batch that is compressed into nonsense."""
    name = make()
    broker.produce(name, [quote(1)])
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, compression_type=compression, acks=1)
    await producer.start()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(
                default_records, f"{compression}_encode", lambda *_, **__: b"\x1f\x8b\x08\x00" + b"nonsense" * 4
            )
            batch = producer.create_batch()
            for _ in range(3):
                batch.append(key=b"A", value=b"x" * 1000, timestamp=time.time_ns() // 1_000_000)
            batch.close()
            await (await producer.send_batch(batch, name, partition=0))
    finally:
        await producer.stop()
    return name
