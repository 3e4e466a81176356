"""The dashboard's queries, as Grafana sends them once its variables are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: What the variables stand for where all is chosen.
CHOSEN: Final = {"$job": ".*", "$pod": ".*", "$__rate_interval": "10s", "$__range": "60s", "$__interval": "1s"}


def panels(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All panels but the rows."""
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def expressions(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each query with the title of its panel."""
    found = []
    for panel in panels(document):
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in CHOSEN.items():
                expression = expression.replace(name, value)
            assert "$" not in expression, f"{panel['title']}: a variable is not known in {expression}"
            found.append((panel["title"], expression))
    return found
