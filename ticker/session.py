"""One client: its subscriptions and limits. Commands in, an `Outcome` out. Pure.

`outcome = session.receive(message, now)` says what to reply and what the client now watches; the hub carries it out.
Times are microseconds since the Unix epoch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

from feeds.ticks import Symbols, is_key
from ticker.directory import Directory, matcher
from ticker.errors import Close, Code, RequestError
from ticker.protocol import (
    Auth,
    Clocking,
    Command,
    FieldSet,
    Id,
    Pause,
    Ping,
    Play,
    Resync,
    Seek,
    Speed,
    Step,
    Subscribe,
    Unsubscribe,
    error,
    parse,
)
from ticker.quotes import QuoteTable
from ticker.settings import Settings

_WILDCARD: Final = re.compile(r"[*?\[]")
# What a command costs, in tokens: one, one more for each so many names, one for each pattern, and one for each so many
# trials of a pattern on a symbol.
NAMES_A_TOKEN: Final = 100
TRIALS_A_TOKEN: Final = 1000


class LaneKey(NamedTuple):
    """One way of being served; with the outlet's encoding it names a lane."""

    interval_ms: int
    fields: FieldSet


class Held(NamedTuple):
    """What a client says that it holds of a symbol: a seq in a log that one of `epochs` names."""

    seq: int
    epochs: frozenset[str]


#: Carries out a command to the clock of a replay. Raises RequestError where it is refused.
Control = Callable[[Clocking], None]
#: An ordered set of rows.
Rows = dict[int, None]


@dataclass(slots=True)
class Outcome:
    """What a command comes to. The hub moves rows between lanes, sends `replies`, then what is `fresh`."""

    replies: list[dict[str, Any]] = field(default_factory=list)
    #: Rows that a subscription took or left, and the lane that served each before; `Session.rows` says which does now.
    was: dict[int, LaneKey | None] = field(default_factory=dict)
    #: Watched rows that are to be sent whole at once.
    fresh: Rows = field(default_factory=dict)
    #: Watched rows of which the client holds what the table holds.
    resumed: Rows = field(default_factory=dict)
    #: Watched rows of which the client holds a later seq than the table: row to that seq.
    ahead: dict[int, int] = field(default_factory=dict)
    #: Whether the client has just told of a seq that the table has not reached.
    waits: bool = False
    #: Whether its subscriptions may be others than before.
    subscribed: bool = False
    #: The id that the snapshot carries; there is one then, be it empty.
    id: Id = None
    #: Why the command was refused as a whole; None where it was not.
    failure: RequestError | None = None
    close: Close | None = None


class Bucket:
    """A token bucket: `rate` tokens a second, at most `size` of them."""

    __slots__ = ("at", "rate", "size", "tokens")

    def __init__(self, rate: float, size: float, now: int) -> None:
        self.rate = rate
        self.size = size
        self.tokens = size
        self.at = now

    def take(self, count: float, now: int) -> bool:
        """Take `count` tokens; False, and nothing taken, where they are not there."""
        self.tokens = min(self.size, self.tokens + max(0, now - self.at) * self.rate / 1e6)
        self.at = now
        if self.tokens < count:
            return False
        self.tokens -= count
        return True


class Session:
    """A client's subscriptions and limits.

    Invariants: each watched row is served by exactly one subscription, the one that wins: an exact name before any
    pattern, a newer pattern before an older; no limit is ever passed.
    """

    __slots__ = (
        *(
            "_closed",
            "_control",
            "_directory",
            "_epochs",
            "_exact",
            "_inbound",
            "_pace",
            "_patterns",
            "_pending",
            "_refusals",
        ),
        *("_settings", "_symbols", "_table", "_told", "_violations", "awaited", "had", "heard", "rows"),
    )

    def __init__(
        self,
        table: QuoteTable,
        settings: Settings,
        epochs: Mapping[str, str],
        now: int,
        *,
        closed: bool = False,
        pace: Callable[[int], int] = int,
        directory: Directory | None = None,
        control: Control | None = None,
    ) -> None:
        """`epochs` maps each feed's name to its epoch; `closed` says that no symbol will come that is not known;
        `pace` gives the interval that is served for one that is asked for; `directory` is shared by all sessions;
        `control` carries out commands to the clock, where there is one of its own.
        """
        self._table = table
        self._symbols: Symbols = table.symbols
        self._settings = settings
        self._epochs = epochs
        self._closed = closed
        self._pace = pace
        self._directory = directory or Directory(table)
        self._control = control or _refuse
        #: Whether a message has come yet.
        self.heard = False
        #: Watched rows, and the lane that serves each.
        self.rows: dict[int, LaneKey] = {}
        #: What the client holds of subscribed symbols that no feed has brought yet.
        self.awaited: dict[str, Held] = {}
        #: How far the client says that it has had all of each part of each log, by the part's number.
        self.had: dict[int, int] = {}
        self._exact: dict[str, LaneKey] = {}
        #: Oldest first.
        self._patterns: dict[str, LaneKey] = {}
        #: Exact names that no feed has brought yet.
        self._pending: dict[str, None] = {}
        #: Patterns whose excess over the limit has been answered.
        self._told: dict[str, None] = {}
        rate = settings.messages_per_s_max
        self._inbound = Bucket(rate, 2 * rate, now)
        self._refusals = Bucket(rate, 2 * rate, now)
        self._violations = Bucket(1, settings.violations_max, now)

    @property
    def expecting(self) -> bool:
        """Whether a symbol that appears may concern this client."""
        return bool(self._patterns or self._pending)

    @property
    def pending(self) -> Mapping[str, LaneKey]:
        """Subscribed names that no feed has brought yet, and the lane that is to serve each."""
        return {name: self._exact[name] for name in self._pending}

    @property
    def unread(self) -> bool:
        """Whether the client has had more of some part of a log than the table."""
        return any(at > self._read(part) for part, at in self.had.items())

    def position(self, part: int) -> int:
        """How far the client has had a part of a log: as far as the table has read it, or further, if it came so."""
        return max(self._read(part), self.had.get(part, 0))

    @property
    def intervals(self) -> frozenset[int]:
        """The intervals of all subscriptions."""
        return frozenset(key.interval_ms for held in (self._exact, self._patterns) for key in held.values())

    def receive(self, message: str | bytes | Command, now: int, ts: int | None = None) -> Outcome:
        """Carry out one message of the client, or a command made of it. Never raises for anything a client can send.

        `ts` is the time of the data, where that is not `now`.
        """
        self.heard = True
        outcome = Outcome()
        tag: Id = None
        try:
            command = message if isinstance(message, Command) else parse(message)
            tag = command.id
            self._admit(command, now)
            match command:
                case Subscribe():
                    self._subscribe(command, outcome)
                case Unsubscribe():
                    self._unsubscribe(command, outcome)
                case Resync():
                    self._resync(command, outcome)
                case Ping():
                    outcome.replies.append({"type": "pong", **_tag(tag), "ts": now if ts is None else ts})
                case Auth():  # nothing to check where no token is required
                    outcome.replies.append({"type": "authenticated", **_tag(tag)})
                case Play() | Pause() | Speed() | Seek() | Step():
                    self._control(command)
        except RequestError as failure:  # before anything was done
            failure.id = tag if failure.id is None else failure.id
            close = self._ending(failure.code, now)
            return Outcome([error(failure, fatal=close is not None)], failure=failure, close=close)
        return outcome

    def appeared(self, arrived: Mapping[str, int]) -> Outcome:
        """Take in the symbols that a pattern or a pending name was waiting for.

        `arrived` maps the names that the directory has just admitted to their rows.
        """
        outcome = Outcome()
        for name in sorted(self._pending.keys() & arrived.keys(), key=arrived.__getitem__):
            del self._pending[name]
            self._serve(arrived[name], self._exact[name], outcome)
        for pattern, key in reversed(self._patterns.items()):
            if self._room > 0 or pattern not in self._told:
                matched = self._directory.matching(pattern, self._directory.known - len(arrived))
                new = [row for row in matched if row not in self.rows]
                excess = self._fill(new, key, outcome, len(new))
                if excess and pattern not in self._told:
                    self._told[pattern] = None
                    outcome.replies.append(self._excess(pattern, excess))
        outcome.fresh.clear()  # the round that brings their first value sends it whole
        if self.awaited or self.had:
            self._end_waiting(outcome)
        return outcome

    # -- commands --------------------------------------------------------------------------------------------------

    def _admit(self, command: Command, now: int) -> None:
        """Let `command` pay for the work that it is.

        One, one more for each hundred names and seqs in it, one for each pattern, and one for each thousand trials of a
        pattern on a symbol: on each watched symbol and, by `subscribe`, on each one that there is, but for those that
        the directory remembers; of each seq of `since`, by each pattern that the client then holds. What is dearer than
        a full bucket can never be paid, and is refused; so that a client at its limits gets what it may have, a
        command with at most one pattern, and as many names and seqs as a client may watch symbols, costs no more than
        a full bucket.
        """
        names: tuple[str, ...] = getattr(command, "symbols", ())
        since = getattr(command, "since", None) or ()
        patterns = [name for name in names if self._is_pattern(name)]
        trials = len(patterns) * len(self.rows)
        if isinstance(command, Subscribe):
            trials += self._directory.trials(patterns)
            trials += len(since) * (len(self._patterns) + len(patterns))
        cost = 1 + (len(names) + len(since)) // NAMES_A_TOKEN + len(patterns) + trials // TRIALS_A_TOKEN
        if len(patterns) <= 1 and max(len(names), len(since)) <= self._settings.symbols_max:
            cost = min(cost, int(self._inbound.size))
        if not self._inbound.take(cost, now):
            rate = self._settings.messages_per_s_max
            was = "more" if cost == 1 else f"more: this one counts as {cost}"
            never = f", never more than {self._inbound.size:g}" if cost > self._inbound.size else ""
            raise RequestError(Code.RATE_LIMITED, f"expected at most {rate} messages a second{never}, was {was}")

    def _ending(self, code: Code, now: int) -> Close | None:
        if code is Code.RATE_LIMITED and not self._refusals.take(1, now):
            return Close.RATE_LIMITED
        if code.is_violation and not self._violations.take(1, now):
            return Close.VIOLATION
        return None

    def _subscribe(self, command: Subscribe, outcome: Outcome) -> None:
        asked = self._settings.interval_ms if command.interval_ms is None else command.interval_ms
        key = LaneKey(self._pace(asked), command.fields)
        self._check_lanes(key, set(command.symbols))
        outcome.subscribed = True
        accepted: list[str] = []
        patterns: list[str] = []
        rejected: list[dict[str, Any]] = []
        for name in command.symbols:
            refusal = self._refusal(name)
            if refusal:
                rejected.append({"symbol": name, "code": refusal})
            elif self._is_pattern(name):
                patterns.append(name)
                excess = self._add_pattern(name, key, outcome)
                if excess:
                    rejected.append({"symbol": name, "code": Code.LIMIT_SYMBOLS, "count": excess})
            else:
                accepted.append(name)
                self._add_exact(name, key, outcome)
        outcome.replies.append(
            {
                "type": "subscribed",
                **_tag(command.id),
                "channel": command.channel,
                "symbols": accepted,
                "pending": [name for name in accepted if not self._has_value(name)],
                "patterns": patterns,
                "resumed": self._resume(command, outcome),
                "rejected": rejected,
                "interval_ms": key.interval_ms,
            }
        )

    def _unsubscribe(self, command: Unsubscribe, outcome: Outcome) -> None:
        outcome.subscribed = True
        removed: list[str] = []
        rejected: list[dict[str, Any]] = []
        rows: Rows = {}
        for name in command.symbols:
            if name in self._exact:
                rows |= self._drop_exact(name)
            elif name in self._patterns:
                rows |= self._drop_pattern(name)
            else:
                rejected.append({"symbol": name, "code": Code.UNKNOWN_SYMBOL})
                continue
            removed.append(name)
        self._serve_anew(rows, outcome)  # once, however many subscriptions to a row have gone
        if removed:
            self._told.clear()  # there is room again, and a new excess is news
            for name in [name for name in self.awaited if self._winner(name) is None]:
                del self.awaited[name]
        reply = {"type": "unsubscribed", **_tag(command.id), "channel": command.channel}
        outcome.replies.append({**reply, "symbols": removed, "rejected": rejected})

    def _resync(self, command: Resync, outcome: Outcome) -> None:
        outcome.id = command.id
        unknown = []
        for name in command.symbols:
            row = self._directory.find(name)
            if row is not None and row in self.rows:
                outcome.fresh[row] = None
            elif name not in self._pending:
                unknown.append(name)
        if unknown:
            text = f"expected subscribed symbols, was {', '.join(unknown[:5])}{', ...' if unknown[5:] else ''}"
            outcome.replies.append(error(RequestError(Code.UNKNOWN_SYMBOL, text, command.id)))

    # -- what is accepted ------------------------------------------------------------------------------------------

    def _check_lanes(self, key: LaneKey, replaced: set[str]) -> None:
        held = {key}
        for subscriptions in (self._exact, self._patterns):
            held.update(lane for name, lane in subscriptions.items() if name not in replaced)
        limit = self._settings.lanes_max
        if len(held) > limit:
            raise RequestError(
                Code.LIMIT_LANES, f"expected at most {limit} different pairs of interval and fields, was {len(held)}"
            )

    def _refusal(self, name: str) -> Code | None:
        """Why a subscription to `name` is refused, if it is."""
        if not is_key(name) or len(name) > self._settings.symbol_chars_max:
            return Code.INVALID_SYMBOL
        if self._is_pattern(name):
            full = name not in self._patterns and len(self._patterns) >= self._settings.patterns_max
            return Code.LIMIT_SYMBOLS if full else None
        if self._closed and name not in self._symbols:
            return Code.UNKNOWN_SYMBOL
        held = name in self._pending or self._directory.find(name) in self.rows
        return None if held or self._room > 0 else Code.LIMIT_SYMBOLS

    @property
    def _room(self) -> int:
        return self._settings.symbols_max - len(self.rows) - len(self._pending)

    def _is_pattern(self, name: str) -> bool:
        return name not in self._symbols and _WILDCARD.search(name) is not None

    def _has_value(self, name: str) -> bool:
        row = self._directory.find(name)
        return row is not None and bool(self._table.n[row])

    # -- who serves what -------------------------------------------------------------------------------------------

    def _add_exact(self, name: str, key: LaneKey, outcome: Outcome) -> None:
        if name in self._patterns:  # it was one until a symbol of that very name appeared
            self._serve_anew(self._drop_pattern(name), outcome)
        row = self._directory.find(name)
        if row is None:
            self._exact[name] = key
            self._pending[name] = None
        else:
            self._exact[self._symbols.names[row]] = key  # the string that all clients share
            self._serve(row, key, outcome)

    def _drop_exact(self, name: str) -> Rows:
        """Forget a subscription; returns the rows that it may have served."""
        del self._exact[name]
        self._pending.pop(name, None)
        row = self._directory.find(name)
        return {} if row is None else {row: None}

    def _add_pattern(self, pattern: str, key: LaneKey, outcome: Outcome) -> int:
        """Serve what `pattern` matches, as the newest; returns how many symbols are over the limit."""
        self._patterns.pop(pattern, None)
        self._patterns[pattern] = key
        match, names = matcher(pattern), self._symbols.names
        held = [row for row in self.rows if match(names[row])]
        for row in held:
            if names[row] not in self._exact:
                self._serve(row, key, outcome)
        matched = self._directory.matching(pattern)
        excess = len(matched) - len(held)
        if excess and self._room > 0:
            excess = self._fill((row for row in matched if row not in self.rows), key, outcome, excess)
        if excess:
            self._told[pattern] = None
        return excess

    def _drop_pattern(self, pattern: str) -> Rows:
        """Forget a subscription; returns the rows that it may have served."""
        key = self._patterns.pop(pattern)
        match, names = matcher(pattern), self._symbols.names
        return {row: None for row, lane in self.rows.items() if lane == key and match(names[row])}

    def _fill(self, rows: Iterable[int], key: LaneKey, outcome: Outcome, count: int) -> int:
        """Serve those of `rows`, `count` rows not watched yet, that there is room for; returns how many are left."""
        new = dict.fromkeys(islice(rows, max(0, self._room)))
        outcome.was = new | outcome.was
        self.rows.update(dict.fromkeys(new, key))
        outcome.fresh.update(new)
        return count - len(new)

    def _serve_anew(self, rows: Rows, outcome: Outcome) -> None:
        """Subscriptions to `rows` have gone: let others serve them, or none."""
        for row in rows:
            key = self._winner(self._symbols.names[row])
            if key != self.rows[row]:
                self._serve(row, key, outcome)

    def _serve(self, row: int, key: LaneKey | None, outcome: Outcome) -> None:
        """Let `key` serve `row` from now on, None for nobody, and owe the client its snapshot."""
        outcome.was.setdefault(row, self.rows.get(row))
        if key is None:
            del self.rows[row]
            outcome.fresh.pop(row, None)
        else:
            self.rows[row] = key
            outcome.fresh[row] = None

    def _winner(self, name: str) -> LaneKey | None:
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        return next((key for pattern, key in reversed(self._patterns.items()) if matcher(pattern)(name)), None)

    def _excess(self, pattern: str, count: int) -> dict[str, Any]:
        limit = self._settings.symbols_max
        text = f"{pattern}: expected at most {limit} symbols, {count} more are left out"
        return {**error(RequestError(Code.LIMIT_SYMBOLS, text)), "symbol": pattern, "count": count}

    # -- resuming --------------------------------------------------------------------------------------------------

    def _resume(self, command: Subscribe, outcome: Outcome) -> dict[str, int]:
        """Leave out of the snapshot what the client holds already, and what it holds newer than the table.

        Returns what the client holds as the table does: symbol to the server's count of its ticks.
        """
        if command.epoch is None:
            return {}
        named = command.since or {}
        names, epochs = self._symbols.names, frozenset(command.epoch.split("+"))
        if command.positions is not None:
            self.had = {
                number: command.positions[str(part)]
                for number, part in enumerate(self._symbols.parts)
                if str(part) in command.positions and self._epochs.get(part.feed) in epochs
            }
        for row in list(outcome.fresh):
            seq = int(self._table.seq[row])
            since = named.get(names[row], 0) if command.positions is None else self._since(row)
            if since and since >= seq and self._epoch(row) in epochs:
                del outcome.fresh[row]
                if since == seq:
                    outcome.resumed[row] = None
                else:
                    outcome.ahead[row] = since
        outcome.waits = bool(outcome.ahead) or self.unread
        if not epochs.isdisjoint(self._epochs.values()):
            for name, since in named.items():
                full = len(self.awaited) >= self._settings.symbols_max
                if since and not full and self._directory.find(name) is None and self._winner(name) is not None:
                    self.awaited[name] = Held(since, epochs)
                    outcome.waits = True
        return {names[row]: int(self._table.n[row]) for row in outcome.resumed}

    def _since(self, row: int) -> int:
        """The seq of `row` that a client holds which has had all of each part of each log up to `had`.

        0 where it is another one than the table's. Where the client has had more than the table, it may be any up to there.
        """
        part, seq = self._symbols.owner[row], int(self._table.seq[row])
        at = self.had.get(part, 0)
        if at > self._read(part):
            return at
        return seq if seq <= at else 0

    def _read(self, part: int) -> int:
        """The newest position of a part that the table has read."""
        positions = self._table.positions
        return int(positions[part]) if part < len(positions) else 0

    def _end_waiting(self, outcome: Outcome) -> None:
        """Symbols that the client holds something of, or may hold, are here."""
        for row in outcome.was:
            held = self.awaited.pop(self._symbols.names[row], None)
            if held is not None and self._epoch(row) in held.epochs:
                outcome.ahead[row] = held.seq
            part = self._symbols.owner[row]
            if self.had.get(part, 0) > self._read(part):
                outcome.ahead[row] = self.had[part]

    def _epoch(self, row: int) -> str:
        """The epoch of the feed that brings `row`."""
        return self._epochs[self._symbols.parts[self._symbols.owner[row]].feed]


def _refuse(command: Clocking) -> None:
    op = type(command).__name__.lower()
    raise RequestError(Code.NOT_REPLAY, f"op: {op} is for /v1/replay, this is a live stream")


def _tag(id: Id) -> dict[str, Any]:
    return {} if id is None else {"id": id}
