"""Prepares steps that run in containers, on the host that launches or deploys them.

Nothing of ours runs in between: what a container is to know and to do is put into what Metaflow sends there, its code
package (code_package.py), its environment and its command line.
"""

from __future__ import annotations

import atexit
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from otel_metaflow.core import launch_context
from otel_metaflow.core.guard import guarded, print_line
from otel_metaflow.journal import layout
from otel_metaflow.journal.layout import CARRIED
from otel_metaflow.journal.replacement import replacing
from otel_metaflow.launcher import metaflow_seams, remote_environment

# First of what a step's shell runs, once the code package is unpacked; without the file the step runs as ever. Neither
# double quotes nor braces: Metaflow puts it into some of its own, and Argo Workflows takes two braces for a template.
_WITNESS = f".mf_code/{CARRIED}/otel_metaflow/task/witness.sh"
BOOTSTRAP = f"if [ -r {_WITNESS} ]; then . {_WITNESS}; fi"

_FAILURE = (
    f'python -c \'import sys; sys.path.append(".mf_code/{CARRIED}"); '
    "from otel_metaflow.task import argo_failure; argo_failure.main()'"
)

_printed: set[str] = set()


@guarded
def prepare_task(step: str, decorators: Any, environment: Any, datastore: Any, arguments: Sequence[str]) -> None:
    """Prepare one remote task of a run, in the process that sends it away, with `arguments` on its command line.

    `environment` and `datastore` are Metaflow's, too.
    """
    found = remote_environment.of(os.environ)
    variables = {**found.variables, **remote_environment.of_run(os.environ)}
    run, task, attempt = (_option(arguments, name) for name in ("run-id", "task-id", "retry-count"))
    folder = launch_context.folder_of(run)
    if folder is not None and not found.exports:
        # Wherever its container has an endpoint from, a secret say: the launcher does not know of that.
        variables[launch_context.LAUNCHER_EXPORTS] = "true"
    elif folder is not None:
        variables[launch_context.HAS_LAUNCHER] = "true"
        files = layout.container_files(folder, (step, task, int(attempt or 0)))
        atexit.register(guarded(_fetch), files, datastore, (run, step, task, int(attempt or 0)))
    _prepare(step, decorators, environment, variables)


@guarded
def prepare_package(step: str, decorators: Any, environment: Any, is_run: bool) -> None:
    """Prepare a remote step of a flow that is deployed, and report what containers do not get, of a run's too."""
    found = remote_environment.of(os.environ)
    for notice in found.notices:
        if notice not in _printed:
            _printed.add(notice)
            print_line(notice)
    group = os.environ.get(remote_environment.BATCH_LOG_GROUP, "").strip()
    if group:
        metaflow_seams.log_to(decorators, group)
    if not is_run:
        _prepare(step, decorators, environment, found.variables)
        metaflow_seams.run_when_workflow_fails(_failure_script(found.variables))


def _option(arguments: Sequence[str], name: str) -> str:
    """The value of an option, given as `--name value` or `--name=value`."""
    for place, argument in enumerate(arguments):
        if argument == f"--{name}":
            return str(arguments[place + 1]) if place + 1 < len(arguments) else ""
        if str(argument).startswith(f"--{name}="):
            return str(argument).partition("=")[2]
    return ""


def _fetch(files: Mapping[str, Path], datastore: Any, task: tuple[str, str, str, int]) -> None:
    """Fetch what a container stored of its attempt; its own journal last, by which it is known to be there."""
    found = metaflow_seams.stored_logs(datastore, task, list(files))
    if found.get("journal"):
        for stream in sorted(found, key=lambda stream: stream == "journal"):
            with replacing(files[stream]) as part:
                part.write_bytes(found[stream])


def _failure_script(variables: Mapping[str, str]) -> str:
    """What records the run of a workflow that failed, in a container to which no `@environment` applies."""
    given = "".join(f"export {name}={shlex.quote(value)}; " for name, value in sorted(variables.items()))
    return f"({given}{_FAILURE}) > /dev/null 2>&1 || :"


def _prepare(step: str, decorators: Any, environment: Any, variables: dict[str, str]) -> None:
    metaflow_seams.add_variables(decorators, variables)
    metaflow_seams.run_before(environment, step, BOOTSTRAP)
