"""What a task, and a line that it prints, cost the launcher, which is `flow.py run`."""

from __future__ import annotations

import subprocess

from callgrind import ENVIRONMENT, slope
from environments import Environment
from places import variables
from row import Row

_FLOW = """\
import os
from metaflow import FlowSpec, step

class LaunchedFlow(FlowSpec):
    @step
    def start(self):
        self.items = list(range(int(os.environ["TASKS"])))
        self.next(self.work, foreach="items")

    @step
    def work(self):
        for number in range(int(os.environ["LINES"])):
            print("line of a task")
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    LaunchedFlow()
"""
_ROUNDS = 3
_FEW = {"TASKS": "2", "LINES": "0"}


def rows(installed: dict[str, Environment]) -> list[Row]:
    """A task more in a foreach, and a line more of one, without an endpoint."""
    plain, ours = _added(installed["empty"]), _added(installed["otel"], "--with", "otel")
    return [
        Row("the launcher, a task", plain["TASKS"], ours["TASKS"]),
        Row("the launcher, a line of a task", plain["LINES"], ours["LINES"]),
    ]


def _added(environment: Environment, *arguments: str) -> dict[str, float]:
    """Instructions for one more task, and for one more line of each of two."""
    file = environment.path / "launched.py"
    file.write_text(_FLOW)
    env = {**variables(environment.path, "counted", inherited=ENVIRONMENT), **_FEW}
    command = [str(environment.python), str(file), "--no-pylint", "--quiet", "run", "--max-workers", "1", *arguments]
    subprocess.run(command, env=env, cwd=environment.path, capture_output=True, check=True)
    return {
        "TASKS": slope(command, env, environment.path, "TASKS", 2, 12, _ROUNDS),
        "LINES": slope(command, env, environment.path, "LINES", 500, 2_500, _ROUNDS) / int(_FEW["TASKS"]),
    }
