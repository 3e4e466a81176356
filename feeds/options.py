"""A feed's spec taken apart: ``SCHEME:PATH?name=value&name=value``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar
from urllib.parse import unquote

from feeds.convert import time_of
from feeds.feed import FeedError
from feeds.fields import FIELDS

T = TypeVar("T")
D = TypeVar("D")

_BACK: Final = re.compile(r"-(?P<count>[0-9]{1,9})(?P<unit>ms|s|m|h|d)")
_UNIT_US: Final = {"ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


class Spec:
    """What stands in a spec. Each option is taken once, by `option`; `done` refuses those that nothing took.

    The path runs up to the first ``?`` and stands as it is. ``%`` escapes are undone in values. Raises FeedError, which
    shows the path alone: an option that nobody knows may be a secret that strayed here.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.scheme, colon, rest = text.partition(":")
        if not colon:
            raise self.error("expected SCHEME:..., such as sim: or replay:FILE")
        self.path, _, query = rest.partition("?")
        #: The names that `option` has been asked for.
        self.known: dict[str, None] = {}
        self._options: dict[str, str] = {}
        for item in filter(None, query.split("&")):
            name, equals, value = item.partition("=")
            if not equals:
                raise self.error("expected options as name=value")
            if name in self._options:
                raise self.error(f"{name}: expected once, was given twice")
            self._options[name] = unquote(value)

    def option(self, name: str, default: D, parse: Callable[[str], T], expected: str) -> T | D:
        """The value of an option. `parse` raises ValueError for what is not `expected`."""
        self.known[name] = None
        text = self._options.get(name)
        if text is None:
            return default
        try:
            return parse(text)
        except ValueError:
            raise self.error(f"{name}: expected {expected}, was {text!r}") from None

    def done(self) -> None:
        unknown = [name for name in self._options if name not in self.known]
        if unknown:
            raise self.error(f"unknown option {unknown[0]!r}: expected {', '.join(self.known)}")

    def error(self, cause: str) -> FeedError:
        shown = self.text.partition("?")[0]
        place, slashes, _ = shown.partition("//")
        if slashes and "@" in self.text:  # a user and a password before a host
            shown = f"{place}//..."
        return FeedError(f"feed {shown!r}: {cause}")


def whole(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        number = int(text)
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def time(text: str) -> int:
    """A time in microseconds: ISO 8601, or a number whose unit is told from its size."""
    parsed = time_of(text)
    if parsed is None:
        raise ValueError
    return parsed


def time_back(text: str) -> int | None:
    """A time back from now in microseconds, such as ``-15m``; None for what is no such thing."""
    found = _BACK.fullmatch(text)
    return None if found is None else int(found["count"]) * _UNIT_US[found["unit"]]


def fields_renamed(text: str) -> dict[str, str]:
    """Fields and the names they go by in a source: ``price:px,ts_event:time``."""
    pairs = dict(pair.split(":", 1) for pair in text.split(","))
    if not pairs.keys() <= set(FIELDS) or not all(pairs.values()):
        raise ValueError
    return pairs


def flag(text: str) -> bool:
    if text not in {"0", "1"}:
        raise ValueError
    return text == "1"
