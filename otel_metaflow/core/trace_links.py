"""From a run to its trace in whatever shows traces: the address that OTEL_METAFLOW_TRACE_URL describes."""

from __future__ import annotations

from typing import Optional
from urllib.parse import quote

VARIABLE = "OTEL_METAFLOW_TRACE_URL"
PLACES = ("{trace_id}", "{span_id}", "{flow}", "{run}")


def problem(template: str) -> Optional[str]:
    """What is wrong with a template, and what to type; None if nothing is."""
    if not template or (template.startswith(("http://", "https://")) and any(place in template for place in PLACES)):
        return None
    return (
        f"{VARIABLE} is {template!r}; type an address that holds {{trace_id}}, "
        "such as http://localhost:16686/trace/{trace_id}"
    )


def fill(template: str, flow: str, run: str, trace_id: str, span_id: str) -> str:
    """The address of one span in its trace, ids as hex digits; other braces, those of JSON say, stay as they are."""
    values = {"{trace_id}": trace_id, "{span_id}": span_id, "{flow}": flow, "{run}": run}
    for place in PLACES:
        template = template.replace(place, quote(values[place], safe=""))
    return template
