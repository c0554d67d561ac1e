"""Ten runs of plain Metaflow, backfilled through the product's collector into the vendors' own receivers."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from pathlib import Path

from collectors import Collector, Vendors
from running import Place
from test_backfill import END, FLOWS, HEAD, TAIL
from test_cli_backfill import FLOW, Team


def runs(place: Place) -> list[str]:
    """Ten runs, one of each kind of flow and some again; as FLOW/RUN."""
    made = []
    sources = {
        name: HEAD + textwrap.indent(textwrap.dedent(steps) + END, "    ") + TAIL for name, steps in FLOWS.items()
    }
    for source in [*sources.values(), sources["linear"], sources["failure"], FLOW]:
        finished = place.run(source)
        made.append(f"{finished.flow}/{finished.run}")
    return made


def test_ten_runs_of_plain_metaflow_arrive_at_both_vendors_once(
    place: Place, tmp_path: Path, vendors: Vendors, collector: Collector
) -> None:
    """Every span and every line of each; and the second backfill adds nothing."""
    names = runs(place)
    team = Team(place, tmp_path / "team")
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http}
    done = json.loads(team("backfill", "--all", "--dead-after", "0s", "--json", env=env).stdout)
    assert [each["state"] for each in done] == ["exported"] * len(names) == ["exported"] * 10
    sent = Counter[str]()
    for each in done:
        sent.update(each["exported"])
    for vendor in vendors.both:
        vendors.wait_for(lambda vendor=vendor: len(vendor.spans()) >= sent["traces"], 60)
        vendors.wait_for(lambda vendor=vendor: len(vendor.logs()) >= sent["logs"], 60)
        assert set(Counter(span.span_id for span in vendor.spans()).values()) == {1}
        assert set(Counter(log.attributes["log.record.uid"] for log in vendor.logs()).values()) == {1}
        assert len(vendor.spans()) == sent["traces"]
        assert len(vendor.logs()) == sent["logs"]
        assert {span.attributes["metaflow.run.id"] for span in vendor.spans()} == {name.split("/")[1] for name in names}
        assert {metric.name for metric in vendor.metrics()} >= {"metaflow.task.duration"}
    again = team("backfill", "--all", env=env).stdout
    assert "10 exported earlier" in again
