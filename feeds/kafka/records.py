"""Records of the log to ticks: values decoded, keys owned by partitions, and what cannot be read said."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from feeds.decode import UNREADABLE, Decoded, Decoder
from feeds.feed import FeedStats
from feeds.formats import open_format
from feeds.kafka.merging import Block
from feeds.kafka.partitions import Partition, home
from feeds.ticks import REFUSED, Ints, Symbols, Ticks

log: Final = logging.getLogger(__name__)

#: Records that cannot be read are logged one by one up to so many, then counted, in a line for each so many seconds.
SAMPLES_MAX: Final = 5
SAMPLES_PAUSE_US: Final = 60_000_000
KEYS_SAID_MAX: Final = 10


class Reading:
    """Makes ticks of records, for one feed.

    A symbol belongs to the partition that first brings it. It moves to another one of the same topic, and never back,
    where a record of it comes from the one that its key belongs to by either of the common partitioners: so it follows
    its key when the topic gets more partitions, and all who read the topic agree on where it is. That its owner may be
    the key's home by the other partitioner says nothing: where partitions were added that is so by chance for some keys.
    In what lies back, the topic may have had fewer partitions than it has now: while all of them are read `in_order`, the
    home of any lesser count will do.
    """

    def __init__(
        self, name: str, symbols: Symbols, stats: FeedStats, *, format: str, renamed: Mapping[str, str] | None
    ) -> None:
        """Raises FeedError for a format that there is not."""
        self._name = name
        self._symbols = symbols
        self._stats = stats
        self._decoder = Decoder(symbols, symbols.part(name), renamed=renamed, claim=self._claim)
        self._format = open_format(format, self._decoder.layout)
        self._partitions: dict[int, Partition] = {}
        #: How many partitions each topic has.
        self._count: Mapping[str, int] = {}
        #: Whether the records of all partitions come in the order of their times.
        self.in_order = False
        #: Rows and the parts that they have left since the count was another one: they do not go back there.
        self._left: set[tuple[int, int]] = set()
        #: Rows and parts other than their own that have brought them: surely, and maybe.
        self._strange: set[tuple[int, int]] = set()
        self._doubtful: set[tuple[int, int]] = set()
        #: Keys that were found to be refused, and not said so yet.
        self._unsaid_keys: tuple[str, ...] = ()
        # Of the block that is being read: its keys, the record that each of its ticks came from, and the moves: a row,
        # the tick from which on it has moved, and the part that it has left.
        self._keys: list[bytes | None] = []
        self._origin: Ints = np.empty(0, np.int64)
        self._moved: list[tuple[int, int, int]] = []
        self._samples = 0
        self._unsaid = 0
        self._said_at = 0

    def know(self, partitions: Mapping[int, Partition], count: Mapping[str, int]) -> None:
        """Take records of `partitions`, by part number, from now on; topics have `count` of them."""
        self._partitions = dict(partitions)
        self._count = count
        self.begin_anew()

    def begin_anew(self) -> None:
        """Records will come that came before."""
        self._left.clear()
        self._strange.clear()
        self._doubtful.clear()

    def ticks(self, block: Block, since: int, now: int, *, sure: bool = False) -> Ticks | None:
        """The ticks of a block, none of them split off its record, and none at all for a tombstone.

        None where a symbol comes from another partition than its own for the first time: its key may have moved since
        the topic has more partitions than is known. The caller finds out, and asks again when it is `sure`.
        """
        values = [value for value in block.values if value is not None]
        if len(values) < len(block):
            block = block.take(np.array([i for i, value in enumerate(block.values) if value is not None], np.int64))
        records, origin = self._format.records(values)
        self._keys, self._origin = block.keys, origin
        self._moved.clear()
        part = block.part[origin]
        decoded = self._decoder.decode(records, parts=part, logged=block.time[origin])
        row = decoded.ticks.row
        self._unsaid_keys += decoded.refused
        if self._doubtful and not (sure or self.in_order):
            self._undo()
            return None
        self._strange |= self._doubtful
        self._doubtful.clear()
        if self._moved:
            row = self._without_stragglers(row, part)
        self._tell(decoded, block, origin, now)
        kept = np.flatnonzero(row >= 0)
        self._stats.refused += int(np.count_nonzero(row == REFUSED))
        self._stats.ticks += len(kept)
        ticks = decoded.ticks if len(kept) == len(row) else decoded.ticks[kept]
        return replace(ticks, seq=block.offset[origin[kept]], since=since)

    # -- who owns what -------------------------------------------------------------------------------------------------

    def _claim(self, key: str, part: int, place: int) -> int:
        symbols = self._symbols
        claimed, row = symbols.claim(key, part), symbols.find(key)
        if claimed != REFUSED or row is None:
            return claimed
        here, owner = self._partitions[part], self._partitions.get(symbols.owner[row])
        if owner is None or owner.topic != here.topic or (row, part) in self._left or (row, part) in self._strange:
            return REFUSED
        record_key, count = self._keys[self._origin[place]], self._count[here.topic]
        counts = range(1, count + 1) if self.in_order else (count,)
        if record_key is None:
            return REFUSED
        if not home(record_key, counts, here.number):
            self._doubtful.add((row, part))
            return REFUSED
        self._left.add((row, owner.part))
        symbols.move(row, part)
        self._moved.append((row, place, owner.part))
        return row

    def _undo(self) -> None:
        """Let the rows that have moved in this block be where they were before it."""
        for row, _, left in reversed(self._moved):
            self._symbols.move(row, left)
            self._left.discard((row, left))
        self._doubtful.clear()

    def _without_stragglers(self, row: Ints, part: Ints) -> Ints:
        """Refuse what still comes of a row from the part that it has just left."""
        row = row.copy()
        for moved, place, left in self._moved:
            row[place:][(row[place:] == moved) & (part[place:] == left)] = REFUSED
        return row

    # -- what is told of it --------------------------------------------------------------------------------------------

    def _tell(self, decoded: Decoded, block: Block, origin: Ints, now: int) -> None:
        broken = np.flatnonzero(decoded.ticks.row == UNREADABLE).tolist()
        self._stats.rejected += len(broken)
        if broken and not self._samples:
            self._said_at = now
        for row in broken[: max(0, SAMPLES_MAX - self._samples)]:
            place = int(origin[row])
            where = self._partitions[int(block.part[place])]
            log.warning("feed %s: %s offset %d: %s", self._name, where, block.offset[place], decoded.reason(row))
        self._unsaid += max(0, len(broken) - max(0, SAMPLES_MAX - self._samples))
        self._samples = min(SAMPLES_MAX, self._samples + len(broken))
        if self._unsaid and now - self._said_at >= SAMPLES_PAUSE_US:
            place = int(origin[broken[-1]]) if broken else -1
            last = (
                f", the last {self._partitions[int(block.part[place])]} offset {block.offset[place]}" if broken else ""
            )
            log.warning("feed %s: %d more records could not be read%s", self._name, self._unsaid, last)
            self._unsaid, self._said_at = 0, now
        if self._unsaid_keys:
            said, more = self._unsaid_keys[:KEYS_SAID_MAX], len(self._unsaid_keys) - KEYS_SAID_MAX
            self._unsaid_keys = ()
            tail = f" and {more} more" if more > 0 else ""
            log.warning(
                "feed %s: left out, since another partition or feed brings it: %s%s", self._name, ", ".join(said), tail
            )
