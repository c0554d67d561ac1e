"""Prepares steps that run in containers, on the host that launches or deploys them.

Nothing of ours runs in between: what a container is to know and to do is put into what Metaflow sends there, its code
package (code_package.py), its environment and its command line.
"""

from __future__ import annotations

import os
from typing import Any

from otel_metaflow.core.guard import guarded, print_line
from otel_metaflow.journal.layout import CARRIED
from otel_metaflow.launcher import metaflow_seams, remote_environment

# First of what a step's shell runs, once the code package is unpacked; without the file the step runs as ever. Neither
# double quotes nor braces: Metaflow puts it into some of its own, and Argo Workflows takes two braces for a template.
_WITNESS = f".mf_code/{CARRIED}/otel_metaflow/task/witness.sh"
BOOTSTRAP = f"if [ -r {_WITNESS} ]; then . {_WITNESS}; fi"

_printed: set[str] = set()


@guarded
def prepare_task(step: str, decorators: Any, environment: Any) -> None:
    """Prepare one remote task of a run, in the process that sends it away; `environment` is Metaflow's, too."""
    found = remote_environment.of(os.environ).variables
    # The launcher exports what it knows of the task; its container would do so a second time.
    variables = {name: value for name, value in found.items() if name not in remote_environment.ENDPOINTS}
    variables.update(remote_environment.of_run(os.environ))
    _prepare(step, decorators, environment, variables)


@guarded
def prepare_package(step: str, decorators: Any, environment: Any, is_run: bool) -> None:
    """Prepare a remote step of a flow that is deployed, and report what containers do not get, of a run's too."""
    found = remote_environment.of(os.environ)
    for notice in found.notices:
        if notice not in _printed:
            _printed.add(notice)
            print_line(notice)
    if not is_run:
        _prepare(step, decorators, environment, found.variables)


def _prepare(step: str, decorators: Any, environment: Any, variables: dict[str, str]) -> None:
    metaflow_seams.add_variables(decorators, variables)
    metaflow_seams.run_before(environment, step, BOOTSTRAP)
