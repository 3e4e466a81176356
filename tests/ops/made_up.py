"""An exporter of made-up values of every metric that there is, to try queries on without the service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from tests.ops.names import HISTOGRAMS, METRICS

#: Values of each label, of which all combinations are there.
VALUES: Final = {
    "transport": ("websocket", "sse", "poll"),
    "mode": ("live", "delayed", "replay"),
    "channel": ("ticker", "trades", "bars"),
    "feed": ("sim", "replay"),
    "state": ("starting", "live", "stale", "down", "ended"),
    "since": ("venue", "receive"),
    "code": ("1000", "1001", "1012", "4401", "4408"),
    "reason": ("full", "draining", "rate", "address", "subject", "origin", "auth", "grant"),
    "file": ("jwt", "api"),
    "version": ("0.1.0",),
}
BOUNDS: Final = ("0.001", "0.01", "0.1", "1.0", "+Inf")


class _MadeUp:
    """Each gauge is 1; whatever counts grows by a hundred a second."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def collect(self) -> Iterator[Metric]:
        grown = 100 * (time.monotonic() - self._began)
        for name, labels in METRICS.items():
            if name.startswith("process_"):
                continue  # the library's own, which are true
            for values in _combinations(labels):
                if name in HISTOGRAMS:
                    histogram = HistogramMetricFamily(name, name, labels=labels)
                    buckets = [(bound, grown * at / len(BOUNDS)) for at, bound in enumerate(BOUNDS, 1)]
                    histogram.add_metric(values, buckets, sum_value=grown / 100)
                    yield histogram
                elif name.endswith("_total"):
                    counter = CounterMetricFamily(name, name, labels=labels)
                    counter.add_metric(values, grown)
                    yield counter
                else:
                    gauge = GaugeMetricFamily(name, name, labels=labels)
                    gauge.add_metric(values, 1)
                    yield gauge


def _combinations(labels: tuple[str, ...]) -> list[list[str]]:
    rows: list[list[str]] = [[]]
    for label in labels:
        rows = [[*row, value] for row in rows for value in VALUES[label]]
    return rows


@contextmanager
def exporting() -> Iterator[int]:
    """The exporter, on a free port of 127.0.0.1, which is given."""
    registry = CollectorRegistry()
    registry.register(_MadeUp())
    ProcessCollector(registry=registry)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
