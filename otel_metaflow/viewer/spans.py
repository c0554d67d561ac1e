"""Spans of user code as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otel_metaflow.core.redaction import Redaction
from otel_metaflow.journal import layout
from otel_metaflow.journal.reader import Tail
from otel_metaflow.model import story
from otel_metaflow.model.run import Run
from otel_metaflow.viewer import report

_ERROR = 2  # OTLP's status code


def of_users(folder: Path, run: Run, redaction: Redaction, limit: int) -> dict[str, list[report.Values]]:
    """Spans of user code by attempt, in the order in which they began, at most `limit`."""
    found: dict[str, list[report.Values]] = {}
    left = limit
    for attempt in run.in_order:
        spans: list[report.Values] = []
        tail = Tail(layout.attempt_file(folder, attempt.key), only=layout.SPAN)
        before = -1
        while tail.offset != before and left > 0:
            before = tail.offset
            for entry in tail.read():
                span = _span(entry.record, redaction)
                if span is not None and left > 0:
                    left -= 1
                    spans.append(span)
        if spans:
            found[story.name(attempt.key)] = sorted(spans, key=lambda span: int(span["startTimeUnixNano"]))
    return found


def _span(record: dict[str, Any], redaction: Redaction) -> report.Values | None:
    """A span, or None if the record is invalid: user code may put anything into it."""
    try:
        status = record.get("status") or {}
        return {
            "spanId": str(record["spanId"]),
            "parentSpanId": str(record.get("parentSpanId") or ""),
            "name": redaction.text(str(record["name"])),
            "startTimeUnixNano": int(record["startTimeUnixNano"]),
            "endTimeUnixNano": int(record["endTimeUnixNano"]),
            "error": redaction.text(str(status.get("message") or "error")) if status.get("code") == _ERROR else None,
            "attributes": redaction.attributes(record.get("attributes") or {}),
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
