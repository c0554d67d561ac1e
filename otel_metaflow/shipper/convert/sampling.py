"""Decides whether a run's trace is sent, from its trace id, so that every process makes the same decision.

OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG work as in the specification and the SDK.
"""

from __future__ import annotations

from otel_metaflow.core.settings import Settings
from otel_metaflow.model.run import Run

_LOW = 1 << 64  # the lower half of a trace id is used


def is_sampled(run: Run, environment: Settings) -> bool:
    """Whether the spans of `run` are sampled."""
    name = environment.sampler
    start = run.start or {}
    if name.startswith("parentbased_") and run.traceparent is not None:
        # The last two digits are flags; the lowest bit is set if the caller's trace is sampled.
        return bool(int(str(start["traceparent"])[-2:], 16) & 1)
    kind = name.rpartition("parentbased_")[2]
    if kind == "traceidratio":
        return int(run.trace_id, 16) % _LOW < round(environment.sampler_ratio * _LOW)
    return kind != "always_off"
