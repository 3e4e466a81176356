"""A client's side of the protocol: what it answers, what it asks anew after a reconnect, how it takes an ending."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker.dialogue import (
    Complaint,
    Connected,
    Dialogue,
    Feed,
    Message,
    Reaction,
    Rejected,
    Renewed,
    Slow,
)
from ticker.reconnect import Advice, Ending


def welcome(epoch: str = "k-1", **more: Any) -> Message:
    limits = {"symbols": 1000, "message_bytes": 262_144}
    head = {"type": "welcome", "protocol": "ticker.v1", "mode": "live", "epoch": epoch, "ts": 1}
    return {**head, "heartbeat_ms": 1000, "interval_ms": 100, "delay_ms": 0, "limits": limits, **more}


def subscribed(id: int, symbols: Iterable[str], **more: Any) -> Message:
    head = {"type": "subscribed", "id": id, "channel": "ticker", "symbols": list(symbols), "pending": []}
    return {**head, "patterns": [], "resumed": {}, "rejected": [], "interval_ms": 100, **more}


def snapshot(**seqs: int) -> Message:
    items = [{"symbol": symbol, "seq": seq, "n": seq, "ts": seq, "bid": float(seq)} for symbol, seq in seqs.items()]
    return {"type": "snapshot", "channel": "ticker", "ts": 1, "items": items}


def update(symbol: str, prev: int, seq: int, n: int = 1) -> Message:
    item = {"symbol": symbol, "prev": prev, "seq": seq, "n": n, "ts": seq, "bid": float(seq)}
    return {"type": "update", "channel": "ticker", "ts": 2, "items": [item]}


def settle(dialogue: Dialogue, reaction: Reaction, **seqs: int) -> None:
    """Answer the commands of a welcome, and give the symbols of `seqs` a value."""
    for command in reaction.replies:
        if command["op"] == "ping":
            dialogue.receive({"type": "pong", "id": command["id"], "ts": 1})
        else:
            dialogue.receive(subscribed(command["id"], command["symbols"]))
            dialogue.receive(snapshot(**seqs))


def watching(*symbols: str, **seqs: int) -> Dialogue:
    """A dialogue that is settled on `symbols`, those of `seqs` among them with a value."""
    dialogue = Dialogue(dict.fromkeys([*symbols, *seqs]))
    dialogue.opened()
    settle(dialogue, dialogue.receive(welcome()), **seqs)
    assert dialogue.settled
    return dialogue


def reconnected(dialogue: Dialogue, epoch: str = "k-1", **more: Any) -> Reaction:
    dialogue.lost()
    dialogue.opened()
    return dialogue.receive(welcome(epoch, **more))


# -- asking --------------------------------------------------------------------------------------------------------


def test_nothing_is_asked_before_the_welcome() -> None:
    dialogue = Dialogue(["A"])
    assert dialogue.opened() == []
    assert dialogue.subscribe(["B"]) == []
    assert [command.get("symbols") for command in dialogue.receive(welcome()).replies] == [["A", "B"], None]


def test_a_server_that_asks_for_a_token_is_told_of_at_once() -> None:
    asked = {"type": "auth_required", "within_ms": 10_000}
    without, with_ = Dialogue(["A"]), Dialogue(["A"], token="t")
    without.opened()
    with_.opened()
    assert without.receive(asked).ending == Ending(Advice.FAIL, "the server asks for a token")
    assert with_.receive(asked).ending is None


def test_a_token_is_shown_before_the_welcome() -> None:
    assert Dialogue(["A"], token="t").opened() == [{"op": "auth", "id": 1, "token": "t"}]


def test_the_first_subscription_says_the_terms_and_resumes_nothing() -> None:
    dialogue = Dialogue(["A"], interval_ms=0, fields=("bid", "ask"))
    assert dialogue.receive(welcome()).replies == [
        {"op": "subscribe", "id": 1, "symbols": ["A"], "interval_ms": 0, "fields": ["bid", "ask"]},
        {"op": "ping", "id": 2},
    ]


def test_it_is_settled_once_all_is_answered() -> None:
    dialogue = Dialogue(["A"])
    subscribe, ping = dialogue.receive(welcome()).replies
    dialogue.receive(subscribed(subscribe["id"], ["A"]))
    assert not dialogue.settled
    dialogue.receive({"type": "pong", "id": ping["id"], "ts": 1})
    assert dialogue.settled


def test_a_server_of_another_protocol_is_of_no_use() -> None:
    ending = Dialogue(["A"]).receive(welcome(protocol="ticker.v2")).ending
    assert ending == Ending(Advice.FAIL, "expected a server of ticker.v1, was ticker.v2")


def test_unsubscribing_forgets_quotes_that_nothing_else_stands_for() -> None:
    dialogue = watching("A*", "B", A1=1, B=2)
    commands = dialogue.unsubscribe(["A*", "B", "never subscribed"])
    assert [command.get("symbols") for command in commands] == [["A*", "B"], None]
    reaction = dialogue.receive({"type": "unsubscribed", "id": commands[0]["id"], "symbols": ["A*", "B"]})
    assert sorted(reaction.gone) == ["B"]  # A1 was subscribed by name too
    assert list(dialogue.mirror.items) == ["A1"]


def test_a_symbol_that_a_pattern_still_matches_is_kept() -> None:
    dialogue = watching("A*", A1=1)
    [command, _] = dialogue.unsubscribe(["A1"])
    assert dialogue.receive({"type": "unsubscribed", "id": command["id"], "symbols": ["A1"]}).gone == []


NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=64)


@given(
    names=st.lists(NAMES, min_size=1, max_size=80, unique=True),
    seqs=st.lists(st.integers(1, 2**53), max_size=80),
    limit=st.integers(1024, 4096),
)
def test_commands_stay_within_the_servers_limit_and_leave_no_symbol_out(
    names: list[str], seqs: list[int], limit: int
) -> None:
    dialogue = watching(*names, "*", **dict(zip(names, seqs, strict=False)))
    commands = reconnected(dialogue, limits={"symbols": 1000, "message_bytes": limit}).replies
    assert all(len(orjson.dumps(command)) <= limit for command in commands)
    subscribe = [command for command in commands if command["op"] == "subscribe"]
    assert [name for command in subscribe for name in command["symbols"]] == list(dialogue.wanted)
    for command in subscribe:
        since = command.get("since", {})
        assert since.items() <= dialogue.mirror.since().items()
        assert all(name in since for name in command["symbols"] if name in dialogue.mirror.items)


def test_no_command_asks_for_two_patterns() -> None:
    asked = [reply["symbols"] for reply in Dialogue(["A", "B*", "C", "D*", "E"]).receive(welcome()).replies[:-1]]
    assert asked == [["A", "B*", "C"], ["D*", "E"]]


def test_a_long_list_is_unsubscribed_and_resynced_within_the_limit() -> None:
    names = [f"SYMBOL{i}" for i in range(200)]
    dialogue = watching(**dict.fromkeys(names, 1))
    settle(dialogue, reconnected(dialogue, limits={"message_bytes": 1024}), **dict.fromkeys(names, 1))
    broken = {**update("-", 0, 0), "items": [update(name, 5, 6)["items"][0] for name in names]}
    for commands in (dialogue.receive(broken).replies, dialogue.unsubscribe(names)):
        assert max(len(orjson.dumps(command)) for command in commands) <= 1024
        assert [name for command in commands for name in command.get("symbols", ())] == names


# -- chains and counts ---------------------------------------------------------------------------------------------


def test_an_update_tells_the_quote_as_merged_the_change_and_the_ticks() -> None:
    [told] = watching(A=5).receive(update("A", 5, 8, n=3)).updates
    assert (told.symbol, told.quote.bid, told.change, told.n, told.whole) == ("A", 8.0, {"bid": 8.0}, 3, False)


def test_a_broken_chain_is_resynced_and_its_snapshot_counts_what_was_missed() -> None:
    dialogue = watching(A=5)
    reaction = dialogue.receive(update("A", 6, 7))
    assert [(c["op"], c["symbols"]) for c in reaction.replies] == [("resync", ["A"])]
    assert reaction.updates == []
    assert dialogue.receive(update("A", 7, 8)).updates == []
    assert not dialogue.settled
    [told] = dialogue.receive({**snapshot(A=9), "id": reaction.replies[0]["id"]}).updates
    assert (told.n, told.whole) == (4, True)
    assert dialogue.settled


def test_the_first_snapshot_of_a_connection_has_no_known_n() -> None:
    dialogue = watching(A=5)
    reconnected(dialogue)
    assert [told.n for told in dialogue.receive(snapshot(A=9)).updates] == [None]


def test_a_resumed_symbol_goes_on_counting() -> None:
    dialogue = watching(A=5)
    subscribe, _ = reconnected(dialogue).replies
    dialogue.receive(subscribed(subscribe["id"], ["A"], resumed={"A": 2}))  # another replica, which has counted 2
    assert [told.n for told in dialogue.receive(update("A", 5, 6)).updates] == [1]
    assert dialogue.mirror.items["A"]["n"] == 3
    assert [told.n for told in dialogue.receive(snapshot(A=9)).updates] == [6]


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=30))
def test_over_a_connection_n_adds_up_whatever_comes_whole(steps: list[tuple[int, bool]]) -> None:
    dialogue, seq, total = watching(A=5), 5, 5
    for n, comes_whole in steps:
        message = snapshot(A=seq + n) if comes_whole else update("A", seq, seq + n, n)
        [told] = dialogue.receive(message).updates
        assert told.n is not None
        total += told.n
        seq += n
        assert told.quote.n == total == seq


# -- resuming ------------------------------------------------------------------------------------------------------


def test_a_reconnect_resumes_what_is_held_and_asks_for_all_that_is_wanted() -> None:
    dialogue = watching("P*", "C", A=5, P1=7)
    dialogue.subscribe(["D"])
    subscribe, ping = reconnected(dialogue).replies
    assert subscribe["symbols"] == ["P*", "C", "A", "P1", "D"]
    assert (subscribe["since"], subscribe["epoch"]) == ({"A": 5, "P1": 7}, "k-1")
    assert ping["op"] == "ping"


def test_a_symbol_that_only_a_pattern_brought_is_resumed_by_it() -> None:
    dialogue = watching("P*")
    dialogue.receive(snapshot(P1=7))
    subscribe, _ = reconnected(dialogue).replies
    assert (subscribe["symbols"], subscribe["since"]) == (["P*"], {"P1": 7})


def test_a_broken_chain_is_not_resumed() -> None:
    dialogue = watching(A=5, B=6)
    dialogue.receive(update("A", 6, 7))
    assert reconnected(dialogue).replies[0]["since"] == {"B": 6}


def test_what_is_held_is_resumed_as_of_the_epoch_that_it_is_of() -> None:
    subscribe, _ = reconnected(watching(A=5), "k-2").replies
    assert (subscribe["since"], subscribe["epoch"]) == ({"A": 5}, "k-1")


def test_once_all_is_of_the_new_epoch_it_is_resumed_as_of_that() -> None:
    dialogue = watching(A=5)
    settle(dialogue, reconnected(dialogue, "k-2"), A=3)
    subscribe, _ = reconnected(dialogue, "k-2").replies
    assert (subscribe["since"], subscribe["epoch"]) == ({"A": 3}, "k-2")


def test_a_connection_lost_halfway_to_a_new_epoch_mixes_no_two_logs() -> None:
    dialogue = watching(A=5, B=6)
    reconnected(dialogue, "k-2")
    dialogue.receive(snapshot(A=3))
    subscribe, _ = reconnected(dialogue, "k-3").replies
    assert (subscribe["since"], subscribe["epoch"]) == ({"B": 6}, "k-1")


def test_after_a_new_epoch_within_a_connection_only_what_has_come_since_is_resumed() -> None:
    dialogue = watching(A=5, B=6)
    reaction = dialogue.receive({"type": "epoch", "epoch": "k-2"})
    assert reaction.notices == [Renewed("k-2")]
    dialogue.receive(snapshot(A=3))
    subscribe, _ = reconnected(dialogue, "k-2").replies
    assert (subscribe["since"], subscribe["epoch"]) == ({"A": 3}, "k-2")


# -- what there is to tell -----------------------------------------------------------------------------------------


def test_a_rejected_symbol_is_told_and_not_asked_for_again() -> None:
    dialogue = watching("A")
    [subscribe, _] = dialogue.subscribe(["no good"])
    rejected = [{"symbol": "no good", "code": "invalid_symbol"}]
    reaction = dialogue.receive(subscribed(subscribe["id"], [], rejected=rejected))
    assert reaction.notices == [Rejected("no good", "invalid_symbol")]
    assert dialogue.rejected == {"no good": "invalid_symbol"}
    assert reconnected(dialogue).replies[0]["symbols"] == ["A"]


def test_a_symbol_that_is_rejected_after_a_reconnect_leaves_no_stale_quote() -> None:
    dialogue = watching(A=5, B=6)
    subscribe, _ = reconnected(dialogue).replies
    rejected = [{"symbol": "A", "code": "unknown_symbol"}]
    assert dialogue.receive(subscribed(subscribe["id"], ["B"], rejected=rejected)).gone == ["A"]
    assert list(dialogue.mirror.items) == ["B"]


def test_a_pattern_over_the_limit_is_served_in_part() -> None:
    dialogue = watching()
    [subscribe, _] = dialogue.subscribe(["*"])
    rejected = [{"symbol": "*", "code": "limit_symbols", "count": 7}]
    reaction = dialogue.receive(subscribed(subscribe["id"], [], patterns=["*"], rejected=rejected))
    assert reaction.notices == [Rejected("*", "limit_symbols", 7)]
    assert "*" in dialogue.wanted


def test_a_pattern_that_outgrows_the_limit_later_is_told() -> None:
    message = {"type": "error", "code": "limit_symbols", "message": "*: ...", "symbol": "*", "count": 2, "fatal": False}
    assert watching("*").receive(message).notices == [Rejected("*", "limit_symbols", 2)]


def test_a_symbol_is_pending_until_it_has_a_value() -> None:
    dialogue = Dialogue(["A", "B"])
    subscribe, _ = dialogue.receive(welcome()).replies
    dialogue.receive(subscribed(subscribe["id"], ["A", "B"], pending=["A", "B"]))
    dialogue.receive(snapshot(A=1))
    assert dialogue.pending == {"B"}


def test_the_state_of_feeds_is_kept_and_its_changes_are_told() -> None:
    dialogue = watching("A")
    feeds = {"sim": {"state": "live", "age_ms": 3, "lag": 0}}
    assert dialogue.receive({"type": "heartbeat", "ts": 1, "feeds": feeds}).notices == []
    assert dialogue.feeds == {"sim": Feed("sim", "live", 3, 0)}
    status = {"type": "status", "ts": 1, "feed": "sim", "state": "stale", "age_ms": 5012}
    assert dialogue.receive(status).notices == [Feed("sim", "stale", 5012)]
    assert dialogue.feeds["sim"].state == "stale"
    dialogue.lost()
    assert dialogue.feeds == {}


@pytest.mark.parametrize(("epoch", "held"), [("k-1", {"A1", "A2"}), ("k-1+s-2", {"A1", "A2"}), ("k-2", {"A1"})])
def test_quotes_that_a_server_of_another_log_does_not_send_anew_are_forgotten(epoch: str, held: set[str]) -> None:
    dialogue = watching("A*", A1=5, A2=6)
    settle(dialogue, reconnected(dialogue, epoch), A1=1)
    assert dialogue.settled
    assert set(dialogue.mirror.items) == held


def test_a_rejection_says_which_name_in_quotes() -> None:
    assert str(Rejected("", "invalid_symbol")) == "'' is not served: invalid_symbol"
    assert str(Rejected("*", "limit_symbols", 7)) == "'*' is served in part: limit_symbols, 7 left out"


def test_the_count_of_a_quote_is_the_servers_from_the_first_snapshot_and_also_over_a_reconnect() -> None:
    dialogue = Dialogue(["A"])
    dialogue.opened()
    settle(dialogue, dialogue.receive(welcome()))
    (first,) = dialogue.receive(snapshot(A=5)).updates
    (second,) = dialogue.receive(update("A", 5, 9, n=3)).updates
    assert [(told.quote.n, told.n) for told in (first, second)] == [(5, None), (8, 3)]
    reconnected(dialogue)
    (third,) = dialogue.receive(snapshot(A=12)).updates
    assert (third.quote.n, third.n) == (12, None)


@pytest.mark.parametrize(
    ("message", "notice"),
    [
        ({"type": "slow", "ts": 1, "skipped": 12}, Slow(12)),
        (
            {"type": "error", "code": "invalid_request", "message": "what?", "fatal": False},
            Complaint("invalid_request", "what?"),
        ),
        (welcome("k-2"), Connected("live", "k-2")),
    ],
)
def test_notices(message: Message, notice: object) -> None:
    assert watching("A").receive(message).notices == [notice]


@pytest.mark.parametrize("type", ["trades", "bars", "something new"])
def test_messages_of_other_types_are_ignored(type: str) -> None:
    assert watching("A").receive({"type": type}) == Reaction()


def test_a_shutdown_asks_to_be_left_later() -> None:
    assert watching("A").receive({"type": "shutdown", "ts": 1, "reconnect_after_ms": 1840}).leave_s == 1.84


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "advice"),
    [("unknown_field", Advice.FAIL), ("rate_limited", Advice.RECONNECT), ("limit_lanes", Advice.FAIL)],
)
def test_a_refused_subscription_ends_the_connection(code: str, advice: Advice) -> None:
    dialogue = watching("A")
    [subscribe, _] = dialogue.subscribe(["B"])
    message = {"type": "error", "id": subscribe["id"], "code": code, "message": "fields: ...", "fatal": False}
    ending = dialogue.receive(message).ending
    assert ending == Ending(advice, f"subscribe was refused: {code}: fields: ...")


def test_a_refused_resync_ends_the_connection_rather_than_leave_a_quote_behind() -> None:
    dialogue = watching(A=5)
    [resync] = dialogue.receive(update("A", 6, 7)).replies
    message = {"type": "error", "id": resync["id"], "code": "unknown_symbol", "message": "A", "fatal": False}
    ending = dialogue.receive(message).ending
    assert ending is not None
    assert ending.advice is Advice.RECONNECT
