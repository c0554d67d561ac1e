"""Counts the instructions of one process, by callgrind: exact to some hundredths of a per cent, whatever else runs.

make bench-cost
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from environments import Environment
from places import environments, variables
from rich import box
from rich.console import Console
from rich.table import Table

# Its middle task writes down by what command and in what environment it was started, so that it can be run again.
FLOW = """\
import json, os, sys
from metaflow import FlowSpec, step

if "middle" in sys.argv:
    with open(os.environ["STARTED"], "w") as file:
        json.dump([sys.orig_argv, dict(os.environ)], file)

class CountedFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.middle)

    @step
    def middle(self):
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    CountedFlow()
"""
_COUNTED = re.compile(r"Collected : (\d+)")


def counted(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> int:
    """The instructions of `command`, without those of processes that it starts.

    Raises:
        RuntimeError: it failed.
    """
    finished = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *command],
        env={**env, "PYTHONHASHSEED": "0"}, cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = _COUNTED.search(finished.stderr)
    if finished.returncode or found is None:
        raise RuntimeError(finished.stdout + finished.stderr)
    return int(found.group(1))


def of_task(environment: Environment, *arguments: str) -> int:
    """The instructions of one task that does nothing, started as Metaflow starts it."""
    flow = environment.path / "counted.py"
    flow.write_text(FLOW)
    env = {**variables(environment.path, "counted"), "STARTED": str(environment.path / "started.json")}
    command = [str(environment.python), str(flow), "--no-pylint", "run", *arguments]
    subprocess.run(command, env=env, cwd=environment.path, capture_output=True, check=True)
    argv, task_env = json.loads((environment.path / "started.json").read_text())
    return counted(argv, task_env, environment.path)


def of_import(environment: Environment) -> int:
    """The instructions of `import metaflow`."""
    env = variables(environment.path, "counted")
    command = [str(environment.python), "-c", "import metaflow"]
    subprocess.run(command, env=env, cwd=environment.path, check=True)  # it is compiled now
    return counted(command, env, environment.path)


def main() -> None:
    """Print the table."""
    table = Table(
        "millions of instructions", "with an empty extension", "with ours", "more", "budget", box=box.MARKDOWN
    )
    with tempfile.TemporaryDirectory() as name:
        made = environments(Path(name))
        empty, ours = made["empty"], made["otel"]
        task = of_task(empty)
        rows = [
            ("`import metaflow`", of_import(empty), of_import(ours), 5),
            ("a task of a flow without `@otel`", task, of_task(ours), 5),
            ("a task with `@otel`, no endpoint", task, of_task(ours, "--with", "otel"), 20),
        ]
    for label, before, after, budget in rows:
        table.add_row(label, *(f"{count / 1e6:.1f}" for count in (before, after, after - before)), f"{budget}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
