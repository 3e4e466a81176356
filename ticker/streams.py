"""The WebSockets: `/v1/stream` and `/v1/replay`, from the upgrade to the end.

Whoever may not come in is refused by plain HTTP before the upgrade, where that can be told by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from feeds.feed import FeedError
from ticker.access import Grant
from ticker.clients import Client
from ticker.entry import (
    admitted,
    credentials_of,
    gate_of,
    grant_shown,
    grant_told,
    receive,
    refusal,
    service_of,
)
from ticker.errors import Close, Code, RequestError
from ticker.gate import RefusalError
from ticker.protocol import PROTOCOL, Id, encode, error
from ticker.replay_app import check_replay, replays_of, request_of
from ticker.replaying import Replay, public
from ticker.replays import Replays
from ticker.service import Service
from ticker.session import Check, authenticated
from ticker.transport import EXTENSION, BufferedOutlet, SocketOutlet

#: How a connection ends that is refused, by the code; any other has broken the protocol.
ENDINGS: Final = {
    Code.AUTH_REQUIRED: Close.AUTH,
    Code.AUTH_FAILED: Close.AUTH,
    Code.NOT_ENTITLED: Close.FORBIDDEN,
    Code.RATE_LIMITED: Close.RATE_LIMITED,
    Code.SOURCE_FAILED: Close.TRY_LATER,
}

Outlet = SocketOutlet | BufferedOutlet
#: Serves a client that has come in, until either side ends it.
Serve = Callable[[WebSocket, Outlet, Grant], Awaitable[None]]


async def stream(websocket: WebSocket) -> None:
    """`/v1/stream`: the protocol over one WebSocket."""
    await _enter(websocket, _stream, lambda grant: service_of(websocket, grant))


async def replay(websocket: WebSocket) -> None:
    """`/v1/replay`: the protocol over one WebSocket, with a clock of its own."""
    replays = replays_of(websocket)
    if replays is None:
        await websocket.send_denial_response(PlainTextResponse("not found: no source is declared to replay\n", 404))
        return
    if replays.full and "session" not in websocket.query_params:
        gate_of(websocket).refuse("full")
        await websocket.send_denial_response(refusal(RefusalError(503, "full", "full: try again later"), websocket))
        return
    await _enter(websocket, partial(_replay, replays), check_replay)


async def nowhere(websocket: WebSocket) -> None:
    """Any other WebSocket: there is none."""
    await websocket.send_denial_response(PlainTextResponse("not found: expected /v1/stream or /v1/replay\n", 404))


# -- coming in -----------------------------------------------------------------------------------------------------


async def _enter(websocket: WebSocket, serve: Serve, check: Callable[[Grant], object]) -> None:
    """Let a client in, ask it who it is, and let `serve` serve it. `check` raises RequestError for what is not granted."""
    try:
        visit = admitted(websocket)
    except RefusalError as failure:
        await websocket.send_denial_response(refusal(failure, websocket))
        return
    with visit:
        try:
            grant = grant_shown(websocket)
            if grant is not None:
                check(grant)
                visit.seat(grant.subject, grant.rights.connections_max)
        except (RequestError, RefusalError) as failure:
            await websocket.send_denial_response(refusal(failure, websocket))
            return
        async with _outlet(websocket, service_of(websocket)) as outlet:
            try:
                tag = None
                if grant is None:
                    found = await _ask(websocket, outlet)
                    if found is None:
                        return
                    tag, grant = found
                    check(grant)
                    visit.seat(grant.subject, grant.rights.connections_max)
                if credentials_of(websocket).access.required:
                    now = service_of(websocket).clock.now()
                    outlet.send(outlet.encoding.whole(encode(authenticated(tag, grant, now))))
                await serve(websocket, outlet, grant)
            except RequestError as failure:
                _refuse(websocket, outlet, failure)
            except RefusalError as failure:
                _refuse(websocket, outlet, RequestError(Code.RATE_LIMITED, failure.sentence))
            except FeedError as failure:
                _refuse(websocket, outlet, RequestError(Code.SOURCE_FAILED, f"source: {public(failure)}"))
            except WebSocketDisconnect:
                return


async def _ask(websocket: WebSocket, outlet: Outlet) -> tuple[Id, Grant] | None:
    """Let a client show a token as its first message; returns the id of that as well. None where it cannot, and is refused.

    Raises WebSocketDisconnect.
    """
    service = service_of(websocket)
    wait_s = service.settings.auth_s_max
    asked = {"type": "auth_required", "within_ms": round(wait_s * 1000)}
    outlet.send(outlet.encoding.whole(encode(asked)))
    message = await receive(websocket, wait_s)
    if message is None:
        late = f"expected auth, with a token, within {wait_s:g} s"
        _refuse(websocket, outlet, RequestError(Code.AUTH_REQUIRED, late))
        return None
    try:
        command, grant = grant_told(credentials_of(websocket), message, service.clock.now())
    except RequestError as failure:
        _refuse(websocket, outlet, failure, Close.AUTH)
        return None
    return command.id, grant


def _refuse(websocket: WebSocket, outlet: Outlet, failure: RequestError, close: Close | None = None) -> None:
    """End the connection of somebody who is not served, and say why."""
    refusal(failure, websocket)  # which counts it
    outlet.send(outlet.encoding.whole(encode(error(failure, fatal=True))))
    outlet.close(close or ENDINGS.get(failure.code, Close.VIOLATION))


@asynccontextmanager
async def _outlet(websocket: WebSocket, service: Service) -> AsyncIterator[Outlet]:
    """Accept a WebSocket, and have its outlet: the direct one, or one whose messages are sent on meanwhile."""
    await websocket.accept(subprotocol=PROTOCOL if PROTOCOL in websocket.scope["subprotocols"] else None)
    direct: SocketOutlet | None = websocket.scope.get("extensions", {}).get(EXTENSION)
    if direct is not None:
        yield direct
        return
    buffered = BufferedOutlet(service.settings.send_buffer_bytes_max, service.hub.counts)
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(_send_on(websocket, buffered))
        yield buffered
        if buffered.closing is None:  # the peer has gone: nobody is left to send to
            sending.cancel()


# -- conversing --------------------------------------------------------------------------------------------------------


def _check_of(websocket: WebSocket) -> Check | None:
    credentials = credentials_of(websocket)
    return credentials.check if credentials.access.required else None


async def _stream(websocket: WebSocket, outlet: Outlet, grant: Grant) -> None:
    """Let the hub answer each message of a client, until either side ends it.

    A client that leaves its answers unread is not read from: what it can make us hold is bounded.
    """
    service = service_of(websocket, grant)
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


async def _replay(replays: Replays, websocket: WebSocket, outlet: Outlet, grant: Grant) -> None:
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


async def _control(websocket: WebSocket, playing: Replay, client: Client, outlet: Outlet) -> None:
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
