"""The one line that a run ends with: what was recorded, and where it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from otel_metaflow.core.settings import Settings
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.layout import RunKey

_LOOK_AGAIN = 0.05


def wait(
    folder: Path,
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the shipper has delivered the run, or what it can of it, but not longer than `seconds`.

    An endpoint that refuses is not waited for: it would cost each run the whole time, and what is kept on disk is
    sent later by whoever ships next.
    """
    deadline = clock() + seconds
    while clock() < deadline:
        status = DeliveryStatus.read(folder)
        if status.complete or status.stalled:
            return
        sleep(_LOOK_AGAIN)


def line(folder: Path, key: RunKey, environment: Settings, recorded: int, ran: int) -> str:
    """How many of the attempts that ran were recorded, whether they were exported, and what to type next."""
    attempts = f"{ran} attempt{'' if ran == 1 else 's'}"
    if recorded < ran:
        attempts = f"{recorded} of {attempts}"
    view, ship = f"View: otel-metaflow view {key}", f"otel-metaflow ship {key}"
    if not environment.is_shipping:
        if environment.problems:
            return f"recorded {attempts}, not exported (invalid settings, see above). {view}"
        return f"recorded {attempts}, not exported (no endpoint). {view}"
    hosts = environment.targets
    status = DeliveryStatus.read(folder)
    dropped = sum(status.given_up.values())
    logs = f"{status.delivered.get('logs') or status.delivered.get('files', 0):,} log records".replace(",", " ")
    if status.complete:
        return f"recorded {attempts}, exported to {hosts} ({logs}, {dropped} dropped). {view}"
    if "run" in status.trouble:
        return f"recorded {attempts}, not exported: the run {status.trouble['run']}"
    if status.trouble:
        reason = next(iter(status.trouble.values()))
        return f"recorded {attempts}, not exported: {hosts} {reason}. Fix it, then run: {ship}"
    return f"recorded {attempts}, exporting to {hosts}. {view}"
