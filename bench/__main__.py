"""Measures what telemetry costs, prints the tables of docs/wall-times.md and draws docs/wall-times.svg.

make bench                                       # everything, two hours
python bench --only tasks --flow linear5 --rounds 5
"""

from __future__ import annotations

import contextlib
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import click
import lines
import tasks
from imports import imports
from places import adopt_shippers, endpoints, environments
from rich import box
from rich.console import Console
from rich.table import Table
from story import wide
from view import pages

PARTS = ("tasks", "lines", "million", "imports", "story", "pages")
_OF_RUNS = {"tasks", "lines", "million", "imports"}
_DOCS = Path(__file__).resolve().parent.parent / "docs"


def _plot(figures: dict[str, dict[str, list[float]]]) -> None:
    """One box a state of the endpoint, for each flow."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(figures), figsize=(4 * len(figures), 3.5), sharey=True, layout="constrained")
    for axis, (flow, values) in zip([axes] if len(figures) == 1 else axes, figures.items(), strict=True):
        labels = [*tasks.OURS, *tasks.THEIRS]
        axis.boxplot([values[label] for label in labels], orientation="horizontal", showfliers=False)
        axis.set_yticks(range(1, len(labels) + 1), labels)
        axis.invert_yaxis()
        axis.axvline(0, linewidth=0.8, color="gray")
        axis.set_title(flow, fontsize=10)
        axis.set_xlabel("ms a task, over an empty extension")
    figure.savefig(_DOCS / "wall-times.svg")


@click.command()
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Only these parts; nothing is written then.")
@click.option("--flow", "flows", type=click.Choice(list(tasks.WORKS)), multiple=True, help="Only these flows.")
@click.option("--rounds", type=int, help="Instead of each part's own number.")
def main(only: tuple[str, ...], flows: tuple[str, ...], rounds: int | None) -> None:
    """Measure."""
    adopt_shippers()
    parts = only or PARTS
    tables: dict[str, Table] = {}
    with contextlib.ExitStack() as stack:
        if _OF_RUNS.intersection(parts):
            name = stack.enter_context(tempfile.TemporaryDirectory())
            reached = stack.enter_context(endpoints(Path(name)))
            installed = environments(Path(name))
        if "imports" in parts:
            tables["Importing Metaflow"] = imports(installed, rounds or 30)
        if "tasks" in parts:
            title = "A task that does nothing: ms a task, median (quartiles) of interleaved rounds"
            tables[title], plotted = tasks.compare(installed, reached, flows or list(tasks.WORKS), rounds)
        if "lines" in parts:
            tables["A busy loop, endpoint up"] = lines.busy(installed, reached, 100_000, rounds or 30)
        if "million" in parts:
            tables["A very busy loop"] = lines.busy(installed, reached, 1_000_000, 1)
    if "story" in parts:
        tables["Assembling a wide run"] = wide(1_000, rounds or 5)
    if "pages" in parts:
        tables["The page of a run, opened in Chromium"] = pages(rounds or 5)
    text = Console(record=True, width=160)
    for title, table in tables.items():
        text.print(f"\n### {title}\n")
        table.box = box.MARKDOWN
        text.print(table)
    if not only:
        machine = f"Written by `make bench`, Python {platform.python_version()} on {platform.platform()}."
        (_DOCS / "wall-times.md").write_text(f"# What it costs in wall time\n\n{machine}\n{text.export_text()}")
        _plot(plotted)


if __name__ == "__main__":
    main()
