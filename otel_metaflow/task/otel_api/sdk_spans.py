"""Spans of user code: created by the SDK, appended to the journal when they end."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Dict, Optional

from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    INVALID_SPAN_ID,
    INVALID_TRACE_ID,
    SpanContext,
    StatusCode,
    format_span_id,
)

from otel_metaflow.core import names
from otel_metaflow.core.guard import guarded
from otel_metaflow.journal import layout
from otel_metaflow.task.otel_api import json_values
from otel_metaflow.task.otel_api.attempt_recorder import AttemptRecorder

# How many open spans are remembered, to be closed at the attempt's end; a loop may never end its spans.
_MAX_OPEN = 10_000


class _Ids(RandomIdGenerator):
    """Uses the system's randomness: a step that calls `random.seed(42)` would get the same ids in every run."""

    def generate_span_id(self) -> int:
        return int.from_bytes(os.urandom(8), "big") or INVALID_SPAN_ID + 1

    def generate_trace_id(self) -> int:
        return int.from_bytes(os.urandom(16), "big") or INVALID_TRACE_ID + 1


class _Provider(TracerProvider):
    """The SDK's provider, without its fork handler.

    That handler detects resources again, in a pool of threads, inside `os.fork`, which may hang
    (opentelemetry-python#5533); the journal needs no resource.
    """

    def _handle_fork(self) -> None:
        self._tracers_lock = threading.Lock()


class JournalSpans(SpanProcessor):
    """Writes spans when they end, and at the attempt's end those that are still open."""

    def __init__(self, recorder: AttemptRecorder) -> None:
        self._recorder = recorder
        self._open: Dict[int, Span] = {}
        self._closed: Dict[int, bool] = {}
        # Spans that were open in the parent are written by the parent.
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._open, self._closed = {}, {}

    @guarded
    def on_start(self, span: Span, parent_context: Optional[Context] = None) -> None:  # noqa: ARG002 - the SDK's
        """Remember the span, in case it is never ended."""
        if len(self._open) < _MAX_OPEN:
            self._open[span.get_span_context().span_id] = span

    @guarded
    def on_end(self, span: ReadableSpan) -> None:
        """Write the span."""
        identity = _context(span).span_id
        self._open.pop(identity, None)
        if self._closed.pop(identity, False):
            return
        self._write(span, span.end_time or time.time_ns(), {})

    def close(self) -> None:
        """Write open spans as they are now, innermost first; a later `end()` has no effect."""
        now = time.time_ns()
        for identity in reversed(list(self._open)):
            span = self._open.pop(identity, None)
            if span is not None and span.end_time is None:
                self._closed[identity] = True
                self._write(span, now, {names.SPAN_UNFINISHED: True})

    def _write(self, span: ReadableSpan, end: int, marks: Dict[str, Any]) -> None:
        if _context(span).trace_flags.sampled:
            self._recorder.append_lines([json_values.line(_record(span, end, marks, self._recorder))])


def _context(span: ReadableSpan) -> SpanContext:
    return span.get_span_context() or INVALID_SPAN_CONTEXT  # typed as optional


def _record(span: ReadableSpan, end: int, marks: Dict[str, Any], recorder: AttemptRecorder) -> Dict[str, Any]:
    """The record of a span, as docs/journal.md describes it."""
    text = recorder.mask
    given = json_values.attributes(span.attributes, text)
    if marks:
        given["attributes"] = {**given.get("attributes", {}), **marks}
    record: Dict[str, Any] = {
        "kind": layout.SPAN,
        "timeUnixNano": end,
        **json_values.span_context(_context(span)),
        **({"parentSpanId": format_span_id(span.parent.span_id)} if span.parent is not None else {}),
        "name": text(span.name),
        "spanKind": span.kind.value + 1,  # OTLP counts from 1, the API from 0
        "startTimeUnixNano": span.start_time or end,
        "endTimeUnixNano": end,
        **given,
        "scope": json_values.scope(span.instrumentation_scope, text),
    }
    if span.events:
        record["events"] = [
            {
                "timeUnixNano": event.timestamp,
                "name": text(event.name),
                **json_values.attributes(event.attributes, text),
            }
            for event in span.events
        ]
    if span.links:
        record["links"] = [
            {**json_values.span_context(link.context), **json_values.attributes(link.attributes, text)}
            for link in span.links
        ]
    dropped = {
        "droppedAttributesCount": span.dropped_attributes,
        "droppedEventsCount": span.dropped_events,
        "droppedLinksCount": span.dropped_links,
    }
    record.update({name: count for name, count in dropped.items() if count})
    if span.status.status_code is not StatusCode.UNSET:
        record["status"] = {"code": span.status.status_code.value}
        if span.status.description:
            record["status"]["message"] = text(span.status.description)
    if os.getpid() != recorder.pid:
        record["pid"] = os.getpid()
    return record


def provider(recorder: AttemptRecorder) -> TracerProvider:
    """A provider that writes to `recorder`, with the SDK's limits from its variables.

    All spans are recorded; the shipper samples the run as a whole.

    Raises:
        ValueError: the SDK rejects the value of one of its variables.
    """
    # Older SDKs count their spans in metrics, which would look like the user's.
    meters = NoOpMeterProvider()
    made = _Provider(ALWAYS_ON, Resource.get_empty(), False, id_generator=_Ids(), meter_provider=meters)
    spans = JournalSpans(recorder)
    made.add_span_processor(spans)
    recorder.at_end(spans.close)
    return made
