"""The tracer provider, as far as only the API is needed."""

from __future__ import annotations

import os
from typing import Any, Optional, Tuple

from opentelemetry import trace
from opentelemetry.environment_variables import OTEL_PYTHON_TRACER_PROVIDER

from otel_metaflow.core.guard import contain
from otel_metaflow.task.otel_api import api_seams, attempt_recorder, context
from otel_metaflow.task.otel_api.replaceable_once import ReplaceableOnce


class AttemptTracerProvider(trace.ProxyTracerProvider):
    """Looks like the API's proxy: code checks `isinstance(..., ProxyTracerProvider)` before it sets its own."""

    def __init__(self) -> None:
        self._real: Optional[trace.TracerProvider] = None

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: Optional[str] = None,
        schema_url: Optional[str] = None,
        attributes: Any = None,
    ) -> trace.Tracer:
        """A tracer that uses the provider that is current at each call."""
        return AttemptTracer(instrumenting_module_name, instrumenting_library_version, schema_url, attributes)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Do nothing: spans are written when they end."""
        return True

    @property
    def real(self) -> trace.TracerProvider:
        """The SDK's provider, created with the first span."""
        if self._real is None:
            if attempt_recorder.current is None:
                return trace.NoOpTracerProvider()
            self._real = _make(attempt_recorder.current)
        return self._real


class AttemptTracer(trace.ProxyTracer):
    """A tracer that looks up the current provider for each span."""

    _resolved: Optional[Tuple[trace.TracerProvider, trace.Tracer]] = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._arguments = arguments  # of get_tracer, for the provider that is current then

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
    except Exception as error:  # noqa: BLE001 - such as a limit that is not a number: the step runs without spans
        contain(error)
        return trace.NoOpTracerProvider()


PROVIDER = AttemptTracerProvider()


def provider() -> AttemptTracerProvider:
    """The entry point for OTEL_PYTHON_TRACER_PROVIDER."""
    trace._TRACER_PROVIDER_SET_ONCE = ReplaceableOnce(trace, "_TRACER_PROVIDER", PROVIDER)
    return PROVIDER


def install() -> None:
    """Set our provider, unless another one is set, and make the attempt the default parent of spans."""
    if attempt_recorder.current is not None:
        api_seams.verify(trace, api_seams.TRACES)
        context.install(attempt_recorder.current)
        if trace._TRACER_PROVIDER is None and not os.environ.get(OTEL_PYTHON_TRACER_PROVIDER):
            trace.set_tracer_provider(provider())
