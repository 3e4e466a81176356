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


@lru_cache(maxsize=512)
def matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """Whether a name matches a shell pattern, case and all, in time that grows with length times length at worst."""
    return re.compile(translate(pattern)).match


class Directory:
    """The symbols that clients can watch, and which of them each shell pattern matches. Shared by all sessions of a hub.

    Feeds may have claimed more symbols: each is let in once the table has a row for it, by `admit`. A pattern is tried
    on a symbol once, not once a client, as long as it is remembered.
    """

    def __init__(self, table: QuoteTable) -> None:
        self._table = table
        self._names = table.symbols.names
        #: How many symbols are in: they are the first rows.
        self.known = 0
        #: Ascending rows by pattern, and how many symbols were tried; the pattern asked for last is the last.
        self._found: dict[str, tuple[array[int], int]] = {}
        self.admit()

    def admit(self) -> dict[str, int]:
        """Let in the symbols that the table has a row for by now; returns those that are new: name to row."""
        start, self.known = self.known, min(len(self._names), self._table.capacity)
        return {name: row for row, name in enumerate(self._names[start : self.known], start)}

    def find(self, name: str) -> int | None:
        """The row of `name`, or None where it is not in."""
        row = self._table.symbols.find(name)
        return row if row is not None and row < self.known else None

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
            return range(start, self.known)
        match, names = matcher(pattern), self._names
        if start and pattern not in self._found:
            return [row for row in range(start, self.known) if match(names[row])]
        found, tried = self._found.pop(pattern, (array("q"), 0))
        found.extend(row for row in range(tried, self.known) if match(names[row]))
        self._found[pattern] = found, self.known
        if len(self._found) > PATTERNS_REMEMBERED:
            del self._found[next(iter(self._found))]
        return found[bisect_left(found, start) :]
