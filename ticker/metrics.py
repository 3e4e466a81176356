"""`/metrics`: what the process has counted and how it is now, for Prometheus, read when it is asked for.

Nothing is kept here: the numbers are those of `ticker.counts`, of the feeds and of the hubs. No symbol, subject or
address is ever a label, so that the number of series is bounded by what the operator has configured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ticker.counts import Counts, Histogram
from ticker.credentials import Credentials
from ticker.errors import Close
from ticker.gate import Gate
from ticker.health import FeedState
from ticker.hub import Hub
from ticker.presence import watched_of
from ticker.replays import Replays
from ticker.tiers import Tiers

TRANSPORTS: Final = ("websocket", "sse", "poll")
MODES: Final = ("live", "delayed", "replay")
REASONS: Final = ("full", "draining", "rate", "address", "subject", "origin", "auth", "grant")


class Metrics(Collector):
    """The metrics of one application."""

    def __init__(self, tiers: Tiers, replays: Replays | None, credentials: Credentials, gate: Gate) -> None:
        self._tiers = tiers
        self._replays = replays
        self._credentials = credentials
        self._gate = gate
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that `accept`, a header, asks for, and its content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """What prometheus-client asks for."""
        counts = self._tiers.live.hub.counts
        yield _info()
        yield from self._readiness()
        yield from self._clients()
        yield from _rounds(counts)
        yield from self._feeds()
        yield from self._endings(counts)

    def describe(self) -> Iterable[Metric]:
        """Nothing is to be collected before it is asked for."""
        return []

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _hubs(self) -> Iterator[tuple[str, Hub]]:
        for service in self._tiers:
            yield "delayed" if service.delay_ms else "live", service.hub
        for replay in self._replays.replays.values() if self._replays else ():
            yield "replay", replay.hub

    def _readiness(self) -> Iterator[Metric]:
        draining = self._gate.draining
        yield _gauge("ready", "1 while traffic may come.", self._tiers.ready and not draining)
        yield _gauge("draining", "1 once nobody is let in any more, because the process is going to stop.", draining)
        keys = GaugeMetricFamily(
            "ticker_keys_valid", "1 while the newest content of a key file is good.", labels=["file"]
        )
        for file in self._credentials.files:
            keys.add_metric([file.name], file.valid)
        yield keys

    def _clients(self) -> Iterator[Metric]:
        held: Counter[tuple[str, str]] = Counter()
        watched: Counter[str] = Counter()
        lanes: Counter[str] = Counter()
        for mode, hub in self._hubs():
            for transport, count in Counter(client.outlet.transport for client in hub.clients).items():
                held[transport, mode] += count
            for channel, counts in watched_of(hub).items():
                watched[channel] += int(counts.sum())
            for channel, count in hub.lanes().items():
                lanes[channel] += count
        connections = GaugeMetricFamily("ticker_connections", "Clients.", labels=["transport", "mode"])
        for transport in TRANSPORTS:
            for mode in MODES:
                connections.add_metric([transport, mode], held[transport, mode])
        yield connections
        yield _gauge("subjects", "Different subjects whose tokens are in use.", self._gate.subjects)
        yield _by_channel(GaugeMetricFamily, "subscriptions", "Symbols watched, summed over clients.", watched)
        yield _by_channel(GaugeMetricFamily, "lanes", "Different ways of being served.", lanes)
        yield _gauge("symbols", "Symbols that live feeds have brought.", self._tiers.live.hub.directory.known)

    def _feeds(self) -> Iterator[Metric]:
        age = GaugeMetricFamily("ticker_feed_age_seconds", "Time since a feed's last ticks came in.", labels=["feed"])
        state = GaugeMetricFamily("ticker_feed_state", "1 for the state that a feed is in.", labels=["feed", "state"])
        lag = GaugeMetricFamily("ticker_feed_lag", "Records not read yet, where a feed can tell.", labels=["feed"])
        ticks = CounterMetricFamily("ticker_ticks", "Ticks that feeds have brought.", labels=["feed"])
        bad = CounterMetricFamily("ticker_bad_rows", "Rows and records that could not be read.", labels=["feed"])
        refused = CounterMetricFamily("ticker_refused_ticks", "Ticks of another feed's symbol.", labels=["feed"])
        skipped = CounterMetricFamily("ticker_skipped_records", "Records gone before they were read.", labels=["feed"])
        for service in self._tiers:
            for name, health in service.health.items():
                now, stats = service.clock.now(), health.feed.stats
                age_ms, found = health.age_ms(now), health.state(now)
                if age_ms is not None:
                    age.add_metric([name], age_ms / 1000)
                if stats.lag is not None:
                    lag.add_metric([name], stats.lag)
                for one in FeedState:
                    state.add_metric([name, str(one)], one is found)
                for family, value in (
                    (ticks, stats.ticks),
                    (bad, stats.rejected),
                    (refused, stats.refused),
                    (skipped, stats.skipped),
                ):
                    family.add_metric([name], value)
        yield from (age, state, lag, ticks, bad, refused, skipped)

    def _endings(self, counts: Counts) -> Iterator[Metric]:
        closes = CounterMetricFamily("ticker_closes", "Connections closed by the server.", labels=["code"])
        for close in Close:
            closes.add_metric([str(close.code)], counts.closes[close.code])
        refusals = CounterMetricFamily("ticker_refusals", "Connections and requests refused.", labels=["reason"])
        for reason in REASONS:
            refusals.add_metric([reason], self._gate.refusals[reason])
        yield from (closes, refusals)
        yield _histogram("event_loop_delay_seconds", "By how much the event loop was late.", counts.lateness)


def _rounds(counts: Counts) -> Iterator[Metric]:
    tallies = counts.tallies
    rounds = {channel: tally.rounds for channel, tally in tallies.items()}
    items = {channel: tally.items for channel, tally in tallies.items()}
    yield _by_channel(CounterMetricFamily, "rounds", "Rounds of lanes in which there was something to send.", rounds)
    yield _histogram("round_duration_seconds", "Time that the rounds of one moment took.", counts.durations)
    skipped = sum(tally.skipped for tally in tallies.values())
    yield _counter("rounds_skipped", "Rounds that a client was skipped in, because it did not keep up.", skipped)
    yield _by_channel(
        CounterMetricFamily, "items_sent", "Symbols that messages brought items of, for each client.", items
    )
    yield _counter("messages_sent", "Messages handed to sockets and responses.", counts.messages)
    yield _counter("sent_bytes", "Their bytes.", counts.bytes)
    changes, ticks = (sum(getattr(tally, name) for tally in tallies.values()) for name in ("changes", "ticks"))
    ratio = ticks / changes if changes else 1.0
    yield _gauge("conflation_ratio", "Ticks in each change of a symbol that was sent, since the start.", ratio)
    latency = HistogramMetricFamily(
        "ticker_latency_seconds", "Age of a round's newest tick when it had been sent, live.", labels=["since"]
    )
    for since, histogram in (("venue", counts.since_venue), ("receive", counts.since_receive)):
        latency.add_metric([since], _buckets(histogram), histogram.sum)
    yield latency


# -- families ----------------------------------------------------------------------------------------------------------


def _info() -> Metric:
    family = GaugeMetricFamily("ticker_info", "1, with the version.", labels=["version"])
    family.add_metric([version("ticker")], 1)
    return family


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"ticker_{name}", about, value=float(value))


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(f"ticker_{name}", about, value=value)


def _by_channel(
    kind: type[GaugeMetricFamily | CounterMetricFamily], name: str, about: str, values: dict[str, int]
) -> Metric:
    family = kind(f"ticker_{name}", about, labels=["channel"])
    for channel, value in values.items():
        family.add_metric([channel], value)
    return family


def _histogram(name: str, about: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(f"ticker_{name}", about, buckets=_buckets(histogram), sum_value=histogram.sum)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """By upper bound, how many values are not above it."""
    total, buckets = 0, []
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
