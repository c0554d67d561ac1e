"""Reads requests of OTLP/JSON, https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

Message = dict[str, Any]


def spans(requests: Iterable[Message]) -> Iterator[tuple[Message, Message]]:
    """Each span of the requests, with the attributes of its resource."""
    for request in requests:
        for resource in request.get("resourceSpans", ()):
            of_resource = plain(resource.get("resource", {}).get("attributes", ()))
            for scope in resource["scopeSpans"]:
                yield from ((span, of_resource) for span in scope["spans"])


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes of OTLP/JSON as plain values."""
    return {each["key"]: _plain(each.get("value", {})) for each in attributes}


def _plain(value: Message) -> Any:
    for kind, content in value.items():
        if kind == "intValue":
            return int(content)
        if kind == "arrayValue":
            return [_plain(each) for each in content.get("values", ())]
        if kind == "kvlistValue":
            return plain(content.get("values", ()))
        return content
    return None
