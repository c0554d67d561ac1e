"""Exports a run as the JSON that Jaeger's UI reads (Search, JSON File), in its own model of a trace.

https://github.com/jaegertracing/jaeger-ui/blob/main/packages/jaeger-ui/src/types/trace.tsx
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from otel_metaflow.viewer.exports import otlp_json

_KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
_ERROR = 2


def document(requests: Iterable[otlp_json.Message]) -> dict[str, Any]:
    """The traces of a run's requests."""
    traces: dict[str, dict[str, Any]] = {}
    ids: dict[str, str] = {}  # of equal resources there is one process
    for span, resource in otlp_json.spans(requests):
        trace = traces.setdefault(span["traceId"], {"traceID": span["traceId"], "spans": [], "processes": {}})
        process = ids.setdefault(json.dumps(resource), f"p{len(ids) + 1}")
        if process not in trace["processes"]:
            trace["processes"][process] = _process(resource)
        trace["spans"].append(_span(span, process))
    return {"data": list(traces.values())}


def _process(resource: dict[str, Any]) -> dict[str, Any]:
    return {"serviceName": str(resource.get("service.name", "metaflow")), "tags": list(_tags(resource))}


def _span(span: otlp_json.Message, process: str) -> dict[str, Any]:
    start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
    status = span.get("status", {})
    attributes = {
        "span.kind": _KINDS.get(span.get("kind", 0), "internal"),
        **otlp_json.plain(span.get("attributes", ())),
    }
    if status.get("code") == _ERROR:
        attributes.update({"error": True, "otel.status_code": "ERROR"})
        attributes.update({"otel.status_description": status["message"]} if status.get("message") else {})
    return {
        "traceID": span["traceId"],
        "spanID": span["spanId"],
        "operationName": span["name"],
        "references": list(_references(span)),
        "startTime": start // 1000,
        "duration": max(0, end - start) // 1000,
        "tags": list(_tags(attributes)),
        "logs": [_log(event) for event in span.get("events", ())],
        "processID": process,
        "warnings": None,
    }


def _references(span: otlp_json.Message) -> Iterator[dict[str, str]]:
    if span.get("parentSpanId"):
        yield {"refType": "CHILD_OF", "traceID": span["traceId"], "spanID": span["parentSpanId"]}
    for link in span.get("links", ()):
        yield {"refType": "FOLLOWS_FROM", "traceID": link["traceId"], "spanID": link["spanId"]}


def _log(event: otlp_json.Message) -> dict[str, Any]:
    fields = {"event": event.get("name", ""), **otlp_json.plain(event.get("attributes", ()))}
    return {"timestamp": int(event["timeUnixNano"]) // 1000, "fields": list(_tags(fields))}


def _tags(attributes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key, value in attributes.items():
        if isinstance(value, bool):
            yield {"key": key, "type": "bool", "value": value}
        elif isinstance(value, int):
            yield {"key": key, "type": "int64", "value": value}
        elif isinstance(value, float):
            yield {"key": key, "type": "float64", "value": value}
        else:
            yield {"key": key, "type": "string", "value": value if isinstance(value, str) else json.dumps(value)}
