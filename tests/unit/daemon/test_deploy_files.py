"""The dashboard and the alerts ask for metrics that there are, with labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from deployctl.cli.app import app
from deployctl.daemon.metrics_text import METRICS, Kind
from tests.support.models import ROOT

RULES = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "deployctl.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "howto" / "monitoring.md").read_text(encoding="utf-8")
ADDED_BY_PROMETHEUS = {"instance", "job"}
SUFFIXES = ("_bucket", "_sum", "_count")
# Alerts by name, with the text of each up to the next.
ALERTS = {each[1]: each[2] for each in re.finditer(r"- alert: (\w+)\n(.*?)(?=      - alert|\Z)", RULES, re.DOTALL)}


def names(query: str) -> set[str]:
    """Returns the metrics that a query asks for, by their own name."""
    found = set(re.findall(r"\b(?:deployctl|process)_[a-z_]+", query))
    return {base(name) for name in found}


def base(name: str) -> str:
    for suffix in SUFFIXES:
        stem = name.removesuffix(suffix)
        if stem != name and stem in METRICS and METRICS[stem].kind is Kind.HISTOGRAM:
            return stem
    return name


def labels(query: str) -> set[str]:
    """Returns the labels that its samples may have, and those that it asks for must be among."""
    return {label for name in names(query) for label in METRICS[name].labels} | ADDED_BY_PROMETHEUS | {"le"}


def asked(query: str) -> set[str]:
    """Returns the labels that a query selects or groups by."""
    groups = re.findall(r"by \(([^)]*)\)", query)
    return {
        *re.findall(r"[{,]\s*(\w+)(?:=~|!~|!=|=)", query),
        *(label.strip() for g in groups for label in g.split(",")),
    }


def queries() -> Iterator[tuple[str, str, str]]:
    """Yields each panel's title, query and legend."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]


@pytest.mark.parametrize(("title", "query", "legend"), tuple(queries()))
def test_a_panel_asks_for_what_there_is(title: str, query: str, legend: str) -> None:
    assert names(query)
    assert names(query) <= set(METRICS)
    assert asked(query) <= labels(query)
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels(query)


def test_variables_and_annotations_ask_for_what_there_is() -> None:
    texts = [each["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    texts += [each["expr"] for each in DASHBOARD["annotations"]["list"]]

    assert all(names(text) and names(text) <= set(METRICS) for text in texts)


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(places)) == len(places)
    assert all(x < 24 for x, _ in places)


def test_there_are_alerts() -> None:
    assert len(ALERTS) == RULES.count("- alert:") > 10


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_asks_for_what_there_is_and_says_what_to_type(alert: str) -> None:
    text = ALERTS[alert]
    query = re.search(r"expr: (.*)", text)
    hint = re.search(r"hint: (.*)", text)
    assert query is not None
    assert hint is not None
    assert names(query[1])
    assert names(query[1]) <= set(METRICS)
    assert asked(query[1]) <= labels(query[1])
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels(query[1])
    assert re.search(r"severity: (critical|warning|info)\n", text)
    program, *words = hint[1].split()
    if program != "systemctl":
        assert program == "deployctl"
        assert_command(words)


def assert_command(words: list[str]) -> None:
    """Fails unless the words are a command of ours with options that it has."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words:
        command = command.commands[words.pop(0)]
    options = {option for each in command.params for option in each.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_the_page_on_monitoring_lists_every_alert() -> None:
    assert set(re.findall(r"^\| `(Deployctl\w+)` \|", PAGE, re.MULTILINE)) == set(ALERTS)


def test_the_page_on_monitoring_lists_every_metric_with_its_kind_and_labels() -> None:
    rows = re.findall(r"^\| `((?:deployctl|process)_\w+)` \| (\w+) \| ([^|]*) \|", PAGE, re.MULTILINE)

    listed = {name: (kind, tuple(re.findall(r"`(\w+)`", text))) for name, kind, text in rows}

    assert listed == {name: (metric.kind.value, metric.labels) for name, metric in METRICS.items()}
