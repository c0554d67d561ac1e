"""Records a run in its journal, from inside `flow.py run`.

Metaflow calls the decorator's runtime hooks once for each decorated step, so the run is a single object of
this module, created at the first call and finished at the last.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otel_metaflow.core import ids, launch_context, resource, secrets, settings, standby, trace_context, trace_links
from otel_metaflow.core.guard import guarded, hide_frames, keep_notes, print_line, print_unrecorded
from otel_metaflow.core.metaflow_seams import facts, flow_name
from otel_metaflow.journal import layout, lock, spawn, unrecorded
from otel_metaflow.journal.keys import RunKey
from otel_metaflow.journal.notices import print_unwritable, print_unwritten
from otel_metaflow.journal.processes import process_space, process_start
from otel_metaflow.journal.writer import Journal
from otel_metaflow.launcher import metaflow_seams, provenance, summary, tracing
from otel_metaflow.launcher.output import Output

_run: Run | None = None
_launch_context: launch_context.LaunchContext | None = None  # set with the first step


class Run:
    """The run that this process launches."""

    def __init__(self, key: RunKey, environment: settings.Settings, folder: Path) -> None:
        self.key = key
        self.environment = environment
        self.folder = folder
        self._has_reported_unwritten = False
        self._journal = Journal(folder / layout.RUN_FILE, self._report_unwritten, is_held=True)
        self._mask = secrets.Mask(secrets.known(os.environ))
        self._steps: dict[str, Sequence[str]] = {}
        self._output = Output(
            folder,
            self._journal,
            self._mask,
            self._report_unwritten,
            environment.journal_max_bytes,
            self._steps.get,
            self._is_remote,
        )
        self.launching: Any = None  # the command line of the task that is launched next, as Metaflow has it
        self._unrecorded: dict[str, str] = {}
        self._unfinished = 0
        self._is_parallel = True  # unless the graph shows that no step is
        self._shipper: subprocess.Popen[bytes] | None = None  # the last that was started
        self._pid = os.getpid()
        self._handled = sys.exc_info()[1]  # what the user's script is handling while it runs the flow

    def _is_remote(self) -> bool:
        """Whether the task that was launched just now runs in a container that exports itself."""
        if not metaflow_seams.is_sent_away(self.launching):
            return False
        from otel_metaflow.launcher import remote_environment

        return remote_environment.of(os.environ).exports

    def start(self) -> None:
        """Write the first record, watch Metaflow's workers and start the shipper."""
        keep_notes(self._unrecorded.setdefault)
        atexit.register(guarded(self._at_exit))
        self._journal.append(
            layout.START,
            {
                "version": layout.VERSION,
                "flow": self.key.flow,
                "run": self.key.run,
                "namespace": self.key.namespace,
                "pid": self._pid,
                "processStart": process_start(),
                "processSpace": process_space(),
                "resource": resource.describe(self.key.flow, self.key.run, facts()),
                **provenance.describe(os.environ),
            },
        )
        if metaflow_seams.watch(self._output):
            self._output.tap_launcher()
        tracing.make_current(trace_context.below(os.environ, ids.trace_id(*self.key), ids.run_span_id(*self.key)))
        for problem in (*self.environment.problems, *self.environment.notices):
            print_line(problem)
        self.ensure_shipper()

    def describe_steps(self, flow: Any, graph: Any) -> None:
        """Record all steps of the flow, including those without `@otel`: the graph and the duration include them."""
        steps = list(metaflow_seams.describe_steps(flow, graph))
        self._is_parallel = not steps or any(step["parallel"] for step in steps)
        for step in steps:
            self._journal.append(layout.STEP, step)

    def add_step(self, name: str, options: dict[str, Any]) -> None:
        """Add a decorated step of the flow, with the decorator's options."""
        self._unfinished += 1
        chosen = options.get("logs") or self.environment.logs
        self._steps[name] = [name for name in chosen if name in self.environment.logs]

    def ensure_shipper(self) -> None:
        """Start the shipper unless it is running; an earlier one may have been killed."""
        if self.environment.is_shipping:
            self._shipper = spawn.ensure(self.folder, standby.ask) or self._shipper

    def _shipper_has_died(self) -> bool:
        """Whether the shipper that was started has ended and no other process delivers the run."""
        return self._shipper is not None and self._shipper.poll() is not None and lock.is_free(self.folder)

    def finished(self, exception: BaseException | None) -> None:
        """One decorated step has finished; with the last one, the run has.

        Metaflow passes no exception if another is raised while it ends its tasks after the first.
        """
        raised = sys.exc_info()[1]
        if exception is None and raised is not self._handled:
            exception = raised
        self._unfinished -= 1
        if self._unfinished:
            return
        fields: dict[str, Any] = {"result": _result(exception)}
        if exception is not None:
            message = self._mask(metaflow_seams.message(exception))
            fields["exception"] = {"type": type(exception).__name__, "message": message}
        self._journal.append(layout.END, fields)
        self.ensure_shipper()

    def _report_unwritten(self, error: OSError) -> None:
        """Report, once, that a journal of the run cannot be written."""
        if not self._has_reported_unwritten:
            self._has_reported_unwritten = True
            print_unwritten(error)

    def _at_exit(self) -> None:
        """Print the closing line, once the launcher has printed everything else."""
        if os.getpid() != self._pid:
            return
        self._output.close()
        self._journal.append(layout.CLOSED, {})
        # Including what tasks could not record: one line for all of them, outside their own output.
        print_unrecorded({**unrecorded.read(self.folder), **self._unrecorded})
        with contextlib.suppress(OSError):
            # The task that could not write its journal may not have been able to write why, either.
            reason = (self.folder / layout.UNWRITTEN_MARK).read_text() or "no space left for a task"
            self._report_unwritten(OSError(0, reason))
        self.ensure_shipper()
        if self.environment.is_shipping:
            # In a container the shipper would be killed with the launcher, so the run waits; elsewhere it does not.
            summary.wait(self.folder, self.environment.flush_timeout, self._shipper_has_died)
        spawn.tidy(self.environment.home)
        if not self.environment.quiet:
            has_died = self.environment.is_shipping and self._shipper_has_died()
            counts = self._output.counts(is_parallel=self._is_parallel)
            print_line(summary.line(self.folder, self.key, self.environment, *counts, has_died=has_died))
            if self.environment.trace_url and self.environment.is_shipping:
                print_line(f"trace {self._trace_url()}")

    def _trace_url(self) -> str:
        traceparent = trace_context.below(os.environ, ids.trace_id(*self.key), ids.run_span_id(*self.key))
        trace_id, span_id = traceparent.split("-")[1:3]
        return trace_links.fill(self.environment.trace_url, self.key.flow, self.key.run, trace_id, span_id)


def _result(exception: BaseException | None) -> str:
    if exception is None:
        return "success"
    if isinstance(exception, KeyboardInterrupt):  # Ctrl-C
        return "cancellation"
    return "failure"


@guarded
def start(flow: Any, run: str, graph: Any, step: str, options: dict[str, Any]) -> None:
    """A run starts: add one of its decorated steps; `flow` and `graph` are Metaflow's."""
    global _run, _launch_context
    if _launch_context is None:
        environment = settings.read()
        key = RunKey(flow_name(flow), run, environment.namespace)
        _run = None if environment.disabled else _open(key, environment)
        _launch_context = launch_context.LaunchContext(
            key.flow,
            run,
            key.namespace,
            None if _run is None else _run.folder,
            environment.logs,
            environment.journal_max_bytes,
            environment.trace_url,
        )
        if _run is not None:
            guarded(_run.start)()
            guarded(_run.describe_steps)(flow, graph)
    if _run is not None:
        _run.add_step(step, options)


def _open(key: RunKey, environment: settings.Settings) -> Run | None:
    folder = layout.run_folder(environment.home, key)
    try:
        layout.create_run_folder(folder)
        return Run(key, environment, folder)
    except OSError as error:
        print_unwritable(error, environment.home)
        return None


@guarded
def launching(cli_args: Any) -> None:
    """A task is about to be launched: pass it the launch context, and make sure that a shipper is running."""
    if _run is not None:
        _run.ensure_shipper()
        _run.launching = cli_args
    if _launch_context is not None:
        metaflow_seams.set_variable(
            cli_args, launch_context.VARIABLE, launch_context.encode(_launch_context, os.environ)
        )


@guarded
def finished(exception: BaseException | None) -> None:
    """One decorated step has finished."""
    hide_frames(exception or sys.exc_info()[1])
    if _run is not None:
        _run.finished(exception)
