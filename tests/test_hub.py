"""The hub: what clients are told, message by message, as the page of the protocol has it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.hubs import NOON, Desk, Message, Peer, batch, quote, read, trade
from ticker.errors import Close, Code
from ticker.hub import HEARTBEAT_SLOTS
from ticker.protocol import BARE, FRAMED, Encoding, Subscribe, field_set

HEARTBEAT = {"type": "heartbeat", "ts": NOON, "feeds": {}}


def kinds(messages: list[Message]) -> list[str]:
    return [message["type"] for message in messages]


def symbols(message: Message) -> list[str]:
    return [item["symbol"] for item in message["items"]]


def update(symbol: str, prev: int, seq: int, n: int = 1, **moved: Any) -> Message:
    """An update item of the quotes and trades of `tests.hubs`, which all are of noon."""
    return {"symbol": symbol, "prev": prev, "seq": seq, "n": n, "ts": NOON, **moved}


def desk_of(*names: str, **settings: Any) -> Desk:
    """A desk where each of `names` has had one quote, in order, from seq 1."""
    desk = Desk(**settings)
    desk.read(*(quote(name, seq, 1.0, 2.0) for seq, name in enumerate(names, 1)))
    return desk


# -- the form of messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [FRAMED, BARE], ids=lambda encoding: encoding.name)
def test_welcome(encoding: Encoding) -> None:
    welcome = Desk().join(encoding).welcome
    assert json.dumps(welcome) == json.dumps(
        {
            "type": "welcome",
            "protocol": "ticker.v1",
            "mode": "live",
            "epoch": "k-1",
            "ts": NOON,
            "heartbeat_ms": 1000,
            "interval_ms": 100,
            "delay_ms": 0,
            "limits": {
                "symbols": 1000,
                "patterns": 32,
                "lanes": 8,
                "message_bytes": 262_144,
                "messages_per_s": 100,
            },
        }
    )


def test_subscribed_unsubscribed_pong_and_authenticated() -> None:
    client = desk_of("BTCUSDT").join()
    ack, _ = client.say(op="subscribe", id=2, symbols=["BTCUSDT", "NEW", "ETH*", "bad name"], interval_ms=250)
    assert json.dumps(ack) == json.dumps(
        {
            "type": "subscribed",
            "id": 2,
            "channel": "ticker",
            "symbols": ["BTCUSDT", "NEW"],
            "pending": ["NEW"],
            "patterns": ["ETH*"],
            "resumed": {},
            "rejected": [{"symbol": "bad name", "code": "invalid_symbol"}],
            "interval_ms": 250,
        }
    )
    assert [json.dumps(reply) for reply in client.say(op="unsubscribe", id=3, symbols=["BTCUSDT"])] == [
        '{"type": "unsubscribed", "id": 3, "channel": "ticker", "symbols": ["BTCUSDT"], "rejected": []}'
    ]
    assert [json.dumps(reply) for reply in client.say(op="ping", id=5)] == [
        f'{{"type": "pong", "id": 5, "ts": {NOON}}}'
    ]
    assert [json.dumps(reply) for reply in client.say(op="auth", id=1, token="t")] == [
        '{"type": "authenticated", "id": 1}'
    ]


def test_what_is_announced_reaches_every_client_of_the_slot() -> None:
    desk = Desk()
    clients = [desk.join() for _ in range(2 * HEARTBEAT_SLOTS)]
    desk.hub.announce(HEARTBEAT, desk.now, 3)
    assert [len(client.take()) for client in clients].count(1) == 2
    desk.hub.announce(HEARTBEAT, desk.now)
    assert all(client.take() == [HEARTBEAT] for client in clients)
    clients[0].leave()
    clients[0].leave()
    desk.hub.announce(HEARTBEAT, desk.now)
    assert clients[0].take() == []


# -- rounds --------------------------------------------------------------------------------------------------------


def test_a_subscription_is_its_ack_then_a_snapshot_then_updates() -> None:
    desk = desk_of("AA", "BB")
    client = desk.join()
    ack, snapshot = client.subscribe("AA", "BB", "CC", fields=["bid", "last"])
    assert (ack["pending"], symbols(snapshot)) == (["CC"], ["AA", "BB"])
    desk.read(quote("AA", 3, 1.5, 2.0), trade("AA", 4, 7.0, 0.1), trade("AA", 5, 6.0, 0.2), quote("CC", 6, 3.0))
    desk.round()
    first, whole = client.take()
    assert first["items"] == [update("AA", 1, 5, 3, bid=1.5, last=6.0, hi=7.0, lo=6.0, vol=0.3)]
    assert (whole["type"], whole["ts"], symbols(whole)) == ("snapshot", first["ts"], ["CC"])
    desk.read(quote("CC", 7, 3.0))
    desk.round()
    assert [message["items"] for message in client.take()] == [[update("CC", 6, 7)]]


def test_rounds_fall_on_multiples_of_the_interval_and_late_ones_are_left_out() -> None:
    desk = desk_of("AA")
    client = desk.join()
    desk.now += 130_000
    client.subscribe("AA")
    assert desk.hub.flush(desk.now) == NOON + 200_000
    for seq, after_ms, sent in ((2, 60, 0), (3, 10, 1), (4, 99, 0), (5, 701, 1)):
        desk.read(quote("AA", seq, float(seq)))
        desk.round(after_ms)
        assert len(client.take()) == sent
    assert desk.round(0) == NOON + 1_100_000


def test_interval_0_is_always_due_and_nobody_watching_is_never() -> None:
    desk = desk_of("AA")
    client = desk.join()
    assert desk.round(0) is None
    client.subscribe("AA", interval_ms=0)
    desk.read(quote("AA", 2, 2.0))
    assert desk.round(0) is None
    assert kinds(client.take()) == ["update"]


def test_a_clock_that_is_set_back_does_not_stop_the_rounds() -> None:
    desk = desk_of("AA")
    client = desk.join()
    client.subscribe("AA")
    desk.read(quote("AA", 2, 2.0))
    desk.round(-3_600_000)
    assert kinds(client.take()) == ["update"]
    desk.read(quote("AA", 3, 3.0))
    desk.round()
    assert kinds(client.take()) == ["update"]


def test_past_the_limit_of_intervals_a_client_is_given_the_next_slower_and_told() -> None:
    desk = desk_of("AA", intervals_max=2)
    clients = [desk.join() for _ in range(4)]
    acks = [c.subscribe("AA", interval_ms=ms)[0] for c, ms in zip(clients, (100, 500, 200, 900), strict=True)]
    assert [ack["interval_ms"] for ack in acks] == [100, 500, 500, 60_000]
    assert sorted(desk.hub.paces) == [100, 500, 60_000]
    clients[0].leave()  # the slowest does not count
    assert clients[1].subscribe("AA", interval_ms=700)[0]["interval_ms"] == 700
    assert clients[2].subscribe("AA", interval_ms=800)[0]["interval_ms"] == 60_000


def test_symbols_that_appear_are_served_at_the_interval_that_was_told() -> None:
    desk = Desk(intervals_max=2)
    clients = [desk.join() for _ in range(3)]
    acks = [c.subscribe("*", interval_ms=ms)[0] for c, ms in zip(clients, (100, 300, 200), strict=True)]
    told = [ack["interval_ms"] for ack in acks]
    assert told == [100, 300, 300]  # though nothing is served at any of them yet
    desk.read(quote("AA", 1, 1.0))
    assert sorted(desk.hub.paces) == [100, 300]
    desk.round(1000)
    assert [kinds(client.take()) for client in clients] == [["snapshot"]] * 3
    clients[0].leave()
    for client in clients[1:]:
        client.say(op="unsubscribe", symbols=["*"])
    assert not desk.hub.paces
    assert clients[1].subscribe("*", interval_ms=700)[0]["interval_ms"] == 700


def test_a_resync_over_several_lanes_is_one_snapshot_that_carries_the_id() -> None:
    desk = desk_of("AA", "BB")
    client = desk.join()
    client.subscribe("AA", interval_ms=100, fields=["bid"])
    client.subscribe("BB", interval_ms=500, fields=["ask"])
    (snapshot,) = client.say(op="resync", id="r", symbols=["AA", "BB"])
    assert snapshot == {
        "type": "snapshot",
        "id": "r",
        "channel": "ticker",
        "ts": NOON,
        "items": [
            {"symbol": "AA", "seq": 1, "n": 1, "ts": NOON, "bid": 1.0},
            {"symbol": "BB", "seq": 2, "n": 1, "ts": NOON, "ask": 2.0},
        ],
    }
    error, snapshot = client.say(op="resync", id="s", symbols=["ZZ"])
    assert (error["code"], error["message"]) == ("unknown_symbol", "expected subscribed symbols, was ZZ")
    assert (snapshot["id"], snapshot["items"]) == ("s", [])


def test_a_command_of_the_edge_is_carried_out_like_a_message() -> None:
    desk = desk_of("AA")
    client = desk.join()
    assert desk.hub.receive(client.client, Subscribe(None, ("AA",)), desk.now) is None
    assert kinds(client.take()) == ["subscribed", "snapshot"]
    assert client.client.failure is None


def test_the_edge_can_tell_that_a_command_was_refused() -> None:
    desk = desk_of("AA", lanes_max=1)
    client = desk.join()
    client.subscribe("AA")
    assert desk.hub.receive(client.client, Subscribe(None, ("BB",), interval_ms=7), desk.now) is None
    assert client.client.failure is not None
    assert client.client.failure.code is Code.LIMIT_LANES
    client.say(op="ping")
    assert client.client.failure is None


def test_the_edge_can_have_a_snapshot_of_all_that_a_client_watches() -> None:
    desk = desk_of("AA", "BB")
    client = desk.join()
    assert desk.hub.snapshot_of(client.client, desk.now) is None
    client.subscribe("AA", fields=["bid"])
    client.subscribe("BB", "ZZ", "YY", fields=["bid"], interval_ms=500, since={"ZZ": 9}, epoch="k-1")
    assert client.client.waits
    desk.read(quote("ZZ", 8, 8.0), quote("AA", 9, 9.0))
    assert client.client.waits
    client.outlet.stall()
    desk.round()
    assert client.take() == []
    message = desk.hub.snapshot_of(client.client, desk.now)
    assert message is not None
    snapshot = read(FRAMED, message)
    assert (snapshot["type"], snapshot["ts"]) == ("snapshot", desk.now)
    assert [(item["symbol"], item["seq"]) for item in snapshot["items"]] == [("AA", 9), ("BB", 2)]
    assert client.drain()[1:] == []  # nothing is missing any more
    desk.read(quote("ZZ", 10, 10.0), quote("AA", 11, 11.0))
    desk.round(500)
    of_aa, of_zz = client.take()
    assert of_aa["items"] == [update("AA", 9, 11, bid=11.0)]
    assert (of_zz["type"], symbols(of_zz)) == ("snapshot", ["ZZ"])
    assert not client.client.waits


# -- slow clients --------------------------------------------------------------------------------------------------


def test_a_slow_client_is_told_how_many_rounds_it_missed_and_sent_what_moved() -> None:
    desk = desk_of("AA", "BB", "CC")
    slow, quick = desk.join(), desk.join()
    for client in (slow, quick):
        client.subscribe("AA", "BB", "CC", fields=["bid"])
    slow.outlet.stall()
    for seq, name in enumerate(("AA", "BB", "AA", "ZZ"), 4):
        desk.read(quote(name, seq, float(seq)))
        desk.round()
    assert kinds(quick.take()) == ["update"] * 3
    assert slow.take() == []
    notice, snapshot = slow.drain()
    assert notice == {"type": "slow", "ts": desk.now, "skipped": 3}
    assert symbols(snapshot) == ["AA", "BB"]
    desk.read(quote("AA", 9, 9.0), quote("CC", 10, 9.0))
    desk.round()
    assert slow.take() == quick.take()
    assert slow.drain() == []


def test_a_slow_client_that_has_drained_holds_what_the_table_holds() -> None:
    """Also what has changed since the last round: who notes how far the log was read then claims nothing too much."""
    desk = desk_of("AA", "BB", "CC")
    client = desk.join()
    client.subscribe("AA", "BB", "CC", fields=["bid"])
    client.outlet.stall()
    desk.read(quote("AA", 4, 4.0))
    desk.round()
    desk.read(quote("BB", 5, 5.0))
    _, snapshot = client.drain()
    assert [(item["symbol"], item["seq"]) for item in snapshot["items"]] == [("AA", 4), ("BB", 5)]
    desk.round()
    (again,) = client.take()
    assert (again["type"], symbols(again)) == ("snapshot", ["BB"])  # it cannot chain to the round's update
    desk.read(quote("BB", 6, 6.0))
    desk.round()
    assert client.take()[0]["items"] == [update("BB", 5, 6, bid=6.0)]


def test_a_client_is_closed_only_past_both_the_bytes_and_the_time() -> None:
    desk = desk_of("AA", send_buffer_bytes_max=1000, send_buffer_s_max=5)
    client = desk.join()
    client.outlet.stall()

    def heartbeat(after_s: int, unsent: int) -> Close | None:
        desk.now += after_s * 1_000_000
        client.outlet.unsent_bytes = unsent
        desk.hub.announce(HEARTBEAT, desk.now)
        return client.outlet.closed

    assert heartbeat(0, 5000) is None
    assert heartbeat(5, 5000) is None
    assert heartbeat(60, 1000) is None
    assert heartbeat(1, 1001) is Close.TOO_SLOW


def test_the_time_of_a_slow_client_starts_anew_once_it_has_drained() -> None:
    desk = desk_of("AA", send_buffer_bytes_max=0, send_buffer_s_max=5)
    client = desk.join()
    client.outlet.unsent_bytes = 1
    for _ in range(3):
        client.outlet.stall()
        desk.hub.announce(HEARTBEAT, desk.now)
        desk.now += 4_000_000
        desk.hub.announce(HEARTBEAT, desk.now)
        assert client.drain() == []
    assert client.outlet.closed is None


# -- resuming ------------------------------------------------------------------------------------------------------


def resume(desk: Desk, client: Peer, since: dict[str, int]) -> list[Message]:
    return client.subscribe(*since, fields=["bid"], since=since, epoch="k-1")


def test_what_has_not_moved_costs_nothing_more_and_chains_on() -> None:
    desk = desk_of("AA", "BB")
    client = desk.join()
    ack, snapshot = resume(desk, client, {"AA": 1, "BB": 1})
    assert ack["resumed"] == {"AA": 1}
    assert symbols(snapshot) == ["BB"]
    desk.read(quote("AA", 3, 3.0))
    desk.round()
    assert [message["items"] for message in client.take()] == [[update("AA", 1, 3, bid=3.0)]]


def test_what_was_resumed_amid_a_round_of_others_comes_whole() -> None:
    desk = desk_of("AA")
    desk.join().subscribe("AA")
    desk.read(quote("AA", 2, 2.0))
    client = desk.join()
    assert resume(desk, client, {"AA": 2})[0]["resumed"] == {"AA": 2}
    desk.round()
    assert kinds(client.take()) == ["snapshot"]


def test_a_hub_that_is_behind_sends_nothing_until_it_has_caught_up() -> None:
    desk = desk_of("AA", "BB")
    client = desk.join()
    assert kinds(resume(desk, client, {"AA": 5})) == ["subscribed"]
    client.subscribe("BB", fields=["bid"])
    for seq in (3, 4):
        desk.read(quote("AA", seq, float(seq)), quote("BB", seq, float(seq)))
        desk.round()
        assert [symbols(message) for message in client.take()] == [["BB"]]
    assert client.say(op="resync", id=1, symbols=["AA"])[0]["items"] == []
    assert kinds(client.subscribe("AA", fields=["bid"], interval_ms=500)) == ["subscribed"]
    desk.read(quote("AA", 5, 5.0))
    desk.round(500)
    assert [(m["type"], symbols(m)) for m in client.take()] == [("snapshot", ["AA"])]
    desk.read(quote("AA", 6, 6.0))
    desk.round(500)
    assert kinds(client.take()) == ["update"]


def test_a_slow_client_that_is_ahead_is_sent_only_what_it_is_not_ahead_of() -> None:
    desk = desk_of("AA", "BB")
    client = desk.join()
    resume(desk, client, {"AA": 50, "BB": 2})
    client.outlet.stall()
    desk.read(quote("AA", 3, 3.0), quote("BB", 4, 4.0))
    desk.round()
    _, snapshot = client.drain()
    assert symbols(snapshot) == ["BB"]


def test_a_client_that_says_it_is_ahead_of_what_it_was_sent_here_is_taken_at_its_word() -> None:
    desk = desk_of("AA")
    client = desk.join()
    client.subscribe("AA", fields=["bid"])
    resume(desk, client, {"AA": 5})
    desk.read(quote("AA", 2, 2.0))
    desk.round()
    assert client.take() == []


def test_a_client_that_was_ahead_is_not_sent_less_for_saying_less() -> None:
    desk = desk_of("AA")
    client = desk.join()
    resume(desk, client, {"AA": 50})
    resume(desk, client, {"AA": 5})
    desk.read(quote("AA", 5, 5.0))
    desk.round()
    assert client.take() == []


def test_a_client_that_was_ahead_of_what_the_table_has_reached_is_sent_it_where_it_asks() -> None:
    desk = desk_of("AA")
    client = desk.join()
    resume(desk, client, {"AA": 5})
    desk.read(quote("AA", 5, 5.0))  # and no round yet
    assert client.say(op="resync", id=1, symbols=["AA"])[0]["items"][0]["seq"] == 5


def test_a_client_that_is_ahead_is_no_longer_so_once_it_has_unsubscribed() -> None:
    desk = desk_of("AA")
    client = desk.join()
    resume(desk, client, {"AA": 50})
    client.say(op="unsubscribe", symbols=["AA"])
    assert kinds(client.subscribe("AA")) == ["subscribed", "snapshot"]


def test_symbols_without_a_value_do_not_keep_a_client_from_the_shared_message() -> None:
    desk = Desk("AA", "BB", capacity=2)
    client = desk.join()
    client.subscribe("AA", "BB")
    desk.read(quote("AA", 1, 1.0))
    desk.round()
    (lane,) = desk.hub.paces[100].lanes.values()
    assert [symbols(message) for message in client.take()] == [["AA"]]
    assert not lane.odd
    desk.read(quote("AA", 2, 2.0), quote("BB", 3, 1.0))
    desk.round()
    assert [(m["type"], symbols(m)) for m in client.take()] == [("update", ["AA"]), ("snapshot", ["BB"])]
    assert not lane.odd


@pytest.mark.parametrize("names", [["AA"], ["A*"]])
def test_a_hub_that_has_not_even_seen_the_symbol_waits_as_well(names: list[str]) -> None:
    desk = Desk()
    client = desk.join()
    client.subscribe(*names, since={"AA": 5}, epoch="k-1")
    desk.read(quote("AA", 1, 1.0))
    desk.round()
    assert client.take() == []
    desk.read(quote("AA", 5, 1.0))
    desk.round()
    assert kinds(client.take()) == ["snapshot"]


def test_a_symbol_that_another_feed_brings_than_the_one_it_is_held_of_is_not_waited_for() -> None:
    desk = desk_of("BB")
    desk.epochs["sim"] = "s-1"
    client = desk.join()
    client.subscribe("AA", since={"AA": 50}, epoch="k-1")
    desk.hub.fold(desk.table.apply(batch(desk.symbols, [quote("AA", 3, 1.0)], feed="sim")))
    desk.round()
    assert [(m["type"], symbols(m)) for m in client.take()] == [("snapshot", ["AA"])]


@pytest.mark.parametrize("read", [[], ["AA"]])
def test_waiting_for_the_log_ends_with_its_epoch_and_all_anew(read: list[str]) -> None:
    desk = desk_of("BB", *read)
    client = desk.join()
    resume(desk, client, {"AA": 50})
    client.subscribe("BB")
    desk.now += 9_999_999
    desk.hub.announce(HEARTBEAT, desk.now)
    assert kinds(client.take()) == ["heartbeat"]
    desk.now += 1
    desk.hub.announce(HEARTBEAT, desk.now)
    _, epoch, snapshot = client.take()
    assert epoch == {"type": "epoch", "epoch": "k-1"}
    assert sorted(symbols(snapshot)) == sorted(["BB", *read])
    desk.now += 60_000_000
    desk.hub.announce(HEARTBEAT, desk.now)
    assert kinds(client.take()) == ["heartbeat"]
    desk.read(quote("AA", 9, 1.0))
    desk.round()
    assert len(client.take()) == 1


def test_a_log_that_has_caught_up_in_time_is_not_begun_anew() -> None:
    desk = desk_of("AA")
    client = desk.join()
    resume(desk, client, {"AA": 5})
    desk.read(quote("AA", 5, 2.0))
    desk.now += 10_000_000
    desk.hub.announce(HEARTBEAT, desk.now)
    assert kinds(client.take()) == ["heartbeat"]
    desk.round()
    assert kinds(client.take()) == ["snapshot"]


def test_waiting_goes_on_while_the_client_does_not_read() -> None:
    desk = desk_of("AA")
    client = desk.join()
    resume(desk, client, {"AA": 50})
    client.outlet.stall()
    desk.now += 60_000_000
    desk.hub.announce(HEARTBEAT, desk.now)
    assert client.take() == []
    client.drain()
    desk.hub.announce(HEARTBEAT, desk.now)
    assert kinds(client.take()) == ["heartbeat", "epoch", "snapshot"]


def test_what_the_table_has_never_had_is_not_told_as_nothing_where_waiting_ends() -> None:
    desk = Desk("AA")
    client = desk.join()
    resume(desk, client, {"AA": 50})
    desk.now += 10_000_000
    desk.hub.announce(HEARTBEAT, desk.now)
    assert kinds(client.take()) == ["heartbeat", "epoch"]


def test_a_client_that_has_left_is_waited_with_no_more() -> None:
    desk = desk_of("AA")
    client = desk.join()
    resume(desk, client, {"AA": 50})
    client.leave()
    desk.now += 10_000_000
    desk.hub.announce(HEARTBEAT, desk.now)
    assert client.take() == []


def test_a_clock_that_is_set_back_makes_nobody_wait_longer_for_the_log() -> None:
    desk = desk_of("AA")
    client = desk.join()
    resume(desk, client, {"AA": 50})
    desk.now -= 3_600_000_000
    desk.hub.announce(HEARTBEAT, desk.now)
    assert kinds(client.take()) == ["heartbeat", "epoch", "snapshot"]


def test_the_epoch_has_one_part_for_each_feed() -> None:
    desk = Desk()
    desk.hub._epochs = {"kafka": "k-1", "sim": "s-2"}
    assert desk.join().welcome["epoch"] == "k-1+s-2"


# -- a log that is another one -------------------------------------------------------------------------------------


def heartbeats(desk: Desk, peer: Peer) -> list[Message]:
    """What a client is told over one heartbeat interval, but for the heartbeat."""
    for slot in range(HEARTBEAT_SLOTS):
        desk.hub.announce(HEARTBEAT, desk.now, slot)
    return news(peer)


def news(peer: Peer) -> list[Message]:
    return [message for message in peer.take() if message["type"] != "heartbeat"]


def test_a_symbol_whose_seq_goes_back_is_withheld_until_its_watchers_have_been_told_the_epoch() -> None:
    desk = desk_of("AA", "BB")
    watching, elsewhere = desk.join(), desk.join()
    watching.subscribe("AA", "BB", fields=["bid"])
    elsewhere.subscribe("BB")
    desk.symbols.move(0, desk.symbols.part("feed", "1"))
    desk.read(quote("BB", 30, 3.0))
    desk.hub.fold(desk.table.apply(batch(desk.symbols, [quote("AA", 0, 7.0)], part="1")))
    desk.round()
    assert [(m["type"], symbols(m)) for m in watching.take()] == [("update", ["BB"])]
    told = heartbeats(desk, watching)
    assert kinds(told) == ["epoch", "snapshot"]
    assert [(item["symbol"], item["seq"], item["n"], item["bid"]) for item in told[1]["items"]] == [
        ("AA", 0, 2, 7.0),
        ("BB", 30, 2, 3.0),
    ]
    assert "epoch" not in kinds(heartbeats(desk, elsewhere))
    desk.hub.fold(desk.table.apply(batch(desk.symbols, [quote("AA", 4, 8.0)], part="1")))
    desk.round()
    assert news(watching)[0]["items"] == [update("AA", 0, 4, bid=8.0)]


def test_what_a_log_made_anew_does_not_hold_any_more_is_told_as_nothing() -> None:
    desk = desk_of("AA", "BB")
    client, new = desk.join(), desk.join()
    client.subscribe("AA", fields=["bid"])
    desk.epochs["feed"] = "k-2"
    desk.hub.fold(desk.table.forget(np.array([0, 1])))
    desk.hub.begin_anew()
    desk.round()
    assert client.take() == []
    epoch, snapshot = heartbeats(desk, client)
    assert epoch == {"type": "epoch", "epoch": "k-2"}
    assert snapshot["items"] == [{"symbol": "AA", "seq": 0, "n": 0, "ts": None, "bid": None}]
    assert kinds(heartbeats(desk, new)) == ["epoch"]
    assert new.subscribe("AA")[0]["pending"] == ["AA"]
    desk.read(quote("AA", 0, 5.0))
    desk.round()
    for peer in (client, new):
        (whole,) = news(peer)
        assert (whole["type"], whole["items"][0]["seq"], whole["items"][0]["n"]) == ("snapshot", 0, 1)
    assert heartbeats(desk, client) == [], "it is told once"


def test_a_client_of_the_log_before_is_not_resumed_from_the_one_made_anew() -> None:
    desk = desk_of("AA")
    desk.hub.fold(desk.table.forget(np.array([0])))
    desk.epochs["feed"] = "k-2"
    desk.read(quote("AA", 1, 9.0))
    client = desk.join()
    told = client.subscribe("AA", since={"AA": 1}, epoch="k-1")
    assert (told[0]["resumed"], kinds(told)) == ({}, ["subscribed", "snapshot"])


def test_a_client_that_does_not_read_is_told_of_the_log_once_it_does() -> None:
    desk = desk_of("AA")
    client = desk.join()
    client.subscribe("AA")
    client.outlet.stall()
    desk.hub.begin_anew()
    assert heartbeats(desk, client) == []
    client.drain()
    assert kinds(heartbeats(desk, client)) == ["epoch", "snapshot"]


def test_a_client_that_was_told_of_the_log_is_behind_no_more() -> None:
    desk = desk_of("AA")
    client = desk.join()
    client.subscribe("AA")
    client.outlet.stall()
    desk.read(quote("AA", 2, 2.0))
    desk.round()
    client.outlet.stall(after=100)  # it takes messages again, and the edge has not said so yet
    desk.hub.begin_anew()
    assert kinds(heartbeats(desk, client)) == ["epoch", "snapshot"]
    desk.read(quote("AA", 3, 3.0))
    desk.round()
    assert kinds(news(client)) == ["update"]


def test_the_first_record_of_a_log_has_seq_0_and_is_served_like_any() -> None:
    desk = Desk("AA")
    client = desk.join()
    client.subscribe("AA", fields=["bid"])
    desk.read(quote("AA", 0, 1.0))
    desk.round()
    desk.read(quote("AA", 3, 2.0))
    desk.round()
    whole, changed = client.take()
    assert (whole["type"], whole["items"][0]["seq"]) == ("snapshot", 0)
    assert changed["items"] == [update("AA", 0, 3, bid=2.0)]
    assert desk.join().subscribe("AA")[0]["pending"] == []


# -- a client that comes with positions of the log -----------------------------------------------------------------


def come(desk: Desk, at: int, epoch: str = "k-1") -> Peer:
    """A client of events that has had all of the log up to `at`."""
    peer = desk.join()
    desk.hub.receive(
        peer.client, Subscribe(None, ("*",), fields=field_set(("bid",)), positions={"feed": at}, epoch=epoch), desk.now
    )
    return peer


def test_a_symbol_that_a_hub_behind_has_not_seen_is_not_told_before_the_position_that_its_client_came_with() -> None:
    desk = desk_of("AA")
    peer = come(desk, 50)
    desk.read(quote("BB", 10, 1.0))
    desk.round()
    assert kinds(peer.take()) == ["subscribed"]
    desk.read(quote("BB", 51, 2.0))
    desk.round()
    assert [(m["type"], symbols(m)) for m in peer.take()] == [("snapshot", ["BB"])]


def test_what_is_quiet_when_the_position_is_reached_is_held_and_nobody_waits_for_it() -> None:
    desk = desk_of("AA", "BB")
    peer = come(desk, 50)
    desk.read(quote("BB", 50, 2.0))
    desk.round()
    heartbeats(desk, peer)
    assert not peer.client.waits
    desk.now += 60_000_000
    assert heartbeats(desk, peer) == []
    desk.read(quote("AA", 60, 3.0))
    desk.round()
    assert [(m["type"], symbols(m)) for m in peer.take()] == [("snapshot", ["AA"])]


def test_a_client_ahead_of_some_parts_of_a_log_has_had_all_up_to_where_it_came_with() -> None:
    desk = desk_of("AA")
    session = come(desk, 50).client.session
    assert session.position(0) == 50
    desk.read(quote("AA", 70, 2.0))
    assert session.position(0) == 70


def test_the_first_record_of_a_log_is_not_told_again_to_a_client_that_is_ahead_of_it() -> None:
    desk = Desk("AA")
    desk.read(quote("AA", 0, 1.0))
    assert kinds(come(desk, 50).take()) == ["subscribed"]


def test_a_client_of_events_that_has_begun_anew_waits_for_no_position_any_more() -> None:
    desk = desk_of("AA")
    peer = come(desk, 50)
    desk.now += 10_000_000
    assert kinds(heartbeats(desk, peer)) == ["subscribed", "epoch", "snapshot"]
    desk.read(quote("BB", 10, 1.0))
    desk.round()
    assert [(m["type"], symbols(m)) for m in peer.take()] == [("snapshot", ["BB"])]


def test_positions_of_another_log_count_for_nothing() -> None:
    desk = desk_of("AA")
    peer = come(desk, 50, "k-0")
    assert kinds(peer.take()) == ["subscribed", "snapshot"]
    assert peer.client.session.position(0) == 1
    assert not peer.client.waits


def test_positions_of_a_log_made_anew_begin_anew() -> None:
    desk = desk_of("AA")
    desk.read(quote("AA", 90, 9.0))
    desk.epochs["feed"] = "k-2"
    desk.hub.fold(desk.table.forget(np.array([0])))
    desk.hub.begin_anew()
    desk.read(quote("AA", 5, 5.0))
    assert come(desk, 4, "k-2").take()[1]["items"][0]["seq"] == 5
    assert kinds(come(desk, 9, "k-2").take()) == ["subscribed"]
    assert desk.table.positions.tolist() == [5]


# -- what of another log comes early -------------------------------------------------------------------------------


def test_a_symbol_that_was_waited_for_is_withheld_where_the_log_is_made_anew_meanwhile() -> None:
    desk = desk_of("BB")
    client = desk.join()
    client.subscribe("AA", since={"AA": 50}, epoch="k-1")
    desk.epochs["feed"] = "k-2"
    desk.hub.begin_anew()
    desk.read(quote("AA", 10, 1.0))
    desk.round()
    assert client.take() == []
    assert kinds(heartbeats(desk, client)) == ["epoch", "snapshot"]


def test_what_the_table_has_never_had_is_withheld_too_where_the_log_is_made_anew_meanwhile() -> None:
    desk = Desk("AA")
    client = desk.join()
    resume(desk, client, {"AA": 50})
    desk.epochs["feed"] = "k-2"
    desk.hub.begin_anew()
    desk.read(quote("AA", 60, 1.0))
    desk.round()
    assert client.take() == []
    assert kinds(heartbeats(desk, client)) == ["epoch", "snapshot"]


def test_nothing_of_a_log_made_anew_is_told_before_its_epoch_however_far_it_is() -> None:
    desk = desk_of("AA")
    client = desk.join()
    client.subscribe("AA")
    desk.epochs["feed"] = "k-2"
    desk.hub.fold(desk.table.forget(np.array([0])))
    desk.hub.begin_anew()
    desk.read(quote("AA", 90, 9.0))
    desk.round()
    assert client.take() == []
    assert kinds(heartbeats(desk, client)) == ["epoch", "snapshot"]


def test_nothing_of_a_log_made_anew_is_told_to_a_client_of_events_before_its_epoch_though_it_reads_late() -> None:
    desk = desk_of("AA")
    peer = come(desk, 50)
    peer.take()
    peer.outlet.stall()
    desk.epochs["feed"] = "k-2"
    desk.hub.fold(desk.table.forget(np.array([0])))
    desk.hub.begin_anew()
    desk.read(quote("AA", 60, 9.0))
    assert heartbeats(desk, peer) == []
    desk.read(quote("AA", 61, 9.5))
    desk.round()
    assert peer.drain() == []
    assert kinds(heartbeats(desk, peer)) == ["epoch", "snapshot"]


def test_a_round_tells_nobody_of_what_was_forgotten() -> None:
    desk = desk_of("AA")
    desk.join().subscribe("AA")
    desk.hub.fold(desk.table.forget(np.array([0])))
    new = desk.join()
    new.subscribe("AA")
    desk.round()
    assert new.take() == []
    desk.read(quote("AA", 3, 9.0))
    desk.round()
    assert kinds(new.take()) == ["snapshot"]
