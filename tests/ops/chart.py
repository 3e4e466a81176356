"""The chart's rules and dashboard as Prometheus and Grafana get them, rendered by Helm's own engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson
from helm_python import Chart
from ruamel.yaml import YAML

CHART: Final = Path(__file__).parent.parent.parent / "helm" / "ticker"
NAMESPACE: Final = "prices"
#: The name of a pod of the release, as a Deployment gives it, and of one of another release beside it.
POD: Final = "ticker-5d9c7b8f4-x2x7k"
OTHER: Final = "ticker-eu-5d9c7b8f4-x2x7k"


def rendered(**values: Any) -> dict[str, dict[str, Any]]:
    """The rules and the dashboard by their kind. Raises HelmRenderError."""
    defaults: dict[str, Any] = {"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}
    defaults["resources"] = {"limits": {"memory": None}}  # a container without a limit
    with Chart.load(CHART) as chart:
        documents = chart.render(defaults | values, name="ticker", namespace=NAMESPACE)
    own = [text for path, text in documents.items() if path.endswith(("prometheusrule.yaml", "dashboard.yaml"))]
    loaded = [YAML(typ="safe", pure=True).load(text) for text in own if text.strip()]
    return {document["kind"]: document for document in loaded}


def rules_file(path: Path, **thresholds: Any) -> Path:
    """The groups of rules as a file for Prometheus and promtool."""
    rule = rendered(prometheusRule={"enabled": True, "thresholds": thresholds})["PrometheusRule"]
    path.write_bytes(orjson.dumps({"groups": rule["spec"]["groups"]}))  # JSON is YAML
    return path


def dashboard() -> dict[str, Any]:
    """The dashboard as the ConfigMap carries it."""
    document: dict[str, Any] = orjson.loads(rendered()["ConfigMap"]["data"]["ticker.json"])
    return document
