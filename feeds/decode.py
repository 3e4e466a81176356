"""Records to columns: what a tick is, and what makes a record unreadable. Pure.

`Records` are rows as a source has them: columns of any type under the source's own names. `Decoder.decode` makes `Ticks`
of them, and a reason for each row that cannot be read. It is the same for every format and feed.

    records --layout--> fields --convert--> numbers, times, texts --judge--> kinds, faults --claim--> rows
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feeds import convert
from feeds.convert import TIME_US_MAX, Bools, Column
from feeds.fields import KINDS, NUMBERS, QUOTE_FIELDS, SIDES, TIMES, TRADE_FIELDS, Layout, layout, plain
from feeds.ticks import NO_SIDE, NO_TIME, QUOTE, REFUSED, TRADE, Floats, Ints, Symbols, Ticks, is_key

#: Stand in a row's place, like `REFUSED`, for a record that cannot be read, and for one that was not asked for.
UNREADABLE: Final = -2
UNWANTED: Final = -3

#: How far a venue time may lie ahead of the row's own receive time. Further, and one of the two clocks is wrong.
AHEAD_US_MAX: Final = 60_000_000

#: Layouts that are remembered.
LAYOUTS_MAX: Final = 1000

_UNTOLD: Final = 255
_SHOWN_CHARS_MAX: Final = 40


@dataclass(frozen=True, slots=True)
class Records:
    """Rows of a source: columns, all `rows` long, by the source's own names. Each is a pyarrow.Array or `Objects`.

    `faults` gives the reason for each row that the source's format itself made unreadable; it is null in all columns.
    """

    columns: Mapping[str, Column]
    rows: int
    faults: Mapping[int, str] = field(default_factory=dict)

    def head(self) -> Records:
        """The first row alone, without holding the others in memory. There must be one."""
        first = {place: reason for place, reason in self.faults.items() if place == 0}
        return Records({name: column.take([0]) for name, column in self.columns.items()}, 1, first)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with some rows: which ones (bool[n]), and what to say of row `i`."""

    where: Bools
    says: Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of n records.

    `ticks` is n long, in order; its `row` is `UNREADABLE`, `REFUSED` or `UNWANTED` where a record gives no tick, and its
    `seq` is the record's place, from 0. `refused` are the keys that another part was found to own, each said once.
    """

    ticks: Ticks
    faults: tuple[Fault, ...]
    refused: tuple[str, ...]

    @property
    def unreadable(self) -> Ints:
        """The places of records that cannot be read: int64, ascending."""
        return np.flatnonzero(self.ticks.row == UNREADABLE)

    def reason(self, i: int) -> str:
        """Why record `i` is unreadable. Raises StopIteration where it is not."""
        return next(fault.says(i) for fault in self.faults if fault.where[i])


def any_key(_: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for: keys that `key` takes, and times (receive time, else venue time) in [start_us, end_us)."""

    key: Callable[[str], bool] = any_key
    start_us: int = NO_TIME
    end_us: int = -(NO_TIME + 1)

    def times(self, time: Ints) -> Bools:
        return (time >= self.start_us) & (time < self.end_us)


#: Gives the row of a key for ticks from a part, or `REFUSED`; the place is that of the batch's first such record.
Claim = Callable[[str, int, int], int]


class Decoder:
    """Makes ticks of records for one part of a feed's log, or for several. Not for two threads at once."""

    def __init__(
        self,
        symbols: Symbols,
        part: int,
        *,
        renamed: Mapping[str, str] | None = None,
        wanted: Wanted | None = None,
        claim: Claim | None = None,
    ) -> None:
        """`claim` is called once for each distinct key and part of a batch; without it `symbols.claim` decides."""
        self._symbols = symbols
        self._part = part
        self._renamed = renamed or {}
        self._wanted = wanted or Wanted()
        self._claim = claim
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._refused: set[str] = set()
        #: By part, the rows of keys that it owns and that were asked for: so since as many moves of rows.
        self._owned: dict[int, dict[str, int]] = {}
        self._moves = 0

    def layout(self, names: tuple[str, ...]) -> Layout:
        """Where each field is found in records with these columns."""
        found = self._layouts.get(names)
        if found is None:
            found = layout(names, self._renamed)
            if len(self._layouts) < LAYOUTS_MAX:  # JSON may bring ever new keys
                self._layouts[names] = found
        return found

    def decode(self, records: Records, *, parts: Ints | None = None, logged: Ints | None = None) -> Decoded:
        """Ticks of `records`, and what is wrong with the others. Never raises for what the records hold.

        `parts` is the part of the log that each record came from: int64[n]; without it, the decoder's own. `logged` is
        the log's own time of each record: int64[n] microseconds, `NO_TIME` where it is not known. It is the `ts_recv`
        of a row without any time, and of a row with a venue time alone it says how late that may be.
        """
        rows = _Rows(records, self.layout(tuple(records.columns)), logged)
        rows.judge()
        row, refused = self._rows_of(rows, parts)
        quote, trade = rows.kind == QUOTE, rows.kind == TRADE
        columns: dict[str, Any] = dict(rows.times)
        columns |= {name: _kept(rows.numbers.get(name), quote) for name in QUOTE_FIELDS}
        columns |= {name: _kept(rows.numbers.get(name), trade) for name in TRADE_FIELDS}
        side, trade_id = rows.sides(trade), rows.trade_ids(trade)
        ticks = Ticks(row=row, seq=np.arange(rows.n), kind=rows.kind, side=side, trade_id=trade_id, **columns)
        return Decoded(ticks, tuple(rows.faults), refused)

    def _rows_of(self, rows: _Rows, parts: Ints | None) -> tuple[Ints, tuple[str, ...]]:
        """The row of each record's symbol, or why it has none, and the keys refused for the first time."""
        (symbol, symbols), (venue, venues) = rows.texts["symbol"], rows.texts["venue"]
        good = np.flatnonzero(rows.good())
        code = symbol[good]
        if venues:
            code += (venue[good] + 1) * len(symbols)  # venue -1: none
        low = self._part if parts is None or not len(parts) else int(parts.min())
        span = 1 if parts is None or not len(parts) else int(parts.max()) - low + 1
        if parts is not None:
            code = code * span + parts[good] - low
        values, number = _numbered(code)
        asked = self._wanted.times(rows.ts_log[good])
        first = np.full(len(values), -1)
        first[number[asked][::-1]] = good[asked][::-1]  # a repeated index keeps its last value: the first place
        order = np.argsort(first)  # as they come, so that new symbols get rows in that order
        outcomes: list[int] = []
        refused: list[str] = []
        self._forget_moved()
        owned = {part: self._owned.setdefault(low + part, {}) for part in range(span)}
        for value, place in zip(values[order].tolist(), first[order].tolist(), strict=True):
            pair, part = divmod(value, span)
            at, name = divmod(pair, len(symbols))
            key = f"{venues[at - 1]}:{symbols[name]}" if at else symbols[name]
            row = owned[part].get(key)
            if row is not None and place >= 0:
                outcomes.append(row)
            elif key not in self._symbols and not is_key(key):
                outcomes.append(UNREADABLE)
            elif place < 0 or not self._wanted.key(key):
                outcomes.append(UNWANTED)
            else:
                claim, number_of_part = self._claim, low + part
                row = claim(key, number_of_part, place) if claim else self._symbols.claim(key, number_of_part)
                outcomes.append(row)
                self._forget_moved()
                if row != REFUSED:
                    owned[part][key] = row
                elif key not in self._refused:
                    self._refused.add(key)
                    refused.append(key)
        outcome = np.empty(len(values), np.int64)
        outcome[order] = outcomes
        found = np.full(rows.n, UNREADABLE)
        found[good] = np.where(asked | (outcome == UNREADABLE)[number], outcome[number], UNWANTED)
        invalid = np.zeros(rows.n, np.bool_)
        invalid[good] = found[good] == UNREADABLE
        rows.fault(invalid, "symbol", "expected a key of 1 to 64 printable characters without space, comma or quote")
        return found, tuple(refused)

    def _forget_moved(self) -> None:
        """Ask anew who owns what, once a row has changed hands."""
        if self._moves != self._symbols.moves:
            self._moves = self._symbols.moves
            for owned in self._owned.values():
                owned.clear()


class _Rows:
    """Records on their way to becoming ticks: their fields as NumPy columns, and what was found wrong so far."""

    def __init__(self, records: Records, layout: Layout, logged: Ints | None) -> None:
        self.n = records.rows
        self.faults: list[Fault] = []
        self._records = records
        self._layout = layout
        if records.faults:
            broken = np.zeros(self.n, np.bool_)
            broken[list(records.faults)] = True
            self.faults.append(Fault(broken, records.faults.__getitem__))
        self.texts = {name: self._texts(name) for name in ("symbol", "venue", "type")}
        self._bad: dict[str, Bools] = {}
        self.times = {name: self._column(name, convert.times, NO_TIME, np.int64) for name in TIMES}
        self.numbers: dict[str, Floats] = {
            name: self._column(name, convert.numbers, np.nan, np.float64) for name in NUMBERS if name in layout
        }
        #: What venue times are held against: the receive time, else the log's.
        self._clock: Ints = self.times["ts_recv"]
        if logged is not None:
            self._take(logged)
        event, recv = self.times["ts_event"], self.times["ts_recv"]
        self.ts_log: Ints = np.where(recv == NO_TIME, event, recv)
        self.kind, self._type_faults = self._kinds()

    def _take(self, logged: Ints) -> None:
        """Let the log's own times stand in for times that rows lack."""
        event, recv = self.times["ts_event"], self.times["ts_recv"]
        logged = np.where(np.abs(logged) < TIME_US_MAX, logged, NO_TIME)
        self._clock = np.where(recv == NO_TIME, logged, recv)
        self.times["ts_recv"] = np.where(event == NO_TIME, self._clock, recv)

    def judge(self) -> None:
        """Find all that makes a row unreadable, in the order in which it is to be said."""
        self.fault(self.texts["symbol"][0] < 0, "symbol", "expected one, was none")
        for where, expected in self._type_faults:
            self.fault(where, "type", expected)
        self._judge_times()
        quote, trade = self.kind == QUOTE, self.kind == TRADE
        for name in NUMBERS:
            of_kind = quote if name in QUOTE_FIELDS else trade
            if name in self._bad:
                self.fault(of_kind & self._bad[name], name, "expected a finite number")
            if name in self.numbers and name.endswith("size"):
                self.fault(of_kind & (self.numbers[name] < 0), name, "expected a size of 0 or more")
        price = self.numbers.get("price")
        self.fault(trade if price is None else trade & np.isnan(price), "price", "expected one in a trade, was none")

    def _judge_times(self) -> None:
        for name in TIMES:
            if name in self._bad:
                self.fault(self._bad[name], name, "expected s, ms, us or ns since 1970, or ISO 8601")
        self.fault(self.ts_log == NO_TIME, "ts_event", "expected a time there or in ts_recv, was none")
        ahead = (self.times["ts_event"] > self._clock + AHEAD_US_MAX) & (self._clock != NO_TIME)
        if np.count_nonzero(ahead):
            received = self.times["ts_recv"] != NO_TIME
            for where, clock in ((ahead & received, "ts_recv"), (ahead & ~received, "the log's time")):
                self.fault(where, "ts_event", f"expected at most {AHEAD_US_MAX // 10**6} s ahead of {clock}")

    def fault(self, where: Bools, name: str, expected: str) -> None:
        if np.count_nonzero(where):
            was = "" if expected.endswith("was none") else ", was "
            self.faults.append(Fault(where, lambda i: f"{name}: {expected}{was}{self._shown(name, i) if was else ''}"))

    def good(self) -> Bools:
        """Which rows have no fault so far."""
        good = np.ones(self.n, np.bool_)
        for fault in self.faults:
            good &= ~fault.where
        return good

    def _shown(self, name: str, i: int) -> str:
        """The value of a field in row `i` as its source has it, for a person to read."""
        for source in self._layout.get(name, ()):
            shown = convert.shown(self._records.columns[source], i)
            if shown is not None:
                return _shortened(shown)
        return "none"

    def _column(
        self, name: str, convert_to: Callable[[Column], tuple[Any, Bools | None]], none: float, dtype: type[np.generic]
    ) -> Any:
        """A field's values from the first of its sources that has one; what cannot be read goes into `_bad`."""
        values: Any = None
        for source in self._layout.get(name, ()):
            more, bad = convert_to(self._records.columns[source])
            if values is None:
                values = more
            else:
                open_ = _absent(values) & ~self._bad.get(name, np.False_)
                values = np.where(open_, more, values)
                bad = None if bad is None else bad & open_
            if bad is not None:
                self._bad[name] = self._bad[name] | bad if name in self._bad else bad
        return np.full(self.n, none, dtype) if values is None else values

    def _texts(self, name: str) -> tuple[Ints, list[str]]:
        """Positions in a list of texts, -1 for none: from the first of the sources that has one."""
        codes, names = np.full(self.n, -1), list[str]()
        for source in self._layout.get(name, ()):
            more, more_names = convert.texts(self._records.columns[source])
            codes = np.where((codes < 0) & (more >= 0), more + len(names), codes) if names else more
            names = names + more_names
        return codes, names

    def sides(self, trade: Bools) -> Any:
        """uint8[n], or None where no trade has one. A word that is not known is none."""
        sides = np.zeros(self.n, np.uint8)
        for source in self._layout.get("side", ()):
            codes, names = convert.words(self._records.columns[source])
            more = np.array([*(SIDES.get(name.lower(), NO_SIDE) for name in names), NO_SIDE], np.uint8)[codes]
            sides = np.where(sides == NO_SIDE, more, sides)
        sides[~trade] = NO_SIDE
        return sides if np.count_nonzero(sides) else None

    def trade_ids(self, trade: Bools) -> Any:
        """Arrow strings, n of them, or None where no trade has one."""
        ids: Any = None
        for source in self._layout.get("trade_id", ()):
            more = convert.identifiers(self._records.columns[source])
            ids = more if ids is None else pc.coalesce(ids, more)
        if ids is None or ids.null_count == self.n:
            return None
        ids = pc.if_else(pa.array(trade), ids, None)
        return None if ids.null_count == self.n else ids

    def _kinds(self) -> tuple[Any, list[tuple[Bools, str]]]:
        """uint8[n] QUOTE or TRADE, and what is wrong with types."""
        codes, words = self.texts["type"]
        kind = np.array([*map(_kind_of, words), _UNTOLD], np.uint8)[codes]  # -1, none, is the last
        untyped = codes < 0
        faults = [((kind == _UNTOLD) & ~untyped, "expected quote or trade")]
        if np.count_nonzero(untyped):
            quote, trade = self._has_any(QUOTE_FIELDS), self._has_any(TRADE_FIELDS)
            kind[untyped] = np.where(trade, np.uint8(TRADE), np.uint8(QUOTE))[untyped]
            faults.append((untyped & ~quote & ~trade, "expected fields of a quote or a trade, was none"))
            faults.append(
                (untyped & quote & trade, "expected one where a row has fields of a quote and a trade, was none")
            )
        return kind, faults

    def _has_any(self, names: tuple[str, ...]) -> Bools:
        some = np.zeros(self.n, np.bool_)
        for name in names:
            if name in self.numbers:
                some |= ~np.isnan(self.numbers[name]) | self._bad.get(name, np.False_)
        return some


def _kind_of(word: str) -> int:
    kind = KINDS.get(word)
    return KINDS.get(plain(word).lower(), _UNTOLD) if kind is None else kind


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "..."


def _absent(values: Any) -> Any:
    return values == NO_TIME if values.dtype == np.int64 else np.isnan(values)


def _kept(values: Floats | None, where: Bools) -> Floats:
    return np.full(len(where), np.nan) if values is None else np.where(where, values, np.nan)


def _numbered(codes: Ints) -> tuple[Ints, Ints]:
    """The distinct values of `codes` (not negative), ascending, and the position among them of each of `codes`."""
    if not len(codes):
        return codes, codes
    size = int(codes.max()) + 1
    if size > 8 * len(codes) + 4096:
        values, number = np.unique(codes, return_inverse=True)
        return values, number
    present = np.zeros(size, np.bool_)
    present[codes] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[codes]
