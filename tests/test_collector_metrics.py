"""Right values at both vendors: of points that become one series, of cumulative metrics, of every kind of histogram."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from collectors import Collector, Vendors
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from test_collector_refusals import pairs, post

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from collectors import Metric, Vendor

ROUTES = ["datadog", "datadog_otlp", "splunk"]
SECOND = 1_000_000_000


def kept(vendor: Vendor) -> list[Metric]:
    """Return what Datadog keeps: of a series, one value for each second, and that is the last one.

    "If you submit several values with the same timestamp and tags, the last one is used"
    (https://docs.datadoghq.com/metrics/custom_metrics/); Splunk keeps all that it is sent.
    """
    if type(vendor).__name__ == "Splunk":
        return vendor.metrics()
    last = {(metric.name, metric.time, tuple(sorted(metric.attributes.items()))): metric for metric in vendor.metrics()}
    return list(last.values())


def total(vendor: Vendor, name: str) -> tuple[float, int]:
    """Return the sum of a metric's values, and that of its counts."""
    found = [metric for metric in kept(vendor) if metric.name == name]
    return sum(metric.value for metric in found), sum(metric.count for metric in found)


def ended(task: int, at: int, kind: str) -> ExportMetricsServiceRequest:
    """Return what a task sends at its end, at `at` nanoseconds since 1970: one metric of 1,000."""
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    group.resource.attributes.extend(
        pairs({"metaflow.flow.name": "Hello", "metaflow.run.id": "12", "metaflow.task.id": str(task)})
    )
    metric = group.scope_metrics.add().metrics.add(name="rows")
    times = {"start_time_unix_nano": at - 5 * SECOND, "time_unix_nano": at}
    data = getattr(metric, {"sum": "sum", "float": "sum"}.get(kind, kind))
    data.aggregation_temporality = 1
    if kind == "sum":
        data.is_monotonic = True
        data.data_points.add(as_int=1_000, **times)
    elif kind == "float":
        data.is_monotonic = True
        data.data_points.add(as_double=1_000, **times)
    elif kind == "histogram":
        data.data_points.add(count=1, sum=1_000, explicit_bounds=[10, 5_000], bucket_counts=[0, 1, 0], **times)
    else:
        point = data.data_points.add(count=1, sum=1_000, scale=task % 3, **times)
        # The bucket of 1,000: base 2 ** (2 ** -scale), its lower bound exclusive.
        point.positive.offset = {0: 9, 1: 19, 2: 39}[task % 3]
        point.positive.bucket_counts.append(1)
    return request


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["sum", "float", "histogram", "exponential_histogram"])
def test_tasks_that_end_in_the_same_second_add_up(tmp_path: Path, vendors: Vendors, route: str, kind: str) -> None:
    """Without the ids of the tasks they are one series: 12 times 1,000 is 12,000, however they come."""
    now = time.time_ns() // SECOND * SECOND
    vendor = getattr(vendors, route)
    with Collector(tmp_path, getattr(vendors, f"{route}_environment")) as collector:
        # At once, as from tasks of a foreach, and later again with the same second, as after an outage.
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda task: post(collector, ended(task, now + task * 1_000_000, kind)), range(6)))
        vendors.wait_for(lambda: total(vendor, "rows")[0] == 6_000)
        for task in range(6, 12):
            post(collector, ended(task, now + task * 1_000_000, kind))
        vendors.wait_for(lambda: total(vendor, "rows")[0] >= 12_000)
    assert total(vendor, "rows")[0] == 12_000
    if "histogram" in kind:
        assert total(vendor, "rows")[1] == 12
    assert all(now <= metric.time * SECOND < now + 20 * SECOND for metric in kept(vendor) if metric.time)


def produce(collector: Collector, process: str, steps: Sequence[float], views: Sequence[View] = ()) -> None:
    """Count and observe each of `steps` in an SDK with default settings, which exports after each."""
    resource = Resource({"metaflow.flow.name": "Hello", "service.instance.id": process})
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(f"{collector.http}/v1/metrics"), export_interval_millis=3_600_000
    )
    provider = MeterProvider([reader], resource=resource, views=views)
    meter = provider.get_meter("test")
    counter, histogram = meter.create_counter("rows"), meter.create_histogram("size")
    for step in steps:
        counter.add(step)
        histogram.record(step)
        assert provider.force_flush()
    provider.shutdown()


EXPONENTIAL = [View(instrument_name="size", aggregation=ExponentialBucketHistogramAggregation())]


@pytest.mark.parametrize("views", [[], EXPONENTIAL], ids=["explicit", "exponential"])
@pytest.mark.parametrize("route", ROUTES)
def test_cumulative_metrics_have_the_right_values(
    tmp_path: Path, vendors: Vendors, route: str, views: list[Any]
) -> None:
    """As any SDK sends them by default: of processes that end after one export, and of one that sends many."""
    vendor = getattr(vendors, route)
    environment = getattr(vendors, f"{route}_environment")
    with Collector(tmp_path, environment) as collector:
        for process in range(4):
            produce(collector, f"short {process}", [10], views)
        produce(collector, "long", [1, 2, 4, 0.25, 1_000_000], views)
        vendors.wait_for(lambda: total(vendor, "rows")[0] >= 1_000_047.25)
        vendors.wait_for(lambda: total(vendor, "size")[1] >= 9)
    assert total(vendor, "rows")[0] == 1_000_047.25
    assert total(vendor, "size") == (1_000_047.25, 9)


@pytest.mark.parametrize("route", ROUTES)
def test_a_restart_counts_nothing_twice(tmp_path: Path, vendors: Vendors, route: str) -> None:
    """What was seen of a process that goes on is kept with the queues."""
    vendor = getattr(vendors, route)
    environment = getattr(vendors, f"{route}_environment")
    cumulative = ExportMetricsServiceRequest()
    group = cumulative.resource_metrics.add()
    group.resource.attributes.extend(pairs({"service.instance.id": "one"}))
    data = group.scope_metrics.add().metrics.add(name="rows").sum
    data.aggregation_temporality, data.is_monotonic = 2, True
    point = data.data_points.add(start_time_unix_nano=time.time_ns() - 60 * SECOND)
    for count in (100, 150):
        point.as_int, point.time_unix_nano = count, time.time_ns() + count * SECOND // 10
        with Collector(tmp_path, environment) as collector:
            # A sender that had no answer sends again.
            post(collector, cumulative, cumulative)
            vendors.wait_for(lambda: total(vendor, "rows")[0] >= count)  # noqa: B023
    assert total(vendor, "rows")[0] == 150
