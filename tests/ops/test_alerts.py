"""Each alert fires when it should and not otherwise, by promtool; what the chart's values make of the rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from helm_python import HelmRenderError

from tests.ops.cases import CASES, HEALTHY, MINUTES, STEP_S, Case, Series, of_another_release
from tests.ops.chart import NAMESPACE, POD, rendered, rules_file
from tests.ops.names import METRICS, labels_of, metrics_of
from tests.prometheus import found, promtool
from ticker.errors import Close

needs_promtool = pytest.mark.skipif(
    found("promtool") is None, reason="promtool was not found: `make prometheus` gets it where that may be done"
)
ALERTS = [case.alert for case in CASES]


def rules(kind: str, **values: Any) -> dict[str, dict[str, Any]]:
    """The rules of a kind (`alert`, `record`) by their names."""
    groups = rendered(**values)["PrometheusRule"]["spec"]["groups"]
    found = [rule for group in groups for rule in group["rules"] if kind in rule]
    named = {rule[kind]: rule for rule in found}
    assert len(named) == len(found), "two rules have one name"
    return named


def told(case: Case) -> dict[str, Any]:
    """The alert of a case as promtool is to see it."""
    pod = {} if case.alert == "TickerAbsent" else {"pod": POD}
    return {
        "exp_labels": {"severity": case.severity, "namespace": NAMESPACE, **pod, **case.labels},
        "exp_annotations": {
            "summary": case.summary,
            "description": case.description,
            "runbook_url": f"docs/deploy.md#{case.alert.lower()}",
        },
    }


def judged(folder: Path, given: Sequence[Series], expected: Mapping[str, Mapping[str, Sequence[Any]]]) -> str:
    """What promtool objects to: which alerts are expected, by name and time."""
    tests = [
        {"eval_time": minute, "alertname": alert, "exp_alerts": alerts}
        for alert, times in expected.items()
        for minute, alerts in times.items()
    ]
    file = folder / "test.json"
    file.write_bytes(
        orjson.dumps(
            {
                "rule_files": [str(rules_file(folder / "rules.json"))],
                "evaluation_interval": f"{STEP_S}s",
                "tests": [{"interval": f"{STEP_S}s", "input_series": given, "alert_rule_test": tests}],
            }
        )
    )
    code, said = promtool("test", "rules", file)
    assert (code == 0) == ("SUCCESS" in said), said
    return said if code else ""


@needs_promtool
def test_promtool_finds_no_fault_with_the_rules(tmp_path: Path) -> None:
    code, said = promtool("check", "rules", "--lint=all", "--lint-fatal", rules_file(tmp_path / "rules.json"))
    assert code == 0, said


@needs_promtool
@pytest.mark.parametrize("case", CASES, ids=ALERTS)
def test_an_alert_fires_when_it_should(case: Case, tmp_path: Path) -> None:
    # What is over a span of time (a rate) begins with the series: it takes a few minutes more than the alert waits.
    late = f"{case.wait + 12}m"
    early = f"{case.wait * 60 - STEP_S}s"
    expected = {case.alert: {early: [], late: [told(case)]}}
    assert judged(tmp_path, case.fires, expected) == ""


@needs_promtool
@pytest.mark.parametrize("case", CASES, ids=ALERTS)
def test_an_alert_does_not_fire_otherwise(case: Case, tmp_path: Path) -> None:
    never: dict[str, dict[str, list[Any]]] = {case.alert: {f"{minute}m": [] for minute in range(0, MINUTES, 2)}}
    absent = case.alert == "TickerAbsent"
    for given in [*case.quiet, HEALTHY, *([] if absent else [of_another_release(case.fires)])]:
        assert judged(tmp_path, given, never) == ""


@needs_promtool
def test_none_fires_while_all_is_well(tmp_path: Path) -> None:
    never: dict[str, dict[str, list[Any]]] = {
        alert: {f"{minute}m": [] for minute in range(0, MINUTES, 5)} for alert in rules("alert")
    }
    assert judged(tmp_path, HEALTHY, never) == ""


@needs_promtool
def test_what_is_expected_wrongly_is_found(tmp_path: Path) -> None:
    case = CASES[0]
    assert "exp:" in judged(tmp_path, case.fires, {case.alert: {"10m": []}})
    assert "exp:" in judged(tmp_path, HEALTHY, {case.alert: {"10m": [told(case)]}})


# -- what the rules are, without promtool ----------------------------------------------------------------------------


def test_every_alert_has_a_case_and_all_that_an_operator_is_told() -> None:
    alerts = rules("alert")
    assert sorted(alerts) == sorted(ALERTS)
    of_feeds = {case.alert for case in CASES if "feed" in case.labels}
    for name, rule in alerts.items():
        assert ("{{ $labels.feed }}" in rule["annotations"]["summary"]) == (name in of_feeds), name
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        assert re.fullmatch(r"[0-9]+m", rule["for"]), name
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, name
        if name != "TickerAbsent":
            for told in (rule["annotations"]["summary"], rule["annotations"]["description"]):
                assert "{{ $labels.pod }}" in told, name


def test_the_rules_read_metrics_and_labels_that_there_are() -> None:
    records = rules("record")
    for name, rule in (rules("alert") | records).items():
        for metric, labels in labels_of(rule["expr"]):
            assert metric in METRICS or metric in records, f"{name} reads {metric}"
            allowed = {*METRICS.get(metric, labels), "namespace", "pod", "le"}
            assert labels <= allowed, f"{name}: {metric} has no {labels - allowed}"
    assert {metric for rule in rules("alert").values() for metric in metrics_of(rule["expr"])}


def test_every_record_is_read_by_an_alert() -> None:
    read = " ".join(rule["expr"] for rule in (rules("alert") | rules("record")).values())
    assert [name for name in rules("record") if f"{name}{{" not in read] == []


def test_every_rule_looks_at_the_pods_of_its_release_alone() -> None:
    ours = f'namespace="{NAMESPACE}",pod=~"ticker-[0-9a-z]+-[0-9a-z]+"'
    for name, rule in (rules("alert") | rules("record")).items():
        matchers = re.findall(r"\{([^}]*)\}", rule["expr"])
        assert matchers, name
        assert [matcher for matcher in matchers if not matcher.startswith(ours)] == [], name
    chosen = rules("alert", prometheusRule={"enabled": True, "selector": 'job="prices"'})
    assert chosen["TickerFeedDown"]["expr"].count('{job="prices",state="down"}') == 1


def test_the_code_of_who_is_too_slow_is_the_one_that_is_sent() -> None:
    assert f'code="{Close.TOO_SLOW.code}"' in rules("record")["ticker:closes_too_slow:share"]["expr"]


# -- values ----------------------------------------------------------------------------------------------------------


def test_thresholds_are_values() -> None:
    given = {"feedLag": 5_000_000, "feedLagFor": "1m", "latencySeconds": 0.25}
    alerts = rules("alert", prometheusRule={"enabled": True, "thresholds": given})
    assert alerts["TickerFeedLagging"]["expr"].endswith("> 5000000")
    assert alerts["TickerFeedLagging"]["for"] == "1m"
    assert alerts["TickerHighLatency"]["expr"].endswith("> 0.25")


def test_a_threshold_that_is_not_known_is_refused() -> None:
    with pytest.raises(HelmRenderError, match=r"thresholds\.feedLags: expected one of absentFor, .*feedLag, "):
        rendered(prometheusRule={"enabled": True, "thresholds": {"feedLags": 1}})


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("512Mi", 456340275), ("1.5Gi", 1369020825), ("2G", 1700000000), (1000000000, 850000000), (None, 1073741824)],
)
def test_memory_is_held_against_the_limit_of_the_container(limit: str | int | None, expected: int) -> None:
    alerts = rules("alert", resources={"limits": {"memory": limit}})
    assert alerts["TickerMemory"]["expr"].endswith(f"> {expected}")


def test_a_limit_that_is_no_quantity_is_refused() -> None:
    with pytest.raises(HelmRenderError, match=r"expected a quantity such as 512Mi or 1\.5Gi, was 1,5Gi"):
        rendered(resources={"limits": {"memory": "1,5Gi"}})


def test_capacity_is_that_of_the_setting() -> None:
    alerts = rules("alert", settings={"connections_max": 4000})
    assert " / 4000 > 0.8" in alerts["TickerNearCapacity"]["expr"]
    assert "the 4000 connections" in alerts["TickerNearCapacity"]["annotations"]["description"]


def test_labels_and_the_runbook_are_values() -> None:
    values = {"enabled": True, "labels": {"release": "monitoring"}, "runbookUrl": "https://runbooks.example/ticker"}
    rule = rendered(prometheusRule=values)["PrometheusRule"]
    assert rule["metadata"]["labels"]["release"] == "monitoring"
    urls = [
        one["annotations"]["runbook_url"]
        for group in rule["spec"]["groups"]
        for one in group["rules"]
        if "alert" in one
    ]
    assert f"{values['runbookUrl']}#tickerfeeddown" in urls


def test_neither_is_there_unless_asked_for() -> None:
    assert rendered(prometheusRule={"enabled": False}, dashboard={"enabled": False}) == {}
