"""A task without a launcher, in a container most often: what it says of where it runs, and its shipper."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, MutableMapping, NamedTuple

from otel_metaflow.core import settings, trace_context
from otel_metaflow.core.guard import print_line
from otel_metaflow.journal import spawn
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.processes import process_space, process_start

_WITNESS = "OTEL_METAFLOW_WITNESS"


class Alone(NamedTuple):
    """An attempt that no launcher follows."""

    flow: str
    run: str
    key: AttemptKey

    def describe(self, environ: MutableMapping[str, str]) -> Dict[str, Any]:
        """What the attempt's first record says besides: its trace, where its pids are known, who will see it end.

        The variable of the witness, task/witness.sh, is the task's alone: it ends with the number of its process.
        """
        facts: Dict[str, Any] = {}
        joined = trace_context.read(environ, trace_context.HANDED_ON)
        if joined:
            facts["traceparent"] = joined
        space = process_space()
        if space:
            facts["processSpace"] = space
        number = environ.pop(_WITNESS, "").rpartition("-")[2]
        if number.isdecimal():
            facts["witness"] = {"pid": int(number)}
            started = process_start(int(number))
            if started is not None:
                facts["witness"]["processStart"] = started
        return facts

    def ensure_shipper(self, folder: Path) -> None:
        """See that what is in `folder` is delivered: of a container's task by a shipper that reads its output, too."""
        environment = settings.read()
        for problem in environment.problems:
            print_line(problem)
        if not environment.is_shipping:
            return
        # Metaflow's log files are those of the container's own task, not of one that a step starts in it.
        own = f"{self.flow}/{self.run}/{self.key.step}/{self.key.task}"
        if os.environ.get("MF_PATHSPEC") == own and os.environ.get("MFLOG_STDOUT"):
            spawn.start(folder, self.key)
        else:
            spawn.ensure(folder)
