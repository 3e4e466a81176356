"""When each alert is to fire and when not, as series in the shape that a scrape of the service has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.ops.chart import NAMESPACE, OTHER, POD

#: Seconds between scrapes, and between evaluations.
STEP_S = 30
MINUTES = 40
FEED = "kafka:ticks"
BOUNDS = ("0.001", "0.01", "0.05", "0.1", "0.25", "0.5", "1.0", "+Inf")

#: A series and its values in promtool's notation.
Series = Mapping[str, str]


def series(name: str, values: str, *, pod: str = POD, **labels: str) -> Series:
    """A series of a metric with the labels that a scrape in Kubernetes adds."""
    scraped = {"job": "ticker", "namespace": NAMESPACE, "pod": pod, "container": "ticker", "instance": "10.0.0.7:9000"}
    pairs = ",".join(f'{label}="{value}"' for label, value in (scraped | labels).items())
    return {"series": f"{name}{{{pairs}}}", "values": values}


def steady(value: float) -> str:
    """A value that stays for all of the time."""
    return f"{value}x{MINUTES * 60 // STEP_S}"


def counting(per_s: float) -> str:
    """A counter that grows so much a second."""
    return f"0+{per_s * STEP_S:g}x{MINUTES * 60 // STEP_S}"


def histogram(name: str, per_s: Mapping[str, float], **labels: str) -> list[Series]:
    """A histogram into whose buckets so many fall a second."""
    below, buckets = 0.0, []
    for bound in BOUNDS:
        below += per_s.get(bound, 0)
        buckets.append(series(f"{name}_bucket", counting(below), le=bound, **labels))
    return buckets


def feed_state(values: Mapping[str, str]) -> list[Series]:
    """One feed's state: all its series are there, and 0 where nothing else is said."""
    states = ("starting", "live", "stale", "down", "ended")
    return [series("ticker_feed_state", values.get(state, steady(0)), feed=FEED, state=state) for state in states]


HEALTHY: list[Series] = [
    series("ticker_info", steady(1), version="0.1.0"),
    series("ticker_ready", steady(1)),
    series("ticker_draining", steady(0)),
    series("ticker_connections", steady(5000), transport="websocket", mode="live"),
    series("ticker_connections", steady(12), transport="sse", mode="delayed"),
    *feed_state({"live": steady(1)}),
    series("ticker_feed_age_seconds", steady(0.02), feed=FEED),
    series("ticker_feed_lag", steady(40), feed=FEED),
    series("ticker_ticks_total", counting(5000), feed=FEED),
    series("ticker_bad_rows_total", steady(3), feed=FEED),
    series("ticker_refusals_total", counting(0.02), reason="auth"),
    series("ticker_refusals_total", steady(0), reason="full"),
    series("ticker_closes_total", counting(0.01), code="4408"),
    series("ticker_closes_total", counting(2), code="1001"),
    series("ticker_keys_valid", steady(1), file="jwt"),
    series("process_resident_memory_bytes", steady(240_000_000)),
    *histogram("ticker_round_duration_seconds", {"0.01": 9, "0.05": 1}),
    *histogram("ticker_event_loop_delay_seconds", {"0.001": 10}),
    *histogram("ticker_latency_seconds", {"0.1": 1000}, since="receive"),
    *histogram("ticker_latency_seconds", {"1.0": 1000}, since="venue"),
]


@dataclass(frozen=True)
class Case:
    """An alert, the series with which it fires, when it does and what it says, and series with which it does not."""

    alert: str
    fires: Sequence[Series]
    #: Minutes that it waits.
    wait: int
    labels: Mapping[str, str]
    summary: str
    description: str
    quiet: Sequence[Sequence[Series]]
    severity: str = "warning"


def of_another_release(fires: Sequence[Series]) -> list[Series]:
    """The same, of a pod that is not one of ours."""
    return [{**one, "series": one["series"].replace(POD, OTHER)} for one in fires]


SHOWN = f"{NAMESPACE}/{POD}"
SHORT = "0x20 1x1 0x58"
CASES: Final = (
    Case(
        "TickerFeedDown",
        feed_state({"down": steady(1)}),
        2,
        {"feed": FEED},
        f"Feed {FEED} is down on {SHOWN}",
        f"{SHOWN} has not been able to read {FEED} for 2m. It serves the last known state, marked as down, and tries on by itself.",
        [feed_state({"live": steady(1)}), feed_state({"stale": steady(1)}), feed_state({"down": SHORT})],
        severity="critical",
    ),
    Case(
        "TickerFeedStale",
        [*feed_state({"stale": steady(1)}), series("ticker_feed_age_seconds", steady(90), feed=FEED)],
        2,
        {"feed": FEED},
        f"Feed {FEED} brings nothing to {SHOWN}",
        f"The last tick of {FEED} came to {SHOWN} 1m 30s ago, though it can be read.",
        [
            [*feed_state({"down": steady(1)}), series("ticker_feed_age_seconds", steady(90), feed=FEED)],
            [*feed_state({"ended": steady(1)}), series("ticker_feed_age_seconds", steady(90), feed=FEED)],
            [*feed_state({"stale": steady(1)}), series("ticker_feed_age_seconds", steady(50), feed=FEED)],
        ],
    ),
    Case(
        "TickerFeedLagging",
        [series("ticker_feed_lag", steady(60_000), feed=FEED)],
        5,
        {"feed": FEED},
        f"{SHOWN} is behind on feed {FEED}",
        f"60k records of {FEED} are in the log that {SHOWN} has yet to read.",
        [[series("ticker_feed_lag", "900000-100000x9 0x60", feed=FEED)]],
    ),
    Case(
        "TickerBadRows",
        [
            series("ticker_bad_rows_total", counting(20), feed=FEED),
            series("ticker_ticks_total", counting(980), feed=FEED),
        ],
        10,
        {"feed": FEED},
        f"Rows of feed {FEED} cannot be read on {SHOWN}",
        f"2% of what {FEED} brings to {SHOWN} cannot be read, and is left out.",
        [
            [
                series("ticker_bad_rows_total", counting(0.5), feed=FEED),
                series("ticker_ticks_total", counting(999.5), feed=FEED),
            ],
            [series("ticker_bad_rows_total", steady(7), feed=FEED), series("ticker_ticks_total", steady(9), feed=FEED)],
        ],
    ),
    Case(
        "TickerClientsTooSlow",
        [
            series("ticker_closes_total", counting(0.5), code="4408"),
            series("ticker_connections", steady(3000), transport="websocket", mode="live"),
        ],
        5,
        {},
        f"Clients of {SHOWN} do not keep up",
        f"Within ten minutes {SHOWN} has closed 10% of its clients, of a hundred at the least, as too slow (4408).",
        [
            [
                series("ticker_closes_total", counting(0.5), code="1001"),
                series("ticker_connections", steady(3000), transport="websocket", mode="live"),
            ],
            [  # one of two
                series("ticker_closes_total", "0x20 1x60", code="4408"),
                series("ticker_connections", steady(1), transport="websocket", mode="live"),
            ],
        ],
    ),
    Case(
        "TickerRefusing",
        [series("ticker_refusals_total", counting(5), reason="full")],
        10,
        {"reason": "full"},
        f"{SHOWN} refuses connections (full)",
        f"{SHOWN} refuses 5 connections a second, for the reason full.",
        [
            [series("ticker_refusals_total", counting(5), reason="draining")],
            [series("ticker_refusals_total", counting(0.5), reason="auth")],
        ],
    ),
    Case(
        "TickerNearCapacity",
        [
            series("ticker_connections", steady(8000), transport="websocket", mode="live"),
            series("ticker_connections", steady(500), transport="sse", mode="live"),
        ],
        10,
        {},
        f"{SHOWN} is nearly full",
        f"{SHOWN} has 85% of the 10000 connections that it takes (connections_max).",
        [[series("ticker_connections", steady(7900), transport="websocket", mode="live")]],
    ),
    Case(
        "TickerHighLatency",
        histogram("ticker_latency_seconds", {"0.5": 90, "1.0": 10}, since="receive"),
        10,
        {"since": "receive"},
        f"Prices reach the clients of {SHOWN} late",
        f"In a hundredth of its rounds, what {SHOWN} sends is older than 950ms since it came in, the wait for the round included.",
        [
            histogram("ticker_latency_seconds", {"0.25": 100}, since="receive"),
            histogram("ticker_latency_seconds", {"0.5": 90, "1.0": 10}, since="venue"),
        ],
    ),
    Case(
        "TickerNotReady",
        [series("ticker_ready", steady(0)), series("ticker_draining", steady(0))],
        10,
        {},
        f"{SHOWN} is not ready",
        f"{SHOWN} has run for 10m without being ready: a feed has not brought its first ticks, or is still being caught up with.",
        [
            [series("ticker_ready", steady(0)), series("ticker_draining", steady(1))],
            [series("ticker_ready", "0x12 1x60"), series("ticker_draining", steady(0))],
        ],
        severity="critical",
    ),
    Case(
        "TickerSlowRounds",
        histogram("ticker_round_duration_seconds", {"0.01": 8, "0.1": 2}),
        10,
        {},
        f"Rounds of {SHOWN} take long",
        f"A hundredth of the rounds of {SHOWN} take more than 97.5ms: it has more to send than one core can.",
        [histogram("ticker_round_duration_seconds", {"0.01": 8, "0.05": 2})],
    ),
    Case(
        "TickerEventLoopDelay",
        histogram("ticker_event_loop_delay_seconds", {"0.01": 9, "0.25": 1}),
        10,
        {},
        f"The event loop of {SHOWN} is held up",
        f"A hundredth of what is due in {SHOWN} waits more than 235ms for its turn.",
        [histogram("ticker_event_loop_delay_seconds", {"0.01": 9, "0.1": 1})],
    ),
    Case(
        "TickerKeysInvalid",
        [series("ticker_keys_valid", steady(0), file="jwt"), series("ticker_keys_valid", steady(1), file="api")],
        5,
        {"file": "jwt"},
        f"{SHOWN} cannot take in its jwt key file",
        f"The newest content of the jwt key file of {SHOWN} is not valid: the last good keys count, and none is added or revoked.",
        [[series("ticker_keys_valid", "1x20 0x2 1x57", file="jwt")]],
    ),
    Case(
        "TickerMemory",
        [series("process_resident_memory_bytes", steady(1.5 * 2**30))],
        10,
        {},
        f"{SHOWN} takes much memory",
        f"{SHOWN} takes 1.5GiB, which is near what it may have.",
        [[series("process_resident_memory_bytes", steady(2**30))]],
    ),
    Case(
        "TickerAbsent",
        [series("ticker_info", steady(1), version="0.1.0", pod=OTHER)],
        5,
        {},
        "No pod of prices/ticker is scraped",
        "Prometheus has had no metric of any pod of prices/ticker for 5m: none runs, or none can be reached.",
        [
            [series("ticker_info", steady(1), version="0.1.0")],
            [series("ticker_info", "1x20 _x5 1x53", version="0.1.0")],
        ],
        severity="critical",
    ),
)
