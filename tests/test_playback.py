"""A log played: what is sent, at which replay time, whatever the speed, the reading, and the seeks on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from feeds.blocks import BEGINNING, NEVER, Block, Cursor
from feeds.ticks import Symbols, Ticks
from tests.hubs import NOON, FakeOutlet, Message, batch, quote, trade
from ticker.checkpoints import Checkpoint, Checkpoints
from ticker.clients import Client
from ticker.hub import Hub
from ticker.playback import Playback
from ticker.quotes import FIELDS, QuoteTable
from ticker.settings import Settings

MS = 1000
SECOND = 1_000_000


@dataclass
class FakeLog:
    """Records as a log: cut into blocks of `size` rows, with a cursor in every other one."""

    records: list[Message]
    size: int = 4
    symbols: Symbols = field(default_factory=Symbols)

    def __post_init__(self) -> None:
        self.ticks: Ticks = batch(self.symbols, self.records)

    def blocks(self, cursor: Cursor | None = None) -> Iterator[Block]:
        time = self.ticks.ts
        start = int(np.searchsorted(time, cursor.time)) if cursor else 0
        while start < len(time):
            stop = min(len(time), start - start % self.size + self.size)
            last = int(time[stop - 1])
            marked = stop // self.size % 2 == 0 and stop % self.size == 0 and time[start] < last
            at = Cursor(last, (BEGINNING,)) if marked else None
            yield Block(self.ticks[start:stop], time[start:stop], last, stop, at)
            start = stop


class Player:
    """A playback of a log into a hub, with one client."""

    def __init__(self, log: FakeLog, *, start: int = NOON, end: int = NEVER, bytes_max: int = 1 << 20) -> None:
        self.log = log
        symbols = Symbols()
        self.table = QuoteTable(symbols)
        self.hub = Hub(self.table, Settings(), {"replay": "r-1"})
        self.checkpoints = Checkpoints(bytes_max)
        self.playback = Playback(
            self.table,
            self.hub,
            part=symbols.part("replay"),
            start=start,
            end=end,
            since=start,
            keep=self.checkpoints.add,
        )
        self.read(None)
        self.outlet = FakeOutlet()
        self.client: Client = self.hub.join(self.outlet, 0, start)
        self.outlet.take()

    def read(self, checkpoint: Checkpoint | None) -> None:
        self.blocks = self.log.blocks(checkpoint.cursor if checkpoint else None)
        self.playback.open(self.log.symbols.names)

    def feed(self) -> None:
        block = next(self.blocks, None)
        if block is None:
            self.playback.finish()
        else:
            self.playback.offer(block)

    def subscribe(self, *symbols: str, **options: Any) -> list[Message]:
        command = json.dumps({"op": "subscribe", "symbols": symbols, **options})
        self.hub.receive(self.client, command, 0, self.playback.position)
        return self.outlet.take()

    def play(self) -> list[Message]:
        """To the end, unpaced."""
        while not self.playback.completed:
            if self.playback.next() is None:
                self.feed()
            else:
                self.playback.run()
        return self.outlet.take()

    def settle(self, ts: int) -> None:
        while not self.playback.settle(ts):
            self.feed()

    def seek(self, ts: int, checkpoints: Checkpoints | None = None) -> None:
        checkpoint = (checkpoints or self.checkpoints).latest(ts)
        self.playback.rewind(checkpoint)
        self.read(checkpoint)
        while not self.playback.absorb(ts):
            self.feed()
        self.hub.restart(ts)

    def state(self) -> dict[str, Any]:
        """All that the table holds, by symbol."""
        table = self.table
        names = table.symbols.names
        rows = np.array([row for row in range(len(names)) if table.n[row]], np.int64)
        view = table.view(rows)
        return {
            names[row]: (int(table.seq[row]), int(table.n[row]), int(table.ts[row]), view[:, i].tobytes())
            for i, row in enumerate(rows.tolist())
        }


def ticking(*times_ms: int, symbol: str = "A") -> FakeLog:
    return FakeLog([quote(symbol, seq, bid=seq, ts=NOON + at * MS) for seq, at in enumerate(times_ms, 1)])


def rounds(messages: list[Message]) -> list[tuple[int, list[int]]]:
    """(milliseconds after noon, the seqs in it) of each message of items."""
    return [
        ((message["ts"] - NOON) // MS, [item["seq"] for item in message["items"]])
        for message in messages
        if message["type"] in {"snapshot", "update"}
    ]


# -- rounds in replay time -----------------------------------------------------------------------------------------


def test_a_round_carries_the_ticks_before_its_multiple() -> None:
    player = Player(ticking(0, 40, 100, 199, 200, 950))
    player.subscribe("A", interval_ms=100)
    assert rounds(player.play()) == [(100, [2]), (200, [4]), (300, [5]), (1000, [6])]


def test_interval_0_has_a_round_for_each_distinct_time() -> None:
    player = Player(ticking(0, 40, 40, 40, 41, 41, 90))
    player.subscribe("A", interval_ms=0)
    assert rounds(player.play()) == [(0, [1]), (40, [4]), (41, [6]), (90, [7])]


def test_lanes_of_different_intervals_fall_each_on_their_own_multiples() -> None:
    records = [quote("AB"[at % 2], at + 1, bid=at, ts=NOON + 100 * at * MS) for at in range(30)]
    player = Player(FakeLog(records))
    player.subscribe("A", interval_ms=1000)
    player.subscribe("B", interval_ms=250)
    sent = rounds(player.play())
    assert [ms for ms, _ in sent] == sorted(ms for ms, _ in sent)
    for ms, seqs in sent:
        assert all((seq - 1) * 100 < ms for seq in seqs)
        assert ms % (1000 if seqs[0] % 2 else 250) == 0


def test_a_pattern_that_waits_for_its_first_symbol_gets_its_first_round_in_time() -> None:
    player = Player(ticking(0, 10, 20, 30, 500))
    player.subscribe("*", interval_ms=20)
    assert rounds(player.play()) == [(20, [2]), (40, [4]), (520, [5])]


def test_a_quiet_hour_makes_no_rounds_and_no_late_ones() -> None:
    player = Player(ticking(0, 3_600_050))
    player.subscribe("A", interval_ms=100)
    assert rounds(player.play()) == [(100, [1]), (3_600_100, [2])]


def test_the_end_is_exclusive() -> None:
    player = Player(ticking(0, 40, 100, 199), end=NOON + 100 * MS)
    player.subscribe("A", interval_ms=100)
    assert rounds(player.play()) == [(100, [2])]
    assert player.playback.ticks == 2


def test_without_anybody_watching_the_position_goes_on() -> None:
    player = Player(ticking(0, 40, 100, 199))
    assert player.play() == []
    assert player.playback.position == NOON + 199 * MS + 1


def test_a_client_that_comes_in_the_middle_sees_the_state_of_that_time() -> None:
    player = Player(ticking(*range(0, 100, 10)))
    player.settle(NOON + 45 * MS)
    _ack, snapshot = player.subscribe("A", interval_ms=100)
    assert (snapshot["ts"], snapshot["items"][0]["seq"]) == (NOON + 45 * MS, 5)


def test_stepping_goes_by_the_grid_of_the_fastest_lane() -> None:
    player = Player(ticking(*range(0, 1000, 10)))
    player.subscribe("A", interval_ms=100)
    assert player.playback.grid(1, 50 * MS) == NOON + 100 * MS
    player.settle(NOON + 30 * MS)
    assert player.playback.grid(3, 50 * MS) == NOON + 300 * MS
    player.subscribe("A", interval_ms=0)
    assert player.playback.grid(1, 50 * MS) is None


# -- seeking -------------------------------------------------------------------------------------------------------


def test_after_a_seek_comes_an_epoch_and_all_that_is_subscribed_valueless_ones_too() -> None:
    player = Player(FakeLog([quote("A", 1, bid=1), quote("B", 2, bid=2, ts=NOON + SECOND)]))
    player.subscribe("A", "B", "C", interval_ms=100)
    player.play()
    player.seek(NOON + 10)
    epoch, snapshot = player.outlet.take()
    assert epoch == {"type": "epoch", "epoch": "r-1"}
    assert [(item["symbol"], item["seq"], item["n"], item["ts"], item["bid"]) for item in snapshot["items"]] == [
        ("A", 1, 1, NOON, 1.0),
        ("B", 0, 0, None, None),
        ("C", 0, 0, None, None),
    ]
    ((_, seqs),) = rounds(player.play())
    assert seqs == [2]


def test_a_seek_goes_on_from_the_nearest_checkpoint() -> None:
    player = Player(ticking(*range(0, 1000, 10)))
    player.play()
    assert len(player.checkpoints) > 5
    read: list[int] = []
    player.log.blocks = lambda cursor=None: read.append(cursor.time) or FakeLog.blocks(player.log, cursor)  # type: ignore
    player.seek(NOON + 555 * MS)
    assert NOON + 400 * MS < read[0] <= NOON + 555 * MS


RECORDS = st.lists(
    st.tuples(st.integers(0, 300), st.sampled_from("ABC"), st.booleans(), st.integers(1, 9)), min_size=1, max_size=60
)


def records_of(drawn: list[tuple[int, str, bool, int]]) -> list[Message]:
    rows = sorted(drawn, key=lambda row: row[0])
    return [
        trade(symbol, seq, price / 10, price / 100, ts=NOON + at * 10 * MS)
        if traded
        else quote(symbol, seq, bid=price, ask=price + 1, ts=NOON + at * 10 * MS)
        for seq, (at, symbol, traded, price) in enumerate(rows, 1)
    ]


class Sought(RuleBasedStateMachine):
    """State after any sequence of seeks, plays and steps equals the state of a straight run to that time."""

    @initialize(drawn=RECORDS, size=st.integers(1, 9), room=st.sampled_from([0, 3000, 1 << 20]))
    def begin(self, drawn: list[tuple[int, str, bool, int]], size: int, room: int) -> None:
        self.records = records_of(drawn)
        self.player = Player(FakeLog(self.records, size), bytes_max=room)
        self.player.subscribe("A", "*", interval_ms=70)

    @rule(at=st.integers(0, 3200))
    def seek(self, at: int) -> None:
        self.player.seek(NOON + at * MS)

    @rule(on=st.integers(1, 500))
    def play(self, on: int) -> None:
        self.player.settle(self.player.playback.position + on * MS)

    @rule(on=st.integers(1, 3))
    def step(self, on: int) -> None:
        target = self.player.playback.grid(on, 50 * MS)
        assert target is not None
        self.player.settle(target)

    @rule(interval=st.sampled_from([0, 50, 1000]), symbol=st.sampled_from(["B", "C", "?", "D"]))
    def subscribe(self, interval: int, symbol: str) -> None:
        self.player.subscribe(symbol, interval_ms=interval or 30)

    @rule()
    def finish(self) -> None:
        self.player.play()

    @invariant()
    def is_a_straight_run(self) -> None:
        straight = Player(FakeLog(self.records, 7))
        straight.settle(self.player.playback.position)
        assert self.player.state() == straight.state()
        assert self.player.playback.ticks == straight.playback.ticks


TestSought = Sought.TestCase
TestSought.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)

# -- the same bytes ------------------------------------------------------------------------------------------------

CONTROLS = st.lists(st.tuples(st.integers(0, 3500), st.sampled_from(["subscribe", "seek", "none"])), max_size=5)


def run(
    records: list[Message], controls: list[tuple[int, str]], size: int, steps: list[int], room: int
) -> list[Message]:
    """All that is sent, with controls at the replay times given, in order; `steps` ms are played at a time."""
    player = Player(FakeLog(records, size), bytes_max=room)
    player.subscribe("A", interval_ms=100)
    player.subscribe("*", interval_ms=250)
    sent: list[Message] = []
    at = 0
    for number, (when, what) in enumerate(sorted(controls)):
        for step in steps:
            at = min(when, max(at, 0) + step)
            player.settle(max(player.playback.position, NOON + at * MS))
        player.settle(max(player.playback.position, NOON + when * MS))
        if what == "subscribe":
            sent += player.subscribe("BC"[number % 2], interval_ms=50)
        elif what == "seek":
            player.seek(NOON + when // 2 * MS)
        sent += player.outlet.take()
        at = when
    return sent + player.play()


@settings(deadline=None, max_examples=60)
@given(
    RECORDS,
    CONTROLS,
    st.integers(1, 9),
    st.lists(st.integers(1, 400), max_size=6),
    st.lists(st.integers(1, 400), max_size=6),
    st.sampled_from([0, 3000, 1 << 20]),
)
def test_the_same_controls_at_the_same_times_give_the_same_messages(
    drawn: list[tuple[int, str, bool, int]],
    controls: list[tuple[int, str]],
    size: int,
    steps: list[int],
    others: list[int],
    room: int,
) -> None:
    records = records_of(drawn)
    assert run(records, controls, size, steps, room) == run(records, controls, size, others, 1 << 20)
    assert run(records, controls, size, steps, room) == run(records, controls, 5, steps, room)


@settings(deadline=None, max_examples=60)
@given(RECORDS, st.integers(1, 9))
def test_updates_chain_and_their_counts_add_up(drawn: list[tuple[int, str, bool, int]], size: int) -> None:
    player = Player(FakeLog(records_of(drawn), size))
    player.subscribe("*", interval_ms=100)
    held: dict[str, Message] = {}
    for message in player.play():
        for item in message["items"]:
            if message["type"] == "update":
                assert item["prev"] == held[item["symbol"]]["seq"]
                item = {**item, "n": item["n"] + held[item["symbol"]]["n"]}  # noqa: PLW2901
            held[item["symbol"]] = item
    assert {symbol: item["n"] for symbol, item in held.items()} == {
        symbol: sum(1 for row in drawn if row[1] == symbol) for symbol in {row[1] for row in drawn}
    }


# -- checkpoints ---------------------------------------------------------------------------------------------------


def checkpoint(time: int, size: int = 10) -> Checkpoint:
    table = QuoteTable(Symbols(), capacity=size)
    return Checkpoint(Cursor(time, ()), (), table.save(np.arange(size)), 0)


def test_checkpoints_are_bounded_and_stay_spread() -> None:
    size = checkpoint(0).nbytes
    held = Checkpoints(5 * size)
    for time in range(100):
        held.add(checkpoint(time))
        assert held.nbytes <= 5 * size
    assert len(held) == 5
    found = [held.latest(time) for time in (0, 25, 50, 75, 99)]
    times = [each.time for each in found if each]
    assert times[-1] == 99
    assert times[0] == 0
    gaps = np.diff(sorted(set(times)))
    assert gaps.max() <= 60


def test_no_checkpoint_before_the_first() -> None:
    held = Checkpoints(1 << 20)
    held.add(checkpoint(10))
    assert held.latest(9) is None
    found = held.latest(10)
    assert found is not None
    assert found.time == 10


@pytest.mark.parametrize("room", [0, 1 << 20])
def test_a_table_is_restored_to_the_last_bit(room: int) -> None:
    records = records_of([(at, "ABC"[at % 3], bool(at % 2), at % 9 + 1) for at in range(50)])
    player = Player(FakeLog(records), bytes_max=room)
    player.play()
    whole = player.state()
    player.seek(NOON + 250 * MS)
    assert player.state() != whole
    player.settle(NOON + 10 * SECOND)
    assert player.state() == whole
    assert len(FIELDS) * 8 == len(next(iter(whole.values()))[3])
