"""The edge of replays: `/v1/replay`, a WebSocket with a clock of its own, and `/v1/sources`, what there is to replay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from starlette.requests import HTTPConnection
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from feeds import options
from ticker.errors import Code, RequestError
from ticker.http import json
from ticker.protocol import SPEED_MAX
from ticker.replays import Replays, Request

#: What the query of `/v1/replay` may hold.
QUERY: Final = ("source", "from", "to", "speed", "autoplay", "symbols", "skip_gap_s", "session")
SKIP_GAP_S_MAX: Final = 86_400.0


def replays_of(connection: HTTPConnection) -> Replays | None:
    """The replays that the application of a request serves, if it does."""
    replays: Replays | None = connection.app.state.replays
    return replays


def request_of(query: Mapping[str, str]) -> Request:
    """What the query of `/v1/replay` asks for. Raises RequestError."""
    for name in query:
        if name not in QUERY:
            raise RequestError(Code.INVALID_REQUEST, f"query: expected one of {', '.join(QUERY)}, was {name[:40]!r}")
    if "source" not in query:
        raise RequestError(Code.INVALID_REQUEST, "source: expected a name that /v1/sources lists, which is missing")
    gap_s = _number(query, "skip_gap_s", SKIP_GAP_S_MAX)
    return Request(
        source=query["source"],
        start=_time(query, "from"),
        end=_time(query, "to"),
        speed=None if query.get("speed") == "max" else _number(query, "speed", SPEED_MAX) or 1.0,
        playing=_flag(query, "autoplay"),
        symbols=query.get("symbols"),
        skip_gap_us=None if gap_s is None else int(gap_s * 1e6),
    )


def _time(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        return options.time(text)
    except ValueError:
        expected = f"{name}: expected a time in ISO 8601 or since 1970, was {text[:40]!r}"
        raise RequestError(Code.INVALID_REQUEST, expected) from None


def _number(query: Mapping[str, str], name: str, most: float) -> float | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= most:  # nor is NaN
        also = "max or " if name == "speed" else ""
        expected = f"{name}: expected {also}a number above 0, up to {most:g}, was {text[:40]!r}"
        raise RequestError(Code.INVALID_REQUEST, expected)
    return number


def _flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "0")
    if text not in {"0", "1"}:
        raise RequestError(Code.INVALID_REQUEST, f"{name}: expected 0 or 1, was {text[:40]!r}")
    return text == "1"


async def sources(request: HttpRequest) -> Response:
    """`/v1/sources`: what there is to replay, with its rows, time span and symbols. The first answer reads all of it."""
    replays = replays_of(request)
    return json({"items": [] if replays is None else await replays.catalogue()})
