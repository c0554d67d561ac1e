"""What user code said through OpenTelemetry, from the journals to the SDK's objects: spans and metrics.

Its log records go the way of all log records (model/attempt_logs.py, convert/logs.py).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    Gauge,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import ExponentialHistogram as Exponential
from opentelemetry.sdk.metrics.export import ExponentialHistogramDataPoint as ExponentialPoint
from opentelemetry.sdk.metrics.export import Histogram as Explicit
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.span import TraceState
from opentelemetry.trace.status import Status, StatusCode

from otel_metaflow.core import names, otlp_values
from otel_metaflow.core.redaction import Redaction
from otel_metaflow.journal import layout
from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.ledger import Changes, Subject
from otel_metaflow.journal.reader import Entry, Tail
from otel_metaflow.model.run import Attempt

Record = Dict[str, Any]
Converted = Tuple[Resource, InstrumentationScope, Metric]


@dataclass(frozen=True)
class Said:
    """One record of an attempt, and what it is called where it is given up."""

    attempt: Attempt
    record: Record
    name: str = ""


class UserRecords:
    """The records of one kind of all attempts of a run, each handed out once."""

    def __init__(self, folder: Path, kind: str, cursor_of: Callable[[Subject, str], Cursor]) -> None:
        """`cursor_of` answers how far the records of an attempt, of this kind, were acknowledged before."""
        self._folder = folder
        self._kind = kind
        self._cursor_of = cursor_of
        self._tails: Dict[layout.AttemptKey, Tail] = {}
        self._waiting: Dict[layout.AttemptKey, Deque[Entry]] = {}

    def is_read(self, facts: Mapping[str, Tail]) -> bool:
        """Whether all that `facts`, the readers of all else, have passed over was handed out."""
        return not any(self._waiting.get(key) or self._is_behind(key, fact) for key, fact in _speaking(facts))

    def take(
        self,
        attempts: Mapping[layout.AttemptKey, Attempt],
        facts: Mapping[str, Tail],
        changes: Changes,
        most: int,
        most_bytes: int,
    ) -> List[Said]:
        """The next records, at most about so many; `changes` says how far they go."""
        taken: List[Said] = []
        size = 0
        for key, fact in _speaking(facts):
            for entry in self._entries(key, fact):
                changes.cursors[key, self._kind] = Cursor(sent=(entry.end, 0))
                taken.append(Said(attempts[key], entry.record, f"{key} {self._kind} t{entry.start}"))
                size += entry.end - entry.start
                if len(taken) >= most or size >= most_bytes:
                    return taken
        return taken

    def _entries(self, key: layout.AttemptKey, fact: Tail) -> Iterator[Entry]:
        waiting = self._waiting.setdefault(key, deque())
        while True:
            while waiting:
                yield waiting.popleft()
            if not self._is_behind(key, fact):
                return
            before = self._tail(key).offset
            waiting.extend(self._tail(key).read())
            if self._tail(key).offset == before:  # the file is gone: what it held will not be read any more
                self._tail(key).offset = fact.said
                return

    def _is_behind(self, key: layout.AttemptKey, fact: Tail) -> bool:
        """Whether records of user code lie beyond what was read; without opening the file."""
        return fact.said > self._tail(key).offset

    def _tail(self, key: layout.AttemptKey) -> Tail:
        if key not in self._tails:
            path = layout.attempt_file(self._folder, key)
            self._tails[key] = Tail(path, self._cursor_of(key, self._kind).sent[0], only=self._kind)
        return self._tails[key]


def _speaking(facts: Mapping[str, Tail]) -> Iterator[Tuple[layout.AttemptKey, Tail]]:
    """The attempts whose user code said anything: most say nothing, and are not looked at again and again."""
    for fact in facts.values():
        # Of an attempt's own journal: whatever else bears such a record is not read for it.
        key = layout.attempt_key(fact.path) if fact.said and not layout.is_output(fact.path) else None
        if key is not None:
            yield key, fact


class _UserSpan(ReadableSpan):
    """A span that knows what its limits dropped in another process."""

    def __init__(self, record: Record, **parts: Any) -> None:
        super().__init__(**parts)
        self._record = record

    @property
    def dropped_attributes(self) -> int:
        """How many attributes were one too many."""
        return int(self._record.get("droppedAttributesCount", 0))

    @property
    def dropped_events(self) -> int:
        """How many events were one too many."""
        return int(self._record.get("droppedEventsCount", 0))

    @property
    def dropped_links(self) -> int:
        """How many links were one too many."""
        return int(self._record.get("droppedLinksCount", 0))


def of_span(said: Said, resource_of: Callable[[Attempt], Resource], redaction: Redaction) -> ReadableSpan:
    """The span of a record of kind span.

    Raises:
        Exception: the record cannot be read, as one of another version perhaps.
    """
    return span(said.record, resource_of(said.attempt), redaction)


def span(record: Record, resource: Resource, redaction: Redaction) -> ReadableSpan:
    """The span of a record of kind span."""
    context = span_context(record)
    parent = None
    if record.get("parentSpanId"):
        parent = SpanContext(context.trace_id, int(record["parentSpanId"], 16), is_remote=False)
    attributes = redaction.attributes(record.get("attributes") or {})
    if "pid" in record:
        attributes[names.PROCESS_PID] = record["pid"]
    status = record.get("status") or {}
    message = status.get("message")
    return _UserSpan(
        record,
        name=redaction.text(str(record.get("name", ""))),
        context=context,
        parent=parent,
        resource=resource,
        attributes=attributes,
        events=[_event(event, redaction) for event in record.get("events") or ()],
        links=[_link(link, redaction) for link in record.get("links") or ()],
        kind=SpanKind(int(record.get("spanKind", 1)) - 1),
        status=Status(StatusCode(int(status.get("code", 0))), redaction.text(message) if message else None),
        start_time=int(record["startTimeUnixNano"]),
        end_time=max(int(record["endTimeUnixNano"]), int(record["startTimeUnixNano"])),
        instrumentation_scope=scope(record, redaction),
    )


def span_context(record: Record) -> SpanContext:
    """The ids of a record."""
    return SpanContext(
        int(record["traceId"], 16),
        int(record["spanId"], 16),
        is_remote=False,
        trace_flags=TraceFlags(int(record.get("flags", 0))),
        trace_state=TraceState.from_header([record["traceState"]]) if record.get("traceState") else None,
    )


def scope(record: Record, redaction: Redaction) -> InstrumentationScope:
    """The library that made a record."""
    found = record.get("scope") or {}
    attributes = redaction.attributes(found.get("attributes") or {})
    name, version, schema = (otlp_values.text(found.get(part) or "") for part in ("name", "version", "schemaUrl"))
    return InstrumentationScope(name, version or None, schema or None, attributes or None)


def _event(event: Record, redaction: Redaction) -> Event:
    name = redaction.text(str(event.get("name", "")))
    return Event(name, redaction.attributes(event.get("attributes") or {}), int(event["timeUnixNano"]))


def _link(link: Record, redaction: Redaction) -> Link:
    return Link(span_context(link), redaction.attributes(link.get("attributes") or {}))


def of_metric(said: Said, resource_of: Callable[[Attempt], Resource], redaction: Redaction) -> Converted:
    """The metric of a record of kind metric, with what it is of.

    Raises:
        Exception: the record cannot be read.
    """
    return resource_of(said.attempt), scope(said.record, redaction), _metric(said.record, redaction)


def together(found: Sequence[Converted]) -> MetricsData:
    """Metrics by resource and scope, as exporters take them."""
    grouped: Dict[Resource, Dict[InstrumentationScope, List[Metric]]] = {}
    for resource, library, metric in found:
        grouped.setdefault(resource, {}).setdefault(library, []).append(metric)
    return MetricsData(
        [
            ResourceMetrics(
                resource,
                [ScopeMetrics(library, metrics, library.schema_url or "") for library, metrics in by_scope.items()],
                "",
            )
            for resource, by_scope in grouped.items()
        ]
    )


def _metric(record: Record, redaction: Redaction) -> Metric:
    data: Any
    if "gauge" in record:
        data = Gauge([_number(point, redaction) for point in record["gauge"]["dataPoints"]])
    elif "sum" in record:
        told = record["sum"]
        points = [_number(point, redaction) for point in told["dataPoints"]]
        data = Sum(points, AggregationTemporality(told["aggregationTemporality"]), bool(told["isMonotonic"]))
    elif "histogram" in record:
        told = record["histogram"]
        buckets = [_explicit(point, redaction) for point in told["dataPoints"]]
        data = Explicit(buckets, AggregationTemporality(told["aggregationTemporality"]))
    else:
        told = record["exponentialHistogram"]
        spread = [_exponential(point, redaction) for point in told["dataPoints"]]
        data = Exponential(spread, AggregationTemporality(told["aggregationTemporality"]))
    return Metric(str(record["name"]), redaction.text(record.get("description", "")), record.get("unit", ""), data)


def _common(point: Record, redaction: Redaction) -> Dict[str, Any]:
    return {
        "attributes": redaction.attributes(point.get("attributes") or {}),
        "start_time_unix_nano": point.get("startTimeUnixNano", 0),
        "time_unix_nano": point["timeUnixNano"],
        "exemplars": [_exemplar(each, redaction) for each in point.get("exemplars") or ()],
    }


def _number(point: Record, redaction: Redaction) -> NumberDataPoint:
    return NumberDataPoint(value=_value(point), **_common(point, redaction))


def _explicit(point: Record, redaction: Redaction) -> HistogramDataPoint:
    return HistogramDataPoint(
        count=point["count"],
        sum=point["sum"],
        min=point["min"],
        max=point["max"],
        bucket_counts=point["bucketCounts"],
        explicit_bounds=point["explicitBounds"],
        **_common(point, redaction),
    )


def _exponential(point: Record, redaction: Redaction) -> ExponentialPoint:
    return ExponentialPoint(
        count=point["count"],
        sum=point["sum"],
        min=point["min"],
        max=point["max"],
        scale=point["scale"],
        zero_count=point["zeroCount"],
        flags=point["flags"],
        positive=Buckets(point["positive"]["offset"], point["positive"]["bucketCounts"]),
        negative=Buckets(point["negative"]["offset"], point["negative"]["bucketCounts"]),
        **_common(point, redaction),
    )


def _exemplar(told: Record, redaction: Redaction) -> Exemplar:
    span_id, trace_id = told.get("spanId"), told.get("traceId")
    return Exemplar(
        redaction.attributes(told.get("filteredAttributes") or {}),
        _value(told),
        told["timeUnixNano"],
        int(span_id, 16) if span_id else None,
        int(trace_id, 16) if trace_id else None,
    )


def _value(told: Record) -> Any:
    found: Optional[Any] = told.get("asInt")
    return told["asDouble"] if found is None else found
