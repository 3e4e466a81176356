"""All replays of a process, over the sources that the operator has declared."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from feeds.blocks import NEVER
from feeds.clock import Clock
from feeds.decode import any_key
from feeds.feed import Feed, FeedError
from feeds.log import Log
from feeds.replay import find_files, matcher
from feeds.ticks import Symbols
from ticker.access import OPEN, Grant
from ticker.catchup import CatchUp, check_speed
from ticker.checkpoints import Checkpoints
from ticker.counts import Counts
from ticker.errors import Code, RequestError
from ticker.hub import HEARTBEAT_SLOTS
from ticker.index import Index, beside
from ticker.recorded import Recorded
from ticker.replaying import Replay, Request, public
from ticker.settings import Settings

log: Final = logging.getLogger(__name__)

#: Sets of checkpoints that are kept: of the same source, start and symbols.
STORES_MAX: Final = 8

#: Opens a live log from a time on in microseconds, by the symbols to claim from, the feed's name and its clock.
OpenLog = Callable[[int, Symbols, str, Clock], Feed]


class Replays:
    """All replays of a process, over the sources that the operator has declared."""

    def __init__(
        self,
        settings: Settings,
        sources: Mapping[str, str],
        clock: Clock,
        topics: Mapping[str, OpenLog] | None = None,
        counts: Counts | None = None,
    ) -> None:
        """`sources` maps names to files, globs or folders, `topics` names to what opens a live log.

        Raises FeedError where a source is no recording.
        """
        self.settings = settings
        self.clock = clock
        self.replays: dict[str, Replay] = {}
        self._topics = topics or {}
        self._counts = counts
        self._paths = dict(sources)
        self._files = {name: find_files(path) for name, path in sources.items()}
        for files in self._files.values():
            Log(files)
        self._stores: OrderedDict[tuple[str, int, str | None], Checkpoints] = OrderedDict()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._catalogue: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._looking = asyncio.Lock()

    @property
    def full(self) -> bool:
        return len(self.replays) >= self.settings.replay_sessions_max

    async def open(self, request: Request, grant: Grant = OPEN) -> Replay:
        """A new replay. Raises RequestError for a request that cannot be met, FeedError where the source fails."""
        if request.source in self._files:
            replay = await self._recorded(request, grant)
        elif request.source in self._topics:
            replay = self._catch_up(request, grant)
        else:
            names = ", ".join((*self._files, *self._topics))
            raise RequestError(Code.INVALID_REQUEST, f"source: expected one of {names}, was {request.source[:80]!r}")
        self.replays[replay.id] = replay
        task = asyncio.create_task(replay.run(), name=f"replay {replay.id}")
        self._tasks[replay.id] = task
        task.add_done_callback(lambda _: self._over(replay, task))
        return replay

    async def _recorded(self, request: Request, grant: Grant) -> Replay:
        if request.then_live:
            raise RequestError(
                Code.INVALID_REQUEST, f"then: expected a topic to go on with, was {request.source}, files"
            )
        key = any_key if request.symbols is None else matcher(request.symbols)
        source = await asyncio.to_thread(Log, self._files[request.source], key=key)
        if grant.delay_ms:
            request = self._before(request, source, self.clock.now() - grant.delay_ms * 1000)
        index = await asyncio.to_thread(self._index, request.source)
        return Recorded(
            request, source, self.settings, self.clock, lambda start: self._store(request, start), index, self._counts
        )

    def _before(self, request: Request, source: Log, limit: int) -> Request:
        """`request` without what is newer than `limit`: who is served late sees nothing sooner in a replay."""
        end = source.last if request.end is None else request.end
        if end is not None and end < limit:
            return request
        if source.first != NEVER and source.first >= limit:
            raise RequestError(Code.NOT_ENTITLED, "source: expected one that is as old as the grant says")
        return replace(request, end=limit)

    def _catch_up(self, request: Request, grant: Grant) -> Replay:
        if grant.delay_ms:
            raise RequestError(Code.NOT_ENTITLED, "then: expected a grant of real time to go on live with")
        start, now = request.start, self.clock.now()
        if not request.then_live:
            raise RequestError(Code.INVALID_REQUEST, "then: expected live with a topic, which is missing")
        if start is None:
            raise RequestError(
                Code.INVALID_REQUEST, "from: expected a time, or one back such as -10m, which is missing"
            )
        if start > now:
            raise RequestError(Code.INVALID_REQUEST, f"from: expected a time that has passed ({now}), was {start}")
        if request.end is not None or request.symbols is not None:
            name = "symbols" if request.end is None else "to"
            raise RequestError(Code.INVALID_REQUEST, f"{name}: expected none with a topic that goes on live")
        check_speed("speed", request.speed)
        return CatchUp(
            request, start, partial(self._topics[request.source], start), self.settings, self.clock, self._counts
        )

    def _index(self, source: str) -> Index | None:
        path = beside(self._paths[source])
        if path is None or not path.exists():
            return None
        index = Index.open(path, self._files[source], self.settings)
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

    def _over(self, replay: Replay, task: asyncio.Task[None]) -> None:
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

    async def enter(self, session: str | None, request: Callable[[], Request], grant: Grant = OPEN) -> Replay:
        """The replay of a session, or a new one as `request` says. Raises RequestError, and FeedError as `open`."""
        if session is None:
            return await self.open(request(), grant)
        if session not in self.replays:
            raise RequestError(Code.INVALID_REQUEST, f"session: expected one that is open, was {session[:40]!r}")
        replay = self.replays[session]
        if grant.delay_ms and (replay.end is None or replay.end >= self.clock.now() - grant.delay_ms * 1000):
            raise RequestError(Code.NOT_ENTITLED, "session: expected one of data that is as old as the grant says")
        return replay

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

    def dismiss(self) -> None:
        """The server stops: tell every client, and play no more."""
        for replay in self.replays.values():
            replay.dismiss()
        for task in self._tasks.values():
            task.cancel()

    async def stop(self) -> None:
        """End all replays."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def catalogue(self) -> list[dict[str, Any]]:
        """What there is to replay: of each recording its files, rows, time span and symbols; and the topics by name."""
        async with self._looking:
            for name, files in self._files.items():
                mark = tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.exists())
                if name not in self._catalogue or self._catalogue[name][0] != mark:
                    self._catalogue[name] = mark, await asyncio.to_thread(_look, name, files)
        topics = [{"source": name, "then": "live"} for name in self._topics]
        return [found for _, found in self._catalogue.values()] + topics


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
