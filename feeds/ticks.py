"""Ticks and symbols: the two values that every feed produces and the quote table consumes. Pure.

A tick is one quote or one trade of one symbol. A batch of them is `Ticks`: equal-length NumPy columns, in the
log's order. `Symbols` maps a key such as ``binance-spot:BTCUSDT`` to a row, and says which part of which feed's log
owns it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from threading import Lock
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

QUOTE: Final = 0
TRADE: Final = 1

#: Who took in a trade.
NO_SIDE: Final = 0
BUY: Final = 1
SELL: Final = 2

#: A time that a tick does not carry. Every other time is a count of microseconds since the Unix epoch, UTC.
NO_TIME: Final = int(np.iinfo(np.int64).min)

#: The row given for a key that belongs to another feed, or to another partition of the same feed.
REFUSED: Final = -1

SYMBOL_CHARS_MAX: Final = 64
# Printable ASCII without the space, both quotes, the comma and the backslash.
_KEY = re.compile(rf"[!#-&(-+\--\[\]-~]{{1,{SYMBOL_CHARS_MAX}}}")

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Ticks:
    """A batch of ticks of one feed, in its log's order. All columns have the same length.

    | column | dtype | meaning |
    |---|---|---|
    | row | int64 | the symbol's row in `Symbols`; never `REFUSED` |
    | seq | int64 | position in the feed's own log; ticks of one record share it and are never split over batches |
    | kind | uint8 | `QUOTE` or `TRADE` |
    | ts_event | int64 | venue time in microseconds, or `NO_TIME` |
    | ts_recv | int64 | receive time in microseconds, or `NO_TIME`; at least one of the two is there |
    | bid, bid_size, ask, ask_size | float64 | of a quote, NaN where it has none; of a trade, NaN |
    | price, size | float64 | of a trade, NaN where it has none; of a quote, NaN |
    | side | uint8, or None | of a trade, `BUY` or `SELL`, who took; else `NO_SIDE`. None where no trade has one |
    | trade_id | pyarrow string, or None | of a trade, the venue's own name of it, else null. None where no trade has one |

    Values are finite or NaN (no value); sizes are not negative. `since` is the time from which the log has been read
    without a hole, or `NO_TIME` when that is not known: session fields count from there at the earliest.
    """

    row: Ints
    seq: Ints
    kind: NDArray[np.uint8]
    ts_event: Ints
    ts_recv: Ints
    bid: Floats
    bid_size: Floats
    ask: Floats
    ask_size: Floats
    price: Floats
    size: Floats
    side: NDArray[np.uint8] | None = None
    trade_id: Any = None
    since: int = NO_TIME

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: slice | NDArray[np.bool_] | Ints) -> Ticks:
        """The ticks at `index` (a slice, a mask or positions), as a batch of their own."""
        return Ticks(  # each by name: it is done for every round of a replay
            self.row[index],
            self.seq[index],
            self.kind[index],
            self.ts_event[index],
            self.ts_recv[index],
            self.bid[index],
            self.bid_size[index],
            self.ask[index],
            self.ask_size[index],
            self.price[index],
            self.size[index],
            None if self.side is None else self.side[index],
            None if self.trade_id is None else _picked(self.trade_id, index),
            self.since,
        )

    @property
    def ts(self) -> Ints:
        """Each tick's own time: `ts_event`, else `ts_recv`. int64[n] microseconds."""
        return np.where(self.ts_event == NO_TIME, self.ts_recv, self.ts_event)

    @property
    def ts_log(self) -> Ints:
        """The clock that paces and merges recordings: `ts_recv`, else `ts_event`. int64[n] microseconds."""
        return np.where(self.ts_recv == NO_TIME, self.ts_event, self.ts_recv)

    @property
    def sides(self) -> NDArray[np.uint8]:
        """Each tick's side: uint8[n]."""
        return np.zeros(len(self), np.uint8) if self.side is None else self.side

    @staticmethod
    def concat(batches: Sequence[Ticks]) -> Ticks:
        """The batches one after another; `since` is the first one's. Raises ValueError for no batch."""
        if not batches:
            raise ValueError("Ticks.concat: expected at least one batch, was none")
        if len(batches) == 1:
            return batches[0]
        columns: dict[str, Any] = {name: np.concatenate([getattr(b, name) for b in batches]) for name in COLUMNS}
        if any(b.side is not None for b in batches):
            columns["side"] = np.concatenate([b.sides for b in batches])
        if any(b.trade_id is not None for b in batches):
            ids = [pa.nulls(len(b), pa.string()) if b.trade_id is None else b.trade_id for b in batches]
            columns["trade_id"] = pa.concat_arrays(ids)
        return replace(batches[0], **columns)


#: The names of the columns that every batch has, in order.
COLUMNS: Final = tuple(f.name for f in fields(Ticks) if f.name not in {"side", "trade_id", "since"})


def _picked(ids: Any, index: slice | NDArray[np.bool_] | Ints) -> Any:
    if isinstance(index, slice):
        return ids[index]
    return ids.take(pa.array(index.nonzero()[0] if index.dtype == np.bool_ else index))


def is_key(text: str) -> bool:
    """Whether `text` may be a symbol's key: 1 to 64 printable ASCII characters, no space, comma, quote or backslash."""
    return _KEY.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Part:
    """One totally ordered part of a feed's log: a Kafka partition, or the whole of a recording."""

    feed: str
    label: str

    def __str__(self) -> str:
        return f"{self.feed}/{self.label}" if self.label else self.feed


class Symbols:
    """Key to row, append only; row `i` is `names[i]`, owned by `parts[owner[i]]`. Shared by all feeds of a process."""

    __slots__ = ("_free", "_growing", "_rows", "moves", "names", "owner", "parts")

    def __init__(self) -> None:
        self._growing = Lock()
        self._rows: dict[str, int] = {}
        #: Rows that their owner has given up: the next part to claim one has it.
        self._free: set[int] = set()
        self.names: list[str] = []
        #: The number of the part that brought each row first: it alone may write it.
        self.owner: list[int] = []
        #: How often rows that are known have changed their owner, or lost it.
        self.moves = 0
        self.parts: list[Part] = []

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def part(self, feed: str, label: str = "") -> int:
        """The number of a part of a feed's log, made known on first mention."""
        part = Part(feed, label)
        if part not in self.parts:
            self.parts.append(part)
        return self.parts.index(part)

    def find(self, key: str) -> int | None:
        """The row of `key`, or None where no feed has brought it yet."""
        return self._rows.get(key)

    def claim(self, key: str, part: int) -> int:
        """The row of `key` for ticks from `part`: a new one for a new key, `REFUSED` where another part owns it.

        Raises ValueError where `key` breaks the rule of `is_key`.
        """
        row = self._rows.get(key)
        if row is not None:
            if row in self._free:
                self.move(row, part)
            return row if self.owner[row] == part else REFUSED
        if not is_key(key):
            raise ValueError(
                f"symbol: expected 1 to {SYMBOL_CHARS_MAX} printable characters without space, comma, quote or "
                f"backslash, was {key[: SYMBOL_CHARS_MAX + 1]!r}"
            )
        with self._growing:  # feeds decode in threads of their own; a reader sees a row only when it is whole
            row = self._rows.get(key)
            if row is None:
                row = len(self.names)
                self.owner.append(part)
                self.names.append(key)
                self._rows[key] = row
        return row if self.owner[row] == part else REFUSED

    def move(self, row: int, part: int) -> None:
        """Let `part` own `row` from now on."""
        self._free.discard(row)
        self.owner[row] = part
        self.moves += 1

    def release(self, rows: Ints) -> None:
        """Let the next part to claim each of `rows` own it."""
        self._free.update(rows.tolist())
        self.moves += 1

    def owned_by(self, parts: Collection[int]) -> Ints:
        """The rows that `parts` own: int64, ascending."""
        return np.flatnonzero(np.isin(self.owner[: len(self.names)], list(parts)))

    def claim_all(self, keys: Iterable[str], part: int) -> Ints:
        """`claim` for each of `keys`: int64 rows, in order."""
        return np.fromiter((self.claim(key, part) for key in keys), dtype=np.int64)
