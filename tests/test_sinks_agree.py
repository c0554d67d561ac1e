"""A run is the same telemetry whichever sink sends it: the official exporters, or the standard library's."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from journals import BEGIN, Journals

from otel_metaflow.core.settings import SIGNALS, Destination, Settings
from otel_metaflow.shipper.delivery import Delivery
from otel_metaflow.shipper.sinks import answers, protobuf, sdk_objects
from otel_metaflow.shipper.sinks.answers import Answer, Exporter
from otel_metaflow.shipper.telemetry import Record

ENCODERS = {
    "traces": ("trace_encoder", "encode_spans"),
    "metrics": ("metrics_encoder", "encode_metrics"),
    "logs": ("_log_encoder", "encode_logs"),
}
IDS = {"traceId": "1" * 32, "spanId": "2" * 16}
AT = BEGIN + 10**9
EXEMPLAR = {"timeUnixNano": AT, "asDouble": 0.5, **IDS, "filteredAttributes": {"a": 1}}
POINT = {"attributes": {"k": "v"}, "startTimeUnixNano": BEGIN, "timeUnixNano": AT}
SPREAD = {**POINT, "count": 2, "sum": 3.5, "min": 0.5, "max": 3.0}
SCOPE = {"name": "library", "version": "1", "schemaUrl": "https://example.com/1", "attributes": {"kind": "user"}}
USERS: list[dict[str, Any]] = [
    {"kind": "log", "severityNumber": 30, "severityText": "WARNING", "logger": "a.b", "body": "\u2713 of 2", "line": 7,
     "attributes": {"order": {"id": 1, "lines": [1.5, None, True]}, "event.name": "paid"}},
    {"kind": "log", "body": '{"event": "paid", "sum": 3}', "exception": {"type": "E", "message": "m"}},
    {"kind": "record", "body": {"a": [1, {"b": "c"}]}, "severityNumber": 21, "eventName": "e", **IDS, "flags": 1},
    {"kind": "span", "name": "load", **IDS, "parentSpanId": "3" * 16, "spanKind": 3, "startTimeUnixNano": BEGIN,
     "endTimeUnixNano": AT, "attributes": {"n": -1, "x": [1, 2]}, "droppedAttributesCount": 2,
     "traceState": "a=1,b=2", "events": [{"name": "e", "timeUnixNano": AT, "attributes": {"k": "v"}}],
     "links": [{**IDS, "attributes": {"k": "v"}}], "status": {"code": 2, "message": "no"}},
    {"kind": "metric", "name": "g", "unit": "1", "gauge": {"dataPoints": [{"timeUnixNano": AT, "asDouble": -0.5}]}},
    {"kind": "metric", "name": "s", "description": "d", "sum": {
        "dataPoints": [{**POINT, "asInt": 3, "exemplars": [EXEMPLAR]}], "aggregationTemporality": 1, "isMonotonic": True
    }},
    {"kind": "metric", "name": "h", "histogram": {
        "dataPoints": [{**SPREAD, "bucketCounts": [1, 1], "explicitBounds": [1.0]}], "aggregationTemporality": 2
    }},
    {"kind": "metric", "name": "x", "exponentialHistogram": {
        "dataPoints": [{**SPREAD, "scale": 3, "zeroCount": 0, "flags": 0, "positive": {"offset": -2,
                        "bucketCounts": [1, 1]}, "negative": {"offset": 0, "bucketCounts": []}}],
        "aggregationTemporality": 1,
    }},
]  # fmt: skip


def recorded(home: Path) -> Path:
    """A run with all that there is: a failure, a retry, lines, logging records, spans and metrics of user code."""
    journals = Journals(home)
    journals.step("start", "end")
    journals.print(0.5, "2026-11-23 09:29:20.693 [1/start/1 (pid 14466)] Task is starting.")
    error = {"type": "ValueError", "message": "shard 3", "stacktrace": "Traceback …"}
    journals.attempt("start", 1, 1, 1, lines=["a line", "another\rover it"], result="failure", exception=error)
    records = [{"timeUnixNano": AT, "scope": SCOPE, **record} for record in USERS]
    journals.attempt("start", 1, 3, 1, attempt=1, records=records, attributes={"team": "a"})
    journals.attempt("end", 2, 9, 1, inputs=[("start", 1)])
    journals.end(12)
    return journals.folder


@pytest.mark.parametrize("buckets", ["", "base2_exponential_bucket_histogram"])
def test_both_sinks_make_the_same_requests_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buckets: str
) -> None:
    """Record by record and field by field, except for the SDK's own attributes, and what its encoders leave out."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", buckets)
    folder = recorded(tmp_path)
    batches: list[tuple[str, Sequence[Record]]] = []

    def build(destination: Destination) -> Exporter:
        def keep(records: Sequence[Record]) -> Answer:
            batches.append((destination.signal, records))
            return answers.DELIVERED

        return keep

    destinations = {signal: Destination(signal, "http/protobuf", "http://none", "") for signal in SIGNALS}
    environment = Settings(home=tmp_path, destinations=destinations)
    assert Delivery(tmp_path, folder, environment, threading.Event(), build).work(linger=0)
    assert {signal for signal, _ in batches} == set(SIGNALS)
    for signal, records in batches:
        module, name = ENCODERS[signal]
        encode = getattr(importlib.import_module(f"opentelemetry.exporter.otlp.proto.common.{module}"), name)
        official = encode(sdk_objects.OF[signal](records))
        plain = type(official).FromString(protobuf.encode(signal, records))
        for message in (official, plain):
            _leave_out(message)
        assert plain == official


def _leave_out(message: Any) -> None:
    for of_resource in message.ListFields()[0][1]:
        attributes = of_resource.resource.attributes
        kept = [each for each in attributes if not each.key.startswith("telemetry.sdk.")]
        del attributes[:]
        attributes.extend(kept)
        for of_scope in getattr(of_resource, "scope_spans", ()):
            for span in of_scope.spans:
                for each in (span, *span.links):
                    each.flags = 0  # those of the W3C
                for link in span.links:
                    link.trace_state = ""
        for of_scope in getattr(of_resource, "scope_metrics", ()):
            for metric in of_scope.metrics:
                for point in metric.exponential_histogram.data_points:
                    if not point.negative.bucket_counts:
                        point.ClearField("negative")
