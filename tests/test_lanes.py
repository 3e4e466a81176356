"""Lanes and rounds: what they cost, and that they cost it only for what changed."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from tests.hubs import Desk, Peer, quote
from ticker import audiences, lanes
from ticker.audiences import Message
from ticker.directory import Directory
from ticker.errors import Close
from ticker.protocol import FRAMED, snapshot_items


class Sink:
    """An outlet that keeps nothing."""

    encoding = FRAMED
    transport = "websocket"

    def offer(self, *_: Message) -> bool:
        return True

    def send(self, *_: Message) -> None:
        pass

    def unsent(self) -> int:
        return 0

    def close(self, _: Close) -> None:
        pass


def crowd(desk: Desk, *watched: list[str]) -> None:
    """Clients that keep nothing of what they are sent, one for each list of what to watch."""
    for names in watched:
        client = desk.hub.join(Sink(), desk.now)
        symbols = ",".join(f'"{name}"' for name in names)
        desk.hub.receive(client, f'{{"op":"subscribe","symbols":[{symbols}]}}', desk.now)


def told(peer: Peer) -> list[tuple[str, list[str]]]:
    return [(message["type"], [item["symbol"] for item in message["items"]]) for message in peer.take()]


@pytest.mark.parametrize("dense", [0, 4, 10**9])
def test_both_ways_of_picking_send_the_same_messages(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audiences, "DENSE", dense)
    desk = Desk("AA", "BB", "CC", "DD")
    peers = [desk.join() for _ in range(4)]
    for peer, names in zip(peers, (["AA"], ["AA", "BB"], ["BB", "AA"], ["CC", "DD"]), strict=True):
        peer.subscribe(*names)
    desk.read(*(quote(name, 1, 1.0) for name in ("AA", "BB", "CC", "DD")))
    desk.round()
    assert [told(peer) for peer in peers] == [
        [("snapshot", ["AA"])],
        [("snapshot", ["AA", "BB"])],
        [("snapshot", ["AA", "BB"])],
        [("snapshot", ["CC", "DD"])],
    ]
    desk.read(quote("BB", 2, 1.0), quote("DD", 3, 2.0))
    desk.round()
    assert [told(peer) for peer in peers] == [
        [],
        [("update", ["BB"])],
        [("update", ["BB"])],
        [("update", ["DD"])],
    ]
    desk.read(quote("AA", 4, 1.0))
    desk.round()
    assert [told(peer) for peer in peers] == [[("update", ["AA"])]] * 3 + [[]]


def test_clients_with_the_same_list_share_one_message() -> None:
    desk = Desk("AA", "BB")
    crowd(desk, ["AA", "BB"], ["BB", "AA"], ["AA"])
    (lane,) = desk.hub.paces[100].lanes.values()
    assert sorted((audience.rows, audience.size) for audience in lane._audiences.values()) == [((0,), 1), ((0, 1), 2)]


def test_a_round_costs_what_changed_and_not_what_is_watched() -> None:
    """100,000 quiet symbols, all of them watched: a round in which ten changed is well under a millisecond."""
    names = [f"S{i}" for i in range(100_000)]
    desk = Desk(*names, capacity=131_072, symbols_max=100_000)
    crowd(desk, ["*"], *(names[i * 20 : i * 20 + 20] for i in range(50)))
    for name in names[:10]:
        desk.read(quote(name, 1, 1.0))
    desk.round()
    took = []
    for seq in range(2, 12):
        desk.read(*(quote(name, seq, float(seq)) for name in names[:10]))
        began = time.perf_counter()
        desk.round()
        took.append(time.perf_counter() - began)
    assert min(took) < 0.001
    took = []
    for _ in range(10):
        began = time.perf_counter()
        desk.round()
        took.append(time.perf_counter() - began)
    assert min(took) < 0.000_1


def test_clients_at_their_limit_do_not_feel_symbols_appear(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern is tried on what has appeared only for a client that has room, or has not been told that it has none."""
    tried: list[int] = []
    matching = Directory.matching

    def counted(self: Directory, pattern: str, start: int = 0) -> Sequence[int]:
        rows = matching(self, pattern, start)
        tried.append(len(rows))
        return rows

    desk = Desk(*(f"S{i}" for i in range(50)), symbols_max=50)
    crowd(desk, *[["*", "S*"]] * 100)
    monkeypatch.setattr(Directory, "matching", counted)
    desk.read(*(quote(f"N{i}", 1, 1.0) for i in range(1000)))
    assert tried == [0, 1000] * 100  # the newest pattern first
    desk.read(*(quote(f"M{i}", 2, 1.0) for i in range(1000)))
    assert tried[200:] == [0] * 100
    assert {len(client.session.rows) for client in desk.hub.clients} == {50}


def test_first_values_are_encoded_once_however_many_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    encode = snapshot_items

    def counted(names: Sequence[str], *columns: Any) -> list[bytes]:
        encoded.extend(names)
        return encode(names, *columns)

    monkeypatch.setattr(lanes, "snapshot_items", counted)
    desk = Desk("AA", "BB")
    groups = ["*"], ["AA", "NEW0"], ["NEW1", "NEW0"]
    peers = [desk.join() for _ in range(9)]
    for i, peer in enumerate(peers):
        peer.subscribe(*groups[i % 3])
    desk.read(quote("AA", 1, 1.0), *(quote(f"NEW{i}", 1, 1.0) for i in range(3)))
    desk.round()
    assert sorted(encoded) == ["AA", "NEW0", "NEW1", "NEW2"]
    for i, peer in enumerate(peers):
        assert told(peer) == [
            ("snapshot", (["AA", "NEW0", "NEW1", "NEW2"], ["AA", "NEW0"], ["NEW0", "NEW1"])[i % 3]),
        ]
    desk.read(quote("NEW0", 2, 2.0))
    desk.round()
    assert len(encoded) == 4
    assert [told(peer) for peer in peers] == [[("update", ["NEW0"])]] * 9


def test_many_clients_that_follow_one_pattern_hardly_feel_symbols_appear() -> None:
    assert min(time_of_many_arrivals() for _ in range(3)) < 0.2


def time_of_many_arrivals() -> float:
    """CPU seconds; what else the machine does makes it longer now and then."""
    desk = Desk(*(f"S{i}" for i in range(10)), capacity=4096, symbols_max=10_000)
    crowd(desk, *[["*"]] * 200)
    began = time.process_time()
    desk.read(*(quote(f"N{i}", 1, 1.0) for i in range(1000)))
    desk.round()
    took = time.process_time() - began
    (lane,) = desk.hub.paces[100].lanes.values()
    assert not lane.odd
    assert [(len(audience.rows), audience.size) for audience in lane._audiences.values()] == [(1010, 200)]
    return took


def test_clients_that_gain_the_same_symbols_stay_one_audience() -> None:
    desk = Desk("AA", "BB", "CC", symbols_max=4)
    crowd(desk, *[["*"]] * 3, *[["AA"]] * 2, ["A*"])
    for i in range(3):  # only the first is for those at their limit
        desk.read(quote(f"N{i}", i + 1, 1.0))
    desk.read(quote("AB", 4, 1.0))
    desk.round()
    (lane,) = desk.hub.paces[100].lanes.values()
    assert {audience.rows: audience.size for audience in lane._audiences.values()} == {
        (0, 1, 2, 3): 3,
        (0,): 2,
        (0, 6): 1,
    }
    assert lane._pairs == 7
    assert {row: len(audiences) for row, audiences in lane._watching.items()} == {0: 3, 1: 1, 2: 1, 3: 1, 6: 1}


def test_a_client_costs_a_few_kib() -> None:
    names = [f"binance-spot:SYM{i:03}" for i in range(500)]
    desk = Desk(*names)
    lists = [[names[(i * 7 + k * 23) % 500] for k in range(20)] for i in range(1000)]
    crowd(desk, *lists[:500])
    tracemalloc.start()
    try:
        crowd(desk, *lists[500:])
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held / 500 < 6 * 1024


def test_a_client_that_is_not_in_step_leaves_nothing_behind() -> None:
    desk = Desk("AA", "BB")
    slow, other = desk.join(), desk.join()
    for peer in (slow, other):
        peer.subscribe("AA")
    slow.outlet.stall()
    desk.read(quote("AA", 1, 1.0))
    desk.round()
    (lane,) = desk.hub.paces[100].lanes.values()
    assert [member.client for member in lane.odd] == [slow.client]
    slow.leave()
    assert not lane.odd
    other.leave()
    assert not desk.hub.paces
