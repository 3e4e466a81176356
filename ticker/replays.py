"""Replays: recordings played to clients, each replay with a clock, a table and a hub of its own.

A `Replay` is one task that runs what `Playback` says happens next when its clock says that it is due, and reads on in a
thread. What its clients say is carried out under the same lock, at the position that the clock has reached by then.
Where one client alone watches, its reading paces the clock: nothing is skipped, and nothing piles up.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from feeds.blocks import NEVER, Block
from feeds.clock import Clock
from feeds.decode import any_key
from feeds.feed import FeedError
from feeds.log import Log, Tally
from feeds.pacing import ahead
from feeds.replay import find_files, matcher
from feeds.ticks import Symbols
from ticker.checkpoints import Checkpoints
from ticker.errors import Close, Code, RequestError
from ticker.hub import HEARTBEAT_SLOTS, Hub
from ticker.index import Index, beside
from ticker.lanes import Client, Message, Outlet
from ticker.playback import BLOCKS_AHEAD, Playback
from ticker.protocol import Clocking, Encoding, Id, Pause, Play, Seek, Speed, Step, encode, error
from ticker.quotes import QuoteTable
from ticker.settings import Settings, session_start_us

log: Final = logging.getLogger(__name__)

#: The name of a replay's one feed.
FEED: Final = "replay"
#: A turn of the loop is this long at most before others have theirs.
TURN_S: Final = 0.002
#: Time between two messages of progress of one seek.
PROGRESS_S: Final = 0.25
#: Sets of checkpoints that are kept: of the same source, start and symbols.
STORES_MAX: Final = 8
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


class Writable(Outlet, Protocol):
    """An outlet that tells when its peer keeps up."""

    async def writable(self) -> None: ...


class PatientOutlet:
    """Takes every message, so that its client is never skipped: whoever plays waits until it is writable again."""

    __slots__ = ("_inner", "behind", "encoding", "patient")

    def __init__(self, inner: Writable) -> None:
        self._inner = inner
        self.encoding: Encoding = inner.encoding
        #: Whether a round may wait for this client, and whether it is to.
        self.patient = True
        self.behind = False

    def offer(self, message: Message, *more: Message) -> bool:
        """Take all messages; where other clients share the clock, none if the peer is not keeping up."""
        if self._inner.offer(message, *more):
            return True
        if self.patient:
            self.behind = True
            self._inner.send(message, *more)
        return self.patient

    def send(self, *messages: Message) -> None:
        """Take messages that answer the client."""
        self._inner.send(*messages)

    def unsent(self) -> int:
        """Bytes taken that have not left the process."""
        return self._inner.unsent()

    def close(self, close: Close) -> None:
        """End the connection."""
        self._inner.close(close)

    async def writable(self) -> None:
        """Return once all that was taken has left."""
        await self._inner.writable()
        self.behind = False


class Replay:
    """One clock over one source, and the clients that share it."""

    def __init__(
        self,
        request: Request,
        source: Log,
        settings: Settings,
        clock: Clock,
        store: Callable[[int], Checkpoints],
        index: Index | None = None,
    ) -> None:
        """`store` gives the checkpoints of replays that begin at the same time; `index` is that of the whole source.

        Raises RequestError where the times that were asked for do not lie in the source.
        """
        self.id = secrets.token_hex(6)
        self.request = request
        self.settings = settings
        self._log = source
        self._clock = clock
        self._end_known = source.last
        start = source.first if request.start is None else request.start
        self._check_range(start, request.end)
        symbols = Symbols()
        self.table = QuoteTable(symbols, session_start_us=session_start_us(settings.session_start))
        self._epochs = {FEED: f"{self.id}-0"}
        self.hub = Hub(self.table, settings, self._epochs)
        self._checkpoints = store(start)
        whole = start == source.first and request.symbols is None
        self._index = index if whole else None
        self.playback = Playback(
            self.table,
            self.hub,
            part=symbols.part(FEED),
            start=start,
            end=NEVER if request.end is None else request.end,
            since=max(start, source.since),
            keep=self._checkpoints.add,
        )
        self.state = "playing" if request.playing else "paused"
        self.speed = request.speed
        #: The client that may control the clock: the first, and when it leaves the one that came next.
        self.owner: Client | None = None
        self.tally = Tally()
        self._outlets: dict[Client, PatientOutlet] = {}
        #: Whether several clients have shared the clock.
        self.shared = False
        self._seeks = 0
        self._sent = False
        self._asked: Clocking | None = None
        #: Replay time and wall time that belong together while the clock is paced.
        self._anchor = start, clock.now()
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._blocks: AsyncGenerator[Block] | None = None

    def _check_range(self, start: int, end: int | None) -> None:
        first, last = self._log.first, self._end_known
        span = f"{first} to {'its end' if last is None else last}"
        if first == NEVER:
            raise RequestError(Code.INVALID_REQUEST, "source: expected ticks, found none that can be read")
        if last is not None and start > last:
            raise RequestError(Code.INVALID_REQUEST, f"from: expected a time in {span}, was {start}")
        if end is not None and end <= start:
            raise RequestError(Code.INVALID_REQUEST, f"to: expected a time later than from ({start}), was {end}")

    # -- the clock -----------------------------------------------------------------------------------------------------

    def ts(self) -> int:
        """Replay time: where the clock is."""
        if self.state != "playing" or self.speed is None:
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

    async def join(self, outlet: Writable) -> Client:
        """Take in a client. Raises FeedError where the source fails."""
        async with self._lock:
            await self._reach(self.ts())
            patient = PatientOutlet(outlet)
            self.shared = self.shared or bool(self._outlets)
            for each in (*self._outlets.values(), patient):
                each.patient = not self.shared
            playback = self.playback
            about = {
                "source": self.request.source,
                "session": self.id,
                "from": playback.start,
                "to": playback.end if playback.end != NEVER else self._end_known,
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
            )
            if self.owner is None:
                self.owner = client
            self._outlets[client] = patient
            return client

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
            await self._reach(self.ts())
            close = self.hub.receive(client, message, self._clock.now(), self.playback.position)
            command, self._asked = self._asked, None
            if command is not None:
                await self._control(client, command)
            self._wake.set()
            return close

    def drained(self, client: Client) -> None:
        """The outlet of `client` takes messages again."""
        self.hub.drained(client, self._clock.now(), self.ts())

    def _take(self, client: Client, command: Clocking) -> None:
        """Check a command to the clock, which is carried out once the hub is through. Raises RequestError."""
        if client is not self.owner:
            raise RequestError(Code.NOT_ENTITLED, "op: expected the client that controls this replay's clock")
        if isinstance(command, Seek):
            end = self.playback.end if self.playback.end != NEVER else self._end_known
            if command.ts < self.playback.start or (end is not None and command.ts > end):
                until = "the end" if end is None else end
                span = f"{self.playback.start} to {until}"
                raise RequestError(Code.INVALID_REQUEST, f"ts: expected a time from {span}, was {command.ts}")
        if isinstance(command, Step) and self.state == "playing":
            raise RequestError(Code.INVALID_REQUEST, "op: expected a paused replay to step, it is playing")
        self._asked = command

    async def _control(self, client: Client, command: Clocking) -> None:
        position = self.playback.position
        match command:
            case Play():
                if self.state == "paused":
                    self.state = "playing"
            case Pause():
                if self.state == "playing":
                    self.state = "paused"
            case Speed():
                self.speed = command.value
            case Seek():
                await self._seek(command.ts)
                position = command.ts
            case Step():
                await self._step(command.rounds)
                position = self.playback.position
        self._set_anchor(position)
        encoding = client.outlet.encoding
        client.outlet.send(encoding.whole(encode(self._clock_message(command.id))))
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
            await self._close()

    async def _turn(self) -> float | None:
        """Play what is due, for one turn of the loop; returns for how long there is nothing to do, None for no end."""
        if self.state != "playing":
            return None
        loop = asyncio.get_running_loop()
        until = loop.time() + TURN_S
        while loop.time() < until:
            due = self.playback.next()
            if due is None:
                if self.playback.completed:
                    self._complete()
                    return None
                await self._feed()
                continue
            if self.speed is not None:
                due = self._skipped_to(due)
                wait_s = (due - self.ts()) / US / self.speed
                if wait_s > 0:
                    if self.playback.hungry:
                        await self._feed()
                        continue
                    return wait_s
            self.playback.run()
            if any(outlet.behind for outlet in self._outlets.values()):
                break
        return 0

    def _skipped_to(self, due: int) -> int:
        """Let the clock jump over a gap in which nothing happens, where that was asked for; returns when `due` falls."""
        gap, now = self.request.skip_gap_us, self.ts()
        if gap is not None and due - now > gap:
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

    def _complete(self) -> None:
        self.state = "completed"
        more = {"displaced": self.tally.displaced} if self.tally.displaced else {}
        self._tell({"type": "replay_completed", "ts": self.playback.position, "ticks": self.playback.ticks, **more})

    async def _reach(self, ts: int) -> None:
        """Bring the playback to the position that the clock has reached."""
        if self._blocks is None:
            self._read(None)
        while not self.playback.settle(ts):
            await self._feed()

    async def _step(self, rounds: int) -> None:
        target = self.playback.grid(rounds, self.settings.interval_ms * 1000)
        if target is not None:
            await self._reach(target)
            return
        for _ in range(rounds):
            while (due := self.playback.next()) is None and not self.playback.completed:
                await self._feed()
            if due is None:
                return
            self.playback.run()

    async def _seek(self, ts: int) -> None:
        """Go to a time: from the newest checkpoint before it, else from the start. Tells how far it is."""
        was, self.state = self.state, "seeking"
        checkpoint = self._checkpoints.latest(ts)
        indexed = self._index.latest(ts) if self._index else None
        if indexed is not None and (checkpoint is None or indexed.time > checkpoint.time):
            checkpoint = indexed
        await self._close()
        self.playback.rewind(checkpoint)
        self._read(checkpoint.cursor if checkpoint else None)
        loop = asyncio.get_running_loop()
        begun, tell = self.playback.position, loop.time() + PROGRESS_S
        while not self.playback.absorb(ts):
            if loop.time() >= tell:
                tell = loop.time() + PROGRESS_S
                done = (self.playback.position - begun) / max(1, ts - begun)
                self._tell(self._clock_message(progress=round(done, 3)))
            await self._feed()
        self._seeks += 1
        self._epochs[FEED] = f"{self.id}-{self._seeks}"
        self.state = "paused" if was == "completed" else was
        self.hub.restart(ts)

    def _read(self, cursor: Any) -> None:
        if cursor is None:
            cursor = self._log.start(self.playback.start)
        self.playback.open(self._log.symbols.names)
        end = self.playback.end
        self._blocks = ahead(self._log.blocks(cursor, self.tally, end=end), BLOCKS_AHEAD)

    async def _feed(self) -> None:
        assert self._blocks is not None
        block = await anext(self._blocks, None)
        if block is None:
            self.playback.finish()
        else:
            self.playback.offer(block)

    async def _close(self) -> None:
        blocks, self._blocks = self._blocks, None
        if blocks is not None:
            await blocks.aclose()

    # -- ending --------------------------------------------------------------------------------------------------------

    def heartbeat(self, slot: int) -> None:
        """Tell a share of the clients that the replay lives, and what time it is there."""
        state = "ended" if self.state == "completed" else "live"
        feeds = {FEED: {"state": state, "age_ms": 0, "lag": None}}
        now = self._clock.now()
        self.hub.announce({"type": "heartbeat", "ts": self.ts(), "feeds": feeds}, now, slot)
        if not slot:
            if self.state == "playing" and not self._sent:
                self._tell(self._clock_message())
            self._sent = False

    def fail(self, failure: FeedError) -> None:
        """The source cannot be read on: tell every client, and end."""
        log.error("replay of %s: %s", self.request.source, failure)
        message = encode(error(RequestError(Code.SOURCE_FAILED, f"source: {public(failure)}"), fatal=True))
        for client in list(self._outlets):
            client.outlet.send(client.outlet.encoding.whole(message))
            client.outlet.close(Close.TRY_LATER)


def public(failure: FeedError) -> str:
    """What a client is told of a failed file: not where the file lies."""
    path, _, cause = str(failure).partition(": ")
    return f"{Path(path).name}: {cause}" if cause else path


class Replays:
    """All replays of a process, over the sources that the operator has declared."""

    def __init__(self, settings: Settings, sources: Mapping[str, str], clock: Clock) -> None:
        """`sources` maps names to files, globs or folders. Raises FeedError where one is no recording."""
        self.settings = settings
        self.clock = clock
        self.replays: dict[str, Replay] = {}
        self._paths = dict(sources)
        self._files = {name: find_files(path) for name, path in sources.items()}
        for files in self._files.values():
            Log(files)
        self._stores: OrderedDict[tuple[str, int, str | None], Checkpoints] = OrderedDict()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._catalogue: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._looking = asyncio.Lock()

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(self._files)

    @property
    def full(self) -> bool:
        return len(self.replays) >= self.settings.replay_sessions_max

    async def open(self, request: Request) -> Replay:
        """A new replay. Raises RequestError for a request that cannot be met, FeedError where the source fails."""
        files = self._files.get(request.source)
        if files is None:
            names = ", ".join(self._files)
            raise RequestError(Code.INVALID_REQUEST, f"source: expected one of {names}, was {request.source!r}")
        key = any_key if request.symbols is None else matcher(request.symbols)
        source = await asyncio.to_thread(Log, files, key=key)
        index = await asyncio.to_thread(self._index, request.source)
        replay = Replay(request, source, self.settings, self.clock, lambda start: self._store(request, start), index)
        self.replays[replay.id] = replay
        task = asyncio.create_task(replay.run(), name=f"replay {replay.id}")
        self._tasks[replay.id] = task
        task.add_done_callback(lambda _: self._ended(replay, task))
        return replay

    def _index(self, source: str) -> Index | None:
        path = beside(self._paths[source])
        if path is None or not path.exists():
            return None
        index = Index.open(path, self._files[source], self.settings.session_start)
        if index is None:
            log.warning("%s: not of this recording as it is now: make it anew with ticker index", path)
        return index

    def _store(self, request: Request, start: int) -> Checkpoints:
        key = request.source, start, request.symbols
        store = self._stores.pop(key, None) or Checkpoints(self.settings.replay_checkpoint_bytes_max // STORES_MAX)
        self._stores[key] = store
        while len(self._stores) > STORES_MAX:
            self._stores.popitem(last=False)
        return store

    def _ended(self, replay: Replay, task: asyncio.Task[None]) -> None:
        self.replays.pop(replay.id, None)
        self._tasks.pop(replay.id, None)
        if task.cancelled():
            return
        failure = task.exception()
        if isinstance(failure, FeedError):
            replay.fail(failure)
        elif failure is not None:
            log.critical("replay of %s failed", replay.request.source, exc_info=failure)
            replay.fail(FeedError("failed"))

    async def enter(self, session: str | None, request: Callable[[], Request]) -> Replay:
        """The replay of a session, or a new one as `request` says. Raises RequestError, and FeedError as `open`."""
        if session is None:
            return await self.open(request())
        if session not in self.replays:
            raise RequestError(Code.INVALID_REQUEST, f"session: expected one that is open, was {session[:40]!r}")
        return self.replays[session]

    def left(self, replay: Replay) -> None:
        """A client has left `replay`: without clients it ends, a shared one after a while."""
        if not replay.hub.clients:
            wait_s = self.settings.replay_linger_s_max if replay.shared else 0
            asyncio.get_running_loop().call_later(wait_s, self._end, replay)

    def _end(self, replay: Replay) -> None:
        task = self._tasks.get(replay.id)
        if task is not None and not replay.hub.clients:
            task.cancel()

    async def run(self) -> None:
        """Send heartbeats, until cancelled."""
        wait_s = self.settings.heartbeat_ms / 1000 / HEARTBEAT_SLOTS
        slot = 0
        while True:
            await asyncio.sleep(wait_s)
            slot = (slot + 1) % HEARTBEAT_SLOTS
            for replay in list(self.replays.values()):
                replay.heartbeat(slot)

    async def stop(self) -> None:
        """End all replays."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def catalogue(self) -> list[dict[str, Any]]:
        """What there is to replay: of each source its files, rows, time span and symbols."""
        async with self._looking:
            for name, files in self._files.items():
                mark = tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.exists())
                if name not in self._catalogue or self._catalogue[name][0] != mark:
                    self._catalogue[name] = mark, await asyncio.to_thread(_look, name, files)
        return [found for _, found in self._catalogue.values()]


def _look(name: str, files: list[Path]) -> dict[str, Any]:
    """Read a source through, to know what it holds."""
    about: dict[str, Any] = {"source": name, "files": len(files)}
    try:
        source = Log(files)
        rows, last = 0, None
        for block in source.blocks():
            rows, last = block.rows, block.last
    except FeedError as failure:
        return {**about, "error": public(failure)}
    known = last is not None and source.first != NEVER
    return {
        **about,
        "from": source.first if known else None,
        "to": last if known else None,
        "rows": rows,
        "symbols": sorted(source.symbols.names),
    }
