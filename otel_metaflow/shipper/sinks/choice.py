"""Chooses the exporter of a signal: the official one if it can be imported, else that of the standard library."""

from __future__ import annotations

import importlib.util
import os

from otel_metaflow.core.settings import Destination
from otel_metaflow.shipper.sinks import otlp_http
from otel_metaflow.shipper.sinks.answers import Exporter

_EXPORTERS = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
}


def build(destination: Destination) -> Exporter:
    """The exporter of one signal, configured by the standard variables.

    Raises:
        Exception: a variable has a value that cannot be used here; its message names it.
    """
    if _is_official(destination):
        from otel_metaflow.shipper.sinks import otlp

        return otlp.build(destination)
    if destination.protocol == "grpc":
        special = f"OTEL_EXPORTER_OTLP_{destination.signal.upper()}_PROTOCOL"
        variable = special if os.environ.get(special, "").strip() else "OTEL_EXPORTER_OTLP_PROTOCOL"
        raise ValueError(
            f"{variable} is grpc, and opentelemetry-exporter-otlp-proto-grpc cannot be imported here; "
            f"type http/protobuf, and in {destination.variable} the port for it, such as 4318"
        )
    return otlp_http.build(destination)


def _is_official(destination: Destination) -> bool:
    """Whether its official exporter can be imported; if it is not installed, nothing else is imported either."""
    try:
        if importlib.util.find_spec(_EXPORTERS[destination.protocol]) is None:
            return False
        from otel_metaflow.shipper.sinks import otlp

        otlp.exporter_class(destination)
    except Exception:  # noqa: BLE001 - what keeps an installation from being imported is not only an ImportError
        return False
    return True
