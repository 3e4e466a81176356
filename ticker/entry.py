"""Who comes in: the token that a request or a WebSocket shows, what it grants, and which service that is served by."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from ticker.access import OPEN, Grant, header_token, subprotocol_token
from ticker.credentials import Credentials
from ticker.errors import Code, RequestError
from ticker.gate import Gate, RefusalError, Visit
from ticker.protocol import Auth, encode, error, parse
from ticker.service import Service
from ticker.tiers import Tiers

log: Final = logging.getLogger(__name__)

#: What a refusal by each code counts as.
REASONS: Final = {Code.AUTH_REQUIRED: "auth", Code.AUTH_FAILED: "auth", Code.NOT_ENTITLED: "grant"}
#: The HTTP status that says each code; any other is 400.
STATUS: Final = {
    Code.AUTH_REQUIRED: 401,
    Code.AUTH_FAILED: 401,
    Code.NOT_ENTITLED: 403,
    Code.UNKNOWN_SYMBOL: 404,
    Code.RATE_LIMITED: 429,
}


def credentials_of(connection: HTTPConnection) -> Credentials:
    """The key files of the application of a request."""
    credentials: Credentials = connection.app.state.credentials
    return credentials


def service_of(connection: HTTPConnection, grant: Grant = OPEN) -> Service:
    """The service that serves `grant`. Raises RequestError where data as late as that is not served."""
    tiers: Tiers = connection.app.state.tiers
    service = tiers.of(grant.delay_ms)
    if service is None:
        late = f"{grant.rights.delay_minutes:g} minutes late"
        raise RequestError(Code.NOT_ENTITLED, f"expected a grant of data that is served here, was one of data {late}")
    return service


def gate_of(connection: HTTPConnection) -> Gate:
    """The gate of the application of a request."""
    gate: Gate = connection.app.state.gate
    return gate


def admitted(connection: HTTPConnection) -> Visit:
    """A connection that is let in, for as long as the context lasts. Raises RefusalError."""
    address = None if connection.client is None else connection.client.host
    headers, now = connection.headers, service_of(connection).clock.now()
    return gate_of(connection).admit(address, now, origin=headers.get("origin"), host=headers.get("host"))


def knock(connection: HTTPConnection) -> None:
    """Let a request in that is answered at once. Raises RefusalError."""
    gate_of(connection).knock(service_of(connection).clock.now())


def grant_of(connection: HTTPConnection) -> Grant:
    """What a request may see. Raises RequestError where its token is not good, or is missing."""
    grant = grant_shown(connection)
    if grant is None:
        raise RequestError(Code.AUTH_REQUIRED, "authorization: expected Bearer and a token, which is missing")
    return grant


def grant_shown(connection: HTTPConnection) -> Grant | None:
    """What the token of a request or an upgrade grants; None where one is required and none is there. Raises RequestError."""
    credentials = credentials_of(connection)
    if not credentials.access.required:
        return OPEN
    token = header_token(connection.headers.get("authorization"))
    if token is None:
        token = subprotocol_token(connection.scope.get("subprotocols", ()))
    return None if token is None else credentials.check(token, service_of(connection).clock.now())


def grant_told(credentials: Credentials, message: str | bytes, now: int) -> tuple[Auth, Grant]:
    """What the first message of a client, which must be `auth`, grants. Raises RequestError."""
    command = parse(message)
    if not isinstance(command, Auth):
        raise RequestError(Code.AUTH_REQUIRED, "op: expected auth, with a token, before anything else", command.id)
    try:
        return command, credentials.check(command.token, now)
    except RequestError as failure:
        failure.id = command.id
        raise


def refusal(failure: RequestError | RefusalError, connection: HTTPConnection | None = None) -> Response:
    """The plain HTTP answer to a request, or to an upgrade, that is refused. It is counted, and logged."""
    if isinstance(failure, RefusalError):
        about = {"peer": _peer(connection), "reason": failure.reason, "status": failure.status}
        log.info("refused %s: %s", _peer(connection), failure.sentence, extra=about)
        retry = {} if failure.retry_after_s is None else {"retry-after": str(failure.retry_after_s)}
        return PlainTextResponse(f"{failure.sentence}\n", failure.status, retry)
    reason = REASONS.get(failure.code)
    if reason is not None and connection is not None:
        gate_of(connection).refuse(reason)
        about = {"peer": _peer(connection), "reason": reason, "code": str(failure.code)}
        log.info("refused %s: %s: %s", _peer(connection), failure.code, failure.message, extra=about)
    status = STATUS.get(failure.code, 400)
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    return Response(encode(error(failure)), status, headers, "application/json")


def _peer(connection: HTTPConnection | None) -> str:
    return "somebody" if connection is None or connection.client is None else connection.client.host


async def receive(websocket: WebSocket, wait_s: float | None) -> str | bytes | None:
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
