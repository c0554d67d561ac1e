"""The tracer provider, as far as the API goes."""

from __future__ import annotations

import os
from typing import Any, Optional, Tuple

from opentelemetry import trace
from opentelemetry.environment_variables import OTEL_PYTHON_TRACER_PROVIDER

from otel_metaflow.core.guard import contain
from otel_metaflow.task.otel_api import api_seams, attempt_recorder, context
from otel_metaflow.task.otel_api.replaceable_once import ReplaceableOnce


class AttemptTracerProvider(trace.ProxyTracerProvider):
    """A proxy to who looks: `isinstance(..., ProxyTracerProvider)` is how code asks whether it may set its own."""

    def __init__(self) -> None:
        self._real: Optional[trace.TracerProvider] = None

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: Optional[str] = None,
        schema_url: Optional[str] = None,
        attributes: Any = None,
    ) -> trace.Tracer:
        """A tracer that follows the provider of the day."""
        return AttemptTracer(instrumenting_module_name, instrumenting_library_version, schema_url, attributes)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Nothing is waiting: what has ended is written."""
        return True

    @property
    def real(self) -> trace.TracerProvider:
        """The SDK's, made when the first span asks for it."""
        if self._real is None:
            if attempt_recorder.current is None:
                return trace.NoOpTracerProvider()
            self._real = _make(attempt_recorder.current)
        return self._real


class AttemptTracer(trace.ProxyTracer):
    """A tracer that asks at each span whose it is."""

    _resolved: Optional[Tuple[trace.TracerProvider, trace.Tracer]] = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._arguments = arguments  # of get_*, for whichever provider is set by then

    @property
    def _tracer(self) -> trace.Tracer:
        current = trace.get_tracer_provider()
        provider = PROVIDER.real if current is PROVIDER else current
        resolved = self._resolved
        if resolved is None or resolved[0] is not provider:
            tracer = provider.get_tracer(*self._arguments)
            resolved = self._resolved = (provider, tracer)
        return resolved[1]


def _make(recorder: attempt_recorder.AttemptRecorder) -> trace.TracerProvider:
    try:
        from otel_metaflow.task.otel_api import sdk_spans

        return sdk_spans.provider(recorder)
    except Exception as error:  # noqa: BLE001 - a limit that is no number, say: the step runs without spans
        contain(error)
        return trace.NoOpTracerProvider()


PROVIDER = AttemptTracerProvider()


def provider() -> AttemptTracerProvider:
    """The entry point, for who names it in OTEL_PYTHON_TRACER_PROVIDER."""
    trace._TRACER_PROVIDER_SET_ONCE = ReplaceableOnce(trace, "_TRACER_PROVIDER", PROVIDER)
    return PROVIDER


def install() -> None:
    """Answer for the API where nobody does, and make the attempt the parent of what begins."""
    if attempt_recorder.current is not None:
        api_seams.verify(trace, api_seams.TRACES)
        context.install(attempt_recorder.current)
        if trace._TRACER_PROVIDER is None and not os.environ.get(OTEL_PYTHON_TRACER_PROVIDER):
            trace.set_tracer_provider(provider())
