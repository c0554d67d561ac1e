"""Metrics of attempts and runs, aggregated by step."""

from __future__ import annotations

import math
from typing import Any, Dict, FrozenSet, List, Mapping, NamedTuple, Sequence, Tuple, cast

from otel_metaflow.core import names, otlp_values, temporality
from otel_metaflow.core.version import __version__
from otel_metaflow.model import story
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.shipper.convert.aggregation import Aggregation, ExponentialHistogram, Histogram, Number, Sum
from otel_metaflow.shipper.convert.resources import Resources
from otel_metaflow.shipper.telemetry import Metric, Record, Resource, Scope

_SCOPE = Scope(names.SCOPE, __version__)
_DELTA, _CUMULATIVE = 1, 2  # AggregationTemporality
_INT64 = 1 << 63

_HISTOGRAMS: Dict[str, Tuple[str, Sequence[float], str]] = {
    names.METRIC_TASK_DURATION: ("s", names.TASK_DURATION_BOUNDARIES, "Duration of an attempt."),
    names.METRIC_TASK_QUEUE_DURATION: (
        "s",
        names.QUEUE_BOUNDARIES,
        "Time that an attempt was queued for its launch.",
    ),
    names.METRIC_TASK_CPU_TIME: (
        "s",
        names.TASK_DURATION_BOUNDARIES,
        "CPU time of an attempt, including its children.",
    ),
    names.METRIC_TASK_MEMORY_PEAK: ("By", names.MEMORY_BOUNDARIES, "Largest resident memory of an attempt's process."),
    names.METRIC_RUN_DURATION: ("s", names.RUN_DURATION_BOUNDARIES, "Duration of a run."),
}
_COUNTERS = {
    names.METRIC_TASK_RETRIES: ("{retry}", "Attempts after the first."),
    names.METRIC_ARTIFACT_IO: ("By", "Bytes of artifacts stored, before compression."),
    names.METRIC_TELEMETRY_DROPPED: ("{record}", "Records that will not be exported."),
}
# As a dimension only built-in exceptions and signals: users' own classes are unbounded.
_BOUNDED_ERRORS = frozenset(
    {
        "AssertionError", "AttributeError", "ConnectionError", "FileNotFoundError", "ImportError", "IndexError",
        "KeyError", "MemoryError", "ModuleNotFoundError", "NotImplementedError", "OSError", "PermissionError",
        "RuntimeError", "SystemExit", "TimeoutError", "TypeError", "ValueError", "ZeroDivisionError",
        "SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "SIGBUS", "SIGINT",
    }
)  # fmt: skip


class _Measurement(NamedTuple):
    name: str
    value: Number
    attributes: Mapping[str, Any]


class _Series:
    """The measurements of one metric that have the same attributes."""

    def __init__(self, name: str, attributes: Mapping[str, Any]) -> None:
        self.attributes = otlp_values.attributes(attributes)
        self.start, self.end = math.inf, 0
        self.is_new = False  # since it was read
        self.aggregation: Aggregation = _aggregation(name)

    def add(self, value: Number, start: int, end: int) -> None:
        self.aggregation.add(value)
        self.start, self.end = min(self.start, start), max(self.end, end)
        self.is_new = True

    def point(self) -> Dict[str, Any]:
        """The data point, with the time of the measurements rather than the time of export, which may be days later."""
        self.is_new = False
        start = int(self.start)
        times = {"startTimeUnixNano": start, "timeUnixNano": max(self.end, start + 1)}
        return {"attributes": self.attributes, **times, **self.aggregation.point()}


class Metrics:
    """Aggregates the measurements of one run."""

    def __init__(self, run: Run, resources: Resources) -> None:
        self._run = run
        self._resources = resources
        self._is_cumulative = temporality.preference() == "cumulative"
        self._series: Dict[Tuple[Resource, str], Dict[FrozenSet[Tuple[str, Any]], _Series]] = {}

    def add_attempt(self, attempt: Attempt) -> None:
        """Add the measurements of an attempt that has ended.

        Raises:
            Exception: one of them is invalid; then none is added.
        """
        if not attempt.is_cloned:  # it was counted where it ran
            resource = self._resources.of_step(attempt)
            self._add(resource, self._measurements(attempt), attempt.started_at, attempt.ended_at)

    def add_run(self) -> None:
        """Add the run's own measurements; raises like `add_attempt`."""
        start, end = self._run.started_at, self._run.ended_at
        measured = _Measurement(names.METRIC_RUN_DURATION, (end - start) / 1e9, {names.RUN_RESULT: self._run.result})
        self._add(self._resources.of_run_metrics(), [measured], start, end)

    def add_dropped(self, dropped: Dict[Tuple[str, str], int], at: int) -> None:
        """Add the counts of dropped records, by signal and reason."""
        measured = [
            _Measurement(names.METRIC_TELEMETRY_DROPPED, count, {names.SIGNAL: signal, names.REASON: reason})
            for (signal, reason), count in dropped.items()
        ]
        self._add(self._resources.of_run_metrics(), measured, self._run.started_at, at)

    def take(self) -> List[Record]:
        """One record for each metric and resource, with the measurements since the last call."""
        made: List[Record] = []
        for (resource, name), found in self._series.items():
            points = [series.point() for series in found.values() if series.is_new]
            if points:
                made.append(Record(resource, _SCOPE, self._metric(name, points)))
        if not self._is_cumulative:
            self._series.clear()
        return made

    def _measurements(self, attempt: Attempt) -> List[_Measurement]:
        common = {names.STEP_NAME: attempt.key.step}
        queued = story.queue_time(self._run, attempt)
        of_launcher = [] if queued is None else [_Measurement(names.METRIC_TASK_QUEUE_DURATION, queued / 1e9, common)]
        before = story.previous(self._run, attempt)
        if before is not None:
            why = {**common, names.ERROR_TYPE: _bounded(before.error_type or "_OTHER")}
            of_launcher.append(_Measurement(names.METRIC_TASK_RETRIES, 1, why))
        if attempt.is_exported:
            return of_launcher
        outcome = {**common, names.TASK_RESULT: attempt.result}
        if attempt.error_type:
            outcome[names.ERROR_TYPE] = _bounded(attempt.error_type)
        seconds = (attempt.ended_at - attempt.started_at) / 1e9
        found = [_Measurement(names.METRIC_TASK_DURATION, seconds, outcome), *of_launcher]
        stored = ((attempt.end or {}).get("artifacts") or {}).get("bytes")
        if stored:
            found.append(_Measurement(names.METRIC_ARTIFACT_IO, stored, {**common, names.DIRECTION: "write"}))
        if "cpu" in attempt.usage:
            found.append(_Measurement(names.METRIC_TASK_CPU_TIME, attempt.usage["cpu"], common))
        if "memoryPeak" in attempt.usage:
            found.append(_Measurement(names.METRIC_TASK_MEMORY_PEAK, attempt.usage["memoryPeak"], common))
        return found

    def _add(self, resource: Resource, measured: Sequence[_Measurement], start: int, end: int) -> None:
        for one in measured:
            _check(one)
        for name, value, attributes in measured:
            of_name = self._series.setdefault((resource, name), {})
            key = frozenset(attributes.items())
            if key not in of_name:
                of_name[key] = _Series(name, attributes)
            of_name[key].add(value, start, end)

    def _metric(self, name: str, points: List[Dict[str, Any]]) -> Metric:
        data = {
            "dataPoints": points,
            "aggregationTemporality": _CUMULATIVE if self._is_cumulative else _DELTA,
        }
        if name in _COUNTERS:
            unit, text = _COUNTERS[name]
            kind = {"sum": {**data, "isMonotonic": True}}
        else:
            unit, _, text = _HISTOGRAMS[name]
            kind = {"exponentialHistogram" if temporality.prefers_exponential() else "histogram": data}
        return cast("Metric", {"name": name, "description": text, "unit": unit, **kind})


def _aggregation(name: str) -> Aggregation:
    if name in _COUNTERS:
        return Sum()
    return ExponentialHistogram() if temporality.prefers_exponential() else Histogram(_HISTOGRAMS[name][1])


def _check(measured: _Measurement) -> None:
    """Reject values that a damaged journal may contain.

    Raises:
        ValueError: the value is not a valid number.
    """
    value = measured.value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < (_INT64 if measured.name in _COUNTERS else math.inf):
        raise ValueError(f"{measured.name} is {value!r:.50}")


def _bounded(error_type: str) -> str:
    return error_type if error_type in _BOUNDED_ERRORS else "_OTHER"
