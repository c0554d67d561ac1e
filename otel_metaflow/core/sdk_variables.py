"""The variables that the OpenTelemetry SDK reads: those that we use, and those with values that make it raise.

The SDK raises at its import, or at the first record, on a value that it does not support. The shipper uses a few of
these variables, each checked in settings.py, and removes all others before it imports the SDK.
"""

from __future__ import annotations

from typing import List, Mapping, MutableMapping, Tuple

# Used by the shipper and its exporters, and checked in settings.py.
_USED = (
    "OTEL_METAFLOW_", "OTEL_EXPORTER_OTLP_", "OTEL_PYTHON_EXPORTER_OTLP_", "OTEL_TRACES_EXPORTER",
    "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_TRACES_SAMPLER", "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
)  # fmt: skip
# https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
_LIMITS = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
)  # fmt: skip
_FILTERS = ("always_on", "always_off", "trace_based")
_NONE = "none"


def remove_unused(environ: MutableMapping[str, str]) -> None:
    """Remove the variables that only the SDK would read; in a process of our own, before it imports the SDK."""
    for name in list(environ):
        if name.startswith("OTEL_") and not name.startswith(_USED):
            del environ[name]


def refused(environ: Mapping[str, str]) -> Tuple[str, ...]:
    """One line for each variable whose value the SDK rejects; user code may then record no spans and records."""
    found: List[str] = []
    for name in _LIMITS:
        value = environ.get(name, "").strip()
        if value and not value.isdecimal():
            found.append(f"{name} is {value!r}, which OpenTelemetry rejects; set it to a whole number, such as 128")
    value = environ.get("OTEL_METRICS_EXEMPLAR_FILTER", "").strip().lower()
    if value and value not in _FILTERS:
        found.append(
            f"OTEL_METRICS_EXEMPLAR_FILTER is {value!r}, which OpenTelemetry rejects; "
            f"set it to {', '.join(_FILTERS[:-1])} or {_FILTERS[-1]}"
        )
    missing = _missing(environ.get("OTEL_PROPAGATORS", ""))
    if missing:
        found.append(
            f"OTEL_PROPAGATORS contains {missing[0]!r}, which is not installed here; set it to tracecontext,baggage"
        )
    return tuple(found)


def _missing(text: str) -> List[str]:
    named = [name.strip() for name in text.split(",") if name.strip()]
    if not named or _NONE in named:
        return []
    # Imported here: it costs a few milliseconds, and few users set the variable.
    from importlib.metadata import entry_points

    found = entry_points()
    group = "opentelemetry_propagator"
    installed = found.select(group=group) if hasattr(found, "select") else found.get(group, ())
    known = {entry.name for entry in installed}
    return [name for name in named if name not in known]
