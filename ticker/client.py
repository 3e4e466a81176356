"""The client library: a stream of updates that survives reconnects, and quotes that are always current.

    async with ticker.client.connect("ws://localhost:8000", ["BTCUSDT", "ETH*"]) as stream:
        async for update in stream:
            print(update.symbol, update.quote.bid, update.n)  # n: ticks since this symbol's update before

The stream always reads what the server sends, so `stream.quotes` is current however slow the loop is. What has changed
since the loop last asked is conflated, symbol by symbol, as the server does it: memory is bounded by the symbols
watched, and `update.n`, `hi`, `lo` and `vol` tell what went into an update. Where the whole program is too slow to
read, the socket fills and the server conflates.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from inspect import isawaitable
from itertools import count
from random import random
from ssl import SSLCertVerificationError, SSLContext
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import orjson
import websockets.asyncio.client as websocket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from ticker.blocking import BlockingStream
from ticker.dialogue import (
    Clock,
    Complaint,
    Completed,
    Connected,
    Dialogue,
    Feed,
    Live,
    Lost,
    Message,
    Notice,
    Reaction,
    Rejected,
    Renewed,
    ShuttingDown,
    Slow,
)
from ticker.errors import Close
from ticker.mirror import Quote, Quotes, Update, conflate
from ticker.reconnect import Advice, Backoff, Ending, closed, refused

__all__ = [
    "Answer",
    "Backoff",
    "Clock",
    "Complaint",
    "Completed",
    "Connected",
    "Feed",
    "Live",
    "Lost",
    "Notice",
    "Quote",
    "RefusedError",
    "Rejected",
    "Renewed",
    "ShuttingDown",
    "Slow",
    "Stream",
    "StreamError",
    "Update",
    "connect",
]

PATH: Final = "/v1/stream"
REPLAY_PATH: Final = "/v1/replay"
#: Updates of a replay that wait for the loop; while there are more, nothing is read, and the replay's clock waits.
OWED_MAX: Final = 10_000
#: A snapshot of a hundred thousand symbols fits.
MESSAGE_BYTES_MAX: Final = 64 * 2**20
HEARTBEATS_MISSED_MAX: Final = 3
OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 1.0

logger = logging.getLogger(__name__)

#: A token, or what gives one.
Token = str | Callable[[], str | Awaitable[str]]


class StreamError(Exception):
    """The stream has ended for good: trying again would fail in the same way."""


class RefusedError(Exception):
    """The server refuses a command to the clock of a replay. The stream goes on."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a subscription: symbols and patterns served, those among them without a value yet, those not
    served (or served in part) with the code that says why.
    """

    accepted: tuple[str, ...]
    pending: tuple[str, ...]
    rejected: Mapping[str, str]


def log(notice: Notice) -> None:
    """Tell a notice to the log of this module."""
    level = logging.WARNING if isinstance(notice, Lost | Rejected | Complaint) else logging.INFO
    logger.log(level, "%s", notice)


def stream_url(url: str) -> str:
    """The WebSocket address that `url` means: ``host:port``, ``http(s)://...`` or ``ws(s)://...``, the path optional.

    ValueError for what is no such address.
    """
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in {"ws", "wss"} or not parts.hostname or parts.fragment:
        raise ValueError(f"url: expected an address such as ws://localhost:8000, was {url!r}")
    if parts.port == 0:
        raise ValueError(f"url: expected a port from 1 to 65535, was {url!r}")
    return parts._replace(scheme=scheme, path=PATH if parts.path in {"", "/"} else parts.path).geturl()


def live_url(url: str) -> str:
    """The address of the live stream that stands beside a replay's."""
    parts = urlsplit(url)
    if not parts.path.endswith(REPLAY_PATH):
        return url
    return parts._replace(path=parts.path.removesuffix(REPLAY_PATH) + PATH, query="").geturl()


def connect(
    url: str,
    symbols: str | Iterable[str] = (),
    *,
    interval_ms: int | None = None,
    fields: Iterable[str] | None = None,
    token: Token | None = None,
    autoplay: bool = False,
    ssl: SSLContext | None = None,
    on_notice: Callable[[Notice], None] = log,
    backoff: Backoff | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> Stream:
    """A stream of `symbols`, names or patterns, to be entered with ``async with``, or with ``with`` where nothing is async.

    Entering waits until the server has answered and the quotes that there are have come; a server that cannot be
    reached is tried again and again (put ``asyncio.timeout`` around to give up), one that refuses for good raises
    StreamError. `on_notice` is called with what there is to tell beside updates, on the event loop; it is logged by
    default. `token` is shown to a server that asks for one: a text, or a function, async or not, that gives one for each
    connection and anew before it ends. A replay (``/v1/replay?source=...``) begins to play with `autoplay`. `backoff`, `clock` (seconds) and `sleep` pace the reconnects.
    """
    dialogue = Dialogue(_names(symbols), interval_ms=interval_ms, fields=fields)
    return Stream(
        stream_url(url),
        dialogue,
        token=token,
        autoplay=autoplay,
        ssl=ssl,
        on_notice=on_notice,
        backoff=backoff or Backoff(random),
        clock=clock,
        sleep=sleep,
    )


class Stream:
    """Updates of the symbols watched, over as many connections as it takes. Made by `connect`.

    Iterating gives each symbol's update once there is one: what happened to it since its update before, in the order in
    which the symbols changed. It stops when the server is done, and raises StreamError when it refuses for good. One
    loop at a time; a new loop goes on where the last one stopped.
    """

    def __init__(
        self,
        url: str,
        dialogue: Dialogue,
        *,
        token: Token | None = None,
        autoplay: bool = False,
        ssl: SSLContext | None,
        on_notice: Callable[[Notice], None],
        backoff: Backoff,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self.url = url
        #: The newest quote of every symbol; while not connected, the last one known.
        self.quotes: Mapping[str, Quote] = Quotes(dialogue.mirror)
        self._dialogue = dialogue
        self._options: dict[str, Any] = {} if ssl is None else {"ssl": ssl}
        self._on_notice = on_notice
        self._backoff = backoff
        self._clock = clock
        self._sleep = sleep
        #: What the loop has not been given yet, the longest waiting first.
        self._owed: OrderedDict[str | int, Update] = OrderedDict()
        self._autoplay = autoplay
        self._token = token
        self._numbers = count()
        self._blocking: BlockingStream | None = None
        self._socket: websocket.ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        #: Set, and put anew, whenever something has happened.
        self._happened = asyncio.Event()
        #: When the last connection was welcomed.
        self._welcomed_s: float | None = None
        self._failure_told = False

    # -- what a program reads --------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._dialogue.welcomed

    @property
    def pending(self) -> frozenset[str]:
        """Symbols that are watched and have no value yet."""
        return frozenset(self._dialogue.pending)

    @property
    def rejected(self) -> Mapping[str, str]:
        """Symbols and patterns that are not served, or served in part, and the code that says why."""
        return MappingProxyType(self._dialogue.rejected)

    @property
    def feeds(self) -> Mapping[str, Feed]:
        """The feeds behind the server, as of its last heartbeat; none before the first of a connection, or without one."""
        return MappingProxyType(self._dialogue.feeds)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"stream of {self.url}")
        self._task.add_done_callback(lambda _: self._pulse())
        try:
            await self._until(lambda: self._dialogue.settled)
            if self._autoplay:
                await self.play()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = await self._stop()
        if failure is not None and error is None and not self._failure_told:
            raise failure

    def __enter__(self) -> BlockingStream:
        """The same for code that is not async: the stream runs in a thread of its own."""
        self._blocking = BlockingStream(self)
        return self._blocking.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._blocking is not None
        self._blocking.close(kind, error, trace)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        await self._until(lambda: bool(self._owed) or self._dialogue.completed)
        if not self._owed:
            raise StopAsyncIteration
        if len(self._owed) == OWED_MAX:  # there is room again
            self._pulse()
        return self._owed.popitem(last=False)[1]

    async def subscribe(self, symbols: str | Iterable[str]) -> Answer:
        """Watch `symbols`, names or patterns, too. Returns once the server has answered and sent their quotes.

        While there is no connection, that is once there is one again.
        """
        names = _names(symbols)
        await self._ask(self._dialogue.subscribe(names))
        pending, rejected = self._dialogue.pending, self._dialogue.rejected
        return Answer(
            accepted=tuple(name for name in names if name in self._dialogue.wanted),
            pending=tuple(name for name in names if name in pending),
            rejected={name: rejected[name] for name in names if name in rejected},
        )

    async def unsubscribe(self, symbols: str | Iterable[str]) -> None:
        """Watch `symbols`, given as they were subscribed, no more, and forget their quotes and updates."""
        await self._ask(self._dialogue.unsubscribe(_names(symbols)))

    # -- the clock of a replay -----------------------------------------------------------------------------------------

    @property
    def clock(self) -> Clock | None:
        """The clock of a replay as it was last told; None for a live stream."""
        return self._dialogue.clock

    async def play(self) -> Clock:
        """Let the clock run. This and what follows raise RefusedError where the server refuses it."""
        return await self._control("play")

    async def pause(self) -> Clock:
        """Stop the clock."""
        return await self._control("pause")

    async def speed(self, value: float | str) -> Clock:
        """Let the clock run at a multiple of real time, or at "max"."""
        return await self._control("speed", value=value)

    async def seek(self, when: int | str | datetime) -> Clock:
        """Go to a time: microseconds, ISO 8601, or a datetime with a zone. All that is watched comes whole."""
        return await self._control("seek", ts=_time(when))

    async def step(self, rounds: int = 1) -> Clock:
        """Run the next rounds of a paused replay."""
        return await self._control("step", rounds=rounds)

    async def _control(self, op: str, **members: Any) -> Clock:
        tag, commands = self._dialogue.control(op, **members)
        await self._ask(commands)
        answer = self._dialogue.answers.pop(tag)
        if isinstance(answer, Complaint):
            raise RefusedError(str(answer))
        return answer

    # -- parts -----------------------------------------------------------------------------------------------------

    async def _ask(self, commands: list[Message]) -> None:
        self._pulse()  # a replay that waits for the loop is read again, up to the answer
        try:
            await self._send(commands)
        except ConnectionClosed:
            logger.debug("the connection ended first: the next one asks")
        if not await self._until(lambda: self._dialogue.settled):
            raise StreamError("the stream has ended")

    async def _until(self, ready: Callable[[], bool]) -> bool:
        """Wait until `ready`; False where the stream is done and it will not be. Raises what the stream failed with."""
        if self._task is None:
            raise RuntimeError("expected a stream that was entered: async with connect(...) as stream")
        while not ready():
            if self._task.done():
                if not self._task.cancelled():
                    self._failure_told = True
                    self._task.result()
                return False
            await self._happened.wait()
        return True

    def _pulse(self) -> None:
        happened, self._happened = self._happened, asyncio.Event()
        happened.set()

    async def _stop(self) -> BaseException | None:
        """End the task; returns what it had failed with."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        return None if self._task.cancelled() else self._task.exception()

    async def _run(self) -> None:
        """Connect again and again, until an ending is for good."""
        while True:
            self._welcomed_s = None
            ending = await self._connection()
            if ending.advice is Advice.FINISH:
                return
            if ending.advice is Advice.FAIL:
                raise StreamError(ending.reason)
            if self._dialogue.replaying:  # its clock and its state went with the connection
                raise StreamError(f"the replay was lost: {ending.reason}")
            if self._dialogue.caught_up:  # the same log, of which the newest is held already
                self.url = live_url(self.url)
            delay_s = ending.after_s
            if ending.advice is Advice.RECONNECT:
                lived_s = 0.0 if self._welcomed_s is None else self._clock() - self._welcomed_s
                delay_s = self._backoff.delay_s(lived_s, ending.after_s)
            self._on_notice(Lost(ending.reason, delay_s))
            await self._sleep(delay_s)

    async def _connection(self) -> Ending:
        """One connection, from the attempt to its ending."""
        try:
            self._dialogue.token = await self._new_token()
        except Exception as error:  # noqa: BLE001 - whatever the program's own function raises
            return Ending(Advice.RECONNECT, f"no token: {_told(error)}")
        try:
            socket = await websocket.connect(
                self.url,
                compression=None,
                max_size=MESSAGE_BYTES_MAX,
                ping_interval=None,  # heartbeats say more, and say it sooner
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                **self._options,
            )
        except InvalidStatus as answer:
            return refused(answer.response.status_code, answer.response.headers)
        except SSLCertVerificationError as error:
            return Ending(Advice.FAIL, f"no trust: {error}")
        except (OSError, InvalidHandshake) as error:
            return Ending(Advice.RECONNECT, str(error) or type(error).__name__)
        self._socket = socket
        try:
            return await self._converse(socket)
        finally:
            self._socket = None
            self._dialogue.lost()
            self._pulse()
            await socket.close()

    async def _converse(self, socket: websocket.ClientConnection) -> Ending:
        dialogue = self._dialogue
        leaving: asyncio.Task[None] | None = None
        renewing: asyncio.Task[None] | None = None
        leave_at_s = 0.0
        try:
            await self._send(dialogue.opened())
            while True:
                while len(self._owed) >= OWED_MAX and dialogue.replaying and not dialogue.asking:
                    await self._happened.wait()
                message = await self._message(socket)
                if message is None:
                    return Ending(Advice.RECONNECT, f"no message for {HEARTBEATS_MISSED_MAX} heartbeats")
                reaction = dialogue.receive(message)
                if dialogue.welcomed and self._welcomed_s is None:
                    self._welcomed_s = self._clock()
                self._take(reaction)
                await self._send(reaction.replies)
                if reaction.ending is not None:
                    return reaction.ending
                if reaction.renew_s is not None and callable(self._token):
                    renewing = asyncio.create_task(self._renew(reaction.renew_s))
                await asyncio.sleep(0)  # a loop that keeps up is given each round by itself, also of many at once
                if reaction.leave_s is not None and leaving is None:
                    leave_s = self._backoff.spread_s(reaction.leave_s)
                    self._on_notice(ShuttingDown(leave_s))
                    leave_at_s = self._clock() + leave_s
                    leaving = asyncio.create_task(self._leave(socket, leave_s))
        except ConnectionClosed as close:
            if leaving is not None:
                return Ending(Advice.MOVE, "the server is shutting down", max(0.0, leave_at_s - self._clock()))
            ending = closed(*_code(close))
            lapsed = _code(close)[0] == Close.AUTH.code and self._welcomed_s is not None
            if lapsed and callable(self._token):  # the next one may be good again
                return Ending(Advice.RECONNECT, dialogue.last_words or ending.reason)
            return Ending(ending.advice, dialogue.last_words or ending.reason)
        except orjson.JSONDecodeError as error:
            return Ending(Advice.FAIL, f"expected JSON from {self.url}: {error}")
        finally:
            for task in (leaving, renewing):
                if task is not None:
                    task.cancel()

    async def _new_token(self) -> str | None:
        """The token to show now."""
        token = self._token() if callable(self._token) else self._token
        return await token if isawaitable(token) else token

    async def _renew(self, after_s: float) -> None:
        """Show another token in a while. One that cannot be had is told of: the connection lasts as long as the last one."""
        await self._sleep(after_s)
        try:
            token = await self._new_token()
        except Exception as error:  # noqa: BLE001 - whatever the program's own function raises
            self._on_notice(Complaint("token", _told(error)))
            return
        if token is not None:
            with suppress(ConnectionClosed):  # which is told of elsewhere
                await self._send(self._dialogue.renew(token))

    async def _message(self, socket: websocket.ClientConnection) -> Any:
        """The next message, or None where the socket is dead.

        Each missed heartbeat is waited for by itself: a program that was busy for longer than all of them finds the
        messages that came meanwhile at the second try, rather than a socket that it takes for dead.
        """
        for _ in range(HEARTBEATS_MISSED_MAX):
            try:
                async with asyncio.timeout(self._dialogue.heartbeat_s):
                    return orjson.loads(await socket.recv(decode=False))
            except TimeoutError:
                continue
        return None

    async def _leave(self, socket: websocket.ClientConnection, leave_s: float) -> None:
        await self._sleep(leave_s)
        await socket.close()

    async def _send(self, commands: list[Message]) -> None:
        for command in commands:
            if self._socket is not None:
                await self._socket.send(orjson.dumps(command), text=True)

    def _take(self, reaction: Reaction) -> None:
        for update in reaction.updates:
            if self._dialogue.replaying:  # nothing is skipped there, and nothing is conflated here
                self._owed[next(self._numbers)] = update
                continue
            owed = self._owed.get(update.symbol)
            self._owed[update.symbol] = update if owed is None else conflate(owed, update)
        for symbol in reaction.gone:
            self._owed.pop(symbol, None)
        for notice in reaction.notices:
            self._on_notice(notice)
        self._pulse()


def _time(when: int | str | datetime) -> int:
    if isinstance(when, int):
        return when
    moment = datetime.fromisoformat(when) if isinstance(when, str) else when
    if moment.tzinfo is None:
        raise ValueError(f"when: expected a time with a zone, was {when!r}")
    return round(moment.timestamp() * 1e6)


def _names(symbols: str | Iterable[str]) -> list[str]:
    names = [symbols] if isinstance(symbols, str) else list(symbols)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"symbols: expected strings, was {name!r}")
    return names


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _code(close: ConnectionClosed) -> tuple[int | None, str]:
    """The code and reason of the peer's close frame, else those of ours for what it sent, else None for a cut."""
    frame = close.rcvd or close.sent
    return (None, "") if frame is None else (frame.code, frame.reason)
