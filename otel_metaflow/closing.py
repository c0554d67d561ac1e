"""The one line that a run ends with: where its telemetry is."""

from __future__ import annotations

from otel_metaflow.journal.layout import RunKey
from otel_metaflow.settings import Settings


def line(key: RunKey, environment: Settings) -> str:
    """Say how to look at the run, and how to send it or where it is being sent."""
    look = f"otel-metaflow view {key}"
    if not environment.destinations:
        how = "nothing is sent" if environment.problems else "set OTEL_EXPORTER_OTLP_ENDPOINT to send it"
        return f"look at this run with `{look}`; {how}"
    hosts = ", ".join(sorted({destination.host for destination in environment.destinations.values()}))
    return f"being delivered to {hosts}; look at this run with `{look}`"
