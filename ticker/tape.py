"""The tape: the last trades of each symbol, in the log's order, none left out. Pure.

Each symbol that trades has a ring for so many of its trades. A symbol's trades are numbered from 1, and its `version` is
the number of the last: who holds its trades up to some number is owed those after it. What the ring does not hold any
more is told as a `Gap`, never passed over in silence.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feeds.ticks import BUY, NO_SIDE, SELL, TRADE, Symbols, Ticks
from ticker.columns import Floats, Ints, grouped, longer, starts
from ticker.journal import NEVER, UNKNOWN, Folded, Gap, Held
from ticker.protocol import TRADES, trade_items

#: Stands for the slot of a row that has not traded.
NO_SLOT: Final = -1
SLOTS_MIN: Final = 64
#: Stands for the position from which a part is read, before anything of it has come.
NOT_READ: Final = -1
SIDES: Final = {NO_SIDE: None, BUY: "buy", SELL: "sell"}


class Tape(Folded):
    """The last trades of each symbol.

    `version` is int64[rows] for anyone to read: the trades of each row so far.
    """

    name: Final = TRADES
    channel: Final = TRADES

    def __init__(self, symbols: Symbols, kept: int) -> None:
        """`kept` trades of a symbol are held at most, 1 or more."""
        super().__init__()
        self.kept = kept
        self._version: Ints = np.zeros(0, np.int64)
        self._symbols = symbols
        # By row: where its ring is, the seq of its last trade, and the number of the last trade that is gone for good.
        self._slot: Ints = np.zeros(0, np.int64)
        self._seq: Ints = np.zeros(0, np.int64)
        self._gone: Ints = np.zeros(0, np.int64)
        #: A place more than is read: the oldest one tells the seq of the last trade that is gone.
        self._size = kept + 1
        self._slots = 0
        # By place, slot * size + number % size.
        self._seqs: Ints = np.zeros(0, np.int64)
        self._nth: Ints = np.zeros(0, np.int64)
        self._ts: Ints = np.zeros(0, np.int64)
        self._price = np.zeros(0)
        self._amount = np.zeros(0)
        self._side = np.zeros(0, np.uint8)
        self._id: Any = None
        #: From where each part of each log has been read.
        self._first: Ints = np.zeros(0, np.int64)

    # -- writing -------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> Ints:
        self.settle()
        return self._version

    def _fold(self, ticks: Ticks, part: Ints, _: Ints, passing: bool) -> None:
        if passing:
            return
        self._reserve()
        self._note_first(ticks, part)
        at = (ticks.kind == TRADE).nonzero()[0]
        if not len(at):
            return
        row, seq = ticks.row[at], ticks.seq[at]
        self._take_slots(row)
        order = grouped(row, len(self._version))
        ordered = row[order]
        first = starts(ordered)
        head, count = ordered[first], np.diff(np.append(first, len(row)))
        number = np.empty(len(row), np.int64)
        number[order] = np.arange(len(row)) + np.repeat(self._version[head] + 1 - first, count)
        place = self._slot[row] * self._size + number % self._size
        self._seqs[place] = seq  # a repeated place keeps its last trade
        self._nth[place] = _nth(ticks.seq, part)[at]
        self._ts[place] = ticks.ts[at]
        self._price[place] = ticks.price[at]
        self._amount[place] = ticks.size[at]
        self._side[place] = 0 if ticks.side is None else ticks.side[at]
        if ticks.trade_id is not None and self._id is None:
            self._id = np.empty(len(self._seqs), object)
        if self._id is not None:
            self._id[place] = None if ticks.trade_id is None else _texts(ticks.trade_id, at)
        self._seq[row] = seq
        self._version[head] += count

    def forget(self, rows: Ints) -> None:
        """The log of `rows` is another one: nothing of the old one is told any more."""
        self.settle()
        rows = rows[rows < len(self._version)]
        self._gone[rows] = self._version[rows]
        self._seq[rows] = 0
        parts = {self._symbols.owner[row] for row in rows[rows < len(self._symbols)].tolist()}
        self._first[[part for part in parts if part < len(self._first)]] = NOT_READ
        self.moves += 1

    def save(self, rows: Ints) -> Floats:
        """Nothing: who goes on from a checkpoint has no trades of before."""
        return np.zeros((0, len(rows)))

    def restore(self, rows: Ints, state: Floats) -> None:
        """Nothing was saved."""

    def begin(self, _: int) -> None:
        """Hold nothing of any row, and know nothing of what was read before."""
        self.settle()
        self._gone[:] = self._version
        self._seq[:] = 0
        self._first[:] = NOT_READ
        self.moves += 1

    def _note_first(self, ticks: Ticks, part: Ints) -> None:
        if len(self._first) < len(self._symbols.parts):
            self._first = longer(self._first, len(self._symbols.parts), NOT_READ)
        new = self._first[part] == NOT_READ
        if np.count_nonzero(new):
            for number in np.unique(part[new]).tolist():
                self._first[number] = ticks.seq[part == number].min()

    def _reserve(self) -> None:
        known = len(self._symbols)
        if known > len(self._version):
            rows = max(known, 2 * len(self._version))
            self._version, self._seq, self._gone = (longer(a, rows, 0) for a in (self._version, self._seq, self._gone))
            self._slot = longer(self._slot, rows, NO_SLOT)

    def _take_slots(self, row: Ints) -> None:
        """Give each of `row` that trades for the first time a ring of its own."""
        new = row[self._slot[row] == NO_SLOT]
        if not len(new):
            return
        new = np.unique(new)
        self._slot[new] = np.arange(self._slots, self._slots + len(new))
        self._slots += len(new)
        places = self._slots * self._size
        if places > len(self._seqs):  # memory that is not written to yet costs nothing
            places = max(places, 2 * len(self._seqs), SLOTS_MIN * self._size)
            for name in ("_seqs", "_nth", "_ts", "_price", "_amount", "_side", "_id"):
                old = getattr(self, name)
                if old is not None:
                    column = np.empty(places, old.dtype)
                    column[: len(old)] = old
                    setattr(self, name, column)

    # -- reading -------------------------------------------------------------------------------------------------------

    def held(self, row: int) -> Held:
        """What a client holds that has had every trade of `row`."""
        self.settle()
        if row >= len(self._version):
            return Held(0, 0)
        return Held(int(self._version[row]), int(self._seq[row]))

    held_anew = held

    @property
    def due(self) -> int:
        """A trade is there once it has come."""
        return NEVER

    def close(self, now: int) -> None:
        """Nothing falls due."""

    def held_at(self, row: int, seq: int) -> Held:
        """What a client holds that has had the trades of `row` up to a position of its log."""
        self.settle()
        if row >= len(self._version):
            return Held(0, 0)
        oldest, newest = self._oldest(row), int(self._version[row])
        read = self._read_from(row)
        if not seq and not read:  # it holds nothing, and there is a first position that is 0
            seq = -1
        if seq < (self._seq_of(row, oldest) if oldest > self._gone[row] else read - 1):
            return Held(UNKNOWN, seq)
        while newest > oldest and self._seq_of(row, newest) > seq:
            newest -= 1
        return Held(newest, seq)

    def owed(self, row: int, held: Held) -> int | None:
        """How many trades are owed to a client that holds `held`; None where some are lost."""
        self.settle()
        if row >= len(self._version):
            return 0
        if held.version < self._oldest(row) and (held.version == UNKNOWN or self._oldest(row) > self._gone[row]):
            return None
        return int(self._version[row]) - max(held.version, int(self._gone[row]))

    def news(self, row: int, held: Held) -> tuple[Gap | None, bytes]:
        """What is owed to a client that holds `held` of `row`: what is lost, and the items of the trades that are not.

        Each item has a comma behind it.
        """
        self.settle()
        if row >= len(self._version):
            return None, b""
        oldest, newest = self._oldest(row), int(self._version[row])
        gap, after = None, max(held.version, int(self._gone[row]))
        if held.version == UNKNOWN or (after < oldest):
            end = self._seq_of(row, oldest) if oldest > self._gone[row] else self._read_from(row) - 1
            after = oldest
            while after < newest and self._seq_of(row, after + 1) <= end:  # what is left of a record that is not whole
                after += 1
            count = None if held.version == UNKNOWN else after - max(held.version, int(self._gone[row]))
            gap = Gap(self._symbols.names[row], max(0, held.seq), end, count)
        return gap, self._items(row, after)

    def last(self, row: int, limit: int) -> bytes:
        """The items of the last trades of `row`, at most `limit`, oldest first; each has a comma behind it."""
        self.settle()
        if row >= len(self._version):
            return b""
        return self._items(row, max(self._oldest(row), int(self._version[row]) - limit))

    def _oldest(self, row: int) -> int:
        """The number of the last trade that is not held."""
        return max(int(self._version[row]) - self.kept, int(self._gone[row]))

    def _place(self, row: int, number: int) -> int:
        return int(self._slot[row]) * self._size + number % self._size

    def _seq_of(self, row: int, number: int) -> int:
        return int(self._seqs[self._place(row, number)])

    def _read_from(self, row: int) -> int:
        part = self._symbols.owner[row]
        return int(self._first[part]) if part < len(self._first) else NOT_READ

    def _items(self, row: int, after: int) -> bytes:
        """The items of the trades after a number that is held."""
        number = np.arange(after + 1, int(self._version[row]) + 1)
        if not len(number):
            return b""
        at = int(self._slot[row]) * self._size + number % self._size
        ids: list[str | None] = [None] * len(at) if self._id is None else self._id[at].tolist()
        return trade_items(
            self._symbols.names[row],
            self._seqs[at].tolist(),
            self._nth[at].tolist(),
            self._ts[at].tolist(),
            self._price[at].tolist(),
            self._amount[at].tolist(),
            [SIDES[side] for side in self._side[at].tolist()],
            ids,
        )


def _nth(seq: Ints, part: Ints) -> Ints:
    """The place of each tick among those of its record, from 0: as long."""
    same = (seq[1:] == seq[:-1]) & (part[1:] == part[:-1])
    if not np.count_nonzero(same):
        return np.zeros(len(seq), np.int64)
    first = np.append(0, (~same).nonzero()[0] + 1)
    nth: Ints = np.arange(len(seq)) - np.repeat(first, np.diff(np.append(first, len(seq))))
    return nth


def _texts(ids: Any, at: Ints) -> NDArray[np.object_]:
    texts: NDArray[np.object_] = ids.take(pa.array(at)).to_numpy(zero_copy_only=False)
    return texts
