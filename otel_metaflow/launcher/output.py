"""Journals the output that the launcher reads from its tasks (see metaflow_seams.py), and its own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from otel_metaflow.core import long_lines, secrets
from otel_metaflow.core.stream_tap import StreamTap, tap
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.processes import process_start
from otel_metaflow.journal.raw_journal import Line
from otel_metaflow.journal.writer import Journal
from otel_metaflow.launcher.raw_lines import RawLines, Writer


class Output:
    """Journals the output of a run: each task's raw lines, and the launcher's own output."""

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        mask: secrets.Mask,
        on_failure: Callable[[OSError], None],
        max_bytes: int,
        streams_of: Callable[[str], Sequence[str] | None],
        is_remote: Callable[[], bool],
    ) -> None:
        """`streams_of` returns the streams of a step to record, or None for a step without `@otel`.

        `is_remote` is whether the task that was launched just now runs in a container that exports itself.
        """
        self._folder = folder
        self._journal = journal
        self._mask = mask
        self._on_failure = on_failure
        self._max_bytes = max_bytes
        self._streams_of = streams_of
        self._is_remote = is_remote
        self._remote: set[AttemptKey] = set()  # attempts that export themselves
        self._raw = Writer(mask, self.receive_secrets)
        self._secrets_pipe = secrets.open_pipe(folder / layout.SECRETS_PIPE)
        self._recorded: set[AttemptKey] = set()
        self._unrecorded = 0
        self._pid = os.getpid()
        self._taps: list[StreamTap] = []

    def tap_launcher(self) -> None:
        """Journal what the launcher prints, including Metaflow's messages, but not the echo of its tasks' lines."""
        self._taps = tap((("stdout", sys.__stdout__), ("stderr", sys.__stderr__)), self._on_own_line)

    def close(self) -> None:
        """Journal unfinished lines, and ignore the launcher's output from now on."""
        self._raw.write()
        for stream in self._taps:
            stream.flush_line()
        self.mute(is_muted=True)

    def mute(self, *, is_muted: bool) -> None:
        """While muted, the launcher's output is the echo of a task's line, which is already known."""
        for stream in self._taps:
            stream.is_muted = is_muted

    def _on_own_line(self, stream: str, line: str, length: int, _by: str) -> None:
        if os.getpid() != self._pid:
            return
        fields: dict[str, Any] = {"stream": stream, "body": self._mask(line)}
        if length > long_lines.LONGEST_LINE:
            fields["length"] = length
        self._journal.append(layout.LINE, fields)

    def counts(self, *, is_parallel: bool) -> tuple[int, int]:
        """How many attempts were recorded, and how many ran.

        Where a step of the flow `is_parallel`, tasks start others, whose journals have to be looked for in the folder.
        """
        recorded = self._recorded
        if is_parallel:
            recorded = recorded.union(key for _, key in layout.journals(self._folder) if key is not None)
        return len(recorded), len(recorded) + self._unrecorded

    def launched(self, key: AttemptKey, at: int, pid: int, inputs: dict[str, list[Any]] | None) -> RawLines | None:
        """A task's process was started, no sooner than `at`, to read from `inputs`, if they are known.

        Returns the receiver of its lines, or None for a step without `@otel`.
        """
        streams = self._streams_of(key.step)
        launch = {"timeUnixNano": at, "step": key.step, "task": key.task, "attempt": key.attempt}
        launch.update(pid=pid, processStart=process_start(pid))
        is_remote = streams is not None and self._is_remote()
        if is_remote:
            launch["remote"] = True
            self._remote.add(key)
        self._journal.append(layout.LAUNCH, launch if inputs is None else {**launch, "inputs": inputs})
        if streams is None:
            self._unrecorded += 1
            return None
        self._recorded.add(key)
        self.receive_secrets()  # even if tasks print nothing, or the pipe would fill up
        # Of an attempt that exports itself the lines are put aside, in case that is all that will be known of it.
        path = (layout.relayed_file if is_remote else layout.output_file)(self._folder, key)
        journal = Journal(path, self._on_failure, self._max_bytes)
        if layout.is_cut(path):
            journal.append(layout.LAUNCH, launch)
        own = self._on_line_about if is_remote else None
        return self._raw.open(key, journal, layout.attempt_file(self._folder, key), streams, own)

    def _on_line_about(self, line: Line) -> None:
        """The process that sent a task away prints a line of its own: how it is scheduled, how it ended."""
        at, stream, data = line
        text = data.decode("utf-8", "replace").rstrip("\n")
        self._journal.append(layout.LINE, {"timeUnixNano": at, "stream": stream, "body": self._mask(text)})

    def cloned(self, key: AttemptKey, run: str, task: str, attempt: int) -> None:
        """A task was cloned from `run`, where it was attempt `attempt` of `task`."""
        self._journal.append(
            layout.CLONE,
            {
                "step": key.step,
                "task": key.task,
                "attempt": key.attempt,
                "originRun": run,
                "originTask": task,
                "originAttempt": attempt,
            },
        )

    def receive_secrets(self) -> None:
        """Mask the secrets that tasks have sent; they send them before their step can print one."""
        if self._secrets_pipe is not None:
            values = secrets.receive(self._secrets_pipe)
            if values:
                self._mask.add(values)

    def ended(self, key: AttemptKey, code: int, *, killed: bool, stopping: bool, ok: bool | None) -> None:
        """A task's process has ended and its pipes are read to the end.

        `stopping` is whether all tasks were to end by then, and `ok` whether Metaflow has its result.
        """
        # Its lines first: after the exit record, a reader expects no more.
        unwritten = self._raw.close(key)
        if key in self._remote:
            self._settle_remote(key)
        fields: dict[str, Any] = {**key._asdict(), "code": code, "killed": killed}
        if stopping:
            fields["stopping"] = True
        if ok is not None:
            fields["ok"] = ok
        if unwritten:
            fields["unwritten"] = unwritten
        self._journal.append(layout.EXIT, fields)

    def _settle_remote(self, key: AttemptKey) -> None:
        """Use what was read from an attempt that was to export itself, unless its own journals have come."""
        relayed = layout.relayed_file(self._folder, key)
        with contextlib.suppress(OSError):
            if layout.attempt_file(self._folder, key).exists():
                relayed.unlink()
            else:
                relayed.replace(layout.output_file(self._folder, key))
