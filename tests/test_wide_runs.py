"""A foreach of thousands: each attempt and each line arrives, whatever becomes of shipper and endpoint meanwhile."""

from __future__ import annotations

from collections import Counter

import pytest
import wide_runs
from endpoint import Endpoint
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from running import Place
from wide_runs import Shape

from otel_metaflow.core import names
from otel_metaflow.journal.delivery_status import DeliveryStatus

SIZES = [1_000, pytest.param(10_000, marks=pytest.mark.slow)]
RATE = 200.0
# Shippers step back behind everything else that a busy machine does.
PATIENCE = 120


def lines(endpoint: Endpoint) -> Counter[str]:
    """The lines that arrived, and how often."""
    return Counter({body: count for body, count in endpoint.said.items() if wide_runs.is_line(body)})


def attempts_measured(endpoint: Endpoint) -> int:
    """How many attempts the histogram of their durations has counted."""
    return sum(
        int(point.count)
        for message in endpoint.of(ExportMetricsServiceRequest)
        for resource in message.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == names.METRIC_TASK_DURATION
        for point in metric.histogram.data_points
    )


def test_each_attempt_and_each_line_arrives_once(place: Place) -> None:
    """Spans, metrics and lines are counted: those of killed and of retried attempts, and of subprocesses, too."""
    shape = Shape(1_000, RATE)
    with Endpoint() as endpoint, wide_runs.running(place.home, shape) as wide:
        shipper = place.start_shipper(wide.folder, endpoint.url)
        wide.wait_written()
        wide.end()
        assert shipper.wait(PATIENCE) == 0
    assert DeliveryStatus.read(wide.folder).complete
    assert endpoint.span_ids == Counter(wide_runs.span_ids(shape))
    assert lines(endpoint) == Counter(wide_runs.bodies(shape))
    assert set(endpoint.uids.values()) == {1}
    assert attempts_measured(endpoint) == shape.attempts


@pytest.mark.parametrize("attempts", SIZES)
def test_nothing_is_lost_when_a_shipper_is_killed_and_the_endpoint_is_away_meanwhile(
    place: Place, attempts: int
) -> None:
    """The batch that was in flight may come twice, no other."""
    shape = Shape(attempts, RATE)
    with Endpoint() as endpoint, wide_runs.running(place.home, shape) as wide:
        shipper = place.start_shipper(wide.folder, endpoint.url)
        endpoint.wait_for(lambda: len(endpoint.span_ids) > attempts // 4, PATIENCE)
        shipper.kill()
        shipper.wait()
        shipper = place.start_shipper(wide.folder, endpoint.url)
        endpoint.wait_for(lambda: len(endpoint.span_ids) > attempts // 2, PATIENCE)
        endpoint.fault = "503"
        refused = endpoint.seen + 6
        endpoint.wait_for(lambda: endpoint.seen >= refused, PATIENCE)
        endpoint.fault = "ok"
        wide.wait_written()
        wide.end()
        assert shipper.wait(PATIENCE) == 0
    assert DeliveryStatus.read(wide.folder).complete
    assert set(endpoint.span_ids) == wide_runs.span_ids(shape)
    assert set(lines(endpoint)) == wide_runs.bodies(shape)
    twice = endpoint.span_ids.total() - len(endpoint.span_ids)
    assert twice <= endpoint.largest_batch(ExportTraceServiceRequest)
    assert endpoint.uids.total() - len(endpoint.uids) <= endpoint.largest_batch(ExportLogsServiceRequest)
