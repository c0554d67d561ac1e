"""The origin of a run: the trace that it continues, the run that it resumes, its triggers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from otel_metaflow.core import trace_context
from otel_metaflow.launcher import metaflow_seams


def describe(environ: Mapping[str, str]) -> dict[str, Any]:
    """`traceparent` if the launcher was started inside a trace, `origin` if it resumes a run, `triggers`."""
    facts: dict[str, Any] = {}
    joined = trace_context.read(environ)
    if joined:
        facts["traceparent"] = joined
    found = metaflow_seams.origin()
    if found.resumed:
        facts["origin"] = found.resumed
    if found.triggers:
        facts["triggers"] = list(found.triggers)
    return facts
