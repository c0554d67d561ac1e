"""A run as a waterfall in the terminal."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Dict, FrozenSet, List, Optional, Tuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from otel_metaflow import spawn
from otel_metaflow.assembly import story
from otel_metaflow.assembly.checkpoint import Checkpoint
from otel_metaflow.assembly.logs import AttemptLogs, Cursor
from otel_metaflow.assembly.run import Attempt, Run, load
from otel_metaflow.journal import layout
from otel_metaflow.journal.layout import AttemptKey
from otel_metaflow.viewer import report

_STYLES = {
    "success": "green",
    "failure": "red",
    "error": "red",
    "timeout": "red",
    "cancellation": "yellow",
    "skip": "dim",
    "running": "cyan",
}
_GIVEN_UP = {
    "rejected": "rejected by the endpoint",
    "unwritten": "lost, the journal took no more",
    "corrupt": "lost in a damaged journal",
}
# From which severity on a record is an error: logging.ERROR, and the logs API's.
_ERROR = {layout.LOG: 40, layout.RECORD: 17}
_BAR = 30
# What a bar is made of: waiting to be launched, starting and loading, user code, storing.
_WAIT, _START, _CODE, _STORE = "·", "░", "█", "▒"
# How wide lines are where there is no terminal to fit in, as in a pipe.
_WIDE = 200


def show(home: Path, folder: Path, trace_url: str = "", console: Optional[Console] = None) -> None:
    """Print the run in `folder`: its outcome, shape, attempts, what decided how long it took, and use by step."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=_WIDE, highlight=False)
    run = load(home, folder)
    state = report.run_state(run)
    console.print(
        Text.assemble(
            (str(run.key), "bold"),
            "  ",
            (state, _STYLES.get(state, "")),
            f"  {_seconds(run.ended_at - run.started_at)}  started {_clock(run.started_at)}",
        )
    )
    console.print(Text(f"trace {report.trace_url(run, trace_url) or run.trace_id}", style="dim"))
    if run.steps:
        console.print(Text(f"shape {shape(run)}"))
    if run.origin:
        console.print(Text(f"resumes {run.key.flow}/{run.origin}"))
    failure = story.failure_origin(run)
    if failure is not None:
        console.print(Text(f"failed first: {_name(failure)}: {_first_line(failure.error_message)}", style="red"))
    if run.attempts:
        path = story.critical_path(run)
        console.print(_waterfall(folder, run, path))
        console.print(
            Text(f"bar: {_WAIT} waiting  {_START} starting  {_CODE} user code  {_STORE} storing", style="dim")
        )
        console.print(Text(_decisive(path)))
        console.print(_use(run))
    else:
        console.print("no attempt was recorded")
    console.print(Text(_delivery(folder), style="dim"))


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


def _waterfall(folder: Path, run: Run, path: story.CriticalPath) -> Table:
    span = max(1, report.ended_at(run) - run.started_at)
    decisive = {attempt.key for attempt in path.attempts}
    rows = [_row(folder, run, attempt, span, is_decisive=attempt.key in decisive) for attempt in run.in_order]
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


def _row(folder: Path, run: Run, attempt: Attempt, span: int, *, is_decisive: bool) -> Tuple[Text, ...]:
    state = report.attempt_state(attempt)
    style = _STYLES[state]
    waited = story.queue_time(run, attempt)
    return (
        Text(f"{'*' if is_decisive else ' '} {_name(attempt)}"),
        Text(state, style=style),
        Text("" if waited is None else _seconds(waited)),
        Text(_seconds(attempt.ended_at - attempt.started_at)),
        Text(_bar(run, attempt, waited or 0, span), style=style),
        Text(_counts(folder, attempt)),
        Text("" if state == "running" else _note(run, attempt)),
    )


def _name(attempt: Attempt) -> str:
    return f"{attempt.key.step}/{attempt.key.task}" + (f" retry {attempt.key.attempt}" if attempt.key.attempt else "")


def _note(run: Run, attempt: Attempt) -> str:
    """Why it failed, and what became of that; or whence it was taken."""
    if attempt.clone is not None:
        return f"cloned from {run.key.flow}/{attempt.clone['originRun']}"
    if attempt.failed:
        more = " (tried again)" if story.following(run, attempt) is not None else ""
        return _first_line(attempt.error_message) + more
    if (attempt.end or {}).get("caught"):
        return f"caught {attempt.exception.get('type')}: {_first_line(str(attempt.exception.get('message')))}"
    return ""


def _first_line(text: Optional[str]) -> str:
    return (text or "").partition("\n")[0]


def _bar(run: Run, attempt: Attempt, waited: int, span: int) -> str:
    """Where on the run's time the attempt lies, and what it did when."""
    end = attempt.end or {}
    began = int(end.get("codeStart") or (attempt.start or {}).get("timeUnixNano") or attempt.ended_at)
    left = int(end.get("codeEnd") or attempt.ended_at)
    parts = (
        (attempt.started_at - waited, attempt.started_at, _WAIT),
        (attempt.started_at, began, _START),
        (began, left, _CODE),
        (left, attempt.ended_at, _STORE),
    )

    def column(at: int) -> int:
        return min(_BAR, max(0, round((at - run.started_at) / span * _BAR)))

    cells = [" "] * _BAR
    for start, stop, mark in parts:
        cells[column(start) : column(stop)] = mark * (column(stop) - column(start))
    if set(cells) == {" "}:  # too short for any
        cells[min(_BAR - 1, column(attempt.started_at))] = _CODE
    return "".join(cells)


def _decisive(path: story.CriticalPath) -> str:
    """What decided how long the run took: the attempts that are marked."""
    if not path.attempts:
        return "critical path: nothing ran"
    waiting = f", {_seconds(path.waiting)} of it waiting" if path.waiting else ""
    return f"critical path * {_seconds(path.duration)}{waiting}: {' > '.join(path.steps)}"


def _use(run: Run) -> Table:
    """What the attempts of each step used, the largest of them, beside what the step asked for."""
    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    for name in ("step", "attempts", "cpu s", "cores", "asked", "memory", "asked", "read", "written"):
        table.add_column(name, no_wrap=True, justify="left" if name == "step" else "right")
    for step, attempts in report.by_step(run, list(run.in_order)).items():
        if not attempts:
            continue
        asked = run.steps.get(step, {}).get("asked") or {}
        used = report.use(attempts)
        table.add_row(
            step,
            str(used["attempts"]),
            f"{used['cpuSeconds']:.2f}",
            f"{used['cores']:.2f}",
            f"{asked['cpu']:g}" if "cpu" in asked else "",
            _bytes(used["memoryPeak"]),
            _bytes(int(asked["memory"] * (1 << 20))) if "memory" in asked else "",
            _bytes(used["read"]),
            _bytes(used["written"]),
        )
    return table


def _bytes(count: int) -> str:
    """As people say sizes; nothing for none."""
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if count >= size:
            return f"{count / size:.0f} {unit}" if count >= 10 * size else f"{count / size:.1f} {unit}"
    return f"{count} B" if count else ""


def _counts(folder: Path, attempt: Attempt) -> str:
    """How many log records the attempt has, and how many of them are warnings or worse."""
    logs = AttemptLogs(folder, attempt.key, Cursor())
    counts: Counter[str] = Counter()
    for entry in logs.read(attempt.last_seen, final=True):
        counts["all"] += 1
        if entry.record.get("severityNumber", 0) >= _ERROR.get(entry.record["kind"], 1):
            counts["errors"] += 1
    return f"{counts['all']}" + (f" ({counts['errors']} errors)" if counts["errors"] else "")


def _delivery(folder: Path) -> str:
    """Where the telemetry went."""
    if not (folder / layout.LOCK_FILE).exists():
        return "telemetry: kept here, nothing is sent (OTEL_EXPORTER_OTLP_ENDPOINT was not set)"
    checkpoint = Checkpoint.read(folder)
    counts: Dict[str, int] = checkpoint.delivered
    sent = ", ".join(f"{counts[signal]} {signal}" for signal in ("logs", "traces", "metrics") if signal in counts)
    if checkpoint.complete:
        state = "delivered"
    elif spawn.is_shipping(folder):
        state = "being delivered"
    else:
        state = "kept, not all delivered"
    reasons = "; ".join(f"{signal} {reason}" for signal, reason in sorted(checkpoint.trouble.items()))
    given_up = ", ".join(
        f"{count} {signal} {_GIVEN_UP[why]}" for (signal, why), count in sorted(checkpoint.given_up.items())
    )
    return f"telemetry: {state}" + "".join(f"; {part}" for part in (sent, reasons, given_up) if part)


def _seconds(nanoseconds: int) -> str:
    seconds = nanoseconds / 1e9
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.2f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def _clock(at: int) -> str:
    return datetime.fromtimestamp(at / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S")
