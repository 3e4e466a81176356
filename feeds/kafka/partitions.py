"""Where reading of each partition begins, how far it is, and where a key is at home."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, assert_never

from aiokafka.partitioner import murmur2

from feeds.kafka.address import Back, Start
from feeds.kafka.setup import DAY_US, Setup
from feeds.ticks import NO_TIME

#: Offsets as the cluster is asked for them.
FIRST: Final = "first"
END: Final = "end"
Begin = int | str


@dataclass(slots=True)
class Partition:
    """One partition of a topic: which part of the log it is, and how far it has been read."""

    topic: str
    number: int
    #: Its number among the parts that own symbols.
    part: int
    #: Whether it came to a topic that was read already: all of it is new then.
    added: bool
    #: The offset that reading began with, and the one to read next; None before they are known.
    begin: int | None = None
    position: int | None = None
    #: What was its end when reading began: with it all is here that was there before.
    target: int = 0
    #: Whether a broker has answered a request for its records yet.
    polled: bool = False
    #: When it was last heard of, in seconds of any steady clock.
    heard: float = 0.0

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"

    @property
    def warm(self) -> bool:
        return self.position is not None and self.position >= self.target


def begins(start: Start | Back | int, compacted: bool, now: int, setup: Setup) -> Begin:
    """Where reading of a topic begins: `FIRST`, `END`, or with the first record of a time or later (µs)."""
    match start:
        case Start.EARLIEST:
            return FIRST
        case Start.LATEST:
            return END
        case Start.SESSION if compacted:
            return FIRST
        case Start.SESSION:
            return max(now - (now - setup.session_start_us) % DAY_US, now - setup.warm_up_us)
        case Back(us):
            return max(0, now - us)
        case int():
            return start
        case _:
            assert_never(start)


def since(begin: Begin, compacted: bool, now: int, first: int, position: int, time: int | None) -> int:
    """From when on a partition is read without a hole, in µs; NO_TIME where nothing of it was ever left out.

    `first` is the oldest offset that there is, and `position` the one that reading begins with, whose record has `time`
    (None where there is no record yet).
    """
    if compacted or begin == END:
        return now
    if position == 0:
        return NO_TIME
    if isinstance(begin, int) and position > first:
        return begin
    return now if time is None else time  # older ones may have been there


def home(key: bytes, counts: Iterable[int], number: int) -> int | None:
    """The first of some counts of partitions with which a record with `key` belongs to partition `number`; None for none.

    That is by the hash of either common partitioner: Java's clients and most others use murmur2, those built on librdkafka
    CRC-32.
    """
    hashes = murmur2(key) & 0x7FFFFFFF, zlib.crc32(key)
    return next((count for count in counts for hashed in hashes if hashed % count == number), None)


def labels(partitions: Iterable[Partition]) -> str:
    """Some partitions, for a person to read."""
    names = [str(partition) for partition in partitions]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
