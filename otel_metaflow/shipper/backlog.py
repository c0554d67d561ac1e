"""Delivers a given run, and finds the runs that are not delivered."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

from otel_metaflow.core.settings import Settings
from otel_metaflow.journal import layout, setbacks
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.run_record import is_backfilled, is_closed
from otel_metaflow.model.run import is_running
from otel_metaflow.shipper.delivery import Delivery


def ship(
    environment: Settings,
    folder: Path,
    *,
    linger: float,
    wake: Optional[threading.Event] = None,
    give_way: Optional[Callable[[], bool]] = None,
    **how: Any,
) -> bool:
    """Deliver the run in `folder`, whose lock the caller holds; return whether all of it was delivered.

    While the endpoint fails, retry for `linger` seconds after the run's end, or until `give_way` returns True because
    something else has to be done first; `wake` is set when that may have changed. `how` goes to `Delivery`.
    """
    with setbacks.noted(folder):
        delivery = Delivery(environment.home, folder, environment, wake or threading.Event(), **how)
        return delivery.work(linger, give_way)


def ship_guarded(environment: Settings, folder: Path, **how: Any) -> bool:
    """Deliver the run as `ship` does, without raising: an error is recorded in its folder and affects no other run."""
    try:
        return ship(environment, folder, **how)
    except Exception:  # noqa: BLE001 - whatever it is, it concerns this run only
        import traceback

        traceback.print_exc()
        return False


def unfinished(home: Path) -> Iterator[Path]:
    """The folders of runs that had an endpoint and are not fully delivered, the oldest first.

    A run without an endpoint is not among them: its user did not ask for it to leave this machine, so only
    `otel-metaflow ship` sends it; see `without_endpoint`.
    """
    folders = [folder for folder in layout.run_folders(home) if has_endpoint(folder)]
    for folder in _oldest_first(folders):
        if not DeliveryStatus.read(folder).complete or has_grown(folder):
            yield folder


def has_grown(folder: Path) -> bool:
    """Whether there may be attempts that the last delivery did not know of: no launcher closes runs of containers."""
    with contextlib.suppress(OSError):
        if not (folder / layout.RUN_FILE).exists():
            return folder.stat().st_mtime > (folder / layout.LEDGER_FILE).stat().st_mtime
    return False


def without_endpoint(home: Path) -> Iterator[Path]:
    """The folders of runs that ended and had no endpoint, the oldest first."""
    for folder in _oldest_first([folder for folder in layout.run_folders(home) if not has_endpoint(folder)]):
        with contextlib.suppress(OSError):  # it belongs to another user
            if any(folder.glob("*.jsonl")) and (is_closed(folder) or not is_running(home, folder)):
                yield folder


def awaits_more(folder: Path) -> bool:
    """Whether the run was backfilled while it was going: what came later is to be fetched before it is delivered."""
    return is_backfilled(folder) and not is_closed(folder)


def has_endpoint(folder: Path) -> bool:
    """Whether the run had an endpoint, or was shipped later: then a shipper's lock was created."""
    return os.path.exists(folder / layout.LOCK_FILE)


def foreign(home: Path) -> List[Path]:
    """The folders of runs that belong to another user, as left by `sudo`, and so cannot be read."""
    return [folder for folder in layout.run_folders(home) if not layout.is_open_to_us(folder)]


def _oldest_first(folders: List[Path]) -> List[Path]:
    return sorted(filter(layout.is_open_to_us, folders), key=lambda path: path.stat().st_mtime)
