"""`python -m otel_metaflow.shipper.retention HOME`: keeps the folder of journals within its limits.

It deletes runs older than OTEL_METAFLOW_JOURNAL_MAX_DAYS, and the oldest runs while all together are larger than
OTEL_METAFLOW_JOURNAL_MAX_MB: first those that are delivered or had no endpoint, then, with a line in dropped.log,
those that are not delivered. Runs that are running or have ended recently are kept.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import List

from otel_metaflow.core import settings
from otel_metaflow.journal import layout
from otel_metaflow.journal import lock as locks
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.layout import DROPPED_LOG
from otel_metaflow.model.run import is_running

_DAY = 86_400.0
# A run that ended this recently, in seconds, is kept whatever its size, because its user may want to look at it.
_RECENT = 3_600.0


@dataclass(frozen=True)
class Candidate:
    """A run that may be deleted."""

    folder: Path
    size: int
    changed: float
    is_undelivered: bool


def prune(home: Path, max_bytes: int, max_days: float) -> List[Path]:
    """Delete the runs beyond the limits, and return their folders."""
    candidates = sorted(_candidates(home), key=lambda run: (run.is_undelivered, run.changed))
    total = sum(run.size for run in candidates)
    now = time.time()
    too_old = now - max_days * _DAY
    deleted: List[Path] = []
    for run in candidates:
        if run.changed >= too_old and (total <= max_bytes or run.changed > now - _RECENT):
            continue
        if is_running(home, run.folder):
            continue
        lock = locks.try_lock_quietly(run.folder)
        if lock is None:
            continue
        try:
            if run.is_undelivered:
                _report(home, run)
            shutil.rmtree(run.folder, ignore_errors=True)
        finally:
            locks.release(lock)
        total -= run.size
        deleted.append(run.folder)
    return deleted


def _candidates(home: Path) -> List[Candidate]:
    found: List[Candidate] = []
    for folder in filter(layout.is_open_to_us, layout.run_folders(home)):
        files = {entry.name: entry.stat() for entry in os.scandir(folder)}
        is_undelivered = (folder / layout.LOCK_FILE).exists() and not DeliveryStatus.read(folder).complete
        # Whoever takes the lock writes into it, which is no change of the run.
        changes = [file.st_mtime for name, file in files.items() if name != layout.LOCK_FILE]
        changed = max(changes, default=folder.stat().st_mtime)
        found.append(Candidate(folder, sum(file.st_size for file in files.values()), changed, is_undelivered))
    return found


def _report(home: Path, run: Candidate) -> None:
    key = layout.run_key(home, run.folder)
    day = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime())
    with (home / DROPPED_LOG).open("a", encoding="utf-8", errors="replace") as log:
        log.write(f"{day} {key} was deleted before it was exported, {run.size} bytes, to keep journals within limits\n")


if __name__ == "__main__":
    environment = settings.read()
    prune(Path(sys.argv[1]), environment.journal_max_bytes, environment.journal_max_days)
