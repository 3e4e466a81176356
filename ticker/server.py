"""The edge: a Starlette application over a `Service`. It reads requests and sends what the hub says."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from feeds.feed import FeedError
from ticker import page
from ticker.clients import Client
from ticker.errors import Close, Code, RequestError
from ticker.http import bars, busy, events, json, refused, service_of, snapshot, symbols, trades
from ticker.protocol import PROTOCOL, encode, error
from ticker.replay_app import replays_of, request_of, sources
from ticker.replaying import Replay, public
from ticker.replays import Replays
from ticker.service import Service
from ticker.tiers import Tiers
from ticker.transport import EXTENSION, BufferedOutlet, SocketOutlet

log: Final = logging.getLogger(__name__)


def create_app(serves: Service | Tiers, replays: Replays | None = None) -> Starlette:
    """The application that serves one service or several tiers, and `replays`, and keeps all running for as long as it is up."""
    tiers = serves if isinstance(serves, Tiers) else Tiers([serves])
    service = tiers.live

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(tiers.run(), name="service")
        running.add_done_callback(partial(_end_with, service))
        beating = asyncio.create_task(replays.run(), name="replays") if replays else None
        yield
        stop(tiers, replays)
        running.cancel()
        if replays and beating:
            beating.cancel()
            await replays.stop()
        await asyncio.wait((running,), timeout=service.settings.shutdown_s_max)

    app = Starlette(
        routes=[
            WebSocketRoute("/v1/stream", stream),
            WebSocketRoute("/v1/replay", replay),
            WebSocketRoute("/{path:path}", nowhere),
            Route("/v1/snapshot", snapshot),
            Route("/v1/sse", events),
            Route("/v1/symbols", symbols),
            Route("/v1/trades/{symbol:path}", trades),
            Route("/v1/bars/{symbol:path}", bars),
            Route("/v1/sources", sources),
            Route("/livez", livez),
            Route("/readyz", readyz),
            *page.routes(),
        ],
        exception_handlers={RequestError: refused},
        lifespan=lifespan,
    )
    app.state.tiers = tiers
    app.state.service = service
    app.state.replays = replays
    return app


def stop(tiers: Tiers, replays: Replays | None) -> None:
    """Tell every client to come back elsewhere or later. Nothing is sent to any after that."""
    tiers.stop()
    if replays:
        replays.dismiss()


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
    async with _outlet(websocket, service) as outlet:
        await _converse(websocket, service, outlet)


async def replay(websocket: WebSocket) -> None:
    """`/v1/replay`: the protocol over one WebSocket, with a clock of its own."""
    service, replays = service_of(websocket), replays_of(websocket)
    if replays is None:
        await websocket.send_denial_response(PlainTextResponse("not found: no source is declared to replay\n", 404))
        return
    query = websocket.query_params
    if service.full or (replays.full and "session" not in query):
        await websocket.send_denial_response(busy())
        return
    async with _outlet(websocket, service) as outlet:
        try:
            await _replay(websocket, replays, outlet)
        except RequestError as failure:
            _refuse(outlet, failure, Close.VIOLATION)
        except FeedError as failure:
            _refuse(outlet, RequestError(Code.SOURCE_FAILED, f"source: {public(failure)}"), Close.TRY_LATER)


async def _replay(websocket: WebSocket, replays: Replays, outlet: SocketOutlet | BufferedOutlet) -> None:
    """Let a replay answer each message of a client, until either side ends it. Raises RequestError, FeedError."""
    query = websocket.query_params
    playing = await replays.enter(query.get("session"), partial(request_of, query, replays.clock.now()))
    try:
        client = await playing.join(outlet)
        try:
            await _control(websocket, playing, client, outlet)
        finally:
            playing.leave(client)
            outlet.on_drained = lambda: None  # or else client and outlet would keep each other
    finally:
        replays.left(playing)


async def _control(
    websocket: WebSocket, playing: Replay, client: Client, outlet: SocketOutlet | BufferedOutlet
) -> None:
    outlet.on_drained = lambda: playing.drained(client)
    outlet.bear(playing.settings.replay_stall_s_max)
    try:
        while True:
            message = await _receive(websocket, None if client.session.heard else playing.settings.first_message_s_max)
            close = Close.TOO_SLOW if message is None else await playing.receive(client, message)
            if close is not None:
                outlet.close(close)
                return
            await outlet.writable()
    except WebSocketDisconnect:
        return


def _refuse(outlet: SocketOutlet | BufferedOutlet, failure: RequestError, close: Close) -> None:
    outlet.send(outlet.encoding.whole(encode(error(failure, fatal=True))))
    outlet.close(close)


@asynccontextmanager
async def _outlet(websocket: WebSocket, service: Service) -> AsyncIterator[SocketOutlet | BufferedOutlet]:
    """Accept a WebSocket, and have its outlet: the direct one, or one whose messages are sent on meanwhile."""
    await websocket.accept(subprotocol=PROTOCOL if PROTOCOL in websocket.scope["subprotocols"] else None)
    direct: SocketOutlet | None = websocket.scope.get("extensions", {}).get(EXTENSION)
    if direct is not None:
        yield direct
        return
    buffered = BufferedOutlet(service.settings.send_buffer_bytes_max)
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(_send_on(websocket, buffered))
        yield buffered
        if buffered.closing is None:  # the peer has gone: nobody is left to send to
            sending.cancel()


async def nowhere(websocket: WebSocket) -> None:
    """Any other WebSocket: there is none."""
    await websocket.send_denial_response(PlainTextResponse("not found: expected /v1/stream or /v1/replay\n", 404))


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


# -- health ------------------------------------------------------------------------------------------


async def livez(_: Request) -> Response:
    """`/livez`: the event loop turns."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """`/readyz`: whether traffic may come, and how each feed is."""
    tiers: Tiers = request.app.state.tiers
    return json({"ready": tiers.ready, "feeds": tiers.feeds_at()}, 200 if tiers.ready else 503)
