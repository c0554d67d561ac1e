"""What the standard variables say about metrics, for the shipper's own and for those of user code.

Delta by default: a cumulative point of a process that lives once would be its first and its last, and
back ends drop the first.
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
    """Whether histograms are to have exponential buckets."""
    chosen = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "")
    return chosen.strip().lower() == "base2_exponential_bucket_histogram"
