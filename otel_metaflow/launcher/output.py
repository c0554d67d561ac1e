"""What the launcher reads from its tasks, as metaflow_seams.py sees it, and what it prints itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from otel_metaflow.core import long_lines, secrets
from otel_metaflow.core.stream_tap import StreamTap, tap
from otel_metaflow.journal import layout
from otel_metaflow.journal.processes import process_start
from otel_metaflow.journal.writer import Journal
from otel_metaflow.launcher.raw_lines import RawLines, Writer


class Output:
    """Journals the output of a run: each task's raw lines, and the launcher's own."""

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        mask: secrets.Mask,
        on_failure: Callable[[OSError], None],
        most_bytes: int,
        streams_of: Callable[[str], Sequence[str] | None],
    ) -> None:
        """`streams_of` gives the streams to keep of a step, or None for one without `@otel`."""
        self._folder = folder
        self._journal = journal
        self._mask = mask
        self._on_failure = on_failure
        self._most_bytes = most_bytes
        self._streams_of = streams_of
        self._raw = Writer(mask, self.receive_secrets)
        self._secrets_pipe = secrets.open_pipe(folder / layout.SECRETS_PIPE)
        self._recorded: set[layout.AttemptKey] = set()
        self._unrecorded = 0
        self._pid = os.getpid()
        self._taps: list[StreamTap] = []

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

    def _on_own_line(self, stream: str, line: str, length: int, _by: str) -> None:
        if os.getpid() != self._pid:
            return
        fields: dict[str, Any] = {"stream": stream, "body": self._mask(line)}
        if length > long_lines.LONGEST_LINE:
            fields["length"] = length
        self._journal.append(layout.LINE, fields)

    def counts(self) -> tuple[int, int]:
        """How many attempts were recorded, and how many ran.

        Those that other tasks started are among them, as nodes of a `@parallel` step are.
        """
        recorded = len(self._recorded.union(key for _, key in layout.journals(self._folder) if key is not None))
        return recorded, recorded + self._unrecorded

    def launched(
        self, key: layout.AttemptKey, at: int, pid: int, inputs: dict[str, list[str]] | None
    ) -> RawLines | None:
        """A task's process has been started, no sooner than `at`, to read from `inputs`, tasks by step, if known.

        What is read from it goes to what is returned; of a step without `@otel` to nothing.
        """
        streams = self._streams_of(key.step)
        launch = {"timeUnixNano": at, "step": key.step, "task": key.task, "attempt": key.attempt}
        launch.update(pid=pid, processStart=process_start(pid))
        self._journal.append(layout.LAUNCH, launch if inputs is None else {**launch, "inputs": inputs})
        if streams is None:
            self._unrecorded += 1
            return None
        self._recorded.add(key)
        self.receive_secrets()  # also of tasks that print nothing, or the pipe fills up
        path = layout.output_file(self._folder, key)
        journal = Journal(path, self._on_failure, self._most_bytes)
        if layout.is_cut(path):
            journal.append(layout.LAUNCH, launch)
        return self._raw.open(key, journal, layout.attempt_file(self._folder, key), streams)

    def cloned(self, key: layout.AttemptKey, run: str, task: str, attempt: int) -> None:
        """A task was taken over from `run`, where it was attempt `attempt` of `task`."""
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

    def ended(self, key: layout.AttemptKey, code: int, *, killed: bool, ok: bool | None) -> None:
        """A task's process is gone and its pipes are read to the end; `ok` is what Metaflow makes of a code of 0."""
        # Its lines first: whoever reads of its end may take it that no more will come.
        unwritten = self._raw.close(key)
        fields: dict[str, Any] = {**key._asdict(), "code": code, "killed": killed}
        if ok is not None:
            fields["ok"] = ok
        if unwritten:
            fields["unwritten"] = unwritten
        self._journal.append(layout.EXIT, fields)
