"""The link from a run to its trace in a back end, made of the template in OTEL_METAFLOW_TRACE_URL."""

from __future__ import annotations

from typing import Optional
from urllib.parse import quote

VARIABLE = "OTEL_METAFLOW_TRACE_URL"
PLACEHOLDERS = ("{trace_id}", "{span_id}", "{flow}", "{run}")


def problem(template: str) -> Optional[str]:
    """What is wrong with a template and how to fix it, or None."""
    is_url = template.startswith(("http://", "https://"))
    if not template or (is_url and any(placeholder in template for placeholder in PLACEHOLDERS)):
        return None
    return (
        f"{VARIABLE} is {template!r}, which is not a URL with a placeholder; "
        "set it to one, such as http://localhost:16686/trace/{trace_id}"
    )


def fill(template: str, flow: str, run: str, trace_id: str, span_id: str) -> str:
    """The URL of one span in its trace, ids in hex; other braces, such as those of JSON, stay as they are."""
    values = {"{trace_id}": trace_id, "{span_id}": span_id, "{flow}": flow, "{run}": run}
    for placeholder in PLACEHOLDERS:
        template = template.replace(placeholder, quote(values[placeholder], safe=""))
    return template
