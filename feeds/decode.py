"""Records to columns: what a tick is, and what makes a record unreadable. Pure.

`Records` are rows as a source has them: Arrow columns of any type under the source's own names. `Decoder.decode`
makes `Ticks` of them, and a reason for each row that cannot be read. It is the same for every format and feed.

    records --layout--> fields --convert--> numbers, times, texts --judge--> kinds, faults --claim--> rows
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from feeds import convert
from feeds.convert import Array, Bools
from feeds.fields import KINDS, NUMBERS, QUOTE_FIELDS, TIMES, TRADE_FIELDS, Layout, layout, plain
from feeds.ticks import NO_TIME, QUOTE, REFUSED, TRADE, Floats, Ints, Symbols, Ticks, is_key

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
    """Rows of a source: Arrow columns, all `rows` long, by the source's own names.

    `faults` gives the reason for each row that the source's format itself made unreadable; it is null in all columns.
    """

    columns: Mapping[str, Array]
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


class Decoder:
    """Makes ticks of records for one part of a feed's log. Not for two threads at once."""

    def __init__(
        self, symbols: Symbols, part: int, *, renamed: Mapping[str, str] | None = None, wanted: Wanted | None = None
    ) -> None:
        self._symbols = symbols
        self._part = part
        self._renamed = renamed or {}
        self._wanted = wanted or Wanted()
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._refused: set[str] = set()

    def layout(self, names: tuple[str, ...]) -> Layout:
        """Where each field is found in records with these columns."""
        found = self._layouts.get(names)
        if found is None:
            found = layout(names, self._renamed)
            if len(self._layouts) < LAYOUTS_MAX:  # JSON may bring ever new keys
                self._layouts[names] = found
        return found

    def decode(self, records: Records) -> Decoded:
        """Ticks of `records`, and what is wrong with the others. Never raises for what the records hold."""
        rows = _Rows(records, self.layout(tuple(records.columns)))
        rows.judge()
        row, refused = self._claim(rows)
        quote, trade = rows.kind == QUOTE, rows.kind == TRADE
        columns: dict[str, Any] = dict(rows.times)
        columns |= {name: _kept(rows.numbers.get(name), quote) for name in QUOTE_FIELDS}
        columns |= {name: _kept(rows.numbers.get(name), trade) for name in TRADE_FIELDS}
        ticks = Ticks(row=row, seq=np.arange(rows.n), kind=rows.kind, **columns)
        return Decoded(ticks, tuple(rows.faults), refused)

    def _claim(self, rows: _Rows) -> tuple[Ints, tuple[str, ...]]:
        """The row of each record's symbol, or why it has none, and the keys refused for the first time."""
        (symbol, symbols), (venue, venues) = rows.texts["symbol"], rows.texts["venue"]
        pair = (venue + 1) * len(symbols) + symbol  # venue -1: none
        good = rows.good()
        asked = good & self._wanted.times(rows.ts_log)
        claimable = dict.fromkeys(_distinct(pair[asked]))  # as they come, so that new symbols get rows in that order
        outcome: dict[int, int] = {}
        refused: list[str] = []
        for code in claimable | dict.fromkeys(_distinct(pair[good])):
            at, name = divmod(code, len(symbols))
            key = f"{venues[at - 1]}:{symbols[name]}" if at else symbols[name]
            if not is_key(key):
                outcome[code] = UNREADABLE
            elif code not in claimable or not self._wanted.key(key):
                outcome[code] = UNWANTED
            else:
                outcome[code] = self._symbols.claim(key, self._part)
                if outcome[code] == REFUSED and key not in self._refused:
                    self._refused.add(key)
                    refused.append(key)
        row = np.where(good, UNWANTED, UNREADABLE)
        row[good] = _looked_up(pair[good], outcome)
        invalid = good & (row == UNREADABLE)
        row[good & ~asked & ~invalid] = UNWANTED
        rows.fault(invalid, "symbol", "expected a key of 1 to 64 printable characters without space, comma or quote")
        return row, tuple(refused)


class _Rows:
    """Records on their way to becoming ticks: their fields as NumPy columns, and what was found wrong so far."""

    def __init__(self, records: Records, layout: Layout) -> None:
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
        event, recv = self.times["ts_event"], self.times["ts_recv"]
        self.ts_log: Ints = np.where(recv == NO_TIME, event, recv)
        self.kind, self._type_faults = self._kinds()

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
        event, recv = self.times["ts_event"], self.times["ts_recv"]
        self.fault(self.ts_log == NO_TIME, "ts_event", "expected a time there or in ts_recv, was none")
        both = (event != NO_TIME) & (recv != NO_TIME)
        ahead = both & (event - np.where(both, recv, event) > AHEAD_US_MAX)
        self.fault(ahead, "ts_event", f"expected at most {AHEAD_US_MAX // 10**6} s ahead of ts_recv")

    def fault(self, where: Bools, name: str, expected: str) -> None:
        if where.any():
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
            scalar = self._records.columns[source][i]
            if scalar.is_valid:
                return _shortened(convert.shown(scalar))
        return "none"

    def _column(
        self, name: str, convert_to: Callable[[Array], tuple[Any, Bools | None]], none: float, dtype: type[np.generic]
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
        codes, names = np.full(self.n, -1), [""]
        for source in self._layout.get(name, ()):
            more, more_names = convert.texts(self._records.columns[source])
            codes = np.where((codes < 0) & (more >= 0), more + len(names), codes)
            names = names + more_names
        return codes, names

    def _kinds(self) -> tuple[Any, list[tuple[Bools, str]]]:
        """uint8[n] QUOTE or TRADE, and what is wrong with types."""
        codes, words = self.texts["type"]
        kind_of_word = np.array([KINDS.get(plain(word).lower(), _UNTOLD) for word in words], np.uint8)
        kind = kind_of_word[codes]
        untyped = codes < 0
        faults = [(~untyped & (kind == _UNTOLD), "expected quote or trade")]
        if untyped.any():
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


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "..."


def _absent(values: Any) -> Any:
    return values == NO_TIME if values.dtype == np.int64 else np.isnan(values)


def _kept(values: Floats | None, where: Bools) -> Floats:
    return np.full(len(where), np.nan) if values is None else np.where(where, values, np.nan)


def _distinct(codes: Ints) -> list[int]:
    """The distinct values of `codes` (not negative), in the order in which they first come."""
    if not len(codes):
        return []
    size = int(codes.max()) + 1
    if size > 8 * len(codes) + 4096:
        values, first = np.unique(codes, return_index=True)
    else:
        place = np.full(size, -1)
        place[codes[::-1]] = np.arange(len(codes))[::-1]  # a repeated index keeps its last value: the first place
        values = np.flatnonzero(place >= 0)
        first = place[values]
    distinct: list[int] = values[np.argsort(first)].tolist()
    return distinct


def _looked_up(codes: Ints, outcome: Mapping[int, int]) -> Ints:
    """`outcome` of each of `codes`, all of which it has."""
    keys = np.fromiter(sorted(outcome), np.int64, len(outcome))
    values = np.fromiter((outcome[key] for key in sorted(outcome)), np.int64, len(outcome))
    return values[np.searchsorted(keys, codes)]
