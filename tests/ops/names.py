"""The metrics that the service has, and what may be said of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

#: Each metric and its labels, without those that the scrape adds.
METRICS: Final[dict[str, tuple[str, ...]]] = {
    "ticker_connections": ("transport", "mode"),
    "ticker_subjects": (),
    "ticker_subscriptions": ("channel",),
    "ticker_lanes": ("channel",),
    "ticker_rounds_total": ("channel",),
    "ticker_round_duration_seconds": (),
    "ticker_rounds_skipped_total": (),
    "ticker_items_sent_total": ("channel",),
    "ticker_messages_sent_total": (),
    "ticker_sent_bytes_total": (),
    "ticker_ticks_total": ("feed",),
    "ticker_conflation_ratio": (),
    "ticker_symbols": (),
    "ticker_feed_age_seconds": ("feed",),
    "ticker_feed_state": ("feed", "state"),
    "ticker_feed_lag": ("feed",),
    "ticker_bad_rows_total": ("feed",),
    "ticker_refused_ticks_total": ("feed",),
    "ticker_skipped_records_total": ("feed",),
    "ticker_latency_seconds": ("since",),
    "ticker_closes_total": ("code",),
    "ticker_refusals_total": ("reason",),
    "ticker_event_loop_delay_seconds": (),
    "ticker_ready": (),
    "ticker_draining": (),
    "ticker_keys_valid": ("file",),
    "ticker_info": ("version",),
    "process_cpu_seconds_total": (),
    "process_max_fds": (),
    "process_open_fds": (),
    "process_resident_memory_bytes": (),
    "process_start_time_seconds": (),
}
HISTOGRAMS: Final = frozenset(
    ("ticker_round_duration_seconds", "ticker_latency_seconds", "ticker_event_loop_delay_seconds")
)


def metrics_of(expression: str) -> Iterator[str]:
    """The metrics that an expression reads; those of recording rules, which have colons, are not among them."""
    for name in re.findall(r"(?<![\w:])(?:ticker|process)_\w+(?![\w:])", re.sub(r'"[^"]*"', '""', expression)):
        part = re.sub(r"_(bucket|count|sum)$", "", name)
        yield part if part in HISTOGRAMS else name


def labels_of(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each series that an expression reads, recorded ones too, with the labels by which it selects."""
    for name, matchers in re.findall(r"((?:ticker|process)[:_][\w:]+)\{([^}]*)\}", expression):
        part = re.sub(r"_(bucket|count|sum)$", "", name)
        metric = part if part in HISTOGRAMS else name
        yield metric, set(re.findall(r"(\w+)(?:=~|!~|!=|=)", matchers))
