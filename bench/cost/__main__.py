"""Counts what telemetry costs in instructions, beside an empty extension, and prints the table of docs/figures.md.

make bench-cost                      # all rows
make cost                            # those that CI holds: exits with 1 if one is over its budget
python bench/cost --only lines       # some of them
"""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))
sys.path.insert(2, str(Path(__file__).resolve().parent.parent.parent / "tests"))

import click
import of_imports
import of_launchers
import of_lines
import of_shippers
import of_tasks
from environments import Environment
from places import environments
from rich import box
from rich.console import Console
from rich.table import Table
from row import Row, shown

# By the name of what is counted; each runs what it counts once before, so that it is compiled.
ROWS: dict[str, Callable[[dict[str, Environment]], list[Row]]] = {
    "imports": of_imports.rows,
    "tasks": of_tasks.rows,
    "lines": of_lines.rows,
    "launchers": of_launchers.rows,
    "shippers": of_shippers.rows,
}


@click.command()
@click.option("--only", type=click.Choice(list(ROWS)), multiple=True, help="Only these.")
@click.option("--check", is_flag=True, help="Exit with 1 if one is over its budget.")
def main(only: tuple[str, ...], check: bool) -> None:
    """Count."""
    with tempfile.TemporaryDirectory() as name:
        installed = environments(Path(name))
        rows = [row for kind in only or ROWS for row in ROWS[kind](installed)]
    table = Table("instructions", "plain", "with ours", "more", "budget", box=box.MARKDOWN)
    for row in rows:
        table.add_row(row.label, shown(row.plain), shown(row.ours), shown(row.added), shown(row.budget))
    print(f"Python {platform.python_version()}, Metaflow {version('metaflow')}")
    Console(width=120).print(table)
    sys.stdout.flush()
    over = [row.label for row in rows if row.is_over]
    if check and over:
        sys.exit(f"over budget: {', '.join(over)}")


if __name__ == "__main__":
    main()
