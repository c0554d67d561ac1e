"""A flow with `@otel` on some of its steps: its shape, its waits and its critical path are those of all of them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from running import Finished, Place

from otel_metaflow.core import names
from otel_metaflow.viewer.exports import otlp_json

SOURCE = """
    import time
    from metaflow import FlowSpec, current, otel, retry, step
    class MixFlow(FlowSpec):
        @otel
        @step
        def start(self):
            self.items = [0, 1, 2]
            self.next(self.work, foreach="items")
        @retry(times=1, minutes_between_retries=0)
        @step
        def work(self):
            print("not for telemetry")
            if self.input == 2:
                time.sleep(1)
                if current.retry_count == 0:
                    raise ValueError("no")
            self.next(self.join)
        @step
        def join(self, inputs):
            self.next(self.end)
        @otel
        @step
        def end(self):
            print("for telemetry")
    if __name__ == "__main__":
        MixFlow()
    """


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("mix"))


@pytest.fixture(scope="module")
def finished(place: Place) -> Finished:
    run = place.run(SOURCE)
    assert run.code == 0
    return run


@pytest.fixture(scope="module")
def values(place: Place, finished: Finished) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(place.cli("view", f"MixFlow/{finished.run}", "--json").stdout)
    return made


def test_every_attempt_is_listed_and_unrecorded_ones_are_marked(values: dict[str, Any]) -> None:
    shown = [(one["name"], one["state"], one.get("recorded", True), "spanId" in one) for one in values["attempts"]]
    assert sorted(shown) == [
        ("end/6", "success", True, True),
        ("join/5", "success", False, False),
        ("start/1", "success", True, True),
        ("work/2", "success", False, False),
        ("work/3", "success", False, False),
        ("work/4", "failure", False, False),
        ("work/4/1", "success", False, False),
    ]
    assert {step["name"]: (step["next"], step.get("recorded", True)) for step in values["steps"]} == {
        "start": (["work"], True),
        "work": (["join"], False),
        "join": (["end"], False),
        "end": ([], True),
    }


def test_the_critical_path_includes_unrecorded_attempts(values: dict[str, Any]) -> None:
    """And no attempt waited for its launch since the run began, but since what it read was there."""
    path = values["criticalPath"]
    assert path["attempts"] == ["start/1", "work/4", "work/4/1", "join/5", "end/6"]
    took = sum(one["durationSeconds"] for one in values["attempts"] if one["name"] in path["attempts"])
    assert path["durationSeconds"] - path["queueSeconds"] == pytest.approx(took, abs=0.01)
    ended = {one["name"]: one["endTimeUnixNano"] for one in values["attempts"]}
    read = {"work/2": "start/1", "join/5": "work/4/1", "end/6": "join/5"}
    for one in values["attempts"]:
        if one["name"] in read:
            waited = (one["launchTimeUnixNano"] - ended[read[one["name"]]]) / 1e9
            # What was recorded ended when its artifacts were stored, its process a little later.
            assert 0 <= one["queueSeconds"] <= waited + 1e-6


def test_only_steps_with_otel_are_exported_and_the_run_describes_all(place: Place, finished: Finished) -> None:
    lines = place.cli("export", f"MixFlow/{finished.run}", "--format", "otlp-json").stdout.splitlines()
    requests = [json.loads(line) for line in lines]
    text = "\n".join(lines)
    spans = [
        span
        for request in requests
        for resource in request.get("resourceSpans", ())
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    assert sorted(span["name"] for span in spans) == ["RUN MixFlow", "end", "start"]
    ids = {span["spanId"] for span in spans}
    assert all(link["spanId"] in ids for span in spans for link in span.get("links", ()))
    run = otlp_json.plain(next(span for span in spans if span["name"].startswith("RUN"))["attributes"])
    assert (run[names.RUN_TASK_COUNT], run[names.RUN_FAILED_COUNT], run[names.RUN_RETRIED_COUNT]) == (6, 1, 1)
    assert run[names.CRITICAL_STEPS] == ["start/1", "work/4", "join/5", "end/6"]
    assert "for telemetry" in text
    assert "not for telemetry" not in text
    logs = [
        otlp_json.plain(resource["resource"]["attributes"]).get(names.STEP_NAME)
        for request in requests
        for resource in request.get("resourceLogs", ())
    ]
    assert {step for step in logs if step} == {"start", "end"}
    points = [
        otlp_json.plain(point["attributes"]).get(names.STEP_NAME)
        for request in requests
        for resource in request.get("resourceMetrics", ())
        for scope in resource["scopeMetrics"]
        for metric in scope["metrics"]
        for point in (metric.get("histogram") or metric.get("sum"))["dataPoints"]
    ]
    assert {step for step in points if step} == {"start", "end"}


def test_it_is_drawn_as_that(place: Place, finished: Finished) -> None:
    """In the terminal, of the run, a step and a task; in Perfetto's file."""
    run = f"MixFlow/{finished.run}"
    shown = place.cli("view", run).stdout
    assert "graph start > work[3] > join > end" in shown
    assert "not recorded (no @otel): join, work" in shown
    assert re.search(r"^\* join/5 +success .*╌.* not recorded *$", shown, re.MULTILINE)
    assert "the process exited with code 1 (retried); not recorded" in shown
    step = place.cli("view", f"{run}/join")
    assert (step.returncode, "join/5" in step.stdout) == (0, True)
    assert "not recorded (no @otel)" in place.cli("view", f"{run}/join/5").stdout
    assert place.cli("view", f"{run}/join", "--logs").stdout == "no log records: not recorded (no @otel)\n"
    trace = json.loads(place.cli("export", run, "--format", "perfetto").stdout)
    titles = {event["name"] for event in trace["traceEvents"] if event.get("cat") == "attempt"}
    assert {"start/1 success", "join/5 success (not recorded)", "work/4 failure (not recorded)"} <= titles


def test_the_closing_line_counts_as_the_list_does(place: Place, finished: Finished, values: dict[str, Any]) -> None:
    assert "otel: recorded 2 of 7 attempts" in finished.stderr
    (listed,) = json.loads(place.cli("view", "--json").stdout)
    assert (listed["attempts"], len(values["attempts"])) == (7, 7)
