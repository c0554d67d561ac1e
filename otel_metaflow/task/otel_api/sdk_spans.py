"""Spans of user code: made by the SDK, appended to the journal as they end."""

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

# So many open spans are remembered, to be closed at the attempt's end: a loop that never ends its spans
# must not keep them all.
_MOST_OPEN = 10_000


class _Ids(RandomIdGenerator):
    """The system's randomness: a step that calls `random.seed(42)` would get the same ids in every run."""

    def generate_span_id(self) -> int:
        return int.from_bytes(os.urandom(8), "big") or INVALID_SPAN_ID + 1

    def generate_trace_id(self) -> int:
        return int.from_bytes(os.urandom(16), "big") or INVALID_TRACE_ID + 1


class _Provider(TracerProvider):
    """The SDK's, which a fork cannot hang.

    The SDK's own handler looks for resources again, in a pool of threads, inside `os.fork` of the child
    (opentelemetry-python#5533); the journal holds no resource.
    """

    def _handle_fork(self) -> None:
        self._tracers_lock = threading.Lock()


class JournalSpans(SpanProcessor):
    """Writes spans that ended, and at the attempt's end those that never did."""

    def __init__(self, recorder: AttemptRecorder) -> None:
        self._recorder = recorder
        self._open: Dict[int, Span] = {}
        self._closed: Dict[int, bool] = {}
        # What was open in the parent is the parent's to write.
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._open, self._closed = {}, {}

    @guarded
    def on_start(self, span: Span, parent_context: Optional[Context] = None) -> None:  # noqa: ARG002 - the SDK's
        """Remember the span, in case nobody ends it."""
        if len(self._open) < _MOST_OPEN:
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
        """Write what is open as it is now, the innermost first; an `end()` that still comes adds nothing."""
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
    return span.get_span_context() or INVALID_SPAN_CONTEXT  # typed as if a span could be without


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
    """A provider that writes to `recorder`; limits are the SDK's, by its variables.

    Whether the spans are wanted is decided by the shipper, for the run as a whole.

    Raises:
        ValueError: a variable of the SDK's has a value that it does not take.
    """
    # Older SDKs count their spans in metrics, which would be taken for the user's.
    meters = NoOpMeterProvider()
    made = _Provider(ALWAYS_ON, Resource.get_empty(), False, id_generator=_Ids(), meter_provider=meters)
    spans = JournalSpans(recorder)
    made.add_span_processor(spans)
    recorder.at_end(spans.close)
    return made
