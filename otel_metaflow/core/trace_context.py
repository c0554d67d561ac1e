"""The parent span that a process receives in its environment and passes on.

W3C trace context, https://www.w3.org/TR/trace-context/#traceparent-header, by the names of
https://opentelemetry.io/docs/specs/otel/context/env-carriers/.
"""

from __future__ import annotations

import re
from typing import Mapping

VARIABLE = "TRACEPARENT"
# To the containers of a run: the trace that the run was started in. TRACEPARENT may be the platform's there.
HANDED_ON = "OTEL_METAFLOW_TRACEPARENT"
# Ids of nothing but zeros are invalid.
_FORM = r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"


def read(environ: Mapping[str, str], variable: str = VARIABLE) -> str:
    """The value of the variable, or an empty string if it is not set or invalid."""
    value = environ.get(variable, "").strip().lower()
    return value if value and re.fullmatch(_FORM, value) else ""


def below(environ: Mapping[str, str], trace_id: str, span_id: str, variable: str = VARIABLE) -> str:
    """The value for children of `span_id`: in the caller's trace with its sampling flag, else in `trace_id`."""
    joined = read(environ, variable)
    return f"00-{joined[3:35]}-{span_id}-{joined[-2:]}" if joined else f"00-{trace_id}-{span_id}-01"
