"""The telemetry that the shipper sends, as plain values, between the journals and the sinks.

Names are those of OTLP's JSON encoding (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding), as in the
journal, with three exceptions for speed: attributes are maps of plain values, converted by `core/otlp_values.py`; times
and counts are integers; ids are lower-case hex digits, or empty or absent. Resources and scopes are created once and
shared, so that a sink can group records by their identity. Nothing here needs the SDK; `sinks/` converts it for
exporters or the wire.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, TypedDict, Union


class Resource:
    """The entity that a record describes; compared by identity."""

    __slots__ = ("attributes", "schema_url")

    def __init__(self, attributes: Mapping[str, Any], schema_url: str = "") -> None:
        self.attributes = attributes
        self.schema_url = schema_url


class Scope:
    """The library that made a record; compared by identity."""

    __slots__ = ("attributes", "name", "schema_url", "version")

    def __init__(
        self, name: str, version: str = "", schema_url: str = "", attributes: Optional[Mapping[str, Any]] = None
    ) -> None:
        self.name = name
        self.version = version
        self.schema_url = schema_url
        self.attributes = attributes or {}


class LogRecord(TypedDict, total=False):
    """A message LogRecord of opentelemetry/proto/logs/v1/logs.proto."""

    timeUnixNano: int
    observedTimeUnixNano: int
    severityNumber: int
    severityText: str
    eventName: str
    body: Any
    attributes: Dict[str, Any]
    droppedAttributesCount: int
    flags: int
    traceId: str
    spanId: str


class Status(TypedDict, total=False):
    """A message Status of opentelemetry/proto/trace/v1/trace.proto: 0 unset, 1 OK, 2 error."""

    code: int
    message: str


class Event(TypedDict, total=False):
    """A message Span.Event."""

    timeUnixNano: int
    name: str
    attributes: Dict[str, Any]
    droppedAttributesCount: int


class Link(TypedDict, total=False):
    """A message Span.Link."""

    traceId: str
    spanId: str
    traceState: str
    flags: int
    attributes: Dict[str, Any]
    droppedAttributesCount: int


class Span(TypedDict, total=False):
    """A message Span of opentelemetry/proto/trace/v1/trace.proto; `kind` 1 is internal, 2 server."""

    traceId: str
    spanId: str
    parentSpanId: str
    traceState: str
    flags: int
    name: str
    kind: int
    startTimeUnixNano: int
    endTimeUnixNano: int
    attributes: Dict[str, Any]
    droppedAttributesCount: int
    events: List[Event]
    droppedEventsCount: int
    links: List[Link]
    droppedLinksCount: int
    status: Status


class Exemplar(TypedDict, total=False):
    """A message Exemplar of opentelemetry/proto/metrics/v1/metrics.proto, with one of `asInt` and `asDouble`."""

    filteredAttributes: Dict[str, Any]
    timeUnixNano: int
    asInt: int
    asDouble: float
    traceId: str
    spanId: str


class Buckets(TypedDict):
    """A message ExponentialHistogramDataPoint.Buckets."""

    offset: int
    bucketCounts: List[int]


class DataPoint(TypedDict, total=False):
    """A point of any of the four kinds; a number has one of `asInt` and `asDouble`."""

    attributes: Dict[str, Any]
    startTimeUnixNano: int
    timeUnixNano: int
    exemplars: List[Exemplar]
    flags: int
    asInt: int
    asDouble: float
    count: int
    sum: float
    min: float
    max: float
    bucketCounts: List[int]
    explicitBounds: List[float]
    scale: int
    zeroCount: int
    zeroThreshold: float
    positive: Buckets
    negative: Buckets


class Data(TypedDict, total=False):
    """The data of a Metric; `aggregationTemporality` 1 is delta, 2 cumulative."""

    dataPoints: List[DataPoint]
    aggregationTemporality: int
    isMonotonic: bool


class Metric(TypedDict, total=False):
    """A message Metric of opentelemetry/proto/metrics/v1/metrics.proto, with one of the four kinds of data."""

    name: str
    description: str
    unit: str
    gauge: Data
    sum: Data
    histogram: Data
    exponentialHistogram: Data


class Record(NamedTuple):
    """One log record, span or metric, with its resource and scope."""

    resource: Resource
    scope: Scope
    data: Union[LogRecord, Span, Metric]
