"""The journal of the lines that were read from a task, beside its own: STEP.TASK.ATTEMPT.output.jsonl.

Each batch of lines is preceded by a note with the current length of the task's own journal: a task reports a line
before it writes it, so reports of these lines are before that position. The same note is written once after half a
second without lines.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, Dict, Sequence, Tuple

from otel_metaflow.core import clock, long_lines
from otel_metaflow.core.long_lines import truncated
from otel_metaflow.journal import layout
from otel_metaflow.journal.writer import Journal, quoted

QUIET = 0.5
"""After how many seconds without lines that is noted."""

Line = Tuple[int, str, bytes]
"""When a line was written or read, in nanoseconds since 1970, its stream, and its bytes with their newline."""


class RawJournal:
    """The raw lines of one attempt; `reports` is the task's own journal."""

    def __init__(self, journal: Journal, reports: Path) -> None:
        self._journal = journal
        self._reports = reports
        self._written = 0  # when lines were last written, 0 once the note that no more followed is written

    def append(self, lines: Sequence[Line], mask: Callable[[str], str], position: str = "") -> None:
        """Write lines to the journal, at least one; `position`, as JSON, is how far what they came from was read."""
        self._written = clock.monotonic()
        note = self._note(self._written, len(lines), position)
        self._journal.append_lines([note, *(_record(line, mask) for line in lines)])

    def append_stored(
        self, lines: Sequence[Tuple[str, Line]], mask: Callable[[str], str], at: int, more: str = ""
    ) -> None:
        """Write lines of Metaflow's log files, each with its id there, as one batch after which nothing followed.

        `at` is when that was, in nanoseconds of a clock that runs evenly; each record has `more`, as JSON.
        """
        records = [_record(line, mask, f',"id":{quoted(identity)}{more}') for identity, line in lines]
        self._journal.append_lines([self._note(at, len(lines)), *records, self._note(at + int(QUIET * 1e9), 0)])

    def note_quiet(self) -> bool:
        """Note, once, that nothing has been read for a while; return whether that is done."""
        if self._written:
            at = clock.monotonic()
            if at - self._written < QUIET * 1e9:
                return False
            self._written = 0
            self._journal.append_line(self._note(at, 0))
        return True

    def _note(self, at: int, lines: int, position: str = "") -> str:
        try:
            reported = f',"reported":{os.stat(self._reports).st_size}'
        except FileNotFoundError:
            reported = ',"reported":0'
        except OSError:
            reported = ""
        more = f',"position":{position}' if position else ""
        head = f'"kind":"{layout.READ}","timeUnixNano":{clock.now()}'
        return f'{{{head},"lines":{lines},"monotonicNano":{at}{reported}{more}}}'

    @property
    def unwritten(self) -> Dict[str, int]:
        """How many records of each kind could not be written."""
        return self._journal.unwritten

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


def _record(line: Line, mask: Callable[[str], str], more: str = "") -> str:
    at, stream, data = line
    text = data.decode("utf-8", "replace")
    if text[-1:] == "\n":
        text = text[:-1]
    length = len(text)
    if length > long_lines.LONGEST_LINE:
        text, more = truncated(text, length), f'{more},"length":{length}'
    return f'{{"kind":"{layout.LINE}","timeUnixNano":{at},"stream":"{stream}","body":{quoted(mask(text))}{more}}}'
