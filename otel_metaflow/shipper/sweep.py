"""Delivering runs from the outside: one by name, or whatever was left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

from otel_metaflow.assembly.checkpoint import Checkpoint
from otel_metaflow.journal import layout
from otel_metaflow.settings import Settings
from otel_metaflow.shipper.delivery import Delivery


def ship(environment: Settings, folder: Path, *, linger: float) -> bool:
    """Deliver the run in `folder`, whose lock the caller holds; whether all of it was delivered."""
    return Delivery(environment.home, folder, environment).work(linger=linger)


def unfinished(home: Path) -> Iterator[Path]:
    """The folders of runs that were meant to be delivered and are not, the oldest first.

    A shipper's lock says what was meant; a run without an endpoint has none.
    """
    folders = [folder for folder in layout.run_folders(home) if (folder / layout.LOCK_FILE).exists()]
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime):
        if not Checkpoint.read(folder).complete:
            yield folder
