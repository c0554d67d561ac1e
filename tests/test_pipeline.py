"""The main job: a real flow, the shipper, the product's collector, both vendors' own receivers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from collectors import ROOT, Collector, Container, Vendor, Vendors
from running import Finished, Place

from otel_metaflow.core import ids

FANOUT = ROOT / "examples/fanout.py"
# Attempts of fanout.py by step: four tasks work, one of them twice.
ATTEMPTS = {"start": 1, "work": 5, "collect": 1, "end": 1}


@pytest.mark.range
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_every_attempt_arrives_at_both_vendors_with_all_three_signals(
    place: Place, collector: Collector, vendors: Vendors, protocol: str
) -> None:
    """Spans, logs and metrics of each attempt, named alike on all of them."""
    endpoint = collector.grpc if protocol == "grpc" else collector.http
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    finished = place.run(FANOUT, env=environment)
    assert finished.code == 0, finished.stderr
    assert_both_received(place, finished, vendors)


def test_a_run_passes_through_the_container(place: Place, container: Container, vendors: Vendors) -> None:
    """What `podman run` of the image carries is what the binary carries."""
    finished = place.run(FANOUT, env={"OTEL_EXPORTER_OTLP_ENDPOINT": container.http})
    assert finished.code == 0, finished.stderr
    assert_both_received(place, finished, vendors)


def assert_both_received(place: Place, finished: Finished, vendors: Vendors) -> None:
    """Compare what each vendor received with what the flow is known to do."""
    status = finished.wait_delivered()
    expected_logs = status.delivered["logs"]
    spans = sum(ATTEMPTS.values()) + 1
    vendors.wait_for(
        lambda: all(
            len(vendor.spans()) >= spans
            and len(with_body(vendor)) >= expected_logs - empty_lines(finished)
            and any(metric.name == "metaflow.run.duration" for metric in vendor.metrics())
            for vendor in vendors.both
        )
    )
    printed = place.cli("id", f"{finished.flow}/{finished.run}").stdout.split()
    trace_id, run_span_id = printed[1], printed[3]
    for vendor in vendors.both:
        assert_spans(vendor, finished, trace_id, run_span_id)
        assert_logs(vendor, finished, trace_id)
        assert_metrics(vendor, finished)


def with_body(vendor: Vendor) -> list[str]:
    return [log.body for log in vendor.logs() if log.body]


def empty_lines(finished: Finished) -> int:
    """Empty lines of the flow: neither vendor takes a record without a body."""
    return sum(line.endswith(")]") or line.rstrip().endswith(")]") for line in finished.stdout.splitlines())


def short(name: str) -> str:
    """The name of a span. Datadog's resources, for want of a service per flow, begin with the flow's name."""
    return "RUN FanoutFlow" if name == "FanoutFlow" else name.removeprefix("FanoutFlow/")


def assert_spans(vendor: Vendor, finished: Finished, trace_id: str, run_span_id: str) -> None:
    by_name = Counter(short(span.name) for span in vendor.spans())
    assert by_name == {**ATTEMPTS, "RUN FanoutFlow": 1}
    for span in vendor.spans():
        assert span.trace_id == trace_id
        assert span.attributes["metaflow.flow.name"] == "FanoutFlow"
        assert span.attributes["metaflow.run.id"] == finished.run
        name = short(span.name)
        if name == "RUN FanoutFlow":
            assert span.span_id == run_span_id
            continue
        step, task, attempt = name, span.attributes["metaflow.task.id"], int(span.attributes["metaflow.attempt"])
        assert span.attributes["metaflow.step.name"] == step
        assert span.parent_id == run_span_id
        assert span.span_id == ids.attempt_span_id("FanoutFlow", finished.run, step, task, attempt)
    (failed,) = [span for span in vendor.spans() if span.status == "error"]
    assert (short(failed.name), failed.attributes["metaflow.attempt"]) == ("work", "0")
    assert failed.attributes["error.type"] == "RuntimeError"


def assert_logs(vendor: Vendor, finished: Finished, trace_id: str) -> None:
    """Lines and logging records once each, with the names of the attempt that wrote them."""
    logs = [log for log in vendor.logs() if log.attributes.get("metaflow.step.name") == "work"]
    bodies = Counter(log.body for log in logs)
    for shard in (1, 2, 4):
        assert bodies[f"working on shard {shard}"] == 1
        assert bodies[f"shard {shard} gave {100 * shard} rows"] == 1
    assert bodies["working on shard 3"] == 2, "once for each of its two attempts"
    assert bodies["shard 3 is locked"] == 1
    assert bodies["1000 rows in all"] == 0
    assert Counter(with_body(vendor))["1000 rows in all"] == 1
    uids = Counter(log.attributes["log.record.uid"] for log in vendor.logs() if "log.record.uid" in log.attributes)
    assert max(uids.values()) == 1
    (error,) = [log for log in logs if log.body == "shard 3 is locked"]
    assert error.trace_id == trace_id
    assert error.severity.lower() == "error"
    assert error.attributes["metaflow.run.id"] == finished.run
    assert error.attributes["metaflow.attempt"] == "0"
    assert error.attributes["shard"] == "3"


def assert_metrics(vendor: Vendor, finished: Finished) -> None:
    metrics = [metric for metric in vendor.metrics() if metric.name.startswith("metaflow.")]
    assert not any("metaflow.run.id" in metric.attributes for metric in metrics), "each run would be a paid dimension"
    attempts: Counter[str] = Counter()
    for metric in metrics:
        if metric.name == "metaflow.task.duration":
            attempts[metric.attributes["metaflow.step.name"]] += metric.count
            assert metric.value > 0
    assert attempts == ATTEMPTS
    for name in ("metaflow.task.cpu.time", "metaflow.task.memory.peak", "metaflow.run.duration"):
        assert any(metric.name == name and metric.value > 0 for metric in metrics), name


def test_headers_reach_the_endpoint(place: Place, tmp_path: Path) -> None:
    """OTEL_EXPORTER_OTLP_HEADERS is honoured on every request."""
    from endpoint import Endpoint

    with Endpoint() as receiver:
        finished = place.run(
            ROOT / "examples/hello.py",
            env={
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
                "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=blue%20team,authorization=Bearer%20abc",
            },
        )
        finished.wait_delivered()
    assert {path for path, _ in receiver.requests} == {"/v1/traces", "/v1/metrics", "/v1/logs"}
    assert {headers["x-tenant"] for _, headers in receiver.requests} == {"blue team"}
    assert {headers["authorization"] for _, headers in receiver.requests} == {"Bearer abc"}
