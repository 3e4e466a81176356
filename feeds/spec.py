"""Opening a feed from a line of text, such as ``sim:?symbols=500`` or ``replay:day.csv.gz?speed=10``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from feeds.clock import Behind, Clock, WallClock
from feeds.feed import ON_TIME, Feed, Lateness
from feeds.kafka.address import Address
from feeds.kafka.setup import Setup
from feeds.options import Spec
from feeds.replay import open_replay
from feeds.simulated import open_simulated
from feeds.ticks import Symbols

#: Opens a feed from the spec, the symbols it may claim from, its name, its clock and how late that is; raises FeedError.
Opener = Callable[[Spec, Symbols, str, Clock, Lateness], Feed]

DEFAULTS: Final = Setup()


def open_kafka(
    spec: Spec, symbols: Symbols, name: str, clock: Clock, lateness: Lateness = ON_TIME, setup: Setup = DEFAULTS
) -> Feed:
    """The feed of ``kafka://``; who reads no topic need not load its client."""
    from feeds.kafka import feed  # noqa: PLC0415

    return feed.open_kafka(spec, symbols, name, clock, lateness, setup)


def open_topic(address: Address, setup: Setup, start: int, symbols: Symbols, name: str, clock: Clock) -> Feed:
    """The feed of topics from a time on, in microseconds: in the order of time while it catches up, and nothing twice."""
    from feeds.kafka import feed  # noqa: PLC0415

    topic = feed.Kafka(replace(address, start=start), setup, symbols, name=name, clock=clock)
    topic.go_on({})
    return topic


#: Each kind of feed by the scheme of its spec. A new kind is a line here.
SCHEMES: Final[Mapping[str, Opener]] = {"sim": open_simulated, "replay": open_replay, "kafka": open_kafka}


def open_feed(
    spec: str,
    symbols: Symbols,
    *,
    name: str | None = None,
    clock: Clock | None = None,
    kafka: Setup | None = None,
    lateness: Lateness = ON_TIME,
) -> Feed:
    """The feed that `spec` tells of, named `name` or else by its scheme. It brings nothing until it is iterated.

    `kafka` is how every topic is read; `clock` is that of all feeds: one that is late keeps one behind it. Raises FeedError, one line that says what was expected and what came, or names
    the file and the cause.
    """
    parsed = Spec(spec)
    opener = SCHEMES.get(parsed.scheme)
    if opener is None:
        raise parsed.error(f"expected one of {', '.join(f'{scheme}:' for scheme in SCHEMES)}")
    if opener is open_kafka and kafka is not None:
        opener = partial(open_kafka, setup=kafka)
    own = clock or WallClock()
    if lateness.delay_us:
        own = Behind(own, lateness.delay_us)
    return opener(parsed, symbols, name or parsed.scheme + lateness.suffix, own, lateness)
