"""The same data without a WebSocket: `/v1/snapshot`, `/v1/sse`, `/v1/symbols`.

Whoever asks over plain HTTP is a client of the hub like any other, for as long as the answer takes: the same
subscription, the same limits, the same bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ticker.access import Grant
from ticker.audiences import Message
from ticker.clients import Client
from ticker.directory import Directory
from ticker.entry import admitted, grant_of, knock, refusal, service_of
from ticker.errors import Code, RequestError
from ticker.gate import RefusalError
from ticker.protocol import BAR_INTERVALS, BARS, TICKER, TRADES, Subscribe, bar_interval, encode, parse
from ticker.service import Service
from ticker.transport import BufferedOutlet, EventOutlet, PollOutlet

NEWS: Final = (b'{"type":"update"', b'{"type":"snapshot"')
ITEMS: Final = b'"items"'
#: What `/v1/trades` and `/v1/bars` show where no limit is given.
TRADES_SHOWN: Final = 100
BARS_SHOWN: Final = 500
SSE_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}
#: A log position has at most 16 digits: it is below 2**53.
POSITION_DIGITS_MAX: Final = 16


def json(content: object, status: int = 200) -> Response:
    """A response of JSON."""
    return Response(encode(content), status, media_type="application/json")


async def refused(request: Request, failure: Exception) -> Response:
    """The answer to a request that raised RequestError or RefusalError."""
    assert isinstance(failure, RequestError | RefusalError)
    return refusal(failure, request)


def _granted(request: Request, channel: str = TICKER) -> tuple[Grant, Service]:
    """What a request may see, and the service that serves it. Raises RequestError."""
    grant = grant_of(request)
    if channel not in grant.rights.channels:
        raise RequestError(Code.NOT_ENTITLED, f"expected one of {', '.join(grant.rights.channels)}, was {channel}")
    return grant, service_of(request, grant)


# -- one answer ----------------------------------------------------------------------------------------------------


async def snapshot(request: Request) -> Response:
    """`/v1/snapshot`: the newest state of some symbols, now, or with `wait` once it is another than the caller's."""
    grant, service = _granted(request)
    query = query_of(request, "symbols", "fields", "wait")
    command = _subscription(service, query)
    wait_s = number_of(query, "wait", 0, 0, service.settings.long_poll_s_max)
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    outlet = PollOutlet(service.settings.send_buffer_bytes_max, service.hub.counts)
    with ExitStack() as inside:
        if wait_s:
            inside.enter_context(admitted(request)).seat(grant.subject, grant.rights.connections_max)
        else:
            knock(request)
        client = inside.enter_context(_guest(service, outlet, grant))
        reply, message = await _subscribe(service, client, outlet, command)
        tag = _tag(service, client, command, reply)
        until = time.monotonic() + wait_s
        while tag in known and await _news(request, service, outlet, until - time.monotonic()):
            message = service.hub.snapshot_of(client, service.clock.now())
            tag = _tag(service, client, command, reply)
        if tag in known or "*" in known:
            body, status = b"", 304
        else:
            body, status = _body(service, reply, message), 200
    headers = {"etag": f"W/{tag}", "cache-control": "no-cache"}
    return Response(body, status, headers, "application/json" if body else None)


@contextmanager
def _guest(service: Service, outlet: BufferedOutlet, grant: Grant) -> Iterator[Client]:
    """A client of the hub for as long as a request takes."""
    client = service.hub.join(outlet, service.clock.now(), grant=grant)
    outlet.on_drained = lambda: service.hub.drained(client, service.clock.now())
    try:
        yield client
    finally:
        service.hub.leave(client)
        outlet.on_drained = lambda: None  # or else client and outlet would keep each other


async def _subscribe(
    service: Service, client: Client, outlet: BufferedOutlet, command: Subscribe
) -> tuple[dict[str, Any], Message | None]:
    """The answer to a subscription, and its snapshot where there is one. Raises RequestError where it is refused."""
    service.hub.receive(client, command, service.clock.now())
    if client.failure is not None:
        raise client.failure
    _welcome, answer, *snapshots = await outlet.take()
    return orjson.loads(answer), snapshots[0] if snapshots else None


def _tag(service: Service, client: Client, command: Subscribe, reply: Mapping[str, Any]) -> str:
    """One tag for the same epoch, fields, symbols and their positions."""
    names, seq = service.table.symbols.names, service.table.seq
    held = sorted((names[row], int(seq[row])) for row in client.session.rows)
    state = encode([service.hub.epoch, command.fields, held, reply["rejected"]])
    return f'"{hashlib.blake2b(state, digest_size=12).hexdigest()}"'


def _body(service: Service, reply: Mapping[str, Any], message: Message | None) -> bytes:
    """What `/v1/snapshot` answers: the items of a snapshot, and which symbols have none and why."""
    items = b'"items":[]}' if message is None else bytes(message[message.index(ITEMS) :])
    body = b'{"epoch":%b,"ts":%d,%b' % (encode(service.hub.epoch), service.clock.now(), items)
    find, n = service.hub.directory.find, service.table.n
    pending = [name for name in reply["pending"] if (row := find(name)) is None or not n[row]]
    said = {name: names for name, names in (("pending", pending), ("rejected", reply["rejected"])) if names}
    return body[:-1] + b"," + encode(said)[1:] if said else body


async def _news(request: Request, service: Service, outlet: BufferedOutlet, wait_s: float) -> bool:
    """Wait for something that the client watches to change; False where nothing did, or the caller has gone."""
    if wait_s <= 0:
        return False
    service.wake()
    changed, left = asyncio.create_task(_changed(service, outlet)), asyncio.create_task(_left(request))
    try:
        done, _ = await asyncio.wait((changed, left), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        return changed in done and changed.result()
    finally:
        changed.cancel()
        left.cancel()


async def _changed(service: Service, outlet: BufferedOutlet) -> bool:
    while outlet.closing is None and not service.stopping.is_set():
        if any(message.startswith(NEWS) for message in await outlet.take()):
            return True
    return False


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# -- a stream of events --------------------------------------------------------------------------------------------


async def events(request: Request) -> Response:
    """`/v1/sse`: the protocol as Server-Sent Events, one subscription a connection."""
    query = query_of(request, "symbols", "channel", "interval", "fields", "interval_ms", "last_event_id")
    grant, service = _granted(request, query.get("channel", TICKER))
    command = _subscription(service, query)
    if request.method == "HEAD":
        return Response(headers=SSE_HEADERS, media_type="text/event-stream")
    last_event_id = request.headers.get("last-event-id") or query.get("last_event_id")
    if last_event_id:
        command = _resuming(command, last_event_id)
    return EventStream(request, grant, _events(service, grant, command))


class EventStream(StreamingResponse):
    """A stream of events, which counts as a connection for as long as it lasts."""

    def __init__(self, request: Request, grant: Grant, body: AsyncIterator[bytes]) -> None:
        super().__init__(body, 200, SSE_HEADERS, "text/event-stream")
        self._request = request
        self._grant = grant

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with admitted(self._request) as visit:
                visit.seat(self._grant.subject, self._grant.rights.connections_max)
                await super().__call__(scope, receive, send)
        except RefusalError as failure:  # before anything was sent
            await refusal(failure, self._request)(scope, receive, send)


async def _events(service: Service, grant: Grant, command: Subscribe) -> AsyncIterator[bytes]:
    outlet = EventOutlet(service.settings.send_buffer_bytes_max, service.hub.counts)
    with _guest(service, outlet, grant) as client:
        outlet.position = lambda: _position(service, client)
        service.hub.receive(client, command, service.clock.now())
        service.wake()
        while outlet.closing is None and not service.stopping.is_set():
            yield b"".join(await outlet.take())
        outlet.position = lambda: None


def _position(service: Service, client: Client) -> str | None:
    """The epoch, and how far the client has had each part of each log, as an event's id.

    That is as far as the table, or further where the client came with more. None while it still holds some of a log
    that is another one now, or is owed more than this message brings: from there it could not be resumed.
    """
    if client.anew or any(reader.behind is not None for reader in client.readers.values()):
        return None
    parts = enumerate(service.table.symbols.parts)
    return " ".join((service.hub.epoch, *(f"{part}={client.session.position(number)}" for number, part in parts)))


def _resuming(command: Subscribe, last_event_id: str) -> Subscribe:
    """`command` of a client that has had all of each log up to where an event's id says; nonsense counts for nothing."""
    epoch, *entries = last_event_id.split(" ")
    held = {
        part: int(at)
        for part, _, at in (entry.rpartition("=") for entry in entries)
        if at.isdecimal() and len(at) <= POSITION_DIGITS_MAX
    }
    return replace(command, positions=held, epoch=epoch)


# -- the list of symbols -------------------------------------------------------------------------------------------


async def symbols(request: Request) -> Response:
    """`/v1/symbols`: the symbols by name, a page at a time; `next` is the `after` of the following page."""
    knock(request)
    grant, service = _granted(request)
    query = query_of(request, "prefix", "limit", "after")
    table, most = service.table, service.settings.page_symbols_max
    limit = int(number_of(query, "limit", most, 1, most))
    prefix, after = query.get("prefix", ""), query.get("after", "")
    directory = service.hub.directory_of(grant)
    names = directory.names()
    start = max(bisect_left(names, prefix), bisect_right(names, after))
    page = [name for name in names[start : start + limit + 1] if name.startswith(prefix)]
    found = [row for name in page[:limit] if (row := directory.find(name)) is not None]
    price_decimals, size_decimals = table.decimals(np.array(found, np.int64))
    items = [
        {
            "symbol": table.symbols.names[row],
            "feed": table.symbols.parts[table.symbols.owner[row]].feed,
            "seq": int(table.seq[row]),
            "ts": int(table.ts[row]) if table.n[row] else None,
            "price_decimals": prices,
            "size_decimals": sizes,
        }
        for row, prices, sizes in zip(found, price_decimals.tolist(), size_decimals.tolist(), strict=True)
    ]
    following = page[limit - 1] if limit < len(page) else None
    return json({"epoch": service.hub.epoch, "items": items, "next": following, "delay_ms": service.delay_ms})


# -- trades and bars of one symbol ---------------------------------------------------------------------------------


async def trades(request: Request) -> Response:
    """`/v1/trades/{symbol}`: its last trades, oldest first."""
    knock(request)
    grant, service = _granted(request, TRADES)
    query = query_of(request, "limit")
    limit = _limit(query, TRADES_SHOWN, service.settings.trades_max)
    return _last(request, service, service.hub.directory_of(grant), TRADES, limit)


async def bars(request: Request) -> Response:
    """`/v1/bars/{symbol}`: its last bars of an interval, oldest first."""
    knock(request)
    grant, service = _granted(request, BARS)
    query = query_of(request, "interval", "limit")
    if "interval" not in query:
        raise RequestError(Code.INVALID_REQUEST, f"interval: expected one of {', '.join(BAR_INTERVALS)}, was none")
    interval = bar_interval("interval", query["interval"])
    limit = _limit(query, BARS_SHOWN, service.settings.bars_max)
    return _last(request, service, service.hub.directory_of(grant), interval, limit, interval=interval)


def _limit(query: Mapping[str, str], default: int, most: int) -> int:
    return int(number_of(query, "limit", min(default, most), 1, most))


def _last(request: Request, service: Service, directory: Directory, name: str, limit: int, **about: str) -> Response:
    """The last items of a journal, of the symbol that a request names. Raises RequestError."""
    symbol = request.path_params["symbol"]
    if not directory.covers(symbol):
        raise RequestError(Code.NOT_ENTITLED, f"symbol: expected one that the token is for, was {symbol[:64]!r}")
    row = directory.find(symbol)
    if row is None:
        raise RequestError(Code.UNKNOWN_SYMBOL, f"symbol: expected one that a feed has brought, was {symbol[:64]!r}")
    journal = service.hub.journals.by_name[name]
    now = service.clock.now()
    journal.close(now)
    head = encode({"epoch": service.hub.epoch, "ts": now, "symbol": symbol, **about})
    body = b'%b,"items":[%b]}' % (head[:-1], journal.last(row, limit)[:-1])
    return Response(body, media_type="application/json", headers={"cache-control": "no-cache"})


# -- queries -------------------------------------------------------------------------------------------------------


def query_of(request: Request, *known: str) -> Mapping[str, str]:
    """The parameters of a request. Raises RequestError for one that is not among `known`, or comes twice."""
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise RequestError(Code.INVALID_REQUEST, f"query: expected one of {', '.join(known)}, was {name[:64]!r}")
        if name in query:
            raise RequestError(Code.INVALID_REQUEST, f"{name}: expected once, with commas between, was there twice")
        query[name] = value
    return query


def number_of(query: Mapping[str, str], name: str, default: float, least: float, most: float) -> float:
    text = query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise RequestError(Code.INVALID_REQUEST, f"{name}: expected {least:g} to {most:g}, was {text[:64]!r}")
    return value


def _subscription(service: Service, query: Mapping[str, str]) -> Subscribe:
    """The subscription that a request asks for. Raises RequestError."""
    names = [name for name in query.get("symbols", "").split(",") if name]
    if not names:
        raise RequestError(Code.INVALID_REQUEST, "symbols: expected names or patterns with commas between, was none")
    most = service.settings.symbols_max + service.settings.patterns_max
    if len(names) > most:
        raise RequestError(Code.LIMIT_SYMBOLS, f"symbols: expected at most {most}, was {len(names)}")
    body: dict[str, Any] = {"op": "subscribe", "symbols": names}
    body |= {name: query[name] for name in ("channel", "interval") if name in query}
    if "fields" in query:
        body["fields"] = [name for name in query["fields"].split(",") if name]
    if "interval_ms" in query:
        text = query["interval_ms"]
        body["interval_ms"] = int(text) if text.isdecimal() and len(text) < 10 else text
    command = parse(encode(body))
    assert isinstance(command, Subscribe)
    return command
