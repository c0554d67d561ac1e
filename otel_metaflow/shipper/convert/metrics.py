"""Metrics of attempts and runs, recorded through the SDK, one provider a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Sequence, Tuple

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData, ResourceMetrics
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.resources import Resource

from otel_metaflow.core import names, temporality
from otel_metaflow.core.version import __version__
from otel_metaflow.model import story
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.shipper.convert.resources import Resources

_HISTOGRAMS: Dict[str, Tuple[str, Sequence[float], str]] = {
    names.METRIC_TASK_DURATION: ("s", names.TASK_DURATION_BOUNDARIES, "How long an attempt of a task took."),
    names.METRIC_TASK_QUEUE_DURATION: ("s", names.QUEUE_BOUNDARIES, "How long an attempt waited for its launch."),
    names.METRIC_TASK_CPU_TIME: (
        "s",
        names.TASK_DURATION_BOUNDARIES,
        "CPU time an attempt used, its children's with it.",
    ),
    names.METRIC_TASK_MEMORY_PEAK: ("By", names.MEMORY_BOUNDARIES, "Largest resident memory of an attempt's process."),
    names.METRIC_RUN_DURATION: ("s", names.RUN_DURATION_BOUNDARIES, "How long a run took."),
}
_COUNTERS = {
    names.METRIC_TASK_RETRIES: ("{retry}", "Attempts after the first."),
    names.METRIC_ARTIFACT_IO: ("By", "Bytes of artifacts stored, before compression."),
    names.METRIC_TELEMETRY_DROPPED: ("{record}", "Telemetry that was given up."),
}
# Exception classes are the users' own: as a dimension only those that everybody has.
_BOUNDED_ERRORS = frozenset(
    {
        "AssertionError", "AttributeError", "ConnectionError", "FileNotFoundError", "ImportError", "IndexError",
        "KeyError", "MemoryError", "ModuleNotFoundError", "NotImplementedError", "OSError", "PermissionError",
        "RuntimeError", "SystemExit", "TimeoutError", "TypeError", "ValueError", "ZeroDivisionError",
        "SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "SIGBUS", "SIGINT",
    }
)  # fmt: skip


class _Recorder:
    """A meter of one resource, read on demand."""

    def __init__(self, resource: Resource) -> None:
        self._reader = InMemoryMetricReader(preferred_temporality=temporality.preferred())
        provider = MeterProvider(
            metric_readers=[self._reader], resource=resource, shutdown_on_exit=False, views=_views()
        )
        meter = provider.get_meter(names.SCOPE, __version__)
        self._histograms = {
            name: meter.create_histogram(name, unit=unit, description=text)
            for name, (unit, _, text) in _HISTOGRAMS.items()
        }
        self._counters = {
            name: meter.create_counter(name, unit=unit, description=text) for name, (unit, text) in _COUNTERS.items()
        }

    def record(self, name: str, value: float, attributes: Dict[str, Any]) -> None:
        self._histograms[name].record(value, attributes)

    def count(self, name: str, amount: int, attributes: Dict[str, Any]) -> None:
        self._counters[name].add(amount, attributes)

    def read(self) -> Sequence[ResourceMetrics]:
        data = self._reader.get_metrics_data()
        return data.resource_metrics if data is not None else ()


class Metrics:
    """Makes the metric batches of one run."""

    def __init__(self, run: Run, resources: Resources) -> None:
        self._run = run
        self._resources = resources
        self._recorders: Dict[Resource, _Recorder] = {}

    def of_attempts(self, attempts: Sequence[Attempt]) -> MetricsData:
        """One batch with the figures of attempts that are over.

        Raises:
            Exception: one of them cannot be told in figures; then none of them counts, and they can be tried apart.
        """
        used: Dict[_Recorder, List[Attempt]] = {}
        try:
            for attempt in attempts:
                if not attempt.is_cloned:  # it was counted where it ran
                    recorder = self._recorder(self._resources.of_step(attempt))
                    used.setdefault(recorder, []).append(attempt)
                    self._record(attempt, recorder)
        except Exception:
            for recorder in used:
                recorder.read()
            raise
        batches: List[ResourceMetrics] = []
        for recorder, members in used.items():
            start = min(attempt.started_at for attempt in members)
            end = max(attempt.ended_at for attempt in members)
            batches.extend(_dated(metrics, start, end) for metrics in recorder.read())
        return MetricsData(batches)

    def _record(self, attempt: Attempt, recorder: _Recorder) -> None:
        common = {names.STEP_NAME: attempt.key.step}
        outcome = {**common, names.TASK_RESULT: attempt.result}
        if attempt.error_type:
            outcome[names.ERROR_TYPE] = _bounded(attempt.error_type)
        seconds = (attempt.ended_at - attempt.started_at) / 1e9
        recorder.record(names.METRIC_TASK_DURATION, seconds, outcome)
        queued = story.queue_time(self._run, attempt)
        if queued is not None:
            recorder.record(names.METRIC_TASK_QUEUE_DURATION, queued / 1e9, common)
        before = story.previous(self._run, attempt)
        if before is not None:
            why = {**common, names.ERROR_TYPE: _bounded(before.error_type or "_OTHER")}
            recorder.count(names.METRIC_TASK_RETRIES, 1, why)
        stored = ((attempt.end or {}).get("artifacts") or {}).get("bytes")
        if stored:
            recorder.count(names.METRIC_ARTIFACT_IO, stored, {**common, names.DIRECTION: "write"})
        if "cpu" in attempt.usage:
            recorder.record(names.METRIC_TASK_CPU_TIME, attempt.usage["cpu"], common)
        if "memoryPeak" in attempt.usage:
            recorder.record(names.METRIC_TASK_MEMORY_PEAK, attempt.usage["memoryPeak"], common)

    def of_run(self) -> MetricsData:
        """The batch with the run's own figures."""
        recorder = self._recorder(self._resources.of_run_metrics())
        attributes = {names.RUN_RESULT: self._run.result}
        start, end = self._run.started_at, self._run.ended_at
        recorder.record(names.METRIC_RUN_DURATION, (end - start) / 1e9, attributes)
        return MetricsData([_dated(metrics, start, end) for metrics in recorder.read()])

    def of_dropped(self, dropped: Dict[Tuple[str, str], int], at: int) -> MetricsData:
        """The batch that says what was given up, by signal and reason."""
        recorder = self._recorder(self._resources.of_run_metrics())
        for (signal, reason), count in dropped.items():
            recorder.count(names.METRIC_TELEMETRY_DROPPED, count, {names.SIGNAL: signal, names.REASON: reason})
        return MetricsData([_dated(metrics, self._run.started_at, at) for metrics in recorder.read()])

    def _recorder(self, resource: Resource) -> _Recorder:
        if resource not in self._recorders:
            self._recorders[resource] = _Recorder(resource)
        return self._recorders[resource]


def _bounded(error_type: str) -> str:
    return error_type if error_type in _BOUNDED_ERRORS else "_OTHER"


def _views() -> List[View]:
    if temporality.prefers_exponential():
        return [View(instrument_name=name, aggregation=ExponentialBucketHistogramAggregation()) for name in _HISTOGRAMS]
    return [
        View(instrument_name=name, aggregation=ExplicitBucketHistogramAggregation(boundaries=bounds))
        for name, (_, bounds, _) in _HISTOGRAMS.items()
    ]


def _dated(metrics: ResourceMetrics, start: int, end: int) -> ResourceMetrics:
    """The same points, dated by what they measure: the SDK dates them by when it was asked, perhaps days later."""
    scopes = []
    for scope in metrics.scope_metrics:
        dated = []
        for metric in scope.metrics:
            points: List[Any] = [
                replace(point, start_time_unix_nano=start, time_unix_nano=max(end, start + 1))
                for point in metric.data.data_points
            ]
            data: Any = metric.data
            dated.append(replace(metric, data=replace(data, data_points=points)))
        scopes.append(replace(scope, metrics=dated))
    return replace(metrics, scope_metrics=scopes)
