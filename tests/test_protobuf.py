"""The encoder of the standard library alone, held to the official messages: parsed by them, it is what was meant."""

from __future__ import annotations

import enum
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from otel_metaflow.core import otlp_values
from otel_metaflow.shipper import telemetry
from otel_metaflow.shipper.sinks import protobuf, sdk_objects
from otel_metaflow.shipper.telemetry import Record, Resource, Scope

# The request of each signal, the list that it is made of, the list in that and the list of records in that.
REQUESTS: dict[str, tuple[Any, str, str, str]] = {
    "logs": (ExportLogsServiceRequest, "resource_logs", "scope_logs", "log_records"),
    "traces": (ExportTraceServiceRequest, "resource_spans", "scope_spans", "spans"),
    "metrics": (ExportMetricsServiceRequest, "resource_metrics", "scope_metrics", "metrics"),
}


# What is meant: the official message, set field by field, each found by its name in JSON


def any_value(value: Any) -> AnyValue:
    made = AnyValue()
    set_value(made, value)
    return made


def set_value(made: Any, value: Any) -> None:
    if isinstance(value, bool):
        made.bool_value = value
    elif isinstance(value, str):
        made.string_value = value
    elif isinstance(value, int):
        made.int_value = value
    elif isinstance(value, float):
        made.double_value = value
    elif isinstance(value, bytes):
        made.bytes_value = value
    elif isinstance(value, list):
        made.array_value.SetInParent()
        for each in value:
            set_value(made.array_value.values.add(), each)
    elif isinstance(value, dict):
        made.kvlist_value.SetInParent()
        set_attributes(made.kvlist_value.values, value)
    else:
        assert value is None


def set_attributes(made: Any, attributes: dict[str, Any]) -> None:
    for key, value in attributes.items():
        pair = made.add(key=key)
        pair.value.SetInParent()
        set_value(pair.value, value)


def fill(message: Any, data: Any) -> None:
    fields = {field.json_name: field for field in message.DESCRIPTOR.fields}
    for name, value in data.items():
        field = fields[name]
        if field.message_type is None:
            if field.is_repeated:
                getattr(message, field.name).extend(value)
            elif value is not None:
                setattr(message, field.name, bytes.fromhex(value) if field.type == field.TYPE_BYTES else value)
        elif field.message_type.name == "KeyValue":
            set_attributes(getattr(message, field.name), value)
        elif field.message_type.name == "AnyValue":
            message.body.SetInParent()
            set_value(message.body, value)
        elif field.is_repeated:
            for each in value:
                fill(getattr(message, field.name).add(), each)
        else:
            getattr(message, field.name).SetInParent()
            fill(getattr(message, field.name), value)


def meant(signal: str, records: list[Record]) -> Any:
    """The official message of `records`, which are of few resources and scopes."""
    make, of_resource, of_scope, name = REQUESTS[signal]
    request = make()
    resources: dict[Resource, Any] = {}
    scopes: dict[tuple[Resource, Scope], Any] = {}
    for resource, scope, data in records:
        if resource not in resources:
            resources[resource] = getattr(request, of_resource).add(schema_url=resource.schema_url)
            resources[resource].resource.SetInParent()
            set_attributes(resources[resource].resource.attributes, {**protobuf.SENDER, **resource.attributes})
        if (resource, scope) not in scopes:
            made = getattr(resources[resource], of_scope).add(schema_url=scope.schema_url)
            made.scope.SetInParent()
            made.scope.name, made.scope.version = scope.name, scope.version
            set_attributes(made.scope.attributes, dict(scope.attributes))
            scopes[resource, scope] = made
        fill(getattr(scopes[resource, scope], name).add(), data)
    return request


def parsed(signal: str, records: list[Record]) -> Any:
    request = REQUESTS[signal][0]()
    request.ParseFromString(protobuf.encode(signal, records))
    return request


# Any record

uint32, uint64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
int64, sint32 = st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(max_size=200)
values = st.recursive(
    st.none() | st.booleans() | int64 | finite | words | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=20,
)
attributes = st.dictionaries(words, values, max_size=5)


def ids(size: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=size, max_size=size).map(bytes.hex) | st.just("")


def filled(kind: Any) -> st.SearchStrategy[Any]:
    """A map of a kind declared in shipper/telemetry.py, with any of its fields."""
    by_name = {
        "body": values, "traceId": ids(16), "spanId": ids(8), "parentSpanId": ids(8), "asInt": int64,
        "timeUnixNano": uint64, "observedTimeUnixNano": uint64, "startTimeUnixNano": uint64, "endTimeUnixNano": uint64,
        "count": uint64, "zeroCount": uint64, "scale": sint32, "offset": sint32,
        "attributes": attributes, "filteredAttributes": attributes,
        "bucketCounts": st.lists(uint64, max_size=5), "explicitBounds": st.lists(finite, max_size=5),
        "kind": st.integers(0, 5), "code": st.integers(0, 2), "severityNumber": st.integers(0, 24),
        "aggregationTemporality": st.integers(0, 2),
        "sum": finite, "min": finite, "max": finite,
        "status": filled_lazily(telemetry.Status), "events": several(telemetry.Event), "links": several(telemetry.Link),
        "exemplars": exclusive(telemetry.Exemplar), "positive": filled_lazily(telemetry.Buckets),
        "negative": filled_lazily(telemetry.Buckets),
    }  # fmt: skip
    by_type = {str: words, int: uint32, float: finite, bool: st.booleans()}
    hints = get_type_hints(kind)
    fields = {name: by_name[name] if name in by_name else by_type[hint] for name, hint in hints.items()}
    return st.fixed_dictionaries({}, optional=fields)


def filled_lazily(kind: Any) -> st.SearchStrategy[Any]:
    return st.deferred(lambda: filled(kind))


def several(kind: Any) -> st.SearchStrategy[Any]:
    return st.lists(filled_lazily(kind), max_size=3)


def without(names: set[str]) -> Any:
    return lambda data: {name: value for name, value in data.items() if name not in names}


def exclusive(kind: Any, *forbidden: str) -> st.SearchStrategy[Any]:
    """Points or exemplars with one number at most."""
    either = st.sampled_from(["asInt", "asDouble"])
    return st.lists(
        st.builds(lambda data, name: without({name, *forbidden})(data), filled_lazily(kind), either), max_size=3
    )


IN_HISTOGRAM = ("count", "sum", "min", "max")
IN_EXPLICIT = ("bucketCounts", "explicitBounds")
IN_EXPONENTIAL = ("scale", "zeroCount", "zeroThreshold", "positive", "negative")
NOT_IN = {
    "gauge": (*IN_HISTOGRAM, *IN_EXPLICIT, *IN_EXPONENTIAL),
    "sum": (*IN_HISTOGRAM, *IN_EXPLICIT, *IN_EXPONENTIAL),
    "histogram": ("asInt", "asDouble", *IN_EXPONENTIAL),
    "exponentialHistogram": ("asInt", "asDouble", *IN_EXPLICIT),
}


def metric_data(kind: str) -> st.SearchStrategy[Any]:
    about = {"aggregationTemporality": st.integers(0, 2), "isMonotonic": st.booleans()}
    about = {"gauge": {}, "sum": about}.get(kind, {"aggregationTemporality": st.integers(0, 2)})
    return st.fixed_dictionaries({}, optional={"dataPoints": exclusive(telemetry.DataPoint, *NOT_IN[kind]), **about})


metrics = st.builds(
    lambda about, kind: {**about, **kind},
    st.fixed_dictionaries({}, optional={"name": words, "description": words, "unit": words}),
    st.one_of(*(st.fixed_dictionaries({kind: metric_data(kind)}) for kind in NOT_IN)),
)
DATA = {"logs": filled(telemetry.LogRecord), "traces": filled(telemetry.Span), "metrics": metrics}
resources = st.builds(Resource, attributes, words)
scopes = st.builds(Scope, words, words, words, attributes)


@st.composite
def batches(draw: Any, signal: str) -> list[Record]:
    """Records of a few resources and scopes, in any order."""
    of = st.sampled_from(draw(st.lists(resources, min_size=1, max_size=3)))
    by = st.sampled_from(draw(st.lists(scopes, min_size=1, max_size=3)))
    return draw(st.lists(st.builds(Record, of, by, DATA[signal]), max_size=5))


@pytest.mark.parametrize("signal", REQUESTS)
@given(st.data())
@settings(deadline=None, max_examples=100)
def test_any_record_is_parsed_by_the_official_messages_as_it_was_meant(signal: str, data: st.DataObject) -> None:
    """Every field, every kind of value, empty and default ones, grouped by resource and scope."""
    records = data.draw(batches(signal))
    assert parsed(signal, records) == meant(signal, records)


# What the official encoder makes of the same record, where sinks/sdk_objects.py can hand it over at all

scalars = st.booleans() | int64 | finite | words
# What the SDK takes as the attributes of resources, scopes, events and links; none without a name anywhere.
simple = st.dictionaries(words.filter(bool), scalars | st.lists(words, max_size=3), max_size=5)
named = st.dictionaries(words.filter(bool), values, max_size=5)
hexes = {size: st.binary(min_size=size, max_size=size).filter(any).map(bytes.hex) for size in (8, 16)}
context = {"traceId": hexes[16], "spanId": hexes[8]}
numbers = {"startTimeUnixNano": uint64, "timeUnixNano": uint64, "attributes": named}
number = st.fixed_dictionaries({"asInt": int64}) | st.fixed_dictionaries({"asDouble": finite})
exemplars = st.lists(
    st.builds(
        lambda *parts: {name: value for part in parts for name, value in part.items()},
        st.fixed_dictionaries({"timeUnixNano": uint64}, optional={"filteredAttributes": named}),
        number,
        st.just({}) | st.fixed_dictionaries(context),
    ),
    max_size=2,
)
counted = {**numbers, "exemplars": exemplars, "count": uint64, "sum": finite, "min": finite, "max": finite}
buckets = st.fixed_dictionaries({"offset": sint32, "bucketCounts": st.lists(uint64, min_size=1, max_size=4)})
temporality = st.sampled_from([1, 2])


def kind_of(name: str, point: Any, **about: Any) -> st.SearchStrategy[Any]:
    data = st.fixed_dictionaries({"dataPoints": st.lists(point, min_size=1, max_size=3), **about})
    return st.fixed_dictionaries({"name": words, "description": words, "unit": words, name: data})


SHARED = {
    "logs": st.fixed_dictionaries(
        {"timeUnixNano": uint64, "observedTimeUnixNano": uint64.filter(bool), "body": values},
        optional={
            "severityNumber": st.integers(0, 24), "severityText": words, "eventName": words, "attributes": named,
        },
    )
    | st.fixed_dictionaries(
        {**context, "observedTimeUnixNano": uint64.filter(bool), "body": words, "flags": st.integers(0, 255)}
    ),
    "traces": st.fixed_dictionaries(
        {
            **context, "name": words, "startTimeUnixNano": uint64, "endTimeUnixNano": uint64,
            "kind": st.integers(1, 5),
            "status": st.fixed_dictionaries({"code": st.just(2)}, optional={"message": words})
            | st.fixed_dictionaries({"code": st.sampled_from([0, 1])}),
        },
        optional={
            "parentSpanId": hexes[8], "traceState": st.just("a=b,c=d"), "attributes": named,
            "droppedAttributesCount": uint32, "droppedEventsCount": uint32, "droppedLinksCount": uint32,
            "events": st.lists(
                st.fixed_dictionaries({"name": words, "timeUnixNano": uint64}, optional={"attributes": simple}),
                max_size=2,
            ),
            "links": st.lists(
                st.fixed_dictionaries(context, optional={"attributes": simple}), max_size=2,
            ),
        },
    ),
    "metrics": st.one_of(
        kind_of("gauge", st.builds(
            lambda *parts: {name: value for part in parts for name, value in part.items()},
            st.fixed_dictionaries({"timeUnixNano": uint64, "attributes": named, "exemplars": exemplars}), number,
        )),
        kind_of("sum", st.builds(
            lambda *parts: {name: value for part in parts for name, value in part.items()},
            st.fixed_dictionaries({**numbers, "exemplars": exemplars}), number,
        ), aggregationTemporality=temporality, isMonotonic=st.booleans()),
        kind_of("histogram", st.fixed_dictionaries({
            **counted, "bucketCounts": st.lists(uint64, max_size=5), "explicitBounds": st.lists(finite, max_size=5),
        }), aggregationTemporality=temporality),
        kind_of("exponentialHistogram", st.fixed_dictionaries({
            **counted, "scale": sint32, "zeroCount": uint64, "positive": buckets, "negative": buckets, "flags": uint32,
        }), aggregationTemporality=temporality),
    ),
}  # fmt: skip


def officially(signal: str, records: list[Record]) -> Any:
    encode = {"logs": encode_logs, "traces": encode_spans, "metrics": encode_metrics}[signal]
    return encode(sdk_objects.OF[signal](records))


@pytest.mark.parametrize("signal", REQUESTS)
@given(st.data())
@settings(deadline=None, max_examples=100)
def test_any_record_is_encoded_as_by_the_official_encoder(signal: str, data: st.DataObject) -> None:
    """But for what it has no place for, or has wrong.

    It is another SDK. Of spans and links it leaves out the W3C flags, and marks them as not remote; it also
    leaves out trace states and dropped counts of links, dropped counts of events and of log records, the start of a
    gauge, flags of numbers and of explicit histograms, thresholds of zero. Ours sends what the record holds.
    """
    of, by = st.builds(Resource, simple, words), st.builds(Scope, words, words, words, simple)
    record = data.draw(st.builds(Record, of, by, SHARED[signal]))
    official = officially(signal, [record])
    for resource in getattr(official, REQUESTS[signal][1]):
        for name, value in protobuf.SENDER.items():
            next(each for each in resource.resource.attributes if each.key == name).value.string_value = value
        for span in (span for scope in getattr(resource, "scope_spans", ()) for span in scope.spans):
            span.flags = 0
            for link in span.links:
                link.flags = 0
    assert parsed(signal, [record]) == official


def log_of(body: Any = None, **fields: Any) -> Record:
    return Record(Resource({}), Scope(""), {"body": body, **fields})


def body_of(value: Any) -> Any:
    return parsed("logs", [log_of(value)]).resource_logs[0].scope_logs[0].log_records[0].body


class Level(enum.IntEnum):
    HIGH = 3


class Name(str):
    __slots__ = ()


@given(
    st.recursive(
        st.text(st.characters(), max_size=30) | st.integers() | st.just(Level.HIGH) | st.builds(Name, words),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text(st.characters(), max_size=9), inner, max_size=3).map(OrderedDict)
        ),
    )
)
@settings(deadline=None)
def test_a_value_that_was_not_made_fit_is_encoded_as_it_is_when_made_fit(value: Any) -> None:
    """Halves of characters, integers of any size, tuples, kinds of strings, numbers and maps."""
    assert body_of(value) == any_value(otlp_values.fit(value))
    record = parsed("logs", [log_of(attributes={"key": value})]).resource_logs[0].scope_logs[0].log_records[0]
    assert record.attributes[0].value == any_value(otlp_values.fit(value))


@pytest.mark.parametrize("size", [0, 1, 121, 122, 123, 124, 125, 126, 127, 128, 16_383, 16_384, 3_000_000])
def test_texts_of_any_length(size: int) -> None:
    """Around each length at which one of the sizes that stand before it takes one byte more."""
    text = "x" * size
    record = log_of(text, attributes={"key": text, text: "value", "wide": "ä" * size})
    assert parsed("logs", [record]) == meant("logs", [record])


def test_a_value_as_deep_as_it_may_be_is_read_by_a_parser_with_the_usual_limit() -> None:
    """Whatever stands around it."""
    value: Any = "bottom"
    for _ in range(200):
        value = {"in": value}
    fitting = otlp_values.fit(value)
    record = log_of(fitting, attributes={"key": fitting})
    assert parsed("logs", [record]) == meant("logs", [record])


def test_the_caches_are_bounded() -> None:
    """Keys, sizes, ids and resources without number, as in a shipper that lives for a hundred runs."""
    for number in range(3_000):
        record = Record(
            Resource({"number": number}),
            Scope(str(number)),
            {"body": "x" * number, "traceId": f"{number:032x}", "attributes": {str(number): 0, "x" * 10_000: 0}},
        )
        assert parsed("logs", [record]) == meant("logs", [record])
    memos = [memo for memo in vars(protobuf).values() if isinstance(memo, protobuf._Memo)]
    assert memos
    assert max(map(len, memos)) <= 1024
    assert max(len(made) for memo in memos for made in memo.values()) <= 4096


def test_a_record_that_its_message_cannot_hold_is_an_error() -> None:
    """Never a request with other contents."""
    logs: list[Any] = [
        {"timeUnixNano": -1}, {"traceId": "no digits"}, {"flags": 1 << 32}, {"severityText": 7},
        {"droppedAttributesCount": -1}, {"droppedAttributesCount": 1 << 32},
    ]  # fmt: skip
    points: list[Any] = [
        {"scale": 1 << 31}, {"positive": {"bucketCounts": [-1]}}, {"negative": {"bucketCounts": [1 << 64]}},
        {"count": 1 << 64}, {"sum": "much"},
    ]  # fmt: skip
    wrong = [("logs", data) for data in logs]
    wrong += [("metrics", {"exponentialHistogram": {"dataPoints": [point]}}) for point in points]
    for signal, data in wrong:
        with pytest.raises(Exception):  # noqa: B017, PT011 - of which kind is of no interest
            protobuf.encode(signal, [Record(Resource({}), Scope(""), data)])


# The tables against the schema, by reflection

MESSAGES = {
    "LOG_RECORD": (telemetry.LogRecord, logs_pb2.LogRecord),
    "SPAN": (telemetry.Span, trace_pb2.Span),
    "EVENT": (telemetry.Event, trace_pb2.Span.Event),
    "LINK": (telemetry.Link, trace_pb2.Span.Link),
    "STATUS": (telemetry.Status, trace_pb2.Status),
    "EXEMPLAR": (telemetry.Exemplar, metrics_pb2.Exemplar),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_plain_records_have_every_field_of_their_messages(name: str) -> None:
    """A field that a new version of the schema brings is missed here first."""
    plain, official = MESSAGES[name]
    assert set(get_type_hints(plain)) == {field.json_name for field in official.DESCRIPTOR.fields}


def test_points_have_every_field_of_theirs() -> None:
    """Of the three kinds of points together."""
    kinds = (metrics_pb2.NumberDataPoint, metrics_pb2.HistogramDataPoint, metrics_pb2.ExponentialHistogramDataPoint)
    official = {field.json_name for kind in kinds for field in kind.DESCRIPTOR.fields}
    assert set(get_type_hints(telemetry.DataPoint)) == official


def loaded(module: str) -> Iterator[str]:
    found = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    yield from found.stdout.split()


def test_the_encoder_loads_neither_the_sdk_nor_protobuf() -> None:
    """Though both are installed here."""
    found = set(loaded("otel_metaflow.shipper.sinks.protobuf"))
    assert not {"opentelemetry", "google", "requests", "psutil", "grpc"} & found
