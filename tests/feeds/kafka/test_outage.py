from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from feeds.kafka import outage
from feeds.kafka.outage import CALM_S, CAUSES_MAX, PAUSE_S_MAX, PAUSE_S_MIN, SAID_PAUSE_S, Outage


@dataclass
class Hand:
    """A steady clock that a test turns."""

    time: float = 1000.0

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    turned = Hand()
    monkeypatch.setattr(outage, "time", turned)
    return turned


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What has been said so far, by level and text; a test clears it."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.levelname.lower()}: {record.getMessage()}")

    handler = Lines()
    caplog.set_level(logging.INFO, outage.log.name)
    outage.log.addHandler(handler)
    yield lines
    outage.log.removeHandler(handler)


# -- what is said --------------------------------------------------------------------------------------------------


def test_each_cause_is_said_once(hand: Hand, said: list[str]) -> None:
    gone = Outage("kafka")
    for _ in range(10):
        gone.goes_on("b:1: connection refused")
        gone.goes_on("b:2: no answer within 5 s")
        hand.time += 1
    assert said == [
        "warning: feed kafka: cannot read: b:1: connection refused",
        "warning: feed kafka: cannot read: b:2: no answer within 5 s",
    ]


def test_the_cause_is_the_newest(hand: Hand) -> None:
    gone = Outage("kafka")
    assert gone.cause is None
    gone.goes_on("one")
    gone.goes_on("two")
    gone.goes_on("one")
    assert gone.cause == "one"


def test_what_goes_on_is_said_again_each_minute(hand: Hand, said: list[str]) -> None:
    gone = Outage("kafka")
    for _ in range(4 * 180 + 1):  # three minutes, four times a second
        gone.goes_on("refused")
        hand.time += 0.25
    assert SAID_PAUSE_S == 60
    assert said == [
        "warning: feed kafka: cannot read: refused",
        "warning: feed kafka: cannot read for 60 s: refused",
        "warning: feed kafka: cannot read for 120 s: refused",
        "warning: feed kafka: cannot read for 180 s: refused",
    ]


def test_causes_without_end_are_not_all_said(hand: Hand, said: list[str]) -> None:
    gone = Outage("kafka")
    for port in range(100):
        gone.goes_on(f"port {port}")
        hand.time += 1
    first = [f"warning: feed kafka: cannot read: port {port}" for port in range(CAUSES_MAX)]
    assert said == [*first, "warning: feed kafka: cannot read for 64 s: port 64"]
    assert gone.cause == "port 99"


def test_it_is_over_and_may_begin_anew(hand: Hand, said: list[str]) -> None:
    gone = Outage("kafka")
    gone.goes_on("refused")
    hand.time += 7
    gone.goes_on("refused")
    hand.time += 5
    gone.is_over()
    assert gone.cause is None
    assert said.pop() == "info: feed kafka: reading again after 12 s"
    said.clear()
    hand.time += 1000
    gone.goes_on("refused")
    hand.time += 3
    gone.is_over()
    assert said == [
        "warning: feed kafka: cannot read: refused",
        "info: feed kafka: reading again after 3 s",
    ]


def test_that_all_is_well_is_not_said(hand: Hand, said: list[str]) -> None:
    well = Outage("kafka")
    for _ in range(3):
        well.is_over()
    assert said == []
    assert well.cause is None


# -- pauses --------------------------------------------------------------------------------------------------------


def bounds(monkeypatch: pytest.MonkeyPatch, gone: Outage, count: int) -> list[tuple[float, float]]:
    """Between what each of the next pauses is drawn."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    with monkeypatch.context() as patched:
        patched.setattr(random, "uniform", uniform)
        assert [gone.pause_s() for _ in range(count)] == [high for _, high in drawn]
    return drawn


def test_pauses_are_drawn_up_to_a_limit_that_doubles_up_to_a_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (PAUSE_S_MIN, PAUSE_S_MAX) == (0.25, 5)
    limits = [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    assert bounds(monkeypatch, Outage("kafka"), 8) == [(0.125, limit) for limit in limits]


def test_the_ceiling_holds_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Outage("kafka")
    bounds(monkeypatch, gone, 5000)
    assert bounds(monkeypatch, gone, 1) == [(0.125, 5)]


@pytest.mark.parametrize(("calm_s", "limit_s"), [(0.0, PAUSE_S_MAX), (CALM_S - 1, PAUSE_S_MAX), (CALM_S, PAUSE_S_MIN)])
def test_pauses_begin_anew_once_it_has_been_over_for_a_while(
    hand: Hand, monkeypatch: pytest.MonkeyPatch, calm_s: float, limit_s: float
) -> None:
    gone = Outage("kafka")
    gone.goes_on("refused")
    bounds(monkeypatch, gone, 8)
    gone.is_over()
    hand.time += calm_s
    gone.goes_on("refused")
    assert bounds(monkeypatch, gone, 1) == [(PAUSE_S_MIN / 2, limit_s)]


def test_pauses_differ() -> None:
    pauses: list[list[float]] = []
    for gone in [Outage("kafka") for _ in range(200)]:
        pauses.append([gone.pause_s() for _ in range(7)])
    assert all(PAUSE_S_MIN / 2 <= pause <= PAUSE_S_MAX for each in pauses for pause in each)
    assert len({each[-1] for each in pauses}) == 200
