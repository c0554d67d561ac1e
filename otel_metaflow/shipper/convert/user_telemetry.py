"""Converts spans and metrics of user code from the journals.

The journal has them in OTLP's form already: only secrets are masked and values converted. Log records of user code are
converted with all other log records (model/attempt_logs.py, convert/logs.py).
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Callable, Dict, cast

from otel_metaflow.core import names, otlp_values
from otel_metaflow.core.redaction import Redaction
from otel_metaflow.model.run import Attempt
from otel_metaflow.shipper import telemetry
from otel_metaflow.shipper.telemetry import DataPoint, Exemplar, Link, Metric, Resource, Scope, Span
from otel_metaflow.shipper.user_records import UserRecord

Record = Dict[str, Any]
_TRACE_ID, _SPAN_ID = 16, 8  # bytes
_KINDS = ("gauge", "sum", "histogram", "exponentialHistogram")


def of_span(user: UserRecord, resource_of: Callable[[Attempt], Resource], redaction: Redaction) -> telemetry.Record:
    """The span of a record of kind span.

    Raises:
        Exception: the record cannot be read, as one of another version perhaps.
    """
    return telemetry.Record(resource_of(user.attempt), scope(user.record, redaction), span(user.record, redaction))


def span(record: Record, redaction: Redaction) -> Span:
    """The span of a record of kind span."""
    start, end = int(record["startTimeUnixNano"]), int(record["endTimeUnixNano"])
    made: Span = {
        **cast("Span", span_context(record)),
        "name": redaction.text(str(record.get("name", ""))),
        "kind": int(record.get("spanKind", 1)),
        "startTimeUnixNano": start,
        "endTimeUnixNano": max(start, end),
        "attributes": redaction.attributes(record.get("attributes") or {}),
        "status": _status(record.get("status") or {}, redaction),
    }
    if record.get("parentSpanId"):
        made["parentSpanId"] = _id(record["parentSpanId"], _SPAN_ID)
    if "pid" in record:
        made["attributes"][names.PROCESS_PID] = record["pid"]
    if record.get("events"):
        made["events"] = [_event(event, redaction) for event in record["events"]]
    if record.get("links"):
        made["links"] = [_link(link, redaction) for link in record["links"]]
    for name in ("droppedAttributesCount", "droppedEventsCount", "droppedLinksCount"):
        if name in record:
            made[name] = int(record[name])
    return made


def span_context(record: Record) -> Link:
    """The ids of a record, and what goes with them.

    Raises:
        Exception: they are none.
    """
    made: Link = {"traceId": _id(record["traceId"], _TRACE_ID), "spanId": _id(record["spanId"], _SPAN_ID)}
    if record.get("flags"):
        made["flags"] = int(record["flags"])
    if record.get("traceState"):
        made["traceState"] = otlp_values.text(record["traceState"])
    return made


def scope(record: Record, redaction: Redaction) -> Scope:
    """The library that made a record; one object for all that it made, of late."""
    found = record.get("scope") or {}
    name, version, schema = (otlp_values.text(found.get(part) or "") for part in ("name", "version", "schemaUrl"))
    attributes = redaction.attributes(found.get("attributes") or {})
    return named_scope(name, version, schema, json.dumps(attributes) if attributes else "")


@lru_cache(maxsize=1_000)
def named_scope(name: str, version: str = "", schema_url: str = "", attributes: str = "") -> Scope:
    """A library; `attributes` are JSON. One object for all that it made, of late."""
    return Scope(name, version, schema_url, json.loads(attributes) if attributes else None)


def _id(digits: str, size: int) -> str:
    """Hex digits of an id of so many bytes, in lower case.

    Raises:
        Exception: they are none, or not so many.
    """
    found = bytes.fromhex(digits)
    if len(found) != size:
        raise ValueError(f"an id of {len(found)} bytes, not {size}")
    return found.hex()


def _event(event: Record, redaction: Redaction) -> telemetry.Event:
    return {
        "timeUnixNano": int(event["timeUnixNano"]),
        "name": redaction.text(str(event.get("name", ""))),
        "attributes": redaction.attributes(event.get("attributes") or {}),
    }


def _link(link: Record, redaction: Redaction) -> Link:
    return {**span_context(link), "attributes": redaction.attributes(link.get("attributes") or {})}


def _status(status: Record, redaction: Redaction) -> telemetry.Status:
    made: telemetry.Status = {"code": int(status.get("code", 0))}
    if status.get("message"):
        made["message"] = redaction.text(status["message"])
    return made


def of_metric(user: UserRecord, resource_of: Callable[[Attempt], Resource], redaction: Redaction) -> telemetry.Record:
    """The metric of a record of kind metric.

    Raises:
        Exception: the record cannot be read.
    """
    return telemetry.Record(resource_of(user.attempt), scope(user.record, redaction), _metric(user.record, redaction))


def _metric(record: Record, redaction: Redaction) -> Metric:
    kind = next(kind for kind in _KINDS if kind in record)
    data = record[kind]
    made: Dict[str, Any] = {
        "name": str(record["name"]),
        "unit": str(record.get("unit", "")),
        "description": redaction.text(record.get("description", "")),
        kind: {**data, "dataPoints": [_point(point, redaction) for point in data["dataPoints"]]},
    }
    return cast("Metric", made)


def _point(point: Record, redaction: Redaction) -> DataPoint:
    made: Dict[str, Any] = {
        **point,
        "timeUnixNano": int(point["timeUnixNano"]),
        "attributes": redaction.attributes(point.get("attributes") or {}),
    }
    if point.get("exemplars"):
        made["exemplars"] = [_exemplar(each, redaction) for each in point["exemplars"]]
    return cast("DataPoint", made)


def _exemplar(exemplar: Record, redaction: Redaction) -> Exemplar:
    made = {**exemplar, "filteredAttributes": redaction.attributes(exemplar.get("filteredAttributes") or {})}
    return cast("Exemplar", made)
