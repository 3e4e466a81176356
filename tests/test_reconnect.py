"""How endings are taken, and how long is waited for the next connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker.errors import Close
from ticker.reconnect import Advice, Backoff, closed, refused


@pytest.mark.parametrize("close", Close)
def test_a_close_code_is_taken_as_the_protocol_advises(close: Close) -> None:
    ending = closed(close.code, close.reason)
    assert (ending.advice is Advice.RECONNECT) == close.reconnect
    assert ending.reason == f"closed with {close.code} {close.reason}"


def test_only_done_is_no_failure() -> None:
    assert [close for close in Close if closed(close.code, "").advice is Advice.FINISH] == [Close.DONE]


@pytest.mark.parametrize("code", [None, 1001, 1011, 4999])
def test_a_cut_and_an_unknown_code_are_tried_again(code: int | None) -> None:
    assert closed(code, "").advice is Advice.RECONNECT


@given(chance=st.floats(0, 1, exclude_max=True), failures=st.integers(0, 40), after_s=st.floats(0, 1e6))
def test_a_wait_is_spread_over_a_window_that_doubles_up_to_a_ceiling(
    chance: float, failures: int, after_s: float
) -> None:
    backoff = Backoff(lambda: chance, base_s=0.5, ceiling_s=30, stable_s=60)
    for _ in range(failures):
        backoff.delay_s(lived_s=59)
    window_s = min(0.5 * 2**failures, 30)
    assert backoff.delay_s(lived_s=0, after_s=after_s) == after_s + chance * window_s
    assert backoff.delay_s(lived_s=60) == chance * 0.5


@pytest.mark.parametrize(
    ("headers", "after_s"),
    [
        ({}, 0),
        ({"Retry-After": "120"}, 120),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "-5"}, 0),
        ({"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT", "Date": "Fri, 31 Dec 1999 23:59:29 GMT"}, 30),
        ({"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, 0),
    ],
)
def test_retry_after_is_read_in_both_its_forms(headers: dict[str, str], after_s: float) -> None:
    assert refused(503, headers).after_s == after_s


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, Advice.FAIL), (403, Advice.FAIL), (404, Advice.FAIL), (429, Advice.RECONNECT), (502, Advice.RECONNECT)],
)
def test_only_what_passes_by_itself_is_tried_again(status: int, advice: Advice) -> None:
    assert refused(status, {}).advice is advice
