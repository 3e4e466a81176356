"""What of the chart is made from elsewhere: `python -m tests.helm.generated` writes it, and a test compares.

The schema of the values comes from the settings and from what is said here; the README's table from values.yaml.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from ticker.settings import Settings

CHART: Final = Path(__file__).parent.parent.parent / "helm" / "ticker"
Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
TEXTS: Final[Schema] = {"type": "array", "items": TEXT}
#: What Kubernetes itself checks.
OBJECT: Final[Schema] = {"type": "object"}
OBJECTS: Final[Schema] = {"type": "array", "items": OBJECT}
LABELS: Final[Schema] = {"type": "object", "additionalProperties": TEXT}


def whole(least: int, most: int | None = None) -> Schema:
    return {"type": "integer", "minimum": least, **({} if most is None else {"maximum": most})}


def or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def closed(**properties: Schema) -> Schema:
    """An object that has these members and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def settings() -> Schema:
    """Each setting with its own type and range; null for the service's default."""
    found: dict[str, Schema] = {}
    for setting in fields(Settings):
        least, most = setting.metadata["least"], setting.metadata["most"]
        kind = {int: "integer", float: "number", str: "string"}[type(setting.default)]
        limits = {} if least is None else {"minimum": least, "maximum": most}
        found[setting.name] = {"type": [kind, "null"], **limits, "description": setting.metadata["help"]}
    return closed(**found)


def secret() -> Schema:
    return closed(name=TEXT, key={**TEXT, "minLength": 1})


def scaler(**more: Schema) -> Schema:
    share = or_null(whole(1, 100))
    return closed(
        enabled=FLAG, minReplicas=whole(1), maxReplicas=whole(1), cpu=share, connections=or_null(whole(1)), **more
    )


def probe() -> Schema:
    return closed(
        initialDelaySeconds=whole(0),
        periodSeconds=whole(1),
        timeoutSeconds=whole(1),
        failureThreshold=whole(1),
        successThreshold=whole(1),
    )


def monitor() -> Schema:
    return closed(enabled=FLAG, interval={**TEXT, "pattern": "^[0-9]+(ms|s|m)$"}, labels=LABELS)


def schema() -> Schema:
    """The schema of values.yaml: whatever is not named is refused."""
    port = whole(1, 65535)
    quantity = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
    values = closed(
        image=closed(
            repository={**TEXT, "minLength": 1},
            tag=TEXT,
            digest={**TEXT, "pattern": "^(sha256:[0-9a-f]{64})?$"},
            pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
        ),
        imagePullSecrets=OBJECTS,
        nameOverride=TEXT,
        fullnameOverride=TEXT,
        replicaCount=whole(0),
        revisionHistoryLimit=whole(0),
        strategy=OBJECT,
        feeds={"type": "array", "items": {**TEXT, "pattern": r"^[a-z]+:\S*$"}},
        sources={"type": "array", "items": {**TEXT, "pattern": r"^[A-Za-z0-9._-]{1,64}=\S+$"}},
        settings=settings(),
        secrets=closed(
            kafkaPassword=secret(),
            kafkaCa=secret(),
            kafkaCert=secret(),
            kafkaKey=secret(),
            jwtKeys=secret(),
            apiKeys=secret(),
        ),
        service=closed(type={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]}, port=port, annotations=LABELS),
        ingress=closed(
            enabled=FLAG,
            className=TEXT,
            annotations=LABELS,
            hosts={
                "type": "array",
                "items": {**closed(host={**TEXT, "minLength": 1}, paths=TEXTS), "required": ["host"]},
            },
            tls=OBJECTS,
        ),
        httpRoute=closed(enabled=FLAG, annotations=LABELS, parentRefs=OBJECTS, hostnames=TEXTS),
        hpa=scaler(scaleDownStabilizationSeconds=whole(0, 3600)),
        keda=scaler(pollingInterval=whole(1), cooldownPeriod=whole(0), prometheusAddress=TEXT),
        podDisruptionBudget=closed(enabled=FLAG, maxUnavailable={"type": ["integer", "string"]}),
        networkPolicy=closed(
            enabled=FLAG,
            ingressFrom=OBJECTS,
            metricsFrom=OBJECTS,
            kafkaPorts={"type": "array", "items": port},
            kafkaTo=OBJECTS,
            extraEgress=OBJECTS,
        ),
        serviceAccount=closed(create=FLAG, name=TEXT, annotations=LABELS),
        serviceMonitor=monitor(),
        podMonitor=monitor(),
        prometheusRule=closed(
            enabled=FLAG,
            labels=LABELS,
            selector=TEXT,
            runbookUrl=TEXT,
            thresholds={"type": "object", "additionalProperties": {"type": ["number", "string"]}},
        ),
        dashboard=closed(enabled=FLAG, labels=LABELS, annotations=LABELS),
        test=closed(token=secret()),
        resources=closed(requests=quantity, limits=quantity, claims=OBJECTS),
        preStopSleepSeconds=whole(0, 600),
        terminationGracePeriodSeconds=or_null(whole(1)),
        startupProbe=probe(),
        livenessProbe=probe(),
        readinessProbe=probe(),
        podAnnotations=LABELS,
        podLabels=LABELS,
        podSecurityContext=OBJECT,
        securityContext=OBJECT,
        priorityClassName=TEXT,
        nodeSelector=LABELS,
        tolerations=OBJECTS,
        affinity=OBJECT,
        topologySpreadConstraints=or_null(OBJECTS),
        extraEnv=OBJECTS,
        extraVolumes=OBJECTS,
        extraVolumeMounts=OBJECTS,
        initContainers=OBJECTS,
        extraContainers=OBJECTS,
        extraObjects=OBJECTS,
    )
    values["properties"]["global"] = OBJECT  # Helm's own
    return {"$schema": "http://json-schema.org/draft-07/schema#", **values}


def table() -> str:
    """The values as a Markdown table: each name, its default, and the comment above it."""
    rows = ["| value | default | what it is |", "|---|---|---|"]
    about, path = "", list[str]()
    for line in (CHART / "values.yaml").read_text().splitlines():
        text = line.strip()
        if text.startswith("# -- "):
            about = text.removeprefix("# -- ")
            continue
        found = re.match(r"( *)([A-Za-z_]+):(?: (.*))?$", line)
        if found is None:
            about = ""
            continue
        path = [*path[: len(found[1]) // 2], found[2]]
        default = (found[3] or "").strip()
        if default or about:
            rows.append(f"| `{'.'.join(path)}` | {f'`{default}`' if default else ''} | {about} |")
        about = ""
    return "\n".join(rows)


def readme(text: str) -> str:
    """The README with the table of now in it."""
    before, _, rest = text.partition("<!-- values -->\n")
    _, _, after = rest.partition("<!-- end of values -->")
    return f"{before}<!-- values -->\n{table()}\n<!-- end of values -->{after}"


def main() -> None:
    (CHART / "values.schema.json").write_text(json.dumps(schema(), indent=2) + "\n")
    page = CHART / "README.md"
    page.write_text(readme(page.read_text()))


if __name__ == "__main__":
    main()
