"""Log records that user code emits through the API: created by the SDK, appended to the journal."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Dict

from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import format_span_id, format_trace_id

from otel_metaflow.core.guard import guarded
from otel_metaflow.journal import layout
from otel_metaflow.task.otel_api import json_values
from otel_metaflow.task.otel_api.attempt_recorder import AttemptRecorder


class _Provider(LoggerProvider):
    """The SDK's provider, without its fork handler; see sdk_spans.py."""

    def _handle_fork(self) -> None:
        self._logger_cache_lock = threading.Lock()
        self._active_loggers_lock = threading.Lock()


class JournalRecords(LogRecordProcessor):
    """Writes each record as it is emitted."""

    def __init__(self, recorder: AttemptRecorder) -> None:
        self._recorder = recorder

    @guarded
    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Write the record, unless a handler makes it of a logging record that is already in the journal."""
        if not self._recorder.is_logged():
            self._recorder.append_lines([json_values.line(_record(log_record, self._recorder))])

    def shutdown(self) -> None:
        """Do nothing."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Do nothing: records are written when they are emitted."""
        return True


def _record(emitted: ReadWriteLogRecord, recorder: AttemptRecorder) -> Dict[str, Any]:
    """The record, as docs/journal.md describes it."""
    text = recorder.mask
    given = emitted.log_record
    observed = given.observed_timestamp or time.time_ns()
    record: Dict[str, Any] = {
        "kind": layout.RECORD,
        "timeUnixNano": given.timestamp or observed,
        "observedTimeUnixNano": observed,
        "body": json_values.value(given.body, text),
        **json_values.attributes(given.attributes, text),
        "scope": json_values.scope(emitted.instrumentation_scope, text),
    }
    if given.severity_number is not None:
        record["severityNumber"] = given.severity_number.value
    if given.severity_text:
        record["severityText"] = given.severity_text
    if given.event_name:
        record["eventName"] = text(given.event_name)
    if given.trace_id and given.span_id:
        record.update({"traceId": format_trace_id(given.trace_id), "spanId": format_span_id(given.span_id)})
        record["flags"] = int(given.trace_flags or 0)
    if os.getpid() != recorder.pid:
        record["pid"] = os.getpid()
    return record


def provider(recorder: AttemptRecorder) -> LoggerProvider:
    """A provider that writes to `recorder`, with the SDK's limits from its variables.

    Raises:
        ValueError: the SDK rejects the value of one of its variables.
    """
    made = _Provider(resource=Resource.get_empty(), shutdown_on_exit=False)
    made.add_log_record_processor(JournalRecords(recorder))
    return made
