"""Makes the attempt the default parent of spans, for every provider.

Threads do not inherit contexts. In the main thread, in a worker, in an asyncio task or in a forked child: as long as no
context was attached, the current context is the attempt's.
"""

from __future__ import annotations

import contextvars
from typing import Any

from opentelemetry import context, trace
from opentelemetry.context.context import Context, _RuntimeContext

from otel_metaflow.task.otel_api import attempt_recorder


class AttemptContext(_RuntimeContext):
    """The API's runtime context, with the attempt's context in place of an empty one."""

    def __init__(self, inner: _RuntimeContext, attempt: Context) -> None:
        self._inner = inner
        self._attempt = attempt
        # Compared by identity, because code that attaches an empty context wants it.
        self._nothing = contextvars.Context().run(inner.get_current)

    def attach(self, context: Context) -> Any:
        """Make `context` the current one; returns a token for `detach`."""
        return self._inner.attach(context)

    def get_current(self) -> Context:
        """The current context."""
        current = self._inner.get_current()
        return self._attempt if current is self._nothing else current

    def detach(self, token: Any) -> None:
        """Restore the context before `attach`."""
        self._inner.detach(token)


def install(recorder: attempt_recorder.AttemptRecorder) -> None:
    """Install the attempt's context."""
    if isinstance(context._RUNTIME_CONTEXT, AttemptContext):
        return
    attempt = _span(recorder.traceparent)
    # There is no public way: OTEL_PYTHON_CONTEXT is read when the API is imported, and inherited by subprocesses.
    context._RUNTIME_CONTEXT = AttemptContext(context._RUNTIME_CONTEXT, trace.set_span_in_context(attempt, Context()))
    if trace.get_current_span().get_span_context() != attempt.get_span_context():
        # A span was already current, for example of Metaflow's own tracing; the attempt takes precedence.
        context.attach(trace.set_span_in_context(attempt))


def _span(parent: str) -> trace.Span:
    _, trace_id, span_id, flags = parent.split("-")
    return trace.NonRecordingSpan(
        trace.SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=trace.TraceFlags(int(flags, 16))
        )
    )
