"""Keeps `opentelemetry-instrument` from exporting logging records that the journal holds already."""

from __future__ import annotations

import logging
import os

from otel_metaflow.core.guard import guarded


@guarded
def mute() -> None:
    """Mute the handler of `opentelemetry-instrument` where it exports to the endpoint that the shipper exports to.

    Both read the same variables, so each record would arrive twice. The handler stays installed: without any on root,
    `logging` would print warnings to stderr, and a record that no handler takes is not telemetry.
    """
    exporter = os.environ.get("OTEL_LOGS_EXPORTER", "").strip() or "otlp"
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if exporter == "otlp" and endpoint:
        for handler in logging.getLogger().handlers:
            if type(handler).__name__ == "LoggingHandler" and type(handler).__module__.startswith("opentelemetry."):
                handler.emit = _emit_nothing  # type: ignore[method-assign]  # of this one alone


def _emit_nothing(record: logging.LogRecord) -> None:
    """The journal holds it."""
