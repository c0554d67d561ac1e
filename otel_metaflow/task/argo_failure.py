"""Run by Argo Workflows when a workflow has failed: records the run, of which no task knows, and exports its span.

Metaflow has it run a script then, in a container of its own with the code package (argo_workflows.py,
_error_msg_capture_hook_templates); launcher/remote.py makes this part of that script.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, Mapping

from otel_metaflow.core import clock, resource, settings
from otel_metaflow.core.guard import guarded
from otel_metaflow.core.metaflow_seams import Facts
from otel_metaflow.journal import layout, run_record
from otel_metaflow.task import container, metaflow_seams


@guarded
def main() -> None:
    """Record the run of MF_PATHSPEC, and become its shipper."""
    environment = settings.read()
    if environment.disabled or not environment.is_shipping:
        return
    environ = os.environ
    flow, run = environ["MF_PATHSPEC"].split("/")[:2]
    # Where the code package is from; no variable here has the root of the datastore.
    root = environ["METAFLOW_CODE_URL"].partition(f"/{flow}/data/")[0]
    storage = metaflow_seams.open_storage(environ["MF_DATASTORE"], root)
    started_at, is_recorded = metaflow_seams.stored_run(storage, flow, run)
    home = Path(environ["MFLOG_STDOUT"]).parent / "otel"
    folder = layout.run_folder(home, (flow, run, environment.namespace))
    record = run_record.RunRecord(
        started_at or clock.now(),
        "failure",
        resource.describe(flow, run, Facts()),
        error=_error(environ),
        again=container.place(environ) if is_recorded else "",
    )
    run_record.write(folder, flow, run, environment.namespace, record)
    metaflow_seams.mark_run(storage, flow, run)
    environ["OTEL_METAFLOW_HOME"] = str(home)
    ours = os.path.abspath(__file__).rsplit(os.sep, 3)[0]
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [environ.get("PYTHONPATH"), ours]))
    os.chdir(folder)
    os.execv(sys.executable, [sys.executable, "-m", "otel_metaflow.shipper", str(folder), layout.RUN_FILE])  # noqa: S606


def _error(environ: Mapping[str, str]) -> Dict[str, str]:
    """The first failure as Metaflow finds it among the workflow's (metaflow/plugins/argo/capture_error.py)."""
    try:
        first: Dict[str, Any] = json.loads(environ["METAFLOW_ARGO_ERROR"])
        step = str(first.get("templateName") or first.get("displayName") or "")
        message = " ".join(str(first.get("message") or "").split())
        return {"type": "Error", "message": f"{step}: {message}" if step else message}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {"type": "Error", "message": "the workflow failed"}
