"""The private names of OpenTelemetry's API that our proxies depend on.

They are checked before our providers are installed. If one is missing, user code gets the same providers as without us,
and one line reports that its telemetry is not recorded. tests/test_otel_seams.py removes each name of DEPENDS in turn.
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
    """Check that `module` and the classes of `proxies` have the `names` that belong to them.

    Raises:
        AttributeError: this version of OpenTelemetry lacks one of them.
    """
    for name in names:
        owner, _, attribute = name.rpartition(".")
        if owner == module.__name__:
            getattr(module, attribute)
        for proxy in proxies:
            if owner.rpartition(".")[2] in (kind.__name__ for kind in type(proxy).__mro__):
                getattr(proxy, attribute)
