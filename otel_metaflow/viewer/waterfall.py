"""The attempts of a run as rows of a waterfall: the result of each, and its position in the time of the run."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from otel_metaflow.journal import layout
from otel_metaflow.model import story
from otel_metaflow.model.critical_path import CriticalPath
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.viewer import log_view, report, table
from otel_metaflow.viewer.formatting import STYLES, first_line, plain, seconds, size

# The parts of a bar: queued, starting and loading, user code, storing.
QUEUED, START, CODE, STORE = "·", "░", "█", "▒"
UNSEEN = "╌"  # an attempt whose times were not recorded
_GROUPED = "━"
# Bars shrink first: for the notes beside them and, if those are printed below, for names and figures.
_MAX_BAR, _MIN_BAR_BESIDE_NOTES, _MIN_BAR = 30, 12, 6
# In a run with more attempts, each step with many is one row, followed by its failed and its slowest attempts.
_MAX_ROWS = 100
_MAX_ROWS_OF_STEP = 12
_SHOWN = 5
# Counting the records of a journal of more bytes takes too long.
_MAX_COUNTED = 2 << 20

_NAMES = ("attempt", "result", "queued", "took", "when", "logs")
_WHEN = _NAMES.index("when")
_RIGHT = tuple(name in ("queued", "took", "logs") for name in _NAMES)

Parts = tuple[tuple[int, int, str], ...]
"""Stretches of a bar: from, to (nanoseconds since 1970), mark."""


class _Row(NamedTuple):
    """`cells` are those of _NAMES; the bar's is empty until its width is known."""

    cells: tuple[Text, ...]
    parts: Parts
    note: str


class Waterfall:
    """Attempts, each with a bar; with `whole`, each has its own row, however many there are."""

    def __init__(self, folder: Path, run: Run, path: CriticalPath, *, whole: bool) -> None:
        self._folder = folder
        self._run = run
        self._whole = whole
        self._span = max(1, report.ended_at(run) - run.started_at)
        self._critical = {attempt.key for attempt in path.attempts}

    def show(self, console: Console, attempts: list[Attempt]) -> None:
        """Print `attempts`; notes are printed beside the bars if there is room for both, else below the rows."""
        rows = list(self._rows(attempts, whole=self._whole or len(attempts) <= _MAX_ROWS))
        heads = tuple(Text(name, style="dim") for name in _NAMES)
        widths = [
            max(row[index].cell_len for row in (heads, *(row.cells for row in rows))) for index in range(len(_NAMES))
        ]
        fixed = sum(widths[1:_WHEN]) + sum(widths[_WHEN + 1 :]) + 2 * (len(_NAMES) - 1)
        reason = max(Text(row.note).cell_len for row in rows)
        room = console.width - fixed - widths[0] - (reason + 2 if reason else 0)
        is_beside = room >= _MIN_BAR_BESIDE_NOTES
        if not is_beside:
            widths[0] = table.longest([heads[0], *(row.cells[0] for row in rows)], console.width - fixed - _MIN_BAR)
            widths[0] = max(widths[0], heads[0].cell_len)
            room = console.width - fixed - widths[0]
        widths[_WHEN] = max(_MIN_BAR, min(_MAX_BAR, room))
        table.print_row(console, heads, widths, _RIGHT)
        for row in rows:
            cells = list(row.cells)
            cells[_WHEN] = Text(_bar(self._run, row.parts, self._span, widths[_WHEN]), style=cells[_WHEN].style)
            note = Text(row.note)
            last = note if is_beside else Text("")
            table.print_row(console, [*cells, last], [*widths, 0], [*_RIGHT, False])
            if note and not is_beside:
                table.indented(console, note)

    def _rows(self, attempts: list[Attempt], *, whole: bool) -> Iterator[_Row]:
        if whole:
            yield from map(self._row, attempts)
            return
        for step, members in report.by_step(self._run, attempts).items():
            if len(members) <= _MAX_ROWS_OF_STEP:
                yield from map(self._row, members)
            else:
                yield self._group(step, members)
                yield from map(self._row, _worst(members))

    def _group(self, step: str, members: Sequence[Attempt]) -> _Row:
        states = Counter(report.attempt_state(attempt) for attempt in members)
        state = min(states, key=lambda one: (STYLES[one] != "red", one != "running", -states[one]))
        begin, end = min(one.started_at for one in members), max(one.ended_at for one in members)
        took = [(one.ended_at - one.started_at) / 1e9 for one in members]
        counts = ", ".join(f"{count} {one}" for one, count in states.most_common())
        cells = (
            Text(f"{'*' if any(one.key in self._critical for one in members) else ' '} {plain(step)} x{len(members)}"),
            Text(state, style=STYLES[state]),
            Text(""),
            Text(seconds((end - begin) / 1e9)),
            Text(""),
            Text(""),
        )
        note = f"{counts}; median {seconds(statistics.median(took))}, longest {seconds(max(took))}"
        return _Row(cells, ((begin, end, _GROUPED),), note)

    def _row(self, attempt: Attempt) -> _Row:
        state = report.attempt_state(attempt)
        style = STYLES[state]
        queued = story.queue_time(self._run, attempt)
        cells = (
            Text(f"{'*' if attempt.key in self._critical else ' '} {plain(story.name(attempt.key))}"),
            Text(state, style=style),
            Text("" if queued is None else seconds(queued / 1e9)),
            Text(seconds((attempt.ended_at - attempt.started_at) / 1e9)),
            Text("", style=style),
            Text(_counts(self._folder, self._run, attempt)),
        )
        return _Row(cells, _parts(attempt, queued or 0), "" if state == "running" else _note(self._run, attempt))


def is_unseen(attempt: Attempt) -> bool:
    """Whether the times of an attempt were not recorded."""
    return attempt.start is None and not attempt.is_cloned


def _worst(members: Sequence[Attempt]) -> list[Attempt]:
    """A few of the failed and of the slowest attempts."""
    failed = [one for one in members if one.failed and report.attempt_state(one) != "running"][:_SHOWN]
    slowest = sorted(members, key=lambda one: one.started_at - one.ended_at)[:_SHOWN]
    return sorted({one.key: one for one in (*failed, *slowest)}.values(), key=lambda one: one.started_at)


def _note(run: Run, attempt: Attempt) -> str:
    """Why it failed and whether it was retried; or the run it was cloned from; or that it was not recorded."""
    if attempt.clone is not None:
        origin = attempt.cloned_from
        return "cloned" if origin is None else f"cloned from {run.key.flow}/{origin}"
    notes = []
    if attempt.failed:
        more = " (retried)" if story.following(run, attempt) is not None else ""
        notes.append(first_line(attempt.error_message) + more)
    if (attempt.end or {}).get("caught"):
        caught = f"{attempt.exception.get('type')}: {attempt.exception.get('message')}"
        notes.append(f"caught {first_line(caught)}")
    if not run.is_recorded(attempt):
        notes.append("not recorded")
    elif attempt.is_partial:
        notes.append("partly recorded")
    return "; ".join(notes)


def _parts(attempt: Attempt, queued: int) -> Parts:
    if is_unseen(attempt):
        started, ended = attempt.started_at, attempt.ended_at
        return (started - queued, started, QUEUED), (started, ended, UNSEEN)
    end = attempt.end or {}
    began = int(end.get("codeStart") or (attempt.start or {}).get("timeUnixNano") or attempt.ended_at)
    left = int(end.get("codeEnd") or attempt.ended_at)
    return (
        (attempt.started_at - queued, attempt.started_at, QUEUED),
        (attempt.started_at, began, START),
        (began, left, CODE),
        (left, attempt.ended_at, STORE),
    )


def _bar(run: Run, parts: Parts, span: int, width: int) -> str:
    """Draw the parts of a bar, scaled to the duration of the run."""

    def column(at: int) -> int:
        return min(width, max(0, round((at - run.started_at) / span * width)))

    cells = [" "] * width
    for start, stop, mark in parts:
        cells[column(start) : column(stop)] = mark * (column(stop) - column(start))
    if set(cells) == {" "}:  # too short for any
        cells[min(width - 1, column(parts[-1][0]))] = UNSEEN if parts[-1][2] == UNSEEN else CODE
    return "".join(cells)


def _counts(folder: Path, run: Run, attempt: Attempt) -> str:
    """The number of the attempt's log records and of errors among them; the size of its journal if it is large."""
    files = (layout.attempt_file(folder, attempt.key), layout.output_file(folder, attempt.key))
    bytes_ = max((path.stat().st_size for path in files if path.exists()), default=0)
    if bytes_ > _MAX_COUNTED:
        return size(bytes_)
    count, errors = log_view.counted(folder, run, attempt)
    return f"{count}" + (f" ({errors} error{'' if errors == 1 else 's'})" if errors else "")
