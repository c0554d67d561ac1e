"""A run, or a step of it, as a waterfall in the terminal."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path
from typing import Dict, FrozenSet, Iterator, List, Sequence, Tuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from otel_metaflow.journal import layout, lock
from otel_metaflow.journal.checkpoint import Checkpoint
from otel_metaflow.journal.layout import AttemptKey
from otel_metaflow.model import story
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.viewer import formatting, log_view, report
from otel_metaflow.viewer.formatting import STYLES, clock, first_line, plain, seconds, size

_GIVEN_UP = {
    "rejected": "rejected by the endpoint",
    "unwritten": "lost, the journal took no more",
    "corrupt": "lost in a damaged journal",
}
_BAR = 30
# What a bar is made of: waiting to be launched, starting and loading, user code, storing.
_WAIT, _START, _CODE, _STORE = "·", "░", "█", "▒"
_UNSEEN = "╌"  # an attempt that did not record what it did when
_TOGETHER = "━"
# Of a run of more attempts, those of a step stand together: the worst and the slowest of them are shown.
_MANY = 100
_FEW = 12
_SHOWN = 5
# Beyond so many bytes of journal, counting records takes longer than people want to look.
_MOST_COUNTED = 2 << 20


def show(folder: Path, run: Run, *, step: str = "", trace_url: str = "", whole: bool = False) -> None:
    """Print a run, or a `step` of it: outcome, shape, attempts, what decided how long it took, and use by step.

    With `whole`, every attempt has a row, however many there are. `trace_url` is the template of
    OTEL_METAFLOW_TRACE_URL.
    """
    console = formatting.console()
    attempts = [attempt for attempt in run.in_order if step in ("", attempt.key.step)]
    _head(console, run, step, trace_url)
    if attempts:
        path = story.critical_path(run)
        console.print(_Waterfall(folder, run, path, whole=whole or len(attempts) <= _MANY).table(attempts))
        legend = f"bar: {_WAIT} waiting  {_START} starting  {_CODE} user code  {_STORE} storing"
        unseen = f"  {_UNSEEN} not recorded" if any(map(_is_unseen, attempts)) else ""
        console.print(Text(legend + unseen, style="dim"))
        console.print(Text(_decisive(run, path)))
        table = _use(run, attempts)
        if table.row_count:
            console.print(table)
    else:
        console.print("no attempt was recorded")
    if not step:
        console.print(Text(_delivery(folder), style="dim"))


def _head(console: Console, run: Run, step: str, trace_url: str) -> None:
    state = report.run_state(run)
    took = seconds((report.ended_at(run) - run.started_at) / 1e9)
    console.print(
        Text.assemble(
            (plain(f"{run.key}/{step}" if step else str(run.key)), "bold"),
            "  ",
            (state, STYLES.get(state, "")),
            f"  {took}  started {clock(run.started_at)}",
        )
    )
    if step:
        return
    console.print(Text(f"trace {report.trace_url(run, trace_url) or run.trace_id}", style="dim"))
    if run.steps:
        console.print(Text(f"shape {plain(shape(run))}"))
    without = [name for name, record in run.steps.items() if record.get("recorded") is False]
    if without:
        console.print(Text(f"not recorded, without @otel: {plain(', '.join(without))}", style="dim"))
    if run.origin:
        console.print(Text(f"resumes {run.key.flow}/{run.origin}"))
    failure = story.failure_origin(run)
    if failure is not None:
        console.print(Text(f"failed first: {_named(failure)}: {first_line(failure.error_message)}", style="red"))


def shape(run: Run) -> str:
    """The steps of the flow from start to end: side by side in parentheses, a foreach with its width."""
    following = {step: list(record.get("next") or ()) for step, record in run.steps.items()}
    depth: Dict[str, int] = {}

    def place(step: str, level: int, above: FrozenSet[str]) -> None:
        if step in above or depth.get(step, -1) >= level:  # a step that leads back to itself stays where it is
            return
        depth[step] = level
        for after in following.get(step, ()):
            place(after, level + 1, above | {step})

    led_to = {after for steps in following.values() for after in steps}
    for step in following:
        if step not in led_to:
            place(step, 0, frozenset())
    width = Counter(key.step for key in {AttemptKey(key.step, key.task, 0) for key in run.attempts})
    levels: Dict[int, List[str]] = {}
    for step, level in depth.items():
        again = " ↺" if step in following.get(step, ()) else ""
        count = width.get(step, 0)
        levels.setdefault(level, []).append(step + (f"[{count}]" if count > 1 else "") + again)
    return " > ".join(names[0] if len(names) == 1 else f"({' | '.join(names)})" for _, names in sorted(levels.items()))


class _Waterfall:
    """A table of attempts, each with its bar on the time of the run."""

    def __init__(self, folder: Path, run: Run, path: story.CriticalPath, *, whole: bool) -> None:
        self._folder = folder
        self._run = run
        self._whole = whole
        self._span = max(1, report.ended_at(run) - run.started_at)
        self._decisive = {attempt.key for attempt in path.attempts}

    def table(self, attempts: List[Attempt]) -> Table:
        rows = list(self._rows(attempts))
        table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
        for index, name in enumerate(("attempt", "result", "waited", "took", "when", "logs")):
            # Only the note gives way where the terminal is narrow.
            width = max(len(name), *(len(row[index]) for row in rows))
            right = name in ("waited", "took", "logs")
            table.add_column(name, no_wrap=True, min_width=width, justify="right" if right else "left")
        table.add_column("", no_wrap=True, overflow="ellipsis")
        for row in rows:
            table.add_row(*row)
        return table

    def _rows(self, attempts: List[Attempt]) -> Iterator[Tuple[Text, ...]]:
        if self._whole:
            yield from map(self._row, attempts)
            return
        for step, members in report.by_step(self._run, attempts).items():
            if len(members) <= _FEW:
                yield from map(self._row, members)
            else:
                yield self._group(step, members)
                yield from map(self._row, _worst(members))

    def _group(self, step: str, members: Sequence[Attempt]) -> Tuple[Text, ...]:
        states = Counter(report.attempt_state(attempt) for attempt in members)
        state = min(states, key=lambda one: (STYLES[one] != "red", one != "running", -states[one]))
        begin, end = min(one.started_at for one in members), max(one.ended_at for one in members)
        took = [(one.ended_at - one.started_at) / 1e9 for one in members]
        said = ", ".join(f"{count} {one}" for one, count in states.most_common())
        return (
            Text(f"{'*' if any(one.key in self._decisive for one in members) else ' '} {plain(step)} x{len(members)}"),
            Text(state, style=STYLES[state]),
            Text(""),
            Text(seconds((end - begin) / 1e9)),
            Text(_bar(self._run, ((begin, end, _TOGETHER),), self._span)),
            Text(""),
            Text(f"{said}; each {seconds(statistics.median(took))}, at most {seconds(max(took))}"),
        )

    def _row(self, attempt: Attempt) -> Tuple[Text, ...]:
        state = report.attempt_state(attempt)
        style = STYLES[state]
        waited = story.queue_time(self._run, attempt)
        return (
            Text(f"{'*' if attempt.key in self._decisive else ' '} {_named(attempt)}"),
            Text(state, style=style),
            Text("" if waited is None else seconds(waited / 1e9)),
            Text(seconds((attempt.ended_at - attempt.started_at) / 1e9)),
            Text(_bar(self._run, _parts(attempt, waited or 0), self._span), style=style),
            Text(_counts(self._folder, self._run, attempt)),
            Text("" if state == "running" else _note(self._run, attempt)),
        )


def _worst(members: Sequence[Attempt]) -> List[Attempt]:
    """Those that failed, and the slowest of the others; a few of each."""
    failed = [one for one in members if one.failed and report.attempt_state(one) != "running"][:_SHOWN]
    slowest = sorted(members, key=lambda one: one.started_at - one.ended_at)[:_SHOWN]
    return sorted({one.key: one for one in (*failed, *slowest)}.values(), key=lambda one: one.started_at)


def _named(attempt: Attempt) -> str:
    return plain(story.name(attempt.key))


def _note(run: Run, attempt: Attempt) -> str:
    """Why it failed, and what became of that; or whence it was taken; or that it was not recorded."""
    if attempt.clone is not None:
        return f"cloned from {run.key.flow}/{attempt.clone['originRun']}"
    notes = []
    if attempt.failed:
        more = " (tried again)" if story.following(run, attempt) is not None else ""
        notes.append(first_line(attempt.error_message) + more)
    if (attempt.end or {}).get("caught"):
        caught = f"{attempt.exception.get('type')}: {attempt.exception.get('message')}"
        notes.append(f"caught {first_line(caught)}")
    if not run.is_recorded(attempt):
        notes.append("not recorded")
    elif attempt.is_partial:
        notes.append("partly recorded")
    return "; ".join(notes)


def _is_unseen(attempt: Attempt) -> bool:
    return attempt.start is None and not attempt.is_cloned


def _parts(attempt: Attempt, waited: int) -> Tuple[Tuple[int, int, str], ...]:
    """What it did when: from, to, mark."""
    if _is_unseen(attempt):
        started, ended = attempt.started_at, attempt.ended_at
        return (started - waited, started, _WAIT), (started, ended, _UNSEEN)
    end = attempt.end or {}
    began = int(end.get("codeStart") or (attempt.start or {}).get("timeUnixNano") or attempt.ended_at)
    left = int(end.get("codeEnd") or attempt.ended_at)
    return (
        (attempt.started_at - waited, attempt.started_at, _WAIT),
        (attempt.started_at, began, _START),
        (began, left, _CODE),
        (left, attempt.ended_at, _STORE),
    )


def _bar(run: Run, parts: Sequence[Tuple[int, int, str]], span: int) -> str:
    """Where on the run's time they lie."""

    def column(at: int) -> int:
        return min(_BAR, max(0, round((at - run.started_at) / span * _BAR)))

    cells = [" "] * _BAR
    for start, stop, mark in parts:
        cells[column(start) : column(stop)] = mark * (column(stop) - column(start))
    if set(cells) == {" "}:  # too short for any
        cells[min(_BAR - 1, column(parts[-1][0]))] = _UNSEEN if parts[-1][2] == _UNSEEN else _CODE
    return "".join(cells)


def _decisive(run: Run, path: story.CriticalPath) -> str:
    """What decided how long the run took: the attempts that are marked."""
    if not path.attempts:
        return "critical path: nothing ran"
    waiting = f", {seconds(path.waiting / 1e9)} of it waiting" if path.waiting else ""
    so_far = " so far" if report.run_state(run) == "running" else ""
    return f"critical path{so_far} * {seconds(path.duration / 1e9)}{waiting}: {plain(' > '.join(path.steps))}"


def _use(run: Run, chosen: List[Attempt]) -> Table:
    """What the attempts of each step used, the largest of them, beside what the step asked for."""
    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    for name in ("step", "attempts", "cpu s", "cores", "asked", "memory", "asked", "read", "written"):
        table.add_column(name, no_wrap=True, justify="left" if name == "step" else "right")
    for step, attempts in report.by_step(run, chosen).items():
        if not any(run.is_recorded(attempt) for attempt in attempts):
            continue
        asked = run.steps.get(step, {}).get("asked") or {}
        used = report.use(attempts)
        table.add_row(
            plain(step),
            str(used["attempts"]),
            f"{used['cpuSeconds']:.2f}" if "cpuSeconds" in used else "",
            f"{used['cores']:.2f}" if "cores" in used else "",
            f"{asked['cpu']:g}" if "cpu" in asked else "",
            size(used.get("memoryPeak", 0)),
            size(int(asked["memory"] * (1 << 20))) if "memory" in asked else "",
            size(used.get("read", 0)),
            size(used.get("written", 0)),
        )
    return table


def _counts(folder: Path, run: Run, attempt: Attempt) -> str:
    """How many log records the attempt has, and how many of them are errors; of very many, how large they are."""
    files = (layout.attempt_file(folder, attempt.key), layout.output_file(folder, attempt.key))
    bytes_ = max((path.stat().st_size for path in files if path.exists()), default=0)
    if bytes_ > _MOST_COUNTED:
        return size(bytes_)
    count, errors = log_view.counted(folder, run, attempt)
    return f"{count}" + (f" ({errors} error{'' if errors == 1 else 's'})" if errors else "")


def _delivery(folder: Path) -> str:
    """Where the telemetry went."""
    if not (folder / layout.LOCK_FILE).exists():
        return "telemetry: kept here, nothing is sent (OTEL_EXPORTER_OTLP_ENDPOINT was not set)"
    checkpoint = Checkpoint.read(folder)
    counts: Dict[str, int] = checkpoint.delivered
    sent = ", ".join(f"{counts[signal]} {signal}" for signal in ("logs", "traces", "metrics") if signal in counts)
    if checkpoint.complete:
        state = "delivered"
    elif lock.is_shipping(folder):
        state = "being delivered"
    else:
        state = "kept, not all delivered"
    reasons = "; ".join(f"{signal} {reason}" for signal, reason in sorted(checkpoint.trouble.items()))
    given_up = ", ".join(
        f"{count} {signal} {_GIVEN_UP[why]}" for (signal, why), count in sorted(checkpoint.given_up.items())
    )
    return f"telemetry: {state}" + "".join(f"; {part}" for part in (sent, reasons, given_up) if part)
