"""Every query of the dashboard and of the rules has an answer from a real Prometheus that scrapes the real service."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.feeds.conftest import trade, write_csv
from tests.ops.chart import NAMESPACE, POD, dashboard, rules_file
from tests.ops.crowd import crowding
from tests.ops.made_up import exporting
from tests.ops.names import HISTOGRAMS, METRICS
from tests.ops.queries import expressions
from tests.ops.test_alerts import rules
from tests.prometheus import Prometheus, found, scraping
from tests.servers import Server, serving
from ticker.access import Rights
from ticker.keys import add

pytestmark = pytest.mark.skipif(
    found("prometheus") is None, reason="Prometheus was not found: `make prometheus` gets it where that may be done"
)
#: Long enough for rates: over ten seconds of scrapes, one a second.
SCRAPED_S = 15
#: When the recording begins.
DAY_US = 1_753_963_200_000_000
#: Panels that the real service leaves empty here, and why.
EMPTY = {
    "Feed lag": "neither feed is a topic",
}


@contextmanager
def prometheus(folder: Path, port: int, token: str = "") -> Iterator[Prometheus]:
    """A Prometheus that scrapes a port as if it were a pod's, and evaluates the rules, once its series are long enough."""
    job: dict[str, Any] = {
        "job_name": "ticker",
        "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": NAMESPACE, "pod": POD}}],
    }
    if token:
        job["authorization"] = {"credentials": token}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules_file(folder / "rules.json"))],
        "scrape_configs": [job],
    }
    with scraping(folder, config) as running:
        time.sleep(SCRAPED_S)
        (target,) = running.get("targets")["activeTargets"]
        assert target["health"] == "up", target["lastError"]
        yield running


def unanswered(running: Prometheus) -> dict[str, str]:
    """The dashboard's queries that have no series, or only such as are not a number, by their panels."""
    return {
        title: expression
        for title, expression in expressions(dashboard())
        if not any(_is_number(series) for series in running.query(expression))
    }


def _is_number(series: dict[str, Any]) -> bool:
    return bool(series["value"][1] != "NaN")


def assert_rules_work(running: Prometheus) -> None:
    """Each rule is evaluated without an error, each record has values, and there is a series for each that an alert reads."""
    evaluated = [rule for group in running.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in evaluated} == rules("alert").keys() | rules("record").keys()
    assert [rule["lastError"] for rule in evaluated if rule["health"] != "ok"] == []
    for name in rules("record"):
        assert running.query(name), f"{name} has no series"
    for name, rule in rules("alert").items():
        for selector in re.findall(r"[\w:]+\{[^}]*\}", rule["expr"]):
            if "feed_lag" not in selector:
                assert running.query(selector), f"{name} reads {selector}, which has no series"


# -- made-up series: what is asked is understood, whatever the service has ---------------------------------------------


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with exporting() as port, prometheus(tmp_path_factory.mktemp("made-up"), port) as running:
        yield running


def test_every_query_is_answered_from_made_up_series(made_up: Prometheus) -> None:
    assert unanswered(made_up) == {}


def test_the_rules_work_on_made_up_series(made_up: Prometheus) -> None:
    assert_rules_work(made_up)


def test_a_query_of_what_there_is_not_has_no_answer(made_up: Prometheus) -> None:
    assert made_up.query('ticker_feed_state{state="asleep"}') == []
    with pytest.raises(AssertionError, match="parse error"):
        made_up.query("sum by (")


# -- the real service --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A service of two feeds that asks for tokens, with one that grants all, the metrics too."""
    folder = tmp_path_factory.mktemp("service")
    token = add(folder / "keys.json", "operator", Rights(("*",), 0, stats=True), int(time.time()))
    trades = [trade(DAY_US + n * 10_000, f"R{n % 5}", 100 + n % 7) for n in range(1000)]
    recording = write_csv(folder / "day.csv", trades)
    feeds = ("sim:?symbols=50&rate=2000", f"replay:{recording}?speed=1&loop=1")
    flags = ["--api-keys-file", str(folder / "keys.json"), "--socket-buffer-bytes", "4096"]
    flags += ["--send-buffer-bytes-max", "1000", "--send-buffer-s-max", "0.5"]
    with serving(*feeds, flags=flags) as server:
        answer = server.get("/metrics", {"authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        yield server, token


@pytest.fixture(scope="module")
def running(service: tuple[Server, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    server, token = service
    port = int(server.url.rsplit(":", 1)[1])
    with crowding(server.url, token), prometheus(tmp_path_factory.mktemp("real"), port, token) as running:
        yield running


def test_no_panel_is_empty(running: Prometheus) -> None:
    empty = unanswered(running)
    assert empty.keys() <= EMPTY.keys(), {title: empty[title] for title in empty.keys() - EMPTY.keys()}


def test_the_metrics_are_those_that_rules_and_panels_are_made_of(
    service: tuple[Server, str], running: Prometheus
) -> None:
    server, token = service
    text = server.get("/metrics", {"authorization": f"Bearer {token}"}).text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            part = re.sub(r"_(bucket|count|sum)$", "", sample.name)
            name = part if part in HISTOGRAMS else sample.name
            found.setdefault(name, set()).update(sample.labels.keys() - {"le"})
    silent = METRICS.keys() - found.keys() - {"ticker_feed_lag"}  # which a topic alone has
    assert silent == set()
    assert {name for name in found if name.startswith("ticker_")} <= METRICS.keys()
    assert {name: labels for name, labels in found.items() if labels != set(METRICS.get(name, labels))} == {}


def test_the_rules_work(running: Prometheus) -> None:
    assert_rules_work(running)


def test_who_was_too_slow_and_who_had_no_token_are_counted(running: Prometheus) -> None:
    (slow,) = running.query('sum(ticker_closes_total{code="4408"})')
    (refused,) = running.query('sum(ticker_refusals_total{reason="auth"})')
    assert float(slow["value"][1]) >= 1
    assert float(refused["value"][1]) >= 1
