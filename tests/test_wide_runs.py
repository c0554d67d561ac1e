"""A foreach of thousands: each attempt and each line arrives, whatever becomes of shipper and endpoint meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import wide_runs
from endpoint import Endpoint
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from running import Place, eventually
from wide_runs import UNLIMITED, Shape

from otel_metaflow.core import names
from otel_metaflow.journal.delivery_status import DeliveryStatus

SIZES = [1_000, pytest.param(10_000, marks=pytest.mark.slow)]
RATE = 200.0
# Shippers step back behind everything else that a busy machine does.
PATIENCE = 120


def lines(endpoint: Endpoint) -> Counter[str]:
    """The lines that arrived, and how often."""
    return Counter({body: count for body, count in endpoint.body_counts.items() if wide_runs.is_line(body)})


def test_each_attempt_and_each_line_arrives_once(place: Place) -> None:
    """Spans, metrics and lines are counted: those of killed and of retried attempts, and of subprocesses, too."""
    shape = Shape(1_000, RATE)
    with Endpoint() as endpoint, wide_runs.running(place.home, shape) as wide:
        shipper = place.start_shipper(wide.folder, endpoint.url, **UNLIMITED)
        wide.wait_written()
        wide.end()
        assert shipper.wait(PATIENCE) == 0
    assert DeliveryStatus.read(wide.folder).complete
    assert endpoint.span_ids == Counter(wide_runs.span_ids(shape))
    assert lines(endpoint) == Counter(wide_runs.bodies(shape))
    assert set(endpoint.uids.values()) == {1}
    assert endpoint.observations(names.METRIC_TASK_DURATION) == shape.attempts


@pytest.mark.parametrize("attempts", SIZES)
def test_nothing_is_lost_when_a_shipper_is_killed_and_the_endpoint_is_away_meanwhile(
    place: Place, attempts: int
) -> None:
    """The batch that was in flight may come twice, no other."""
    shape = Shape(attempts, RATE)
    with Endpoint() as endpoint, wide_runs.running(place.home, shape) as wide:
        shipper = place.start_shipper(wide.folder, endpoint.url, **UNLIMITED)
        endpoint.wait_for(lambda: len(endpoint.span_ids) > attempts // 4, PATIENCE)
        shipper.kill()
        shipper.wait()
        shipper = place.start_shipper(wide.folder, endpoint.url, **UNLIMITED)
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


# A shipper that counts the calls of functions that it makes, C's with Python's, in all its threads: work that grows
# with the run shows in them, and what else the machine does shows in none of them.
COUNTED = """
import json, sys, threading
from pathlib import Path
from otel_metaflow.shipper import __main__ as shipper
calls = [0]
def count(frame, event, argument):
    calls[0] += event in ("call", "c_call")
threading.setprofile(count)
sys.setprofile(count)
shipper.main(Path(sys.argv[1]))
sys.setprofile(None)
print(json.dumps(calls[0]))
"""


def calls(place: Place, shape: Shape) -> int:
    """How many calls a shipper makes that follows a run while it goes on, to its end."""
    with Endpoint() as endpoint, wide_runs.running(place.home, shape) as wide:
        shipper = subprocess.Popen(
            [sys.executable, "-c", COUNTED, str(wide.folder)],
            env=place.environ({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            wide.wait_written()
            wide.end()
            counted, _ = shipper.communicate(timeout=2 * PATIENCE)  # counting takes its time, too
        finally:
            shipper.kill()
    assert DeliveryStatus.read(wide.folder).complete
    return int(json.loads(counted))


def test_an_attempt_costs_a_shipper_the_same_in_a_run_of_a_hundred_and_of_a_thousand(tmp_path: Path) -> None:
    """Nothing that it does again and again looks at all attempts."""
    counted = {}
    for attempts in (4, 100, 1_000):
        (tmp_path / str(attempts)).mkdir()
        counted[attempts] = calls(Place(tmp_path / str(attempts)), Shape(attempts, RATE))
    few, many = ((counted[attempts] - counted[4]) / (attempts - 4) for attempts in (100, 1_000))
    assert many <= few * 1.15, counted


def share_of_core(pid: int) -> float:
    """How much of a core a process uses, in five seconds."""
    before = wide_runs.cpu_seconds(pid)
    time.sleep(5)
    return (wide_runs.cpu_seconds(pid) - before) / 5


@pytest.mark.parametrize("attempts", SIZES)
def test_a_shipper_needs_little_while_nothing_happens_and_little_memory_at_any_time(
    place: Place, attempts: int
) -> None:
    """However many attempts are over while the launcher lives."""
    shape = Shape(attempts, RATE)
    with Endpoint(keeps_messages=False) as endpoint, wide_runs.running(place.home, shape) as wide:
        shipper = place.start_shipper(wide.folder, endpoint.url, **UNLIMITED)
        wide.wait_written()
        spans = len(wide_runs.span_ids(shape)) - 1  # all but the run's own
        endpoint.wait_for(lambda: len(endpoint.span_ids) == spans, PATIENCE)
        # What comes with the last of them takes its time on a busy machine; then it is to rest.
        eventually(lambda: share_of_core(shipper.pid) <= 0.01, PATIENCE, "a shipper at rest")
        peak = wide_runs.memory_peak(shipper.pid)
        wide.end()
        assert shipper.wait(PATIENCE) == 0
    assert peak <= 80 << 20, f"{peak / 2**20:.0f} MiB"
