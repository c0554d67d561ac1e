"""Runs of a metadata service: real ones, many, and a service that fails."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint import Endpoint
from metadata_service import MetadataService
from running import Place
from test_cli_backfill import FLOW, SPANS, Team, pathspec

SHORT = """
from metaflow import FlowSpec, step
class ShortFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.end)
    @step
    def end(self):
        pass
if __name__ == "__main__":
    ShortFlow()
"""


@pytest.fixture
def service() -> Iterator[MetadataService]:
    with MetadataService() as made:
        yield made


def test_a_run_of_a_metadata_service_arrives(place: Place, service: MetadataService, tmp_path: Path) -> None:
    """With ids that the service has given."""
    run = place.run(FLOW, env=service.environ)
    assert run.code == 0, run.stderr
    team = Team(place, tmp_path / "team")
    with Endpoint() as endpoint:
        env = {**service.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        team("backfill", pathspec(run), env=env)
        assert len(endpoint.run_and_attempt_ids()) == SPANS
        before = service.requests
        team("backfill", pathspec(run), env=env)
        assert service.requests - before < 10
        assert set(endpoint.span_ids.values()) == {1}


def test_a_service_that_answers_500_is_named_and_the_next_call_goes_on(
    place: Place, service: MetadataService, tmp_path: Path
) -> None:
    run = place.run(FLOW, env=service.environ)
    team = Team(place, tmp_path / "team")
    service.fault = 500
    with Endpoint() as endpoint:
        env = {**service.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        told = team("backfill", pathspec(run), env=env, code=2).stderr
        assert f"service@{service.url}" in told
        assert "500" in told
        assert "Traceback" not in told
        assert not endpoint.seen
        service.fault = 0
        team("backfill", pathspec(run), env=env)
        assert len(endpoint.run_and_attempt_ids()) == SPANS


def test_a_service_that_is_slow_is_waited_for(place: Place, service: MetadataService, tmp_path: Path) -> None:
    run = place.run(FLOW, env=service.environ)
    service.pause = 0.1
    with Endpoint() as endpoint:
        env = {**service.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        Team(place, tmp_path / "team")("backfill", pathspec(run), env=env)
        assert len(endpoint.run_and_attempt_ids()) == SPANS


def test_of_ten_thousand_runs_those_of_the_last_days_are_found_by_one_request(
    place: Place, service: MetadataService, tmp_path: Path
) -> None:
    now = int(time.time() * 1000)
    service.objects["/flows/WideFlow"] = {"flow_id": "WideFlow", "ts_epoch": now}
    for number in range(10_000):
        service.objects[f"/flows/WideFlow/runs/{number}"] = {
            "flow_id": "WideFlow", "run_number": number, "ts_epoch": now - number * 3_600_000,
            "tags": [], "system_tags": ["user:ann"], "user_name": "ann",
        }  # fmt: skip
    team = Team(place, tmp_path / "team")
    done = team("backfill", "WideFlow", "--since", "12h", "--dry-run", "--json", env=service.environ)
    assert len(json.loads(done.stdout)) == 12
    assert service.requests < 60


def test_a_task_without_a_heartbeat_is_dead_long_before_one_that_never_had_one(
    place: Place, service: MetadataService, tmp_path: Path
) -> None:
    """The launcher was killed with its task; the service knows since when nothing was heard of them."""
    run = place.run(SHORT, env=service.environ)
    base = f"/flows/{run.flow}/runs/{run.run}"
    for path in [path for path in service.objects if path.startswith(f"{base}/steps/end")]:
        del service.objects[path]
    team = Team(place, tmp_path / "team")
    with Endpoint() as endpoint:
        env = {**service.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        for path, each in service.objects.items():
            if path.startswith(base):
                each["ts_epoch"] -= 600_000
                each["last_heartbeat_ts"] = int(time.time()) - 600
        service.objects[base]["last_heartbeat_ts"] = int(time.time())
        assert "still going" in team("backfill", pathspec(run), env=env).stdout
        service.objects[base]["last_heartbeat_ts"] = int(time.time()) - 600
        team("backfill", pathspec(run), env=env)
        (span,) = [span for span, _ in endpoint.spans() if span.name.startswith("RUN ")]
        assert "launcher died" in span.status.message


def test_a_pod_that_waits_for_a_node_is_not_dead(place: Place, service: MetadataService, tmp_path: Path) -> None:
    """The service notes a heartbeat when a run or task is created, and of it none was sent yet."""
    run = place.run(SHORT, env=service.environ)
    base = f"/flows/{run.flow}/runs/{run.run}"
    for path in [path for path in service.objects if path.startswith(f"{base}/steps/end/tasks/")]:
        if "/metadata/" in path:
            del service.objects[path]
    shutil.rmtree(place.path / "datastore" / ".metaflow" / run.flow / run.run / "end")
    for path, each in service.objects.items():
        if path.startswith(base):
            each["ts_epoch"] -= 600_000
            each["last_heartbeat_ts"] = each["ts_epoch"] // 1000
    done = Team(place, tmp_path / "team")("backfill", pathspec(run), "--dry-run", env=service.environ)
    assert "still going" in done.stdout
