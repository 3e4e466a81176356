"""The chart: every file of values renders to what Kubernetes takes, and what does not go together is refused."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
from helm_python import Chart
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError

from feeds.clock import WallClock
from feeds.ticks import Symbols
from tests.hand import HandFeed
from tests.helm.generated import CHART, readme, schema
from tests.servers import environment, serving
from ticker.server import create_app, create_internal_app
from ticker.service import Service
from ticker.settings import Settings, variable

CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
#: Versions of Kubernetes: the oldest that the chart is for, one between, and the newest whose schemas there are.
VERSIONS = ("1.30", "1.33", kubernetes_validate.latest_version())
#: What `kubernetes_validate` knows no schema of.
CUSTOM = frozenset(("HTTPRoute", "ScaledObject", "ServiceMonitor", "PodMonitor", "PrometheusRule"))
Document = dict[str, Any]
TYPES: dict[str, Any] = {setting.name: type(setting.default) for setting in fields(Settings)}


def load(text: str) -> Any:
    """YAML to the letter: a key that comes twice is an error."""
    return YAML(typ="safe", pure=True).load(text)


@cache
def chart() -> Chart:
    return Chart.load(CHART)


def values_of(case: str) -> Document:
    return load((CHART / "ci" / f"{case}-values.yaml").read_text()) or {}


def render(values: Document, name: str = "demo") -> list[Document]:
    """The documents that the chart comes to."""
    rendered = chart().render(values, name=name, namespace="prices")
    texts = [text for path, text in sorted(rendered.items()) if not path.endswith(".txt")]
    found = []
    for text in texts:
        loader = YAML(typ="safe", pure=True)
        found += [document for document in loader.load_all(io.StringIO(text)) if document]
    return found


def of_kind(documents: list[Document], kind: str, name: str | None = None) -> Document:
    (found,) = [
        document
        for document in documents
        if document["kind"] == kind and (name is None or document["metadata"]["name"] == name)
    ]
    return found


def pod_of(documents: list[Document]) -> Document:
    spec: Document = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
    return spec


def container_of(documents: list[Document]) -> Document:
    found: Document = pod_of(documents)["containers"][0]
    return found


# -- every file of values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_it_passes_helms_own_lint(case: str) -> None:
    found = helm_python.lint(CHART, values=values_of(case), strict=True)
    assert not found.get("errors"), found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_document(case: str, version: str) -> None:
    documents = render(values_of(case))
    assert {"ConfigMap", "Deployment", "Service", "Pod"} <= {document["kind"] for document in documents}
    for document in documents:
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)


def test_a_key_that_comes_twice_would_be_found() -> None:
    with pytest.raises(DuplicateKeyError):
        load("a: 1\na: 2\n")


@pytest.mark.parametrize("case", CASES)
def test_what_belongs_together_does(case: str) -> None:
    documents = render(values_of(case))
    deployment = of_kind(documents, "Deployment")
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    ports = {port["name"]: port["containerPort"] for port in container_of(documents)["ports"]}
    services = [document for document in documents if document["kind"] == "Service"]
    tester = of_kind(documents, "Pod")["metadata"]["labels"].items()
    for service in services:
        selector = service["spec"]["selector"].items()
        assert selector <= labels
        assert not selector <= tester, "the test pod would be sent clients"
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports
    names = {document["metadata"]["name"] for document in documents if document["kind"] == "Service"}
    for document in documents:
        kind, spec = document["kind"], document.get("spec", {})
        assert document["metadata"].get("namespace", "prices") == "prices"
        match kind:
            case "PodDisruptionBudget":
                assert spec["selector"]["matchLabels"].items() <= labels
            case "NetworkPolicy":
                assert spec["podSelector"]["matchLabels"].items() <= labels
                assert {port["port"] for rule in spec["ingress"] for port in rule["ports"]} <= ports.keys()
            case "PodMonitor":
                assert spec["selector"]["matchLabels"].items() <= labels
                assert {endpoint["port"] for endpoint in spec["podMetricsEndpoints"]} <= ports.keys()
            case "ServiceMonitor":
                (target,) = [
                    service
                    for service in services
                    if spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
                ]
                assert spec["endpoints"][0]["port"] in {port["name"] for port in target["spec"]["ports"]}
            case "Ingress":
                backends = [path["backend"]["service"] for rule in spec["rules"] for path in rule["http"]["paths"]]
                assert {backend["name"] for backend in backends} <= names
            case "HTTPRoute":
                (backend,) = spec["rules"][0]["backendRefs"]
                assert backend["name"] in names
                assert backend["port"] == of_kind(services, "Service", backend["name"])["spec"]["ports"][0]["port"]
            case "HorizontalPodAutoscaler" | "ScaledObject":
                assert spec["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
                assert "replicas" not in deployment["spec"]


@pytest.mark.parametrize("case", CASES)
def test_names_fit_and_are_told_apart(case: str) -> None:
    for name in ("demo", "ticker", "a" * 53):
        documents = render(values_of(case), name)
        keys = [(document["kind"], document["metadata"]["name"]) for document in documents]
        assert len(set(keys)) == len(keys)
        assert all(len(found) <= 63 for _, found in keys)


# -- the pod -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_environment_is_settings_that_the_service_takes(case: str) -> None:
    documents = render(values_of(case))
    data = of_kind(documents, "ConfigMap", container_of(documents)["envFrom"][0]["configMapRef"]["name"])["data"]
    known = {variable(setting): setting for setting in fields(Settings)}
    assert set(data) <= known.keys() | {"TICKER_FEED", "TICKER_SOURCE"}
    given = {known[name].name: TYPES[known[name].name](text) for name, text in data.items() if name in known}
    settings = Settings(**given)
    assert settings.host == "0.0.0.0"
    grace = pod_of(documents)["terminationGracePeriodSeconds"]
    stop = container_of(documents).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert grace >= stop + settings.drain_delay_s + settings.drain_spread_s + settings.shutdown_s_max
    ports = {port["name"]: port["containerPort"] for port in container_of(documents)["ports"]}
    assert ports["http"] == settings.port
    assert ports.get("internal", 0) == settings.internal_port
    # Each file that a setting names is in a volume that is mounted there, from a key of a Secret.
    mounts = {mount["mountPath"]: mount["name"] for mount in container_of(documents)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_of(documents)["volumes"]}
    named = {Path(value) for name, value in given.items() if name.endswith("_file") and value}
    mounted = {
        Path(path) / item["path"]
        for path, name in mounts.items()
        if "secret" in volumes[name]
        for item in volumes[name]["secret"]["items"]
    }
    assert named == mounted
    assert not any("subPath" in mount for mount in container_of(documents)["volumeMounts"]), "a new key would not come"


@pytest.mark.parametrize("case", CASES)
def test_probes_ask_for_what_there_is(case: str) -> None:
    documents = render(values_of(case))
    service = Service(Settings(), Symbols(), [HandFeed(Symbols())], WallClock())
    app = create_app(service)
    apps = {"http": app, "internal": create_internal_app(app)}
    container = container_of(documents)
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        asked = container[probe]["httpGet"]
        assert asked["path"] == path
        assert path in {getattr(route, "path", None) for route in apps[asked["port"]].routes}


@pytest.mark.parametrize("case", CASES)
def test_pods_may_do_little(case: str) -> None:
    documents = render(values_of(case))
    for pod in (pod_of(documents), of_kind(documents, "Pod")["spec"]):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        own = pod["containers"][0]["securityContext"]
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
    assert {"name": "tmp", "emptyDir": {}} in pod_of(documents)["volumes"]
    quantity = re.compile(r"^[0-9.]+(m|[kMGT]i?)?$")
    for part in ("requests", "limits"):
        assert all(quantity.match(str(value)) for value in container_of(documents)["resources"][part].values())


def test_a_rollout_has_all_new_pods_ready_first() -> None:
    strategy = of_kind(render({}), "Deployment")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "100%"}}


def test_another_setting_is_another_pod() -> None:
    def checksum(**settings: Any) -> str:
        template = of_kind(render({"settings": settings}), "Deployment")["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/config"]
        return found

    assert checksum() == checksum()
    assert checksum(interval_ms=100) != checksum(interval_ms=200)


def test_an_image_is_named_by_tag_or_digest() -> None:
    digest = "sha256:" + "a" * 64
    assert container_of(render({}))["image"] == "ticker:0.1.0"
    assert container_of(render({"image": {"tag": "x"}}))["image"] == "ticker:x"
    assert container_of(render({"image": {"tag": "x", "digest": digest}}))["image"] == f"ticker@{digest}"


def test_large_numbers_stay_whole() -> None:
    data = of_kind(render({"settings": {"replay_checkpoint_bytes_max": 1 << 30, "header_s_max": 2.5}}), "ConfigMap")[
        "data"
    ]
    assert data["TICKER_REPLAY_CHECKPOINT_BYTES_MAX"] == "1073741824"
    assert data["TICKER_HEADER_S_MAX"] == "2.5"


# -- what does not go together -------------------------------------------------------------------------------------

SCALER = {"enabled": True, "connections": 10}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"hpa": SCALER, "keda": SCALER}, "hpa.enabled and keda.enabled: expected only one of them"),
        (
            {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}},
            "serviceMonitor.enabled and podMonitor.enabled: expected only one of them",
        ),
        ({"ingress": {"enabled": True}}, "ingress.hosts: expected at least one host"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs: expected at least one gateway"),
        (
            {"terminationGracePeriodSeconds": 59},
            "terminationGracePeriodSeconds: expected at least 60, for preStopSleepSeconds",
        ),
        ({"hpa": {"enabled": True, "cpu": None}}, "hpa.cpu and hpa.connections: expected at least one of them"),
        ({"keda": {"enabled": True, "minReplicas": 11}}, "keda.minReplicas: expected at most maxReplicas (10), was 11"),
        (
            {"hpa": {"enabled": True}, "resources": {"requests": {"cpu": None}}},
            "resources.requests.cpu: expected one, because hpa.cpu is a share of it",
        ),
        ({"settings": {"internal_port": 8000}}, "settings.internal_port: expected another port than settings.port"),
        ({"settings": {"port": 0}}, "settings.port: expected 1 to 65535 in a cluster"),
        (
            {"settings": {"api_keys_file": "/x"}, "secrets": {"apiKeys": {"name": "keys"}}},
            "secrets.apiKeys sets settings.api_keys_file: expected only one of them",
        ),
    ],
)
def test_contradictions_fail_with_a_sentence(values: Document, why: str) -> None:
    with pytest.raises(helm_python.HelmError) as caught:
        render(values)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"replicas": 3}, "replicas"),
        ({"replicaCount": "3"}, "/replicaCount"),
        ({"settings": {"intervall_ms": 100}}, "intervall_ms"),
        ({"settings": {"interval_ms": "100"}}, "/settings/interval_ms"),
        ({"settings": {"interval_ms": 60_001}}, "/settings/interval_ms"),
        ({"settings": {"interval_ms": 1.5}}, "/settings/interval_ms"),
        ({"feeds": "kafka://x/y"}, "/feeds"),
        ({"feeds": ["kafka://x/y z"]}, "/feeds/0"),
        ({"sources": ["day"]}, "/sources/0"),
        ({"image": {"digest": "sha256:1"}}, "/image/digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"secrets": {"kafka": {"name": "x"}}}, "kafka"),
        ({"service": {"port": 70_000}}, "/service/port"),
        ({"ingress": {"hosts": [{"name": "x"}]}}, "/ingress/hosts/0"),
        ({"hpa": {"cpu": 0}}, "/hpa/cpu"),
        ({"startupProbe": {"path": "/"}}, "path"),
        ({"podLabels": {"a": 1}}, "/podLabels/a"),
        ({"extraEnv": {}}, "/extraEnv"),
        ({"prometheusRule": {"rules": []}}, "rules"),
    ],
)
def test_the_schema_refuses_what_is_unknown_or_of_another_type(values: Document, where: str) -> None:
    with pytest.raises(helm_python.HelmError) as caught:
        render(values)
    assert where in str(caught.value)


# -- what is made from elsewhere -----------------------------------------------------------------------------------


def test_the_schema_is_that_of_the_settings() -> None:
    assert load((CHART / "values.schema.json").read_text()) == schema(), "python -m tests.helm.generated"


def test_the_readme_has_the_values_of_now() -> None:
    text = (CHART / "README.md").read_text()
    assert text == readme(text), "python -m tests.helm.generated"


def test_every_value_has_a_place_in_the_schema_and_a_default() -> None:
    def paths(node: Any, schema: Document, at: str = "") -> Iterator[str]:
        for name, value in node.items():
            part = schema["properties"][name]
            if isinstance(value, dict) and "properties" in part:
                yield from paths(value, part, f"{at}{name}.")
            else:
                yield f"{at}{name}"

    values = load((CHART / "values.yaml").read_text())
    assert len(list(paths(values, schema()))) > 80
    assert schema()["properties"].keys() - {"global"} == values.keys()


def test_the_version_is_that_of_the_project() -> None:
    import tomllib

    project = tomllib.loads((CHART.parent.parent / "pyproject.toml").read_text())["project"]
    about = load((CHART / "Chart.yaml").read_text())
    assert about["appVersion"] == about["version"] == project["version"]


def test_notes_warn_of_a_service_that_all_can_reach() -> None:
    def notes(values: Document) -> str:
        rendered = chart().render(values, name="demo", namespace="prices")
        return next(text for path, text in rendered.items() if path.endswith("NOTES.txt"))

    open_ = {"ingress": {"enabled": True, "hosts": [{"host": "prices.example"}]}}
    assert "WARNING: it can be reached from outside" in notes(open_)
    assert "http://prices.example/" in notes(open_)
    assert "WARNING" not in notes(open_ | {"secrets": {"apiKeys": {"name": "keys"}}})
    assert "WARNING" not in notes({})
    assert "a simulated market is served" in notes({})
    assert "simulated" not in notes({"feeds": ["sim:"]})


# -- the test of a release -----------------------------------------------------------------------------------------


def test_the_handshake_of_helm_test_is_one() -> None:
    container = of_kind(render({}), "Pod")["spec"]["containers"][0]
    assert "command" not in container, "the image's entry point is ticker"
    arguments = container["args"]
    url = "http://demo-ticker.prices.svc:80"
    assert arguments[arguments.index("--url") + 1] == url
    with serving("sim:?symbols=3") as server:
        for address, code in ((server.url, 0), ("http://127.0.0.1:9", 1)):
            there = [address if argument == url else argument for argument in arguments]
            there[there.index("--timeout-s") + 1] = "10" if code == 0 else "1"
            done = subprocess.run(
                [sys.executable, "-m", "ticker", *there],
                capture_output=True,
                text=True,
                env=environment(),
                timeout=30,
                check=False,
            )
            assert done.returncode == code, done.stderr
            if code == 0:
                assert re.search(r": [1-3] symbols, SIM00[1-3] at seq \d+\n$", done.stdout)
            else:
                assert done.stderr.endswith("expected a price within 1 s, there was none\n")
