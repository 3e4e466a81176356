"""One client: its subscriptions and limits. Commands in, an `Outcome` out. Pure.

`outcome = session.receive(message, now)` says what to reply and what the client now watches; the hub carries it out.
Times are microseconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from feeds.ticks import Symbols
from ticker.access import OPEN, Grant
from ticker.directory import Directory
from ticker.errors import Close, Code, RequestError
from ticker.protocol import (
    BARS,
    TICKER,
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
from ticker.watchlist import Accepted, Moves, Rows, Watchlist

# What a command costs, in tokens: one, one more for each so many names, one for each pattern, and one for each so many
# trials of a pattern on a symbol.
NAMES_A_TOKEN: Final = 100
TRIALS_A_TOKEN: Final = 1000


class LaneKey(NamedTuple):
    """One way of being served; with the outlet's encoding it names a lane."""

    interval_ms: int
    fields: FieldSet


class JournalKey(NamedTuple):
    """One way of being served a journal: its name is `trades`, or the interval of its bars."""

    interval_ms: int
    journal: str


class Held(NamedTuple):
    """What a client says that it holds of a symbol: a seq in a log that one of `epochs` names."""

    seq: int
    epochs: frozenset[str]


#: Carries out a command to the clock of a replay. Raises RequestError where it is refused.
Control = Callable[[Clocking], None]
#: What a token grants at a time. Raises RequestError.
Check = Callable[[str, int], Grant]


@dataclass(slots=True)
class JournalMoves(Moves[JournalKey]):
    """What a command does to what a client watches of trades, or of bars."""

    #: Of the fresh rows, those of which the client holds all up to a seq.
    since: dict[int, int] = field(default_factory=dict)
    #: What the reply tells of those that nothing is missing of: symbol to how many items follow. The hub, which has the
    #: journal, fills it in.
    resumed: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome(Moves[LaneKey]):
    """What a command comes to. The hub moves rows between lanes, sends `replies`, then what is `fresh`, whole."""

    replies: list[dict[str, Any]] = field(default_factory=list)
    #: The same for the channels of journals.
    journals: dict[str, JournalMoves] = field(default_factory=dict)
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
    """A client's subscriptions and limits."""

    __slots__ = (
        *(
            "_check",
            "_control",
            "_delay_us",
            "_directory",
            "_epochs",
            "_inbound",
            "_pace",
            "_refusals",
            "_settings",
            "_symbols",
        ),
        *("_table", "_violations", "awaited", "awaited_journals", "grant", "had", "heard", "journals", "quotes"),
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
        grant: Grant = OPEN,
        check: Check | None = None,
        delay_us: int = 0,
    ) -> None:
        """`epochs` maps each feed's name to its epoch; `closed` says that no symbol will come that is not known;
        `pace` gives the interval that is served for one that is asked for; `directory` is shared by all sessions that
        are entitled to the same symbols; `control` carries out commands to the clock, where there is one of its own;
        `grant` is what the client may see, and `check` says what another token grants, where tokens are asked for, by
        the time of day, which `now` is `delay_us` behind.
        """
        self._table = table
        self._symbols: Symbols = table.symbols
        self._settings = settings
        self._epochs = epochs
        self._pace = pace
        self._directory = directory or Directory(table, grant.rights.symbols)
        self._control = control or _refuse
        self._check = check
        self._delay_us = delay_us
        #: What the client may see, and for how long.
        self.grant = grant
        #: Whether a message has come yet.
        self.heard = False
        #: What it watches of the channel ticker ...
        self.quotes: Watchlist[LaneKey] = self._watchlist(closed)
        #: ... and of the others, those that it has ever subscribed to.
        self.journals: dict[str, Watchlist[JournalKey]] = {}
        #: What the client holds of subscribed symbols that no feed has brought yet.
        self.awaited: dict[str, Held] = {}
        #: The same, by channel and name, of trades and bars.
        self.awaited_journals: dict[tuple[str, str], Held] = {}
        #: How far the client says that it has had all of each part of each log, by the part's number.
        self.had: dict[int, int] = {}
        rate = settings.messages_per_s_max
        self._inbound = Bucket(rate, 2 * rate, now)
        self._refusals = Bucket(rate, 2 * rate, now)
        self._violations = Bucket(1, settings.violations_max, now)

    @property
    def symbols_max(self) -> int:
        """How many symbols it may watch on each channel."""
        return min(self._settings.symbols_max, self.grant.rights.symbols_max or self._settings.symbols_max)

    @property
    def interval_ms(self) -> int:
        """The interval of a subscription that names none."""
        return max(self._settings.interval_ms, self.grant.rights.interval_ms_min)

    @property
    def rows(self) -> dict[int, LaneKey]:
        """Rows watched on the channel ticker, and the lane that serves each."""
        return self.quotes.rows

    @property
    def expecting(self) -> bool:
        """Whether a symbol that appears may concern this client."""
        return self.quotes.expecting or any(watched.expecting for watched in self.journals.values())

    @property
    def pending(self) -> Mapping[str, LaneKey]:
        """Names subscribed on the channel ticker that no feed has brought yet, and the lane that is to serve each."""
        return {name: self.quotes.exact[name] for name in self.quotes.pending}

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
        keys = self.quotes.keys().union(*(watched.keys() for watched in self.journals.values()))
        return frozenset(key.interval_ms for key in keys)

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
                case Auth():
                    outcome.replies.append(self._authenticate(command, now))
                case Play() | Pause() | Speed() | Seek() | Step():
                    self._control(command)
        except RequestError as failure:  # before anything was done
            failure.id = tag if failure.id is None else failure.id
            close = self._ending(failure.code, now)
            return Outcome(replies=[error(failure, fatal=close is not None)], failure=failure, close=close)
        return outcome

    def appeared(self, arrived: Mapping[str, int]) -> Outcome:
        """Take in the symbols that a pattern or a pending name was waiting for.

        `arrived` maps the names that the directory has just admitted to their rows.
        """
        outcome = Outcome()
        for pattern, excess in self.quotes.appeared(arrived, outcome).items():
            outcome.replies.append(self._excess(pattern, excess))
        for channel, watched in self.journals.items():
            moves = outcome.journals[channel] = JournalMoves()
            for pattern, excess in watched.appeared(arrived, moves).items():
                outcome.replies.append({**self._excess(pattern, excess), "channel": channel})
            for row in moves.fresh:
                held = self.awaited_journals.pop((channel, self._symbols.names[row]), None)
                if held is not None and self._epoch(row) in held.epochs:
                    moves.since[row] = held.seq
        outcome.fresh.clear()  # the round that brings their first value sends it whole
        if self.awaited or self.had:
            self._end_waiting(outcome)
        return outcome

    # -- commands --------------------------------------------------------------------------------------------------

    def _watchlist(self, closed: bool) -> Watchlist[Any]:
        return Watchlist(self._table, self._directory, self._settings, symbols_max=self.symbols_max, closed=closed)

    def _authenticate(self, command: Auth, now: int) -> dict[str, Any]:
        """Let the session last as long as another token says. Where no token is asked for, any will do."""
        now += self._delay_us  # a token ends by the time of day
        if self._check is not None:
            grant = self._check(command.token, now)
            if not grant.renews(self.grant):
                raise RequestError(
                    Code.AUTH_FAILED,
                    "expected a token that grants the same to the same subject; for another one, connect anew",
                )
            self.grant = grant
        return authenticated(command.id, self.grant, now)

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
        patterns = [name for name in names if self.quotes.is_pattern(name)]
        watched = self.journals.get(getattr(command, "channel", TICKER), self.quotes)
        trials = len(patterns) * len(watched.rows)
        if isinstance(command, Subscribe):
            trials += self._directory.trials(patterns)
            trials += len(since) * (len(watched.patterns) + len(patterns))
        cost = 1 + (len(names) + len(since)) // NAMES_A_TOKEN + len(patterns) + trials // TRIALS_A_TOKEN
        if len(patterns) <= 1 and max(len(names), len(since)) <= self.symbols_max:
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
            return Close.AUTH if code is Code.AUTH_FAILED else Close.VIOLATION
        return None

    def _subscribe(self, command: Subscribe, outcome: Outcome) -> None:
        rights = self.grant.rights
        if command.channel not in rights.channels:
            raise RequestError(
                Code.NOT_ENTITLED, f"channel: expected one of {', '.join(rights.channels)}, was {command.channel}"
            )
        asked = self.interval_ms if command.interval_ms is None else command.interval_ms
        interval_ms = self._pace(max(asked, rights.interval_ms_min))
        resumed: dict[str, int]
        if command.channel == TICKER:
            key = LaneKey(interval_ms, command.fields)
            self._check_lanes({*self.quotes.keys(command.symbols), key}, "pairs of interval and fields")
            answer = self.quotes.subscribe(command.symbols, key, outcome)
            resumed = self._resume(command, outcome)
        else:
            answer = self._subscribe_journal(command, interval_ms, outcome)
            resumed = outcome.journals[command.channel].resumed
        outcome.subscribed = True
        outcome.replies.append(
            {
                "type": "subscribed",
                **_tag(command.id),
                "channel": command.channel,
                **({"interval": command.interval} if command.interval else {}),
                "symbols": answer.symbols,
                "pending": [name for name in answer.symbols if not self._has_value(name)],
                "patterns": answer.patterns,
                "resumed": resumed,
                "rejected": answer.rejected,
                "interval_ms": interval_ms,
            }
        )

    def _subscribe_journal(self, command: Subscribe, interval_ms: int, outcome: Outcome) -> Accepted:
        watched = self.journals.get(command.channel)
        if watched is None:
            watched = self._watchlist(self.quotes.closed)
        key = JournalKey(interval_ms, command.interval or command.channel)
        what = "pairs of interval and interval_ms" if command.channel == BARS else "values of interval_ms"
        self._check_lanes({*watched.keys(command.symbols), key}, what)
        self.journals[command.channel] = watched
        moves = outcome.journals[command.channel] = JournalMoves()
        answer = watched.subscribe(command.symbols, key, moves)
        self._resume_journal(command, moves)
        outcome.waits = self.unread
        return answer

    def _unsubscribe(self, command: Unsubscribe, outcome: Outcome) -> None:
        outcome.subscribed = True
        removed: list[str] = []
        if command.channel == TICKER:
            removed, rejected = self.quotes.unsubscribe(command.symbols, outcome)
            for name in [name for name in self.awaited if self.quotes.winner(name) is None]:
                del self.awaited[name]
        elif command.channel in self.journals:
            moves = outcome.journals[command.channel] = JournalMoves()
            watched = self.journals[command.channel]
            removed, rejected = watched.unsubscribe(command.symbols, moves)
            for channel, name in list(self.awaited_journals):
                if channel == command.channel and watched.winner(name) is None:
                    del self.awaited_journals[channel, name]
        else:
            rejected = [{"symbol": name, "code": Code.UNKNOWN_SYMBOL} for name in command.symbols]
        reply = {"type": "unsubscribed", **_tag(command.id), "channel": command.channel}
        outcome.replies.append({**reply, "symbols": removed, "rejected": rejected})

    def _resync(self, command: Resync, outcome: Outcome) -> None:
        outcome.id = command.id
        unknown = []
        for name in command.symbols:
            row = self._directory.find(name)
            if row is not None and row in self.rows:
                outcome.fresh[row] = None
            elif name not in self.quotes.pending:
                unknown.append(name)
        if unknown:
            text = f"expected subscribed symbols, was {', '.join(unknown[:5])}{', ...' if unknown[5:] else ''}"
            outcome.replies.append(error(RequestError(Code.UNKNOWN_SYMBOL, text, command.id)))

    # -- what is accepted ------------------------------------------------------------------------------------------

    def _check_lanes(self, keys: set[Any], what: str) -> None:
        limit = self._settings.lanes_max
        if len(keys) > limit:
            raise RequestError(Code.LIMIT_LANES, f"expected at most {limit} different {what}, was {len(keys)}")

    def _has_value(self, name: str) -> bool:
        row = self._directory.find(name)
        return row is not None and bool(self._table.n[row])

    def _excess(self, pattern: str, count: int) -> dict[str, Any]:
        limit = self.symbols_max
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
            self.had = self._positions(command.positions, epochs)
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
                full = len(self.awaited) >= self.symbols_max
                if since and not full and self._directory.find(name) is None and self.quotes.winner(name) is not None:
                    self.awaited[name] = Held(since, epochs)
                    outcome.waits = True
        return {names[row]: int(self._table.n[row]) for row in outcome.resumed}

    def _resume_journal(self, command: Subscribe, moves: JournalMoves) -> None:
        """Note up to where the client holds what it watches, and what it holds of symbols that no feed has brought."""
        if command.epoch is None:
            return
        named, positions = command.since or {}, command.positions
        names, epochs = self._symbols.names, frozenset(command.epoch.split("+"))
        if positions is not None:
            self.had = self._positions(positions, epochs)
        for row in moves.fresh:
            part = str(self._symbols.parts[self._symbols.owner[row]])
            since = named.get(names[row]) if positions is None else positions.get(part)
            if since is not None and self._epoch(row) in epochs:
                moves.since[row] = since
        for name, since in named.items():
            full = len(self.awaited_journals) >= self.symbols_max
            if not full and self._directory.find(name) is None:
                self.awaited_journals[command.channel, name] = Held(since, epochs)

    def _positions(self, positions: Mapping[str, int], epochs: frozenset[str]) -> dict[int, int]:
        """How far a client has had each part, by number, of the logs that are those of its epochs."""
        return {
            number: positions[str(part)]
            for number, part in enumerate(self._symbols.parts)
            if str(part) in positions and self._epochs.get(part.feed) in epochs
        }

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


def authenticated(id: Id, grant: Grant, now: int) -> dict[str, Any]:
    """The answer to a token that is good, and for how long it is."""
    left = {} if grant.expires is None else {"expires_in_ms": (grant.expires - now) // 1000}
    return {"type": "authenticated", **_tag(id), **left}


def _refuse(command: Clocking) -> None:
    op = type(command).__name__.lower()
    raise RequestError(Code.NOT_REPLAY, f"op: {op} is for /v1/replay, this is a live stream")


def _tag(id: Id) -> dict[str, Any]:
    return {} if id is None else {"id": id}
