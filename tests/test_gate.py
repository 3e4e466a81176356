"""The gate: who is let in, counted so that nobody is counted for longer than they stay."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker.gate import Gate, RefusalError, Visit, network_of
from ticker.settings import Settings, origins

NOW = 1_800_000_000_000_000
SECOND = 1_000_000


def gate(**settings: Any) -> Gate:
    return Gate(Settings(**settings), NOW)


def refused(gate: Gate, address: str = "10.0.0.1", now: int = NOW, **headers: Any) -> tuple[int, str, int | None]:
    """How an attempt is refused: status, reason, and when to try again."""
    before = gate.refusals.total()
    with pytest.raises(RefusalError) as caught, gate.admit(address, now, **headers):
        pass
    failure = caught.value
    assert gate.refusals.total() == before + 1
    assert gate.refusals[failure.reason] >= 1
    return failure.status, failure.reason, failure.retry_after_s


def test_no_more_than_there_is_room_for() -> None:
    held = gate(connections_max=2)
    with held.admit("a", NOW), held.admit("b", NOW):
        assert held.inside == 2
        assert refused(held) == (503, "full", 5)
    with held.admit("a", NOW):
        assert held.inside == 1
    assert held.inside == 0


def test_nobody_while_draining() -> None:
    held = gate()
    with held.admit("a", NOW):
        held.draining = True
        assert refused(held) == (503, "draining", 5)
        assert held.inside == 1


def test_no_more_than_so_many_from_one_address() -> None:
    held = gate(connections_per_address_max=2)
    with held.admit("10.0.0.1", NOW), held.admit("10.0.0.1", NOW):
        assert refused(held) == (429, "address", 5)
        with held.admit("10.0.0.2", NOW):
            pass
    with held.admit("10.0.0.1", NOW):
        pass


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        (None, ""),
        ("testclient", "testclient"),
    ],
)
def test_an_address_is_counted_by_what_a_subscriber_has(address: str | None, network: str) -> None:
    assert network_of(address) == network


def test_no_more_than_so_many_of_one_subject_and_a_grant_may_say_less() -> None:
    held = gate(connections_per_subject_max=2)
    with held.admit("a", NOW) as first, held.admit("b", NOW) as second, held.admit("c", NOW) as third:
        first.seat("desk-7")
        second.seat("desk-7", 9)
        third.seat("desk-8")
        assert held.subjects == 2
        for subject, most in (("desk-7", None), ("desk-8", 1)):
            at_most = f"at most {most or 2} connections with tokens of one subject"
            with held.admit("d", NOW) as another, pytest.raises(RefusalError, match=at_most) as caught:
                another.seat(subject, most)
            assert (caught.value.status, caught.value.retry_after_s) == (429, 5)
    assert (held.subjects, held.inside) == (0, 0)
    assert held.refusals["subject"] == 2


def test_nobody_in_particular_is_not_counted() -> None:
    held = gate(connections_per_subject_max=1)
    with held.admit("a", NOW) as first, held.admit("b", NOW) as second:
        first.seat("")
        second.seat("", 1)
        assert held.subjects == 0


def test_handshakes_come_at_a_pace_with_bursts_of_five_seconds_worth() -> None:
    held = gate(handshakes_per_s_max=2)
    for _ in range(10):
        held.knock(NOW)
    assert refused(held) == (503, "rate", 5)
    assert held.inside == 0
    with held.admit("a", NOW + SECOND):
        pass
    held.knock(NOW + SECOND)
    assert refused(held, now=NOW + SECOND)[1] == "rate"


# -- origins -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "origin", "host", "admitted"),
    [
        ("", None, "prices.example", True),
        ("", "https://prices.example", "prices.example", True),
        ("", "https://prices.example", "prices.example:443", True),
        ("", "http://prices.example", "prices.example:80", True),
        ("", "HTTPS://Prices.Example", "prices.example", True),
        ("", "http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("", "http://[::1]:8000", "[::1]:8000", True),
        ("", "https://prices.example", "prices.example:8443", False),
        ("", "http://127.0.0.1:8001", "127.0.0.1:8000", False),
        ("", "https://evil.example", "prices.example", False),
        ("", "https://prices.example.evil.example", "prices.example", False),
        ("", "https://evil.example#prices.example", "prices.example", False),
        ("", "https://user@prices.example:1", "prices.example", False),
        ("", "null", "prices.example", False),
        ("", "", "prices.example", False),
        ("", "https://prices.example", None, False),
        ("", "http://[", "[", False),
        ("", "http://a:x", "a:x", False),
        ("https://a.example, https://b.example:8443", "https://a.example", "x", True),
        ("https://a.example, https://b.example:8443", "https://B.example:8443", "x", True),
        ("https://a.example, https://b.example:8443", "https://b.example", "b.example", False),
        ("https://a.example", "http://a.example", "x", False),
        ("https://a.example", None, "x", True),
        ("https://a.example,null", "null", "x", True),
        ("*", "https://evil.example", "x", True),
        ("*", "null", "x", True),
    ],
)
def test_which_pages_may_connect(allowed: str, origin: str | None, host: str | None, admitted: bool) -> None:
    held = gate(origins=allowed)
    if admitted:
        with held.admit("a", NOW, origin=origin, host=host):
            assert held.inside == 1
    else:
        assert refused(held, origin=origin, host=host) == (403, "origin", None)


@pytest.mark.parametrize(
    "text", ["prices.example", "https://", "https://a.example/path", "ftp://a", "https://a.example/", "https:a"]
)
def test_an_origin_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"origins: expected such as https://prices\.example"):
        origins(text)


@given(origin=st.text(max_size=30), host=st.text(max_size=30))
def test_no_header_can_break_it(origin: str, host: str) -> None:
    for allowed in ("", "https://a.example"):
        held = gate(origins=allowed)
        with suppress(RefusalError), held.admit("a", NOW, origin=origin, host=host):
            continue
        assert (held.inside, held.refusals) == (0, {"origin": 1})


# -- counting ------------------------------------------------------------------------------------------------------

MOVES = st.lists(
    st.tuples(st.sampled_from(["come", "leave"]), st.integers(0, 3), st.integers(0, 2), st.integers(0, 3)), max_size=60
)


@given(moves=MOVES, most=st.integers(1, 4))
def test_whoever_leaves_makes_room_for_another(moves: list[tuple[str, int, int, int]], most: int) -> None:
    held = gate(connections_max=5, connections_per_address_max=2, connections_per_subject_max=most)
    inside: list[tuple[int, int, Visit]] = []
    for move, address, subject, which in moves:
        if move == "leave":
            if inside:
                with inside.pop(which % len(inside))[2]:
                    pass
        else:
            free = len(inside) < 5 and sum(a == address for a, _, _ in inside) < 2
            seat = sum(s == subject for _, s, _ in inside) < most
            visit = None
            with suppress(RefusalError):
                visit = held.admit(f"10.0.0.{address}", NOW)
            assert (visit is not None) == free
            if visit is not None:
                seated = False
                with suppress(RefusalError):
                    visit.seat(f"desk-{subject}")
                    seated = True
                assert seated == seat
                if seated:
                    inside.append((address, subject, visit))
                else:
                    with visit:
                        pass
        assert held.inside == len(inside)
        assert held.subjects == len({subject for _, subject, _ in inside})
