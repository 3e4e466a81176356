"""The dashboard is whole: what Grafana needs is there, no panel lies over another, and each says what it shows."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from tests.ops.chart import CHART, dashboard, rendered
from tests.ops.names import METRICS, labels_of, metrics_of
from tests.ops.queries import expressions, panels

COLUMNS = 24
#: The schema of Grafana 11.0; newer ones migrate it as they load it.
SCHEMA = 39
#: The metrics that no panel shows, and why: none.
NOT_SHOWN: frozenset[str] = frozenset()


def test_the_config_map_carries_the_file_as_it_is() -> None:
    data = rendered()["ConfigMap"]["data"]
    assert data.keys() == {"ticker.json"}
    assert data["ticker.json"].strip() == (CHART / "dashboards" / "ticker.json").read_text().strip()


def test_labels_and_annotations_are_values() -> None:
    values = {"enabled": True, "labels": {"grafana_dashboard": "1"}, "annotations": {"grafana_folder": "Prices"}}
    metadata = rendered(dashboard=values)["ConfigMap"]["metadata"]
    assert metadata["labels"]["grafana_dashboard"] == "1"
    assert metadata["annotations"] == {"grafana_folder": "Prices"}


def test_it_has_its_schema_its_rows_and_its_variables() -> None:
    document = dashboard()
    assert document["schemaVersion"] == SCHEMA
    rows = [panel["title"] for panel in document["panels"] if panel["type"] == "row"]
    assert rows == ["Health and feeds", "Clients", "Fan-out", "Latency", "Refusals and closes", "Resources"]
    variables = {variable["name"]: variable for variable in document["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "pod"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    for name in ("job", "pod"):
        assert variables[name]["multi"]
        assert variables[name]["includeAll"]


def test_panels_have_ids_of_their_own() -> None:
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert sorted(set(ids)) == sorted(ids)


def test_no_panel_lies_over_another_or_over_the_edge() -> None:
    boxes = {panel["title"]: panel["gridPos"] for panel in dashboard()["panels"]}
    assert len(boxes) == len(dashboard()["panels"]), "two panels have one title"
    for box in boxes.values():
        assert 0 <= box["x"] < box["x"] + box["w"] <= COLUMNS
    for (one, a), (two, b) in combinations(boxes.items(), 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, f"{one} lies over {two}"


@pytest.mark.parametrize("panel", panels(dashboard()), ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert target["legendFormat"]
        for metric, labels in labels_of(target["expr"]):
            assert metric in METRICS, f"{metric} is no metric of the service"
            assert labels <= {*METRICS[metric], "job", "pod"}, f"{metric} has no {labels}"
            assert labels >= {"job", "pod"}, f"{metric} is not of the job and the pods that are chosen"
        assert set(metrics_of(target["expr"])) == {metric for metric, _ in labels_of(target["expr"])}


def test_every_metric_is_shown() -> None:
    shown = {metric for _, expression in expressions(dashboard()) for metric in metrics_of(expression)}
    assert shown == METRICS.keys() - NOT_SHOWN
