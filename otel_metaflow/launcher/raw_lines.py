"""Writes the raw lines of tasks from the launcher's pipes to the journals.

The launcher may read tens of thousands of lines a second from a busy step, one at a time, and while it does anything
else the step blocks on its full pipe. So lines are only queued here; a thread writes them 50 ms later, many with one
call. If the launcher is killed, lines of those 50 ms are lost, but only ones that no task reported.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from otel_metaflow.core import clock
from otel_metaflow.core.guard import contain
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.raw_journal import QUIET, Line, RawJournal
from otel_metaflow.journal.writer import Journal
from otel_metaflow.launcher import metaflow_seams

_DELAY = 0.05
# With this many lines in the queue the launcher writes them itself, so that a burst does not accumulate in memory.
_MAX_QUEUED = 2_000
_MFLOG = (b"[MFLOG|", b"[![MFLOG|")

Own = Callable[[Line], None]

# Bound before user code runs, which may replace it.
_sleep = time.sleep


class RawLines(RawJournal):
    """The raw lines of one attempt, from `streams`; `reports` is the task's own journal."""

    def __init__(
        self, journal: Journal, reports: Path, streams: Sequence[str], writer: Writer, own: Own | None = None
    ) -> None:
        """Lines go to the journal; with `own`, those that another machine did not send go there instead."""
        super().__init__(journal, reports)
        self._own = own
        self._streams = frozenset(streams)
        self._writer = writer
        self._lines: list[Line] = []

    def add(self, stream: str, data: bytes) -> None:
        """Queue one line as it was read, with its newline if it has one."""
        if stream not in self._streams:
            return
        lines = self._lines
        lines.append((clock.now(), stream, data))
        if len(lines) == 1:
            self._writer.wake()
        elif len(lines) >= _MAX_QUEUED:
            self._writer.write()

    def take(self) -> list[Line]:
        """The lines queued since the last call."""
        taken, self._lines = self._lines, []
        return taken

    def append(self, lines: Sequence[Line], mask: Callable[[str], str], position: str = "") -> None:
        """Write lines to the journal, each that another machine sent with the time that it had there."""
        if self._own is not None:
            for line in lines:
                if not line[2].startswith(_MFLOG):
                    self._own(line)
            lines = [line for line in lines if line[2].startswith(_MFLOG)]
        if lines:
            super().append([_unwrapped(line) if line[2][:1] == b"[" else line for line in lines], mask, position)


class Writer:
    """Writes the queued lines of all attempts; `before` is called first, to receive secrets to mask."""

    def __init__(self, mask: Callable[[str], str], before: Callable[[], None]) -> None:
        self._mask = mask
        self._before = before
        self._attempts: dict[AttemptKey, RawLines] = {}
        self._news = threading.Event()
        self._lock = threading.Lock()
        self._is_started = False

    def open(
        self, key: AttemptKey, journal: Journal, reports: Path, streams: Sequence[str], own: Own | None = None
    ) -> RawLines:
        """Start an attempt, which reports its own lines to the journal `reports`."""
        made = RawLines(journal, reports, streams, self, own)
        self._attempts[key] = made
        return made

    def close(self, key: AttemptKey) -> dict[str, int]:
        """Write the remaining lines of an attempt that has ended; return how many records could not be written."""
        lines = self._attempts.get(key)
        if lines is None:
            return {}
        self.write()
        del self._attempts[key]
        lines.close()
        return lines.unwritten

    def wake(self) -> None:
        """Have the thread write soon."""
        if not self._is_started:
            self._is_started = True
            threading.Thread(target=self._work, name="otel raw lines", daemon=True).start()
        self._news.set()

    def write(self) -> bool:
        """Write all queued lines, and a note for attempts without any; return whether no more notes are due."""
        is_quiet = True
        with self._lock:
            for attempt in list(self._attempts.values()):
                lines = attempt.take()
                if lines:
                    # After the lines were read, because a task sends its secrets before it can print them.
                    self._before()
                    attempt.append(lines, self._mask)
                    is_quiet = False
                elif not attempt.note_quiet():
                    is_quiet = False
        return is_quiet

    def _work(self) -> None:
        is_quiet = True
        while True:
            if self._news.wait(None if is_quiet else QUIET):
                _sleep(_DELAY)
                self._news.clear()
            try:
                is_quiet = self.write()
            except Exception as error:  # noqa: BLE001 - the thread must go on, and the run must not be affected
                contain(error)


def _unwrapped(line: Line) -> Line:
    at, stream, data = line
    if data.startswith(_MFLOG):
        data, at = metaflow_seams.unwrapped(data) or (data, at)
    return at, stream, data
