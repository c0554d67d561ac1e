"""The logger provider, as far as only the API is needed. The logs API is not stable yet, hence its underscores."""

from __future__ import annotations

import os
from typing import Any, Optional, Tuple

from opentelemetry import _logs
from opentelemetry._logs import _internal as internal
from opentelemetry.environment_variables import _OTEL_PYTHON_LOGGER_PROVIDER

from otel_metaflow.core.guard import contain
from otel_metaflow.task.otel_api import api_seams, attempt_recorder
from otel_metaflow.task.otel_api.replaceable_once import ReplaceableOnce


class AttemptLoggerProvider(internal.ProxyLoggerProvider):
    """Looks like the API's proxy, and records to the attempt's journal."""

    def __init__(self) -> None:
        self._real: Optional[_logs.LoggerProvider] = None

    def get_logger(
        self, name: str, version: Optional[str] = None, schema_url: Optional[str] = None, attributes: Any = None
    ) -> _logs.Logger:
        """A logger that uses the provider that is current at each call."""
        return AttemptLogger(name, version, schema_url, attributes)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Do nothing: records are written when they are emitted."""
        return True

    @property
    def real(self) -> _logs.LoggerProvider:
        """The SDK's provider, created with the first record."""
        if self._real is None:
            if attempt_recorder.current is None:
                return _logs.NoOpLoggerProvider()
            self._real = _make(attempt_recorder.current)
        return self._real


class AttemptLogger(internal.ProxyLogger):
    """A logger that looks up the current provider for each record."""

    _resolved: Optional[Tuple[_logs.LoggerProvider, _logs.Logger]] = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._arguments = arguments  # of get_logger, for the provider that is current then

    @property
    def _logger(self) -> _logs.Logger:
        current = _logs.get_logger_provider()
        provider = PROVIDER.real if current is PROVIDER else current
        resolved = self._resolved
        if resolved is None or resolved[0] is not provider:
            logger = provider.get_logger(*self._arguments)
            resolved = self._resolved = (provider, logger)
        return resolved[1]


def _make(recorder: attempt_recorder.AttemptRecorder) -> _logs.LoggerProvider:
    try:
        from otel_metaflow.task.otel_api import sdk_logs

        return sdk_logs.provider(recorder)
    except Exception as error:  # noqa: BLE001 - such as a limit that is not a number: the step runs without records
        contain(error)
        return _logs.NoOpLoggerProvider()


PROVIDER = AttemptLoggerProvider()


def provider() -> AttemptLoggerProvider:
    """The entry point for OTEL_PYTHON_LOGGER_PROVIDER."""
    internal._LOGGER_PROVIDER_SET_ONCE = ReplaceableOnce(internal, "_LOGGER_PROVIDER", PROVIDER)
    return PROVIDER


def install() -> None:
    """Set our provider, unless another one is set."""
    api_seams.verify(internal, api_seams.LOGS)
    if (
        attempt_recorder.current is not None
        and internal._LOGGER_PROVIDER is None
        and not os.environ.get(_OTEL_PYTHON_LOGGER_PROVIDER)
    ):
        _logs.set_logger_provider(provider())
