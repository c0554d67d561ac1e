"""What OTLP can carry of any value, and that it is carried."""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._internal import _encode_attributes, _encode_value
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs

from otel_metaflow.core import otlp_values

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**308, -(10**400), 10**4299])
    | st.floats()
    | st.text(st.characters())  # halves of characters with them
    | st.sampled_from(["\ud800", "a\udfffb", "\x00"])
)
ANY = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner))


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (2**63 - 1, 2**63 - 1),
        (2**63, "9223372036854775808"),
        (-(2**63), -(2**63)),
        (-(2**63) - 1, "-9223372036854775809"),
        (10**308, "1" + "0" * 308),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (1.5, 1.5),
        (True, True),
        (None, None),
        ("a\ud800b", "a\ufffdb"),
        ([1, "a", None, [2.5, {"b": math.nan}]], [1, "a", None, [2.5, {"b": "NaN"}]]),
        ({1: "a", None: "b", False: "c", "d\udc00": "d"}, {"1": "a", "null": "b", "false": "c", "d\ufffd": "d"}),
        ((1, 2), [1, 2]),
    ],
)
def test_a_value_beyond_otlp_becomes_a_string(given: Any, right: Any) -> None:
    assert otlp_values.fit(given) == right
    assert type(otlp_values.fit(given)) is type(right)


@pytest.mark.parametrize("depth", [otlp_values.MAX_DEPTH + 1, 500, 100_000])
@pytest.mark.parametrize("kind", ["list", "map"])
def test_a_value_nested_too_deep_becomes_its_json(depth: int, kind: str) -> None:
    nested: Any = math.inf
    for _ in range(depth):
        nested = [nested] if kind == "list" else {"a": nested}
    found = otlp_values.fit(nested)
    for _ in range(otlp_values.MAX_DEPTH):
        found = found[0] if kind == "list" else found["a"]
    left = depth - otlp_values.MAX_DEPTH
    opening, closing = ("[", "]") if kind == "list" else ('{"a":', "}")
    assert found == opening * left + '"Infinity"' + closing * left


def test_an_integer_that_python_refuses_to_write_is_hexadecimal() -> None:
    """Beyond 4,300 digits `str` raises, and below that its time is quadratic."""
    huge = 10**5000
    assert int(otlp_values.fit(huge), 16) == huge
    assert otlp_values.text([huge]) == f'["{hex(huge)}"]'


def test_a_value_whose_str_fails_is_recorded_by_its_type() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    assert otlp_values.fit([Broken()]) == ["<Broken>"]


@given(ANY)
def test_any_value_is_encoded_whole_and_decoded_by_the_strictest(value: Any) -> None:
    """Nothing is dropped by the SDK's encoder, protobuf's decoder takes it, and its JSON is JSON."""
    fitting = otlp_values.fit(value)
    record = LogRecord(body=_encode_value(fitting), attributes=_encode_attributes({"a": fitting}))
    assert len(record.attributes) == 1
    request = ExportLogsServiceRequest(resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=[record])])])
    assert ExportLogsServiceRequest.FromString(request.SerializeToString()) == request
    assert json.loads(json.dumps(fitting, allow_nan=False)) == fitting
    json.loads(otlp_values.text([value]), parse_constant=_refuse)


def test_the_deepest_value_is_decoded_within_a_link_of_a_span() -> None:
    """Of all places the deepest: request, resource, scope, span, link, attribute."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    nested: Any = 1
    for _ in range(1000):
        nested = {"a": nested}
    request = ExportTraceServiceRequest()
    link = request.resource_spans.add().scope_spans.add().spans.add().links.add()
    link.attributes.extend(_encode_attributes({"a": otlp_values.fit(nested)}))
    assert ExportTraceServiceRequest.FromString(request.SerializeToString()) == request


def test_the_time_is_linear_in_the_size() -> None:
    """Of a value of one shape ten times as large: not a hundred times as long."""

    def seconds(size: int) -> float:
        nested: Any = "x"
        for _ in range(size):
            nested = [nested, {"a": 1}]
        best = math.inf
        for _ in range(3):
            begun = time.perf_counter()
            otlp_values.fit(nested)
            best = min(best, time.perf_counter() - begun)
        return best

    assert seconds(100_000) < 40 * max(seconds(10_000), sys.float_info.epsilon)


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")
