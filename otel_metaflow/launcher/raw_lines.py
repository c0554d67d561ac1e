"""The raw lines of tasks, on their way from the launcher's pipes to the journals.

The launcher reads tens of thousands of lines a second when a step is busy, one at a time, and while it
does something else the step waits on its full pipe. So a line is only put aside here; a thread writes
what was put aside, many lines with one call, a twentieth of a second later. That moment is what a kill
of the launcher itself can cost, and then only of lines that no task reported.

Before the lines goes a note of how long the task's own journal is by then: what a task reports it reports
before it writes, so all that was reported of these lines stands before that place. The same note goes
alone once nothing has been read for half a second.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from otel_metaflow.core import clock, long_lines
from otel_metaflow.core.guard import contain
from otel_metaflow.core.long_lines import kept
from otel_metaflow.journal import layout
from otel_metaflow.journal.writer import Journal, quoted
from otel_metaflow.launcher import metaflow_seams

_DELAY = 0.05
_QUIET = 0.5
# So many lines are written at once by the launcher itself, so that no burst piles up in memory.
_MOST_LINES = 2_000
_MFLOG = (b"[MFLOG|", b"[![MFLOG|")

Line = tuple[int, str, bytes]

# Bound before user code runs, which may put others in their place.
_sleep = time.sleep


class RawLines:
    """The raw lines of one attempt, `streams` of them; `reports` is the journal of the task."""

    def __init__(self, journal: Journal, reports: Path, streams: Sequence[str], writer: Writer) -> None:
        self._journal = journal
        self._reports = reports
        self._written = 0  # when the last lines were, 0 if it was noted since that no more followed
        self._streams = frozenset(streams)
        self._writer = writer
        self._lines: list[Line] = []

    def add(self, stream: str, data: bytes) -> None:
        """Put aside one line as it was read: with its newline, if it had one."""
        if stream not in self._streams:
            return
        lines = self._lines
        lines.append((clock.now(), stream, data))
        if len(lines) == 1:
            self._writer.wake()
        elif len(lines) >= _MOST_LINES:
            self._writer.write()

    def take(self) -> list[Line]:
        """What was put aside since the last call."""
        taken, self._lines = self._lines, []
        return taken

    def append(self, lines: Sequence[Line], mask: Callable[[str], str]) -> None:
        """Write lines to the journal."""
        self._written = clock.monotonic()
        note = self._note(self._written, len(lines))
        self._journal.append_lines([note, *(_record(line, mask) for line in lines)])

    def note_quiet(self) -> bool:
        """Note, once, that nothing has been read for a while; whether that is done."""
        if self._written:
            at = clock.monotonic()
            if at - self._written < _QUIET * 1e9:
                return False
            self._written = 0
            self._journal.append_line(self._note(at, 0))
        return True

    def _note(self, at: int, lines: int) -> str:
        try:
            reported = f',"reported":{os.stat(self._reports).st_size}'
        except FileNotFoundError:
            reported = ',"reported":0'
        except OSError:
            reported = ""
        head = f'"kind":"{layout.READ}","timeUnixNano":{clock.now()}'
        return f'{{{head},"lines":{lines},"monotonicNano":{at}{reported}}}'

    @property
    def unwritten(self) -> dict[str, int]:
        """How many records of each kind the journal did not take."""
        return self._journal.unwritten

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


class Writer:
    """Writes what all attempts have put aside; `before` is called first, to learn what to mask."""

    def __init__(self, mask: Callable[[str], str], before: Callable[[], None]) -> None:
        self._mask = mask
        self._before = before
        self._attempts: dict[layout.AttemptKey, RawLines] = {}
        self._news = threading.Event()
        self._lock = threading.Lock()
        self._is_started = False

    def open(self, key: layout.AttemptKey, journal: Journal, reports: Path, streams: Sequence[str]) -> RawLines:
        """Begin the lines of an attempt, which reports its own to the journal `reports`."""
        made = RawLines(journal, reports, streams, self)
        self._attempts[key] = made
        return made

    def close(self, key: layout.AttemptKey) -> dict[str, int]:
        """Write what is left of an attempt, which is over; what its journal did not take."""
        lines = self._attempts.get(key)
        if lines is None:
            return {}
        self.write()
        del self._attempts[key]
        lines.close()
        return lines.unwritten

    def wake(self) -> None:
        """There is something to write."""
        if not self._is_started:
            self._is_started = True
            threading.Thread(target=self._work, name="otel raw lines", daemon=True).start()
        self._news.set()

    def write(self) -> bool:
        """Write all that was put aside, and where nothing was, note that; whether there is no more to note."""
        is_quiet = True
        with self._lock:
            for attempt in list(self._attempts.values()):
                lines = attempt.take()
                if lines:
                    # After the lines were read: a task sends its secrets before it can print one.
                    self._before()
                    attempt.append(lines, self._mask)
                    is_quiet = False
                elif not attempt.note_quiet():
                    is_quiet = False
        return is_quiet

    def _work(self) -> None:
        is_quiet = True
        while True:
            if self._news.wait(None if is_quiet else _QUIET):
                _sleep(_DELAY)
                self._news.clear()
            try:
                is_quiet = self.write()
            except Exception as error:  # noqa: BLE001 - the thread must live; the run does not care
                contain(error)


def _record(line: Line, mask: Callable[[str], str]) -> str:
    at, stream, data = line
    if data.startswith(_MFLOG):
        data, at = metaflow_seams.unwrapped(data) or (data, at)
    text = (data[:-1] if data.endswith(b"\n") else data).decode("utf-8", "replace")
    length = len(text)
    body = quoted(mask(kept(text, length)))
    more = f',"length":{length}' if length > long_lines.LONGEST_LINE else ""
    return f'{{"kind":"{layout.LINE}","timeUnixNano":{at},"stream":"{stream}","body":{body}{more}}}'
