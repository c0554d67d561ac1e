"""Keeps `opentelemetry-instrument` from exporting logging records that are already in the journal."""

from __future__ import annotations

import logging
import os

from otel_metaflow.core.guard import guarded


@guarded
def mute() -> None:
    """Mute the handler of `opentelemetry-instrument` if it exports to the same endpoint as the shipper.

    Both read the same variables, so each record would arrive twice. The handler remains installed: without a handler on
    root, `logging` would print warnings to stderr, and a record that no handler accepts is not exported.
    """
    exporter = os.environ.get("OTEL_LOGS_EXPORTER", "").strip() or "otlp"
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if exporter == "otlp" and endpoint:
        for handler in logging.getLogger().handlers:
            if type(handler).__name__ == "LoggingHandler" and type(handler).__module__.startswith("opentelemetry."):
                handler.emit = _emit_nothing  # type: ignore[method-assign]  # of this instance only


def _emit_nothing(record: logging.LogRecord) -> None:
    """The record is already in the journal."""
