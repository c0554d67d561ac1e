"""A run as a waterfall in the terminal."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Dict, Optional, Tuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from otel_metaflow import ids, spawn
from otel_metaflow.assembly.checkpoint import Checkpoint
from otel_metaflow.assembly.logs import AttemptLogs, Cursor
from otel_metaflow.assembly.run import Attempt, Run, load
from otel_metaflow.journal import layout

_STYLES = {
    "success": "green",
    "failure": "red",
    "error": "red",
    "timeout": "red",
    "cancellation": "yellow",
    "running": "cyan",
}
_GIVEN_UP = {
    "rejected": "rejected by the endpoint",
    "unwritten": "lost, the journal took no more",
    "corrupt": "lost in a damaged journal",
}
_BAR = 30
# From which severity on a record is an error: logging.ERROR, and the logs API's.
_ERROR = {layout.LOG: 40, layout.RECORD: 17}
# How wide lines are where there is no terminal to fit in, as in a pipe.
_WIDE = 200


def show(home: Path, folder: Path, console: Optional[Console] = None) -> None:
    """Print the run in `folder`."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=_WIDE, highlight=False)
    run = load(home, folder)
    state = _state(run)
    console.print(
        Text.assemble(
            (str(run.key), "bold"),
            "  ",
            (state, _STYLES.get(state, "")),
            f"  {_seconds(run.ended_at - run.started_at)}  started {_clock(run.started_at)}",
        )
    )
    console.print(Text(f"trace {ids.trace_id(run.key.flow, run.key.run, run.key.namespace)}", style="dim"))
    if run.attempts:
        console.print(_waterfall(folder, run))
    else:
        console.print("no attempt was recorded")
    console.print(Text(_delivery(folder), style="dim"))


def _waterfall(folder: Path, run: Run) -> Table:
    last = max(run.ended_at, *(attempt.ended_at for attempt in run.attempts.values()))
    span = max(1, last - run.started_at)
    rows = [_row(folder, run, attempt, span) for attempt in run.in_order]
    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    for index, name in enumerate(("attempt", "result", "took", "when", "logs")):
        # Only the error gives way where the terminal is narrow.
        width = max(len(name), *(len(row[index]) for row in rows))
        table.add_column(name, no_wrap=True, min_width=width, justify="right" if name in ("took", "logs") else "left")
    table.add_column("error", no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*row)
    return table


def _row(folder: Path, run: Run, attempt: Attempt, span: int) -> Tuple[Text, ...]:
    state = "running" if attempt.end is None and attempt.is_running() else attempt.result
    style = _STYLES[state]
    retry = f" retry {attempt.key.attempt}" if attempt.key.attempt else ""
    error = "" if state == "running" else (attempt.error_message or "").partition("\n")[0]
    return (
        Text(f"{attempt.key.step}/{attempt.key.task}{retry}"),
        Text(state, style=style),
        Text(_seconds(attempt.ended_at - attempt.started_at)),
        Text(_bar(attempt, run.started_at, span), style=style),
        Text(_counts(folder, attempt)),
        Text(error),
    )


def _bar(attempt: Attempt, start: int, span: int) -> str:
    begin = min(_BAR - 1, int((attempt.started_at - start) / span * _BAR))
    length = max(1, round((attempt.ended_at - attempt.started_at) / span * _BAR))
    return (" " * max(0, begin) + "█" * length)[:_BAR].ljust(_BAR)


def _counts(folder: Path, attempt: Attempt) -> str:
    """How many log records the attempt has, and how many of them are warnings or worse."""
    logs = AttemptLogs(folder, attempt.key, Cursor())
    counts: Counter[str] = Counter()
    for entry in logs.read(attempt.last_seen, final=True):
        counts["all"] += 1
        if entry.record.get("severityNumber", 0) >= _ERROR.get(entry.record["kind"], 1):
            counts["errors"] += 1
    return f"{counts['all']}" + (f" ({counts['errors']} errors)" if counts["errors"] else "")


def _state(run: Run) -> str:
    return "running" if run.end is None and run.is_running() else run.result


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
