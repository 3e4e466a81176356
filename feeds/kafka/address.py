"""A Kafka feed's spec taken apart: ``kafka://host:port[,host:port]/topic[,topic]?start=...&format=...&map=...``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from feeds.feed import FeedError
from feeds.fields import FIELDS
from feeds.options import Spec, fields_renamed, time, time_back

PORT: Final = 9092

_LABEL = r"[^:\[\]/@,\s.]{1,63}"  # of a host's name: what is empty or longer cannot be looked up
_SERVER = re.compile(rf"(?P<host>\[[0-9a-fA-F:.]+\]|{_LABEL}(?:\.{_LABEL})*\.?)(?::(?P<port>[0-9]{{1,5}}))?")
#: What Kafka itself takes as the name of a topic.
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")

START: Final = "session, latest, earliest, a time back such as -15m, or a time in ISO 8601 or since 1970"


class Start(Enum):
    """Where reading begins, where that is no time."""

    #: At the start of the trading session, or with all of a compacted topic.
    SESSION = "session"
    LATEST = "latest"
    EARLIEST = "earliest"


@dataclass(frozen=True, slots=True)
class Back:
    """A time back from now."""

    us: int


@dataclass(frozen=True, slots=True)
class Address:
    """Which topics of which cluster, from where on, and what their values are.

    `start` is a `Start`, a `Back`, or a time in microseconds since the Unix epoch.
    """

    servers: tuple[str, ...]
    topics: tuple[str, ...]
    start: Start | Back | int = Start.SESSION
    format: str = "json"
    renamed: Mapping[str, str] | None = None


def parse(spec: Spec) -> Address:
    """The address that `spec` gives. Raises FeedError; no text of it holds what may be a secret."""
    servers, topics = _path(spec)
    address = Address(
        servers,
        topics,
        start=spec.option("start", Start.SESSION, start, START),
        format=spec.option("format", "json", str, "the name of a format"),
        renamed=spec.option("map", None, fields_renamed, f"field:name pairs, fields being {', '.join(FIELDS)}"),
    )
    spec.done()
    return address


def destination(spec: Spec) -> Address:
    """The address that `spec`, which is written to, gives: one topic and a format. Raises FeedError."""
    servers, topics = _path(spec)
    if len(topics) > 1:
        raise spec.error("expected one topic to write to")
    address = Address(servers, topics, format=spec.option("format", "json", str, "the name of a format"))
    spec.done()
    return address


def _path(spec: Spec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    form = "expected kafka://host:port[,host:port]/topic[,topic]"
    if "@" in spec.path:
        raise FeedError(f"feed kafka: {form}: a user and a password are settings, and never stand in a spec")
    if not spec.path.startswith("//"):
        raise spec.error(form)
    authority, _, path = spec.path[2:].partition("/")
    servers, topics = tuple(authority.split(",")), tuple(path.split(","))
    for server in servers:
        found = _SERVER.fullmatch(server)
        if found is None or int(found["port"] or PORT) not in range(1, 65536):
            raise spec.error(f"{form}, was {server!r} for a host and a port")
    for topic in topics:
        if _TOPIC.fullmatch(topic) is None or topic in {".", ".."}:
            raise spec.error(f"{form}, was {topic!r} for a topic")
    if len(set(topics)) < len(topics):
        raise spec.error("expected each topic once")
    return tuple(s if _SERVER.fullmatch(s)["port"] else f"{s}:{PORT}" for s in servers), topics  # type: ignore[index]


def start(text: str) -> Start | Back | int:
    """Where reading begins. Raises ValueError."""
    back = time_back(text)
    if back is not None:
        return Back(back)
    if text in {word.value for word in Start}:
        return Start(text)
    since_us = time(text)
    if since_us < 0:  # before 1970, where no record is: -15 without its unit
        raise ValueError
    return since_us
