"""The one line that a run ends with: what was recorded, and where it is."""

from __future__ import annotations

import time
from pathlib import Path

from otel_metaflow.assembly.checkpoint import Checkpoint
from otel_metaflow.journal.layout import RunKey
from otel_metaflow.settings import Settings

_LOOK_AGAIN = 0.05


def wait(folder: Path, seconds: float) -> None:
    """Wait until the shipper has delivered the run, or says that it cannot, but not longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        checkpoint = Checkpoint.read(folder)
        if checkpoint.complete:
            return
        time.sleep(_LOOK_AGAIN)


def line(folder: Path, key: RunKey, environment: Settings, recorded: int, ran: int) -> str:
    """Say how many of the attempts that ran were recorded, what became of their telemetry, and what to type next."""
    attempts = f"{ran} attempt{'' if ran == 1 else 's'}"
    if recorded < ran:
        attempts = f"{recorded} of {attempts}"
    look = f"look: otel-metaflow view {key}"
    if not environment.is_shipping:
        how = "nothing is sent" if environment.problems else "to send: set OTEL_EXPORTER_OTLP_ENDPOINT"
        return f"{attempts} recorded; {look}; {how}"
    hosts = environment.goals
    checkpoint = Checkpoint.read(folder)
    dropped = sum(checkpoint.given_up.values())
    logs = f"{checkpoint.delivered.get('logs') or checkpoint.delivered.get('files', 0):,} log records".replace(",", " ")
    if checkpoint.complete:
        return f"{attempts}, {logs}, {dropped} dropped; delivered to {hosts}; {look}"
    if checkpoint.trouble:
        reason = next(iter(checkpoint.trouble.values()))
        return f"{attempts} recorded; kept, {hosts} {reason}; when that is mended: otel-metaflow ship {key}"
    return f"{attempts} recorded; being delivered to {hosts}; {look}"
