"""The HTTP edge: a Starlette application over a `Service`. It reads requests and sends what the hub says.

Whoever asks over plain HTTP is a client of the hub like any other, for as long as the answer takes: the same
subscription, the same limits, the same bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from importlib.resources import files
from typing import Any, Final

import numpy as np
import orjson
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ticker.errors import Close, Code, RequestError
from ticker.lanes import Client
from ticker.protocol import PROTOCOL, Subscribe, encode, error, parse
from ticker.service import Service
from ticker.transport import EXTENSION, BufferedOutlet, EventOutlet, SocketOutlet

log: Final = logging.getLogger(__name__)

RETRY_AFTER_S: Final = 5
NEWS: Final = (b'{"type":"update"', b'{"type":"snapshot"')


def create_app(service: Service) -> Starlette:
    """The application that serves `service`, and keeps it running for as long as it is up itself."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(service.run(), name="service")
        running.add_done_callback(partial(_end_with, service))
        yield
        service.stop()
        running.cancel()
        await asyncio.wait((running,))

    app = Starlette(
        routes=[
            WebSocketRoute("/v1/stream", stream),
            Route("/v1/snapshot", snapshot),
            Route("/v1/sse", events),
            Route("/v1/symbols", symbols),
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/", page),
        ],
        exception_handlers={RequestError: _refused},
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


def _service(connection: HTTPConnection) -> Service:
    service: Service = connection.app.state.service
    return service


def _json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(content), status, headers, "application/json")


async def _refused(_: Request, failure: Exception) -> Response:
    assert isinstance(failure, RequestError)
    return _json(error(failure), 400)


def _busy() -> Response:
    return PlainTextResponse("full: try again later\n", 503, {"retry-after": str(RETRY_AFTER_S)})


# -- WebSocket -----------------------------------------------------------------------------------------------------


async def stream(websocket: WebSocket) -> None:
    """`/v1/stream`: the protocol over one WebSocket."""
    service = _service(websocket)
    if service.full:
        await websocket.send_denial_response(_busy())
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
    except WebSocketDisconnect:
        return
    finally:
        hub.leave(client)


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


# -- the same data without a WebSocket -----------------------------------------------------------------------------


async def snapshot(request: Request) -> Response:
    """`/v1/snapshot`: the newest state of some symbols, now, or with `wait` once it is another than the caller's."""
    service = _service(request)
    query = _query(request, "symbols", "fields", "wait")
    command = _subscription(query)
    wait_s = min(_number(query, "wait", 0), service.settings.long_poll_s_max)
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if service.full:
        return _busy()
    outlet = BufferedOutlet(service.settings.send_buffer_bytes_max)
    with _guest(service, outlet) as client:
        body, tag = await _state(service, client, outlet, command)
        if tag in known and wait_s > 0 and await _news(service, outlet, wait_s):
            body, tag = await _state(service, client, outlet, command)
    headers = {"etag": f"W/{tag}", "cache-control": "no-cache"}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, "application/json")


@contextmanager
def _guest(service: Service, outlet: BufferedOutlet) -> Iterator[Client]:
    """A client of the hub for as long as a request takes."""
    client = service.hub.join(outlet, service.clock.now())
    outlet.on_drained = lambda: service.hub.drained(client, service.clock.now())
    try:
        yield client
    finally:
        service.hub.leave(client)


async def _state(service: Service, client: Client, outlet: BufferedOutlet, command: Subscribe) -> tuple[bytes, str]:
    """What a snapshot of `command` answers, and its tag: one for the same epoch, fields, symbols and positions."""
    now, table = service.clock.now(), service.table
    service.hub.receive(client, command, now)
    messages = await outlet.take()
    reply = next(orjson.loads(message) for message in messages if message.startswith(b'{"type":"subscribed"'))
    items = next((bytes(m[m.index(b'"items"') :]) for m in messages if m.startswith(NEWS)), b'"items":[]}')
    said = {name: reply[name] for name in ("pending", "rejected") if reply[name]}
    body = b'{"epoch":%b,"ts":%d,%b' % (encode(service.hub.epoch), now, items)
    if said:
        body = body[:-1] + b"," + encode(said)[1:]
    rows = sorted(client.session.rows)
    state = encode([service.hub.epoch, command.fields, rows, table.seq[rows].tolist() if rows else [], said])
    return body, f'"{hashlib.blake2b(state, digest_size=12).hexdigest()}"'


async def _news(service: Service, outlet: BufferedOutlet, wait_s: float) -> bool:
    """Wait for something that the client watches to change; False where nothing did."""
    service.wake()
    try:
        async with asyncio.timeout(wait_s):
            while not service.stopping.is_set():
                if any(message.startswith(NEWS) for message in await outlet.take()):
                    return True
    except TimeoutError:
        pass
    return False


async def events(request: Request) -> Response:
    """`/v1/sse`: the protocol as Server-Sent Events, one subscription a connection."""
    service = _service(request)
    query = _query(request, "symbols", "fields", "interval_ms", "last_event_id")
    command = _subscription(query)
    last = request.headers.get("last-event-id") or query.get("last_event_id")
    if last:
        command = _resuming(command, last, service)
    if service.full:
        return _busy()
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(_events(service, command), 200, headers, "text/event-stream")


async def _events(service: Service, command: Subscribe) -> AsyncIterator[bytes]:
    outlet = EventOutlet(service.settings.send_buffer_bytes_max, lambda: _position(service))
    with _guest(service, outlet) as client:
        service.hub.receive(client, command, service.clock.now())
        service.wake()
        while outlet.closing is None and not service.stopping.is_set():
            yield b"".join(await outlet.take())


def _position(service: Service) -> str | None:
    """The epoch and how far each part of each log is in the table, as an event's id."""
    parts = service.table.symbols.parts
    positions = zip(parts, service.table.positions.tolist(), strict=False)
    return " ".join((service.hub.epoch, *(f"{part}={position}" for part, position in positions)))


def _resuming(command: Subscribe, last_event_id: str, service: Service) -> Subscribe:
    """`command` of a client that has had all of each log up to where `last_event_id` says: `since` in other words.

    It holds every symbol that has not moved past there. Where it was ahead of this log, it may hold any symbol as of there.
    An id that makes no sense counts for nothing.
    """
    epoch, *entries = last_event_id.split(" ")
    held = {part: int(at) for part, _, at in (entry.rpartition("=") for entry in entries) if at.isdecimal()}
    table, symbols, directory = service.table, service.table.symbols, service.hub.directory
    since = {}
    for name in command.symbols:
        exact = directory.find(name)
        matched = directory.matching(name) if exact is None else (exact,)
        for row in matched[: service.settings.symbols_max]:
            part = symbols.owner[row]
            at, seq = held.get(str(symbols.parts[part]), 0), int(table.seq[row])
            if seq and at > table.positions[part]:
                since[symbols.names[row]] = at
            elif 0 < seq <= at:
                since[symbols.names[row]] = seq
    return replace(command, since=since, epoch=epoch)


def _query(request: Request, *known: str) -> Mapping[str, str]:
    """The parameters of a request. Raises RequestError for one that is not among `known`."""
    for name in request.query_params:
        if name not in known:
            raise RequestError(Code.INVALID_REQUEST, f"query: expected one of {', '.join(known)}, was {name[:64]!r}")
    return request.query_params


def _number(query: Mapping[str, str], name: str, default: float) -> float:
    text = query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf"):
        raise RequestError(Code.INVALID_REQUEST, f"{name}: expected a number from 0, was {text[:64]!r}")
    return value


def _subscription(query: Mapping[str, str]) -> Subscribe:
    """The subscription that a request asks for. Raises RequestError."""
    body: dict[str, Any] = {
        "op": "subscribe",
        "symbols": [name for name in query.get("symbols", "").split(",") if name],
    }
    if not body["symbols"]:
        raise RequestError(Code.INVALID_REQUEST, "symbols: expected names or patterns with commas between, was none")
    if "fields" in query:
        body["fields"] = [name for name in query["fields"].split(",") if name]
    if "interval_ms" in query:
        text = query["interval_ms"]
        body["interval_ms"] = int(text) if text.isdecimal() and len(text) < 10 else text
    command = parse(encode(body))
    assert isinstance(command, Subscribe)
    return command


async def symbols(request: Request) -> Response:
    """`/v1/symbols`: the symbols by name, a page at a time; `next` is the `after` of the following page."""
    service = _service(request)
    query = _query(request, "prefix", "limit", "after")
    table, most = service.table, service.settings.page_symbols_max
    limit = min(int(_number(query, "limit", most)), most)
    prefix, after = query.get("prefix", ""), query.get("after", "")
    names = service.names()
    start = max(bisect_left(names, prefix), bisect_right(names, after))
    page = [name for name in names[start : start + limit + 1] if name.startswith(prefix)]
    found = [row for name in page[:limit] if (row := service.hub.directory.find(name)) is not None]
    price_decimals, size_decimals = table.decimals(np.array(found, np.int64))
    items = [
        {
            "symbol": table.symbols.names[row],
            "feed": table.symbols.parts[table.symbols.owner[row]].feed,
            "seq": int(table.seq[row]),
            "ts": int(table.ts[row]) if table.seq[row] else None,
            "price_decimals": prices,
            "size_decimals": sizes,
        }
        for row, prices, sizes in zip(found, price_decimals.tolist(), size_decimals.tolist(), strict=True)
    ]
    following = page[limit - 1] if 0 < limit < len(page) else None
    return _json({"epoch": service.hub.epoch, "items": items, "next": following})


async def livez(_: Request) -> Response:
    """`/livez`: the event loop turns."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """`/readyz`: whether traffic may come, and how each feed is."""
    service = _service(request)
    state = {"ready": service.ready, "feeds": service.feeds_at(service.clock.now())}
    return _json(state, 200 if service.ready else 503)


async def page(_: Request) -> Response:
    """`/`: live prices in a browser."""
    return HTMLResponse(files("ticker").joinpath("web", "index.html").read_bytes())
