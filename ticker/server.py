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
from ticker.access import Access, Grant
from ticker.clients import Client
from ticker.credentials import Credentials
from ticker.entry import credentials_of, grant_of, grant_shown, grant_told, receive, refusal, service_of
from ticker.errors import Close, Code, RequestError
from ticker.http import bars, busy, events, json, number_of, query_of, refused, snapshot, symbols, trades
from ticker.presence import presence
from ticker.protocol import PROTOCOL, encode, error
from ticker.replay_app import check_replay, replays_of, request_of, sources
from ticker.replaying import Replay, public
from ticker.replays import Replays
from ticker.service import Service
from ticker.session import Check, authenticated
from ticker.settings import Settings
from ticker.transport import EXTENSION, BufferedOutlet, SocketOutlet

log: Final = logging.getLogger(__name__)

#: What `/v1/stats` shows of each list where no limit is given.
STATS_SHOWN: Final = 100


def create_app(service: Service, replays: Replays | None = None, credentials: Credentials | None = None) -> Starlette:
    """The application that serves `service` and `replays`, and keeps both running for as long as it is up itself.

    `credentials` say who may see what; everybody may see everything where they ask for no token.
    """
    credentials = credentials or Credentials(Settings())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(service.run(), name="service")
        running.add_done_callback(partial(_end_with, service))
        beating = asyncio.create_task(replays.run(), name="replays") if replays else None
        watching = asyncio.create_task(credentials.watch(partial(_end_grants, service, replays)), name="keys")
        yield
        watching.cancel()
        stop(service, replays)
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
            Route("/v1/stats", stats),
            Route("/livez", livez),
            Route("/readyz", readyz),
            *page.routes(),
        ],
        exception_handlers={RequestError: refused},
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.replays = replays
    app.state.credentials = credentials
    return app


def stop(service: Service, replays: Replays | None) -> None:
    """Tell every client to come back elsewhere or later. Nothing is sent to any after that."""
    service.stop()
    if replays:
        replays.dismiss()


def _end_with(service: Service, running: asyncio.Task[None]) -> None:
    """A service that failed takes the server down with it, loudly: a process without one serves nobody."""
    if not running.cancelled() and (failure := running.exception()):
        service.failed = True
        log.critical("the service failed", exc_info=failure)
        signal.raise_signal(signal.SIGTERM)


def _end_grants(service: Service, replays: Replays | None, access: Access) -> None:
    """The keys have changed: whoever's is gone has to leave."""
    for hub in (service.hub, *(replay.hub for replay in (replays.replays.values() if replays else ()))):
        hub.end_grants(access.holds)


# -- WebSocket -----------------------------------------------------------------------------------------------------


async def stream(websocket: WebSocket) -> None:
    """`/v1/stream`: the protocol over one WebSocket."""
    service = service_of(websocket)
    try:
        grant = grant_shown(websocket, service.clock.now())
        service = service if grant is None else service_of(websocket, grant)
    except RequestError as failure:
        await websocket.send_denial_response(refusal(failure))
        return
    if service.full:
        await websocket.send_denial_response(busy())
        return
    async with _outlet(websocket, service) as outlet:
        try:
            grant = await _authenticate(websocket, service, outlet, grant)
            if grant is not None:
                await _converse(websocket, service_of(websocket, grant), outlet, grant)
        except RequestError as failure:  # what the token grants is not served here
            _refuse(outlet, failure, Close.FORBIDDEN)
        except WebSocketDisconnect:
            return


async def replay(websocket: WebSocket) -> None:
    """`/v1/replay`: the protocol over one WebSocket, with a clock of its own."""
    service, replays = service_of(websocket), replays_of(websocket)
    if replays is None:
        await websocket.send_denial_response(PlainTextResponse("not found: no source is declared to replay\n", 404))
        return
    query = websocket.query_params
    try:
        grant = grant_shown(websocket, service.clock.now())
        if grant is not None:
            check_replay(grant)
    except RequestError as failure:
        await websocket.send_denial_response(refusal(failure))
        return
    if service.full or (replays.full and "session" not in query):
        await websocket.send_denial_response(busy())
        return
    async with _outlet(websocket, service) as outlet:
        try:
            grant = await _authenticate(websocket, service, outlet, grant)
            if grant is not None:
                check_replay(grant)
                await _replay(websocket, replays, outlet, grant)
        except RequestError as failure:
            _refuse(outlet, failure, Close.FORBIDDEN if failure.code is Code.NOT_ENTITLED else Close.VIOLATION)
        except FeedError as failure:
            _refuse(outlet, RequestError(Code.SOURCE_FAILED, f"source: {public(failure)}"), Close.TRY_LATER)
        except WebSocketDisconnect:
            return


async def _authenticate(
    websocket: WebSocket, service: Service, outlet: SocketOutlet | BufferedOutlet, grant: Grant | None
) -> Grant | None:
    """Let a client show a token as its first message, where it has not done so; None where it cannot, and is refused.

    Raises WebSocketDisconnect.
    """
    credentials, settings, tag = credentials_of(websocket), service.settings, None
    if not credentials.access.required:
        return grant
    if grant is None:
        asked = {"type": "auth_required", "within_ms": round(settings.auth_s_max * 1000)}
        outlet.send(outlet.encoding.whole(encode(asked)))
        message = await receive(websocket, settings.auth_s_max)
        if message is None:
            late = f"expected auth, with a token, within {settings.auth_s_max:g} s"
            _refuse(outlet, RequestError(Code.AUTH_REQUIRED, late), Close.AUTH)
            return None
        try:
            command, grant = grant_told(credentials, message, service.clock.now())
        except RequestError as failure:
            _refuse(outlet, failure, Close.AUTH)
            return None
        tag = command.id
    outlet.send(outlet.encoding.whole(encode(authenticated(tag, grant, service.clock.now()))))
    return grant


async def _replay(websocket: WebSocket, replays: Replays, outlet: SocketOutlet | BufferedOutlet, grant: Grant) -> None:
    """Let a replay answer each message of a client, until either side ends it. Raises RequestError, FeedError."""
    query = websocket.query_params
    playing = await replays.enter(query.get("session"), partial(request_of, query, replays.clock.now()), grant)
    try:
        client = await playing.join(outlet, grant, _check_of(websocket))
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
            message = await receive(websocket, None if client.session.heard else playing.settings.first_message_s_max)
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


def _check_of(websocket: WebSocket) -> Check | None:
    credentials = credentials_of(websocket)
    return credentials.check if credentials.access.required else None


async def _converse(
    websocket: WebSocket, service: Service, outlet: SocketOutlet | BufferedOutlet, grant: Grant
) -> None:
    """Let the hub answer each message of a client, until either side ends it.

    A client that leaves its answers unread is not read from: what it can make us hold is bounded.
    """
    hub, clock = service.hub, service.clock
    client = hub.join(outlet, clock.now(), grant=grant, check=_check_of(websocket))
    outlet.on_drained = lambda: hub.drained(client, clock.now())
    try:
        while True:
            message = await receive(websocket, None if client.session.heard else service.settings.first_message_s_max)
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


# -- health and presence ------------------------------------------------------------------------------------------


async def stats(request: Request) -> Response:
    """`/v1/stats`: who is connected, and how many watch what, for those who may know."""
    service, replays = service_of(request), replays_of(request)
    grant = grant_of(request, service.clock.now())
    if not grant.rights.stats:
        raise RequestError(Code.NOT_ENTITLED, "expected a grant of stats, was one without")
    query = query_of(request, "limit")
    limit = int(number_of(query, "limit", STATS_SHOWN, 1, service.settings.page_symbols_max))
    hubs = [
        ("live", service.hub),
        *(("replay", replay.hub) for replay in (replays.replays.values() if replays else ())),
    ]
    return json({"ts": service.clock.now(), **presence(hubs, limit)})


async def livez(_: Request) -> Response:
    """`/livez`: the event loop turns."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """`/readyz`: whether traffic may come, and how each feed is."""
    service = service_of(request)
    state = {"ready": service.ready, "feeds": service.feeds_at(service.clock.now())}
    return json(state, 200 if service.ready else 503)
