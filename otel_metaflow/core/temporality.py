"""The metric settings from the standard variables, for the shipper's metrics and those of user code.

Delta by default: the only cumulative point of a short-lived process would be its first, which back ends drop.
"""

from __future__ import annotations

import os


def preference() -> str:
    """`delta`, `cumulative` or `lowmemory`, as the specification of the exporters defines them.

    https://opentelemetry.io/docs/specs/otel/metrics/sdk_exporters/otlp/
    """
    found = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "").strip().lower()
    return found if found in ("cumulative", "lowmemory") else "delta"


def prefers_exponential() -> bool:
    """Whether histograms should have exponential buckets."""
    chosen = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "")
    return chosen.strip().lower() == "base2_exponential_bucket_histogram"
