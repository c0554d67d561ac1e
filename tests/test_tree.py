"""The span tree of each kind of flow as text, which is how a reader checks it too."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from importlib.metadata import version

import pytest
from collectors import ROOT
from running import Place

from otel_metaflow.core import ids, names
from otel_metaflow.testing import Telemetry, run

pytestmark = pytest.mark.range

METAFLOW = tuple(int(part) for part in version("metaflow").split(".")[:2])

HEAD = """\
import os, sys, time
from metaflow import FlowSpec, catch, current, otel, parallel, retry, step, timeout
class TreeFlow(FlowSpec):
"""
TAIL = """
if __name__ == "__main__":
    TreeFlow()
"""
END = """
@step
def end(self):
    pass
"""


@pytest.fixture
def telemetry_of(place: Place) -> Callable[..., Telemetry]:
    """Runs a flow, given by its steps."""

    def run_steps(steps: str, *arguments: str, command: str = "run", **env: str) -> Telemetry:
        flow = place.path / "tree.py"
        flow.write_text(HEAD + textwrap.indent(textwrap.dedent(steps) + END, "    ") + TAIL)
        chosen = {name: value for name, value in place.environ(env).items() if name.startswith(("METAFLOW_", "OTEL_"))}
        return run(flow, *arguments, command=command, env={**chosen, **env}, home=place.home)

    return run_steps


def golden(text: str) -> str:
    return textwrap.dedent(text).strip()


def test_a_linear_flow(telemetry_of: Callable[..., Telemetry]) -> None:
    """Each step is linked to the one it read from."""
    steps = "@step\ndef start(self):\n    self.next(self.end)\n"
    assert telemetry_of(steps).tree() == golden("""
        RUN TreeFlow success
          start success
          end success < start
        """)


def test_the_example_with_a_retried_failure(place: Place) -> None:
    """A failed attempt that was retried is marked as such; the run is no error."""
    chosen = {name: value for name, value in place.environ().items() if name.startswith(("METAFLOW_", "OTEL_"))}
    telemetry = run(ROOT / "examples/fanout.py", env=chosen, home=place.home)
    assert telemetry.tree() == golden("""
        RUN FanoutFlow success
          start success
          collect success < work[0], work[1], work[2]/1, work[3]
          end success < collect
          work[0] success < start
          work[1] success < start
          work[2] failure RuntimeError ERROR retried < start
          work[2]/1 success < start, work[2] (retry)
          work[3] success < start
        """)
    trace_id = int(ids.trace_id("FanoutFlow", telemetry.run), 16)
    assert {span.context.trace_id for span in telemetry.spans} == {trace_id}


def test_nested_foreach_and_joins(telemetry_of: Callable[..., Telemetry]) -> None:
    """A span has the index of each enclosing foreach; a join is linked to all its inputs."""
    telemetry = telemetry_of(
        """
        @step
        def start(self):
            self.outer = ["a", "b"]
            self.next(self.middle, foreach="outer")
        @step
        def middle(self):
            self.inner = [1, 2]
            self.next(self.work, foreach="inner")
        @step
        def work(self):
            self.next(self.join_inner)
        @step
        def join_inner(self, inputs):
            self.next(self.join_outer)
        @step
        def join_outer(self, inputs):
            self.next(self.end)
        """
    )
    assert telemetry.tree() == golden("""
        RUN TreeFlow success
          start success
          end success < join_outer
          join_inner[0] success < work[0,0], work[0,1]
          join_inner[1] success < work[1,0], work[1,1]
          join_outer success < join_inner[0], join_inner[1]
          middle[0] success < start
          middle[1] success < start
          work[0,0] success < middle[0]
          work[0,1] success < middle[0]
          work[1,0] success < middle[1]
          work[1,1] success < middle[1]
        """)
    work = next(span for span in telemetry.spans if (span.attributes or {}).get(names.FOREACH_INDEX) == [1, 0])
    assert work.attributes[names.FOREACH_SIZE] == [2, 2]
    assert names.FOREACH_VALUE not in work.attributes
    joined = telemetry.span("join_outer").attributes
    assert (joined[names.STEP_TYPE], joined[names.JOIN_INPUT_COUNT]) == ("join", 2)


def test_a_split_that_is_rescued_by_catch(telemetry_of: Callable[..., Telemetry]) -> None:
    """The step raised, the task succeeded: no error, and no first failure."""
    telemetry = telemetry_of(
        """
        @step
        def start(self):
            self.next(self.left, self.right)
        @catch(var="problem")
        @step
        def left(self):
            raise KeyError("gone")
            self.next(self.join)
        @step
        def right(self):
            self.next(self.join)
        @step
        def join(self, inputs):
            self.next(self.end)
        """
    )
    assert telemetry.tree() == golden("""
        RUN TreeFlow success
          start success
          end success < join
          join success < left, right
          left success caught < start
          right success < start
        """)
    (event,) = telemetry.events(names.EVENT_TASK_EXCEPTION)
    assert (event.log_record.severity_text, event.log_record.attributes["exception.type"]) == ("WARN", "KeyError")


def test_a_timeout_that_fails_the_run(telemetry_of: Callable[..., Telemetry]) -> None:
    """Its attempt is the origin, and the run span is linked to it."""
    telemetry = telemetry_of(
        """
        @timeout(seconds=1)
        @step
        def start(self):
            time.sleep(60)
            self.next(self.end)
        """
    )
    assert telemetry.tree() == golden("""
        RUN TreeFlow failure metaflow.plugins.timeout_decorator.TimeoutException ERROR < start (first_failure)
          start timeout metaflow.plugins.timeout_decorator.TimeoutException ERROR failed-first
        """)


def test_the_first_failure_is_marked_and_the_attempts_killed_for_it_are_no_errors(
    telemetry_of: Callable[..., Telemetry],
) -> None:
    """The sibling that goes on meanwhile is cancelled by the launcher."""
    telemetry = telemetry_of(
        """
        @step
        def start(self):
            self.items = [0, 1]
            self.next(self.work, foreach="items")
        @retry(times=1, minutes_between_retries=0)
        @step
        def work(self):
            if self.input == 0:
                time.sleep(60)
            raise ValueError("shard 1 is broken")
            self.next(self.join)
        @step
        def join(self, inputs):
            self.next(self.end)
        """
    )
    assert telemetry.tree() == golden("""
        RUN TreeFlow failure ValueError ERROR < work[1]/1 (first_failure)
          start success
          work[0] cancellation < start
          work[1] failure ValueError ERROR retried < start
          work[1]/1 failure ValueError ERROR failed-first < start, work[1] (retry)
        """)
    failed = telemetry.span("RUN TreeFlow")
    assert failed.status.description == "ValueError: shard 1 is broken"
    (link,) = failed.links
    assert link.attributes[names.ERROR_TYPE] == "ValueError"


@pytest.mark.skipif(METAFLOW < (2, 18), reason="Metaflow has switches from 2.18 on")
def test_a_switch_and_a_recursion(telemetry_of: Callable[..., Telemetry]) -> None:
    """A step that leads back to itself is a chain of tasks."""
    telemetry = telemetry_of(
        """
        @step
        def start(self):
            self.count = 0
            self.next(self.again)
        @step
        def again(self):
            self.count += 1
            self.more = "yes" if self.count < 3 else "no"
            self.next({"yes": self.again, "no": self.end}, condition="more")
        """
    )
    assert telemetry.tree() == golden("""
        RUN TreeFlow success
          start success
          again success < start
          again success < again
          again success < again
          end success < again
        """)
    kinds = {(span.attributes or {}).get(names.STEP_TYPE) for span in telemetry.spans if span.name == "again"}
    assert kinds == {"split-switch"}


def test_nodes_of_a_parallel_step(telemetry_of: Callable[..., Telemetry]) -> None:
    """Each node is a task; the lines of all go through one pipe, and each counts once, at its node."""
    telemetry = telemetry_of(
        """
        @step
        def start(self):
            self.next(self.train, num_parallel=3)
        @parallel
        @step
        def train(self):
            print("node", current.parallel.node_index)
            self.next(self.join)
        @step
        def join(self, inputs):
            self.next(self.end)
        """
    )
    assert telemetry.exit_code == 0, telemetry.stdout
    assert telemetry.tree() == golden("""
        RUN TreeFlow success
          start success
          end success < join
          join success < train[0], train[1], train[2]
          train[0] success < start
          train[1] success < start
          train[2] success < start
        """)
    nodes = [span.attributes for span in telemetry.spans if span.name == "train"]
    found = {(node[names.PARALLEL_NODE_INDEX], node[names.PARALLEL_NODE_COUNT]) for node in nodes}
    assert found == {(0, 3), (1, 3), (2, 3)}
    assert sorted(telemetry.bodies("stdout")) == ["node 0", "node 1", "node 2"]


RESUMED = """
@step
def start(self):
    self.next(self.middle)
@step
def middle(self):
    self.next(self.last)
@step
def last(self):
    if "BROKEN" in os.environ:
        raise ValueError("not yet")
    self.next(self.end)
"""


def test_a_resume_with_half_of_the_tasks_cloned(telemetry_of: Callable[..., Telemetry]) -> None:
    """A new trace, linked to the origin run; cloned tasks took no time, and have the duration that they saved."""
    first = telemetry_of(RESUMED, BROKEN="1")
    assert first.exit_code == 1
    second = telemetry_of(RESUMED, command="resume")
    assert second.tree() == golden("""
        RUN TreeFlow success < another run (resume)
          start skip cloned < another run (clone)
          end success < last
          last success < middle
          middle skip cloned < another run (clone)
        """)
    resumed = second.span("RUN TreeFlow")
    (link,) = resumed.links
    assert link.context == first.span("RUN TreeFlow").context
    assert resumed.attributes[names.RUN_CLONED_COUNT] == 2
    spent = sum((span.end_time - span.start_time) / 1e9 for span in map(first.span, ("start", "middle")))
    assert resumed.attributes[names.SAVED_DURATION] == pytest.approx(spent)
    cloned = second.span("middle")
    assert cloned.start_time == cloned.end_time
    assert cloned.links[0].context == first.span("middle").context


def test_a_run_inside_a_trace_continues_it(telemetry_of: Callable[..., Telemetry]) -> None:
    """TRACEPARENT of the launcher is the parent of the run's span, and its trace id that of all."""
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    steps = "@step\ndef start(self):\n    self.next(self.end)\n"
    telemetry = telemetry_of(steps, TRACEPARENT=f"00-{trace}-{parent}-01")
    assert {span.context.trace_id for span in telemetry.spans} == {int(trace, 16)}
    assert telemetry.span("RUN TreeFlow").parent.span_id == int(parent, 16)


def test_phases_of_an_attempt_have_spans_at_the_second_level_of_detail(telemetry_of: Callable[..., Telemetry]) -> None:
    steps = "@step\ndef start(self):\n    self.next(self.end)\n"
    assert telemetry_of(steps, OTEL_METAFLOW_DETAIL="2").tree() == golden("""
        RUN TreeFlow success
          start success
            start load
            start persist
            start user code
          end success < start
            end load
            end persist
            end user code
        """)


def test_a_value_of_a_foreach_is_recorded_only_on_request(telemetry_of: Callable[..., Telemetry]) -> None:
    """And then redacted and cut."""
    steps = """
        @step
        def start(self):
            self.items = ["plain", "password=hunter2hunter2", "x" * 1000]
            self.next(self.work, foreach="items")
        @otel(foreach_value=True)
        @step
        def work(self):
            self.next(self.join)
        @step
        def join(self, inputs):
            self.next(self.end)
        """
    telemetry = telemetry_of(steps)
    values = {span.attributes[names.FOREACH_VALUE] for span in telemetry.spans if span.name == "work"}
    assert "plain" in values
    assert not any("hunter2" in value or len(value) > 256 for value in values)


@pytest.mark.parametrize(("keep", "spans"), [("false", 0), ("true", 2)])
def test_a_run_that_is_not_drawn_sends_spans_only_if_failed_ones_are_kept(
    telemetry_of: Callable[..., Telemetry], keep: str, spans: int
) -> None:
    """Metrics are always complete."""
    steps = "@step\ndef start(self):\n    raise ValueError('no')\n    self.next(self.end)\n"
    telemetry = telemetry_of(steps, OTEL_TRACES_SAMPLER="always_off", OTEL_METAFLOW_KEEP_FAILED=keep)
    assert len(telemetry.spans) == spans
    told_of = {
        metric.name
        for data in telemetry.metrics
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert {names.METRIC_RUN_DURATION, names.METRIC_TASK_DURATION} <= told_of
