"""The operator's guide has what the alerts point to, and what it shows and reckons is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.ops.chart import CHART, NAMESPACE
from tests.ops.test_alerts import rules
from tests.test_docs import DEPLOY, ROOT, blocks
from ticker.settings import Settings

PERFORMANCE = (ROOT / "docs" / "performance.md").read_text()


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(heading: str) -> str:
    """What stands under a heading, up to the next of its level or above."""
    level = heading.split(" ", maxsplit=1)[0]
    after = DEPLOY.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{2,{len(level)}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def shown_yaml() -> list[Any]:
    loader = YAML(typ="safe", pure=True)
    return [document for block in blocks(DEPLOY, "yaml") for document in loader.load_all(block)]


def shown_values() -> list[dict[str, Any]]:
    loader = YAML(typ="safe", pure=True)
    return [loader.load(block) for block in blocks(DEPLOY, "yaml") if block.startswith("# values.yaml\n")]


# -- alerts ----------------------------------------------------------------------------------------------------------


def test_every_alert_has_its_heading_and_no_other_has() -> None:
    chapter = section("## When an alert fires")
    assert sorted(re.findall(r"^### (.*)$", chapter, re.MULTILINE)) == sorted(rules("alert"))


@pytest.mark.parametrize("alert", rules("alert"))
def test_an_alert_points_to_its_heading_which_says_how_grave_it_is(alert: str) -> None:
    rule = rules("alert")[alert]
    address, anchor = rule["annotations"]["runbook_url"].split("#")
    assert (ROOT / address).read_text() == DEPLOY
    assert anchor in anchors(DEPLOY)
    severity = {"critical": "*Critical.*", "warning": "*Warning.*"}[rule["labels"]["severity"]]
    text = section(f"### {alert}").strip()
    assert text.startswith(severity)
    assert len(text.split("\n\n")) >= 2, "it says what the alert means, and not what to do"


def test_every_threshold_is_in_the_table_with_its_default() -> None:
    template = (CHART / "templates" / "_thresholds.tpl").read_text()
    known = template[template.index("$known := dict") : template.index("}}", template.index("$known := dict"))]
    defaults = dict(re.findall(r'"(\w+)" "?([\w.]+|\([^\n]*?\)+)"?(?=[ \n])', known))
    table = section("## Alerts and the dashboard")
    shown: dict[str, str] = {}
    for names, values in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]*) \|", table, re.MULTILINE):
        shown |= dict(zip(re.findall(r"\w+", names), values.split(", "), strict=True))
    assert shown.keys() == defaults.keys()
    for name, value in defaults.items():
        if not value.startswith("("):  # what is reckoned from other values
            assert shown[name] == value, name


def test_the_panels_that_are_named_are_there() -> None:
    titles = set(re.findall(r'"title": "([^"]*)"', (CHART / "dashboards" / "ticker.json").read_text()))
    named = set(re.findall(r"\*([A-Z][^*.\n]+)\*", section("## When an alert fires")))
    assert named
    assert named - titles == set()


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_every_link_within_the_guide_leads_to_a_heading() -> None:
    linked = set(re.findall(r"\]\(#([^)]+)\)", DEPLOY))
    assert linked - anchors(DEPLOY) == set()


def test_the_settings_and_values_shown_are_ones() -> None:
    names = set(Settings.__dataclass_fields__)
    assert len(shown_values()) == 2
    for values in shown_values():
        assert values.get("settings", {}).keys() <= names


@pytest.mark.parametrize("values", shown_values(), ids=["whole", "gateway"])
def test_the_chart_takes_the_values_shown(values: dict[str, Any], tmp_path: Path) -> None:
    from helm_python import Chart

    with Chart.load(CHART) as chart:
        chart.validate_schema(values)
        rendered = "\n".join(chart.render(values, name="ticker", namespace=NAMESPACE).values())
    for feed in values.get("feeds", ()):
        assert feed in rendered


def test_the_user_that_is_made_may_read_and_no_more() -> None:
    documents = {document["kind"]: document for document in shown_yaml() if "kind" in document}
    (acl,) = documents["KafkaUser"]["spec"]["authorization"]["acls"]
    assert acl["operations"] == ["Describe", "DescribeConfigs", "Read"]
    values, _ = shown_values()
    assert acl["resource"]["name"] == documents["KafkaTopic"]["metadata"]["name"]
    assert values["feeds"][0].endswith("/" + acl["resource"]["name"])
    assert values["settings"]["kafka_username"] == documents["KafkaUser"]["metadata"]["name"]
    assert values["secrets"]["kafkaPassword"]["name"] == documents["KafkaUser"]["metadata"]["name"]


# -- what is reckoned ------------------------------------------------------------------------------------------------


def figure(name: str) -> float:
    """A figure of the table in performance.md."""
    (found,) = re.findall(rf"^\| {re.escape(name)} \| ([\d.,]+) \|", PERFORMANCE, re.MULTILINE)
    return float(found.replace(",", ""))


def test_sizing_is_reckoned_from_the_figures() -> None:
    text = section("## Sizing")
    record_us = 1 / figure("Kafka into the table, JSON")
    item_us = 1e6 / figure("fan-out, own lists: items per CPU second")
    assert f"{record_us:.1f} µs of a core for each record" in text
    assert f"{item_us:.1f} µs of a core for each item" in text
    assert f"{figure('memory per client, 2,000 clients'):.0f} KiB" in text
    assert f"{figure('fan-out: bytes of an item'):.0f} B an item" in text
    reading, items = 20_000 * record_us / 1e6, 12_000 * 20 * 4
    sending = items * item_us / 1e6
    assert f"{reading:.2f} of a core, in each pod" in text
    assert f"{items:,} items a second" in text
    assert f"{sending:.2f} of a core, over all pods" in text
    assert 1 < sending / (2 / 3 - reading) <= 2, "it does not take two pods"
    assert f"{reading + sending / 3:.2f} of a core each" in text
    assert f"{reading + sending / 2:.2f} while one is lost" in text
    parts = (90, 6000 * 30 * 1024 / 1e6, 2000 * (55 + 2 * 56) / 1e3)
    assert f"{' + '.join(f'{part:.0f}' for part in parts)} = {sum(parts):.0f} MB" in text
    assert f"{items * 116 / 1e6:.0f} MB/s" in text
    faster = items * 2.5
    assert f"{faster / 1e6:.1f} million items, {faster * item_us / 1e6:.1f} cores" in text
    assert 2 < faster * item_us / 1e6 / (2 / 3 - reading) <= 3, "it does not take three pods"
