"""The chart's rules and dashboard as Prometheus and Grafana get them, rendered by Helm's own engine."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson
from helm_python import Chart
from ruamel.yaml import YAML

CHART: Final = Path(__file__).parent.parent.parent / "helm" / "ticker"
NAMESPACE: Final = "prices"
#: The name of a pod of the release, as a Deployment gives it, and of one of another release beside it.
POD: Final = "ticker-5d9c7b8f4-x2x7k"
OTHER: Final = "ticker-eu-5d9c7b8f4-x2x7k"
#: What the templates take from the rest of the chart.
REST: Final = {
    "Chart.yaml": "apiVersion: v2\nname: ticker\nversion: 0.0.0\n",
    "templates/_helpers.tpl": (
        '{{- define "ticker.fullname" -}}{{ .Release.Name }}{{- end }}\n'
        '{{- define "ticker.labels" -}}\napp.kubernetes.io/name: ticker\n{{- end }}\n'
    ),
}
PARTS: Final = ("templates/_thresholds.tpl", "templates/prometheusrule.yaml", "templates/dashboard.yaml")


def rendered(**values: Any) -> dict[str, dict[str, Any]]:
    """Each document by its kind, of a chart that has these templates alone. Raises HelmRenderError."""
    defaults = {"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}
    with TemporaryDirectory() as name:
        folder = Path(name)
        for part, text in REST.items():
            (folder / part).parent.mkdir(exist_ok=True)
            (folder / part).write_text(text)
        for part in PARTS:
            shutil.copy(CHART / part, folder / part)
        shutil.copytree(CHART / "dashboards", folder / "dashboards")
        with Chart.load(folder) as chart:
            documents = chart.render(defaults | values, name="ticker", namespace=NAMESPACE)
    loaded = [YAML(typ="safe", pure=True).load(text) for text in documents.values() if text.strip()]
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
