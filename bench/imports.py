"""What it costs to import Metaflow with the extension installed: every process of every flow pays it."""

from __future__ import annotations

import statistics

from environments import Environment
from places import measure, quartiles, variables
from rich.progress import track
from rich.table import Table


def imports(installed: dict[str, Environment], rounds: int) -> Table:
    """Interleaved, against an empty extension."""
    walls: dict[str, list[float]] = {}
    for number in track(range(rounds + 1), description="import metaflow"):
        for label in ("alone", "empty", "otel"):
            place = installed[label]
            command = [str(place.python), "-c", "import metaflow"]
            cost = measure(command, place.path, variables(place.path, label), settle=False)
            if number:
                walls.setdefault(label, []).append(cost.wall)
    table = Table()
    for column in ("import metaflow", "ms, median", "over the empty extension, ms"):
        table.add_column(column)
    for label, name in (("alone", "Metaflow alone"), ("empty", "with an empty extension"), ("otel", "with ours")):
        over = [one - base for one, base in zip(walls[label], walls["empty"], strict=True)]
        median = f"{statistics.median(walls[label]) * 1000:.0f}"
        table.add_row(name, median, "" if label == "empty" else quartiles(over, 1000))
    return table
