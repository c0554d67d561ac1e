"""Runs that nobody recorded, as they come out of what Metaflow itself stored; and beside those that were."""

from __future__ import annotations

import os
import re
import signal
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from running import Place

from otel_metaflow.backfill import log_files, resource
from otel_metaflow.core import names
from otel_metaflow.core.redaction import Redaction
from otel_metaflow.journal.keys import RunKey
from otel_metaflow.testing import Telemetry, flows, run

HEAD = """\
import logging, os, signal, subprocess, sys
from metaflow import FlowSpec, Parameter, card, catch, current, parallel, resources, retry, step, timeout
class StoredFlow(FlowSpec):
"""
TAIL = """
if __name__ == "__main__":
    StoredFlow()
"""
END = """
@step
def end(self):
    print("the end")
"""


@pytest.fixture
def both(place: Place) -> Callable[..., tuple[Telemetry, Telemetry]]:
    """Runs a flow, given by its steps, with `@otel`; what it sent, and what is made of it from Metaflow's datastore."""

    def tell(steps: str, *arguments: str, command: str = "run", head: str = HEAD) -> tuple[Telemetry, Telemetry]:
        flow = place.path / "stored.py"
        flow.write_text(head + textwrap.indent(textwrap.dedent(steps) + END, "    ") + TAIL)
        chosen = {name: value for name, value in place.environ().items() if name.startswith(("METAFLOW_", "OTEL_"))}
        live = run(flow, *arguments, command=command, env=chosen, home=place.home)
        return live, backfilled(place, f"{live.flow}/{live.run}")

    return tell


def home_of(place: Place, *arguments: str) -> Path:
    """Where `backfilled` has its journals."""
    return place.path / f"backfilled{''.join(arguments)}"


def backfilled(place: Place, name: str, *arguments: str) -> Telemetry:
    """The telemetry of a run, from what `fetch` makes of it."""
    home = home_of(place, *arguments)
    done = place.cli("fetch", name, "--dead-after", "0s", *arguments, env={"OTEL_METAFLOW_HOME": str(home)})
    assert done.returncode == 0, done.stdout + done.stderr
    flow, run_id = name.split("/")
    made = Telemetry(0, "", "", flow, run_id)
    flows._read(home, RunKey(flow, run_id), made, {"OTEL_METAFLOW_HOME": str(home)})
    return made


def lines(telemetry: Telemetry) -> Counter[tuple[str, str]]:
    """The lines that attempts printed, with the span that each belongs to."""
    return Counter(
        (f"{log.log_record.span_id:x}", str(log.log_record.body))
        for log in telemetry.logs
        if log.instrumentation_scope is not None and log.instrumentation_scope.name == names.SCOPE_STDIO
    )


def ids(telemetry: Telemetry) -> dict[str, str]:
    """Of all spans but those of waiting, which depend on the machine."""
    return {f"{span.context.span_id:x}": span.name for span in telemetry.spans if not span.name.endswith(" queued")}


LINEAR = """
@step
def start(self):
    print("a line")
    subprocess.run(["echo", "a line of a subprocess"])
    self.next(self.end)
"""
FOREACH = """
@step
def start(self):
    self.shards = ["a", "b", "c"]
    self.next(self.work, foreach="shards")
@resources(cpu=1, memory=64)
@retry(times=1, minutes_between_retries=0)
@step
def work(self):
    print("shard", self.input)
    sys.stderr.write("to the other stream\\n")
    if self.input == "b" and current.retry_count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if self.input == "c" and current.retry_count == 0:
        raise ValueError("a damaged shard")
    self.next(self.join)
@step
def join(self, inputs):
    self.next(self.end)
"""
BRANCHES = """
@step
def start(self):
    self.next(self.left, self.right)
@step
def left(self):
    self.inner = [1, 2]
    self.next(self.deep, foreach="inner")
@step
def deep(self):
    self.next(self.undeep)
@step
def undeep(self, inputs):
    self.next(self.join)
@catch(var="problem")
@step
def right(self):
    raise KeyError("caught")
    self.next(self.join)
@step
def join(self, inputs):
    self.next(self.end)
"""
FAILURE = """
@step
def start(self):
    class Mine(Exception):
        pass
    try:
        raise OSError("below")
    except OSError as error:
        raise Mine("two\\nlines") from error
    self.next(self.end)
"""


TIMEOUT = """
@retry(times=1, minutes_between_retries=0)
@timeout(seconds=1)
@step
def start(self):
    if current.retry_count == 0:
        import time
        time.sleep(30)
    self.next(self.end)
"""
NESTED = """
@step
def start(self):
    self.outer = [0, 1]
    self.next(self.above, foreach="outer")
@step
def above(self):
    self.inner = [0, 1]
    self.next(self.below, foreach="inner")
@step
def below(self):
    self.next(self.after)
@step
def after(self):
    self.next(self.within)
@step
def within(self, inputs):
    self.next(self.without)
@step
def without(self, inputs):
    self.next(self.end)
"""
LOOP = """
@step
def start(self):
    self.round = 0
    self.next(self.again)
@step
def again(self):
    self.round += 1
    self.next({"more": self.again, "done": self.end}, condition="way")
"""
FLOWS = {
    "linear": LINEAR,
    "foreach": FOREACH,
    "branches": BRANCHES,
    "failure": FAILURE,
    "timeout": TIMEOUT,
    "nested": NESTED,
    "loop": LOOP.replace("self.round += 1", 'self.round += 1\n    self.way = "more" if self.round < 3 else "done"'),
}


@pytest.mark.parametrize("steps", FLOWS.values(), ids=FLOWS)
def test_a_run_recorded_live_and_the_same_run_backfilled_tell_the_same(
    both: Callable[..., tuple[Telemetry, Telemetry]], steps: str
) -> None:
    """The tree, the lines of each attempt, and all ids."""
    live, made = both(steps)
    assert made.tree() == live.tree()
    assert ids(made) == ids(live)
    assert lines(made) == lines(live)
    sizes = facts(live, names.FOREACH_SIZE)
    assert {span: size for span, size in facts(made, names.FOREACH_SIZE).items() if size} == {
        span: size for span, size in sizes.items() if size
    }


def test_a_resumed_run_knows_what_it_cloned(both: Callable[..., tuple[Telemetry, Telemetry]]) -> None:
    """And reads from that, as a live one."""
    steps = FOREACH.replace(
        'if self.input == "c" and current.retry_count == 0', 'if self.input == "c" and "OK" not in os.environ'
    )
    first, _ = both(steps)
    assert first.exit_code == 1
    os.environ["OK"] = "1"
    try:
        live, made = both(steps, "--origin-run-id", first.run, command="resume")
    finally:
        del os.environ["OK"]
    assert live.exit_code == 0, live.stderr
    assert made.tree() == live.tree()
    assert lines(made) == lines(live)


def test_the_nodes_of_a_parallel_step_are_attempts(both: Callable[..., tuple[Telemetry, Telemetry]]) -> None:
    """Locally they print through their control task, whose log files Metaflow stores."""
    steps = """
        @step
        def start(self):
            self.next(self.train, num_parallel=2)
        @parallel
        @step
        def train(self):
            self.next(self.join)
        @step
        def join(self, inputs):
            self.next(self.end)
        """
    live, made = both(steps)
    assert ids(made) == ids(live)


def test_what_a_step_requested_and_stored_is_known(both: Callable[..., tuple[Telemetry, Telemetry]]) -> None:
    """From the stored graph, and from what Metaflow lists of an attempt's artifacts."""
    live, made = both(FOREACH)
    for name in (
        names.REQUESTED_CPU, names.REQUESTED_MEMORY, names.ARTIFACT_COUNT, names.ARTIFACT_SIZE, names.STEP_TYPE,
        names.FOREACH_INDEX, names.FOREACH_SIZE, names.CODE_FILE_PATH, names.CODE_LINE_NUMBER, names.ERROR_TYPE,
        names.FINAL, names.PATHSPEC, names.JOIN_INPUT_COUNT,
    ):  # fmt: skip
        assert facts(made, name) == facts(live, name), name


def facts(telemetry: Telemetry, name: str) -> dict[str, object]:
    return {f"{span.context.span_id:x}": (span.attributes or {}).get(name) for span in telemetry.spans}


def test_the_exception_is_the_one_that_was_raised(both: Callable[..., tuple[Telemetry, Telemetry]]) -> None:
    """Type and message of a chain; the stack trace has the frames of the step, and none of Metaflow's command line."""
    live, made = both(FAILURE)
    (was,), (now,) = (each.events(names.EVENT_TASK_EXCEPTION) for each in (live, made))
    for name in ("exception.type", "exception.message"):
        assert (now.log_record.attributes or {})[name] == (was.log_record.attributes or {})[name]
    trace = str((now.log_record.attributes or {})["exception.stacktrace"])
    assert trace == (was.log_record.attributes or {})["exception.stacktrace"]


# What only a process there knows.
OF_PROCESSES = {names.HOST_NAME, names.HOST_ARCH, names.OS_TYPE, names.PROCESS_PID}


def test_the_resource_is_that_of_a_live_run_as_far_as_metaflow_knows_it(
    both: Callable[..., tuple[Telemetry, Telemetry]],
) -> None:
    """Project, branch and with them the environment, user, versions: by these the collector routes."""
    head = HEAD.replace("class Stored", '@project(name="shop")\nclass Stored').replace(
        "Parameter,", "Parameter, project,"
    )
    live, made = both(LINEAR, head=head)
    for span in live.spans:
        was = {name: value for name, value in span.resource.attributes.items() if name not in OF_PROCESSES}
        now = dict(made.span(span.name).resource.attributes)
        assert now.pop(names.SOURCE) == "backfill"
        assert now.pop(names.IN_DOUBT, None) is (None if span.name.startswith("RUN ") else True)
        assert now == was


def test_a_run_that_was_cancelled_is_no_failure(place: Place) -> None:
    """By Ctrl-C: the launcher ends its tasks, and notes that it did."""
    steps = LINEAR.replace('print("a line")', 'print("it waits", flush=True)\n    import time\n    time.sleep(60)')
    flow = place.write(HEAD + textwrap.indent(textwrap.dedent(steps) + END, "    ") + TAIL)
    process = place.start(flow, "--with", "otel")
    assert process.stdout is not None
    seen = ""
    while "it waits" not in seen:
        seen += process.stdout.readline()
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    run_id = re.search(r"run-id (\d+)", seen + stdout)
    assert run_id is not None
    live = Telemetry(0, "", "", "StoredFlow", run_id.group(1))
    flows._read(place.home, RunKey("StoredFlow", live.run), live, {"OTEL_METAFLOW_HOME": str(place.home)})
    assert backfilled(place, f"StoredFlow/{live.run}").tree() == live.tree()


def test_lines_of_an_old_version_without_times_are_dated_to_the_attempt(tmp_path: Path) -> None:
    """And lines that stand for what was left out of a file that was too long."""
    file = tmp_path / "0.runtime_stdout.log"
    file.write_bytes(b"plain\n[MFLOG|0|2026-11-28T12:00:00.000001Z|runtime|one]a\nb\n[TRUNCATED]")
    found = list(log_files.lines({file.name: file}, 0, 17))
    assert [(line.at, line.id, line.data) for line in found] == [
        (17, "runtime-stdout-0", b"plain\n"),
        (1_795_867_200_000_001_000, "one", b"a\n"),
        (1_795_867_200_000_001_000, "runtime-stdout-2", b"b\n"),
        (1_795_867_200_000_001_000, "runtime-stdout-3", b"[TRUNCATED]"),
    ]


def test_known_secrets_are_masked_in_what_is_made(place: Place, tmp_path: Path) -> None:
    """Values of variables of the command that backfills, in lines and in exceptions."""
    steps = FAILURE.replace("two\\nlines", "hunter2hunter2")
    run_ = place.run(HEAD + textwrap.indent(textwrap.dedent(steps) + END, "    ") + TAIL)
    env = {"OTEL_METAFLOW_HOME": str(tmp_path / "team"), "SHOP_PASSWORD": "hunter2hunter2"}
    done = place.cli("fetch", f"StoredFlow/{run_.run}", "--dead-after", "0s", env=env)
    assert done.returncode == 0, done.stderr
    texts = [path.read_text() for path in (tmp_path / "team").rglob("*.jsonl")]
    assert any("[REDACTED]" in text for text in texts)
    assert not any("hunter2hunter2" in text for text in texts)


@pytest.mark.parametrize(
    ("tags", "environment"),
    [
        (["project:shop", "project_branch:prod"], "production"),
        (["project:shop", "project_branch:prod.blue"], "production"),
        (["project:shop", "project_branch:test.blue"], "test.blue"),
        (["production:a-token"], "dev"),
        ([], "dev"),
    ],
)
def test_the_environment_is_that_of_the_project(tags: list[str], environment: str) -> None:
    """And a production token, which only says that a flow was deployed, is nowhere."""
    run_ = {"run_number": "argo-shop-1", "system_tags": ["runtime:argo-workflows", *tags], "tags": [], "ts_epoch": 1}
    found = resource.of_run("ShopFlow", run_, "", Redaction())
    assert found[names.DEPLOYMENT_ENVIRONMENT_NAME] == environment
    assert found[names.ORCHESTRATOR_NAME] == "argo-workflows"
    assert "a-token" not in str(found)
