"""The closing line of a run: what was recorded, and whether it was exported."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from otel_metaflow.core.settings import Settings
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.keys import RunKey

_POLL = 0.05


def wait(
    folder: Path,
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the shipper has delivered the run, or cannot, but no longer than `seconds`.

    The run does not wait for an endpoint that fails: that would cost each run the whole time, and the journal is
    delivered later by the next shipper.
    """
    deadline = clock() + seconds
    while clock() < deadline:
        status = DeliveryStatus.read(folder)
        if status.complete or status.stalled:
            return
        sleep(_POLL)


def line(folder: Path, key: RunKey, environment: Settings, recorded: int, ran: int) -> str:
    """How many of the attempts were recorded, whether they were exported, and the next command to type."""
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
        signal, reason = next(iter(status.trouble.items()))
        subject = "" if signal == "files" else f"{hosts} "  # that reason names its folder
        return f"recorded {attempts}, not exported: {subject}{reason}. Fix it, then run: {ship}"
    return f"recorded {attempts}, exporting to {hosts}. {view}"
