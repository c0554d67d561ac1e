"""Runs of plain Metaflow, through the product's collector into the vendors' own receivers: backfilled and watched."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from collections import Counter
from pathlib import Path

from collectors import Collector, Vendors
from running import Place, eventually
from test_backfill import END, FLOWS, HEAD, TAIL
from test_cli_backfill import FLOW, Team
from test_watch import GATED, LINES, Watching


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


def arrived_once(vendors: Vendors, sent: Counter[str]) -> None:
    """At each vendor: so many log records and spans, and none twice."""
    for vendor in vendors.both:
        vendors.wait_for(lambda vendor=vendor: len(vendor.spans()) >= sent["traces"], 60)
        vendors.wait_for(lambda vendor=vendor: len(vendor.logs()) >= sent["logs"], 60)
        assert set(Counter(span.span_id for span in vendor.spans()).values()) == {1}
        assert set(Counter(log.attributes["log.record.uid"] for log in vendor.logs()).values()) == {1}
        assert len(vendor.spans()) == sent["traces"]
        assert len(vendor.logs()) == sent["logs"]


def test_ten_runs_of_plain_metaflow_arrive_at_both_vendors_once_and_those_that_are_made_meanwhile(
    place: Place, tmp_path: Path, vendors: Vendors, collector: Collector
) -> None:
    """Ten are backfilled, the second backfill adds nothing; an eleventh is watched, and a twelfth that is killed."""
    names = runs(place)
    team = Team(place, tmp_path / "team")
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http}
    done = json.loads(team("backfill", "--all", "--dead-after", "0s", "--json", env=env).stdout)
    assert [each["state"] for each in done] == ["exported"] * len(names) == ["exported"] * 10
    sent = Counter[str]()
    for each in done:
        sent.update(each["exported"])
    arrived_once(vendors, sent)
    for vendor in vendors.both:
        assert {span.attributes["metaflow.run.id"] for span in vendor.spans()} == {name.split("/")[1] for name in names}
        assert {metric.name for metric in vendor.metrics()} >= {"metaflow.task.duration"}
    assert "10 exported earlier" in team("backfill", "--all", env=env).stdout

    def exported(watcher: Watching) -> dict[str, int]:
        return {name: int(watcher.metric(f'records_total{{signal="{name}"}}')) for name in sent}

    def watching(*arguments: str) -> Watching:
        return Watching(place, team.home, collector.http, *arguments, env={})

    flow = place.write(GATED)
    with watching() as watcher:
        process = place.start(flow)
        for vendor in vendors.both:
            vendors.wait_for(lambda vendor=vendor: LINES[0] in {log.body for log in vendor.logs()}, 60)
        (place.path / "go").touch()
        eleventh = place.finish(process)
        watcher.prints(f"{eleventh.flow}/{eleventh.run}: exported")
        sent.update(exported(watcher))
    arrived_once(vendors, sent)
    (place.path / "go").unlink()
    (place.path / "at the gate").unlink()
    with watching("--dead-after", "3s") as watcher:
        process = place.start(flow)
        eventually((place.path / "at the gate").exists)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        watcher.prints("has died; exported")
        sent.update(exported(watcher))
    arrived_once(vendors, sent)
    for vendor in vendors.both:
        bodies = Counter(log.body for log in vendor.logs())
        # Of a task that was killed with its launcher Metaflow has stored no line.
        assert [bodies[line] for line in LINES] == [2, 1, 1, 1]
        assert len({span.attributes["metaflow.run.id"] for span in vendor.spans()}) == 12
