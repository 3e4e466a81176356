"""A stream for code that is not async, a notebook say: it runs on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import TimeoutError as NotYet
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class BlockingStream:
    """What `ticker.connect` gives under ``with``: the members of `ticker.client.Stream`, none of which is awaited.

    `quotes` is current at any time. Notices are told in the stream's own thread. Errors of the stream are raised where it is
    used.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stream", daemon=True)

    def open(self) -> Self:
        """Connect. Leaves no thread behind where that fails."""
        self._thread.start()
        try:
            self._run(self._stream.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def close(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Disconnect, and end the thread."""
        try:
            self._run(self._stream.__aexit__(kind, error, trace))
        finally:
            self._end()

    def __iter__(self) -> Iterator[Any]:
        """The updates, until the server is done, or a replay has come to its end."""
        while True:
            try:
                update = self.next()
            except StopAsyncIteration:
                return
            yield update

    def next(self, timeout_s: float | None = None) -> Any:
        """The next update. Raises TimeoutError where none comes in time, StopAsyncIteration where none will."""
        return self._run(self._stream.__anext__(), timeout_s)

    def __getattr__(self, name: str) -> Any:
        """A member of the stream; what is to be awaited there blocks here."""
        member = getattr(self._stream, name)
        if not asyncio.iscoroutinefunction(member):
            return member
        call: Callable[..., Coroutine[Any, Any, Any]] = member
        return lambda *args, **named: self._run(call(*args, **named))

    def _run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout_s)
        except NotYet:
            future.cancel()
            raise
        except KeyboardInterrupt:
            future.cancel()
            raise

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
