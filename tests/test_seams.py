"""Where Metaflow is built differently, a run goes as it does without us, and one line names what is not recorded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import another_metaflow
import pytest
from running import Finished, Place, seen

from otel_metaflow.core import metaflow_seams as core
from otel_metaflow.launcher import metaflow_seams as launcher
from otel_metaflow.task import metaflow_seams as task

FLOWS = {
    "plain": """
        import os, sys
        from metaflow import FlowSpec, current, resources, retry, step
        class PlainFlow(FlowSpec):
            @resources(cpu=1)
            @retry(times=1, minutes_between_retries=0)
            @step
            def start(self):
                print("start", flush=True)
                os.system("echo of a subprocess")
                if current.retry_count == 0:
                    raise ValueError("the first attempt fails")
                self.next(self.end)
            @step
            def end(self):
                if os.environ.get("FAIL"):
                    sys.exit("the origin run fails")
        if __name__ == "__main__":
            PlainFlow()
        """,
    "foreach": """
        from metaflow import FlowSpec, step
        class ForeachFlow(FlowSpec):
            @step
            def start(self):
                self.items = ["a"]
                self.next(self.body, foreach="items")
            @step
            def body(self):
                self.next(self.join)
            @step
            def join(self, inputs):
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            ForeachFlow()
        """,
    "parallel": """
        from metaflow import FlowSpec, parallel, step
        class ParallelFlow(FlowSpec):
            @step
            def start(self):
                self.next(self.train, num_parallel=1)
            @parallel
            @step
            def train(self):
                self.next(self.join)
            @step
            def join(self, inputs):
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            ParallelFlow()
        """,
    "card": """
        from metaflow import FlowSpec, card, step
        class CardFlow(FlowSpec):
            @card(type="otel")
            @step
            def start(self):
                raise ValueError("no card without us")
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            CardFlow()
        """,
    "slow": """
        import time
        from metaflow import FlowSpec, retry, step, timeout
        class SlowFlow(FlowSpec):
            @timeout(seconds=1)
            @step
            def start(self):
                time.sleep(60)
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            SlowFlow()
        """,
}
SPECIAL = {
    "oreach": "foreach",
    "TaskDataStore.pathspec": "foreach",
    "Parallel.": "parallel",
    "parallel_step": "parallel",
    "CardDecorator.": "card",
    "CardCreator.": "card",
    "TimeoutException": "slow",
}
RESUMED = {
    "metaflow.current", "metaflow.metaflow_current.Current.get", "metaflow.flowspec.FlowSpec.name",
    "metaflow.runtime.Worker", "metaflow.runtime.Worker._launch", "metaflow.runtime.Worker.task",
    "metaflow.runtime.Task.step", "metaflow.runtime.Task.task_id", "metaflow.runtime.Task.retries",
    "metaflow.runtime.Task.is_cloned", "metaflow.runtime.Task.input_paths", "metaflow.runtime.Task.results",
    "metaflow.runtime.clone_task_helper", "metaflow.datastore.datastore_set.TaskDataStoreSet.get_with_pathspec",
    "metaflow.datastore.task_datastore.TaskDataStore.attempt",
    "metaflow.datastore.task_datastore.TaskDataStore._objects",
}  # fmt: skip
"""What is read otherwise, or only, in a `resume`."""
ERRORS = ("AttributeError", "TypeError", "RuntimeError")


def command(flow: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(flow), "--no-pylint", *arguments]


class Lab:
    """Flows, and the run that is resumed, in one place for all tests of the module."""

    def __init__(self, path: Path) -> None:
        self.place = Place(path)
        self.flows = {name: self.place.write(source, f"{name}.py") for name, source in FLOWS.items()}
        self._known: dict[str, list[tuple[Finished, Finished]]] = {}
        self.origin = ""

    def known(self, name: str) -> list[tuple[Finished, Finished]]:
        """Runs without and with us, and with the plain flow resumed ones."""
        if name not in self._known:
            if name == "plain":
                origin = self.place.run(self.flows["plain"], env={"FAIL": "1"})
                assert origin.code == 1
                self.origin = origin.run
            without, ours = (
                [self.place.finish(each) for each in self.start(name, arguments, {}, is_resumed=name == "plain")]
                for arguments in ((), ("--with", "otel"))
            )
            self._known[name] = list(zip(without, ours, strict=True))
        return self._known[name]

    def start(
        self, name: str, arguments: tuple[str, ...], env: Mapping[str, str], *, is_resumed: bool = False
    ) -> list[subprocess.Popen[str]]:
        """Start the flow, and perhaps a resume beside it."""
        ways = [("run", *arguments)]
        if is_resumed:
            ways.append(("resume", "--origin-run-id", self.origin, *arguments))
        return [
            subprocess.Popen(
                command(self.flows[name], *way),
                cwd=self.place.path,
                env=self.place.environ(env),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for way in ways
        ]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("seams"))


def incomplete(finished: Finished) -> list[str]:
    return [line for line in finished.stderr.splitlines() if line.startswith("otel: telemetry is incomplete")]


def shown(finished: Finished) -> tuple[Any, ...]:
    code, stdout, stderr = seen(finished)
    # A resume numbers its tasks as its threads come to them.
    return code, sorted(re.sub(r"\[RUN/(\w+)/\d+", r"[RUN/\1/TASK", line) for line in stdout), stderr


def recorded(finished: Finished) -> Counter[tuple[str, ...]]:
    """What the journals hold: of each record its kind and the names of what it knows."""
    found: Counter[tuple[str, ...]] = Counter()
    for path in finished.folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record["kind"] not in ("line", "read"):  # how many lines are read at once is chance
                # A task that the launcher hands nothing describes by itself what the run's resource is.
                resource = {} if "task" in record else record.pop("resource", {})
                record.pop("resource", None)
                flat = {**record, **{f"resource {name}": value for name, value in resource.items()}}
                known = sorted(name for name, value in flat.items() if value not in ("", None, [], {}))
                found[(record["kind"], *known)] += 1
    return found


def check(lab: Lab, flow: str, *, is_resumed: bool = False, **change: Any) -> list[str]:
    """Run the flow with us and the change, and compare; the lines about what is not recorded."""
    known = lab.known(flow)
    folder = lab.place.path / "changed"
    folder.mkdir(exist_ok=True)
    environment = another_metaflow.beside(folder, **change)
    processes = lab.start(flow, ("--with", "otel"), environment, is_resumed=is_resumed)
    lines = []
    for process, (without, ours) in zip(processes, known, strict=False):
        finished = lab.place.finish(process)
        assert shown(finished) == shown(without)
        reported = incomplete(finished)
        assert len(reported) <= 1
        if not reported:
            assert recorded(finished) == recorded(ours), "something is not recorded, and no line reports it"
        lines += reported
    return lines


@pytest.mark.range
@pytest.mark.parametrize("flow", FLOWS)
def test_with_this_metaflow_nothing_is_missing(lab: Lab, flow: str) -> None:
    """Or else the other tests compare with what is not there."""
    for without, ours in lab.known(flow):
        assert shown(ours) == shown(without)
        assert incomplete(ours) == []
        assert recorded(ours)


def flow_for(name: str) -> str:
    return next((flow for part, flow in SPECIAL.items() if part in name), "plain")


@pytest.mark.range
@pytest.mark.parametrize("name", sorted({*core.DEPENDS, *launcher.DEPENDS, *task.DEPENDS}))
def test_a_name_that_metaflow_no_longer_has_costs_only_the_facts_read_by_it(lab: Lab, name: str) -> None:
    """Each of the names that we publish, as a rename would take it away, or as a property that raises."""
    flow = flow_for(name)
    check(
        lab,
        flow,
        is_resumed=flow == "plain" and name in RESUMED,
        hide=name,
        error=ERRORS[sum(map(ord, name)) % len(ERRORS)],
    )


@pytest.mark.parametrize("name", ["subprocess.Popen.pid", "subprocess.Popen.returncode"])
def test_a_process_of_another_type_costs_only_the_facts_read_of_it(lab: Lab, name: str) -> None:
    """Metaflow may wrap what it starts."""
    assert check(lab, "plain", hide=name)


RUNTIME = "metaflow.runtime"
EMITTED = r"def emit_log\(self, msg, buf, system_msg=False\):"
CLONED = (
    r"self\._clone_run_id,\n(\s+)self\._run_id,\n\s+step_name,\n\s+task_id,  # origin_task_id\n\s+new_task_id,\n"
    r"\s+self\._flow_datastore,\n\s+self\._metadata,\n"
)


def cloned_by(origin: str) -> str:
    """The arguments of CLONED by keywords, in another order; that of the origin's task is called `origin`."""
    given = f"task_id=new_task_id, clone_run_id=self._clone_run_id, run_id=self._run_id, step_name=step_name, {origin}="
    return given + "task_id, flow_datastore=self._flow_datastore, metadata_service=self._metadata,\n"


EDITS: dict[str, list[tuple[str, str, str]]] = {
    "the worker is renamed": [(RUNTIME, r"\bWorker\b", "TaskWorker")],
    "the launch is renamed": [(RUNTIME, r"\b_launch\b", "_start")],
    "the launch takes an argument": [
        (RUNTIME, r"def _launch\(self\)", "def _launch(self, deadline)"),
        (RUNTIME, r"self\._launch\(\)", "self._launch(deadline=3)"),
    ],
    "the process is renamed": [(RUNTIME, r"\b_proc\b", "_process")],
    "whether a task was killed is renamed": [(RUNTIME, r"\bself\.killed\b", "self.was_killed")],
    "lines are emitted by keywords": [(RUNTIME, r"self\.emit_log\(line, buf\)", "self.emit_log(buf=buf, msg=line)")],
    "lines are emitted with more": [
        (RUNTIME, EMITTED, "def emit_log(self, at, msg, buf, system_msg=False, *, color=None):"),
        (RUNTIME, r"self\.emit_log\(\s*", "self.emit_log(0, "),
    ],
    "lines are emitted by other names": [
        (RUNTIME, EMITTED, "def emit_log(self, *, data, sink, system_msg=False):\n        msg, buf = data, sink"),
        (RUNTIME, r"self\.emit_log\((\s*)(b?\"[^\"]*\"|\w+),(\s*)([\w.]+)", r"self.emit_log(\1data=\2,\3sink=\4"),
    ],
    "lines are text": [
        (RUNTIME, r"self\.emit_log\(line, buf\)", "self.emit_log(line.decode(), buf)"),
        (RUNTIME, EMITTED, r"\g<0>\n        msg = msg.encode() if isinstance(msg, str) else msg"),
    ],
    "a task is cloned by keywords": [(RUNTIME, CLONED, cloned_by("clone_task_id"))],
    "a task is cloned by other keywords": [
        ("metaflow.clone_util", r"\bclone_task_id\b", "origin_task"),
        (RUNTIME, CLONED, cloned_by("origin_task")),
    ],
    "the clone helper is renamed": [
        (RUNTIME, r"import clone_task_helper", r"\g<0> as take_over_task"),
        (RUNTIME, r"\bclone_task_helper\(", "take_over_task("),
    ],
}
WHOLE = {
    "the launch takes an argument",
    "lines are emitted by keywords",
    "lines are emitted with more",
    "a task is cloned by keywords",
}
"""The changes that cost nothing."""


@pytest.mark.parametrize("edit", EDITS)
def test_a_metaflow_that_is_edited_runs_as_it_does_without_us(lab: Lab, edit: str) -> None:
    """Its own callers know of the edit: renamed methods, more arguments, keywords, other types."""
    lines = check(lab, "plain", is_resumed=True, edit=EDITS[edit])
    assert bool(lines) == (edit not in WHOLE)
    assert all("not recorded" in line for line in lines)
