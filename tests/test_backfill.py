"""Runs that nobody recorded, as they come out of what Metaflow itself stored; and beside those that were."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable

import pytest
from running import Place

from otel_metaflow.core import names
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

    def tell(steps: str, *arguments: str, command: str = "run") -> tuple[Telemetry, Telemetry]:
        flow = place.path / "stored.py"
        flow.write_text(HEAD + textwrap.indent(textwrap.dedent(steps) + END, "    ") + TAIL)
        chosen = {name: value for name, value in place.environ().items() if name.startswith(("METAFLOW_", "OTEL_"))}
        live = run(flow, *arguments, command=command, env=chosen, home=place.home)
        return live, backfilled(place, f"{live.flow}/{live.run}")

    return tell


def backfilled(place: Place, name: str) -> Telemetry:
    """The telemetry of a run, from what `fetch` makes of it."""
    home = place.path / "backfilled"
    done = place.cli("fetch", name, "--dead-after", "0s", env={"OTEL_METAFLOW_HOME": str(home)})
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
    return {f"{span.context.span_id:x}": span.name for span in telemetry.spans}


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


FLOWS = {"linear": LINEAR, "foreach": FOREACH, "branches": BRANCHES, "failure": FAILURE}


@pytest.mark.parametrize("steps", FLOWS.values(), ids=FLOWS)
def test_a_run_recorded_live_and_the_same_run_backfilled_tell_the_same(
    both: Callable[..., tuple[Telemetry, Telemetry]], steps: str
) -> None:
    """The tree, the lines of each attempt, and all ids."""
    live, made = both(steps)
    assert made.tree() == live.tree()
    assert ids(made) == {span: name for span, name in ids(live).items() if not name.endswith(" queued")}
    assert lines(made) == lines(live)
