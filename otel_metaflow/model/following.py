"""Follows the journals of a run for their facts: what began, what ended, of what nothing more will be heard."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional, Set

from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.reader import Tail
from otel_metaflow.model.run import Attempt, Run


class Following:
    """The facts of one run, as far as they are known."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.folder = folder
        self.run = Run(layout.run_key(home, folder))
        self.settled: Set[AttemptKey] = set()
        self.run_is_over = False
        self.tails: Dict[str, Tail] = {}
        self._read_out: Set[str] = set()  # files of settled attempts that were read to their end

    def look(self) -> None:
        """Take in what the journals say now."""
        # The launcher's comes first: what it says of an attempt's end comes after all that the attempt said.
        for path, key in layout.journals(self.folder):
            if path.name in self._read_out:
                continue
            if key is not None:
                self.run.attempt(key)
                if key in self.settled:
                    self._read_out.add(path.name)  # after this last look
            self._take_in(path, key)
        self._settle()

    def _take_in(self, path: Path, key: Optional[AttemptKey]) -> None:
        tail = self.tails.get(path.name)
        if tail is None:
            tail = self.tails[path.name] = Tail(path, facts_only=True)
        before = -1
        while tail.offset != before:
            before = tail.offset
            for entry in tail.read():
                self.run.add(key, entry.record)

    def _settle(self) -> None:
        """Find the attempts, and the run, of which nothing more will be heard."""
        gone = self.run.start is None or self.run.closed or not self.run.launcher_is_alive()
        for key, attempt in self.run.attempts.items():
            if key not in self.settled and self.is_over(attempt, is_launcher_gone=gone):
                self.settled.add(key)
        self.run_is_over = self.is_run_over(is_launcher_gone=gone)

    def is_over(self, attempt: Attempt, *, is_launcher_gone: bool) -> bool:
        """Whether nothing more will be heard of an attempt."""
        # The launcher's word comes after all that it read from the task; where it will not speak, because it
        # is gone or because another task started this one (@parallel), the process's end decides.
        unheard = is_launcher_gone or attempt.is_within_another
        return attempt.is_cloned or attempt.exit is not None or (unheard and not attempt.is_running())

    def is_run_over(self, *, is_launcher_gone: bool) -> bool:
        """Whether nothing more will be heard of the run."""
        return is_launcher_gone and len(self.settled) == len(self.run.attempts)
