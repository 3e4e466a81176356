"""One client: its subscriptions and limits. Commands in, an `Outcome` out. Pure.

`outcome = session.receive(message, now)` says what to reply and what the client now watches; the hub carries it out.
Times are microseconds since the Unix epoch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from typing import Any, Final, NamedTuple

from feeds.ticks import Symbols, is_key
from ticker.errors import Close, Code, RequestError
from ticker.protocol import Auth, FieldSet, Id, Ping, Resync, Subscribe, Unsubscribe, error, parse
from ticker.quotes import QuoteTable
from ticker.settings import Settings

_PATTERN: Final = re.compile(r"[*?\[]")
SYMBOLS_A_TOKEN: Final = 100  # a command costs one token, and one more for each so many symbols


class LaneKey(NamedTuple):
    """One way of being served; with the outlet's encoding it names a lane."""

    interval_ms: int
    fields: FieldSet


#: An ordered set of rows.
Rows = dict[int, None]


@dataclass(slots=True)
class Outcome:
    """What a command comes to. The hub sends `replies`, then moves rows between lanes, then sends snapshots."""

    replies: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[LaneKey, Rows] = field(default_factory=dict)
    added: dict[LaneKey, Rows] = field(default_factory=dict)
    #: Rows whose snapshot is owed at once, by lane.
    fresh: dict[LaneKey, Rows] = field(default_factory=dict)
    #: Rows of which the client holds a later seq than the table: row to that seq.
    ahead: dict[int, int] = field(default_factory=dict)
    #: The id that the snapshots carry; there is at least one then, be it empty.
    id: Id = None
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
        """Take `count` tokens, at most a full bucket of them; False, and nothing taken, where they are not there."""
        self.tokens = min(self.size, self.tokens + max(0, now - self.at) * self.rate / 1e6)
        self.at = now
        count = min(count, self.size)
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
        *("_closed", "_epochs", "_exact", "_inbound", "_pace", "_patterns", "_pending", "_refusals", "_settings"),
        *("_symbols", "_table", "_told", "_violations", "heard", "rows"),
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
    ) -> None:
        """`epochs` maps each feed's name to its epoch; `closed` says that no symbol will come that is not known;
        `pace` gives the interval that is served for one that is asked for."""
        self._table = table
        self._symbols: Symbols = table.symbols
        self._settings = settings
        self._epochs = epochs
        self._closed = closed
        self._pace = pace
        #: Whether a message has come yet.
        self.heard = False
        #: Watched rows, and the lane that serves each.
        self.rows: dict[int, LaneKey] = {}
        self._exact: dict[str, LaneKey] = {}
        #: Oldest first.
        self._patterns: dict[str, LaneKey] = {}
        #: Exact names that no feed has brought yet.
        self._pending: set[str] = set()
        #: Patterns whose excess over the limit has been answered.
        self._told: set[str] = set()
        rate = settings.messages_per_s_max
        self._inbound = Bucket(rate, 2 * rate, now)
        self._refusals = Bucket(rate, 2 * rate, now)
        self._violations = Bucket(1, settings.violations_max, now)

    @property
    def expecting(self) -> bool:
        """Whether a symbol that appears may concern this client."""
        return bool(self._patterns or self._pending)

    def receive(self, message: str | bytes, now: int) -> Outcome:
        """Carry out one message of the client. Never raises for anything a client can send."""
        self.heard = True
        outcome = Outcome()
        try:
            command = parse(message)
            symbols = getattr(command, "symbols", ())
            if not self._inbound.take(1 + len(symbols) // SYMBOLS_A_TOKEN, now):
                raise RequestError(
                    Code.RATE_LIMITED,
                    f"expected at most {self._settings.messages_per_s_max} messages a second",
                    command.id,
                )
            try:
                self._carry_out(command, outcome, now)
            except RequestError as failure:
                failure.id = command.id
                raise
        except RequestError as failure:
            outcome = Outcome(close=self._ending(failure.code, now))
            outcome.replies.append(error(failure, fatal=outcome.close is not None))
        return outcome

    def appeared(self, rows: range) -> Outcome:
        """Take in the symbols of `rows`, new in the table, that a pattern or a pending name was waiting for."""
        outcome = Outcome()
        names = self._symbols.names
        for row in rows:
            name = names[row]
            if name in self._pending:
                self._pending.remove(name)
                self._serve(row, self._exact[name], outcome)
        for pattern, key in reversed(self._patterns.items()):
            matched = [row for row in _matching(pattern, names, rows) if row not in self.rows]
            excess = self._serve_matched(matched, key, outcome)
            if excess and pattern not in self._told:
                self._told.add(pattern)
                limit = self._settings.symbols_max
                failure = RequestError(
                    Code.LIMIT_SYMBOLS, f"{pattern}: expected at most {limit} symbols, {excess} are left out"
                )
                outcome.replies.append({**error(failure), "symbol": pattern, "count": excess})
        outcome.fresh.clear()  # the round that brings their first value sends it whole
        return outcome

    # -- commands --------------------------------------------------------------------------------------------------

    def _carry_out(self, command: object, outcome: Outcome, now: int) -> None:
        match command:
            case Subscribe():
                self._subscribe(command, outcome)
            case Unsubscribe():
                self._unsubscribe(command, outcome)
            case Resync():
                self._resync(command, outcome)
            case Ping():
                outcome.replies.append({"type": "pong", **_tag(command.id), "ts": now})
            case Auth():  # nothing to check where no token is required
                outcome.replies.append({"type": "authenticated", **_tag(command.id)})

    def _ending(self, code: Code, now: int) -> Close | None:
        if code is Code.RATE_LIMITED and not self._refusals.take(1, now):
            return Close.RATE_LIMITED
        if code.is_violation and not self._violations.take(1, now):
            return Close.VIOLATION
        return None

    def _subscribe(self, command: Subscribe, outcome: Outcome) -> None:
        asked = self._settings.interval_ms if command.interval_ms is None else command.interval_ms
        interval = self._pace(asked)
        key = LaneKey(interval, command.fields)
        self._check_lanes(key, set(command.symbols))
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
                self._exact[name] = key
                row = self._symbols.find(name)
                if row is None:
                    self._pending.add(name)
                else:
                    self._serve(row, key, outcome)
        resumed = self._resume(command, key, outcome)
        outcome.replies.append(
            {
                "type": "subscribed",
                **_tag(command.id),
                "channel": command.channel,
                "symbols": accepted,
                "pending": [name for name in accepted if not self._has_value(name)],
                "patterns": patterns,
                "resumed": resumed,
                "rejected": rejected,
                "interval_ms": interval,
            }
        )

    def _unsubscribe(self, command: Unsubscribe, outcome: Outcome) -> None:
        removed: list[str] = []
        rejected: list[dict[str, Any]] = []
        names = self._symbols.names
        for name in command.symbols:
            if name in self._exact:
                del self._exact[name]
                self._pending.discard(name)
                row = self._symbols.find(name)
                rows = [] if row is None else [row]
            elif name in self._patterns:
                key = self._patterns.pop(name)
                self._told.discard(name)
                match = _matcher(name)
                rows = [row for row, lane in self.rows.items() if lane == key and match(names[row])]
            else:
                rejected.append({"symbol": name, "code": Code.UNKNOWN_SYMBOL})
                continue
            removed.append(name)
            for row in rows:
                self._serve(row, self._winner(names[row]), outcome)
        reply = {"type": "unsubscribed", **_tag(command.id), "channel": command.channel}
        outcome.replies.append({**reply, "symbols": removed, "rejected": rejected})

    def _resync(self, command: Resync, outcome: Outcome) -> None:
        outcome.id = command.id
        unknown = []
        for name in command.symbols:
            row = self._symbols.find(name)
            if row is not None and row in self.rows:
                outcome.fresh.setdefault(self.rows[row], {})[row] = None
            elif name not in self._pending:
                unknown.append(name)
        if unknown:
            text = f"expected subscribed symbols, was {', '.join(unknown[:5])}{', ...' if unknown[5:] else ''}"
            outcome.replies.append(error(RequestError(Code.UNKNOWN_SYMBOL, text, command.id)))

    # -- parts -----------------------------------------------------------------------------------------------------

    def _check_lanes(self, key: LaneKey, replaced: set[str]) -> None:
        held = {key}
        for subscriptions in (self._exact, self._patterns):
            held.update(lane for name, lane in subscriptions.items() if name not in replaced)
        if len(held) > self._settings.lanes_max:
            limit = self._settings.lanes_max
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
        row = self._symbols.find(name)
        if row is None and self._closed:
            return Code.UNKNOWN_SYMBOL
        held = name in self._pending or row in self.rows
        return None if held or self._room else Code.LIMIT_SYMBOLS

    @property
    def _room(self) -> int:
        return self._settings.symbols_max - len(self.rows) - len(self._pending)

    def _is_pattern(self, name: str) -> bool:
        return name not in self._symbols and _PATTERN.search(name) is not None

    def _has_value(self, name: str) -> bool:
        row = self._symbols.find(name)
        return row is not None and bool(self._table.seq[row])

    def _add_pattern(self, pattern: str, key: LaneKey, outcome: Outcome) -> int:
        """Serve what `pattern` matches, as the newest; returns how many symbols are over the limit."""
        self._patterns.pop(pattern, None)
        self._patterns[pattern] = key
        names = self._symbols.names
        matched = _matching(pattern, names, range(len(self._symbols)))
        excess = self._serve_matched([row for row in matched if names[row] not in self._exact], key, outcome)
        if excess:
            self._told.add(pattern)
        return excess

    def _serve_matched(self, rows: Iterable[int], key: LaneKey, outcome: Outcome) -> int:
        excess = 0
        for row in rows:
            if row in self.rows or self._room > 0:
                self._serve(row, key, outcome)
            else:
                excess += 1
        return excess

    def _serve(self, row: int, key: LaneKey | None, outcome: Outcome) -> None:
        """Let `key` serve `row` from now on, None for nobody, and owe the client its snapshot."""
        held = self.rows.pop(row, None)
        if held is not None and held != key:
            outcome.fresh.get(held, {}).pop(row, None)
            if row in outcome.added.get(held, {}):  # by this very command
                del outcome.added[held][row]
            else:
                outcome.dropped.setdefault(held, {})[row] = None
        if key is not None:
            self.rows[row] = key
            outcome.fresh.setdefault(key, {})[row] = None
            if held != key:
                outcome.added.setdefault(key, {})[row] = None

    def _winner(self, name: str) -> LaneKey | None:
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        return next((key for pattern, key in reversed(self._patterns.items()) if _matcher(pattern)(name)), None)

    def _resume(self, command: Subscribe, key: LaneKey, outcome: Outcome) -> dict[str, int]:
        """Leave out of the snapshot what the client holds already, and what it holds newer than the table."""
        resumed: dict[str, int] = {}
        owed = outcome.fresh.get(key)
        if not (owed and command.since and command.epoch):
            return resumed
        epochs = set(command.epoch.split("+"))
        names, owner, parts = self._symbols.names, self._symbols.owner, self._symbols.parts
        for row in list(owed):
            since = command.since.get(names[row], 0)
            seq = int(self._table.seq[row])
            if since and since >= seq and self._epochs[parts[owner[row]].feed] in epochs:
                del owed[row]
                if since == seq:
                    resumed[names[row]] = int(self._table.n[row])
                else:
                    outcome.ahead[row] = since
        return resumed


def _tag(id: Id) -> dict[str, Any]:
    return {} if id is None else {"id": id}


@lru_cache(maxsize=4096)
def _matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(translate(pattern)).match


def _matching(pattern: str, names: list[str], rows: range) -> Iterable[int]:
    """The rows whose names a shell pattern matches, case and all."""
    if pattern == "*":
        return rows
    match = _matcher(pattern)
    return [row for row in rows if match(names[row])]
