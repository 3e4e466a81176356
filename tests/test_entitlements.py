"""What a grant lets a client see of a hub: just what it says, and of that, all that everybody else sees."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.hubs import NOON, Desk, Message, Peer, quote, trade
from ticker.access import Grant, Rights
from ticker.errors import Close, Code, RequestError


def grant(*symbols: str, subject: str = "desk-7", expires: int | None = None, key: str = "k", **rights: Any) -> Grant:
    return Grant(subject, Rights(symbols, rights.pop("delay_minutes", 0), **rights), key, expires)


def items(messages: list[Message]) -> list[tuple[str, Message]]:
    return [(message["type"], item) for message in messages for item in message.get("items", ())]


def names(messages: list[Message]) -> list[str]:
    return [item["symbol"] for _, item in items(messages)]


# -- symbols -------------------------------------------------------------------------------------------------------


def test_a_name_that_is_not_granted_is_rejected_whether_it_is_there_or_not() -> None:
    desk = Desk("AAPL", "MSFT")
    desk.read(quote("AAPL", 1, 1, 2), quote("MSFT", 2, 1, 2))
    ack, snapshot = desk.join(grant=grant("AA*", "NEW")).subscribe("AAPL", "MSFT", "NONE", "NEW")
    assert ack["symbols"] == ["AAPL", "NEW"]
    assert ack["rejected"] == [{"symbol": name, "code": "not_entitled"} for name in ("MSFT", "NONE")]
    assert names([snapshot]) == ["AAPL"]


def test_a_pattern_matches_what_is_granted_and_what_appears_of_that() -> None:
    desk = Desk("AAPL", "MSFT")
    peer = desk.join(grant=grant("A*"))
    desk.read(quote("AAPL", 1, 1, 2), quote("MSFT", 2, 1, 2))
    assert names(peer.subscribe("*")) == ["AAPL"]
    desk.read(quote("ABC", 3, 1, 2), quote("MSF", 4, 1, 2), quote("MSFT", 5, 1, 3))
    desk.round()
    assert names(peer.take()) == ["ABC"]


def test_a_symbol_that_is_not_granted_cannot_be_resynced() -> None:
    desk = Desk("AAPL", "MSFT")
    desk.read(quote("AAPL", 1, 1, 2), quote("MSFT", 2, 1, 2))
    peer = desk.join(grant=grant("AAPL"))
    peer.subscribe("*")
    (failure, snapshot) = peer.say(op="resync", symbols=["MSFT"], id=1)
    assert failure["code"] == "unknown_symbol"
    assert snapshot["items"] == []


SYMBOLS = ("A", "AB", "B", "BA", "C")
NAMES = st.sampled_from((*SYMBOLS, "D"))
PATTERNS = st.sampled_from(("*", "A*", "*B", "?", "[BC]", "Z*"))
COMMANDS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(dict, op=st.just("subscribe"), symbols=st.lists(NAMES | PATTERNS, min_size=1, max_size=3)),
    st.builds(
        dict,
        op=st.just("subscribe"),
        channel=st.sampled_from(("ticker", "trades")),
        symbols=st.lists(NAMES | PATTERNS, min_size=1, max_size=3),
        interval_ms=st.sampled_from((100, 200)),
    ),
    st.builds(
        dict,
        op=st.just("unsubscribe"),
        channel=st.sampled_from(("ticker", "trades")),
        symbols=st.lists(NAMES | PATTERNS, min_size=1, max_size=3),
    ),
    st.builds(dict, op=st.just("resync"), symbols=st.lists(NAMES, min_size=1, max_size=2)),
)
STEPS = st.lists(COMMANDS | st.lists(st.tuples(st.sampled_from(SYMBOLS), st.booleans()), max_size=4), max_size=25)


@given(entitled=st.lists(NAMES | PATTERNS, min_size=1, max_size=3), steps=STEPS, known=st.integers(0, 5))
def test_whoever_is_restricted_sees_what_others_see_of_what_is_granted(
    entitled: list[str], steps: list[Any], known: int
) -> None:
    desk = Desk(*SYMBOLS[:known])
    restricted, free = desk.join(grant=grant(*entitled)), desk.join()
    seq = 0
    for step in steps:
        if isinstance(step, dict):
            told = [peer.say(**step) for peer in (restricted, free)]
        else:
            records = []
            for symbol, traded in step:
                seq += 1
                records.append(trade(symbol, seq, 100 + seq) if traded else quote(symbol, seq, 100, 101 + seq))
            if records:
                desk.read(*records)
            desk.round()
            told = [peer.take() for peer in (restricted, free)]
        seen, all_of = (items([m for m in messages if m["type"] != "subscribed"]) for messages in told)
        assert seen == [
            (kind, item) for kind, item in all_of if any(fnmatchcase(item["symbol"], name) for name in entitled)
        ]


def test_sessions_with_the_same_symbols_share_what_patterns_match() -> None:
    desk = Desk("AAPL", "MSFT")
    first, second = grant("A*"), grant("A*", subject="b")
    held = desk.hub.directory_of(first)
    assert desk.hub.directory_of(second) is held
    assert desk.hub.directory_of(grant("*")) is desk.hub.directory
    assert desk.hub.directory_of(grant("*", "A")) is desk.hub.directory
    assert held.names() == ["AAPL"]


# -- limits --------------------------------------------------------------------------------------------------------


def test_a_channel_that_is_not_granted_is_refused() -> None:
    desk = Desk("AAPL")
    peer = desk.join(grant=grant("*", channels=("ticker", "bars")))
    (refusal,) = peer.subscribe("AAPL", channel="trades", id=3)
    assert refusal == {
        "type": "error",
        "id": 3,
        "code": "not_entitled",
        "message": "channel: expected one of ticker, bars, was trades",
        "fatal": False,
    }
    assert peer.subscribe("AAPL", channel="bars", interval="1m")[0]["type"] == "subscribed"


def test_an_interval_is_no_shorter_than_granted() -> None:
    desk = Desk("AAPL")
    peer = desk.join(grant=grant("*", interval_ms_min=250))
    assert peer.welcome["interval_ms"] == 250
    for asked, served in ((None, 250), (0, 250), (249, 250), (500, 500)):
        options = {} if asked is None else {"interval_ms": asked}
        assert peer.subscribe("AAPL", **options)[0]["interval_ms"] == served
        assert peer.subscribe("AAPL", channel="trades", **options)[0]["interval_ms"] == served


def test_no_more_symbols_than_granted_and_never_more_than_served() -> None:
    desk = Desk("A", "B", "C", symbols_max=2)
    peer = desk.join(grant=grant("*", symbols_max=1))
    assert peer.welcome["limits"]["symbols"] == 1
    assert peer.subscribe("A", "B")[0]["rejected"] == [{"symbol": "B", "code": "limit_symbols"}]
    assert peer.subscribe("*")[0]["rejected"] == [{"symbol": "*", "code": "limit_symbols", "count": 2}]
    assert desk.join(grant=grant("*", symbols_max=9)).welcome["limits"]["symbols"] == 2


# -- the end of a grant --------------------------------------------------------------------------------------------


def ending(peer: Peer) -> Close | None:
    return peer.outlet.closed


def heartbeat(desk: Desk, after_ms: int) -> None:
    desk.now += after_ms * 1000
    for slot in range(20):
        desk.hub.announce({"type": "heartbeat", "ts": desk.now, "feeds": {}}, desk.now, slot)


def test_a_session_ends_when_its_token_does() -> None:
    desk = Desk("AAPL")
    peer, other = desk.join(grant=grant("*", expires=NOON + 2_000_000)), desk.join(grant=grant("*"))
    heartbeat(desk, 1999)
    assert ending(peer) is None
    assert [message["type"] for message in peer.take()] == ["heartbeat"]
    heartbeat(desk, 1)
    assert ending(peer) is Close.AUTH
    (error,) = peer.take()
    assert (error["code"], error["message"], error["fatal"]) == ("auth_failed", "the token has expired", True)
    assert ending(other) is None


def renewing(peer_grant: Grant, **later: Any) -> tuple[Desk, Peer]:
    """A client whose token `next` grants what it has with `later` changed, and whose `bad` is refused."""
    desk = Desk("AAPL")

    def check(token: str, now: int) -> Grant:
        assert now == desk.now
        if token != "next":
            raise RequestError(Code.AUTH_FAILED, "the token has expired")
        return grant("*", expires=NOON + 9_000_000, **later)

    return desk, desk.join(grant=peer_grant, check=check)


def test_a_session_that_renews_its_token_goes_on() -> None:
    desk, peer = renewing(grant("*", expires=NOON + 2_000_000), key="another")
    assert peer.say(op="auth", id=1, token="next") == [{"type": "authenticated", "id": 1, "expires_in_ms": 9000}]
    heartbeat(desk, 8999)
    assert ending(peer) is None
    assert peer.client.session.grant.key == "another"
    heartbeat(desk, 1)
    assert ending(peer) is Close.AUTH


def test_a_token_of_somebody_else_does_not_renew() -> None:
    for later in ({"subject": "desk-8"}, {"channels": ("trades",)}, {"replay": True}, {"delay_minutes": 15}):
        desk, peer = renewing(grant("*", expires=NOON + 2_000_000), **later)
        (error,) = peer.say(op="auth", id=1, token="next")
        assert (error["id"], error["code"], error["fatal"]) == (1, "auth_failed", False)
        heartbeat(desk, 2000)
        assert ending(peer) is Close.AUTH


def test_whoever_guesses_tokens_is_closed() -> None:
    _, peer = renewing(grant("*"))
    for _ in range(20):
        (error,) = peer.say(op="auth", token="guess")
        assert not error["fatal"]
    (error,) = peer.say(op="auth", token="guess")
    assert error["fatal"]
    assert ending(peer) is Close.AUTH


def test_a_session_ends_when_its_key_is_revoked() -> None:
    desk = Desk("AAPL")
    gone, stays = desk.join(grant=grant("*", key="api:1")), desk.join(grant=grant("*", key="api:2"))
    desk.hub.end_grants(lambda held: held.key != "api:1")
    assert gone.outlet.closed is Close.AUTH
    assert gone.take()[0]["message"] == "the key of the token is not valid any more"
    assert (stays.outlet.closed, stays.take()) == (None, [])
