"""Presence: who is connected, and how many watch what."""

from __future__ import annotations

from tests.hubs import Desk, quote
from ticker.access import EVERYTHING, Grant
from ticker.presence import presence


def test_who_watches_how_many_of_what() -> None:
    desk, replay = Desk("A", "B", "C"), Desk("A")
    desk.read(quote("A", 1, 1, 2), quote("B", 2, 1, 2))
    first = desk.join(grant=Grant("desk-1", EVERYTHING))
    again = desk.join(grant=Grant("desk-1", EVERYTHING))
    other = desk.join(grant=Grant("desk-2", EVERYTHING))
    replay.join(grant=Grant("desk-2", EVERYTHING)).subscribe("A")
    first.subscribe("*")
    first.subscribe("A", interval_ms=500)
    again.subscribe("A", "NEW")
    again.subscribe("A", channel="bars", interval="1m")
    again.subscribe("A", channel="bars", interval="1s")
    other.subscribe("B", channel="trades")
    hubs = [("live", desk.hub), ("replay", replay.hub)]
    assert presence(hubs, 10) == {
        "connections": {"live": 3, "replay": 1},
        "subjects": [
            {"subject": "desk-1", "connections": 2, "ticker": 4, "trades": 0, "bars": 1},
            {"subject": "desk-2", "connections": 2, "ticker": 1, "trades": 1, "bars": 0},
        ],
        "symbols": [
            {"symbol": "A", "ticker": 3, "trades": 0, "bars": 1},
            {"symbol": "B", "ticker": 1, "trades": 1, "bars": 0},
            {"symbol": "C", "ticker": 1, "trades": 0, "bars": 0},
        ],
        "more": {"subjects": 0, "symbols": 0},
    }
    assert [entry["symbol"] for entry in presence(hubs, 1)["symbols"]] == ["A"]
    assert presence(hubs, 1)["more"] == {"subjects": 1, "symbols": 2}
    for peer in (first, again, other):
        peer.leave()
    assert presence(hubs[:1], 10) == {
        "connections": {"live": 0},
        "subjects": [],
        "symbols": [],
        "more": {"subjects": 0, "symbols": 0},
    }
