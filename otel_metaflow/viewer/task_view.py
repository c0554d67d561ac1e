"""One task in the terminal: the details of each of its attempts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from otel_metaflow.core.redaction import Redaction
from otel_metaflow.model import story
from otel_metaflow.model.critical_path import critical_path
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.viewer import log_view, report
from otel_metaflow.viewer.formatting import STYLES, clock, plain, seconds, size
from otel_metaflow.viewer.frames import folded

_LISTED = 12
PARTLY = "its own journal has no end record; the result is the launcher's"


def show(folder: Path, run: Run, attempts: Sequence[Attempt], redaction: Redaction) -> None:
    """Print the attempts of one task."""
    console = Console(highlight=False, soft_wrap=True)
    critical = {attempt.key for attempt in critical_path(run).attempts}
    for attempt in attempts:
        values = report.of_attempt(run, attempt, redaction, critical)
        console.print(
            Text.assemble(
                (plain(f"{run.key}/{values['name']}"), "bold"),
                "  ",
                (values["state"], STYLES.get(values["state"], "")),
                f"  {seconds(values['durationSeconds'])}  started {clock(values['startTimeUnixNano'])}",
            )
        )
        for line in _facts(run, attempt, values):
            console.print(Text(f"  {line}"))
        trace = (values.get("exception") or {}).get("stacktrace") or values.get("error")
        if trace:
            lines = folded(str(trace).rstrip()).split("\n")
            console.print(Text("\n".join(f"  {plain(line)}" for line in lines), style="red"))
        count, errors = log_view.counted(folder, run, attempt)
        bad = f", {errors} of them error{'' if errors == 1 else 's'}" if errors else ""
        one = attempt.key if len(attempts) > 1 else story.name(attempt.key)
        look = plain(f"otel-metaflow view {run.key}/{one} --logs")
        console.print(Text(f"  {count} log records{bad}" + (f": {look}" if count else ""), style="dim"))


def _facts(run: Run, attempt: Attempt, values: dict[str, Any]) -> Iterator[str]:
    yield _times(values)
    facts = [
        ("inputs:", _listed(values.get("inputs") or [])),
        ("retry of", values.get("retries")),
        ("cloned from", values.get("clonedFrom")),
        ("foreach index", ", ".join(map(str, values.get("foreachIndex") or []))),
        ("foreach value", values.get("foreachValue")),
        ("signal", values.get("signal")),
        ("exit code", values.get("exitCode") or None),
    ]
    if values.get("critical"):
        yield "on the critical path"
    if values.get("recorded") is False:
        yield "not recorded (no @otel)"
    if values.get("partial"):
        yield f"partly recorded: {PARTLY}"
    if values.get("caught"):
        yield "its exception was caught"
    if values.get("retried"):
        yield "retried"
    for name, value in facts:
        if value:
            yield f"{name} {plain(str(value))}"
    usage = attempt.usage
    requested = run.steps.get(attempt.key.step, {}).get("requested") or {}
    if usage:
        cores = (
            f" of {requested['cpu']:g} core{'' if requested['cpu'] == 1 else 's'} requested"
            if "cpu" in requested
            else ""
        )
        memory = f" of {size(int(requested['memory'] * (1 << 20)))} requested" if "memory" in requested else ""
        yield (
            f"cpu {usage.get('cpu', 0):.2f}s{cores}; memory {size(int(usage.get('memoryPeak', 0))) or '0 B'}{memory}; "
            f"read {size(int(usage.get('read', 0))) or '0 B'}; written {size(int(usage.get('written', 0))) or '0 B'}"
        )
    artifacts = values.get("artifacts") or {}
    if artifacts.get("count"):
        yield f"{artifacts['count']} artifacts, {size(int(artifacts.get('bytes', 0)))}"


def _times(values: dict[str, Any]) -> str:
    """How long it was queued, started up, ran and stored."""
    start, code = values["startTimeUnixNano"], values.get("codeStartTimeUnixNano")
    left, end = values.get("codeEndTimeUnixNano"), values["endTimeUnixNano"]
    parts: list[str] = []
    if "queueSeconds" in values:
        parts.append(f"queued {seconds(values['queueSeconds'])}")
    for name, begin, until in (("started up", start, code), ("user code", code, left), ("stored", left, end)):
        if begin is not None and until is not None:
            parts.append(f"{name} {seconds(max(0, until - begin) / 1e9)}")
    return ", ".join(parts) or "times not recorded"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
