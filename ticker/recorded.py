"""Recorded files replayed: read ahead in a thread, from any time in them, with checkpoints to seek from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

from feeds.blocks import NEVER, Block, Cursor
from feeds.clock import Clock
from feeds.log import Log, Tally
from feeds.pacing import ahead
from feeds.ticks import Symbols
from ticker.checkpoints import Checkpoints
from ticker.counts import Counts
from ticker.errors import Code, RequestError
from ticker.index import Index
from ticker.playback import BLOCKS_AHEAD, Playback
from ticker.protocol import Clocking, Seek, Step
from ticker.replaying import FEED, Replay, Request
from ticker.settings import Settings

#: Time between two messages of progress of one seek.
PROGRESS_S: Final = 0.25


class Recorded(Replay):
    """A replay of recorded files."""

    def __init__(
        self,
        request: Request,
        source: Log,
        settings: Settings,
        clock: Clock,
        store: Callable[[int], Checkpoints],
        index: Index | None = None,
        counts: Counts | None = None,
    ) -> None:
        """`store` gives the checkpoints of replays that begin at the same time; `index` is that of the whole source.

        Raises RequestError where the times that were asked for do not lie in the source.
        """
        start = source.first if request.start is None else request.start
        _check_range(source, start, request.end)
        symbols = Symbols()
        super().__init__(request, settings, clock, symbols, start, counts)
        self._log = source
        self._checkpoints = store(start)
        self._index = index if start == source.first and request.symbols is None else None
        self._seeks = 0
        self._tally = Tally()
        self._blocks: AsyncGenerator[Block] | None = None
        self.playback = Playback(
            self.table,
            self.hub,
            part=symbols.part(FEED),
            start=start,
            end=NEVER if request.end is None else request.end,
            since=max(start, source.since),
            keep=self._checkpoints.add,
        )

    @property
    def end(self) -> int | None:
        return self.playback.end if self.playback.end != NEVER else self._log.last

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read(self, cursor: Cursor | None) -> None:
        if cursor is None:
            cursor = self._log.start(self.playback.start)
        self.playback.open(self._log.symbols.names)
        self._blocks = ahead(self._log.blocks(cursor, self._tally, end=self.playback.end), BLOCKS_AHEAD)

    async def _feed(self) -> bool:
        if self.playback.finished:
            return False
        assert self._blocks is not None
        block = await anext(self._blocks, None)
        if block is None:
            self.playback.finish()
        else:
            self.playback.offer(block)
        return True

    async def _close(self) -> None:
        blocks, self._blocks = self._blocks, None
        if blocks is not None:
            await blocks.aclose()

    def _ran_out(self) -> None:
        self.state = "completed"
        more = {"displaced": self._tally.displaced} if self._tally.displaced else {}
        self._tell({"type": "replay_completed", "ts": self.playback.position, "ticks": self.playback.ticks, **more})

    def _health(self) -> Mapping[str, Any]:
        return {"state": "ended" if self.state == "completed" else "live", "age_ms": 0, "lag": None}

    # -- the clock -----------------------------------------------------------------------------------------------------

    async def _reach(self, ts: int) -> None:
        if self._blocks is None:
            self._read(None)
        while not self.playback.settle(ts):
            await self._feed()

    def _check(self, command: Clocking) -> None:
        if isinstance(command, Seek):
            start, end = self.playback.start, self.end
            if command.ts < start or (end is not None and command.ts > end):
                span = f"{start} to {'the end' if end is None else end}"
                raise RequestError(Code.INVALID_REQUEST, f"ts: expected a time from {span}, was {command.ts}")
        if isinstance(command, Step) and self.state == "playing":
            raise RequestError(Code.INVALID_REQUEST, "op: expected a paused replay to step, it is playing")

    async def _control(self, command: Clocking) -> int:
        match command:
            case Seek():
                await self._seek(command.ts)
                return command.ts
            case Step():
                await self._step(command.rounds)
                return self.playback.position
        return await super()._control(command)

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


def _check_range(source: Log, start: int, end: int | None) -> None:
    first, last = source.first, source.last
    span = f"{first} to {'its end' if last is None else last}"
    if first == NEVER:
        raise RequestError(Code.INVALID_REQUEST, "source: expected ticks, found none that can be read")
    if last is not None and start > last:
        raise RequestError(Code.INVALID_REQUEST, f"from: expected a time in {span}, was {start}")
    if end is not None and end <= start:
        raise RequestError(Code.INVALID_REQUEST, f"to: expected a time later than from ({start}), was {end}")
