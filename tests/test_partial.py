"""Tasks that record nothing, or not everything, themselves: the launcher's records decide."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
from running import Finished, Place

from otel_metaflow.core import names
from otel_metaflow.journal import layout
from otel_metaflow.model import endings, story
from otel_metaflow.model.critical_path import critical_path
from otel_metaflow.model.run import Attempt, Run, load
from otel_metaflow.testing import Telemetry, run

FLOW = """\
import os, signal, sys
from metaflow import FlowSpec, catch, current, environment, otel, retry, step
class PartFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.work)
    {decorators}
    @step
    def work(self):
        {body}
        self.next(self.end)
    @step
    def end(self):
        pass
if __name__ == "__main__":
    PartFlow()
"""
WAYS = {
    "ok": "pass",
    "raise": "raise ValueError('no')",
    "exit 0": "sys.exit(0)",
    "exit 3": "sys.exit(3)",
    "_exit 0": "os._exit(0)",
    "_exit 3": "os._exit(3)",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.fixture
def blind(tmp_path: Path) -> str:
    """A decorator of steps whose interpreter has the shim and not us, as that of `@conda` or of a container."""
    package = tmp_path / "blind" / "otel_metaflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'otel_metaflow'\", name=__name__)"
    )
    return f"@environment(vars={{'PYTHONPATH': {str(package.parent)!r}}})"


def of_flow(body: str, *decorators: str) -> str:
    return FLOW.format(body=textwrap.indent(body, " " * 8).strip(), decorators="\n    ".join(decorators))


def ran(place: Place, source: str) -> Finished:
    return place.run(source, "--with", "otel")


def worked(run: Run) -> list[Attempt]:
    return [attempt for attempt in run.in_order if attempt.key.step == "work"]


class Expected(NamedTuple):
    """The state of a run's only attempt of `work`."""

    result: str
    is_partial: bool
    is_lost: bool


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("ok", Expected("success", is_partial=True, is_lost=False)),
        ("raise", Expected("failure", is_partial=True, is_lost=False)),
        ("exit 0", Expected("failure", is_partial=True, is_lost=False)),
        ("exit 3", Expected("failure", is_partial=True, is_lost=False)),
        ("_exit 0", Expected("failure", is_partial=True, is_lost=False)),
        ("_exit 3", Expected("failure", is_partial=True, is_lost=False)),
        ("kill", Expected("error", is_partial=False, is_lost=True)),
    ],
)
def test_a_task_without_a_journal_has_metaflows_result(place: Place, blind: str, way: str, expected: Expected) -> None:
    """Success where Metaflow goes on from it; else a failure, and a death only where a signal killed it."""
    finished = ran(place, of_flow(WAYS[way], blind))
    run = finished.story
    (attempt,) = worked(run)
    assert attempt.start is None
    assert Expected(attempt.result, attempt.is_partial, attempt.is_lost) == expected
    assert run.result == ("success" if way == "ok" else "failure")
    assert (finished.code == 0) == (way == "ok")
    assert story.first_failure(run) is (None if way == "ok" else attempt)
    severities = {notice.severity for notice in endings.of_attempt(run, attempt)}
    assert severities == (set() if way == "ok" else {"FATAL"} if way == "kill" else {"ERROR"})
    # What it read is known from the launcher: it waited for that, not for the run's start.
    start = next(one for one in run.attempts.values() if one.key.step == "start")
    assert attempt.launch
    assert start.exit
    waited = attempt.launch["timeUnixNano"] - start.exit["timeUnixNano"]
    assert story.queue_time(run, attempt) == waited
    assert [one.key for one in critical_path(run).attempts][:2] == [start.key, attempt.key]


@pytest.mark.parametrize(
    ("way", "result", "is_lost"),
    [
        ("ok", "success", False),
        ("raise", "failure", False),
        ("exit 0", "failure", False),
        ("_exit 0", "error", True),
        ("_exit 3", "error", True),
        ("kill", "error", True),
    ],
)
def test_a_journal_that_is_cut_anywhere_makes_no_failure_of_a_success(
    place: Place, way: str, result: str, *, is_lost: bool
) -> None:
    """Nor the other way round: as if the disk had been full from that record on, or in the middle of it."""
    finished = ran(place, of_flow(WAYS[way]))
    before = finished.story
    (attempt,) = worked(before)
    assert (attempt.result, attempt.is_lost, attempt.is_partial) == (result, is_lost, False)
    path = layout.attempt_file(finished.folder, attempt.key)
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    cuts = sorted({0, *ends[:-1], *(end - 5 for end in ends)} if attempt.end else {0, *ends})
    for cut in cuts:
        path.write_bytes(whole[:cut])
        run = load(finished.home, finished.folder)
        again = run.attempts[attempt.key]
        assert again.failed == attempt.failed
        assert run.result == before.result
        if way == "ok":
            assert (again.result, again.is_partial) == ("success", True)
            assert not list(endings.of_attempt(run, again))


def test_telemetry_of_a_task_without_a_journal(place: Place, blind: str) -> None:
    """A span that is no error and marked, no FATAL event, its lines, and no failure of the run."""
    flow = place.write(of_flow("print('from another interpreter')", blind))
    telemetry = _telemetry(place, flow)
    span = telemetry.span("work")
    assert (span.attributes[names.TASK_RESULT], span.attributes[names.PARTIAL]) == ("success", True)
    assert names.FIRST_FAILURE not in span.attributes
    assert telemetry.tree() == textwrap.dedent("""\
        RUN PartFlow success
          start success
          end success < work
          work success < start""")
    assert {log.log_record.severity_text for log in telemetry.logs} == {"INFO"}
    assert "from another interpreter" in [log.log_record.body for log in telemetry.logs]
    assert not any(names.PARTIAL in (one.attributes or {}) for one in telemetry.spans if one is not span)


def test_a_task_in_whose_environment_alone_telemetry_is_off_is_a_success(place: Place) -> None:
    finished = ran(place, of_flow("pass", "@environment(vars={'OTEL_SDK_DISABLED': 'true'})"))
    run = finished.story
    (attempt,) = worked(run)
    assert (attempt.result, attempt.is_partial, run.result) == ("success", True, "success")


def test_a_task_whose_journal_cannot_be_opened_is_a_success(place: Place) -> None:
    """And the rest of the run can be looked at and sent."""
    flow = of_flow("pass").replace(
        "        self.next(self.work)",
        "        home = os.path.join(os.environ['OTEL_METAFLOW_HOME'], 'PartFlow', current.run_id)\n"
        "        os.mkdir(os.path.join(home, 'work.2.0.jsonl'))\n"
        "        self.next(self.work)",
    )
    telemetry = _telemetry(place, place.write(flow))
    span = telemetry.span("work")
    assert (span.attributes[names.TASK_RESULT], span.attributes[names.PARTIAL]) == ("success", True)
    assert len(telemetry.spans) == 4
    shown = place.cli("view", f"PartFlow/{telemetry.run}")
    assert (shown.returncode, "partly recorded" in shown.stdout) == (0, True)


FAILS_ONCE = "if current.retry_count == 0:\n    {way}"


@pytest.mark.parametrize(("way", "first"), [("raise", "failure"), ("_exit 3", "failure"), ("kill", "error")])
def test_a_retry_without_journals(place: Place, blind: str, way: str, first: str) -> None:
    """The retry is recorded, and the run is a success."""
    body = FAILS_ONCE.format(way=WAYS[way])
    finished = ran(place, of_flow(body, blind, "@retry(times=1, minutes_between_retries=0)"))
    run = finished.story
    assert [attempt.result for attempt in worked(run)] == [first, "success"]
    assert (finished.code, run.result, story.first_failure(run)) == (0, "success", None)


@pytest.mark.parametrize("way", ["exit 0", "_exit 0"])
def test_a_retry_that_leaves_with_0_and_no_result_is_no_success(place: Place, blind: str, way: str) -> None:
    """Metaflow then finds the result of the attempt before it, which failed."""
    body = f"if current.retry_count == 0:\n    {WAYS['raise']}\n{WAYS[way]}"
    finished = ran(place, of_flow(body, blind, "@retry(times=1, minutes_between_retries=0)"))
    run = finished.story
    assert [attempt.result for attempt in worked(run)] == ["failure", "failure"]
    assert (finished.code, run.result) == (1, "failure")


@pytest.mark.parametrize("way", ["raise", "kill"])
def test_a_rescue_by_catch_without_journals(place: Place, blind: str, way: str) -> None:
    finished = ran(place, of_flow(WAYS[way], blind, "@catch(var='error')"))
    run = finished.story
    assert (finished.code, run.result, story.first_failure(run)) == (0, "success", None)
    assert worked(run)[-1].result == "success"


def _telemetry(place: Place, flow: Path) -> Telemetry:
    chosen = {name: value for name, value in place.environ().items() if name.startswith(("METAFLOW_", "OTEL_"))}
    return run(flow, env=chosen, home=place.home)
