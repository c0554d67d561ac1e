"""Encodes plain records as an OTLP request, by the standard library alone.

Where no library can be: in a user's container, whose image has neither the SDK nor protobuf. The tables below are those
of opentelemetry-proto 1.x (https://github.com/open-telemetry/opentelemetry-proto), each message in the order of its
field numbers; the wire format is https://protobuf.dev/programming-guides/encoding/. As proto3 has it, a field that
holds its default is left out, unless it is one of those that know whether they were set. tests/test_protobuf.py holds
all of it to the official messages.
"""

from __future__ import annotations

import struct
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Tuple, Union

from otel_metaflow.core import otlp_values
from otel_metaflow.core.version import __version__
from otel_metaflow.shipper.telemetry import Record, Resource, Scope

Encode = Callable[[Any], bytes]
Fields = Tuple[Tuple[str, Encode], ...]

# How many results of a kind are cached, and their maximum size in bytes.
_MAX_RESULTS, _MAX_LENGTH = 1024, 4096
# Resources hold on to their attributes.
_MAX_RESOURCES = 64
# Who sends (https://opentelemetry.io/docs/specs/semconv/resource/#telemetry-sdk); elsewhere the SDK names itself.
SENDER = {
    "telemetry.sdk.language": "python",
    "telemetry.sdk.name": "otel-metaflow",
    "telemetry.sdk.version": __version__,
}
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types


class _Memo(Dict[Any, bytes]):
    """A cache of a function's results for recent arguments, as fast as a dictionary."""

    def __init__(self, make: Encode, limit: int = _MAX_RESULTS) -> None:
        super().__init__()
        self._make, self._limit = make, limit

    def __missing__(self, key: Any) -> bytes:
        made = self._make(key)
        if len(made) <= _MAX_LENGTH:
            if len(self) >= self._limit:
                self.clear()
            self[key] = made
        return made


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{value} is not of 64 bits without a sign")
    made = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


_SIZES = _Memo(_varint)
# What stands in a KeyValue between its key and a text of so many bytes: the size of the AnyValue, and its head.
_TEXT_HEADS = _Memo(lambda size: _varint(1 + len(_varint(size)) + size) + b"\x0a" + _varint(size))


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a character
        return otlp_values.whole(text).encode()


def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


# AnyValue, KeyValue


def _key(key: str) -> bytes:
    """The first field of a KeyValue, and the tag of its second."""
    text = _utf8(key)
    return b"\x0a" + _SIZES[len(text)] + text + b"\x12"


_KEYS = _Memo(_key)


def _any_value(value: Any) -> bytes:
    """A message AnyValue; nothing in it stands for null."""
    kind = value.__class__
    if kind is str:
        text = _utf8(value)
        return b"\x0a" + _SIZES[len(text)] + text
    make = _VALUES.get(kind)
    if make is not None:
        return make(value)
    return _any_value(otlp_values.fit(value))  # a kind of string, number, list or map


def _int_value(value: int) -> bytes:
    if -(1 << 63) <= value < 1 << 63:
        return b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)  # a negative one as its two's complement
    return _any_value(otlp_values.fit(value))


def _array_value(values: Iterable[Any]) -> bytes:
    made = b"".join([b"\x0a" + _SIZES[len(each)] + each for each in map(_any_value, values)])
    return b"\x2a" + _SIZES[len(made)] + made


def _map_value(values: Mapping[str, Any]) -> bytes:
    made = _key_values(b"\x0a", values)
    return b"\x32" + _SIZES[len(made)] + made


def _key_values(tag: bytes, values: Mapping[str, Any]) -> bytes:
    """A field of KeyValue, once for each of `values`."""
    made: List[bytes] = []
    keys, sizes, heads = _KEYS, _SIZES, _TEXT_HEADS
    for key, value in values.items():
        if value.__class__ is str and value.isascii():  # as most are
            pair = keys[key] + heads[len(value)] + value.encode()
        else:
            encoded = _any_value(value)
            pair = keys[key] + sizes[len(encoded)] + encoded
        made += tag, sizes[len(pair)], pair
    return b"".join(made)


_double = struct.Struct("<d").pack
_VALUES: Dict[type, Encode] = {
    type(None): lambda _: b"",
    bool: lambda value: b"\x10\x01" if value else b"\x10\x00",
    int: _int_value,
    float: lambda value: b"\x21" + _double(value),
    list: _array_value,
    dict: _map_value,
    bytes: lambda value: b"\x3a" + _SIZES[len(value)] + value,
}


# Kinds of fields: each makes the function that encodes a value as the field of that number


def _string(number: int) -> Encode:
    tag = _tag(number, _LENGTH)

    def encode(value: str) -> bytes:
        if not value:
            return b""
        text = _utf8(value)
        return tag + _SIZES[len(text)] + text

    return encode


def _id(number: int) -> Encode:
    """The bytes of hex digits."""
    tag = _tag(number, _LENGTH)

    def encode(value: str) -> bytes:
        made = bytes.fromhex(value)
        return tag + _SIZES[len(made)] + made if made else b""

    return _Memo(encode).__getitem__


def _unsigned(number: int) -> Encode:
    """Of kind uint32, bool or enum."""
    tag = _tag(number, _VARINT)

    def encode(value: int) -> bytes:
        if not 0 <= value < 1 << 32:
            raise ValueError(f"{value} is not of 32 bits without a sign")
        return tag + _varint(value) if value else b""

    return _Memo(encode).__getitem__


def _signed(number: int) -> Encode:
    """Of kind sint32: the sign is the lowest bit."""
    tag = _tag(number, _VARINT)

    def encode(value: int) -> bytes:
        if not -(1 << 31) <= value < 1 << 31:
            raise ValueError(f"{value} is not of 32 bits")
        return tag + _varint(value << 1 ^ value >> 31) if value else b""

    return encode


def _fixed(number: int, form: str, *, is_optional: bool = False) -> Encode:
    """Of kind fixed32, fixed64, sfixed64 or double; an optional one is there with its default, too."""
    tag = _tag(number, _FIXED32 if form == "I" else _FIXED64)
    pack = struct.Struct(f"<{len(tag)}s{form}").pack
    if is_optional:
        return lambda value: b"" if value is None else pack(tag, value)
    return lambda value: pack(tag, value) if value else b""


def _packed(number: int, pack: Callable[[List[Any]], bytes]) -> Encode:
    """Of numbers, all of them in one field."""
    tag = _tag(number, _LENGTH)

    def encode(values: List[Any]) -> bytes:
        made = pack(values)
        return tag + _SIZES[len(made)] + made if made else b""

    return encode


def _value(number: int) -> Encode:
    tag = _tag(number, _LENGTH)

    def encode(value: Any) -> bytes:
        made = _any_value(value)
        return tag + _SIZES[len(made)] + made

    return encode


def _attributes(number: int) -> Encode:
    tag = _tag(number, _LENGTH)
    return lambda values: _key_values(tag, values) if values else b""


def _message(fields: Fields) -> Encode:
    """A message of these fields, without its tag and its size."""

    def encode(values: Mapping[str, Any]) -> bytes:
        return b"".join([make(values[name]) for name, make in fields if name in values])

    return encode


def _one(number: int, make: Encode) -> Encode:
    """A message in a message."""
    tag = _tag(number, _LENGTH)

    def encode(values: Any) -> bytes:
        made = make(values)
        return tag + _SIZES[len(made)] + made

    return encode


def _many(number: int, make: Encode) -> Encode:
    """Messages in a message."""
    one = _one(number, make)
    return lambda values: b"".join(map(one, values)) if values else b""


# The messages

_LOG_RECORD = _message((
    ("timeUnixNano", _fixed(1, "Q")),
    ("severityNumber", _unsigned(2)),
    ("severityText", _string(3)),
    ("body", _value(5)),
    ("attributes", _attributes(6)),
    ("droppedAttributesCount", _unsigned(7)),
    ("flags", _fixed(8, "I")),
    ("traceId", _id(9)),
    ("spanId", _id(10)),
    ("observedTimeUnixNano", _fixed(11, "Q")),
    ("eventName", _string(12)),
))  # fmt: skip
_EVENT = _message((
    ("timeUnixNano", _fixed(1, "Q")),
    ("name", _string(2)),
    ("attributes", _attributes(3)),
    ("droppedAttributesCount", _unsigned(4)),
))  # fmt: skip
_LINK = _message((
    ("traceId", _id(1)),
    ("spanId", _id(2)),
    ("traceState", _string(3)),
    ("attributes", _attributes(4)),
    ("droppedAttributesCount", _unsigned(5)),
    ("flags", _fixed(6, "I")),
))  # fmt: skip
_SPAN = _message((
    ("traceId", _id(1)),
    ("spanId", _id(2)),
    ("traceState", _string(3)),
    ("parentSpanId", _id(4)),
    ("name", _string(5)),
    ("kind", _unsigned(6)),
    ("startTimeUnixNano", _fixed(7, "Q")),
    ("endTimeUnixNano", _fixed(8, "Q")),
    ("attributes", _attributes(9)),
    ("droppedAttributesCount", _unsigned(10)),
    ("events", _many(11, _EVENT)),
    ("droppedEventsCount", _unsigned(12)),
    ("links", _many(13, _LINK)),
    ("droppedLinksCount", _unsigned(14)),
    ("status", _one(15, _message((("message", _string(2)), ("code", _unsigned(3)))))),
    ("flags", _fixed(16, "I")),
))  # fmt: skip


def _doubles(values: List[float]) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


def _fixed64s(values: List[int]) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def _varints(values: List[int]) -> bytes:
    return b"".join(map(_varint, values))


_EXEMPLAR = _message((
    ("timeUnixNano", _fixed(2, "Q")),
    ("asDouble", _fixed(3, "d", is_optional=True)),
    ("spanId", _id(4)),
    ("traceId", _id(5)),
    ("asInt", _fixed(6, "q", is_optional=True)),
    ("filteredAttributes", _attributes(7)),
))  # fmt: skip
_NUMBER = _message((
    ("startTimeUnixNano", _fixed(2, "Q")),
    ("timeUnixNano", _fixed(3, "Q")),
    ("asDouble", _fixed(4, "d", is_optional=True)),
    ("exemplars", _many(5, _EXEMPLAR)),
    ("asInt", _fixed(6, "q", is_optional=True)),
    ("attributes", _attributes(7)),
    ("flags", _unsigned(8)),
))  # fmt: skip
_HISTOGRAM = _message((
    ("startTimeUnixNano", _fixed(2, "Q")),
    ("timeUnixNano", _fixed(3, "Q")),
    ("count", _fixed(4, "Q")),
    ("sum", _fixed(5, "d", is_optional=True)),
    ("bucketCounts", _packed(6, _fixed64s)),
    ("explicitBounds", _packed(7, _doubles)),
    ("exemplars", _many(8, _EXEMPLAR)),
    ("attributes", _attributes(9)),
    ("flags", _unsigned(10)),
    ("min", _fixed(11, "d", is_optional=True)),
    ("max", _fixed(12, "d", is_optional=True)),
))  # fmt: skip
_BUCKETS = _message((("offset", _signed(1)), ("bucketCounts", _packed(2, _varints))))
_EXPONENTIAL_HISTOGRAM = _message((
    ("attributes", _attributes(1)),
    ("startTimeUnixNano", _fixed(2, "Q")),
    ("timeUnixNano", _fixed(3, "Q")),
    ("count", _fixed(4, "Q")),
    ("sum", _fixed(5, "d", is_optional=True)),
    ("scale", _signed(6)),
    ("zeroCount", _fixed(7, "Q")),
    ("positive", _one(8, _BUCKETS)),
    ("negative", _one(9, _BUCKETS)),
    ("flags", _unsigned(10)),
    ("exemplars", _many(11, _EXEMPLAR)),
    ("min", _fixed(12, "d", is_optional=True)),
    ("max", _fixed(13, "d", is_optional=True)),
    ("zeroThreshold", _fixed(14, "d", is_optional=True)),  # -0.0 is no default
))  # fmt: skip


def _points(point: Encode) -> Encode:
    """What a metric has of its kind."""
    return _message((
        ("dataPoints", _many(1, point)),
        ("aggregationTemporality", _unsigned(2)),
        ("isMonotonic", _unsigned(3)),
    ))  # fmt: skip


_METRIC = _message((
    ("name", _string(1)),
    ("description", _string(2)),
    ("unit", _string(3)),
    ("gauge", _one(5, _points(_NUMBER))),
    ("sum", _one(7, _points(_NUMBER))),
    ("histogram", _one(9, _points(_HISTOGRAM))),
    ("exponentialHistogram", _one(10, _points(_EXPONENTIAL_HISTOGRAM))),
))  # fmt: skip
_RECORDS: Mapping[str, Encode] = {"logs": _LOG_RECORD, "traces": _SPAN, "metrics": _METRIC}


# Around them, the same for each signal: ResourceLogs and ScopeLogs, and so on

_schema_url = _string(3)
_resource_attributes = _attributes(1)
_scope_fields = _message((("name", _string(1)), ("version", _string(2)), ("attributes", _attributes(3))))


def _resource(of: Tuple[Resource, Tuple[Tuple[str, str], ...]]) -> bytes:
    """A message Resource as the first field, of a resource and of who sends."""
    resource, sender = of
    made = _resource_attributes({**dict(sender), **resource.attributes})
    return b"\x0a" + _SIZES[len(made)] + made


def _scope(scope: Scope) -> bytes:
    """A message InstrumentationScope as the first field."""
    made = _scope_fields({"name": scope.name, "version": scope.version, "attributes": scope.attributes})
    return b"\x0a" + _SIZES[len(made)] + made


_RESOURCES = _Memo(_resource, _MAX_RESOURCES)
_SCOPES = _Memo(_scope, _MAX_RESOURCES)


def encode(signal: str, records: Iterable[Record], sender: Mapping[str, str] = SENDER) -> bytes:
    """The request of one signal: ExportLogsServiceRequest, ExportTraceServiceRequest or ExportMetricsServiceRequest.

    Records of the same resource and scope stand together. What a resource or a scope holds must not change once a
    record of it was encoded. `sender` is what each resource gets of who sends.

    Raises:
        Exception: a record holds what its fields cannot, such as a time before 1970; its attributes and body may hold
            anything.
    """
    make = _RECORDS[signal]
    groups: Dict[Resource, Dict[Scope, List[bytes]]] = {}
    for resource, scope, data in records:
        encoded = make(data)
        scopes = groups.get(resource)
        if scopes is None:
            scopes = groups[resource] = {}
        parts = scopes.get(scope)
        if parts is None:
            parts = scopes[scope] = []
        parts += b"\x12", _SIZES[len(encoded)], encoded
    request: List[bytes] = []
    sent_by = tuple(sender.items())
    for resource, scopes in groups.items():
        of_resource = [_RESOURCES[resource, sent_by]]
        for scope, parts in scopes.items():
            of_scope = b"".join([_SCOPES[scope], *parts, _schema_url(scope.schema_url)])
            of_resource += b"\x12", _SIZES[len(of_scope)], of_scope
        made = b"".join([*of_resource, _schema_url(resource.schema_url)])
        request += b"\x0a", _SIZES[len(made)], made
    return b"".join(request)


# Responses: ExportLogsServiceResponse and those of traces and metrics


def partial_success(response: bytes) -> Tuple[int, str]:
    """The number of records that an endpoint rejected, and why; 0 if its response cannot be read."""
    rejected, message = 0, ""
    try:
        for number, part in _read_fields(response):
            if number == 1 and isinstance(part, bytes):
                for inner, value in _read_fields(part):
                    if inner == 1 and isinstance(value, int):
                        rejected = value
                    elif inner == 2 and isinstance(value, bytes):  # noqa: PLR2004 - error_message
                        message = value.decode()
    except (IndexError, ValueError):
        return 0, ""
    return (rejected if rejected < 1 << 63 else 0), message


def _read_fields(data: bytes) -> Iterator[Tuple[int, Union[int, bytes]]]:
    """The fields of a message: their numbers, and integers or bytes.

    Raises:
        IndexError: it ends too early.
        ValueError: it is none.
    """
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        if tag & 7 == _VARINT:
            number, at = _read_varint(data, at)
            yield tag >> 3, number
            continue
        if tag & 7 == _LENGTH:
            size, at = _read_varint(data, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(tag & 7, -1)
        if not 0 <= size <= len(data) - at:
            raise ValueError("no message")
        yield tag >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> Tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] <= 0x7F:  # noqa: PLR2004 - seven bits
            return value, at
