"""`python -m otel_metaflow.shipper.retention HOME`: keeps the folder of journals within its bounds.

Runs older than OTEL_METAFLOW_JOURNAL_MAX_DAYS go, and when all together hold more than
OTEL_METAFLOW_JOURNAL_MAX_MB the oldest: first those that are delivered or were never meant to be, then,
with a line in given-up.log, those that are waiting. A run that goes on, or has only just ended, is left alone.
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
from otel_metaflow.journal.layout import GIVEN_UP
from otel_metaflow.model.run import load

_DAY = 86_400.0
# For so long after its end, in seconds, its user may want to look at a run, however much it holds.
_FRESH = 3_600.0


@dataclass(frozen=True)
class Kept:
    """A run that could be pruned."""

    folder: Path
    size: int
    changed: float
    is_waiting: bool


def prune(home: Path, max_bytes: int, max_days: float) -> List[Path]:
    """Remove what is beyond the bounds, and return the folders that are gone."""
    kept = sorted(_kept(home), key=lambda run: (run.is_waiting, run.changed))
    total = sum(run.size for run in kept)
    now = time.time()
    too_old = now - max_days * _DAY
    gone: List[Path] = []
    for run in kept:
        if run.changed >= too_old and (total <= max_bytes or run.changed > now - _FRESH):
            continue
        if load(home, run.folder).is_running():
            continue
        lock = locks.try_lock_quietly(run.folder)
        if lock is None:
            continue
        try:
            if run.is_waiting:
                _note(home, run)
            shutil.rmtree(run.folder, ignore_errors=True)
        finally:
            locks.release(lock)
        total -= run.size
        gone.append(run.folder)
    return gone


def _kept(home: Path) -> List[Kept]:
    found: List[Kept] = []
    for folder in filter(layout.is_open_to_us, layout.run_folders(home)):
        files = [entry.stat() for entry in os.scandir(folder)]
        waiting = (folder / layout.LOCK_FILE).exists() and not DeliveryStatus.read(folder).complete
        changed = max((file.st_mtime for file in files), default=folder.stat().st_mtime)
        found.append(Kept(folder, sum(file.st_size for file in files), changed, waiting))
    return found


def _note(home: Path, run: Kept) -> None:
    key = layout.run_key(home, run.folder)
    day = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime())
    with (home / GIVEN_UP).open("a", encoding="utf-8", errors="replace") as log:
        log.write(f"{day} {key} was given up undelivered, {run.size} bytes, to keep the journals within bounds\n")


if __name__ == "__main__":
    environment = settings.read()
    prune(Path(sys.argv[1]), environment.journal_max_bytes, environment.journal_max_days)
