"""A run in the formats of other programs, read by those that can be had."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from collectors import VENDORS, Process
from endpoint import Endpoint
from journals import Journals
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from running import Finished, Place, eventually

from otel_metaflow.core import ids
from otel_metaflow.journal.processes import process_start
from otel_metaflow.viewer.exports import otlp_json

FLOW = """
    from metaflow import FlowSpec, otel, retry, step
    from opentelemetry import trace
    import os
    class ExportFlow(FlowSpec):
        @otel
        @step
        def start(self):
            self.rows = [1, 2]
            self.next(self.work, foreach="rows")
        @otel
        @retry(times=1, minutes_between_retries=0)
        @step
        def work(self):
            with trace.get_tracer("t").start_as_current_span("fit") as span:
                span.set_attribute("password", "hunter2")
                span.add_event("epoch", {"number": 1})
            print("password=hunter2")
            if self.input == 2:
                raise ValueError("two")
            self.next(self.join)
        @otel
        @step
        def join(self, inputs):
            self.next(self.end)
        @otel
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        ExportFlow()
    """


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def sent(place: Place) -> tuple[Finished, Endpoint]:
    """A run that was sent, and what it was sent to."""
    with Endpoint() as endpoint:
        finished = place.run(FLOW, env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
        finished.wait_delivered()
    return finished, endpoint


def exported(place: Place, finished: Finished, kind: str) -> str:
    done = place.cli("export", f"ExportFlow/{finished.run}", "--format", kind)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunter2" not in done.stdout
    return done.stdout


def test_otlp_json_equals_the_export_and_changes_no_state(place: Place, sent: tuple[Finished, Endpoint]) -> None:
    """Each span, record and metric under the same id; the run's own journals are as they were."""
    finished, endpoint = sent
    before = {path.name: path.read_bytes() for path in finished.folder.iterdir() if path.is_file()}
    requests = [json.loads(line) for line in exported(place, finished, "otlp-json").splitlines()]
    assert {path.name: path.read_bytes() for path in finished.folder.iterdir() if path.is_file()} == before
    spans = {span["spanId"] for span, _ in otlp_json.spans(requests)}
    assert spans == set(endpoint.span_ids)
    uids = {
        otlp_json.plain(record["attributes"])["log.record.uid"]
        for request in requests
        for resource in request.get("resourceLogs", ())
        for scope in resource["scopeLogs"]
        for record in scope["logRecords"]
    }
    assert uids == set(endpoint.uids)
    metrics = {
        metric["name"]
        for request in requests
        for resource in request.get("resourceMetrics", ())
        for scope in resource["scopeMetrics"]
        for metric in scope["metrics"]
    }
    assert metrics == {
        metric.name
        for message in endpoint.of(ExportMetricsServiceRequest)
        for resource in message.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_the_collectors_receiver_reads_it(place: Place, sent: tuple[Finished, Endpoint], tmp_path: Path) -> None:
    """otlpjsonfile, which then hands on every record."""
    source, copy = tmp_path / "run.json", tmp_path / "copy.json"
    source.write_text(exported(place, sent[0], "otlp-json"))
    signals = ("logs", "traces", "metrics")
    configuration = {
        "receivers": {"otlpjsonfile": {"include": [str(source)], "start_at": "beginning"}},
        "exporters": {"file": {"path": str(copy), "flush_interval": "100ms"}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {signal: {"receivers": ["otlpjsonfile"], "exporters": ["file"]} for signal in signals},
        },
    }
    (tmp_path / "config.yaml").write_text(json.dumps(configuration))
    wanted = counted(source)
    assert min(wanted.values()) > 0
    with Process([str(VENDORS), f"--config={tmp_path / 'config.yaml'}"], {}):
        eventually(lambda: copy.exists() and counted(copy) == wanted)


def counted(path: Path) -> dict[str, int]:
    """How many records of each signal a file of OTLP/JSON holds."""
    levels = {
        "logs": ("resourceLogs", "scopeLogs", "logRecords"),
        "traces": ("resourceSpans", "scopeSpans", "spans"),
        "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
    }
    lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return {
        signal: sum(
            len(scope[records]) for line in lines for resource in line.get(resources, ()) for scope in resource[scopes]
        )
        for signal, (resources, scopes, records) in levels.items()
    }


def test_jaeger_gets_one_trace_whose_spans_hang_together(place: Place, sent: tuple[Finished, Endpoint]) -> None:
    finished, endpoint = sent
    (trace,) = json.loads(exported(place, finished, "jaeger"))["data"]
    assert trace["traceID"] == ids.trace_id("ExportFlow", finished.run)
    spans = {span["spanID"]: span for span in trace["spans"]}
    assert spans.keys() == set(endpoint.span_ids)
    roots = [span for span in spans.values() if not [ref for ref in span["references"] if ref["refType"] == "CHILD_OF"]]
    assert [span["operationName"] for span in roots] == ["RUN ExportFlow"]
    for span in spans.values():
        assert span["processID"] in trace["processes"]
        assert all(reference["spanID"] in spans for reference in span["references"])
        assert {type(tag["value"]) for tag in span["tags"]} <= {str, int, float, bool}
        within = roots[0]
        assert within["startTime"] <= span["startTime"]
    fit = next(span for span in spans.values() if span["operationName"] == "fit")
    assert fit["logs"][0]["fields"][0] == {"key": "event", "type": "string", "value": "epoch"}
    failed = [span for span in spans.values() if {"key": "error", "type": "bool", "value": True} in span["tags"]]
    assert sorted(span["operationName"] for span in failed) == ["RUN ExportFlow", "work", "work"]


def test_perfetto_gets_slices_that_nest(place: Place, sent: tuple[Finished, Endpoint]) -> None:
    """A process a step, a thread a task; no slice of a thread crosses another, each arrow has two ends."""
    finished, _ = sent
    trace = json.loads(exported(place, finished, "perfetto"))
    events: list[dict[str, Any]] = trace["traceEvents"]
    processes = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert processes == {"start", "work"}
    threads: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events:
        if event["ph"] == "X":
            threads.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert len(threads) == 3
    for slices in threads.values():
        open_: list[float] = []
        for begin, end in sorted(slices, key=lambda one: (one[0], -one[1])):
            while open_ and open_[-1] <= begin + 0.001:
                open_.pop()
            assert not open_ or end <= open_[-1] + 0.001
            open_.append(end)
    arrows = {phase: {event["id"] for event in events if event["ph"] == phase} for phase in "sf"}
    assert arrows["s"] == arrows["f"]
    assert any("work/3 > work/3/1" in arrow for arrow in arrows["s"])
    user = [event for event in events if event.get("cat") == "span"]
    assert len([event for event in user if event["ph"] == "b"]) == len([event for event in user if event["ph"] == "e"])
    assert {event["name"] for event in user} == {"fit"}


def test_an_export_that_fails_is_one_line(place: Place) -> None:
    Journals(place.home, "Going", pid=os.getpid(), processStart=process_start())
    refused = place.cli("export", "Going/1", "--format", "jaeger")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Going/1 is still running; export it once it has ended" in refused.stderr
    refused = place.cli("export", "Going/1", "--format", "zipkin")
    assert refused.returncode == 2
    assert "'zipkin' is not one of 'otlp-json', 'perfetto', 'jaeger'" in refused.stderr
    over = Journals(place.home, "Over")
    over.end(1)
    refused = place.cli("export", "Over/1", "--format", "jaeger", "-o", "/no/such/folder/file")
    assert refused.returncode == 2
    assert "choose another --output" in refused.stderr
