"""A run, or a step of it, as a waterfall in the terminal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.text import Text

from otel_metaflow.journal import layout, lock
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.model import story
from otel_metaflow.model.critical_path import CriticalPath, critical_path
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.viewer import formatting, report, table
from otel_metaflow.viewer.formatting import STYLES, clock, first_line, plain, seconds, size
from otel_metaflow.viewer.waterfall import CODE, QUEUED, START, STORE, UNSEEN, Waterfall, is_unseen

_DROPPED = {
    "rejected": "rejected by the endpoint",
    "unwritten": "lost, the journal could not be written",
    "corrupt": "lost, the journal is damaged",
    "unconvertible": "dropped, they cannot be converted",
}


def show(folder: Path, run: Run, *, step: str = "", trace_url: str = "", whole: bool = False) -> None:
    """Print a run, or a `step` of it: result, graph, attempts, critical path, and usage by step.

    With `whole`, every attempt has a row, however many there are. `trace_url` is OTEL_METAFLOW_TRACE_URL.
    """
    console = formatting.console()
    attempts = [attempt for attempt in run.in_order if step in ("", attempt.key.step)]
    _head(console, run, step, trace_url)
    if attempts:
        path = critical_path(run)
        Waterfall(folder, run, path, whole=whole).show(console, attempts)
        legend = f"bar: {QUEUED} queued  {START} starting  {CODE} user code  {STORE} storing"
        unseen = f"  {UNSEEN} not recorded" if any(map(is_unseen, attempts)) else ""
        console.print(Text(legend + unseen, style="dim"))
        console.print(Text(_critical_path(run, path)))
        _show_use(console, run, attempts)
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
    # A URL that is broken over lines can be neither clicked nor copied.
    console.print(Text(f"trace {report.trace_url(run, trace_url) or run.trace_id}", style="dim"), soft_wrap=True)
    if run.steps:
        console.print(Text(f"graph {plain(graph(run))}"))
    without = [name for name, record in run.steps.items() if record.get("recorded") is False]
    if without:
        console.print(Text(f"not recorded (no @otel): {plain(', '.join(without))}", style="dim"))
    if run.origin:
        console.print(Text(f"resumes {run.key.flow}/{run.origin}"))
    failure = story.first_failure(run)
    if failure is not None:
        console.print(
            Text(f"failed first: {plain(story.name(failure.key))}: {first_line(failure.error_message)}", style="red")
        )


def graph(run: Run) -> str:
    """The steps of the flow from start to end: parallel ones in parentheses, a foreach with its number of tasks."""
    following = {step: list(record.get("next") or ()) for step, record in run.steps.items()}
    depth: dict[str, int] = {}

    def place(step: str, level: int, above: frozenset[str]) -> None:
        if step in above or depth.get(step, -1) >= level:  # a loop does not move a step down
            return
        depth[step] = level
        for after in following.get(step, ()):
            place(after, level + 1, above | {step})

    targets = {after for steps in following.values() for after in steps}
    for step in following:
        if step not in targets:
            place(step, 0, frozenset())
    width = Counter(key.step for key in {AttemptKey(key.step, key.task, 0) for key in run.attempts})
    levels: dict[int, list[str]] = {}
    for step, level in depth.items():
        again = " ↺" if step in following.get(step, ()) else ""
        count = width.get(step, 0)
        levels.setdefault(level, []).append(step + (f"[{count}]" if count > 1 else "") + again)
    return " > ".join(names[0] if len(names) == 1 else f"({' | '.join(names)})" for _, names in sorted(levels.items()))


def _critical_path(run: Run, path: CriticalPath) -> str:
    """The line about the critical path, whose attempts are marked in the table."""
    if not path.attempts:
        return "critical path: nothing ran"
    queued = f", {seconds(path.queued / 1e9)} of it queued" if path.queued else ""
    so_far = " so far" if report.run_state(run) == "running" else ""
    return f"critical path{so_far} * {seconds(path.duration / 1e9)}{queued}: {plain(' > '.join(path.steps))}"


_USE = ("step", "attempts", "CPU s", "cores", "CPU requested", "memory", "memory requested", "read", "written")


def _show_use(console: Console, run: Run, chosen: list[Attempt]) -> None:
    """Print the usage of each step's attempts, next to what the step requested."""
    rows = []
    for step, attempts in report.by_step(run, chosen).items():
        if not any(run.is_recorded(attempt) for attempt in attempts):
            continue
        requested = run.steps.get(step, {}).get("requested") or {}
        used = report.use(attempts)
        cells = (
            plain(step),
            str(used["attempts"]),
            f"{used['cpuSeconds']:.2f}" if "cpuSeconds" in used else "",
            f"{used['cores']:.2f}" if "cores" in used else "",
            f"{requested['cpu']:g}" if "cpu" in requested else "",
            size(used.get("memoryPeak", 0)),
            size(int(requested["memory"] * (1 << 20))) if "memory" in requested else "",
            size(used.get("read", 0)),
            size(used.get("written", 0)),
        )
        rows.append([Text(cell) for cell in cells])
    if rows:
        table.show(console, _USE, rows, left=("step",))


def _delivery(folder: Path) -> str:
    """What was exported, and why not all of it was."""
    if not (folder / layout.LOCK_FILE).exists():
        return "telemetry: not exported (OTEL_EXPORTER_OTLP_ENDPOINT was not set)"
    status = DeliveryStatus.read(folder)
    counts: dict[str, int] = status.delivered
    sent = ", ".join(f"{counts[signal]} {signal}" for signal in ("logs", "traces", "metrics") if signal in counts)
    if status.complete:
        state = "exported"
    elif lock.is_shipping(folder):
        state = "exporting"
    else:
        state = "partly exported" if sent else "not exported"
    reasons = "; ".join(f"{signal} {reason}" for signal, reason in sorted(status.trouble.items()))
    dropped = ", ".join(f"{count} {signal} {_DROPPED[why]}" for (signal, why), count in sorted(status.dropped.items()))
    return f"telemetry: {state}" + "".join(f"; {part}" for part in (sent, reasons, dropped) if part)
