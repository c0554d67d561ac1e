"""A task without a launcher, usually in a container: the facts that it records about where it runs, and its shipper."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, Mapping, MutableMapping, NamedTuple

from otel_metaflow.core import clock, launch_context, settings, trace_context
from otel_metaflow.core.guard import print_line
from otel_metaflow.journal import layout, run_record, spawn
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.processes import parent_of, process_space, process_start, process_start_time
from otel_metaflow.task import metaflow_seams

_WITNESS = "OTEL_METAFLOW_WITNESS"


def place(environ: Mapping[str, str]) -> str:
    """A name of this container that no other has: its pod's uid, its job's id, or else its host's."""
    return environ.get("METAFLOW_KUBERNETES_POD_ID") or environ.get("AWS_BATCH_JOB_ID") or os.uname().nodename


class Alone(NamedTuple):
    """An attempt without a launcher."""

    flow: str
    run: str
    key: AttemptKey

    def describe(self, environ: MutableMapping[str, str]) -> Dict[str, Any]:
        """Facts for its first record: its trace, where its pids are valid, and the process that records its end.

        That process is the shell of task/witness.sh; its variable, which ends with its pid, is only for this task.
        """
        facts: Dict[str, Any] = {}
        joined = trace_context.read(environ, trace_context.HANDED_ON)
        if joined:
            facts["traceparent"] = joined
        else:  # the platform's: Argo Workflows has one where it is traced itself
            tracing = trace_context.read(environ)
            if tracing:
                facts["orchestratorTraceparent"] = tracing
        space = process_space()
        if space:
            facts["processSpace"] = space
        number = environ.pop(_WITNESS, "").rpartition("-")[2]
        if number.isdecimal():
            facts["witness"] = {"pid": int(number)}
            started = process_start(int(number))
            if started is not None:
                facts["witness"]["processStart"] = started
            # The command of the container: what was before it is queueing, its image included.
            began = process_start_time(parent_of(int(number)))
            if began is not None:
                facts["containerStartTimeUnixNano"] = began
        return facts

    def has_container(self) -> bool:
        """Whether this is a container's own task, not one that a step starts in it: Metaflow's log files are of it."""
        own = f"{self.flow}/{self.run}/{self.key.step}/{self.key.task}"
        return os.environ.get("MF_PATHSPEC") == own and bool(os.environ.get("MFLOG_STDOUT"))

    def run_has_no_launcher(self) -> bool:
        """Whether no launcher records the run, and so the last container does."""
        names = (launch_context.HAS_LAUNCHER, launch_context.LAUNCHER_EXPORTS)
        return self.has_container() and not any(name in os.environ for name in names)

    def record_run(self, folder: Path, namespace: str, output: Any, start: Mapping[str, Any]) -> None:
        """The run has succeeded: record it; `start` is its last task's record, `output` that one's datastore."""
        started_at, is_recorded = metaflow_seams.stored_run(metaflow_seams.storage_of(output), self.flow, self.run)
        record = run_record.RunRecord(
            started_at or clock.now(),
            "success",
            start.get("resource") or {},
            again=place(os.environ) if is_recorded else "",
            traceparent=str(start.get("traceparent") or ""),
        )
        run_record.write(folder, self.flow, self.run, namespace, record)

    def ensure_shipper(self, folder: Path) -> None:
        """Make sure that `folder` is delivered; for a container's task, by a shipper that also reads its output."""
        if launch_context.LAUNCHER_EXPORTS in os.environ:
            return
        environment = settings.read()
        for problem in environment.problems:
            print_line(problem)
        if not environment.is_shipping:
            return
        if self.has_container():
            spawn.start(folder, self.key)
            # For whoever stores Metaflow's log files (stored_journals.py), until the witness takes it away.
            mark = Path(os.environ["MFLOG_STDOUT"]).with_name("otel-journal")
            mark.write_text(f"{folder}\n{layout.attempt_file(folder, self.key).name}\n")
        else:
            spawn.ensure(folder)
