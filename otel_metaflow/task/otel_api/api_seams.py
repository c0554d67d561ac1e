"""The names that our proxies need and that OpenTelemetry's API does not promise.

They are looked for before a provider of ours is put in place. Where one is missing, user code gets what it gets
without us, and one line says that what it records through OpenTelemetry is not part of the run's telemetry.
tests/test_otel_seams.py takes away each name of DEPENDS in turn.
"""

from __future__ import annotations

from typing import Any, Iterable

TRACES = (
    "opentelemetry.context._RUNTIME_CONTEXT",
    "opentelemetry.context.context._RuntimeContext",
    "opentelemetry.util._once.Once",
    "opentelemetry.trace._TRACER_PROVIDER",
    "opentelemetry.trace._TRACER_PROVIDER_SET_ONCE",
)
METRICS = (
    "opentelemetry.metrics._internal._METER_PROVIDER",
    "opentelemetry.metrics._internal._METER_PROVIDER_SET_ONCE",
    "opentelemetry.metrics._internal._ProxyMeterProvider._lock",
    "opentelemetry.metrics._internal._ProxyMeterProvider._meters",
    "opentelemetry.metrics._internal._ProxyMeterProvider._real_meter_provider",
    "opentelemetry.metrics._internal._ProxyMeter._lock",
    "opentelemetry.metrics._internal._ProxyMeter._instruments",
    "opentelemetry.metrics._internal._ProxyMeter._real_meter",
    "opentelemetry.metrics._internal.instrument._ProxyInstrument._real_instrument",
    "opentelemetry.metrics._internal.instrument._ProxyInstrument.on_meter_set",
)
LOGS = (
    "opentelemetry._logs._internal._LOGGER_PROVIDER",
    "opentelemetry._logs._internal._LOGGER_PROVIDER_SET_ONCE",
    "opentelemetry.environment_variables._OTEL_PYTHON_LOGGER_PROVIDER",
)
DEPENDS = (*TRACES, *METRICS, *LOGS)


def verify(module: Any, names: Iterable[str], *proxies: Any) -> None:
    """Look for those of `names` that `module` keeps, and for those of the classes of `proxies`.

    Raises:
        AttributeError: this OpenTelemetry has one of them no longer.
    """
    for name in names:
        owner, _, attribute = name.rpartition(".")
        if owner == module.__name__:
            getattr(module, attribute)
        for proxy in proxies:
            if owner.rpartition(".")[2] in (kind.__name__ for kind in type(proxy).__mro__):
                getattr(proxy, attribute)
