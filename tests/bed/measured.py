"""The table of docs/remote.md: what the bed measured, written by the bed itself."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from typing import TYPE_CHECKING

from parts import HERE, KUBERNETES, PODMAN

if TYPE_CHECKING:
    from bed import Bed
    from deaths import Arrived
    from typing_extensions import Self

FILE = HERE / "measured.json"
DOCUMENT = HERE.parent.parent / "docs" / "remote.md"
BEGIN, END = "<!-- measured by tests/bed: begin -->\n", "<!-- measured by tests/bed: end -->\n"
_HEAD = """\
| platform | first attempts of a step | lines printed | delivered | twice | spans of attempts | of the run |
|---|---|---:|---:|---:|---:|---:|
"""


@dataclass(frozen=True)
class Row:
    """One test: what containers printed, and what of it an endpoint has acknowledged."""

    platform: str
    state: str
    printed: int
    lost: int
    twice: int
    attempts: int
    runs: int
    commit: str

    def __str__(self) -> str:
        counts = (self.printed, self.printed - self.lost, self.twice, self.attempts, self.runs)
        return f"| {self.platform} | {self.state} | {' | '.join(map(str, counts))} |"


class Measured:
    """Collects rows while entered, and then writes them over those of the same name."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._rows and "CI" not in os.environ:
            old = json.loads(FILE.read_text()) if FILE.exists() else {"rows": []}
            rows = {(row["platform"], row["state"]): row for row in old["rows"]}
            rows.update({(row.platform, row.state): asdict(row) for row in self._rows})
            order = sorted(rows.values(), key=lambda row: row["platform"])
            FILE.write_text(json.dumps({"with": _versions(), "rows": order}, indent=1) + "\n")
            write()

    def add(self, bed: Bed, state: str, found: Arrived) -> None:
        """Add what was found in one test; the last of it, so that only what holds is claimed."""
        printed, lost, twice = sum(found.printed.values()), len(found.lost), len(found.twice)
        self._rows.append(
            Row(bed.NAME, state, printed, lost, twice, len(found.attempts), len(found.run_results()), _commit())
        )


def table() -> str:
    """The table, and with which versions it was measured."""
    measured = json.loads(FILE.read_text())
    rows = [Row(**row) for row in measured["rows"]]
    lines = "".join(f"{row}\n" for row in rows)
    commits = ", ".join(sorted({row.commit for row in rows}))
    return f"{_HEAD}{lines}\nMeasured {measured['with']}, at {commits}.\n"


def write() -> None:
    """Write the table into the document."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}{table()}{END}{after}")


def _commit() -> str:
    """The commit that is tested, `-dirty` if more than its table has been changed."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--", ":/", f":!{FILE}", f":!{DOCUMENT}")
    return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")


def _versions() -> str:
    found = subprocess.run([*PODMAN, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    today = datetime.now(timezone.utc).date()
    return (
        f"on {today} with Metaflow {version('metaflow')}, Kubernetes {KUBERNETES}, "
        f"localbatch {version('localbatch')}, moto {version('moto')}, podman {found}"
    )
