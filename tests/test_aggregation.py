"""What the shipper adds up without the SDK, held to the SDK's own aggregations, samplers and instruments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, TraceIdRatioBased

from otel_metaflow.core import ids
from otel_metaflow.core.settings import Settings
from otel_metaflow.journal.keys import RunKey
from otel_metaflow.model.run import Run
from otel_metaflow.shipper.convert import sampling
from otel_metaflow.shipper.convert.aggregation import Aggregation, ExponentialHistogram, Sum
from otel_metaflow.shipper.convert.aggregation import Histogram as BoundedHistogram
from otel_metaflow.shipper.sinks import sdk_objects
from otel_metaflow.shipper.telemetry import Record, Resource, Scope

BOUNDS = (0.5, 1.0, 60.0)
POWERS = st.integers(-300, 300).map(lambda power: 2.0**power)
# As durations and sizes are: never negative, and of any magnitude that a normal number has.
MEASURED = st.lists(st.just(0) | st.integers(0, 10**12) | st.floats(1e-300, 1e300) | POWERS, min_size=1, max_size=300)


def theirs(measured: list[Any], view: Any, temporality: AggregationTemporality) -> Any:
    """The point that the SDK makes of the measurements, as OTLP has it."""
    reader = InMemoryMetricReader({Counter: temporality, Histogram: temporality})
    provider = MeterProvider([reader], shutdown_on_exit=False, views=[View(instrument_name="m", aggregation=view)])
    instrument = provider.get_meter("m").create_histogram("m")
    for value in measured:
        instrument.record(value)
    return encode_metrics(reader.get_metrics_data()).resource_metrics[0].scope_metrics[0].metrics[0]


def ours(measured: list[Any], aggregation: Aggregation, kind: str) -> Any:
    """The same, by ours."""
    for value in measured:
        aggregation.add(value)
    data = {"dataPoints": [{**aggregation.point(), "timeUnixNano": 1}], "aggregationTemporality": 1}
    record: Any = {"name": "m", kind: data}
    made = encode_metrics(sdk_objects.metrics([Record(Resource({}), Scope("m"), record)]))
    return made.resource_metrics[0].scope_metrics[0].metrics[0]


def figures(point: Any) -> Any:
    """What a point of OTLP counts."""
    return point.count, point.sum, point.min, point.max


@given(MEASURED)
def test_a_histogram_with_bounds_is_the_sdks(measured: list[Any]) -> None:
    (expected,) = theirs(
        measured, ExplicitBucketHistogramAggregation(BOUNDS), AggregationTemporality.DELTA
    ).histogram.data_points
    (found,) = ours(measured, BoundedHistogram(BOUNDS), "histogram").histogram.data_points
    assert figures(found) == figures(expected)
    assert list(found.bucket_counts) == list(expected.bucket_counts)
    assert list(found.explicit_bounds) == list(expected.explicit_bounds)


@given(MEASURED)
def test_a_histogram_with_exponential_buckets_is_the_sdks(measured: list[Any]) -> None:
    """As fine, in the same buckets, whatever order the values come in."""
    metric = theirs(measured, ExponentialBucketHistogramAggregation(), AggregationTemporality.DELTA)
    (expected,) = metric.exponential_histogram.data_points
    metric = ours(measured, ExponentialHistogram(), "exponentialHistogram")
    (found,) = metric.exponential_histogram.data_points
    assert figures(found) == figures(expected)
    assert (found.scale, found.zero_count) == (expected.scale, expected.zero_count)
    assert counts(found.positive) == counts(expected.positive)
    assert not counts(found.negative)


def counts(buckets: Any) -> dict[int, int]:
    """The buckets that are not empty, by index: the SDK keeps room for more."""
    return {buckets.offset + place: count for place, count in enumerate(buckets.bucket_counts) if count}


@given(st.lists(st.integers(0, 2**40), min_size=1))
def test_a_sum_is_a_sum(measured: list[int]) -> None:
    made = Sum()
    for value in measured:
        made.add(value)
    assert made.point() == {"asInt": sum(measured)}


@pytest.mark.parametrize("name", ["always_on", "always_off", "traceidratio", "parentbased_traceidratio"])
@given(run=st.text(st.characters(codec="ascii", categories=["Nd", "Lu"]), min_size=1), ratio=st.floats(0, 1))
def test_a_run_is_drawn_as_the_sdks_sampler_draws_its_trace(name: str, run: str, ratio: float) -> None:
    """So that a service that samples by the same ratio keeps the same traces."""
    sampler = {"always_on": ALWAYS_ON, "always_off": ALWAYS_OFF}.get(name) or TraceIdRatioBased(ratio)
    decision = sampler.should_sample(None, int(ids.trace_id("F", run), 16), "F").decision
    drawn = sampling.is_sampled(Run(RunKey("F", run)), Settings(Path(), sampler=name, sampler_ratio=ratio))
    assert drawn is (decision is not Decision.DROP)
