"""A client's side of the protocol, over all connections of one stream: messages in, replies and updates out. Pure.

The edge that owns the socket calls `opened` when a connection is up and sends what it returns; hands each message to
`receive` and carries out the `Reaction`; calls `lost` when the connection has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import count
from typing import Any, Final

import orjson

from ticker.errors import Code
from ticker.mirror import Item, Mirror, Update, update_of
from ticker.protocol import PROTOCOL
from ticker.reconnect import Advice, Ending

Message = dict[str, Any]

#: The largest message to send where the server tells no limit.
MESSAGE_BYTES: Final = 65_536
#: The time between heartbeats until `welcome` has told it.
HEARTBEAT_S: Final = 5.0

# -- what there is to tell beside updates ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    mode: str
    epoch: str

    def __str__(self) -> str:
        return f"connected, {self.mode}"


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection ended, or none came about; another is tried in `retry_s`."""

    reason: str
    retry_s: float

    def __str__(self) -> str:
        return f"not connected: {self.reason}; retrying in {self.retry_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A symbol is not served; or, with a `count`, that many of the symbols that a pattern matches."""

    symbol: str
    code: str
    count: int | None = None

    def __str__(self) -> str:
        if self.count is None:
            return f"{self.symbol!r} is not served: {self.code}"
        return f"{self.symbol!r} is served in part: {self.code}, {self.count} left out"


@dataclass(frozen=True, slots=True)
class Feed:
    """The state of a feed. `age_ms` is the time since its last arrival, `lag` how many records it is behind its log."""

    name: str
    state: str
    age_ms: int | None = None
    lag: int | None = None

    def __str__(self) -> str:
        return f"feed {self.name}: {self.state}"


@dataclass(frozen=True, slots=True)
class Slow:
    """This client did not keep up, and so many rounds were conflated for it."""

    skipped: int

    def __str__(self) -> str:
        return f"reading too slowly: {self.skipped} rounds were conflated"


@dataclass(frozen=True, slots=True)
class Renewed:
    """The server reads another log: every symbol comes whole, and only here may a `seq` fall."""

    epoch: str

    def __str__(self) -> str:
        return "the server reads another log"


@dataclass(frozen=True, slots=True)
class ShuttingDown:
    """The server will stop; the stream moves to another one in about `after_s`."""

    after_s: float

    def __str__(self) -> str:
        return f"the server is shutting down; reconnecting in {self.after_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Complaint:
    """An `error` of the server."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of a replay: its time in microseconds, its speed (None for unpaced), and what it does.

    `progress` is that of a seek, 0 to 1; `skipped_us` is a gap that was just skipped.
    """

    ts: int
    speed: float | None
    state: str
    progress: float | None = None
    skipped_us: int | None = None

    def __str__(self) -> str:
        return f"replay {self.state} at {self.ts}"


@dataclass(frozen=True, slots=True)
class Completed:
    """A replay has come to its end, `ts`, after so many ticks."""

    ts: int
    ticks: int

    def __str__(self) -> str:
        return f"replay completed at {self.ts}: {self.ticks} ticks"


@dataclass(frozen=True, slots=True)
class Live:
    """A replay has caught up with what is live, at `ts`, and goes on with it."""

    ts: int

    def __str__(self) -> str:
        return f"caught up, and live from {self.ts} on"


Notice = Connected | Lost | Rejected | Feed | Slow | Renewed | ShuttingDown | Complaint | Clock | Completed | Live

#: What is asked by `auth` on a connection that is up already.
RENEW: Final = "renew"
#: The share of a token's time after which it is renewed.
RENEWED_AFTER: Final = 0.8
#: The ops that move the clock of a replay.
CONTROLS: Final = frozenset(("play", "pause", "speed", "seek", "step"))


# -- the dialogue ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Reaction:
    """What a message comes to."""

    replies: list[Message] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    #: Symbols that are watched no more.
    gone: list[str] = field(default_factory=list)
    #: The server is about to stop, and asks to be left in so many seconds.
    leave_s: float | None = None
    #: The token ends, and another one should be shown in so many seconds.
    renew_s: float | None = None
    #: The connection is of no more use.
    ending: Ending | None = None


class Dialogue:
    """What a stream wants to watch, what it holds, and what it has asked and not been answered.

    Invariant: what `mirror.since()` and `mirror.epoch` say is true of the same log, whenever a connection ends.
    """

    def __init__(
        self,
        symbols: Iterable[str],
        *,
        interval_ms: int | None = None,
        fields: Iterable[str] | None = None,
        token: str | None = None,
    ) -> None:
        self.mirror = Mirror()
        #: Names and patterns, in the order of asking.
        self.wanted: dict[str, None] = dict.fromkeys(symbols)
        #: Names without a value yet.
        self.pending: set[str] = set()
        #: Names and patterns that were refused, or served in part, and the code that says why.
        self.rejected: dict[str, str] = {}
        #: As of the newest heartbeat; none while not connected, when nobody knows.
        self.feeds: dict[str, Feed] = {}
        self.welcomed = False
        self.heartbeat_s = HEARTBEAT_S
        #: Whether this is a replay, the clock of it as last told, and whether it has come to its end.
        self.replaying = False
        self.clock: Clock | None = None
        self.completed = False
        #: Whether this was a replay, and is live by now.
        self.caught_up = False
        #: By the id of a command to the clock, what became of it.
        self.answers: dict[int, Clock | Complaint] = {}
        #: The last fatal error of the connection, which says more than the close code that follows it.
        self.last_words: str | None = None
        self.token = token
        self._terms: Message = {}
        if interval_ms is not None:
            self._terms["interval_ms"] = interval_ms
        if fields is not None:
            self._terms["fields"] = list(fields)
        self._message_bytes = MESSAGE_BYTES
        self._ids = count(1)
        #: Commands without an answer: their ids and ops.
        self._asked: dict[int, str] = {}
        #: The epoch that all held items are of: the mirror's, but while a connection brings those of another log.
        self._epoch: str | None = None
        #: Symbols whose count of ticks is that of this connection's server.
        self._counted: set[str] = set()

    @property
    def asking(self) -> bool:
        """Whether something that was asked for has no answer yet."""
        return bool(self._asked)

    @property
    def settled(self) -> bool:
        """Whether all that was asked for is answered, with the values that there are."""
        return self.welcomed and not self._asked

    def opened(self) -> list[Message]:
        """A connection is up: what to send at once. The rest is due at `welcome`."""
        self._asked.clear()
        self._counted.clear()
        self.last_words = None
        self.heartbeat_s = HEARTBEAT_S
        return [] if self.token is None else [self._ask("auth", token=self.token)]

    def renew(self, token: str) -> list[Message]:
        """Show another token, before the last one ends. Returns what to send."""
        self.token = token
        return [self._ask(RENEW, op="auth", token=token)]

    def lost(self) -> None:
        """The connection has ended."""
        if self._epoch != self.mirror.epoch:  # ended before all was of the new log: that must not be resumed as the old
            self.mirror.broken.update(self._counted)
            self.mirror.epoch = self._epoch
        self.welcomed = False
        self.feeds = {}

    def subscribe(self, symbols: Iterable[str]) -> list[Message]:
        """Watch `symbols` too, now and after every reconnect. Returns what to send: nothing before `welcome`."""
        names = list(dict.fromkeys(symbols))
        self.wanted.update(dict.fromkeys(names))
        for name in names:
            self.rejected.pop(name, None)
        return self._subscriptions(names) if self.welcomed else []

    def unsubscribe(self, symbols: Iterable[str]) -> list[Message]:
        """Watch `symbols` no more; those that are not watched are none the worse. Returns what to send."""
        names = [name for name in dict.fromkeys(symbols) if name in self.wanted]
        for name in names:
            del self.wanted[name]
            self.pending.discard(name)
        if not (names and self.welcomed):
            return []
        batches = _batches(((name, {}) for name in names), self._message_bytes - self._overhead())
        return [*(self._ask("unsubscribe", symbols=batch) for batch, _ in batches), self._ask("ping")]

    def control(self, op: str, **members: Any) -> tuple[int, list[Message]]:
        """A command to the clock of a replay: its id, under which `answers` will tell what became of it, and what to send."""
        command = self._ask(op, **members)
        return command["id"], [command]

    def receive(self, message: Message) -> Reaction:
        """Take in one message of the server. Types that are not known are ignored, and so are unknown members."""
        reaction = Reaction()
        match message["type"]:
            case "snapshot" | "update":
                self._answered(message)  # a snapshot with an id answers a resync
                self._items(message, reaction)
            case "heartbeat":
                self.feeds = {name: _feed(name, told) for name, told in message["feeds"].items()}
            case "welcome":
                self._welcome(message, reaction)
            case "subscribed":
                self._answered(message)
                self._subscribed(message, reaction)
            case "unsubscribed":
                self._answered(message)
                reaction.gone = self._forget()
            case "auth_required" if self.token is None:
                reaction.ending = Ending(Advice.FAIL, "the server asks for a token")
            case "authenticated":
                self._answered(message)
                if "expires_in_ms" in message:
                    reaction.renew_s = message["expires_in_ms"] / 1000 * RENEWED_AFTER
            case "pong":
                self._answered(message)
            case "status":
                feed = self.feeds[message["feed"]] = _feed(message["feed"], message)
                reaction.notices.append(feed)
            case "slow":
                reaction.notices.append(Slow(message["skipped"]))
            case "epoch":
                self.mirror.apply(message)
                self._epoch = self.mirror.epoch
                if self.replaying:  # a seek: what is counted begins anew, and the end is ahead again
                    self._counted.clear()
                    self.completed = False
                else:
                    reaction.notices.append(Renewed(message["epoch"]))
            case "clock":
                self._clock(message, reaction)
            case "replay_completed":
                self.completed = True
                reaction.notices.append(Completed(message["ts"], message["ticks"]))
            case "live":
                self._go_live(message["ts"])
                reaction.notices.append(Live(message["ts"]))
            case "shutdown":
                reaction.leave_s = message["reconnect_after_ms"] / 1000
            case "error":
                self._refused(message, reaction)
        if self.settled and self._epoch != self.mirror.epoch:
            reaction.gone += self._outdated()
            self._epoch = self.mirror.epoch
        return reaction

    # -- messages --------------------------------------------------------------------------------------------------

    def _clock(self, message: Message, reaction: Reaction) -> None:
        speed = None if message["speed"] == "max" else message["speed"]
        told = message.get("progress"), message.get("skipped_us")
        self.clock = Clock(message["ts"], speed, message["state"], *told)
        self.completed = message["state"] == "completed"
        if message.get("id") in self._asked:
            self.answers[message["id"]] = self.clock
            self._answered(message)
        else:
            reaction.notices.append(self.clock)

    def _go_live(self, ts: int) -> None:
        self.clock = Clock(ts, 1.0, "live")
        self.replaying, self.caught_up = False, True

    def _welcome(self, message: Message, reaction: Reaction) -> None:
        if message["protocol"] != PROTOCOL:
            reaction.ending = Ending(Advice.FAIL, f"expected a server of {PROTOCOL}, was {message['protocol']}")
            return
        self.welcomed = True
        self.heartbeat_s = message["heartbeat_ms"] / 1000
        self.replaying = message["mode"] == "replay"
        if self.replaying:
            speed = None if message["speed"] == "max" else message["speed"]
            self.clock = Clock(message["ts"], speed, message["state"])
            if message["state"] == "live":
                self._go_live(message["ts"])
        self._message_bytes = message["limits"].get("message_bytes", MESSAGE_BYTES)
        since, held = self.mirror.since(), self.mirror.epoch
        self.mirror.apply(message)
        reaction.gone = self._forget()
        reaction.notices.append(Connected(message["mode"], message["epoch"]))
        reaction.replies = self._subscriptions(list(self.wanted), since if held else {}, held)

    def _items(self, message: Message, reaction: Reaction) -> None:
        before = {item["symbol"]: self.mirror.items.get(item["symbol"]) for item in message["items"]}
        broken = self.mirror.apply(message)
        whole = message["type"] == "snapshot"
        for item in message["items"]:
            symbol = item["symbol"]
            if symbol in self.mirror.broken:
                continue
            held = before[symbol]
            n = self._ticks(item, held, whole=whole)
            after = self.mirror.items[symbol]
            reaction.updates.append(update_of(item, held, after, n, message["ts"], whole=whole))
            if whole:
                self._counted.add(symbol)
                self.pending.discard(symbol)
        if broken:
            batches = _batches(((name, {}) for name in broken), self._message_bytes - self._overhead())
            reaction.replies = [self._ask("resync", symbols=batch) for batch, _ in batches]

    def _ticks(self, item: Item, held: Item | None, *, whole: bool) -> int | None:
        """The ticks between what is held and `item`, where both were counted by the same server."""
        if not whole:
            return int(item["n"])
        return int(item["n"] - held["n"]) if held is not None and item["symbol"] in self._counted else None

    def _subscribed(self, message: Message, reaction: Reaction) -> None:
        self.mirror.apply(message)
        self._counted.update(message["resumed"])
        self.pending.difference_update(message["symbols"])
        self.pending.update(name for name in message["pending"] if name in self.wanted)
        for entry in message["rejected"]:
            rejected = Rejected(entry["symbol"], entry["code"], entry.get("count"))
            self._reject(rejected, reaction)
            if rejected.count is None:
                self.wanted.pop(rejected.symbol, None)
        reaction.gone = self._forget()

    def _refused(self, message: Message, reaction: Reaction) -> None:
        """An error: of a command of this stream's own making, or one that nobody asked for."""
        complaint = Complaint(message["code"], message["message"])
        if message.get("fatal"):
            self.last_words = str(complaint)
        op = self._asked.get(message.get("id", 0))
        if op in CONTROLS:
            self.answers[message["id"]] = complaint
            self._answered(message)
        elif op == RENEW:  # the last token still counts, for a while
            self._answered(message)
            reaction.notices.append(complaint)
        elif "symbol" in message:
            self._reject(Rejected(message["symbol"], message["code"], message.get("count")), reaction)
        elif op is None:
            reaction.notices.append(complaint)
        else:
            passing = op == "resync" or complaint.code == Code.RATE_LIMITED
            reaction.ending = Ending(Advice.RECONNECT if passing else Advice.FAIL, f"{op} was refused: {complaint}")

    def _reject(self, rejected: Rejected, reaction: Reaction) -> None:
        self.rejected[rejected.symbol] = rejected.code
        reaction.notices.append(rejected)

    # -- commands --------------------------------------------------------------------------------------------------

    def _subscriptions(
        self, names: list[str], since: Mapping[str, int] | None = None, epoch: str | None = None
    ) -> list[Message]:
        """Commands that subscribe to `names`, each within the server's limit, and a ping behind them.

        The server answers in order: at the ping's pong, all subscriptions are answered and their snapshots are here.
        """
        held = since or {}
        fixed = self._terms if not held else {**self._terms, "epoch": epoch}
        parts = ((name, _covered(name, held)) for name in names)
        commands = []
        for batch, resumed in _batches(parts, self._message_bytes - self._overhead(fixed)):
            resume = {"since": resumed, "epoch": epoch} if resumed else {}
            commands.append(self._ask("subscribe", symbols=batch, **self._terms, **resume))
        return [*commands, self._ask("ping")]

    def _ask(self, what: str, **members: Any) -> Message:
        """A command, `op` where that is not `what` is asked."""
        tag = next(self._ids)
        self._asked[tag] = what
        return {"op": what, "id": tag, **members}

    def _answered(self, message: Message) -> None:
        self._asked.pop(message.get("id", 0), None)

    @staticmethod
    def _overhead(members: Mapping[str, Any] | None = None) -> int:
        """The bytes of a command beside its symbols and their `since`."""
        command = {"op": "unsubscribe", "id": 2**53, **(members or {}), "symbols": [], "since": {}}
        return len(orjson.dumps(command))

    def _forget(self) -> list[str]:
        """Drop what nothing that is wanted stands for any more."""
        patterns = [name for name in self.wanted if _is_pattern(name)]
        gone = [
            symbol
            for symbol in self.mirror.items
            if symbol not in self.wanted and not any(fnmatchcase(symbol, pattern) for pattern in patterns)
        ]
        self.mirror.drop(gone)
        self._counted.difference_update(gone)
        return gone

    def _outdated(self) -> list[str]:
        """Drop what is held of another log, where this connection's server has nothing to put in its place."""
        if set((self._epoch or "").split("+")) & set((self.mirror.epoch or "").split("+")):
            return []  # a feed's log is still the same: it may have to catch up first
        gone = [symbol for symbol in self.mirror.items if symbol not in self._counted]
        self.mirror.drop(gone)
        return gone


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _covered(name: str, since: Mapping[str, int]) -> dict[str, int]:
    """What of `since` a subscription to `name`, a symbol or a pattern, resumes."""
    if name in since:
        return {name: since[name]}
    if _is_pattern(name):
        return {symbol: seq for symbol, seq in since.items() if fnmatchcase(symbol, name)}
    return {}


def _batches(parts: Iterable[tuple[str, dict[str, int]]], bytes_max: int) -> Iterator[tuple[list[str], dict[str, int]]]:
    """Names, each with its `since`, cut into batches of at most `bytes_max` bytes of JSON, in order.

    A name alone may exceed it: the server judges. What of a pattern's `since` has no room is left out: it comes whole.
    No batch holds two patterns: where there are very many symbols a server may find that too dear.
    """
    batch: list[str] = []
    resumed: dict[str, int] = {}
    room = bytes_max
    for name, since in parts:
        cost = _cost(name)
        costs = {symbol: _cost(symbol) + _cost(seq) for symbol, seq in since.items()}
        full = cost + sum(costs.values()) > room or (_is_pattern(name) and any(map(_is_pattern, batch)))
        if batch and full:
            yield batch, resumed
            batch, resumed, room = [], {}, bytes_max
        batch.append(name)
        room -= cost
        for symbol, seq in since.items():
            if costs[symbol] <= room:
                resumed[symbol] = seq
                room -= costs[symbol]
    if batch:
        yield batch, resumed


def _cost(value: str | int) -> int:
    return len(orjson.dumps(value)) + 1


def _feed(name: str, told: Mapping[str, Any]) -> Feed:
    return Feed(name, told["state"], told.get("age_ms"), told.get("lag"))
