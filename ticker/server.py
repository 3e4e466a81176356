"""The edge: a Starlette application over a `Service`. It reads requests and sends what the hub says."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ticker.errors import Close, RequestError
from ticker.http import busy, events, json, refused, service_of, snapshot, symbols
from ticker.protocol import PROTOCOL
from ticker.service import Service
from ticker.transport import EXTENSION, BufferedOutlet, SocketOutlet

log: Final = logging.getLogger(__name__)


def create_app(service: Service) -> Starlette:
    """The application that serves `service`, and keeps it running for as long as it is up itself."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(service.run(), name="service")
        running.add_done_callback(partial(_end_with, service))
        yield
        service.stop()
        running.cancel()
        await asyncio.wait((running,), timeout=service.settings.shutdown_s_max)

    app = Starlette(
        routes=[
            WebSocketRoute("/v1/stream", stream),
            WebSocketRoute("/{path:path}", nowhere),
            Route("/v1/snapshot", snapshot),
            Route("/v1/sse", events),
            Route("/v1/symbols", symbols),
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/", page),
        ],
        exception_handlers={RequestError: refused},
        lifespan=lifespan,
    )
    app.state.service = service
    return app


def _end_with(service: Service, running: asyncio.Task[None]) -> None:
    """A service that failed takes the server down with it, loudly: a process without one serves nobody."""
    if not running.cancelled() and (failure := running.exception()):
        service.failed = True
        log.critical("the service failed", exc_info=failure)
        signal.raise_signal(signal.SIGTERM)


# -- WebSocket -----------------------------------------------------------------------------------------------------


async def stream(websocket: WebSocket) -> None:
    """`/v1/stream`: the protocol over one WebSocket."""
    service = service_of(websocket)
    if service.full:
        await websocket.send_denial_response(busy())
        return
    await websocket.accept(subprotocol=PROTOCOL if PROTOCOL in websocket.scope["subprotocols"] else None)
    direct: SocketOutlet | None = websocket.scope.get("extensions", {}).get(EXTENSION)
    if direct is not None:
        await _converse(websocket, service, direct)
        return
    buffered = BufferedOutlet(service.settings.send_buffer_bytes_max)
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(_send_on(websocket, buffered))
        await _converse(websocket, service, buffered)
        if buffered.closing is None:  # the peer has gone: nobody is left to send to
            sending.cancel()


async def nowhere(websocket: WebSocket) -> None:
    """Any other WebSocket: there is none."""
    await websocket.send_denial_response(PlainTextResponse("not found: expected /v1/stream\n", 404))


async def _converse(websocket: WebSocket, service: Service, outlet: SocketOutlet | BufferedOutlet) -> None:
    """Let the hub answer each message of a client, until either side ends it.

    A client that leaves its answers unread is not read from: what it can make us hold is bounded.
    """
    hub, clock = service.hub, service.clock
    client = hub.join(outlet, clock.now())
    outlet.on_drained = lambda: hub.drained(client, clock.now())
    try:
        while True:
            message = await _receive(websocket, None if client.session.heard else service.settings.first_message_s_max)
            close = Close.TOO_SLOW if message is None else hub.receive(client, message, clock.now())
            if close is not None:
                outlet.close(close)
                return
            service.wake()
            await outlet.writable()
            await asyncio.sleep(0)  # whoever else has something to say has a turn before the next message
    except WebSocketDisconnect:
        return
    finally:
        hub.leave(client)
        outlet.on_drained = lambda: None  # or else client and outlet would keep each other


async def _receive(websocket: WebSocket, wait_s: float | None) -> str | bytes | None:
    """The next message; None where none comes within `wait_s`. Raises WebSocketDisconnect at the end."""
    try:
        async with asyncio.timeout(wait_s):
            event = await websocket.receive()
    except TimeoutError:
        return None
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(event.get("code", 1005))
    message: str | bytes = event["bytes"] if event.get("text") is None else event["text"]
    return message


async def _send_on(websocket: WebSocket, outlet: BufferedOutlet) -> None:
    """Send what the hub gives to `outlet`, for a server without the fast way."""
    try:
        while True:
            for message in await outlet.take():
                await websocket.send_text(message.decode())
            if outlet.closing is not None:
                await websocket.close(outlet.closing.code, outlet.closing.reason)
                return
    except WebSocketDisconnect:
        return  # `_converse` is told of it as well


# -- health, and the page ------------------------------------------------------------------------------------------


async def livez(_: Request) -> Response:
    """`/livez`: the event loop turns."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """`/readyz`: whether traffic may come, and how each feed is."""
    service = service_of(request)
    state = {"ready": service.ready, "feeds": service.feeds_at(service.clock.now())}
    return json(state, 200 if service.ready else 503)


async def page(_: Request) -> Response:
    """`/`: live prices in a browser."""
    return HTMLResponse(files("ticker").joinpath("web", "index.html").read_bytes())
