"""The property that the service stands on: conflation loses nothing, invents nothing, and never turns time back.

Two hubs read one log, each at its own speed; a third reads it under another epoch, as one made anew. Hypothesis lets
ticks arrive, clients come, go, stall, drain, subscribe, resync and resume in any order, and after every step each
client's mirror is held against the history of the log: one quote table that was fed tick by tick, and the ticks.

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

from feeds.ticks import Symbols
from tests.hubs import NAN, NOON, FakeOutlet, Message, batch, quote, trade
from ticker.hub import Hub
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

Lane = tuple[int, tuple[str, ...]]


class History:
    """The log, and what every symbol was at each of its positions."""

    def __init__(self) -> None:
        self.records: list[Message] = []
        self.items: dict[tuple[str, int], Message] = {}
        self._symbols = Symbols()
        self._table = QuoteTable(self._symbols)
        self._count: Counter[str] = Counter()

    def append(self, record: Message) -> None:
        symbol, seq = record["symbol"], record["seq"]
        self.records.append(record)
        self._count[symbol] += 1
        self._table.apply(batch(self._symbols, [record]))
        row = self._symbols.claim(symbol, 0)
        values = self._table.view(np.array([row]))[:, 0].tolist()
        fields = {name: None if math.isnan(value) else value for name, value in zip(FIELDS, values, strict=True)}
        ts = int(self._table.ts[row])
        self.items[symbol, seq] = {"symbol": symbol, "seq": seq, "n": self._count[symbol], "ts": ts, **fields}

    def between(self, symbol: str, prev: int, seq: int) -> list[Message]:
        """The records of `symbol` in (prev, seq]."""
        return [record for record in self.records if record["symbol"] == symbol and prev < record["seq"] <= seq]


class Replica:
    """A hub, how far it has read the log, and where each symbol stood at the last round of each interval."""

    def __init__(self, history: History, epoch: str) -> None:
        self.history = history
        self.epoch = epoch
        self.read_records = 0
        #: The position of the last record of each symbol that was read.
        self.seq: dict[str, int] = {}
        self.symbols = Symbols()
        self.symbols.claim_all(CLAIMED, self.symbols.part("feed"))
        #: The symbols that clients have been let know of.
        self.known = set(CLAIMED)
        self.table = QuoteTable(self.symbols, capacity=3)
        self.hub = Hub(self.table, SETTINGS, {"feed": epoch})
        self.at_round: dict[int, dict[str, int]] = {interval: {} for interval in INTERVALS_MS}

    def read(self, count: int) -> None:
        """Fold in the next records, as one batch; those of one position are never split."""
        records = self.history.records
        stop = min(self.read_records + max(0, count), len(records))
        while 0 < stop < len(records) and records[stop]["seq"] == records[stop - 1]["seq"]:
            stop += 1
        new = records[self.read_records : stop]
        if stop > self.read_records:
            self.hub.fold(self.table.apply(batch(self.symbols, new)))
            self.seq.update((record["symbol"], record["seq"]) for record in new)
            self.read_records = stop
            self.known.update(self.symbols.names)

    def ticked(self, interval: int, symbol: str) -> bool:
        """Whether a tick of `symbol` has been read since the last round of `interval`."""
        return self.seq.get(symbol, 0) > self.at_round[interval].get(symbol, 0)


@dataclass
class Watcher:
    """A client: what it asked for, what it was told, and what it must be told next."""

    history: History
    replica: Replica
    encoding: Encoding
    mirror: Mirror = field(default_factory=Mirror)
    exact: dict[str, Lane] = field(default_factory=dict)
    #: Oldest first.
    patterns: dict[str, Lane] = field(default_factory=dict)
    #: The newest seq it is known to hold of each symbol it watches: it may never see an older one.
    floor: dict[str, int] = field(default_factory=dict)
    #: The fields of each item in the mirror.
    holds: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: When it last subscribed to something that it was ahead with.
    ahead_since: int = 0
    stalled: bool = False
    #: Rounds it was skipped in: at least, and at most (a round may hold what it was sent already).
    skipped: tuple[int, int] = (0, 0)
    #: Symbols that moved in those rounds, with the seq they moved to.
    missed: dict[str, int] = field(default_factory=dict)
    #: The lanes of those rounds.
    late: set[Lane] = field(default_factory=set)
    ids: int = 0

    def connect(self, replica: Replica, now: int) -> None:
        self.replica = replica
        self.outlet = FakeOutlet(self.encoding)
        self.exact, self.patterns, self.stalled, self.skipped, self.missed = {}, {}, False, (0, 0), {}
        self.late = set()
        held = self.mirror.epoch
        self.client = replica.hub.join(self.outlet, now)
        (welcome,) = self.outlet.take()
        assert (welcome["type"], welcome["epoch"], welcome["ts"]) == ("welcome", replica.epoch, now)
        self.mirror.apply(welcome)
        self.floor = {}
        self.held_epoch = held

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
            command |= {"since": since, "epoch": self.held_epoch or self.replica.epoch}
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
                    resumed[symbol] = self.history.items[symbol, seq]["n"]
            elif symbol not in self.floor:
                self.mirror.drop([symbol])
        if any(self.ahead(symbol) for symbol in affected):
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
        stepped = {symbol: self.floor.get(symbol, 0) for symbol in SYMBOLS}
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
            fresh = [symbol for symbol in symbols if stepped[symbol] < self.replica.seq[symbol]]
            if lane in reached or not self.stalled:
                assert set(fresh) <= kinds.keys(), "a symbol that changed is not in the round"
                for symbol in kinds.keys() & set(fresh):
                    before = self.replica.at_round[lane[0]].get(symbol, 0)
                    if stepped[symbol] == before and before:
                        assert kinds[symbol] == "update", f"{symbol} was in step: an update is enough"
            else:
                least, most = least + bool(fresh), most + 1
                self.missed |= {symbol: self.replica.seq[symbol] for symbol in symbols}
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
            truth = self.history.items[symbol, item["seq"]]
            assert item["seq"] == self.replica.seq[symbol], "what is sent is the newest that was read"
            assert item["seq"] >= self.floor.get(symbol, 0), "time ran backwards"
            if message["type"] == "update":
                self.check_update(item, before[symbol], lane, truth)
            self.floor[symbol] = item["seq"]
            self.holds[symbol] = lane[1]
            self.check_mirror(symbol)

    def check_update(self, item: Message, before: Message, lane: Lane, truth: Message) -> None:
        """An update tells what moved, how many ticks it folds in, and what was traded among them."""
        assert item["prev"] < item["seq"]
        ticks = self.history.between(item["symbol"], item["prev"], item["seq"])
        moved = {name: truth[name] for name in lane[1] if truth[name] != before[name]}
        trades = [tick for tick in ticks if tick["price"] == tick["price"]]
        traded: Message = {}
        if trades and "last" in lane[1]:
            sizes = [Decimal(repr(tick["size"])) for tick in trades if tick["size"] == tick["size"]]
            prices = [tick["price"] for tick in trades]
            traded = {"hi": max(prices), "lo": min(prices), "vol": float(sum(sizes))}
        as_of = {"symbol": item["symbol"], "prev": before["seq"], "seq": item["seq"], "n": len(ticks)}
        assert item == {**as_of, "ts": truth["ts"], **moved, **traded}
        assert list(item) == [*as_of, "ts", *(name for name in FIELDS if name in moved), *traded], (
            "the order is binding"
        )

    def check_mirror(self, symbol: str) -> None:
        """The client's copy is the server's state at its seq: the fields asked for, all of them, and the count."""
        item = self.mirror.items[symbol]
        truth = self.history.items[symbol, item["seq"]]
        assert item == {name: truth[name] for name in ("symbol", "seq", "n", "ts", *self.holds[symbol])}

    def take_announced(self, sent: Message, now: int) -> None:
        """9. Heartbeats are unconditional. 7. One that waited too long for the log is sent all of it anew."""
        messages = self.outlet.take()
        if messages and messages[0]["type"] == "heartbeat":
            assert messages.pop(0) == sent
        else:
            assert self.stalled
        if messages:
            epoch, *snapshots = messages
            assert epoch == {"type": "epoch", "epoch": self.replica.epoch}
            assert now >= self.ahead_since + CATCH_UP_MS * 1000, "too soon to give up waiting"
            assert any(self.ahead(symbol) for symbol in self.watched), "there was nothing to wait for"
            self.mirror.apply(epoch)
            self.floor.clear()
            self.missed.clear()
            self.take_snapshot(snapshots, self.owed(self.watched), now)
        elif not self.outlet.refused and now >= self.ahead_since + CATCH_UP_MS * 1000:
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
            owed = {symbol for symbol, seq in self.missed.items() if seq > self.floor.get(symbol, 0)}
            late = {self.lane(symbol) for symbol in owed}
            since = {s for s in self.watched if self.lane(s) in self.late and self.replica.ticked(self.lane(s)[0], s)}  # type: ignore[index]
            due = {s for s in since if self.lane(s) in late and self.replica.seq[s] > self.floor.get(s, 0)}
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
        self.history = History()
        self.replicas = [Replica(self.history, epoch) for epoch in ("k-1", "k-1", "k-2")]
        self.watchers: list[Watcher] = []

    @initialize(data=st.data(), plans=st.lists(SUBSCRIPTION, min_size=3, max_size=3))
    def open(self, data: st.DataObject, plans: list[tuple[list[str], int, tuple[str, ...]]]) -> None:
        self.append(data, 3)
        self.replicas[0].read(2)
        for encoding, plan in zip((FRAMED, FRAMED, BARE), plans, strict=True):
            self.watchers.append(watcher := Watcher(self.history, self.replicas[0], encoding))
            watcher.connect(self.replicas[0], self.now)
            watcher.subscribe(*plan, False, self.now)

    # -- the log -------------------------------------------------------------------------------------------------------

    @rule(data=st.data(), count=st.integers(1, 8), read=st.lists(st.integers(0, 2), max_size=3, unique=True))
    def append(self, data: st.DataObject, count: int, read: Iterable[int] = ()) -> None:
        """Records come into the log: quotes and trades, now and then several in one, or older than the one before."""
        seq = 1 + (self.history.records[-1]["seq"] if self.history.records else 0)
        for symbol, kind, step, a, b in data.draw(st.lists(RECORD, min_size=count, max_size=count)):
            seq += step
            ts = NOON + seq * 1000 + (a % 7 - 5) * 400
            if kind:
                self.history.append(trade(symbol, seq, a / 4, b / 10 if b else NAN, ts=ts))
            else:
                bid = a / 4 if a else NAN
                self.history.append(quote(symbol, seq, bid, (a + b) / 4, bid_size=b / 10, ask_size=b / 100, ts=ts))
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
        new = self.replicas[index] = Replica(self.history, old.epoch)
        for watcher in self.watchers:
            if watcher.replica is old:
                watcher.connect(new, self.now)

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
                replica.at_round[interval] = dict(replica.seq)

    @rule(data=st.data(), count=st.integers(1, 6), lag=st.integers(0, 6), step_ms=st.sampled_from((50, 100, QUIET_MS)))
    def market(self, data: st.DataObject, count: int, lag: int, step_ms: int) -> None:
        """The plain course of things: ticks, that one hub reads at once and the others perhaps later, and a round."""
        self.append(data, count)
        for replica, behind in zip(self.replicas, (0, lag, lag // 2), strict=True):
            replica.read(len(self.history.records) - replica.read_records - behind)
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
            replica.hub.announce(message, self.now)
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
            watcher.replica.hub.leave(watcher.client)
            watcher.replica.hub.leave(watcher.client)
        for replica in self.replicas:
            assert not replica.hub.clients
            assert not replica.hub.paces


TestConflation = pytest.mark.timeout(600)(Conflation.TestCase)  # a failure is worth being made small
TestConflation.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
