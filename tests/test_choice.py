"""Which sink sends: the official exporters where they can be imported, ours where they cannot."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from collectors import ROOT
from endpoint import Endpoint
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from running import Finished, Place, eventually

from otel_metaflow.core import settings
from otel_metaflow.journal import layout

# What Python runs first in every process that has its folder on PYTHONPATH.
BLOCKER = """
import importlib.abc, os, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in os.environ["BLOCKED"].split():
            raise ImportError("No module named " + name)

sys.meta_path.insert(0, Blocker())
"""
HTTP = "opentelemetry.exporter.otlp.proto.http"
GRPC = "opentelemetry.exporter.otlp.proto.grpc"


def without(folder: Path, *modules: str) -> dict[str, str]:
    """The environment of processes that cannot import `modules`."""
    (folder / "blocker").mkdir(exist_ok=True)
    (folder / "blocker/sitecustomize.py").write_text(BLOCKER)
    return {"PYTHONPATH": str(folder / "blocker"), "BLOCKED": " ".join(modules)}


FLOW = """
    import logging
    from metaflow import FlowSpec, step

    class CountedFlow(FlowSpec):
        @step
        def start(self):
            self.parts = [1, 2, 3]
            self.next(self.work, foreach="parts")

        @step
        def work(self):
            for number in range(500):
                print("line", number, "of part", self.input, "✓")
            logging.getLogger("work").warning("part %d", self.input, extra={"part": self.input, "nested": {"a": [1.5]}})
            self.next(self.collect)

        @step
        def collect(self, inputs):
            self.next(self.end)

        @step
        def end(self):
            print('{"level": "error", "message": "structured", "seconds": 1.5}')

    if __name__ == "__main__":
        CountedFlow()
"""


def received(endpoint: Endpoint) -> dict[str, Counter[Any]]:
    """What arrived, by signal."""
    metrics = [
        metric
        for message in endpoint.of(ExportMetricsServiceRequest)
        for resource in message.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    histograms = {metric.name: 0 for metric in metrics if metric.HasField("histogram")}
    for metric in metrics:
        if metric.name in histograms:
            histograms[metric.name] += sum(point.count for point in metric.histogram.data_points)
    return {
        # Without the id of the run, and the way that decided.
        "logs": Counter(re.sub(r"\d{9,}|; decided by .*", "", body) for body in endpoint.bodies()),
        "traces": Counter((span.name, span.kind, span.status.code) for span, _ in endpoint.spans()),
        # Attempts whose metrics leave together share points.
        "metrics": Counter(histograms) | Counter({metric.name for metric in metrics}),
    }


def run(place: Place, env: dict[str, str]) -> tuple[Finished, dict[str, Counter[Any]], set[str]]:
    """A run whose telemetry is delivered, what arrived of it, and who sent it."""
    with Endpoint() as endpoint:
        finished = place.run(FLOW, "--with", "otel", env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, **env})
        assert finished.code == 0, finished.stderr
        finished.wait_delivered()
        agents = {headers["user-agent"].partition("/")[0] for _, headers in endpoint.requests}
        return finished, received(endpoint), agents


@pytest.mark.parametrize("missing", [HTTP, "google.protobuf", "opentelemetry.sdk"])
def test_without_the_official_exporter_everything_is_delivered_by_ours(place: Place, missing: str) -> None:
    """Whatever it is of theirs that is missing; the same records, whose counts the checkpoint has, too."""
    theirs, expected, agents = run(place, {})
    assert agents == {"OTel-OTLP-Exporter-Python"}
    ours, found, agents = run(place, without(place.path, missing))
    assert agents == {"otel-metaflow"}
    for signal, counter in expected.items():
        assert counter - found[signal] == Counter()
        assert found[signal] - counter == Counter()
    for signal in ("logs", "traces"):
        assert ours.status.delivered[signal] == theirs.status.delivered[signal] == found[signal].total()


def test_grpc_where_it_cannot_be_imported_is_one_line_and_everything_is_kept(place: Place) -> None:
    """The line names what to set to what; so set, all is sent."""
    env = {
        **without(place.path, "grpc"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    }
    finished = place.run(ROOT / "examples/hello.py", "--with", "otel", env=env)
    line = (
        "cannot export: OTEL_EXPORTER_OTLP_PROTOCOL is grpc, and opentelemetry-exporter-otlp-proto-grpc cannot be "
        "imported here; type http/protobuf, and in OTEL_EXPORTER_OTLP_ENDPOINT the port for it, such as 4318"
    )
    log = finished.folder / layout.SHIPPER_LOG
    eventually(lambda: log.read_text().count("\n") >= 3)
    assert set(log.read_text().splitlines()) == {f"{signal}: {line}" for signal in settings.SIGNALS}
    assert line in place.cli("status", env=env).stdout
    with Endpoint() as endpoint:
        fixed = {**env, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        assert place.cli("ship", f"{finished.flow}/{finished.run}", env=fixed).returncode == 0
        assert endpoint.spans()


LOADED = """
import sys
from otel_metaflow.core.settings import Destination
from otel_metaflow.shipper.sinks import choice
choice.build(Destination("logs", "http/protobuf", "http://127.0.0.1:1", ""))
print(*sys.modules)
"""


def test_where_the_official_exporter_is_not_installed_nothing_of_it_is_loaded(tmp_path: Path) -> None:
    """Neither its libraries, which a container may have for other reasons."""
    found = subprocess.run(
        [sys.executable, "-c", LOADED], env=without(tmp_path, HTTP), capture_output=True, text=True, check=True
    )
    assert not {"requests", "google.protobuf", "opentelemetry.sdk"} & set(found.stdout.split())
