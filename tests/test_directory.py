"""The directory: which symbols a pattern matches, found once and in bounded time."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.ticks import Symbols
from ticker.directory import Directory, matcher
from ticker.quotes import QuoteTable


@pytest.mark.parametrize(
    "pattern", ["*a" * 31 + "*b", "*?a" * 21, "*[a-c]?" * 9, "*" * 63 + "b", "?*" * 31 + "b", "*a*" * 20 + "b"]
)
def test_no_pattern_can_stall_the_loop(pattern: str) -> None:
    match = matcher(pattern)
    began = time.process_time()
    for name in ("a" * 64, "a" * 63 + "c", "ab" * 32):
        match(name)
    assert time.process_time() - began < 0.05  # a backtracking one takes longer than the universe has lasted


@given(pattern=st.text("ab*?[]!-^&~|#.", min_size=1, max_size=20), name=st.text("ab[]-^!.", max_size=8))
def test_a_pattern_matches_what_a_shell_would_match(pattern: str, name: str) -> None:
    assert bool(matcher(pattern)(name)) == fnmatchcase(name, pattern)


def test_what_a_pattern_matches_is_remembered_and_extended() -> None:
    symbols = Symbols()
    part = symbols.part("feed")
    symbols.claim_all((f"S{i}" for i in range(10)), part)
    directory = Directory(QuoteTable(symbols))
    assert list(directory.matching("*1")) == [1]
    symbols.claim_all(("T1", "T2"), part)
    assert directory.admit() == {"T1": 10, "T2": 11}
    for pattern, rows in (("*1", [10]), ("T*", [10, 11]), ("*", [10, 11])):
        assert list(directory.matching(pattern, 10)) == rows
    assert list(directory.matching("*1")) == [1, 10]
    for i in range(100):
        assert not directory.matching(f"no{i}*")
    assert list(directory.matching("*1")) == [1, 10]


def test_the_trials_that_are_left_are_told() -> None:
    symbols = Symbols()
    part = symbols.part("feed")
    symbols.claim_all((f"S{i}" for i in range(10)), part)
    directory = Directory(QuoteTable(symbols))
    assert directory.trials(["*"]) == 0
    assert directory.trials(["*1", "*2"]) == 20
    directory.matching("*1")
    symbols.claim_all(("T1", "T2"), part)
    directory.admit()
    assert directory.trials(["*1", "*2"]) == 2 + 12
    for i in range(100):  # what was asked for last is remembered for longest
        directory.matching(f"no{i}*")
        directory.trials(["*1"])
    assert directory.trials(["*1"]) == 2
    many = [f"*{i}*" for i in range(100)]
    for pattern in many:
        directory.matching(pattern)
    assert directory.trials(many) == 100 * 12  # they push each other out
