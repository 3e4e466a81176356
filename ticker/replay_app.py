"""The edge of replays: `/v1/replay`, a WebSocket with a clock of its own, and `/v1/sources`, what there is to replay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from starlette.requests import HTTPConnection
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from feeds import options
from ticker.access import Grant
from ticker.directory import covering
from ticker.entry import grant_of, knock
from ticker.errors import Code, RequestError
from ticker.http import json
from ticker.protocol import SPEED_MAX
from ticker.replaying import Request
from ticker.replays import Replays

#: What the query of `/v1/replay` may hold.
QUERY: Final = ("source", "from", "to", "speed", "autoplay", "symbols", "skip_gap_s", "then", "session")
SKIP_GAP_S_MAX: Final = 86_400.0


def replays_of(connection: HTTPConnection) -> Replays | None:
    """The replays that the application of a request serves, if it does."""
    replays: Replays | None = connection.app.state.replays
    return replays


def request_of(query: Mapping[str, str], now: int) -> Request:
    """What the query of `/v1/replay` asks for at the time `now`. Raises RequestError."""
    for name in query:
        if name not in QUERY:
            raise RequestError(Code.INVALID_REQUEST, f"query: expected one of {', '.join(QUERY)}, was {name[:40]!r}")
    if "source" not in query:
        raise RequestError(Code.INVALID_REQUEST, "source: expected a name that /v1/sources lists, which is missing")
    then_live = _then_live(query)
    gap_s = _number(query, "skip_gap_s", SKIP_GAP_S_MAX)
    speed = _number(query, "speed", SPEED_MAX) if query.get("speed", "max") != "max" else None
    return Request(
        source=query["source"],
        start=_time(query, "from", now if then_live else None),
        end=_time(query, "to"),
        speed=speed if then_live or "speed" in query else 1.0,
        playing=_flag(query, "autoplay"),
        symbols=query.get("symbols"),
        skip_gap_us=None if gap_s is None else int(gap_s * 1e6),
        then_live=then_live,
    )


def _time(query: Mapping[str, str], name: str, now: int | None = None) -> int | None:
    """A time of the query; one back from `now` as well, where that is given."""
    text = query.get(name)
    if text is None:
        return None
    if now is not None and (back := options.time_back(text)) is not None:
        return now - back
    try:
        time = options.time(text)
    except ValueError:
        time = -1
    if time < 0:  # before 1970, where no tick is: -15 without its unit
        back_too = "" if now is None else ", or back such as -10m"
        expected = f"{name}: expected a time in ISO 8601 or since 1970{back_too}, was {text[:40]!r}"
        raise RequestError(Code.INVALID_REQUEST, expected)
    return time


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


def _then_live(query: Mapping[str, str]) -> bool:
    text = query.get("then")
    if text not in {None, "live"}:
        raise RequestError(Code.INVALID_REQUEST, f"then: expected live, was {text[:40]!r}")
    return text is not None


def check_replay(grant: Grant) -> None:
    """Raises RequestError where `grant` is for no replays."""
    if not grant.rights.replay:
        raise RequestError(Code.NOT_ENTITLED, "expected a grant of replays, was one without")


async def sources(request: HttpRequest) -> Response:
    """`/v1/sources`: what there is to replay, with its rows, time span and symbols. The first answer reads all of it."""
    knock(request)
    grant = grant_of(request)
    check_replay(grant)
    replays, covers = replays_of(request), covering(grant.rights.symbols)
    items = [] if replays is None else await replays.catalogue()
    seen = [item | ({"symbols": [*filter(covers, item["symbols"])]} if "symbols" in item else {}) for item in items]
    return json({"items": seen})
