"""The one line that a run ends with: what was recorded, and where it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable

from otel_metaflow.core.settings import Settings
from otel_metaflow.journal.checkpoint import Checkpoint
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
        checkpoint = Checkpoint.read(folder)
        if checkpoint.complete or checkpoint.stalled:
            return
        sleep(_LOOK_AGAIN)


def line(folder: Path, key: RunKey, environment: Settings, recorded: int, ran: int) -> str:
    """Say how many of the attempts that ran were recorded, what became of their telemetry, and what to type next."""
    attempts = f"{ran} attempt{'' if ran == 1 else 's'}"
    if recorded < ran:
        attempts = f"{recorded} of {attempts}"
    look = f"look: otel-metaflow view {key}"
    if not environment.is_shipping:
        send = f"to send: set OTEL_EXPORTER_OTLP_ENDPOINT, then otel-metaflow ship {key}"
        how = "nothing is sent" if environment.problems else send
        return f"{attempts} recorded; {look}; {how}"
    hosts = environment.goals
    checkpoint = Checkpoint.read(folder)
    dropped = sum(checkpoint.given_up.values())
    logs = f"{checkpoint.delivered.get('logs') or checkpoint.delivered.get('files', 0):,} log records".replace(",", " ")
    if checkpoint.complete:
        return f"{attempts}, {logs}, {dropped} dropped; delivered to {hosts}; {look}"
    if "run" in checkpoint.trouble:
        return f"{attempts} recorded; kept, the run {checkpoint.trouble['run']}"
    if checkpoint.trouble:
        reason = next(iter(checkpoint.trouble.values()))
        return f"{attempts} recorded; kept, {hosts} {reason}; when that is mended: otel-metaflow ship {key}"
    return f"{attempts} recorded; being delivered to {hosts}; {look}"
