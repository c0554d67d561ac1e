"""Delivering runs from the outside: one by name, or whatever was left behind."""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

from otel_metaflow.core.settings import Settings
from otel_metaflow.journal import layout, setbacks
from otel_metaflow.journal.checkpoint import Checkpoint
from otel_metaflow.model.run import load
from otel_metaflow.shipper.delivery import Delivery

_LAST_WORDS = 256  # bytes of a journal's end


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
    with setbacks.noted(folder):
        return Delivery(environment.home, folder, environment, wake or threading.Event()).work(linger, give_way)


def ship_guarded(environment: Settings, folder: Path, **how: Any) -> bool:
    """Deliver the run as `ship` does; what it dies of is noted in its folder, and ends nobody else's delivery."""
    try:
        return ship(environment, folder, **how)
    except Exception:  # noqa: BLE001 - of whatever kind, it is about this run
        traceback.print_exc()
        return False


def unfinished(home: Path) -> Iterator[Path]:
    """The folders of runs that were meant to be delivered and are not, the oldest first.

    A shipper's lock says what was meant. A run without an endpoint has none: nobody asked that it leave this machine,
    so only who names it, or all, sends it; see `kept`.
    """
    folders = [folder for folder in layout.run_folders(home) if is_meant(folder)]
    yield from (folder for folder in _oldest_first(folders) if not Checkpoint.read(folder).complete)


def kept(home: Path) -> Iterator[Path]:
    """The folders of runs that ended without an endpoint to send them to, the oldest first."""
    for folder in _oldest_first([folder for folder in layout.run_folders(home) if not is_meant(folder)]):
        with contextlib.suppress(OSError):  # another user's
            if any(folder.glob("*.jsonl")) and (is_closed(folder) or not load(home, folder).is_running()):
                yield folder


def is_closed(folder: Path) -> bool:
    """Whether the launcher's last word says that it is; without reading all of the run."""
    try:
        with (folder / layout.RUN_FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_WORDS))
            return b'{"kind":"%s"' % layout.CLOSED.encode() in file.read()
    except FileNotFoundError:
        return False


def is_meant(folder: Path) -> bool:
    """Whether the run was meant to be delivered: it had an endpoint, or somebody sent it later."""
    return os.path.exists(folder / layout.LOCK_FILE)


def foreign(home: Path) -> List[Path]:
    """The folders of runs that belong to another user, as `sudo` leaves them: nobody else can read or send them."""
    return [folder for folder in layout.run_folders(home) if not layout.is_open_to_us(folder)]


def _oldest_first(folders: List[Path]) -> List[Path]:
    return sorted(filter(layout.is_open_to_us, folders), key=lambda path: path.stat().st_mtime)
