"""Records one attempt in its journal, from inside the task.

Metaflow's decorator hooks see a step's exceptions, but not its death: after a kill nothing here runs, and the shipper
concludes it from the missing `end` record. For what each hook sees, see metaflow/task.py (MetaflowTask.run_step); the
comments below name the gaps.
"""

from __future__ import annotations

import atexit
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, Optional

from otel_metaflow.core import clock, ids, launch_context, long_lines, secrets, trace_context
from otel_metaflow.core import metaflow_seams as shared
from otel_metaflow.core.guard import guarded, hide_frames, keep_notes
from otel_metaflow.core.stream_tap import StreamTap, as_read, tap, written_past
from otel_metaflow.journal import layout
from otel_metaflow.journal.processes import process_start, process_start_time
from otel_metaflow.journal.writer import Journal, getpid, quoted
from otel_metaflow.task import import_hook, metaflow_seams, usage
from otel_metaflow.task.handler_tap import COVERED, NOT_OWNED, WITH_RECORD, HandlerTap

if TYPE_CHECKING:  # imported where they are needed: what a task imports, each of them pays for (CONTRIBUTING.md)
    from otel_metaflow.task.container import Alone
    from otel_metaflow.task.otel_api.attempt_recorder import AttemptRecorder
    from otel_metaflow.task.record_writer import RecordWriter

_INSTRUMENTED = "opentelemetry.instrumentation.auto_instrumentation"


class Attempt:
    """One attempt, in the process that makes it."""

    def __init__(
        self,
        journal: Journal,
        mask: secrets.Mask,
        folder: Path,
        output: Any,
        *,
        is_parallel: bool,
        alone: Optional[Alone] = None,
    ) -> None:
        self._journal = journal
        self._mask = mask
        self._folder = folder
        self._output = output  # Metaflow's datastore of this attempt
        self._is_parallel = is_parallel
        self._alone = alone
        self._closes: Optional[Dict[str, Any]] = None  # its first record, if it is the last of a run without a launcher
        self._code: Dict[str, int] = {}  # when user code began and ended
        self._outer: Optional[Journal] = None  # of the task whose child process this one is
        self._pid = getpid()
        self._cpu = usage.cpu_seconds()
        self._io = usage.input_output()
        self._exception: Optional[BaseException] = None
        self._ended = False
        self._taps: Iterable[StreamTap] = ()
        self._streams = {"stdout": sys.__stdout__, "stderr": sys.__stderr__}
        self._logging: Optional[HandlerTap] = None
        self._traceparent = ""
        self._recorder: Optional[AttemptRecorder] = None

    def start(self, fields: Dict[str, Any], sources: Iterable[str]) -> None:
        """Write the first record and tap stdout, stderr and logging."""
        run = fields["flow"], fields["run"]
        span_id = ids.attempt_span_id(*run, fields["step"], fields["task"], fields["attempt"], fields["namespace"])
        # Without a launcher TRACEPARENT may be the platform's, which knows nothing of the run.
        parent = trace_context.VARIABLE if self._alone is None else trace_context.HANDED_ON
        if fields.get("again"):
            span_id = ids.again_span_id(span_id, fields["again"])
        self._traceparent = trace_context.below(os.environ, ids.trace_id(*run, fields["namespace"]), span_id, parent)
        if fields["stepType"] == "end" and self._alone is not None and self._alone.run_has_no_launcher():
            self._closes = fields
        self._journal.append(
            layout.START,
            {
                "version": layout.VERSION,
                **fields,
                "pid": self._pid,
                "processStart": process_start(),
                "processStartTimeUnixNano": process_start_time(),
            },
        )
        if "logging" in sources:
            self._logging = HandlerTap(self._record_writer)
            self._logging.install()
        self._taps = tap([(name, stream) for name, stream in self._streams.items() if name in sources], self._on_line)
        atexit.register(guarded(self._at_exit))

    def _record_writer(self) -> RecordWriter:
        """What writes logging records, once there is one."""
        from otel_metaflow.task.record_writer import RecordWriter

        return RecordWriter(self._journal.append_line, self._mask, self._streams, self._pid, self._before_output)

    def _before_output(self, stream: Any, output: str) -> None:
        """A logging handler is about to write `output` through a stream of its own, which may lead past the taps."""
        name = written_past(stream, self._taps)
        for line in as_read(stream, output).split("\n") if name else ():
            text = self._as_fields(name, long_lines.truncated(line, len(line)), len(line))
            self._report(text, is_covered=True, is_own=True)

    def _as_fields(self, stream: str, line: str, length: int) -> str:
        text = f'"timeUnixNano":{clock.now()},"stream":"{stream}","body":{quoted(self._mask(line))}'
        return text if length <= long_lines.LONGEST_LINE else f'{text},"length":{length}'

    def _on_line(self, stream: str, line: str, length: int, by: str) -> None:
        text = self._as_fields(stream, line, length)
        owned = NOT_OWNED if self._logging is None else self._logging.owns(by, line, length, text)
        if owned is not WITH_RECORD or self._outer is not None:
            self._report(text, is_covered=owned is COVERED, is_own=owned is not WITH_RECORD)

    def _report(self, text: str, *, is_covered: bool, is_own: bool) -> None:
        """Write a line to the journal, if it `is_own` record there, and to that of the task around this one."""
        record = f'{{"kind":"{layout.LINE}",{text}'
        pid = getpid()
        if is_own:
            own = record if pid == self._pid else f'{record},"pid":{pid}'
            self._journal.append_line(own + (',"covered":true}' if is_covered else "}"))
        if self._outer is not None:
            # The output of this process also goes through the pipe of the task that started it.
            self._outer.append_line(f'{record},"pid":{pid},"covered":true}}')

    def enter_user_code(self) -> None:
        """User code is about to start."""
        self.learn_secrets()
        os.environ[launch_context.WITHIN] = str(self._journal.path)
        self._code["codeStart"] = clock.now()

    def leave_user_code(self) -> None:
        """User code has returned or raised."""
        self._code.setdefault("codeEnd", clock.now())

    def echo_to(self, outer: Path) -> None:
        """Also report each line to the journal of the task whose output this process shares."""
        self._outer = Journal(outer, partial(_note_unwritten, self._folder))

    def learn_secrets(self) -> None:
        """Add the values set by `@secrets` and `@environment`, and send them to the launcher, which cannot see them.

        The launcher has to mask them in the output that it reads. They are sent through a named pipe, never written to
        a file.
        """
        self._mask.add(secrets.known(os.environ))
        secrets.send(self._folder / layout.SECRETS_PIPE, self._mask.values)

    def record_user_telemetry(self) -> None:
        """Record what user code reports through the OpenTelemetry API, as children of this attempt."""
        import_hook.install(self._traceparent, self._prepare_recorder)
        if self._logging is not None and _INSTRUMENTED in sys.modules:
            from otel_metaflow.task.otel_api import auto_instrumentation

            auto_instrumentation.mute()

    def _prepare_recorder(self) -> None:
        """Make what the providers of the API record by, once user code has imported one of its modules."""
        if self._recorder is None:
            from otel_metaflow.task.otel_api import attempt_recorder

            tap = self._logging
            self._recorder = attempt_recorder.AttemptRecorder(
                self._traceparent,
                self._journal.append_lines,
                self._mask,
                lambda: tap is not None and tap.is_handling,
                self._pid,
            )
            attempt_recorder.set_current(self._recorder)

    def ensure_shipper(self) -> None:
        """Have the attempt delivered, which no launcher does, with what `@secrets` has set by now."""
        if self._alone is not None:
            self._alone.ensure_shipper(self._folder)

    def note_trace_url(self, template: str, metadata: Any, fields: Dict[str, Any]) -> None:
        """Register the link to this attempt's span as metadata of the task; with a metadata service, one request."""
        from otel_metaflow.core import trace_links

        _, trace_id, span_id, _ = self._traceparent.split("-")
        url = trace_links.fill(template, fields["flow"], fields["run"], trace_id, span_id)
        metaflow_seams.register_link(
            metadata, "otel-trace-url", url, fields["run"], fields["step"], fields["task"], fields["attempt"]
        )

    def note_error(self) -> None:
        """Remember the current exception: no hook is called for that of an artifact that cannot be pickled."""
        if self._exception is None:
            self._exception = sys.exc_info()[1]

    def failed(self, error: BaseException) -> None:
        """The step raised; whether `@catch` rescues it is known when the attempt finishes."""
        hide_frames(error)
        self.leave_user_code()
        self._exception = error

    def finish(self, ok: Optional[bool]) -> None:
        """Write the last record. `ok` is Metaflow's result: None after `sys.exit` and Ctrl-C.

        `task_exception` is not called for those two; their exception is still being handled when Metaflow calls this.
        """
        if self._ended or getpid() != self._pid:
            return
        self._ended = True
        if self._recorder is not None:
            self._recorder.close()
        self.note_error()
        error = self._exception
        hide_frames(error)
        fields: Dict[str, Any] = {
            "result": "success" if ok else _result(error),
            **self._code,
            **(metaflow_seams.parallel() if self._is_parallel else {}),
            **metaflow_seams.artifacts(self._output),
            "usage": {
                "cpu": round(usage.cpu_seconds() - self._cpu, 6),
                "memoryPeak": usage.memory_peak(),
                **{name: value - self._io.get(name, 0) for name, value in usage.input_output().items()},
            },
        }
        if error is not None:
            fields["exception"] = _described(error, self._mask) or {"type": type(error).__qualname__}
            fields["caught"] = bool(ok)
        if self._journal.unwritten:
            fields["unwritten"] = self._journal.unwritten
        if ok and self._closes is not None:
            guarded(self._record_run)(self._closes)
        self._journal.append(layout.END, fields)

    def _record_run(self, start: Dict[str, Any]) -> None:
        if self._alone is not None:
            self._alone.record_run(self._folder, start["namespace"], self._output, start)

    def _at_exit(self) -> None:
        """Write the last record if no hook did: an artifact could not be stored, or a pre-step failed."""
        if getpid() != self._pid:
            return
        self.finish(ok=False)
        for stream in self._taps:
            stream.flush_line()


@guarded
def _described(error: BaseException, mask: secrets.Mask) -> Dict[str, str]:
    from otel_metaflow.task.exceptions import describe_exception

    return describe_exception(error, mask)


def _result(error: Optional[BaseException]) -> str:
    if isinstance(error, KeyboardInterrupt):  # Ctrl-C
        return "cancellation"
    return "timeout" if metaflow_seams.is_timeout(error) else "failure"


def _has_launcher(folder: Optional[Path]) -> bool:
    """Whether a launcher records this run here, although the task did not get its context; a container has none."""
    return folder is not None and "MFLOG_STDOUT" not in os.environ and (folder / layout.RUN_FILE).exists()


def begin(
    *,
    flow: Any,
    run: str,
    step: str,
    task: str,
    attempt: int,
    max_user_code_retries: int,
    options: Dict[str, Any],
    graph: Any,
    inputs: Any,
    output: Any,
    metadata: Any,
) -> Optional[Attempt]:
    """Open the journal of this attempt, or return None if telemetry is off or cannot be written.

    `flow`, `graph`, `inputs`, `output` and `metadata` are Metaflow's.
    """
    name = shared.flow_name(flow)
    context = launch_context.decode(name, run)
    described: Dict[str, Any] = {}
    alone: Optional[Alone] = None
    if context is None:
        context = _described_here(name, run)
        if context is None:
            return None
        from otel_metaflow.core import resource

        described["resource"] = resource.describe(name, run, shared.facts())
        if launch_context.VARIABLE not in os.environ and not _has_launcher(context.folder):
            from otel_metaflow.journal.keys import AttemptKey
            from otel_metaflow.task import container

            alone = container.Alone(name, run, AttemptKey(step, task, attempt))
            described.update(alone.describe(os.environ))
            if alone.run_has_no_launcher() and metaflow_seams.was_made_before(output, attempt):
                described["again"] = container.place(os.environ)
    if context.folder is None:
        return None
    try:
        layout.create_run_folder(context.folder)
        journal = Journal(
            layout.attempt_file(context.folder, (step, task, attempt)),
            partial(_note_unwritten, context.folder),
            context.max_bytes,
            is_held=alone is not None and alone.has_container(),
        )
    except OSError as error:
        # The launcher, if there is one, has reported that for the whole run.
        if launch_context.VARIABLE not in os.environ:
            from otel_metaflow.journal.notices import print_unwritable

            print_unwritable(error, context.folder.parent.parent)
        return None
    if launch_context.VARIABLE in os.environ:
        keep_notes(partial(_note_unrecorded, context.folder))
    mask = secrets.Mask(secrets.known(os.environ))
    node = shared.node(graph, step)
    made = Attempt(journal, mask, context.folder, output, is_parallel=node.is_parallel, alone=alone)
    outer = os.environ.get(launch_context.WITHIN)
    is_within = bool(outer) and Path(str(outer)).parent == context.folder and Path(str(outer)) != journal.path
    if is_within:
        made.echo_to(Path(str(outer)))
        described["within"] = Path(str(outer)).name
    frames = metaflow_seams.frames(flow)
    if frames:
        from otel_metaflow.task import lineage

        described.update(lineage.foreach(frames, mask, value=bool(options.get("foreach_value"))))
    sources = [name for name in (options.get("logs") or context.logs) if name in context.logs]
    fields = {
        "flow": name,
        "run": run,
        "namespace": context.namespace,
        "step": step,
        "task": task,
        "attempt": attempt,
        "maxUserCodeRetries": max_user_code_retries,
        "logs": sources,
        "attributes": options.get("attributes") or {},
        "stepType": node.type,
        **metaflow_seams.inputs(inputs),
        **described,
    }
    made.start(fields, sources)
    if context.trace_url:
        guarded(made.note_trace_url)(context.trace_url, metadata, fields)
    metaflow_seams.watch_registering(metadata, made.note_error)
    return made


def _described_here(flow: str, run: str) -> Optional[launch_context.LaunchContext]:
    """The context of a task without a launcher; None if telemetry is off."""
    from otel_metaflow.core import settings

    environment = settings.read()
    if environment.disabled:
        return None
    folder = layout.run_folder(environment.home, (flow, run, environment.namespace))
    return launch_context.LaunchContext(
        flow,
        run,
        environment.namespace,
        folder,
        environment.logs,
        environment.journal_max_bytes,
        environment.trace_url,
    )


def _note_unrecorded(folder: Path, what: str, reason: str) -> None:
    """Have the launcher report what goes unrecorded, and why."""
    from otel_metaflow.journal import unrecorded

    unrecorded.note(folder, what, reason)


def _note_unwritten(folder: Path, error: OSError) -> None:
    """Report that the journal cannot be written, or have the launcher report it, once for the whole run."""
    if launch_context.VARIABLE not in os.environ:
        from otel_metaflow.journal.notices import print_unwritten

        print_unwritten(error)
        return
    try:
        (folder / layout.UNWRITTEN_MARK).write_text(str(error.strerror))
    except OSError:
        return  # the launcher's journals are on the same disk
