"""Dashboards and alerts in collector/dashboards/, held against the names that telemetry has."""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from collectors import ROOT

from otel_metaflow.core import catalog, names

DASHBOARDS = ROOT / "collector/dashboards"
DATADOG = sorted((DASHBOARDS / "datadog").glob("*.json"))
METRICS = {entry.name: entry.form for entry in catalog.CATALOG if entry.on == "metric"}
ATTRIBUTES = {entry.name for entry in catalog.CATALOG if entry.on not in ("metric", "event")}
EVENTS = {entry.name for entry in catalog.CATALOG if entry.on == "event"}
# The collector takes the run's id off metrics.
DIMENSIONS = {entry.name for entry in catalog.CATALOG if "metrics" in entry.on.split(", ")} - {names.RUN_ID}
# What Datadog makes of attributes of other names, and the template variables.
DATADOGS_OWN = {"env", "service", "version", "host", "status", "timestamp", "content", "$env", "$flow"}
# collector/config/config.yaml, transform/datadog
COLLECTORS = {"event.name"}


def strings(value: Any) -> Iterator[tuple[str, str]]:
    """Every text of a JSON value, with its key."""
    if isinstance(value, dict):
        for key, each in value.items():
            if isinstance(each, str):
                yield key, each
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, str):
                yield "", each
            yield from strings(each)


def datadog_query(query: str) -> Iterator[tuple[str, str, set[str]]]:
    """Aggregation, metric and tags of each metric in a query."""
    for aggregation, metric, scope, by in re.findall(r"(\w+):([\w.]+)\{([^}]*)\}(?:\s*by\s*\{([^}]*)\})?", query):
        filters = {re.split(r"[:\s]", part.strip().lstrip("!"))[0] for part in re.split(r",(?![^(]*\))|\bAND\b", scope)}
        yield aggregation, metric, {tag for tag in filters | set(by.split(",")) if tag}


@pytest.mark.parametrize("path", DATADOG, ids=lambda path: path.name)
def test_datadog_asks_for_metrics_and_tags_that_there_are(path: Any) -> None:
    asked = 0
    for key, text in strings(json.loads(path.read_text())):
        if key != "query":
            continue
        found = list(datadog_query(text))
        asked += len(found)
        # Nothing of the query was overlooked.
        assert len(found) == text.count("{") - text.count("by {") or "@" in text, text
        for aggregation, metric, tags in found:
            assert metric in METRICS, text
            assert tags <= DIMENSIONS | DATADOGS_OWN, text
            is_histogram = METRICS[metric].startswith("histogram")
            assert aggregation in (("count", "avg", "sum", "max", "p50") if is_histogram else ("sum",)), text
            if aggregation == "count" or not is_histogram:
                assert ".as_count()" in text, text
    assert asked


def test_datadog_searches_for_attributes_that_there_are() -> None:
    dashboard = json.loads((DASHBOARDS / "datadog/runs.json").read_text())
    searched = {
        name for _, text in strings(dashboard) for name in re.findall(r"@([\w.]+)", text) if not text.startswith("$")
    }
    assert searched >= {names.FIRST_FAILURE, names.ERROR_TYPE, names.RUN_ID}
    assert searched <= ATTRIBUTES | COLLECTORS
    pattern = r"\b(metaflow\.task\.(?:exception|lost))\b"
    events = {event for _, text in strings(dashboard) for event in re.findall(pattern, text)}
    assert events <= EVENTS
    assert events


def test_datadogs_widgets_are_whole() -> None:
    """Each group has widgets, each formula names a query of its request."""
    dashboard = json.loads((DASHBOARDS / "datadog/runs.json").read_text())
    assert {variable["name"] for variable in dashboard["template_variables"]} == {"env", "flow"}
    for group in dashboard["widgets"]:
        for widget in group["definition"]["widgets"]:
            assert widget["definition"]["title"]
            for request in widget["definition"]["requests"]:
                queries = {query["name"] for query in request.get("queries", [])}
                assert {formula["formula"] for formula in request.get("formulas", [])} == queries


def splunk_searches() -> dict[str, str]:
    """All searches of the dashboard and of the alerts, by name."""
    dashboard = json.loads((DASHBOARDS / "splunk/runs.json").read_text())
    found = {source["name"]: source["options"]["query"] for source in dashboard["dataSources"].values()}
    alerts = configparser.RawConfigParser(delimiters=("=",), strict=True)
    alerts.read(DASHBOARDS / "splunk/savedsearches.conf")
    return found | {name: alerts[name]["search"] for name in alerts.sections()}


@pytest.mark.parametrize("name", splunk_searches())
def test_splunk_searches_for_metrics_and_fields_that_there_are(name: str) -> None:
    search = splunk_searches()[name]
    # Names with dots stand in quotes, all of them: what is compared to stands behind an equals sign.
    quoted = set(re.findall(r'(?<![=])"([\w.]+)"', search))
    unquoted = re.sub(r'"[^"]*"', "", search)
    assert not re.search(r"\b(metaflow|deployment|error|exception)\.", unquoted), unquoted
    is_metrics = search.lstrip().startswith("| mstats")
    for each in quoted:
        parts = re.fullmatch(r"(.*?)(_sum|_count)?", each)
        assert parts is not None
        metric, part = parts.groups()
        if f'sum("{each}")' in search:
            assert METRICS[metric].startswith("histogram" if part else "counter"), each
        elif is_metrics:
            assert each in DIMENSIONS, each
        else:
            assert each.removeprefix("attributes.") in ATTRIBUTES | COLLECTORS, each
    for event in re.findall(r'"event\.name"="([^"]+)"', search):
        assert event in EVENTS
    assert quoted


def test_splunks_dashboard_is_whole() -> None:
    """Each visualization has its search and its place, each token its input."""
    dashboard = json.loads((DASHBOARDS / "splunk/runs.json").read_text())
    visualizations = dashboard["visualizations"]
    assert {each["dataSources"]["primary"] for each in visualizations.values()} == set(dashboard["dataSources"])
    assert {each["item"] for each in dashboard["layout"]["structure"]} == set(visualizations)
    tokens = {each["options"]["token"] for each in dashboard["inputs"].values()}
    used = {token.split(".")[0] for _, text in strings(dashboard) for token in re.findall(r"\$([\w.]+)\$", text)}
    assert used == tokens
    assert set(dashboard["layout"]["globalInputs"]) == set(dashboard["inputs"])


def test_both_vendors_show_the_same() -> None:
    datadog = json.loads((DASHBOARDS / "datadog/runs.json").read_text())
    there = {metric for _, text in strings(datadog) for _, metric, _ in datadog_query(text)}
    summed = re.findall(r'sum\("([^"]+)"\)', "\n".join(splunk_searches().values()))
    here = {re.sub(r"_(sum|count)$", "", metric) for metric in summed}
    assert there == here == set(METRICS)
