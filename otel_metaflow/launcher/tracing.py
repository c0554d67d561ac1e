"""Makes the run the parent of what another tracer records in the launcher."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from otel_metaflow.core.guard import seam


@seam("the spans of Metaflow's own tracing as part of the run")
def make_current(parent: str) -> None:
    """Make the span that the traceparent `parent` names the current one, where a tracer is at work.

    Metaflow's own tracing is one; it hands the current span on to its tasks (metaflow/tracing, inject_tracing_vars), so
    theirs follow. OpenTelemetry is not loaded for it.
    """
    if "opentelemetry.trace" not in sys.modules:
        return
    context: Any = importlib.import_module("opentelemetry.context")
    trace: Any = importlib.import_module("opentelemetry.trace")
    _, trace_id, span_id, flags = parent.split("-")
    span = trace.SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=trace.TraceFlags(int(flags, 16))
    )
    context.attach(trace.set_span_in_context(trace.NonRecordingSpan(span)))
