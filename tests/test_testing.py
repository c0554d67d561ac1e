"""What we offer for tests of flows: the example of the docs, and what goes wrong."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from collectors import ROOT
from running import Place

from otel_metaflow.testing import Telemetry, deterministic, run


def test_the_example_of_the_docs_prints_its_output(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both blocks are taken from the page."""
    monkeypatch.chdir(ROOT)
    for name, value in place.environ().items():
        if name.startswith("METAFLOW_"):
            monkeypatch.setenv(name, value)
    found = re.search(
        r"```python\n(from otel_metaflow\.testing.*?)```\n\n```\n(.*?)```",
        (ROOT / "docs/testing.md").read_text(),
        re.DOTALL,
    )
    assert found
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(found.group(1), "testing.md", "exec"), {})
    assert printed.getvalue() == found.group(2)


def test_the_error_of_a_flow_without_a_run_has_its_output(tmp_path: Path) -> None:
    flow = tmp_path / "flow.py"
    flow.write_text("print('not a flow')\n")
    with pytest.raises(ValueError, match="not a flow"):
        run(flow)


def test_the_error_for_a_missing_span_lists_the_others(place: Place) -> None:
    telemetry = run(ROOT / "examples/hello.py", env={"METAFLOW_USER": "tester"}, home=place.home)
    with pytest.raises(LookupError, match="greet"):
        telemetry.span("no such step")
    assert telemetry.bodies("stdout") == ["Hello from the first step.", "Greeted 3 guests."]


NESTED = """\
    from concurrent.futures import ThreadPoolExecutor
    from metaflow import FlowSpec, current, step
    from opentelemetry import trace

    class NestedFlow(FlowSpec):
        @step
        def start(self):
            self.parts = [0, 1, 2]
            self.next(self.work, foreach="parts")

        @step
        def work(self):
            with trace.get_tracer("mine").start_as_current_span("outer") as span:
                span.add_event("now", {"run": current.run_id})
                with trace.get_tracer("mine").start_as_current_span("inner"):
                    print("part", self.input, "of", current.run_id)
            self.next(self.join)

        @step
        def join(self, inputs):
            self.next(self.end)

        @step
        def end(self):
            pass

    if __name__ == "__main__":
        NestedFlow()
    """


def frozen(telemetry: Telemetry) -> list[tuple[object, ...]]:
    """What must not change from run to run."""
    spans: list[tuple[object, ...]] = [
        (
            span.name,
            span.context.trace_id,
            span.context.span_id,
            span.parent and span.parent.span_id,
            span.start_time,
            span.end_time,
            [(event.name, event.timestamp, dict(event.attributes or {})) for event in span.events],
            sorted(link.context.span_id for link in span.links),
        )
        for span in telemetry.spans
    ]
    return spans + [
        (log.log_record.body, log.log_record.trace_id, log.log_record.span_id, log.log_record.timestamp)
        for log in telemetry.logs
        if str(log.log_record.body).startswith("part")
    ]


def test_ids_and_times_are_the_same_in_each_run_of_a_flow(place: Place) -> None:
    """Of tasks that run at once, with spans of user code, whose ids are random."""
    env = {name: value for name, value in place.environ().items() if name.startswith("METAFLOW_")}
    flow = place.write(NESTED)
    one, other = (run(flow, env=env) for _ in range(2))
    assert one.run != other.run
    assert frozen(one) != frozen(other)
    made = deterministic(one)
    assert frozen(made) == frozen(deterministic(other))
    assert made.tree() == one.tree()
    assert [span.context.span_id for span in made.spans] == list(range(1, len(made.spans) + 1))
    assert made.spans[0].start_time == 1_577_836_800_000_000_000
    by_id = {span.context.span_id: span for span in made.spans}
    for span in made.spans[1:]:
        parent = by_id[span.parent.span_id]
        assert parent.start_time < span.start_time < span.end_time < parent.end_time
    times = [log.log_record.timestamp for log in made.logs]
    assert len(set(times)) == len(times) == len(one.logs)
    assert len({log.log_record.attributes["log.record.uid"] for log in made.logs}) == len(times)
    assert sorted(made.bodies("stdout")) == [f"part {number} of 1" for number in range(3)]
    assert one.run not in "".join(span.to_json() for span in made.spans)


def test_the_fixture_works_as_documented(tmp_path: Path) -> None:
    """Both files are taken from the page; a pytest that does not name the plugin loads nothing of ours."""
    page = (ROOT / "docs/testing.md").read_text()
    conftest, test = re.findall(r"```python\n((?:pytest_plugins|def test_).*?)```", page, re.DOTALL)
    (tmp_path / "test_flow.py").write_text(test)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "METAFLOW_", "PYTEST"))}

    def pytest_prints(*options: str) -> str:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        return subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False).stdout

    assert "fixture 'otel_run' not found" in pytest_prints()
    (tmp_path / "conftest.py").write_text(conftest)
    printed = pytest_prints()
    assert "1 passed" in printed, printed
    assert not list(tmp_path.glob(".metaflow"))
    (tmp_path / "conftest.py").unlink()
    (tmp_path / "test_flow.py").write_text(
        "import sys\ndef test_it():\n    assert not {'otel_metaflow', 'opentelemetry.sdk'} & set(sys.modules)\n"
    )
    assert "1 passed" in pytest_prints("-p", "no:xdist")
