"""The page of a run as a Metaflow card, `@card(type="otel")`; runs in the process that Metaflow starts for a card."""

from __future__ import annotations

from otel_metaflow.core import settings
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import RunKey
from otel_metaflow.viewer import page


def html(pathspec: str) -> str:
    """The page of the run of the task FLOW/RUN/STEP/TASK, from its journals so far."""
    environment = settings.read()
    flow, run, _, _ = pathspec.split("/")
    folder = layout.run_folder(environment.home, RunKey(flow, run, environment.namespace))
    if folder.is_dir():
        return page.html(environment, folder)
    return page.note(f"There is no journal of {flow}/{run} in {environment.home}. Add @otel to the step.")
