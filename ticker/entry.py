"""Who comes in: the token that a request or a WebSocket shows, what it grants, and which service that is served by."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from ticker.access import OPEN, Grant, header_token, subprotocol_token
from ticker.credentials import Credentials
from ticker.errors import Code, RequestError
from ticker.protocol import Auth, encode, error, parse
from ticker.service import Service

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
    service: Service = connection.app.state.service
    if grant.delay_ms:
        raise RequestError(Code.NOT_ENTITLED, f"expected a grant of data that is served here, was {_minutes(grant)}")
    return service


def _minutes(grant: Grant) -> str:
    return f"one of data {grant.rights.delay_minutes:g} minutes late"


def grant_of(connection: HTTPConnection, now: int) -> Grant:
    """What a request may see. Raises RequestError where its token is not good, or is missing."""
    grant = grant_shown(connection, now)
    if grant is None:
        raise RequestError(Code.AUTH_REQUIRED, "authorization: expected Bearer and a token, which is missing")
    return grant


def grant_shown(connection: HTTPConnection, now: int) -> Grant | None:
    """What the token of a request or an upgrade grants; None where one is required and none is there. Raises RequestError."""
    credentials = credentials_of(connection)
    if not credentials.access.required:
        return OPEN
    token = header_token(connection.headers.get("authorization"))
    if token is None:
        token = subprotocol_token(connection.scope.get("subprotocols", ()))
    return None if token is None else credentials.check(token, now)


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


def refusal(failure: RequestError) -> Response:
    """The plain HTTP answer to a request, or to an upgrade, that is refused."""
    status = STATUS.get(failure.code, 400)
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    return Response(encode(error(failure)), status, headers, "application/json")


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
