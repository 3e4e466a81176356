"""A replay: a clock, a table and a hub of its own, and the clients that share them.

A `Replay` is one task that runs what its playback says happens next when its clock says that it is due. What its clients
say is carried out under the same lock, at the position that the clock has reached by then. Where one client alone
watches, its reading paces the clock: nothing is skipped, and nothing piles up. Where the ticks come from is its
subclass's: `Recorded` files, or a live log that it catches up with (`CatchUp`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from feeds.clock import Clock
from feeds.feed import FeedError
from feeds.ticks import Symbols
from ticker.access import OPEN, Grant
from ticker.clients import Client
from ticker.counts import Counts
from ticker.errors import Close, Code, RequestError
from ticker.hub import Hub
from ticker.patient import PatientOutlet, Writable
from ticker.playback import Playback
from ticker.protocol import Clocking, Id, Pause, Play, Speed, encode, error
from ticker.quotes import QuoteTable
from ticker.session import Check
from ticker.settings import Settings, session_start_us

log: Final = logging.getLogger(__name__)

#: The name of a replay's one feed.
FEED: Final = "replay"
#: A turn of the loop is this long at most before others have theirs.
TURN_S: Final = 0.002
US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be played, and how: times in microseconds, None where the source's own; `speed` None for unpaced."""

    source: str
    start: int | None = None
    end: int | None = None
    speed: float | None = 1.0
    playing: bool = False
    symbols: str | None = None
    skip_gap_us: int | None = None
    #: Whether it goes over to live once it has caught up.
    then_live: bool = False


class Replay(ABC):
    """One clock over one source, and the clients that share it."""

    playback: Playback
    #: States in which its clock goes.
    MOVING: ClassVar = frozenset(("playing",))

    def __init__(
        self,
        request: Request,
        settings: Settings,
        clock: Clock,
        symbols: Symbols,
        start: int,
        counts: Counts | None = None,
    ) -> None:
        """`start` is the time at which it begins; its ticks are of rows in `symbols`."""
        self.id = secrets.token_hex(6)
        self.request = request
        self.settings = settings
        self.table = QuoteTable(symbols, session_start_us=session_start_us(settings.session_start))
        self._epochs = {FEED: f"{self.id}-0"}
        self.hub = Hub(self.table, settings, self._epochs, counts=counts)
        self.state = "playing" if request.playing else "paused"
        self.speed = request.speed
        #: The client that may control the clock: the first, and when it leaves the one that came next.
        self.owner: Client | None = None
        #: Whether several clients have shared the clock.
        self.shared = False
        self._clock = clock
        self._outlets: dict[Client, PatientOutlet] = {}
        #: Whether clients may hold the clock up.
        self._patient = True
        self._sent = False
        self._asked: Clocking | None = None
        #: Replay time and wall time that belong together while the clock is paced.
        self._anchor = start, clock.now()
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._ended = False

    # -- what a source is asked ----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def end(self) -> int | None:
        """The time at which it ends; None where that is not known, or never."""

    @abstractmethod
    async def _feed(self) -> bool:
        """Offer what comes next to the playback; False where there is nothing now, or no more. Raises FeedError."""

    @abstractmethod
    def _ran_out(self) -> float | None:
        """All has been played that was there: for how many seconds there is nothing to do, None for no end."""

    @abstractmethod
    async def _reach(self, ts: int) -> None:
        """Bring the playback to the position `ts`, or as far as there is something to play. Raises FeedError."""

    @abstractmethod
    def _check(self, command: Clocking) -> None:
        """Raises RequestError for a command that cannot be carried out."""

    @abstractmethod
    async def _close(self) -> None:
        """Read no more."""

    @abstractmethod
    def _health(self) -> Mapping[str, Any]:
        """State, age and lag of what is read."""

    # -- the clock -----------------------------------------------------------------------------------------------------

    def ts(self) -> int:
        """Replay time: where the clock is."""
        if self.state not in self.MOVING or self.speed is None:
            return self.playback.position
        replay, wall = self._anchor
        return max(self.playback.position, replay + int((self._clock.now() - wall) * self.speed))

    def _set_anchor(self, ts: int) -> None:
        self._anchor = ts, self._clock.now()

    def _clock_message(self, id: Id = None, **more: Any) -> dict[str, Any]:
        tag = {} if id is None else {"id": id}
        speed = "max" if self.speed is None else self.speed
        return {"type": "clock", **tag, "ts": self.ts(), "speed": speed, "state": self.state, **more}

    def _tell(self, message: Mapping[str, Any]) -> None:
        self._sent = True
        self.hub.announce(message, self._clock.now())

    # -- clients -------------------------------------------------------------------------------------------------------

    async def join(self, outlet: Writable, grant: Grant = OPEN, check: Check | None = None) -> Client:
        """Take in a client, as `Hub.join` does. Raises RequestError where the replay has just ended, FeedError where the source fails."""
        async with self._lock:
            if self._ended:  # while the client waited for its turn
                raise RequestError(Code.INVALID_REQUEST, f"session: expected one that is open, was {self.id!r}")
            await self._reach(self.ts())
            patient = PatientOutlet(outlet)
            self.shared = self.shared or bool(self._outlets)
            about = {
                "source": self.request.source,
                "session": self.id,
                "from": self.playback.start,
                "to": self.end,
                "speed": "max" if self.speed is None else self.speed,
                "state": self.state,
                "control": self.owner is None,
            }
            client = self.hub.join(
                patient,
                self._clock.now(),
                self.ts(),
                replay=about,
                control=lambda command: self._take(client, command),
                grant=grant,
                check=check,
            )
            if self.owner is None:
                self.owner = client
            self._outlets[client] = patient
            self._set_patience()
            return client

    def _set_patience(self) -> None:
        for outlet in self._outlets.values():
            outlet.patient = self._patient and not self.shared
            outlet.behind = outlet.behind and outlet.patient

    def leave(self, client: Client) -> None:
        """Forget a client."""
        self.hub.leave(client)
        self._outlets.pop(client, None)
        if client is self.owner:
            self.owner = next(iter(self._outlets), None)

    async def receive(self, client: Client, message: str | bytes) -> Close | None:
        """Carry out and answer a client's message; returns how to end the connection, if that is due.

        Raises FeedError where the source fails.
        """
        async with self._lock:
            if self._ended:  # its clients have been told, and are about to be closed
                return None
            await self._reach(self.ts())
            close = self.hub.receive(client, message, self._clock.now(), self.playback.position)
            command, self._asked = self._asked, None
            if command is not None:
                self._set_anchor(await self._control(command))
                self._answer(client, command.id)
            self._wake.set()
            return close

    def drained(self, client: Client) -> None:
        """The outlet of `client` takes messages again."""
        self.hub.drained(client, self._clock.now(), self.ts())

    def _take(self, client: Client, command: Clocking) -> None:
        """Check a command to the clock, which is carried out once the hub is through. Raises RequestError."""
        if client is not self.owner:
            raise RequestError(Code.NOT_ENTITLED, "op: expected the client that controls this replay's clock")
        self._check(command)
        self._asked = command

    async def _control(self, command: Clocking) -> int:
        """Carry out a command to the clock; returns the time from which it goes on."""
        position = self.playback.position
        match command:
            case Play() if self.state == "paused":
                self.state = "playing"
            case Pause() if self.state == "playing":
                self.state = "paused"
            case Speed():
                self.speed = command.value
        return position

    def _answer(self, client: Client, id: Id) -> None:
        """Tell who moved the clock where it is now, and all others as well."""
        encoding = client.outlet.encoding
        client.outlet.send(encoding.whole(encode(self._clock_message(id))))
        told = self._clock_message()
        for other in self._outlets:
            if other is not client:
                other.outlet.offer(other.outlet.encoding.whole(encode(told)))

    # -- playing -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Play until cancelled. Raises FeedError where the source fails."""
        try:
            while True:
                self._wake.clear()
                async with self._lock:
                    wait_s = await self._turn()
                await self._wait_for_readers()
                if wait_s is None or wait_s > 0:
                    try:
                        async with asyncio.timeout(wait_s):
                            await self._wake.wait()
                    except TimeoutError:
                        pass
                else:
                    await asyncio.sleep(0)
        finally:
            self._ended = True
            await self._close()

    async def _turn(self) -> float | None:
        """Play what is due, for one turn of the loop; returns for how long there is nothing to do, None for no end."""
        if self.state not in self.MOVING:
            return None
        loop = asyncio.get_running_loop()
        until = loop.time() + TURN_S
        while loop.time() < until:
            due = self.playback.next()
            if due is None:
                if not await self._feed():
                    return self._ran_out()
                continue
            if self.speed is not None:
                due = self._skipped_to(due)
                wait_s = (due - self.ts()) / US / self.speed
                if wait_s > 0:
                    if self.playback.hungry and await self._feed():
                        continue
                    return wait_s
            self.playback.run()
            if any(outlet.behind for outlet in self._outlets.values()):
                break
        return 0

    def _skipped_to(self, due: int) -> int:
        """Let the clock jump over a gap in which nothing happens, where that was asked for; returns when `due` falls."""
        gap, now = self.request.skip_gap_us, self.ts()
        if gap is not None and due - now > gap and self.state == "playing":
            self._set_anchor(due)
            self.playback.settle(due - 1)
            self._tell(self._clock_message(skipped_us=due - now))
        return due

    async def _wait_for_readers(self) -> None:
        """Where one client alone watches and does not keep up, wait for it, and let the clock wait with it."""
        for client, outlet in list(self._outlets.items()):
            if outlet.behind and outlet.patient:
                ts = self.ts()
                try:
                    async with asyncio.timeout(self.settings.replay_stall_s_max):
                        await outlet.writable()
                except TimeoutError:
                    client.outlet.close(Close.TOO_SLOW)
                self._set_anchor(ts)

    # -- telling -------------------------------------------------------------------------------------------------------

    def heartbeat(self, slot: int) -> None:
        """Tell a share of the clients that the replay lives, and what time it is there."""
        now = self._clock.now()
        feeds = {FEED: self._health()}
        self.hub.announce({"type": "heartbeat", "ts": self.ts(), "feeds": feeds}, now, slot)
        if not slot:
            if self.state == "playing" and not self._sent:
                self._tell(self._clock_message())
            self._sent = False

    def dismiss(self) -> None:
        """The server stops: tell every client. It is the last that it is told."""
        self._ended = True
        self.hub.dismiss(self._clock.now())

    def fail(self, failure: FeedError) -> None:
        """The source cannot be read on: tell every client, and end."""
        self._ended = True
        log.error("replay of %s: %s", self.request.source, failure)
        message = encode(error(RequestError(Code.SOURCE_FAILED, f"source: {public(failure)}"), fatal=True))
        for client in list(self._outlets):
            client.outlet.send(client.outlet.encoding.whole(message))
            client.outlet.close(Close.TRY_LATER)


def public(failure: FeedError) -> str:
    """What a client is told of a failed source: not where it lies."""
    place, _, cause = str(failure).partition(": ")
    return f"{place.rpartition('/')[2]}: {cause}" if cause else place
