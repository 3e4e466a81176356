"""A client's subscriptions to one channel, and which of them serves each row that it watches. Pure.

An exact name beats a pattern, a newer pattern beats an older one; what a subscription is served by is its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

from feeds.ticks import is_key
from ticker.directory import Directory, is_pattern, matcher
from ticker.errors import Code
from ticker.quotes import QuoteTable
from ticker.settings import Settings

KeyT = TypeVar("KeyT", bound=tuple[Any, ...])
#: An ordered set of rows.
Rows = dict[int, None]


@dataclass(slots=True)
class Moves(Generic[KeyT]):
    """What a command does to what a client watches on one channel."""

    #: Rows that a subscription took or left, and the key that served each before; `Watchlist.rows` says which does now.
    was: dict[int, KeyT | None] = field(default_factory=dict)
    #: Watched rows that the client is owed from their beginning.
    fresh: Rows = field(default_factory=dict)


@dataclass(slots=True)
class Accepted:
    """How a subscription to several strings went, string by string."""

    symbols: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)


class Watchlist(Generic[KeyT]):
    """A client's subscriptions to one channel.

    Invariants: each watched row is served by exactly one subscription, the one that wins; no limit is ever passed.
    """

    __slots__ = (
        "_directory",
        "_settings",
        "_symbols",
        "_symbols_max",
        "_table",
        "_told",
        "closed",
        "exact",
        "patterns",
        "pending",
        "rows",
    )

    def __init__(
        self,
        table: QuoteTable,
        directory: Directory,
        settings: Settings,
        *,
        symbols_max: int | None = None,
        closed: bool = False,
    ) -> None:
        """`directory` is of the symbols that the client is entitled to, of which it may watch `symbols_max`; `closed`
        says that no symbol will come that is not known.
        """
        self._table = table
        self._symbols = table.symbols
        self._directory = directory
        self._settings = settings
        self._symbols_max = settings.symbols_max if symbols_max is None else symbols_max
        self.closed = closed
        #: Watched rows, and the key that serves each.
        self.rows: dict[int, KeyT] = {}
        self.exact: dict[str, KeyT] = {}
        #: Oldest first.
        self.patterns: dict[str, KeyT] = {}
        #: Exact names that no feed has brought yet.
        self.pending: dict[str, None] = {}
        #: Patterns whose excess over the limit has been answered.
        self._told: dict[str, None] = {}

    @property
    def expecting(self) -> bool:
        """Whether a symbol that appears may concern it."""
        return bool(self.patterns or self.pending)

    def keys(self, replaced: Iterable[str] = ()) -> set[KeyT]:
        """The keys of all subscriptions but for those to `replaced`."""
        gone = set(replaced)
        return {
            key for held in (self.exact, self.patterns) for name, key in held.items() if not gone or name not in gone
        }

    def is_pattern(self, name: str) -> bool:
        return name not in self._symbols and is_pattern(name)

    def winner(self, name: str) -> KeyT | None:
        """The key that is to serve a symbol; None where nothing is subscribed that names it."""
        exact = self.exact.get(name)
        if exact is not None:
            return exact
        return next((key for pattern, key in reversed(self.patterns.items()) if matcher(pattern)(name)), None)

    # -- commands ------------------------------------------------------------------------------------------------------

    def subscribe(self, names: Iterable[str], key: KeyT, moves: Moves[KeyT]) -> Accepted:
        """Let `key` serve what each of `names` stands for, in place of an older subscription to the same string."""
        answer = Accepted()
        for name in names:
            refusal = self._refusal(name)
            if refusal:
                answer.rejected.append({"symbol": name, "code": refusal})
            elif self.is_pattern(name):
                answer.patterns.append(name)
                excess = self._add_pattern(name, key, moves)
                if excess:
                    answer.rejected.append({"symbol": name, "code": Code.LIMIT_SYMBOLS, "count": excess})
            else:
                answer.symbols.append(name)
                self._add_exact(name, key, moves)
        return answer

    def unsubscribe(self, names: Sequence[str], moves: Moves[KeyT]) -> tuple[list[str], list[dict[str, Any]]]:
        """Forget the subscriptions to exactly `names`; returns those that there were, and a refusal for each other."""
        removed: list[str] = []
        rejected: list[dict[str, Any]] = []
        rows: Rows = {}
        for name in names:
            if name in self.exact:
                rows |= self._drop_exact(name)
            elif name in self.patterns:
                rows |= self._drop_pattern(name)
            else:
                rejected.append({"symbol": name, "code": Code.UNKNOWN_SYMBOL})
                continue
            removed.append(name)
        self._serve_anew(rows, moves)  # once, however many subscriptions to a row have gone
        if removed:
            self._told.clear()  # there is room again, and a new excess is news
        return removed, rejected

    def appeared(self, arrived: Mapping[str, int], moves: Moves[KeyT]) -> dict[str, int]:
        """Take in the symbols that a pattern or a pending name was waiting for.

        `arrived` maps the names that the directory has just admitted to their rows. Returns how many symbols are over
        the limit, by pattern, where that is news.
        """
        over: dict[str, int] = {}
        for name in sorted(self.pending.keys() & arrived.keys(), key=arrived.__getitem__):
            del self.pending[name]
            self._serve(arrived[name], self.exact[name], moves)
        for pattern, key in reversed(self.patterns.items()):
            if self._room > 0 or pattern not in self._told:
                matched = self._directory.matching(pattern, self._directory.known - len(arrived))
                new = [row for row in matched if row not in self.rows]
                excess = self._fill(new, key, moves, len(new))
                if excess and pattern not in self._told:
                    self._told[pattern] = None
                    over[pattern] = excess
        return over

    # -- what is accepted ----------------------------------------------------------------------------------------------

    def _refusal(self, name: str) -> Code | None:
        """Why a subscription to `name` is refused, if it is."""
        if not is_key(name) or len(name) > self._settings.symbol_chars_max:
            return Code.INVALID_SYMBOL
        if self.is_pattern(name):
            full = name not in self.patterns and len(self.patterns) >= self._settings.patterns_max
            return Code.LIMIT_SYMBOLS if full else None
        if not self._directory.covers(name):
            return Code.NOT_ENTITLED
        if self.closed and name not in self._symbols:
            return Code.UNKNOWN_SYMBOL
        held = name in self.pending or self._directory.find(name) in self.rows
        return None if held or self._room > 0 else Code.LIMIT_SYMBOLS

    @property
    def _room(self) -> int:
        return self._symbols_max - len(self.rows) - len(self.pending)

    # -- who serves what -----------------------------------------------------------------------------------------------

    def _add_exact(self, name: str, key: KeyT, moves: Moves[KeyT]) -> None:
        if name in self.patterns:  # it was one until a symbol of that very name appeared
            self._serve_anew(self._drop_pattern(name), moves)
        row = self._directory.find(name)
        if row is None:
            self.exact[name] = key
            self.pending[name] = None
        else:
            self.exact[self._symbols.names[row]] = key  # the string that all clients share
            self._serve(row, key, moves)

    def _drop_exact(self, name: str) -> Rows:
        """Forget a subscription; returns the rows that it may have served."""
        del self.exact[name]
        self.pending.pop(name, None)
        row = self._directory.find(name)
        return {} if row is None else {row: None}

    def _add_pattern(self, pattern: str, key: KeyT, moves: Moves[KeyT]) -> int:
        """Serve what `pattern` matches, as the newest; returns how many symbols are over the limit."""
        self.patterns.pop(pattern, None)
        self.patterns[pattern] = key
        match, names = matcher(pattern), self._symbols.names
        held = [row for row in self.rows if match(names[row])]
        for row in held:
            if names[row] not in self.exact:
                self._serve(row, key, moves)
        matched = self._directory.matching(pattern)
        excess = len(matched) - len(held)
        if excess and self._room > 0:
            excess = self._fill((row for row in matched if row not in self.rows), key, moves, excess)
        if excess:
            self._told[pattern] = None
        return excess

    def _drop_pattern(self, pattern: str) -> Rows:
        """Forget a subscription; returns the rows that it may have served."""
        key = self.patterns.pop(pattern)
        match, names = matcher(pattern), self._symbols.names
        return {row: None for row, held in self.rows.items() if held == key and match(names[row])}

    def _fill(self, rows: Iterable[int], key: KeyT, moves: Moves[KeyT], count: int) -> int:
        """Serve those of `rows`, `count` rows not watched yet, that there is room for; returns how many are left."""
        new = dict.fromkeys(islice(rows, max(0, self._room)))
        moves.was = new | moves.was
        self.rows.update(dict.fromkeys(new, key))
        moves.fresh.update(new)
        return count - len(new)

    def _serve_anew(self, rows: Rows, moves: Moves[KeyT]) -> None:
        """Subscriptions to `rows` have gone: let others serve them, or none."""
        for row in rows:
            key = self.winner(self._symbols.names[row])
            if key != self.rows[row]:
                self._serve(row, key, moves)

    def _serve(self, row: int, key: KeyT | None, moves: Moves[KeyT]) -> None:
        """Let `key` serve `row` from now on, None for nobody, and owe the client its beginning."""
        moves.was.setdefault(row, self.rows.get(row))
        if key is None:
            del self.rows[row]
            moves.fresh.pop(row, None)
        else:
            self.rows[row] = key
            moves.fresh[row] = None
