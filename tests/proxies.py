"""A TCP proxy for tests of faults: between a client and a server, and obedient: it cuts, stalls, half-closes and heals."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Self

#: Below the ports that systems give to outgoing connections: there a client that keeps trying a closed port may be given
#: that very port, and talk to itself.
PORTS = range(10_000, 32_000)
#: Those that were given away already, perhaps to a server that is still to listen there.
GIVEN: set[int] = set()
READ_BYTES_MAX = 1 << 16
REPLY_S_MAX = 10.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, to be used again and again by one server."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            if port not in GIVEN:
                probe.bind(("127.0.0.1", port))
                GIVEN.add(port)
                return port
    raise AssertionError("none of 100 ports is free")


class Proxy:
    """Passes bytes between `port` and `upstream_port` of 127.0.0.1, in a thread of its own, until told otherwise.

    A server that tells its clients where to connect next, as a Kafka broker does, has to name `port`.
    """

    def __init__(self, upstream_port: int, port: int | None = None) -> None:
        self.upstream_port = upstream_port
        self.port = free_port() if port is None else port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._listener: socket.socket | None = None
        #: What serves each connection, and the client's end of it.
        self._serving: dict[asyncio.Task[None], socket.socket] = {}
        self._flowing = asyncio.Event()
        self.heal()

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._serving)

    def cut(self) -> None:
        """Close every connection and refuse new ones, until healed."""
        self._do(self._cut())

    def stall(self) -> None:
        """Keep connections open, accept new ones, and pass nothing on, as where a cable is pulled, until healed."""
        self._do(self._stall())

    def half_close(self) -> None:
        """End the stream to each client and drop what else comes for it; what clients send is still passed on."""
        self._do(self._half_close())

    def heal(self) -> None:
        """Accept connections and pass on all that comes and all that was held; what was closed stays closed."""
        self._do(self._heal())

    def close(self) -> None:
        """Cut for good."""
        if not self._loop.is_closed():
            self.cut()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(REPLY_S_MAX)
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _do(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(REPLY_S_MAX)

    async def _cut(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        while self._serving:
            for task in self._serving:
                task.cancel()
            await asyncio.wait(self._serving)

    async def _stall(self) -> None:
        self._flowing.clear()

    async def _half_close(self) -> None:
        for client in self._serving.values():
            _end(client)

    async def _heal(self) -> None:
        self._flowing.set()
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # gone before it was accepted
            client, _ = listener.accept()
            client.setblocking(False)
            task = self._loop.create_task(self._serve(client))
            self._serving[task] = client
            task.add_done_callback(lambda ended: self._serving.pop(ended).close())

    async def _serve(self, client: socket.socket) -> None:
        with socket.socket() as upstream:
            upstream.setblocking(False)
            try:
                await self._loop.sock_connect(upstream, ("127.0.0.1", self.upstream_port))
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(client, upstream))
                    pumps.create_task(self._pump(upstream, client))
            except* OSError:
                pass  # one end is gone, and the other goes with it

    async def _pump(self, source: socket.socket, target: socket.socket) -> None:
        """Pass on what comes from `source`, and its end."""
        while data := await self._loop.sock_recv(source, READ_BYTES_MAX):
            await self._flowing.wait()
            with contextlib.suppress(BrokenPipeError):  # its stream was ended by half_close
                await self._loop.sock_sendall(target, data)
        await self._flowing.wait()
        _end(target)


def _end(stream: socket.socket) -> None:
    """Send no more; receiving goes on."""
    with contextlib.suppress(OSError):  # its other end is gone already
        stream.shutdown(socket.SHUT_WR)
