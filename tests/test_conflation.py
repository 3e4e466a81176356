"""The property that the service stands on: conflation loses nothing, invents nothing, and never turns time back.

Two hubs read one log, each at its own speed; a third reads it under another epoch. Hypothesis lets ticks arrive,
clients come, go, stall, drain, subscribe, resync and resume in any order; the log gets a second part, to which symbols
move, and is made anew, which each hub notices in its own time. After every step each client's mirror is held against the
history of the log: one quote table that was fed tick by tick, and the ticks.

`Watcher` is the specification. It knows what its client asked for and what each hub has read, so it foretells which
symbols every command and every round must, may and must not bring; nothing of it is taken from the code under test.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Final

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from feeds.ticks import Symbols, Ticks
from tests.hubs import NAN, NOON, FakeOutlet, Message, batch, quote, trade
from ticker.hub import HEARTBEAT_SLOTS, Hub
from ticker.mirror import Mirror
from ticker.protocol import BARE, FRAMED, Encoding
from ticker.quotes import FIELDS, QuoteTable
from ticker.settings import Settings

SYMBOLS: Final = ("AA", "AB", "BA", "BB", "CA", "DA")
#: Symbols that every hub knows of from its start, before they have a value.
CLAIMED: Final = ("AB", "DA")
PATTERNS: Final = ("*", "A*", "?A", "[AB]B")
INTERVALS_MS: Final = (0, 100, 250)
FIELD_SETS: Final = (FIELDS, ("bid", "ask"), ("last", "volume"), ("bid", "last", "trades", "session"))
CATCH_UP_MS: Final = 1000
SETTINGS: Final = Settings(catch_up_s_max=CATCH_UP_MS / 1000, messages_per_s_max=10_000)
#: A time that is a multiple of every interval.
QUIET_MS: Final = 500

#: Logs that are made anew, one after another, and the parts of each.
LOGS_MAX: Final = 4
PARTS: Final = 2
#: A seq that no log reaches: what is withheld until the client has been told of the log.
NEVER: Final = 2**60

Lane = tuple[int, tuple[str, ...]]


class History:
    """A log, and what every symbol was after each of its records.

    A record's index is its place among all; its seq its position in its own part. No two parts of any logs share one: so
    that two states of a symbol are told apart by their seq, which the protocol cannot promise.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.records: list[Message] = []
        #: The item of each record's symbol, after it.
        self.items: list[Message] = []
        #: How many parts there are, and the symbols that write to the second.
        self.parts = 1
        self.moved: set[str] = set()
        self._ends = [0] * PARTS
        self._symbols = Symbols()
        self._table = QuoteTable(self._symbols)
        self._count: Counter[str] = Counter()

    def place(self, symbol: str, step: int) -> Message:
        """Where the next record of `symbol` goes; with a `step` of 0 it is part of the last record, where it can be."""
        part = int(symbol in self.moved)
        if not (self.records and self.records[-1]["part"] == part):
            step = max(1, step)
        self._ends[part] += step
        return {"part": part, "seq": (self._ends[part] * LOGS_MAX + self.number) * PARTS + part}

    def append(self, record: Message) -> None:
        symbol, seq = record["symbol"], record["seq"]
        self.records.append(record)
        self._count[symbol] += 1
        self._table.apply(batch(self._symbols, [record]))
        row = self._symbols.claim(symbol, 0)
        values = self._table.view(np.array([row]))[:, 0].tolist()
        fields = {name: None if math.isnan(value) else value for name, value in zip(FIELDS, values, strict=True)}
        ts = int(self._table.ts[row])
        self.items.append({"symbol": symbol, "seq": seq, "n": self._count[symbol], "ts": ts, **fields})

    def between(self, symbol: str, prev: int, last: int) -> list[Message]:
        """The records of `symbol` after the one at `prev`, up to the one at `last`."""
        return [record for record in self.records[prev + 1 : last + 1] if record["symbol"] == symbol]


def nothing(symbol: str) -> Message:
    """The item of a symbol that has no value any more."""
    return {"symbol": symbol, "seq": 0, "n": 0, "ts": None, **dict.fromkeys(FIELDS)}


class Replica:
    """A hub, how far it has read the log, and where each symbol stood at the last round of each interval."""

    def __init__(self, history: History, name: str) -> None:
        self.history = history
        self.name = name
        #: The parts of the log that it has noticed.
        self.parts = history.parts
        self.read_records = 0
        #: The position of the last record of each symbol that was read, and its index.
        self.seq: dict[str, int] = {}
        self.at: dict[str, int] = {}
        self.symbols = Symbols()
        self.numbers = [self.symbols.part("feed", str(part)) for part in range(PARTS)]
        self.symbols.claim_all(CLAIMED, self.numbers[0])
        #: The symbols that clients have been let know of.
        self.known = set(CLAIMED)
        self.table = QuoteTable(self.symbols, capacity=3)
        self.epochs = {"feed": self.epoch}
        self.hub = Hub(self.table, SETTINGS, self.epochs)
        self.at_round: dict[int, dict[str, int]] = {interval: {} for interval in INTERVALS_MS}
        self.watchers: list[Watcher] = []

    @property
    def epoch(self) -> str:
        return f"{self.name}-{self.history.number}-{self.parts}"

    def read(self, count: int) -> None:
        """Fold in the next records, as one batch; those of one position are never split."""
        records = self.history.records
        stop = min(self.read_records + max(0, count), len(records))
        while 0 < stop < len(records) and records[stop]["seq"] == records[stop - 1]["seq"]:
            stop += 1
        new = records[self.read_records : stop]
        if stop <= self.read_records:
            return
        if any(record["part"] >= self.parts for record in new):
            self.notice(self.history)
        before = dict(self.seq)
        for index, record in enumerate(new, self.read_records):
            self.seq[record["symbol"]], self.at[record["symbol"]] = record["seq"], index
        self.read_records = stop
        fell = {symbol for symbol, seq in before.items() if self.seq[symbol] < seq}
        arrived = {record["symbol"] for record in new} | set(self.symbols.names)
        for watcher in self.watchers:
            watcher.see(fell, arrived - self.known)
        self.known |= arrived
        self.hub.fold(self.table.apply(Ticks.concat([self._tick(record) for record in new])))

    def _tick(self, record: Message) -> Ticks:
        row, number = self.symbols.find(record["symbol"]), self.numbers[record["part"]]
        if row is not None and self.symbols.owner[row] != number:
            self.symbols.move(row, number)
        return batch(self.symbols, [record], part=str(record["part"]))

    def notice(self, history: History) -> None:
        """Find the log as it is now: another one, or with more parts; all clients are to be told of that."""
        gone: set[str] = set()
        if history is not self.history:
            gone, self.seq, self.at, self.read_records = set(self.seq), {}, {}, 0
            self.at_round = {interval: {} for interval in INTERVALS_MS}
        elif history.parts == self.parts:
            return
        self.history, self.parts = history, history.parts
        rows = np.array(sorted(self.symbols._rows[symbol] for symbol in gone), np.int64)
        for watcher in self.watchers:
            watcher.see_another_log(gone)
        self.epochs["feed"] = self.epoch
        self.symbols.release(rows)
        self.hub.fold(self.table.forget(rows))
        self.hub.begin_anew()

    def item(self, symbol: str) -> Message:
        """What it holds of a symbol, in truth."""
        return self.history.items[self.at[symbol]] if symbol in self.at else nothing(symbol)

    def ticked(self, interval: int, symbol: str) -> bool:
        """Whether a tick of `symbol` has been read since the last round of `interval`."""
        return self.at.get(symbol, -1) > self.at_round[interval].get(symbol, -1)


@dataclass(eq=False)
class Watcher:
    """A client: what it asked for, what it was told, and what it must be told next."""

    replica: Replica
    encoding: Encoding
    mirror: Mirror = field(default_factory=Mirror)
    exact: dict[str, Lane] = field(default_factory=dict)
    #: Oldest first.
    patterns: dict[str, Lane] = field(default_factory=dict)
    #: The newest seq it is known to hold of each symbol it watches: it may never see an older one.
    floor: dict[str, int] = field(default_factory=dict)
    #: The index of the record that each of those is, in the log of its hub.
    at: dict[str, int] = field(default_factory=dict)
    #: What each item in the mirror must be, all fields of it.
    truth: dict[str, Message] = field(default_factory=dict)
    #: Whether it is to be told that the log is another one.
    anew: bool = False
    #: The fields of each item in the mirror.
    holds: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: When it last subscribed to something that it was ahead with.
    ahead_since: int = 0
    stalled: bool = False
    #: Rounds it was skipped in: at least, and at most (a round may hold what it was sent already).
    skipped: tuple[int, int] = (0, 0)
    #: Symbols that moved in those rounds, and whether it is sure to lack what moved: a snapshot may have told it before.
    missed: dict[str, bool] = field(default_factory=dict)
    #: The lanes of those rounds.
    late: set[Lane] = field(default_factory=set)
    ids: int = 0

    def connect(self, replica: Replica, now: int) -> None:
        if self in self.replica.watchers:
            self.replica.watchers.remove(self)
        self.replica = replica
        replica.watchers.append(self)
        self.outlet = FakeOutlet(self.encoding)
        self.exact, self.patterns, self.stalled, self.skipped, self.missed = {}, {}, False, (0, 0), {}
        self.late, self.anew = set(), False
        held = self.mirror.epoch
        self.client = replica.hub.join(self.outlet, now)
        (welcome,) = self.outlet.take()
        assert (welcome["type"], welcome["epoch"], welcome["ts"]) == ("welcome", replica.epoch, now)
        self.mirror.apply(welcome)
        self.floor, self.at = {}, {}
        self.held_epoch = held or replica.epoch

    # -- what its hub sees ---------------------------------------------------------------------------------------------

    def see(self, fell: set[str], arrived: set[str]) -> None:
        """Some symbols' seq falls; some are new. Nothing of those is told before the epoch, where it holds a later seq."""
        for symbol in self.watched:
            if symbol in fell:
                self.floor[symbol], self.anew = NEVER, True
            elif symbol in arrived and self.anew and symbol in self.floor:
                self.floor[symbol] = NEVER

    def see_another_log(self, gone: set[str]) -> None:
        """The log is another one, without what is `gone`: nothing of what it holds more of is told before the epoch."""
        self.anew = True
        for symbol in self.watched:
            if symbol in gone or (symbol in self.replica.known and self.ahead(symbol)):
                self.floor[symbol] = NEVER
        for symbol in gone:
            self.at.pop(symbol, None)

    # -- what it watches -----------------------------------------------------------------------------------------------

    def lane(self, symbol: str) -> Lane | None:
        """An exact name beats a pattern, a newer pattern beats an older one."""
        if symbol in self.exact:
            return self.exact[symbol]
        return next((lane for p, lane in reversed(self.patterns.items()) if fnmatchcase(symbol, p)), None)

    @property
    def watched(self) -> list[str]:
        return [symbol for symbol in SYMBOLS if self.lane(symbol) is not None]

    def valued(self, symbol: str) -> bool:
        return symbol in self.replica.seq

    def moved(self, symbol: str) -> bool:
        """Whether the table has more of it than is held."""
        return self.replica.seq.get(symbol, 0) > self.floor.get(symbol, 0)

    def known(self, symbol: str) -> bool:
        return symbol in self.replica.known

    def ahead(self, symbol: str) -> bool:
        return self.floor.get(symbol, 0) > self.replica.seq.get(symbol, 0)

    def owed(self, symbols: Iterable[str]) -> set[str]:
        """Those of `symbols` that may be sent whole now."""
        return {symbol for symbol in symbols if self.valued(symbol) and not self.ahead(symbol)}

    # -- what it says --------------------------------------------------------------------------------------------------

    def say(self, command: Message, now: int) -> list[Message]:
        assert self.replica.hub.receive(self.client, json.dumps(command), now) is None
        return self.outlet.take()

    def subscribe(self, names: list[str], interval: int, fields: tuple[str, ...], resume: bool, now: int) -> None:
        """1. `subscribed`, then one snapshot of every accepted symbol that has a value, of those not resumed."""
        self.ids += 1
        lane = interval, fields
        command: Message = {"op": "subscribe", "id": self.ids, "symbols": names, "interval_ms": interval}
        if fields != FIELDS:
            command["fields"] = fields[::-1]
        since = {s: seq for s, seq in self.mirror.since().items() if self.holds[s] == fields} if resume else {}
        if since:
            command |= {"since": since, "epoch": self.held_epoch}
        same_log = command.get("epoch") == self.replica.epoch
        for name in names:
            if name in PATTERNS:
                self.patterns.pop(name, None)
                self.patterns[name] = lane
            else:
                self.exact[name] = lane
        affected = [
            symbol
            for symbol in self.watched
            if symbol in names or (symbol not in self.exact and any(fnmatchcase(symbol, n) for n in names))
        ]
        resumed = {}
        for symbol in affected:
            assert self.lane(symbol) == lane
            held, seq = since.get(symbol, 0), self.replica.seq.get(symbol, 0)
            if same_log and held and held >= seq:
                self.floor[symbol] = max(held, self.floor.get(symbol, 0))
                if held == seq:
                    resumed[symbol] = self.replica.item(symbol)["n"]
                    self.at[symbol] = self.replica.at[symbol]
            elif symbol not in self.floor:
                self.mirror.drop([symbol])
        if any(self.ahead(symbol) for symbol in affected if symbol in since):
            self.ahead_since = now

        ack, *snapshots = self.say(command, now)
        exact = [name for name in names if name not in PATTERNS]
        assert ack == {
            "type": "subscribed",
            "id": self.ids,
            "channel": "ticker",
            "symbols": exact,
            "pending": [name for name in exact if not self.valued(name)],
            "patterns": [name for name in names if name in PATTERNS],
            "resumed": resumed,
            "rejected": [],
            "interval_ms": interval,
        }
        self.mirror.apply(ack)
        self.take_snapshot(snapshots, self.owed(affected) - resumed.keys(), now)

    def unsubscribe(self, names: list[str], now: int) -> None:
        """Removes exactly the strings that were subscribed; other matches then apply."""
        before = {symbol: self.lane(symbol) for symbol in self.watched}
        known = [name for name in names if name in self.exact or name in self.patterns]
        for name in known:
            (self.exact if name in self.exact else self.patterns).pop(name)
        moved = {s for s, lane in before.items() if self.lane(s) not in (lane, None)}
        for symbol in before:
            if self.lane(symbol) is None:
                self.mirror.drop([symbol])
                self.floor.pop(symbol, None)
                self.at.pop(symbol, None)
                self.missed.pop(symbol, None)
        ack, *snapshots = self.say({"op": "unsubscribe", "symbols": names}, now)
        rejected = [{"symbol": name, "code": "unknown_symbol"} for name in names if name not in known]
        assert ack == {"type": "unsubscribed", "channel": "ticker", "symbols": known, "rejected": rejected}
        self.take_snapshot(snapshots, self.owed(moved), now)

    def resync(self, names: list[str], now: int) -> None:
        """4. Sends `resync` and gets a snapshot that carries its id: exactly one, be it empty."""
        self.ids += 1
        *errors, snapshot = self.say({"op": "resync", "id": self.ids, "symbols": names}, now)
        unknown = [
            name for name in names if name not in self.exact and not (name in self.replica.known and self.lane(name))
        ]
        assert [(error["type"], error["code"], error["id"]) for error in errors] == [
            ("error", "unknown_symbol", self.ids)
        ] * bool(unknown)
        assert snapshot.pop("id") == self.ids
        wanted = self.owed(name for name in names if self.lane(name))
        if wanted:
            self.take_snapshot([snapshot], wanted, now)
        else:
            assert snapshot == {"type": "snapshot", "channel": "ticker", "ts": now, "items": []}

    # -- what it is told -----------------------------------------------------------------------------------------------

    def take_snapshot(self, messages: list[Message], wanted: set[str], now: int) -> None:
        """Takes in one snapshot of exactly `wanted`; none, where nothing is wanted."""
        assert [message["type"] for message in messages] == ["snapshot"] * bool(wanted)
        for message in messages:
            assert sorted(item["symbol"] for item in message["items"]) == sorted(wanted)
            self.take_items(message, now)

    def take_round(self, due: set[int], now: int) -> None:
        """2. A round is atomic: all that changed of a lane, as of one instant, and nothing else."""
        lanes: dict[Lane, list[str]] = {}
        for symbol in self.watched:
            lane = self.lane(symbol)
            if lane is not None and lane[0] in due and self.replica.ticked(lane[0], symbol):
                lanes.setdefault(lane, []).append(symbol)
        messages = self.outlet.take()
        reached: set[Lane] = set()
        kinds: dict[str, str] = {}
        seen: list[tuple[Lane | None, str]] = []
        floor, at = dict(self.floor), dict(self.at)
        for message in messages:
            assert message["ts"] == now
            symbols = [item["symbol"] for item in message["items"]]
            (lane,) = {self.lane(symbol) for symbol in symbols}
            assert lane is not None
            assert lane in lanes, f"nothing of {lane} was due"
            assert set(symbols) <= set(lanes[lane]), "a symbol that has not changed was sent"
            seen.append((lane, message["type"]))
            reached.add(lane)
            assert not kinds.keys() & set(symbols), "a symbol stands twice in one round"
            kinds |= dict.fromkeys(symbols, message["type"])
            self.take_items(message, now)
        assert len(seen) == len(set(seen)), "a round is at most one update and one snapshot"
        least, most = self.skipped
        for lane, symbols in lanes.items():
            fresh = [symbol for symbol in symbols if floor.get(symbol, 0) < self.replica.seq[symbol]]
            if lane in reached or not self.stalled:
                assert set(fresh) <= kinds.keys(), "a symbol that changed is not in the round"
                for symbol in kinds.keys() & set(fresh):
                    before = self.replica.at_round[lane[0]].get(symbol, -1)
                    if at.get(symbol) == before >= 0:
                        assert kinds[symbol] == "update", f"{symbol} was in step: an update is enough"
            else:
                least, most = least + bool(fresh), most + 1
                for symbol in symbols:
                    self.missed[symbol] = self.missed.get(symbol, False) or symbol in fresh
                self.late.add(lane)
        self.skipped = least, most

    def take_items(self, message: Message, now: int) -> None:
        """3, 4 and 5: each item against the history of its symbol at its seq."""
        assert message["channel"] == "ticker"
        assert message["ts"] == now
        assert message["items"], "a message of nothing"
        before = {symbol: dict(item) for symbol, item in self.mirror.items.items()}
        broken = self.mirror.apply(message)
        assert not broken, f"the chain of {broken} broke"
        for item in message["items"]:
            symbol = item["symbol"]
            lane = self.lane(symbol)
            assert lane is not None, f"{symbol} is not subscribed"
            truth = self.replica.item(symbol)
            assert item["seq"] == truth["seq"], "what is sent is the newest that was read"
            assert item["seq"] >= self.floor.get(symbol, 0), "time ran backwards"
            if message["type"] == "update":
                self.check_update(item, before[symbol], lane, truth)
            self.floor[symbol], self.truth[symbol] = item["seq"], truth
            self.at[symbol] = self.replica.at.get(symbol, -1)
            self.holds[symbol] = lane[1]
            self.check_mirror(symbol)

    def check_update(self, item: Message, before: Message, lane: Lane, truth: Message) -> None:
        """An update tells what moved, how many ticks it folds in, and what was traded among them."""
        symbol = item["symbol"]
        assert item["prev"] < item["seq"]
        ticks = self.replica.history.between(symbol, self.at[symbol], self.replica.at[symbol])
        moved = {name: truth[name] for name in lane[1] if truth[name] != before[name]}
        trades = [tick for tick in ticks if tick["price"] == tick["price"]]
        traded: Message = {}
        if trades and "last" in lane[1]:
            sizes = [Decimal(repr(tick["size"])) for tick in trades if tick["size"] == tick["size"]]
            prices = [tick["price"] for tick in trades]
            traded = {"hi": max(prices), "lo": min(prices), "vol": float(sum(sizes))}
        as_of = {"symbol": symbol, "prev": before["seq"], "seq": item["seq"], "n": len(ticks)}
        assert item == {**as_of, "ts": truth["ts"], **moved, **traded}
        assert list(item) == [*as_of, "ts", *(name for name in FIELDS if name in moved), *traded], (
            "the order is binding"
        )

    def check_mirror(self, symbol: str) -> None:
        """The client's copy is the server's state at its seq: the fields asked for, all of them, and the count."""
        item = self.mirror.items[symbol]
        truth = self.truth[symbol]
        assert item == {name: truth[name] for name in ("symbol", "seq", "n", "ts", *self.holds[symbol])}

    def take_announced(self, sent: Message, now: int) -> None:
        """9. Heartbeats are unconditional. 7. One that waited too long for the log, or whose log is another one now, is
        told so, and sent all of it anew; what there is no more of, as nothing.
        """
        messages = self.outlet.take()
        heartbeats = [message for message in messages if message["type"] == "heartbeat"]
        assert heartbeats == [sent] or (self.stalled and not heartbeats)
        late = now >= self.ahead_since + CATCH_UP_MS * 1000
        news = [message for message in messages if message["type"] != "heartbeat"]
        if news:
            epoch, *snapshots = news
            assert epoch == {"type": "epoch", "epoch": self.replica.epoch}
            if not self.anew:
                assert late, "too soon to give up waiting"
                assert any(self.ahead(symbol) for symbol in self.watched), "there was nothing to wait for"
            lost = {symbol for symbol in self.watched if self.anew and self.ahead(symbol) and self.known(symbol)}
            self.mirror.apply(epoch)
            self.held_epoch = self.replica.epoch
            self.anew = False
            for of_old in (self.floor, self.at, self.missed):
                of_old.clear()
            valued = self.owed(self.watched)
            self.take_snapshot(snapshots, valued | {symbol for symbol in lost if not self.valued(symbol)}, now)
        elif not self.outlet.refused:
            assert not self.anew or not heartbeats, "it was to be told of the log"
            if late:
                assert not any(self.ahead(symbol) for symbol in self.watched), "waited long enough"

    def drain(self, now: int) -> None:
        """6. It gets a `slow` notice with the rounds skipped and a snapshot of just the symbols that moved.

        Its copy of a lane that it is late with is the table's then: the symbols that have moved since its last round too.
        """
        self.outlet.drain(self.replica.hub, self.client, now)
        messages = self.outlet.take()
        least, most = self.skipped
        if messages:
            slow, *snapshots = messages
            assert set(slow) == {"type", "ts", "skipped"}
            assert (slow["type"], slow["ts"]) == ("slow", now)
            assert max(1, least) <= slow["skipped"] <= most
            sent = {item["symbol"] for snapshot in snapshots for item in snapshot["items"]}
            owed = {symbol for symbol, surely in self.missed.items() if surely and self.moved(symbol)}
            late = {self.lane(symbol) for symbol in owed}
            since = {s for s in self.watched if self.lane(s) in self.late and self.replica.ticked(self.lane(s)[0], s)}  # type: ignore[index]
            due = {s for s in since if self.lane(s) in late and self.moved(s)}
            assert self.owed(owed | due) <= sent <= self.owed(self.missed.keys() | since)
            self.take_snapshot(snapshots, sent, now)
        else:
            assert not least, "rounds were skipped in silence"
        self.stalled, self.skipped, self.missed, self.late = False, (0, 0), {}, set()


RECORD: Final = st.tuples(
    st.sampled_from(SYMBOLS[:-1] * 4 + SYMBOLS[-1:]),
    st.booleans(),
    st.sampled_from((1, 1, 1, 3, 0)),
    st.integers(0, 40),
    st.integers(0, 30),
)
SUBSCRIPTION: Final = st.tuples(
    st.lists(st.sampled_from(SYMBOLS + PATTERNS), min_size=1, max_size=4, unique=True),
    st.sampled_from(INTERVALS_MS),
    st.sampled_from(FIELD_SETS),
)


class Conflation(RuleBasedStateMachine):
    """Any schedule of ticks, rounds and clients."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.history = History(0)
        self.replicas = [Replica(self.history, name) for name in ("k", "k", "j")]
        self.watchers: list[Watcher] = []

    @initialize(data=st.data(), plans=st.lists(SUBSCRIPTION, min_size=3, max_size=3))
    def open(self, data: st.DataObject, plans: list[tuple[list[str], int, tuple[str, ...]]]) -> None:
        self.append(data, 3)
        self.replicas[0].read(2)
        for encoding, plan in zip((FRAMED, FRAMED, BARE), plans, strict=True):
            self.watchers.append(watcher := Watcher(self.replicas[0], encoding))
            watcher.connect(self.replicas[0], self.now)
            watcher.subscribe(*plan, False, self.now)

    # -- the log -------------------------------------------------------------------------------------------------------

    @rule(data=st.data(), count=st.integers(1, 8), read=st.lists(st.integers(0, 2), max_size=3, unique=True))
    def append(self, data: st.DataObject, count: int, read: Iterable[int] = ()) -> None:
        """Records come into the log: quotes and trades, now and then several in one, or older than the one before."""
        drawn = data.draw(st.lists(RECORD, min_size=count, max_size=count))
        for index, (symbol, kind, step, a, b) in enumerate(drawn):
            place = self.history.place(symbol, step if index else step + 1)  # what was there may have been read
            seq, ts = place["seq"], NOON + len(self.history.records) * 1000 + (a % 7 - 5) * 400
            if kind:
                record = trade(symbol, seq, a / 4, b / 10 if b else NAN, ts=ts)
            else:
                bid = a / 4 if a else NAN
                record = quote(symbol, seq, bid, (a + b) / 4, bid_size=b / 10, ask_size=b / 100, ts=ts)
            self.history.append({**record, **place})
        for index in read:
            self.replicas[index].read(count)

    @rule(index=st.integers(0, 2), count=st.integers(1, 12))
    def read(self, index: int, count: int) -> None:
        """A hub reads on; others may be behind it, or ahead."""
        self.replicas[index].read(count)

    @rule(index=st.integers(0, 2), symbol=st.none() | st.sampled_from(SYMBOLS))
    def restart(self, index: int, symbol: str | None) -> None:
        """A hub hears of a symbol before its first tick; or is started anew, and reads the log from the beginning."""
        old = self.replicas[index]
        if symbol is not None:
            old.symbols.claim(symbol, old.symbols.part("feed"))
            return
        new = self.replicas[index] = Replica(self.history, old.name)
        for watcher in self.watchers:
            if watcher.replica is old:
                watcher.connect(new, self.now)

    @rule(symbol=st.sampled_from(SYMBOLS))
    def move(self, symbol: str) -> None:
        """The log gets a second part, which may take a symbol: it is known by a lower seq then."""
        self.history.parts = PARTS
        self.history.moved.add(symbol)

    @rule(data=st.data(), count=st.integers(0, 4))
    def make_anew(self, data: st.DataObject, count: int) -> None:
        """The log is made anew, from its beginning; the hubs hold the old one yet."""
        if self.history.number + 1 < LOGS_MAX and len(self.history.records) > 20:
            self.history = History(self.history.number + 1)
            self.append(data, count)

    @rule(index=st.integers(0, 2), count=st.integers(0, 6))
    def notice(self, index: int, count: int) -> None:
        """A hub looks at the log as it is now, and reads some of it."""
        self.replicas[index].notice(self.history)
        self.replicas[index].read(count)

    @rule(data=st.data(), who=st.integers(0, 2), symbol=st.none() | st.sampled_from(SYMBOLS), told=st.booleans())
    def another_log(self, data: st.DataObject, who: int, symbol: str | None, told: bool) -> None:
        """A client lives to see the log made anew, or a symbol that it watches move, be it told of it in time or not."""
        if symbol is None:
            self.make_anew(data, 2)
        else:
            self.move(symbol)
        self.watchers[who].replica.notice(self.history)
        self.market(data, 6, 0, QUIET_MS)
        if told:
            self.heartbeat()
        self.market(data, 3, 2, QUIET_MS)

    # -- time ----------------------------------------------------------------------------------------------------------

    @rule(step_ms=st.sampled_from((0, 1, 50, 100, 200, 300)))
    def round(self, step_ms: int) -> None:
        """Rounds fall on multiples of their interval; interval 0 is always due."""
        before, self.now = self.now, self.now + step_ms * 1000
        due = {ms for ms in INTERVALS_MS if not ms or self.now // (ms * 1000) > before // (ms * 1000)}
        for replica in self.replicas:
            following = replica.hub.flush(self.now)
            assert following is None or following > self.now
        for watcher in self.watchers:
            watcher.take_round(due, self.now)
        for replica in self.replicas:
            for interval in due:
                replica.at_round[interval] = dict(replica.at)

    @rule(data=st.data(), count=st.integers(1, 6), lag=st.integers(0, 6), step_ms=st.sampled_from((50, 100, QUIET_MS)))
    def market(self, data: st.DataObject, count: int, lag: int, step_ms: int) -> None:
        """The plain course of things: ticks, that one hub reads at once and the others perhaps later, and a round."""
        self.append(data, count)
        for replica, behind in zip(self.replicas, (0, lag, lag // 2), strict=True):
            replica.read(len(replica.history.records) - replica.read_records - behind)
        self.round(step_ms)

    @rule(data=st.data(), count=st.integers(1, 6), lag=st.integers(0, 6))
    def busy_market(self, data: st.DataObject, count: int, lag: int) -> None:
        self.market(data, count, lag, QUIET_MS)

    @rule(data=st.data(), who=st.integers(0, 2), lag=st.integers(1, 6), patient=st.booleans())
    def fail_over(self, data: st.DataObject, who: int, lag: int, patient: bool) -> None:
        """A client moves, with what it holds, from a hub that has read all to one that has not, and perhaps will not."""
        self.reconnect(who, 0, True)
        self.market(data, 6, lag, QUIET_MS)
        self.reconnect(who, 1, True)
        self.replicas[1].read(1)
        self.round(QUIET_MS)
        if not patient:
            self.wait()

    @rule(
        data=st.data(),
        who=st.integers(0, 2),
        after=st.integers(0, 1),
        counts=st.lists(st.integers(1, 4), max_size=3),
        more=st.integers(0, 3),
    )
    def slow_spell(self, data: st.DataObject, who: int, after: int, counts: list[int], more: int) -> None:
        """A client does not read for some rounds, and reads again amid the next."""
        self.stall(who, after)
        for count in counts:
            self.market(data, count, 0, QUIET_MS)
        if more:
            self.append(data, more, range(3))
        self.drain(who)

    @rule()
    def wait(self) -> None:
        """Long enough for a client that is ahead."""
        self.round(CATCH_UP_MS)
        self.heartbeat()

    @rule()
    def heartbeat(self) -> None:
        message = {"type": "heartbeat", "ts": self.now, "feeds": {}}
        for replica in self.replicas:
            for slot in range(HEARTBEAT_SLOTS):
                replica.hub.announce(message, self.now, slot)
        for watcher in self.watchers:
            watcher.take_announced(message, self.now)

    # -- clients -------------------------------------------------------------------------------------------------------

    @rule(who=st.integers(0, 2), plan=SUBSCRIPTION, resume=st.booleans())
    def subscribe(self, who: int, plan: tuple[list[str], int, tuple[str, ...]], resume: bool) -> None:
        self.watchers[who].subscribe(*plan, resume, self.now)

    @rule(
        who=st.integers(0, 2), names=st.lists(st.sampled_from(SYMBOLS + PATTERNS), min_size=1, max_size=4, unique=True)
    )
    def unsubscribe(self, who: int, names: list[str]) -> None:
        self.watchers[who].unsubscribe(names, self.now)

    @rule(who=st.integers(0, 2), names=st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=3, unique=True))
    def resync(self, who: int, names: list[str]) -> None:
        self.watchers[who].resync(names, self.now)

    @rule(who=st.integers(0, 2), after=st.integers(0, 2))
    def stall(self, who: int, after: int) -> None:
        """Its socket takes a little more, and then nothing."""
        self.watchers[who].outlet.stall(after)
        self.watchers[who].stalled = True

    @rule(who=st.integers(0, 2))
    def drain(self, who: int) -> None:
        self.watchers[who].drain(self.now)

    @rule(who=st.integers(0, 2), index=st.integers(0, 2), same_lanes=st.booleans())
    def reconnect(self, who: int, index: int, same_lanes: bool) -> None:
        """It comes back, to this hub or another, and subscribes with `since` to what it had."""
        watcher = self.watchers[who]
        had = {symbol: watcher.lane(symbol) for symbol in watcher.watched}
        watcher.replica.hub.leave(watcher.client)
        watcher.connect(self.replicas[index], self.now)
        if same_lanes:
            for symbol, lane in had.items():
                if lane is not None:
                    watcher.subscribe([symbol], *lane, True, self.now)

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def nothing_unasked(self) -> None:
        for watcher in self.watchers:
            assert not watcher.outlet.take()

    def teardown(self) -> None:
        """Once all is read, drained and waited for, every mirror is the table; and nothing is left behind."""
        if not self.watchers:
            return
        for watcher in self.watchers:
            watcher.drain(self.now)
        self.round(QUIET_MS)
        self.round(CATCH_UP_MS)
        self.heartbeat()
        for watcher in self.watchers:
            for symbol in watcher.watched:
                if watcher.valued(symbol):
                    assert watcher.mirror.items[symbol]["seq"] == watcher.replica.seq[symbol]
                    assert watcher.holds[symbol] == watcher.lane(symbol)[1]  # type: ignore[index]
                    watcher.check_mirror(symbol)
                elif symbol in watcher.mirror.items and symbol not in watcher.mirror.broken:
                    assert watcher.mirror.items[symbol]["n"] == 0, "there is no such symbol any more"
            watcher.replica.hub.leave(watcher.client)
            watcher.replica.hub.leave(watcher.client)
        for replica in self.replicas:
            assert not replica.hub.clients
            assert not replica.hub.paces


TestConflation = pytest.mark.timeout(600)(Conflation.TestCase)  # a failure is worth being made small
TestConflation.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
