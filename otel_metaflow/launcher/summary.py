"""The closing line of a run: what was recorded, and whether it was exported."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from otel_metaflow.core.settings import Settings
from otel_metaflow.journal import layout
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.keys import RunKey

_POLL = 0.05


def wait(
    folder: Path,
    seconds: float,
    has_died: Callable[[], bool] = lambda: False,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the shipper has delivered the run, or cannot, but no longer than `seconds`.

    The run does not wait for an endpoint that fails: that would cost each run the whole time, and the journal is
    delivered later by the next shipper. Nor for a shipper that ended without delivering, if `has_died` returns True.
    """
    deadline = clock() + seconds
    while clock() < deadline:
        is_over = has_died()  # asked first: a shipper ends after it has written that all is delivered
        status = DeliveryStatus.read(folder)
        if status.complete or status.stalled or is_over:
            return
        sleep(_POLL)


def line(folder: Path, key: RunKey, environment: Settings, recorded: int, ran: int, *, has_died: bool) -> str:
    """How many of the attempts were recorded, whether they were exported, and the next command to type.

    `has_died` is whether the shipper ended and no other delivers the run.
    """
    attempts = f"{ran} attempt{'' if ran == 1 else 's'}"
    if recorded < ran:
        attempts = f"{recorded} of {attempts}"
    view, ship = f"View: otel-metaflow view {key}", f"otel-metaflow ship {key}"
    if not environment.is_shipping:
        why = "invalid settings, see above" if environment.problems else "no endpoint"
        return f"recorded {attempts}, not exported ({why}). {view}"
    hosts = environment.targets
    status = DeliveryStatus.read(folder)
    dropped = sum(status.dropped.values())
    logs = f"{status.delivered.get('logs') or status.delivered.get('files', 0):,} log records".replace(",", " ")
    if status.complete:
        return f"recorded {attempts}, exported to {hosts} ({logs}, {dropped} dropped). {view}"
    if "run" in status.trouble:
        return f"recorded {attempts}, not exported: the run {status.trouble['run']}"
    if status.trouble:
        signal, reason = next(iter(status.trouble.items()))
        subject = "" if signal == "files" else f"{hosts} "  # that reason names its folder
        return f"recorded {attempts}, not exported: {subject}{reason}. Fix it, then run: {ship}"
    if has_died:
        reason = f"the shipper died, see {folder / layout.SHIPPER_LOG}"
        return f"recorded {attempts}, not exported: {reason}. Fix it, then run: {ship}"
    return f"recorded {attempts}, exporting to {hosts}. {view}"
