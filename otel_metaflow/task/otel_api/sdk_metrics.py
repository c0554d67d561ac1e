"""Metrics of user code: measured by the SDK, written when the attempt, or a forked child of it, ends."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Sequence

from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    MeterProvider,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    Sum,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import format_span_id, format_trace_id

from otel_metaflow.core import temporality
from otel_metaflow.core.guard import guarded
from otel_metaflow.journal import layout
from otel_metaflow.task.otel_api import json_values
from otel_metaflow.task.otel_api.attempt_recorder import AttemptRecorder

# How long `os._exit` may be delayed, in seconds: a signal handler may call it while this thread holds the lock.
_TIMEOUT = 1.0


class _Provider(MeterProvider):
    """The SDK's provider, without its fork handler; see sdk_spans.py."""

    def _handle_fork(self) -> None:
        """Do nothing: the child creates its own provider."""


class JournalMetrics:
    """The SDK's provider of one process, and the writer of its metrics."""

    def __init__(self, recorder: AttemptRecorder, close: Callable[[], None]) -> None:
        """`close` is called when the process ends, normally or by `os._exit`."""
        self._recorder = recorder
        aggregation: Any = (
            {Histogram: ExponentialBucketHistogramAggregation()} if temporality.prefers_exponential() else None
        )
        self._reader = InMemoryMetricReader(_temporality(), aggregation)
        self.provider: MeterProvider = _Provider([self._reader], resource=Resource.get_empty(), shutdown_on_exit=False)
        self._lock = threading.Lock()
        atexit.register(guarded(close))
        _close_before_exit(close)

    def write(self) -> None:
        """Append what was measured since the last call."""
        with self._lock:
            data = self._reader.get_metrics_data()
        lines = [
            json_values.line(_record(metric, scope.scope, self._recorder))
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        if lines:
            self._recorder.append_lines(lines)


def _temporality() -> Dict[type, AggregationTemporality]:
    """The preferred temporality for each kind of instrument."""
    preference = temporality.preference()
    delta, cumulative = AggregationTemporality.DELTA, AggregationTemporality.CUMULATIVE
    summing = cumulative if preference == "cumulative" else delta
    return {
        Counter: summing,
        Histogram: summing,
        ObservableCounter: delta if preference == "delta" else cumulative,
        UpDownCounter: cumulative,
        ObservableUpDownCounter: cumulative,
        ObservableGauge: cumulative,
    }


def _close_before_exit(close: Callable[[], None]) -> None:
    """Wrap `os._exit`, with which forked children exit: those of multiprocessing and of Metaflow's `parallel_map`."""
    leave, here = os._exit, os.getpid()
    getpid, is_finalizing = os.getpid, sys.is_finalizing

    def write_and_leave(status: int) -> None:
        if not is_finalizing() and getpid() == here:
            # In a thread, so that the wait has a limit.
            writer = threading.Thread(target=guarded(close), daemon=True)
            try:
                writer.start()
                writer.join(_TIMEOUT)
            except RuntimeError:  # the interpreter is shutting down, and atexit has already run
                pass
        leave(status)

    os._exit = write_and_leave  # type: ignore[assignment]


def _record(metric: Metric, scope: Any, recorder: AttemptRecorder) -> Dict[str, Any]:
    """The record of a metric, as docs/journal.md describes it."""
    text = recorder.mask
    record: Dict[str, Any] = {
        "kind": layout.METRIC,
        "timeUnixNano": time.time_ns(),
        "name": text(metric.name),
        "unit": metric.unit or "",
        "description": text(metric.description or ""),
    }
    data = metric.data
    points: Dict[str, Any] = {"dataPoints": [_point(point, recorder) for point in data.data_points]}
    if isinstance(data, Gauge):
        record["gauge"] = points
    else:
        points["aggregationTemporality"] = int(data.aggregation_temporality)
        if isinstance(data, Sum):
            record["sum"] = {**points, "isMonotonic": data.is_monotonic}
        elif isinstance(data, ExponentialHistogram):
            record["exponentialHistogram"] = points
        else:
            record["histogram"] = points
    return {**record, "scope": json_values.scope(scope, text)}


def _point(point: Any, recorder: AttemptRecorder) -> Dict[str, Any]:
    made: Dict[str, Any] = {
        **json_values.attributes(point.attributes, recorder.mask),
        "startTimeUnixNano": point.start_time_unix_nano or 0,
        "timeUnixNano": point.time_unix_nano,
    }
    if isinstance(point, (HistogramDataPoint, ExponentialHistogramDataPoint)):
        made.update({"count": point.count, "sum": point.sum, "min": point.min, "max": point.max})
    if isinstance(point, HistogramDataPoint):
        made.update({"bucketCounts": list(point.bucket_counts), "explicitBounds": list(point.explicit_bounds)})
    elif isinstance(point, ExponentialHistogramDataPoint):
        made.update({"scale": point.scale, "zeroCount": point.zero_count, "flags": point.flags})
        for name, buckets in (("positive", point.positive), ("negative", point.negative)):
            made[name] = {"offset": buckets.offset, "bucketCounts": list(buckets.bucket_counts)}
    else:
        made["asInt" if isinstance(point.value, int) else "asDouble"] = point.value
    exemplars = _exemplars(point.exemplars, recorder)
    return {**made, "exemplars": exemplars} if exemplars else made


def _exemplars(given: Sequence[Any], recorder: AttemptRecorder) -> List[Dict[str, Any]]:
    return [
        {
            "filteredAttributes": json_values.value(each.filtered_attributes, recorder.mask),
            "timeUnixNano": each.time_unix_nano,
            "asInt" if isinstance(each.value, int) else "asDouble": each.value,
            **({"spanId": format_span_id(each.span_id)} if each.span_id else {}),
            **({"traceId": format_trace_id(each.trace_id)} if each.trace_id else {}),
        }
        for each in given
    ]
