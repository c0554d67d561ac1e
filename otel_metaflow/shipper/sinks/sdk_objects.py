"""Converts plain records to objects of the SDK, for its official exporters.

What the records of a batch have in common, resources, scopes and contexts, is made once a batch: the encoders group
records by them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, cast

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context
from opentelemetry.trace.span import TraceState
from opentelemetry.trace.status import Status, StatusCode

from otel_metaflow.shipper import telemetry
from otel_metaflow.shipper.telemetry import Record

_SEVERITIES = {severity.value: severity for severity in SeverityNumber}
_W3C_FLAGS, _IS_REMOTE = 0xFF, 0x200  # of the flags of OTLP


def logs(records: Sequence[Record]) -> List[ReadableLogRecord]:
    """Log records.

    Raises:
        Exception: one of them is none.
    """
    common = _Common()
    return [_log(record, common) for record in records]


def spans(records: Sequence[Record]) -> List[ReadableSpan]:
    """Spans; raises as `logs` does."""
    common = _Common()
    return [_span(record, common) for record in records]


def metrics(records: Sequence[Record]) -> MetricsData:
    """Metrics, by resource and scope; raises as `logs` does."""
    common = _Common()
    grouped: Dict[Resource, Dict[InstrumentationScope, List[Metric]]] = {}
    for record in records:
        of_resource = grouped.setdefault(common.resource(record.resource), {})
        of_resource.setdefault(common.scope(record.scope), []).append(_metric(cast("telemetry.Metric", record.data)))
    return MetricsData(
        [
            ResourceMetrics(
                resource,
                [ScopeMetrics(scope, found, scope.schema_url or "") for scope, found in by_scope.items()],
                resource.schema_url,
            )
            for resource, by_scope in grouped.items()
        ]
    )


OF: Mapping[str, Callable[[Sequence[Record]], Any]] = {"traces": spans, "metrics": metrics, "logs": logs}
"""By signal, what its exporter takes."""


class _Resource(Resource):
    """A resource that computes its hash once: the encoders ask for it with every record."""

    _hash: Optional[int] = None

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = super().__hash__()
        return self._hash


@lru_cache(maxsize=1)
def sender() -> Mapping[str, Any]:
    """The SDK's own resource attributes; cached, because detecting them starts threads."""
    found = Resource.create({}).attributes
    return {name: value for name, value in found.items() if name.startswith("telemetry.sdk.")}


class _Common:
    """What the records of one batch have in common, made once each."""

    def __init__(self) -> None:
        self._resources: Dict[telemetry.Resource, Resource] = {}
        self._scopes: Dict[telemetry.Scope, InstrumentationScope] = {}
        self._contexts: Dict[Tuple[str, str, int], Context] = {}

    def resource(self, given: telemetry.Resource) -> Resource:
        made = self._resources.get(given)
        if made is None:
            made = self._resources[given] = _Resource({**sender(), **given.attributes}, given.schema_url)
        return made

    def scope(self, given: telemetry.Scope) -> InstrumentationScope:
        made = self._scopes.get(given)
        if made is None:
            made = self._scopes[given] = InstrumentationScope(
                given.name, given.version or None, given.schema_url or None, given.attributes or None
            )
        return made

    def context(self, data: telemetry.LogRecord) -> Context:
        """A context in which the span of the record is the current one."""
        key = (data.get("traceId", ""), data.get("spanId", ""), data.get("flags", 0))
        made = self._contexts.get(key)
        if made is None:
            made = self._contexts[key] = set_span_in_context(NonRecordingSpan(_span_context(data)), Context())
        return made


def _log(record: Record, common: _Common) -> ReadableLogRecord:
    data = cast("telemetry.LogRecord", record.data)
    made = LogRecord(
        timestamp=data.get("timeUnixNano"),
        observed_timestamp=data.get("observedTimeUnixNano"),
        context=common.context(data),
        severity_number=_SEVERITIES.get(data.get("severityNumber", 0)),
        severity_text=data.get("severityText"),
        body=data.get("body"),
        attributes=data.get("attributes"),
        event_name=data.get("eventName"),
    )
    return ReadableLogRecord(made, common.resource(record.resource), common.scope(record.scope))


class _Span(ReadableSpan):
    """A span that knows what its limits dropped in another process."""

    def __init__(self, data: telemetry.Span, **parts: Any) -> None:
        super().__init__(**parts)
        self._data = data

    @property
    def dropped_attributes(self) -> int:
        """How many attributes were one too many."""
        return self._data.get("droppedAttributesCount", 0)

    @property
    def dropped_events(self) -> int:
        """How many events were one too many."""
        return self._data.get("droppedEventsCount", 0)

    @property
    def dropped_links(self) -> int:
        """How many links were one too many."""
        return self._data.get("droppedLinksCount", 0)


def _span(record: Record, common: _Common) -> ReadableSpan:
    data = cast("telemetry.Span", record.data)
    status = data.get("status", {})
    parent = data.get("parentSpanId")
    return _Span(
        data,
        name=data["name"],
        context=_span_context(data),
        parent=SpanContext(int(data["traceId"], 16), int(parent, 16), _is_remote(data)) if parent else None,
        resource=common.resource(record.resource),
        attributes=data.get("attributes"),
        events=[_event(event) for event in data.get("events", ())],
        links=[_link(link) for link in data.get("links", ())],
        kind=SpanKind(data.get("kind", 1) - 1),  # the API counts from 0, OTLP from 1
        status=Status(StatusCode(status.get("code", 0)), status.get("message")),
        start_time=data["startTimeUnixNano"],
        end_time=data["endTimeUnixNano"],
        instrumentation_scope=common.scope(record.scope),
    )


def _event(event: telemetry.Event) -> Event:
    return Event(event["name"], event.get("attributes"), event["timeUnixNano"])


def _link(link: telemetry.Link) -> Link:
    return Link(_span_context(link, is_remote=_is_remote(link)), link.get("attributes"))


def _span_context(data: Any, *, is_remote: bool = False) -> SpanContext:
    trace_state = data.get("traceState")
    return SpanContext(
        int(data.get("traceId") or "0", 16),
        int(data.get("spanId") or "0", 16),
        is_remote,
        TraceFlags(data.get("flags", 0) & _W3C_FLAGS),
        TraceState.from_header([trace_state]) if trace_state else None,
    )


def _is_remote(data: Any) -> bool:
    return bool(data.get("flags", 0) & _IS_REMOTE)


def _metric(data: telemetry.Metric) -> Metric:
    found: Any
    if "gauge" in data:
        found = Gauge(_points(_number, data["gauge"]))
    elif "sum" in data:
        total = data["sum"]
        found = Sum(_points(_number, total), _temporality(total), bool(total["isMonotonic"]))
    elif "histogram" in data:
        found = Histogram(_points(_histogram, data["histogram"]), _temporality(data["histogram"]))
    else:
        spread = data["exponentialHistogram"]
        found = ExponentialHistogram(_points(_exponential, spread), _temporality(spread))
    return Metric(data["name"], data.get("description", ""), data.get("unit", ""), found)


def _temporality(data: telemetry.Data) -> AggregationTemporality:
    return AggregationTemporality(data["aggregationTemporality"])


def _points(make: Callable[[telemetry.DataPoint], Any], data: telemetry.Data) -> List[Any]:
    return [make(point) for point in data["dataPoints"]]


def _common_parts(point: telemetry.DataPoint) -> Dict[str, Any]:
    return {
        "attributes": point.get("attributes", {}),
        "start_time_unix_nano": point.get("startTimeUnixNano", 0),
        "time_unix_nano": point["timeUnixNano"],
        "exemplars": _exemplars(point.get("exemplars", ())),
    }


def _number(point: telemetry.DataPoint) -> NumberDataPoint:
    return NumberDataPoint(value=_value(point), **_common_parts(point))


def _histogram(point: telemetry.DataPoint) -> HistogramDataPoint:
    return HistogramDataPoint(
        count=point["count"],
        sum=point["sum"],
        min=point["min"],
        max=point["max"],
        bucket_counts=point["bucketCounts"],
        explicit_bounds=point["explicitBounds"],
        **_common_parts(point),
    )


def _exponential(point: telemetry.DataPoint) -> ExponentialHistogramDataPoint:
    return ExponentialHistogramDataPoint(
        count=point["count"],
        sum=point["sum"],
        min=point["min"],
        max=point["max"],
        scale=point["scale"],
        zero_count=point["zeroCount"],
        flags=point.get("flags", 0),
        positive=Buckets(point["positive"]["offset"], point["positive"]["bucketCounts"]),
        negative=Buckets(point["negative"]["offset"], point["negative"]["bucketCounts"]),
        **_common_parts(point),
    )


def _exemplars(given: Iterable[telemetry.Exemplar]) -> List[Exemplar]:
    return [
        Exemplar(
            each.get("filteredAttributes", {}),
            _value(each),
            each["timeUnixNano"],
            int(each["spanId"], 16) if each.get("spanId") else None,
            int(each["traceId"], 16) if each.get("traceId") else None,
        )
        for each in given
    ]


def _value(given: Any) -> Any:
    found = given.get("asInt")
    return given["asDouble"] if found is None else found
