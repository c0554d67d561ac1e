"""What the standard variables say about metrics, for the shipper's own and for those of user code.

Delta by default: a cumulative point of a process that lives once would be its first and its last, and
back ends drop the first.
"""

from __future__ import annotations

import os
from typing import Dict

from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import AggregationTemporality


def preferred() -> Dict[type, AggregationTemporality]:
    """The preference, as https://opentelemetry.io/docs/specs/otel/metrics/sdk_exporters/otlp/ defines its values."""
    preference = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta").strip().lower()
    delta, cumulative = AggregationTemporality.DELTA, AggregationTemporality.CUMULATIVE
    summing = cumulative if preference == "cumulative" else delta
    observable = delta if preference not in ("cumulative", "lowmemory") else cumulative
    return {
        Counter: summing,
        Histogram: summing,
        ObservableCounter: observable,
        UpDownCounter: cumulative,
        ObservableUpDownCounter: cumulative,
        ObservableGauge: cumulative,
    }


def prefers_exponential() -> bool:
    """Whether histograms are to have exponential buckets."""
    chosen = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "")
    return chosen.strip().lower() == "base2_exponential_bucket_histogram"
