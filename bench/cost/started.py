"""Takes a task of a run as Metaflow started it, so that it can be run again by itself."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from callgrind import ENVIRONMENT
from environments import Environment
from places import variables

STEP = "middle"
# Stands at the head of each flow: its task writes down by what command and in what environment it was started.
_HEAD = f"""\
import json, os, sys
if "{STEP}" in sys.argv and "STARTED" in os.environ:
    with open(os.environ.pop("STARTED"), "w") as file:
        json.dump([sys.orig_argv, dict(os.environ)], file)
"""


def task(environment: Environment, flow: str, *arguments: str) -> tuple[list[str], dict[str, str], Path]:
    """Command, environment and folder of the task of the step `middle`, which has been run once.

    Raises:
        RuntimeError: the run failed, or was not recorded as it should be: what does nothing costs nothing.
    """
    file, started = environment.path / "counted.py", environment.path / "started.json"
    file.write_text(_HEAD + flow)
    env = {**variables(environment.path, "counted", inherited=ENVIRONMENT), "STARTED": str(started)}
    command = [str(environment.python), str(file), "--no-pylint", "run", *arguments]
    finished = subprocess.run(command, env=env, cwd=environment.path, capture_output=True, text=True, check=False)
    if finished.returncode or re.search(r"^otel: .*(no telemetry|incomplete)", finished.stderr, re.MULTILINE):
        raise RuntimeError(finished.stdout + finished.stderr)
    argv, task_env = json.loads(started.read_text())
    return argv, task_env, environment.path
