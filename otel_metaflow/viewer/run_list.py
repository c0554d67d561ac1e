"""The list of recent runs in the terminal, with the durations of each flow's runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.text import Text

from otel_metaflow.journal import layout
from otel_metaflow.model.run import Run, load
from otel_metaflow.viewer import formatting, report, table
from otel_metaflow.viewer.formatting import STYLES, clock, plain, seconds, spark

_SPARKS = 20
_MANY = 200  # runs: reading them takes long enough for a progress bar


def recent(home: Path, namespace: str, flow: str, limit: int) -> list[Run]:
    """The most recently written runs, of `flow` or of all flows, the newest first."""
    folders = [
        (folder.stat().st_mtime, folder)
        for folder in layout.run_folders(home)
        for key in [layout.run_key(home, folder)]
        if key.namespace == namespace and flow in ("", key.flow)
    ]
    chosen = [folder for _, folder in sorted(folders, reverse=True)[:limit]]
    shown = track(chosen, console=Console(stderr=True), transient=True, disable=len(chosen) < _MANY)
    return sorted((load(home, folder) for folder in shown), key=lambda run: -run.started_at)


def show(runs: Sequence[Run]) -> None:
    """Print a row for each run, and a sparkline for each flow."""
    console = formatting.console()
    flows: dict[str, list[report.Values]] = {}
    rows = []
    for run in runs:
        values = report.summary(run)
        flows.setdefault(run.key.flow, []).append(values)
        figures = (
            seconds(values["durationSeconds"]),
            clock(run.started_at),
            str(values["attempts"]),
            str(values["failed"] or ""),
        )
        state = Text(values["state"], style=STYLES.get(values["state"], ""))
        rows.append([Text(plain(str(run.key))), state, *map(Text, figures)])
    names = ("run", "result", "took", "started", "attempts", "failed")
    table.show(console, names, rows, left=("run", "result", "started"))
    console.print()
    for flow, found in flows.items():
        latest = [one for one in reversed(found) if one["state"] != "running"][-_SPARKS:]
        blocks = spark([one["durationSeconds"] for one in latest])
        text = Text(f"{plain(flow)}  ")
        for block, one in zip(blocks, latest, strict=True):
            text.append(block, STYLES.get(one["state"], ""))
        if latest:
            longest = max(one["durationSeconds"] for one in latest)
            text.append(f"  last {len(latest)}, longest {seconds(longest)}", "dim")
        console.print(text)
