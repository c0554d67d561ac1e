"""Converts values that user code passed to the API to JSON for the journal."""

from __future__ import annotations

import base64
import json
from typing import Any, Callable, Dict, Mapping, Optional

from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, format_span_id, format_trace_id

from otel_metaflow.core.long_lines import LONGEST_LINE

_DEEPEST = 16
_INT64 = 1 << 63
Text = Callable[[str], str]


def value(given: Any, text: Text, depth: int = 0) -> Any:
    """`given` with its type preserved: numbers, booleans, strings, lists, maps; bytes are base64."""
    if given is None or isinstance(given, (bool, float)):
        return given
    if isinstance(given, int) and -_INT64 <= given < _INT64:  # the range of OTLP
        return given
    if isinstance(given, (bytes, bytearray)):
        return base64.b64encode(given).decode()
    if isinstance(given, Mapping) and depth < _DEEPEST:
        return {str(name): value(item, text, depth + 1) for name, item in given.items()}
    if isinstance(given, (list, tuple)) and depth < _DEEPEST:
        return [value(item, text, depth + 1) for item in given]
    return text(str(given)[:LONGEST_LINE])


def attributes(given: Optional[Mapping[str, Any]], text: Text) -> Dict[str, Any]:
    """`{"attributes": …}`, or an empty map if there are none."""
    return {"attributes": value(given, text)} if given else {}


def scope(given: Optional[InstrumentationScope], text: Text) -> Dict[str, Any]:
    """The library that made a record."""
    if given is None:
        return {"name": ""}
    found: Dict[str, Any] = {"name": given.name}
    if given.version:
        found["version"] = given.version
    if given.schema_url:
        found["schemaUrl"] = given.schema_url
    return {**found, **attributes(given.attributes, text)}


def span_context(given: SpanContext) -> Dict[str, Any]:
    """Ids as in OTLP/JSON: hexadecimal, unlike in protobuf's own JSON."""
    found: Dict[str, Any] = {"traceId": format_trace_id(given.trace_id), "spanId": format_span_id(given.span_id)}
    if given.trace_flags:
        found["flags"] = int(given.trace_flags)
    if given.trace_state:
        found["traceState"] = given.trace_state.to_header()
    return found


def line(record: Dict[str, Any]) -> str:
    """The record's line of the journal."""
    return json.dumps(record, separators=(",", ":"), default=str)
