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

    A symbol belongs to the partition that first brings it. It moves to another one of the same topic, once for each count
    of partitions, where a record of it comes from the one that its key belongs to by either of the common partitioners:
    so it follows its key when the topic gets more partitions, and all who read the topic agree on where it is. That its
    owner may be the key's home by the other partitioner says nothing: where partitions were added that is so by chance
    for some keys. In what lies back, the topic may have had fewer partitions than it has now: while all of them are read
    `in_order`, the home of any count will do that is greater than the one by which it moved last.
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
        #: Whether what comes lies back: a symbol may be in several partitions then, and be read before it should.
        self.warming = False
        #: Whether the records of all partitions come in the order of their times.
        self.in_order = False
        #: By row that has moved, the count of partitions by which it did.
        self._levels: dict[int, int] = {}
        #: Rows and parts other than their own that have brought them: surely, and maybe.
        self._strange: set[tuple[int, int]] = set()
        self._doubtful: set[tuple[int, int]] = set()
        #: Keys that were found to be refused, and not said so yet.
        self._unsaid_keys: tuple[str, ...] = ()
        # Of the block that is being read: its keys, the record that each of its ticks came from, and the moves: a row,
        # the tick from which on it has moved, the part that it has left, and its level there.
        self._keys: list[bytes | None] = []
        self._origin: Ints = np.empty(0, np.int64)
        self._moved: list[tuple[int, int, int, int]] = []
        self._samples = 0
        self._unsaid = 0
        self._said_at = 0
        self._last = ""

    def know(self, partitions: Mapping[int, Partition], count: Mapping[str, int]) -> None:
        """Take records of `partitions`, by part number, from now on; topics have `count` of them."""
        self._partitions = dict(partitions)
        self._count = count
        self._strange.clear()
        self._unsaid_keys = ()

    def forget(self, rows: Ints) -> None:
        """Let `rows` be as if they had never come."""
        self._symbols.release(rows)
        self._strange.clear()
        self._unsaid_keys = ()
        for row in rows.tolist():
            self._levels.pop(row, None)

    def ticks(self, block: Block, since: int, now: int, *, sure: bool = False) -> Ticks | None:
        """The ticks of a block, none of them split off its record, and none at all for a tombstone.

        None where a symbol comes from another partition than its own for the first time: its key may have moved since
        the topic has more partitions than is known, or, while `warming`, more comes of it from where it was. The caller
        finds out, and asks again when it is `sure`.
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
        if (self._doubtful or (self.warming and self._moved)) and not (sure or self.in_order):
            self._undo()
            return None
        stragglers = self._stragglers(row, part)
        if len(stragglers):
            if self.in_order:  # or is it where the key has moved back to since?
                self._undo()
                cut = len(block) // 2
                return Ticks.concat(
                    [
                        found
                        for half in (block[:cut], block[cut:])
                        if (found := self.ticks(half, since, now)) is not None
                    ]
                )
            row = row.copy()
            row[stragglers] = REFUSED
        self._strange |= self._doubtful
        self._doubtful.clear()
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
        if owner is None or (row, part) in self._strange:
            return REFUSED
        record_key = self._keys[self._origin[place]]
        higher, level = None, self._levels.get(row, 0)
        may_move = record_key is not None and owner.topic == here.topic
        if record_key is not None and may_move:
            count = self._count[here.topic]
            # A topic never shrinks: it had both of these partitions by then.
            least = max(owner.number, here.number) + 1 if self.in_order else count
            higher = home(record_key, range(max(level + 1, least), count + 1), here.number)
        if higher is None:
            if may_move or (self.warming and not self.in_order):
                self._doubtful.add((row, part))
            return REFUSED
        self._levels[row] = higher
        symbols.move(row, part)
        self._moved.append((row, place, owner.part, level))
        return row

    def _undo(self) -> None:
        """Let the rows that have moved in this block be where they were before it."""
        for row, _, left, level in reversed(self._moved):
            self._symbols.move(row, left)
            self._levels[row] = level
        self._doubtful.clear()

    def _stragglers(self, row: Ints, part: Ints) -> Ints:
        """What still comes of a row from the part that it has just left: int64, ascending places."""
        found = np.zeros(len(row), np.bool_)
        for moved, place, left, _ in self._moved:
            found[place:] |= (row[place:] == moved) & (part[place:] == left)
        return found.nonzero()[0]

    # -- what is told of it --------------------------------------------------------------------------------------------

    def tell_rest(self, now: int) -> None:
        """Say how many records could not be read that were not said one by one, if that is due."""
        if self._unsaid and now - self._said_at >= SAMPLES_PAUSE_US:
            text = "feed %s: %d more records could not be read, the last %s"
            log.warning(text, self._name, self._unsaid, self._last)
            self._unsaid, self._said_at = 0, now

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
        if broken:
            place = int(origin[broken[-1]])
            self._last = f"{self._partitions[int(block.part[place])]} offset {block.offset[place]}"
        self.tell_rest(now)
        if self._unsaid_keys:
            said, more = self._unsaid_keys[:KEYS_SAID_MAX], len(self._unsaid_keys) - KEYS_SAID_MAX
            self._unsaid_keys = ()
            tail = f" and {more} more" if more > 0 else ""
            log.warning(
                "feed %s: left out, since another partition or feed brings it: %s%s", self._name, ", ".join(said), tail
            )
