"""Delivering runs from the outside: one by name, or whatever was left behind."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Callable, Iterator, Optional

from otel_metaflow.assembly.checkpoint import Checkpoint
from otel_metaflow.journal import layout
from otel_metaflow.settings import Settings
from otel_metaflow.shipper.delivery import Delivery


def ship(
    environment: Settings,
    folder: Path,
    *,
    linger: float,
    wake: Optional[threading.Event] = None,
    give_way: Optional[Callable[[], bool]] = None,
) -> bool:
    """Deliver the run in `folder`, whose lock the caller holds; whether all of it was delivered.

    While the endpoint fails it is tried for `linger` seconds after the run's end, or until `give_way` says that
    something else is to be done first; `wake` is set when that may have changed.
    """
    return Delivery(environment.home, folder, environment, wake or threading.Event()).work(linger, give_way)


def unfinished(home: Path) -> Iterator[Path]:
    """The folders of runs that were meant to be delivered and are not, the oldest first.

    A shipper's lock says what was meant; a run without an endpoint has none.
    """
    folders = [folder for folder in layout.run_folders(home) if (folder / layout.LOCK_FILE).exists()]
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime):
        if not Checkpoint.read(folder).complete:
            yield folder
