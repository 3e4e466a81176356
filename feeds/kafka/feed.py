"""Kafka topics as a feed: every partition, from where reading begins, for as long as the process runs.

    look at the topics -> place each partition -> read it up to its end (warm-up) -> read on, live

Whatever stands in the way, it begins anew from the top after a while, with the positions that it has. A warm-up that finds
a symbol in several partitions begins once more, and takes all partitions in the order of their records' times: keys have moved
between them then, and what came first is to be told first. Everything runs on the event loop, in turns of a few
milliseconds: a thread that decodes would make the loop wait for the interpreter.

A late feed keeps a clock behind, and holds back what has been fetched until that clock is there. It warms up to where the clock
was when reading began, and takes all partitions in the order of their records' times for good: what it reads lies back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition, errors

from feeds.clock import Clock
from feeds.feed import ON_TIME, Anew, FeedError, FeedStats, Held, Lateness
from feeds.kafka.address import Address, Start, parse
from feeds.kafka.cluster import Cluster, Lookout, Unavailable, reason
from feeds.kafka.consumer import BROKEN, block_of, end_of, make, stop
from feeds.kafka.holding import Holding, Seen
from feeds.kafka.merging import Block, Merge, concat
from feeds.kafka.outage import Outage
from feeds.kafka.partitions import END, FIRST, Partition, begins, labels, since
from feeds.kafka.records import Reading
from feeds.kafka.setup import Setup
from feeds.options import Spec
from feeds.ticks import NO_TIME, Ints, Symbols, Ticks

log: Final = logging.getLogger(__name__)

#: Records, and bytes of their values, decoded in one turn of the loop: some milliseconds of work.
RECORDS_MAX: Final = 2000
LOT_BYTES_MAX: Final = 3 << 17
#: Records held for others to be told before them, past which more of those others alone is taken.
HELD_MAX: Final = 50_000
#: A partition that has not been heard of for so long cannot be read.
SILENT_S: Final = 3.0
#: How often the topics are looked at, for partitions that were added and topics that were made anew.
LOOK_S: Final = 2.0
CHECK_S: Final = 0.25
POLL_MS: Final = 200
#: How long one record is waited for, and how many offsets are tried, where a batch cannot be unpacked.
ONE_MS: Final = 100
SKIPPED_AT_ONCE: Final = 500
#: After a batch that was not full there is a rest, in which more can come: a few times what the batch took.
REST_S_MIN, REST_S_MAX, RESTS = 0.001, 0.01, 3.0

#: The epoch before any log has been seen.
UNKNOWN: Final = "unknown"


def open_kafka(spec: Spec, symbols: Symbols, name: str, clock: Clock, lateness: Lateness, setup: Setup) -> Kafka:
    """The feed of ``kafka://host:port[,host:port]/topic[,topic]?start=&format=&map=``, by a clock that is as late.

    Raises FeedError.
    """
    address = parse(spec)
    setup.security.options()  # what is wrong with a file is said at once
    return Kafka(address, setup, symbols, name=name, clock=clock, lateness=lateness)


class Kafka:
    """A feed of Kafka topics. `seq` is the record's offset; each partition is a part of the log."""

    closed = False

    def __init__(
        self,
        address: Address,
        setup: Setup,
        symbols: Symbols,
        *,
        name: str,
        clock: Clock,
        lateness: Lateness = ON_TIME,
    ) -> None:
        """`clock` is as late as `lateness` says."""
        self.name = name
        self.epoch = UNKNOWN + lateness.suffix
        self.stats = FeedStats()
        self.warm = False
        self._address = address
        self._setup = setup
        self._symbols = symbols
        self._clock = clock
        self._lateness = lateness
        self._reading = Reading(name, symbols, self.stats, format=address.format, renamed=address.renamed)
        self._lookout = Lookout(address.servers, address.topics, setup.security)
        self._outage = Outage(name)
        #: The cluster as it was when reading began last; None before.
        self._cluster: Cluster | None = None
        self._partitions: dict[TopicPartition, Partition] = {}
        #: Topics of which something has been read.
        self._read_topics: set[str] = set()
        #: Topics that were found to end before where reading was.
        self._cut_topics: set[str] = set()
        #: Whether all has been read that was there when reading began, or when partitions were added.
        self._caught_up = False
        #: Whether catching up takes all partitions in the order of their records' times.
        self._in_order = False
        #: From when on the log has been read without a hole.
        self._since = NO_TIME
        #: Of a late feed, since when the records of each part are known to have been there.
        self._seen: dict[int, Seen] = {}
        #: What somebody has of the log already.
        self._held: Held = {}

    @property
    def trouble(self) -> str | None:
        return self._outage.cause

    def go_on(self, held: Held) -> None:
        """See `Resumable`. Partitions of which nothing is held begin as the address says.

        Nothing is read twice then: what was kept cannot be taken back.
        """
        self._held = held
        self._in_order = True

    async def __aiter__(self) -> AsyncGenerator[Ticks | Anew]:
        try:
            while True:
                try:
                    async with aclosing(self._read()) as items:
                        async for item in items:
                            yield item
                    continue  # the topics are others now
                except (Unavailable, FeedError) as cause:  # a mounted file that is missing may come back as well
                    self._outage.goes_on(str(cause))
                except (TimeoutError, errors.KafkaError, OSError) as cause:
                    self._outage.goes_on(reason(cause))
                await asyncio.sleep(self._outage.pause_s())
        finally:
            await self._lookout.close()

    async def _read(self) -> AsyncGenerator[Ticks | Anew]:
        """Read until the topics are others than they were. Raises what stands in the way."""
        cluster = await self._lookout.look()
        if cluster != self._cluster or self._cut_topics:
            yield self._adopt(cluster)
        consumer = make(self._address.servers, self._setup.security)
        try:
            await consumer.start()
            consumer.assign(list(self._partitions))
            await self._place(consumer)
            for tp, partition in self._partitions.items():
                consumer.seek(tp, partition.position)
                partition.heard = time.monotonic()
            async with aclosing(self._consume(consumer)) as items:
                async for item in items:
                    yield item
        finally:
            await stop(consumer)

    # -- the topics ----------------------------------------------------------------------------------------------------

    def _adopt(self, cluster: Cluster) -> Anew:
        """Take the topics as they are now, and forget what was read of those that were made anew."""
        before = {} if self._cluster is None else {topic.name: topic for topic in self._cluster.topics}
        elsewhere = self._cluster is not None and self._cluster.id != cluster.id
        anew = set(self._cut_topics)
        for topic in cluster.topics:
            old = before.get(topic.name)
            if old is None:
                continue
            if elsewhere or (old.id and old.id != topic.id) or old.partitions > topic.partitions:
                anew.add(topic.name)
            elif old.partitions < topic.partitions:
                log.info("feed %s: topic %s has %d partitions now", self.name, topic.name, topic.partitions)
        for name in sorted(anew & self._read_topics):
            log.warning("feed %s: topic %s was made anew: reading it from its beginning", self.name, name)
        rows = self._forget(anew)
        for topic in cluster.topics:
            for number in range(topic.partitions):
                part = self._symbols.part(self.name, f"{topic.name}/{number}")
                added = topic.name in self._read_topics
                self._partitions.setdefault(
                    TopicPartition(topic.name, number), Partition(topic.name, number, part, added)
                )
        self._cut_topics.clear()
        self._cluster, self.epoch = cluster, cluster.epoch + self._lateness.suffix
        by_part = {partition.part: partition for partition in self._partitions.values()}
        self._reading.know(by_part, {topic.name: topic.partitions for topic in cluster.topics})
        return Anew(rows)

    def _forget(self, topics: Collection[str]) -> Ints:
        """Give up what was read of `topics`; the rows that were theirs."""
        gone = [tp for tp in self._partitions if tp.topic in topics]
        parts = [self._partitions.pop(tp).part for tp in gone]
        for part in parts:
            self._seen.pop(part, None)
        rows = self._symbols.owned_by(parts)
        self._reading.forget(rows)
        return rows

    async def _place(self, consumer: AIOKafkaConsumer) -> None:
        """Find out where to begin with the partitions that have not been read so far."""
        unread = {tp: p for tp, p in self._partitions.items() if p.position is None}
        if not unread:
            return
        first, end = await consumer.beginning_offsets(list(unread)), await consumer.end_offsets(list(self._partitions))
        if any(partition.added for partition in unread.values()):  # keys have moved: what they left behind comes first
            self._caught_up, self._in_order = False, True
            for tp, partition in self._partitions.items():
                partition.target, partition.polled = end[tp], False
        now = self._clock.now()
        start = self._address.start
        compacted = await self._lookout.compacted() if start is Start.SESSION else frozenset[str]()
        begin = {
            tp: FIRST if partition.added else begins(start, tp.topic in compacted, now, self._setup)
            for tp, partition in unread.items()
        }
        if self._lateness.delay_us:  # what came last is not yet to be told
            begin = {tp: now if at == END else at for tp, at in begin.items()}
        # The time of the first record that is read tells since when, where older ones are gone.
        asked = {tp: at // 1000 if isinstance(at, int) else 0 for tp, at in begin.items() if at != END}
        found = await consumer.offsets_for_times(asked) if asked else {}
        held = self._held.get(self.epoch, {})
        for tp, partition in unread.items():
            record = found.get(tp)
            if record is not None and record.timestamp < 0:  # some brokers' way to say that there is none so late
                record = None
            after = end[tp] if record is None else record.offset
            position = end[tp] if begin[tp] == END else first[tp] if begin[tp] == FIRST else after
            if str(partition) in held:
                position = self._after(partition, held[str(partition)], first[tp])
            time_us = None if record is None or record.offset != position else record.timestamp * 1000
            if not partition.added:
                partition.target = end[tp]
                whole = since(begin[tp], tp.topic in compacted, now, first[tp], position, time_us)
                self._since = max(self._since, whole)
            partition.begin = partition.position = position
        self._read_topics.update(tp.topic for tp in unread)
        left = sum(max(0, partition.target - (partition.position or 0)) for partition in unread.values())
        late_s = self._lateness.delay_us / 1e6
        said = f"{left} records to catch up with" if not late_s else f"up to what came {late_s:g} s ago"
        log.info("feed %s: reading %d partitions, %s", self.name, len(unread), said)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _consume(self, consumer: AIOKafkaConsumer) -> AsyncGenerator[Ticks | Anew]:
        """Read on until the topics are others than they were."""
        began = self._clock.now()
        holding = self._hold()
        in_order = holding is not None or (self._in_order and not self._caught_up)
        merge = Merge(partition.part for partition in self._partitions.values()) if in_order else None
        if merge is not None and self._caught_up:  # nobody is waited for, yet what is there together is in order
            merge.end_all()
        view = _View(self._cluster)
        watching = asyncio.create_task(self._watch(consumer, view))
        checked = time.monotonic()
        try:
            while view.cluster == self._cluster and not self._cut_topics:
                if not self._caught_up:
                    merge = self._catch_up(merge, holding)
                self._reading.warming, self._reading.in_order = not self._caught_up, merge is not None
                blocks = await self._poll(consumer, merge, holding)
                if holding is not None:
                    fetched = self._clock.now() + self._lateness.delay_us
                    for part, block in blocks.items():
                        holding.add(part, block, fetched)
                    blocks = holding.take(self._clock.now() if self._caught_up else began)
                lots = _lots(blocks, merge)
                started, count = time.perf_counter(), 0
                for place, block in enumerate(lots):
                    ticks = self._reading.ticks(block, self._since, self._clock.now())
                    if ticks is None:  # a key is in two partitions
                        if not self._caught_up:
                            yield self._begin_in_order()
                            return
                        if await self._has_changed(lots[place:]):
                            return
                        ticks = self._reading.ticks(block, self._since, self._clock.now(), sure=True)
                    count += len(block)
                    if ticks:
                        given = time.monotonic()
                        yield ticks
                        self._excuse(time.monotonic() - given)
                    else:
                        await asyncio.sleep(0)
                if not count:  # a poll that finds records in memory gives nobody else a turn
                    await asyncio.sleep(0)
                if self._caught_up and 0 < count < RECORDS_MAX:
                    spent_s = time.perf_counter() - started
                    await asyncio.sleep(min(REST_S_MAX, max(REST_S_MIN, RESTS * spent_s)))
                if not self._caught_up or time.monotonic() - checked >= CHECK_S:
                    checked = time.monotonic()
                    await self._check(consumer, view, merge, holding)
                    if watching.done():
                        watching.result()
        finally:
            holds = {**(holding.holds if holding else {}), **(merge.holds if merge else {})}  # a merge's come first
            for partition in self._partitions.values():  # what was not given out is read again
                partition.position = holds.get(partition.part, partition.position)
            watching.cancel()
            await asyncio.wait((watching,))

    def _hold(self) -> Holding | None:
        """What holds back records of a late feed."""
        delay_us = self._lateness.delay_us
        if not delay_us:
            return None
        for partition in self._partitions.values():
            self._seen.setdefault(partition.part, Seen(delay_us))
        return Holding(self._seen)

    def _excuse(self, held_up_s: float) -> None:
        """Whoever takes the ticks held reading up: no partition was asked meanwhile."""
        for partition in self._partitions.values():
            partition.heard += held_up_s

    def _begin_in_order(self) -> Anew:
        """Warm up from the beginning once more, with the records of all partitions in the order of their times.

        It costs a fourth more, and is needed where keys have moved between partitions.
        """
        log.info("feed %s: a symbol is in several partitions: reading all of them in the order of time", self.name)
        self._in_order = True
        rows = self._symbols.owned_by([partition.part for partition in self._partitions.values()])
        self._reading.forget(rows)
        for partition in self._partitions.values():
            partition.position = partition.begin
        self.stats.ticks = self.stats.rejected = self.stats.refused = 0
        return Anew(rows)

    async def _has_changed(self, left: Sequence[Block]) -> bool:
        """Whether the topics are others by now. Then, or where that cannot be told, what is `left` is read again."""
        by_part = {partition.part: partition for partition in self._partitions.values()}
        after = {part: partition.position for part, partition in by_part.items()}
        for block in reversed(left):
            for part, place in zip(*np.unique(block.part, return_index=True), strict=True):
                by_part[int(part)].position = int(block.offset[place])
        if await self._lookout.look() != self._cluster:
            return True
        for part, position in after.items():
            by_part[part].position = position
        return False

    async def _poll(self, consumer: AIOKafkaConsumer, merge: Merge | None, holding: Holding | None) -> dict[int, Block]:
        """What there is of each part that more is wanted of, after a while at most."""
        wanted, wait_ms = list(self._partitions), POLL_MS
        if merge is not None and len(merge) > HELD_MAX:  # some are far ahead of others
            hungry = set(merge.hungry)
            wanted = [tp for tp in wanted if self._partitions[tp].part in hungry]
        if holding is not None:
            wanted = [tp for tp in wanted if self._partitions[tp].part not in holding]
            if self._caught_up and holding.due is not None:
                wait_ms = min(POLL_MS, max(1, -(-(holding.due - self._clock.now()) // 1000)))
        if not wanted:
            await asyncio.sleep(wait_ms / 1000 if self._caught_up else 0)
            return {}
        try:
            got = await consumer.getmany(*wanted, timeout_ms=wait_ms, max_records=RECORDS_MAX)
        except errors.OffsetOutOfRangeError as error:
            await self._find_place(consumer, error.args[0])
            return {}
        except BROKEN:
            got = await self._poll_around(consumer, wanted)
        blocks, heard = {}, time.monotonic()
        for tp, records in got.items():
            partition = self._partitions[tp]
            partition.position, partition.heard = records[-1].offset + 1, heard
            blocks[partition.part] = block_of(records, partition.part)
        return blocks

    async def _poll_around(
        self, consumer: AIOKafkaConsumer, wanted: Collection[TopicPartition]
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """What there is of each partition that is wanted up to a batch that cannot be unpacked; past it, where it is the next.

        The library forgets which partition that was, and what it had unpacked before; so each is asked alone, record by
        record.
        """
        got = {}
        for tp, partition in self._partitions.items():
            records: list[ConsumerRecord] = []
            consumer.seek(tp, partition.position)
            if tp not in wanted:
                continue
            try:
                while len(records) < RECORDS_MAX and (more := await _one(consumer, tp)):
                    records += more
            except BROKEN as error:
                if not records:
                    records = await self._skip(consumer, tp, error)
            if records:
                consumer.seek(tp, records[-1].offset + 1)
                got[tp] = records
        return got

    async def _skip(self, consumer: AIOKafkaConsumer, tp: TopicPartition, error: Exception) -> list[ConsumerRecord]:
        """Skip what cannot be unpacked, offset by offset, so many at most; the record after it, if there is one by then."""
        partition = self._partitions[tp]
        start = offset = await consumer.position(tp)
        records: list[ConsumerRecord] = []
        while not records and offset < start + SKIPPED_AT_ONCE:
            offset += 1
            consumer.seek(tp, offset)
            try:
                records = await _one(consumer, tp)
                break
            except BROKEN:
                pass
        partition.position = offset
        self.stats.rejected += offset - start
        text = "feed %s: %s offsets %d to %d cannot be unpacked and are skipped: %s"
        log.warning(text, self.name, partition, start, offset - 1, error)
        return records

    async def _find_place(self, consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        """Go on at the oldest record where others are gone. A topic that ends before where reading is was made anew."""
        first = await consumer.beginning_offsets(list(partitions))
        for tp, oldest in first.items():
            partition = self._partitions[tp]
            position = partition.position or 0
            if position < oldest:
                partition.position = self._after(partition, position - 1, oldest)
                consumer.seek(tp, oldest)
            else:
                log.warning("feed %s: %s ends before offset %d", self.name, partition, position)
                self._cut_topics.add(tp.topic)

    def _after(self, partition: Partition, offset: int, oldest: int) -> int:
        """The offset to go on with after `offset`: the next, or the oldest that there still is."""
        if offset + 1 < oldest:
            text = "feed %s: %s: offsets %d to %d were gone before they could be read: going on at %d"
            log.warning(text, self.name, partition, offset + 1, oldest - 1, oldest)
            self.stats.skipped += oldest - offset - 1
        return max(offset + 1, oldest)

    def _catch_up(self, merge: Merge | None, holding: Holding | None) -> Merge | None:
        """See which partitions have been read up to their ends, or to what is not due, and wait for those no more.

        Returns what puts records in order from now on: None once all have been, where nothing is late.
        """
        warm = [
            partition.part
            for partition in self._partitions.values()
            if partition.warm or (holding is not None and partition.part in holding)
        ]
        if merge is not None:
            for part in warm:
                merge.end(part)
            if merge.open or merge.holds:
                return merge
        self._caught_up = len(warm) == len(self._partitions)
        if self._caught_up:
            self.warm, self._in_order = True, False
            broken = self.stats.rejected
            said = f", {broken} records could not be read" if broken else ""
            log.log(
                logging.WARNING if broken else logging.INFO,
                *("feed %s: caught up, %d ticks so far%s", self.name, self.stats.ticks, said),
            )
        return None if holding is None else merge

    async def _check(
        self, consumer: AIOKafkaConsumer, view: _View, merge: Merge | None, holding: Holding | None
    ) -> None:
        """See how far reading is behind, and that every partition is heard of. Raises Unavailable where none is."""
        now, wall_ms = time.monotonic(), time.time() * 1000
        lag, silent, every = 0, [], True
        for tp, partition in self._partitions.items():
            partition.position = max(partition.position or 0, await consumer.position(tp))
            end = end_of(consumer, tp)
            end_ = partition.target if end is None else end
            held = holding is not None and partition.part in holding  # then nothing that is due is left to be read
            lag += 0 if held else max(0, min(end_, view.due.get(tp, end_)) - partition.position)
            polled_ms = consumer.last_poll_timestamp(tp)
            if polled_ms is None:
                every = False
            else:
                if not partition.polled:  # what comes with the records is newer and surer than what was told apart
                    partition.polled = True
                    partition.target = max(partition.target, end or 0) if partition.target else 0
                partition.heard = max(partition.heard, now - max(0.0, wall_ms - polled_ms) / 1000)
            if held or (merge is not None and len(merge) > HELD_MAX):
                partition.heard = now  # little is asked of any for now
            if now - partition.heard > SILENT_S:
                silent.append(partition)
        self.stats.lag = lag
        self._reading.tell_rest(self._clock.now())
        if silent:
            cause = view.trouble or f"no answer from {labels(silent)} for {SILENT_S:g} s"
            if len(silent) == len(self._partitions):
                raise Unavailable(cause)
            self._outage.goes_on(cause)
        elif every:
            self._outage.is_over()

    async def _watch(self, consumer: AIOKafkaConsumer, view: _View) -> None:
        """Look at the topics from time to time, and of a late feed at how much of them is due."""
        while True:
            if self._lateness.delay_us:
                await self._look_at_ends(consumer, view)
            await asyncio.sleep(LOOK_S)
            try:
                view.cluster = await self._lookout.look()
                view.trouble = None
            except (Unavailable, FeedError) as cause:
                view.trouble = str(cause)

    async def _look_at_ends(self, consumer: AIOKafkaConsumer, view: _View) -> None:
        """Note the end of each partition, and of what is due of it. What cannot be told stays."""
        partitions, after_ms = dict(self._partitions), self._clock.now() // 1000 + 1
        try:
            ends = await consumer.end_offsets(list(partitions))
            now = self._clock.now() + self._lateness.delay_us
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, after_ms))
        except errors.KafkaError as cause:
            log.debug("feed %s: cannot tell how much is due: %s", self.name, reason(cause))
            return
        for tp, partition in partitions.items():
            self._seen[partition.part].note(ends[tp], now)
        view.due = {tp: record.offset for tp, record in found.items() if record is not None and record.timestamp >= 0}


@dataclass(slots=True)
class _View:
    """The topics as they were seen last, and why they could not be seen since."""

    cluster: Cluster | None
    trouble: str | None = None
    #: The ends of what was due when that was looked at, of partitions that have more than that.
    due: dict[TopicPartition, int] = field(default_factory=dict)


async def _one(consumer: AIOKafkaConsumer, tp: TopicPartition) -> list[ConsumerRecord]:
    """The next record of a partition, if there is one. Raises one of `BROKEN`."""
    got: dict[TopicPartition, list[ConsumerRecord]] = await consumer.getmany(tp, timeout_ms=ONE_MS, max_records=1)
    return got.get(tp, [])


def _lots(blocks: Mapping[int, Block], merge: Merge | None) -> list[Block]:
    """What is to be told now, in lots that take a turn of the loop each."""
    if merge is None:
        whole = concat(list(blocks.values())) if blocks else None
    else:
        for part, block in blocks.items():
            merge.add(part, block)
        whole = merge.take()
    if whole is None:
        return []
    sizes = np.cumsum([0 if value is None else len(value) for value in whole.values])
    full = (np.arange(len(whole)) // RECORDS_MAX) + (sizes // LOT_BYTES_MAX)
    cuts = [0, *(np.flatnonzero(np.diff(full)) + 1).tolist(), len(whole)]
    return [whole[start:stop] for start, stop in pairwise(cuts)]
