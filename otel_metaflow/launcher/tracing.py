"""Makes the run's span the parent of spans that another tracer records in the launcher."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from otel_metaflow.core.guard import seam


@seam("the run as the parent of spans of Metaflow's own tracing")
def make_current(parent: str) -> None:
    """Make the span of the traceparent `parent` the current one, if another tracer is in use.

    Metaflow's own tracing is such a tracer; it passes the current span on to its tasks (metaflow/tracing,
    inject_tracing_vars). OpenTelemetry is not loaded just for this.
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
