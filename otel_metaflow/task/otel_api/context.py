"""Makes the attempt the parent of whatever begins where nobody said otherwise.

Contexts are not inherited by threads. In the main thread, in a worker, in an asyncio task or in a forked
child: where nothing was ever attached the current context is the attempt's, for every provider.
"""

from __future__ import annotations

import contextvars
from typing import Any

from opentelemetry import context, trace
from opentelemetry.context.context import Context, _RuntimeContext

from otel_metaflow.task.otel_api import attempt_recorder


class AttemptContext(_RuntimeContext):
    """The API's runtime context, with the attempt where it would be empty."""

    def __init__(self, inner: _RuntimeContext, attempt: Context) -> None:
        self._inner = inner
        self._attempt = attempt
        # Told by identity: who attaches an empty context wants one.
        self._nothing = contextvars.Context().run(inner.get_current)

    def attach(self, context: Context) -> Any:
        """Make `context` the current one; the answer is for `detach`."""
        return self._inner.attach(context)

    def get_current(self) -> Context:
        """The current context."""
        current = self._inner.get_current()
        return self._attempt if current is self._nothing else current

    def detach(self, token: Any) -> None:
        """Go back to the context before `attach`."""
        self._inner.detach(token)


def install(recorder: attempt_recorder.AttemptRecorder) -> None:
    """Put the attempt's context in place."""
    if isinstance(context._RUNTIME_CONTEXT, AttemptContext):
        return
    attempt = _span(recorder.traceparent)
    # No public seam: OTEL_PYTHON_CONTEXT is read when the API is imported, and inherited by subprocesses.
    context._RUNTIME_CONTEXT = AttemptContext(context._RUNTIME_CONTEXT, trace.set_span_in_context(attempt, Context()))
    if trace.get_current_span().get_span_context() != attempt.get_span_context():
        # A span was current before the attempt began, as Metaflow's own tracing has it: the attempt is nearer.
        context.attach(trace.set_span_in_context(attempt))


def _span(parent: str) -> trace.Span:
    _, trace_id, span_id, flags = parent.split("-")
    return trace.NonRecordingSpan(
        trace.SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=trace.TraceFlags(int(flags, 16))
        )
    )
