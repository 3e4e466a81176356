"""One client: what it may ask, what it is answered, and that nothing it sends can break anything."""

from __future__ import annotations

import json
import time
from fnmatch import fnmatchcase
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feeds.ticks import Symbols
from tests.hubs import NOON, Desk, batch, quote
from ticker.errors import Close
from ticker.protocol import ALL_FIELDS, Subscribe
from ticker.quotes import QuoteTable
from ticker.session import Outcome, Session
from ticker.settings import Settings

SECOND = 1_000_000
EPOCHS = {"feed": "k-1"}


def session_of(*names: str, closed: bool = False, **limits: Any) -> Session:
    """A session over a table in which each of `names` has had one quote, in order, from seq 1."""
    symbols = Symbols()
    symbols.part("feed")
    table = QuoteTable(symbols)
    if names:
        table.apply(batch(symbols, [quote(name, seq, 1.0) for seq, name in enumerate(names, 1)]))
    return Session(table, Settings(**limits), EPOCHS, NOON, closed=closed)


def say(session: Session, now: int = NOON, **command: Any) -> dict[str, Any]:
    """The one reply to a command."""
    (reply,) = session.receive(json.dumps(command), now).replies
    return reply


def subscribe(session: Session, *symbols: str, **options: Any) -> dict[str, Any]:
    return say(session, op="subscribe", symbols=symbols, **options)


def served(session: Session) -> dict[str, int]:
    """Each watched symbol, and the interval that serves it."""
    names = session._symbols.names
    return {names[row]: key.interval_ms for row, key in sorted(session.rows.items())}


# -- subscriptions -------------------------------------------------------------------------------------------------


def test_an_exact_name_beats_a_pattern_and_a_newer_pattern_beats_an_older() -> None:
    session = session_of("AA", "AB", "BA")
    subscribe(session, "A*", interval_ms=100)
    subscribe(session, "AA", interval_ms=200)
    subscribe(session, "*A", interval_ms=300)
    assert served(session) == {"AA": 200, "AB": 100, "BA": 300}
    say(session, op="unsubscribe", symbols=["AA"])
    assert served(session) == {"AA": 300, "AB": 100, "BA": 300}
    subscribe(session, "A*", interval_ms=400)
    assert served(session) == {"AA": 400, "AB": 400, "BA": 300}
    say(session, op="unsubscribe", symbols=["A*"])
    assert served(session) == {"AA": 300, "BA": 300}


def test_unsubscribing_removes_exactly_the_string_that_was_subscribed() -> None:
    session = session_of("AA", "AB")
    subscribe(session, "A*")
    reply = say(session, op="unsubscribe", id=7, symbols=["AA", "*"])
    assert reply == {
        "type": "unsubscribed",
        "id": 7,
        "channel": "ticker",
        "symbols": [],
        "rejected": [{"symbol": "AA", "code": "unknown_symbol"}, {"symbol": "*", "code": "unknown_symbol"}],
    }
    assert served(session).keys() == {"AA", "AB"}


def test_a_subscription_that_serves_a_symbol_as_before_owes_nothing_when_another_goes() -> None:
    session = session_of("AA")
    subscribe(session, "A*", "AA")
    outcome = session.receive('{"op":"unsubscribe","symbols":["AA"]}', NOON)
    assert not outcome.was
    assert not outcome.fresh


def test_a_symbol_that_no_feed_has_brought_is_pending_and_is_served_once_it_appears() -> None:
    desk = Desk()
    client = desk.join()
    (reply,) = client.subscribe("AA", "B*")
    assert (reply["symbols"], reply["pending"], reply["patterns"]) == (["AA"], ["AA"], ["B*"])
    desk.read(quote("AA", 1, 1.0), quote("BB", 2, 1.0), quote("CC", 3, 1.0))
    assert served(client.client.session).keys() == {"AA", "BB"}


def test_a_symbol_is_unknown_only_where_the_list_of_symbols_is_closed() -> None:
    session = session_of("AA", closed=True)
    assert subscribe(session, "AA", "ZZ")["rejected"] == [{"symbol": "ZZ", "code": "unknown_symbol"}]


def test_a_pattern_that_turns_out_to_be_a_symbol_s_name_is_replaced_by_it() -> None:
    desk = Desk()
    client = desk.join()
    client.subscribe("A*", interval_ms=100)
    desk.read(quote("A*", 1, 1.0), quote("AB", 2, 1.0))
    assert served(client.client.session) == {"A*": 100, "AB": 100}
    client.subscribe("A*", interval_ms=200)
    assert served(client.client.session) == {"A*": 200}
    client.say(op="unsubscribe", symbols=["A*"])
    assert served(client.client.session) == {}


def test_symbols_past_the_first_rows_of_the_table_are_pending_until_it_has_grown() -> None:
    desk = Desk("AA", "BB", "CC", capacity=2)
    client = desk.join()
    (reply, *_) = client.subscribe("AA", "CC", "*")
    assert reply["pending"] == ["AA", "CC"]
    assert served(client.client.session).keys() == {"AA", "BB"}
    desk.read(quote("CC", 1, 1.0))
    assert served(client.client.session).keys() == {"AA", "BB", "CC"}


# -- resuming ------------------------------------------------------------------------------------------------------


def test_what_the_client_holds_is_resumed_sent_or_waited_for() -> None:
    session = session_of("AA", "BB", "CC")
    command = Subscribe(1, ("AA", "BB", "CC"), since={"AA": 1, "BB": 1, "CC": 9}, epoch="k-1")
    outcome = session.receive(command, NOON)
    assert outcome.replies[0]["resumed"] == {"AA": 1}
    assert (list(outcome.resumed), list(outcome.fresh), outcome.ahead) == ([0], [1], {2: 9})


def test_a_seq_of_another_log_resumes_nothing() -> None:
    session = session_of("AA")
    for epoch in ("k-2", "k-1x", None):
        outcome = session.receive(Subscribe(1, ("AA",), since={"AA": 1}, epoch=epoch), NOON)
        assert (outcome.replies[0]["resumed"], list(outcome.fresh)) == ({}, [0])


def test_a_symbol_resumes_on_its_own_feed_s_part_of_the_epoch() -> None:
    session = session_of("AA")
    outcome = session.receive(Subscribe(1, ("AA",), since={"AA": 1}, epoch="s-9+k-1"), NOON)
    assert outcome.replies[0]["resumed"] == {"AA": 1}


def test_a_client_that_has_had_all_of_a_log_up_to_a_position_holds_what_has_not_moved_since() -> None:
    session = session_of("AA", "BB")
    (part,) = {str(part) for part in session._symbols.parts}
    for at, resumed, fresh, ahead in (
        (2, {"AA": 1, "BB": 1}, [], {}),
        (1, {"AA": 1}, [1], {}),
        (0, {}, [0, 1], {}),
        (7, {}, [], {0: 7, 1: 7}),  # more than this log has been read: it may hold anything up to there
    ):
        command = Subscribe(1, ("AA", "BB"), epoch="k-1", positions={part: at})
        outcome = session.receive(command, NOON)
        assert outcome.replies[0]["resumed"] == resumed
        assert (list(outcome.fresh), outcome.ahead) == (fresh, ahead)


def test_what_is_held_of_symbols_that_no_feed_has_brought_is_remembered_up_to_the_limit_of_symbols() -> None:
    session = session_of("AA", symbols_max=10)
    since = {f"X{i}": 5 for i in range(1000)}
    session.receive(Subscribe(1, ("X*",), since=since, epoch="k-1"), NOON)
    assert len(session.awaited) == 10
    session.receive('{"op":"unsubscribe","symbols":["X*"]}', NOON)
    assert not session.awaited


# -- limits --------------------------------------------------------------------------------------------------------


def test_ten_thousand_subscriptions_are_answered_symbol_by_symbol() -> None:
    session = session_of(symbols_max=1000)
    names = [f"S{i}" for i in range(10_000)]
    reply = subscribe(session, *names)
    assert reply["symbols"] == reply["pending"] == names[:1000]
    assert reply["rejected"] == [{"symbol": name, "code": "limit_symbols"} for name in names[1000:]]


def test_the_excess_of_a_pattern_is_answered_once_with_a_count() -> None:
    desk = Desk(*(f"S{i}" for i in range(5)), symbols_max=3)
    client = desk.join()
    (reply,) = client.subscribe("*")
    assert reply["rejected"] == [{"symbol": "*", "code": "limit_symbols", "count": 2}]
    desk.read(quote("NEW", 1, 1.0))
    assert client.take() == []
    assert len(client.client.session.rows) == 3


def test_after_an_unsubscribe_a_new_excess_is_told_again() -> None:
    desk = Desk(*(f"S{i}" for i in range(4)), symbols_max=3)
    client = desk.join()
    client.subscribe("*")
    client.subscribe("S0")
    client.say(op="unsubscribe", symbols=["S0"])
    client.take()
    desk.read(quote("NEW", 9, 1.0))
    assert [message["count"] for message in client.take() if message["type"] == "error"] == [1]


def test_the_excess_of_symbols_that_appear_is_answered_once_with_a_count() -> None:
    desk = Desk(symbols_max=3)
    client = desk.join()
    client.subscribe("*")
    desk.read(*(quote(f"S{i}", i + 1, 1.0) for i in range(5)))
    assert client.take() == [
        {
            "type": "error",
            "code": "limit_symbols",
            "message": "*: expected at most 3 symbols, 2 more are left out",
            "fatal": False,
            "symbol": "*",
            "count": 2,
        }
    ]
    desk.read(quote("NEW", 6, 1.0))
    assert client.take() == []


def test_a_symbol_that_is_watched_already_passes_the_limit() -> None:
    session = session_of("AA", "BB", symbols_max=2)
    subscribe(session, "*")
    assert subscribe(session, "AA", "ZZ")["rejected"] == [{"symbol": "ZZ", "code": "limit_symbols"}]


def test_patterns_and_lanes_are_limited() -> None:
    session = session_of("AA", patterns_max=2, lanes_max=2)
    assert subscribe(session, "A*", "B*", "C*")["rejected"] == [{"symbol": "C*", "code": "limit_symbols"}]
    assert subscribe(session, "A*")["rejected"] == []
    subscribe(session, "AA", interval_ms=7)
    reply = subscribe(session, "X", interval_ms=8)
    assert (reply["code"], reply["message"]) == (
        "limit_lanes",
        "expected at most 2 different pairs of interval and fields, was 3",
    )
    assert subscribe(session, "AA", interval_ms=8)["type"] == "subscribed"


def test_a_tight_loop_of_subscribing_is_refused_and_then_closed() -> None:
    session = session_of("AA", messages_per_s_max=5)
    replies: list[dict[str, Any]] = []
    for i in range(100):
        outcome = session.receive(json.dumps({"op": ("subscribe", "unsubscribe")[i % 2], "symbols": ["AA"]}), NOON)
        replies += outcome.replies
        if outcome.close:
            break
    assert outcome.close is Close.RATE_LIMITED
    assert replies[-1]["code"] == "rate_limited"
    assert replies[-1]["fatal"]
    assert replies[-1]["message"] == "expected at most 5 messages a second, was more"
    assert len(replies) == 10 + 10 + 1
    assert say(session, NOON + SECOND, op="ping")["type"] == "pong"


def test_a_command_costs_what_it_asks_for() -> None:
    session = session_of(messages_per_s_max=100)
    assert subscribe(session, *(f"S{i}" for i in range(15_000)))["type"] == "subscribed"
    assert subscribe(session, *(f"S{i}" for i in range(15_000)))["code"] == "rate_limited"
    assert say(session, op="ping")["type"] == "pong"


def test_patterns_are_paid_for_by_the_trials_that_they_take() -> None:
    desk = Desk(*(f"S{i}" for i in range(20_000)), capacity=32_768)
    client = desk.join()
    patterns = [f"*{i}?" for i in range(32)]
    (refused,) = client.subscribe(*patterns)
    assert (refused["code"], refused["message"]) == (
        "rate_limited",
        "expected at most 100 messages a second, never more than 200, was more: this one counts as 673",
    )
    assert not client.client.session.rows
    for i in range(0, 32, 8):  # one after another they can be paid
        assert client.subscribe(*patterns[i : i + 8])[0]["type"] == "subscribed"
        desk.now += 3 * SECOND
    other = desk.join()  # the directory remembers them by now
    assert other.subscribe(*patterns)[0]["type"] == "subscribed"
    assert other.say(op="unsubscribe", symbols=patterns)[0]["symbols"] == patterns


@pytest.mark.parametrize("seconds", [1, 100])
def test_a_client_at_its_limits_can_pay_for_what_it_may_have(seconds: int) -> None:
    names = [f"{'S' * 60}{i:03}" for i in range(500)]
    desk = Desk(*names, messages_per_s_max=seconds)
    client = desk.join()
    since = dict.fromkeys(names, 1)
    assert client.subscribe(*names, since=since, epoch="k-1")[0]["type"] == "subscribed"
    if seconds == 100:
        assert client.subscribe(*(f"*{i}" for i in range(32)))[0]["type"] == "subscribed"
    else:
        assert desk.join().subscribe("*1*")[0]["type"] == "subscribed"


def test_no_command_takes_long_however_many_symbols_there_are() -> None:
    """On 100,000 symbols, what is not refused is done in about a twentieth of a second."""
    desk = Desk(*(f"binance-spot:S{i}" for i in range(100_000)), capacity=131_072)
    longest = 0.0
    for count in (1, 2, 8, 32):
        client = desk.join()
        patterns = [f"*{count}?{i}" for i in range(count)]
        for op in ("subscribe", "unsubscribe"):
            began = time.process_time()
            client.say(op=op, symbols=patterns)
            longest = max(longest, time.process_time() - began)
    assert longest < 0.15


def test_a_clock_that_is_set_back_neither_grants_nor_takes_messages() -> None:
    session = session_of(messages_per_s_max=1)
    for now in (NOON, NOON - SECOND):
        assert say(session, now, op="ping")["type"] == "pong"
    assert say(session, NOON - SECOND, op="ping")["code"] == "rate_limited"
    assert say(session, NOON, op="ping")["type"] == "pong"


def test_repeated_violations_close_and_one_a_second_is_forgiven() -> None:
    session = session_of(violations_max=3)
    assert [session.receive(b"\xff", NOON).close for _ in range(4)] == [None, None, None, Close.VIOLATION]
    session = session_of(violations_max=3)
    assert not any(session.receive(b"\xff", NOON + i * SECOND).close for i in range(50))


# -- bad input -----------------------------------------------------------------------------------------------------

DEEP = '{"op":"subscribe","symbols":' + "[" * 100_000 + "]" * 100_000 + "}"

BAD_INPUT: dict[str, tuple[str | bytes, str, str]] = {
    "malformed": ("{op:subscribe}", "invalid_request", "expected one JSON object, was not JSON"),
    "truncated": ('{"op":"subscribe","symbols":["A', "invalid_request", "expected one JSON object, was not JSON"),
    "empty": ("", "invalid_request", "expected one JSON object, was not JSON"),
    "binary": (bytes(range(256)), "invalid_request", "expected one JSON object, was not JSON"),
    "invalid UTF-8": (b'{"op":"\xc3\x28"}', "invalid_request", "expected one JSON object, was not JSON"),
    "lone surrogate, escaped": ('{"op":"\\ud800"}', "invalid_request", "expected one JSON object, was not JSON"),
    "lone surrogate": ('{"op":"\ud800"}', "invalid_request", "expected one JSON object, was not JSON"),
    "NaN": ('{"op":"ping","id":NaN}', "invalid_request", "expected one JSON object, was not JSON"),
    "deep nesting": (DEEP, "invalid_request", "expected one JSON object, was not JSON"),
    "an array": ("[1,2,3]", "invalid_request", "expected one JSON object, was a list of 3"),
    "a number": ("7", "invalid_request", "expected one JSON object, was 7"),
    "null": ("null", "invalid_request", "expected one JSON object, was null"),
    "no op": (
        "{}",
        "invalid_request",
        "op: expected one of auth, subscribe, unsubscribe, resync, ping, play, pause, speed, seek, step, which is missing",
    ),
    "op of a wrong type": ('{"op":["ping"]}', "invalid_request", "op: expected a string, was a list of 1"),
    "unknown op": (
        '{"op":"buy"}',
        "unknown_op",
        "op: expected one of auth, subscribe, unsubscribe, resync, ping, play, pause, speed, seek, step, was 'buy'",
    ),
    "op of a replay": ('{"op":"seek","ts":1}', "not_replay", "op: seek is for /v1/replay, this is a live stream"),
    "unknown member": ('{"op":"ping","at":1}', "unknown_field", "ping: expected no other member, was 'at'"),
    "misspelt member": (
        '{"op":"resync","symbol":["A"]}',
        "unknown_field",
        "resync: expected one of symbols, was 'symbol'",
    ),
    "no symbols": ('{"op":"subscribe"}', "invalid_request", "subscribe: expected symbols, which is missing"),
    "empty symbols": (
        '{"op":"subscribe","symbols":[]}',
        "invalid_request",
        "symbols: expected a list of strings, at least one, was none",
    ),
    "symbols of a wrong type": (
        '{"op":"subscribe","symbols":"A"}',
        "invalid_request",
        "symbols: expected a list of strings, at least one, was 'A'",
    ),
    "a symbol of a wrong type": (
        '{"op":"subscribe","symbols":["A",{}]}',
        "invalid_request",
        "symbols: expected strings, was an object",
    ),
    "unknown channel": (
        '{"op":"subscribe","channel":"l2","symbols":["A"]}',
        "unknown_channel",
        "channel: expected one of ticker, trades, bars, was 'l2'",
    ),
    "unknown field": (
        '{"op":"subscribe","symbols":["A"],"fields":["bid","bidd"]}',
        "unknown_field",
        "fields: expected one of bid, ",
    ),
    "no fields": (
        '{"op":"subscribe","symbols":["A"],"fields":[]}',
        "invalid_request",
        "fields: expected a list of field names, at least one, was none",
    ),
    "interval below": (
        '{"op":"subscribe","symbols":["A"],"interval_ms":-5}',
        "invalid_request",
        "interval_ms: expected 0 to 60000, was -5",
    ),
    "interval above": (
        '{"op":"subscribe","symbols":["A"],"interval_ms":60001}',
        "invalid_request",
        "interval_ms: expected 0 to 60000, was 60001",
    ),
    "interval of a wrong type": (
        '{"op":"subscribe","symbols":["A"],"interval_ms":true}',
        "invalid_request",
        "interval_ms: expected a whole number from 0 to 60000, was true",
    ),
    "interval not whole": (
        '{"op":"subscribe","symbols":["A"],"interval_ms":0.5}',
        "invalid_request",
        "interval_ms: expected a whole number from 0 to 60000, was 0.5",
    ),
    "since of a wrong type": (
        '{"op":"subscribe","symbols":["A"],"since":[1]}',
        "invalid_request",
        "since: expected an object of symbol to seq, was a list of 1",
    ),
    "a huge seq": (
        '{"op":"subscribe","symbols":["A"],"since":{"A":9007199254740992}}',
        "invalid_request",
        "since: 'A': expected a seq, was 9007199254740992",
    ),
    "epoch of a wrong type": (
        '{"op":"subscribe","symbols":["A"],"epoch":1}',
        "invalid_request",
        "epoch: expected a string, was 1",
    ),
    "id of a wrong type": (
        '{"op":"ping","id":[]}',
        "invalid_request",
        "id: expected a string or an integer, was a list of 0",
    ),
    "a huge id": ('{"op":"ping","id":1' + "0" * 400 + "}", "invalid_request", "expected"),
    "an id past 2**53": (
        '{"op":"ping","id":9007199254740992}',
        "invalid_request",
        "id: expected an integer below 2**53, was 9007199254740992",
    ),
    "a long id": (
        '{"op":"ping","id":"' + "x" * 129 + '"}',
        "invalid_request",
        "id: expected at most 128 characters, was 129",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_answered_with_what_was_expected_and_what_came(case: str) -> None:
    message, code, text = BAD_INPUT[case]
    session = session_of("A")
    outcome = session.receive(message, NOON)
    (reply,) = outcome.replies
    assert outcome.close is None
    assert (reply["type"], reply["code"], reply["fatal"]) == ("error", code, False)
    assert reply["message"].startswith(text)
    assert len(reply["message"]) < 400
    assert say(session, op="ping", id="next") == {"type": "pong", "id": "next", "ts": NOON}


def test_an_error_carries_the_id_of_its_command() -> None:
    session = session_of()
    assert say(session, op="buy", id="x")["id"] == "x"
    assert say(session, op="subscribe", id=0, symbols=["A"], interval_ms=-1)["id"] == 0
    assert "id" not in say(session, op="buy")


@pytest.mark.parametrize("name", ["", "a b", "a,b", 'a"b', "a'b", "a\\b", "é", "\0", "x" * 65, "*" * 65, "\u0661"])
def test_a_symbol_that_cannot_be_one_is_rejected_and_the_others_are_served(name: str) -> None:
    reply = subscribe(session_of("AA"), "AA", name)
    assert reply["symbols"] == ["AA"]
    assert reply["rejected"] == [{"symbol": name, "code": "invalid_symbol"}]


# -- patterns ------------------------------------------------------------------------------------------------------


# -- fuzz ----------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(("AA", "AB", "BA", "ZZ", "A*", "*", "?A", "[AB]?", "[!A]*", "bad name", ""))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5) | NAMES,
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3) | NAMES, children, max_size=3)
    ),
    max_leaves=5,
)


def sometimes(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly `right`, now and then anything."""
    return st.integers(0, 9).flatmap(lambda dice: JSON if dice == 0 else right)


MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "id": sometimes(st.integers(-5, 5) | st.text(max_size=3)),
    "channel": sometimes(st.just("ticker")),
    "symbols": sometimes(st.lists(NAMES, min_size=1, max_size=5)),
    "interval_ms": sometimes(st.sampled_from((0, 100, 250, 60_000))),
    "fields": sometimes(st.lists(st.sampled_from(("bid", "ask", "last")), min_size=1, max_size=3)),
    "since": sometimes(st.dictionaries(NAMES, st.integers(0, 12), max_size=4)),
    "epoch": sometimes(st.sampled_from(("k-1", "k-2", "k-1+s-2"))),
    "token": sometimes(st.text(max_size=5)),
    "other": JSON,
}
TAKEN = {
    "subscribe": ("id", "channel", "symbols", "interval_ms", "fields", "since", "epoch"),
    "unsubscribe": ("id", "channel", "symbols"),
    "resync": ("id", "symbols"),
    "ping": ("id",),
    "auth": ("id", "token"),
    "play": ("other",),
}


@st.composite
def almost_valid(draw: st.DrawFn) -> bytes:
    """A command, of which now and then a member is wrong, missing or too many, or the end is cut off."""
    op = draw(st.sampled_from(tuple(TAKEN)))
    members = [name for name in TAKEN[op] if draw(st.integers(0, 5))]
    members += draw(st.sampled_from(([], [], [], ["other"], ["token"])))
    body = {"op": draw(sometimes(st.just(op))), **{name: draw(MEMBERS[name]) for name in members}}
    message = json.dumps(body).encode()
    return message[: draw(st.integers(0, len(message)))] if draw(st.integers(0, 19)) == 0 else message


def check(session: Session, outcome: Outcome) -> None:
    """The invariants of a session, and the form of what it answers."""
    limits = session._settings
    names = session._symbols.names
    for row, key in session.rows.items():
        exact = session.quotes.exact.get(names[row])
        matching = [lane for pattern, lane in session.quotes.patterns.items() if fnmatchcase(names[row], pattern)]
        assert key == (exact or matching[-1])
    for name in session.quotes.exact:
        known = session._directory.find(name)
        assert (known in session.rows) == (known is not None) == (name not in session.quotes.pending)
    assert session.quotes.pending.keys() <= session.quotes.exact.keys()
    assert len(session.rows) + len(session.quotes.pending) <= limits.symbols_max
    assert len(session.quotes.patterns) <= limits.patterns_max
    assert len({*session.quotes.exact.values(), *session.quotes.patterns.values()}) <= limits.lanes_max
    assert len(session.awaited) <= limits.symbols_max
    for rows in (outcome.fresh, outcome.resumed, outcome.ahead):
        assert rows.keys() <= session.rows.keys()
    assert not outcome.fresh.keys() & outcome.resumed.keys()
    for reply in outcome.replies:
        body = orjson.loads(orjson.dumps(reply))
        if body["type"] == "error":
            assert set(body) - {"id", "symbol", "count"} == {"type", "code", "message", "fatal"}
            assert body["message"]
            assert body["fatal"] == (outcome.close is not None)
        else:
            assert body["type"] in {"subscribed", "unsubscribed", "pong", "authenticated"}
        if body["type"] == "subscribed":
            members = ["channel", "symbols", "pending", "patterns", "resumed", "rejected", "interval_ms"]
            assert [name for name in body if name != "id"] == ["type", *members]


@settings(max_examples=300, deadline=None)
@given(
    message=st.binary(max_size=200)
    | st.text(max_size=100)
    | JSON.map(json.dumps)
    | JSON.map(lambda v: json.dumps({"op": v}))
)
def test_arbitrary_bytes_are_answered_and_break_nothing(message: str | bytes) -> None:
    session = session_of("AA", "AB", "BA")
    subscribe(session, "A*", "BA")
    before = dict(session.rows)
    outcome = session.receive(message, NOON)
    assert len(outcome.replies) <= 1
    check(session, outcome)
    assert session.rows == before


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    messages=st.lists(st.tuples(almost_valid(), st.sampled_from((0, 0, SECOND, -SECOND))), max_size=25),
    limits=st.sampled_from(
        (
            {},
            {"symbols_max": 2, "patterns_max": 2, "lanes_max": 2},
            {"symbols_max": 3, "messages_per_s_max": 3, "violations_max": 4},
        )
    ),
)
def test_no_sequence_of_almost_valid_commands_breaks_an_invariant(
    messages: list[tuple[bytes, int]], limits: dict[str, Any]
) -> None:
    desk = Desk("BA", **limits)
    client = desk.join().client
    for number, (message, step) in enumerate(messages, 1):
        desk.now += step
        outcome = client.session.receive(message, desk.now)
        desk.hub._carry_out(client, outcome, desk.now)
        check(client.session, outcome)
        seated = [row for member in client.members.values() for row in member.rows]
        assert sorted(seated) == sorted(client.session.rows)
        if number % 5 == 0:
            desk.read(quote(("AA", "AB", "BA", "CA")[number // 5 % 4], number, 1.0))
            check(client.session, Outcome())
    desk.hub.leave(client)
    assert not desk.hub.paces


def test_a_command_that_the_edge_has_parsed_is_carried_out_as_a_message_is() -> None:
    session = session_of("AA")
    outcome = session.receive(Subscribe(None, ("AA",), fields=ALL_FIELDS), NOON)
    assert outcome.replies[0]["symbols"] == ["AA"]
