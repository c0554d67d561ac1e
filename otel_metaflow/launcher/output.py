"""What the launcher reads from its tasks, and what it says itself.

Metaflow's launcher reads the pipes of every task line by line (metaflow/runtime.py, Worker). That raw
stream holds what the task cannot report: C code, subprocesses, the bytes before a kill. There is no
public hook for it, so three methods of Worker are wrapped; where a future Metaflow lacks them, the run
keeps what the tasks report and the launcher says once that the rest is missing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from time import time_ns
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from otel_metaflow import secrets
from otel_metaflow.guard import contain, guarded
from otel_metaflow.journal import layout
from otel_metaflow.journal.writer import Journal, process_start
from otel_metaflow.launcher.raw import RawLines, Writer
from otel_metaflow.stdio import StreamTap, tap


class Output:
    """Journals the output of a run: each task's raw lines, and the launcher's own."""

    def __init__(
        self, folder: Path, journal: Journal, mask: secrets.Mask, on_failure: Callable[[OSError], None], most_bytes: int
    ) -> None:
        self._folder = folder
        self._journal = journal
        self._mask = mask
        self._on_failure = on_failure
        self._most_bytes = most_bytes
        self._raw = Writer(mask, self.hear_secrets)
        self._told = secrets.listen(folder / layout.SECRETS_PIPE)
        self._recorded: Set[layout.AttemptKey] = set()
        self._unrecorded = 0
        self._pid = os.getpid()
        self._taps: List[StreamTap] = []

    def tap_launcher(self) -> None:
        """Journal what the launcher prints, Metaflow's own messages with it, but not the echo of its tasks."""
        self._taps = tap((("stdout", sys.__stdout__), ("stderr", sys.__stderr__)), self._on_own_line)

    def close(self) -> None:
        """The launcher ends: report a line of its own that was begun, and print unseen from here on."""
        self._raw.write()
        for stream in self._taps:
            stream.flush_line()
        self.mute(is_muted=True)

    def mute(self, *, is_muted: bool) -> None:
        """While muted, what the launcher prints is the echo of a line that is known already."""
        for stream in self._taps:
            stream.is_muted = is_muted

    def _on_own_line(self, stream: str, line: str, length: int) -> None:
        if os.getpid() != self._pid:
            return
        fields: Dict[str, Any] = {"stream": stream, "body": self._mask(line)}
        if length > layout.LONGEST_LINE:
            fields["length"] = length
        self._journal.append(layout.LINE, fields)

    def counts(self) -> Tuple[int, int]:
        """How many attempts were recorded, and how many ran.

        Those that other tasks started are among them, as nodes of a `@parallel` step are.
        """
        own = (layout.attempt_key(name) for name in os.listdir(self._folder))
        recorded = len(self._recorded.union(key for key in own if key is not None))
        return recorded, recorded + self._unrecorded

    def launched(
        self,
        key: layout.AttemptKey,
        at: int,
        pid: int,
        streams: Optional[Sequence[str]],
        inputs: Dict[str, List[str]],
    ) -> Optional[RawLines]:
        """A task's process has been started, no sooner than `at`, to read from `inputs`, tasks by step.

        What is read from it goes to what is returned; of a step without `@otel`, whose `streams` are None, to nothing.
        """
        self._journal.append(
            layout.LAUNCH,
            {
                "timeUnixNano": at,
                "step": key.step,
                "task": key.task,
                "attempt": key.attempt,
                "pid": pid,
                "processStart": process_start(pid),
                "inputs": inputs,
            },
        )
        if streams is None:
            self._unrecorded += 1
            return None
        self._recorded.add(key)
        self.hear_secrets()  # also of tasks that print nothing, or the pipe fills up
        journal = Journal(layout.output_file(self._folder, key), self._on_failure, self._most_bytes)
        return self._raw.open(key, journal, streams)

    def cloned(self, key: layout.AttemptKey, run: str, task: str, origins: Any) -> None:
        """A task was taken over from `run`, where it was called `task`; `origins` are that run's datastores."""
        origin = origins.get_with_pathspec(f"{run}/{key.step}/{task}") if origins else None
        self._journal.append(
            layout.CLONE,
            {
                "step": key.step,
                "task": key.task,
                "attempt": key.attempt,
                "originRun": run,
                "originTask": task,
                "originAttempt": int(getattr(origin, "attempt", 0) or 0),
            },
        )

    def hear_secrets(self) -> None:
        """Learn what tasks told of their secrets; they tell before their step can print one."""
        if self._told is not None:
            values = secrets.heard(self._told)
            if values:
                self._mask.add(values)

    def ended(self, key: layout.AttemptKey, code: int, *, killed: bool, ok: Optional[bool]) -> None:
        """A task's process is gone and its pipes are read to the end; `ok` is what Metaflow makes of a code of 0."""
        # Its lines first: whoever reads of its end may take it that no more will come.
        lost = self._raw.close(key)
        fields: Dict[str, Any] = {**key._asdict(), "code": code, "killed": killed}
        if ok is not None:
            fields["ok"] = ok
        if lost:
            fields["lost"] = lost
        self._journal.append(layout.EXIT, fields)


def watch_clones(output: Output) -> None:
    """Wrap the function by which `resume` takes over a task of the origin run (metaflow/clone_util.py).

    Raises:
        AttributeError: this Metaflow clones differently.
    """
    from metaflow import runtime

    clone = runtime.clone_task_helper

    @guarded
    def note_clone(origin_run: Any, step: str, origin_task: Any, task: Any, origins: Any) -> None:
        output.cloned(layout.AttemptKey(step, str(task), 0), str(origin_run), str(origin_task), origins)

    def watched(
        flow: Any, origin_run: Any, run: Any, step: str, origin_task: Any, task: Any, *rest: Any, **more: Any
    ) -> Any:
        cloned = clone(flow, origin_run, run, step, origin_task, task, *rest, **more)
        note_clone(origin_run, step, origin_task, task, more.get("origin_ds_set"))
        return cloned

    runtime.clone_task_helper = watched


def watch_workers(output: Output, logged: Callable[[str], Optional[Sequence[str]]]) -> None:
    """Wrap Metaflow's Worker. `logged` gives the streams to keep of a step, or None for one without `@otel`.

    Raises:
        AttributeError: this Metaflow's Worker is built differently.
    """
    from metaflow.runtime import Worker

    launch, emit_log, terminate = Worker._launch, Worker.emit_log, Worker.terminate  # noqa: SLF001

    @guarded
    def note_launch(worker: Any, at: int, pid: int) -> None:
        task = worker.task
        if not task.is_cloned:
            worker.otel_lines = output.launched(_key(task), at, pid, logged(task.step), _inputs(task))

    @guarded
    def note_end(worker: Any, *, raised: bool) -> None:
        task, code = worker.task, worker._proc.returncode  # noqa: SLF001
        if not task.is_cloned:
            ok = None if code else not raised and guarded(_has_result)(task)
            output.ended(_key(task), code, killed=bool(worker.killed), ok=ok)

    def watched_launch(worker: Any) -> Any:
        at = time_ns()
        process = launch(worker)
        note_launch(worker, at, process.pid)
        return process

    def watched_terminate(worker: Any) -> Any:
        try:
            code = terminate(worker)
        except BaseException:
            # Metaflow raises where a process ended with 0 and left no result, as after os._exit(0).
            note_end(worker, raised=True)
            raise
        note_end(worker, raised=False)
        return code

    def watched_emit_log(worker: Any, msg: bytes, buf: Any, system_msg: bool = False) -> Any:
        if system_msg:  # Metaflow's own words, printed by the launcher as the rest of its own are
            return emit_log(worker, msg, buf, system_msg)
        lines = getattr(worker, "otel_lines", None)
        if lines is not None:
            try:
                lines.add("stdout" if buf is worker._stdout else "stderr", msg)  # noqa: SLF001
            except Exception as error:  # noqa: BLE001 - a line must be shown, whatever we do
                contain(error)
        output.mute(is_muted=True)
        try:
            return emit_log(worker, msg, buf, system_msg)
        finally:
            output.mute(is_muted=False)

    Worker._launch, Worker.emit_log, Worker.terminate = watched_launch, watched_emit_log, watched_terminate  # noqa: SLF001


def _key(task: Any) -> layout.AttemptKey:
    return layout.AttemptKey(task.step, str(task.task_id), task.retries)


def _inputs(task: Any) -> Dict[str, List[str]]:
    """The tasks that it reads from, by step."""
    found: Dict[str, List[str]] = {}
    for path in task.input_paths or ():
        _, step, read = str(path).split("/")
        if step != "_parameters":  # what the run was started with, no task of the user's
            found.setdefault(step, []).append(read)
    return found


def _has_result(task: Any) -> bool:
    """Whether Metaflow will go on from the attempt, whose process ended with 0.

    Not where the last result is that of an attempt before it, nor where user code left by `sys.exit(0)`: then
    `_task_ok` is stored as None, as `_foreach_num_splits` is. Artifacts are stored by content, and which content
    they have is known already, so nothing is read (metaflow/runtime.py, Worker.terminate; datastore/task_datastore.py).
    """
    results = task.results
    stored = results._objects  # noqa: SLF001
    return bool(results.attempt == task.retries and stored["_task_ok"] != stored["_foreach_num_splits"])
