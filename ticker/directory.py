"""The symbols that clients can watch, and which of them each shell pattern matches. Pure."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from fnmatch import translate
from functools import lru_cache
from typing import Final

from ticker.quotes import QuoteTable

#: Patterns whose matches are remembered: at most 8 bytes for each symbol and pattern.
PATTERNS_REMEMBERED: Final = 32


_WILDCARD: Final = re.compile(r"[*?\[]")


def is_pattern(name: str) -> bool:
    """Whether `name`, where it is no symbol's own, is a shell pattern."""
    return _WILDCARD.search(name) is not None


@lru_cache(maxsize=512)
def matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """Whether a name matches a shell pattern, case and all, in time that grows with length times length at worst."""
    return re.compile(translate(pattern)).match


def covering(entitled: Collection[str]) -> Callable[[str], bool]:
    """Tells of a name whether it is among names and patterns."""
    if "*" in entitled:
        return lambda _: True
    exact, patterns = frozenset(entitled), [matcher(pattern) for pattern in entitled if is_pattern(pattern)]
    return lambda name: name in exact or any(match(name) for match in patterns)


class Directory:
    """The symbols that clients can watch, and which of them each shell pattern matches. Shared by sessions of a hub.

    Feeds may have claimed more symbols: each is let in once the table has a row for it, by `admit`. A pattern is tried
    on a symbol once, not once a client, as long as it is remembered.

    It may be that of clients who are entitled to some symbols alone: of the others it knows nothing.
    """

    def __init__(self, table: QuoteTable, entitled: Collection[str] = ("*",)) -> None:
        """`entitled` are names and patterns."""
        self._table = table
        self._names = table.symbols.names
        self._all = "*" in entitled
        #: Whether who asks here is entitled to a name, be there such a symbol or not.
        self.covers = covering(entitled)
        #: Where not all are: the rows that are, ascending.
        self._rows: array[int] = array("q")
        #: How many symbols have been let in or not: they are the first rows.
        self.known = 0
        #: Ascending rows by pattern, and how many symbols were tried; the pattern asked for last is the last.
        self._found: dict[str, tuple[array[int], int]] = {}
        self._sorted: list[str] = []
        self.admit()

    def admit(self) -> dict[str, int]:
        """Let in the symbols that the table has a row for by now; returns those that are new: name to row."""
        start, self.known = self.known, min(len(self._names), self._table.capacity)
        if start == self.known:
            return {}
        arrived = {name: row for row, name in enumerate(self._names[start : self.known], start) if self.covers(name)}
        if not self._all:
            self._rows.extend(arrived.values())
        return arrived

    def find(self, name: str) -> int | None:
        """The row of `name`, or None where it is not in."""
        row = self._table.symbols.find(name)
        return row if row is not None and row < self.known and (self._all or self.covers(name)) else None

    def names(self) -> Sequence[str]:
        """All that are in, by name."""
        rows = self._since(0)
        if len(self._sorted) != len(rows):
            self._sorted = sorted(self._names[row] for row in rows)
        return self._sorted

    def trials(self, patterns: Collection[str]) -> int:
        """How many trials it takes at most to find what each of `patterns`, distinct, matches, if that is done next."""
        patterns = [pattern for pattern in patterns if pattern != "*"]
        if len(patterns) > PATTERNS_REMEMBERED:  # they push each other out
            return len(patterns) * self.known
        left = 0
        for pattern in patterns:
            found, tried = self._found.pop(pattern, (None, 0))
            if found is not None:
                self._found[pattern] = found, tried  # so that none of the others pushes it out
            left += self.known - tried
        return left

    def matching(self, pattern: str, start: int = 0) -> Sequence[int]:
        """The rows from `start` on whose names `pattern` matches, ascending."""
        if pattern == "*":
            return self._since(start)
        match, names = matcher(pattern), self._names
        if start and pattern not in self._found:
            return [row for row in self._since(start) if match(names[row])]
        found, tried = self._found.pop(pattern, (array("q"), 0))
        found.extend(row for row in self._since(tried) if match(names[row]))
        self._found[pattern] = found, self.known
        if len(self._found) > PATTERNS_REMEMBERED:
            del self._found[next(iter(self._found))]
        return found[bisect_left(found, start) :]

    def _since(self, start: int) -> Sequence[int]:
        """The rows from `start` on."""
        return range(start, self.known) if self._all else self._rows[bisect_left(self._rows, start) :]
