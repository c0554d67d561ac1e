"""What each process of every flow pays for the extension being installed."""

from __future__ import annotations

import subprocess

from callgrind import ENVIRONMENT, counted
from environments import Environment
from places import variables
from row import Row


def rows(installed: dict[str, Environment]) -> list[Row]:
    """`import metaflow`."""
    return [Row("`import metaflow`", *(_of_import(installed[name]) for name in ("empty", "otel")), budget=5e6)]


def _of_import(environment: Environment) -> int:
    env = variables(environment.path, "counted", inherited=ENVIRONMENT)
    command = [str(environment.python), "-c", "import metaflow"]
    subprocess.run(command, env=env, cwd=environment.path, check=True)  # it is compiled now
    return counted(command, env, environment.path)
