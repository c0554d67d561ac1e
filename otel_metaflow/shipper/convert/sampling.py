"""Whether a run's trace is sent: decided from its trace id, so that every process decides alike.

OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG as the specification defines them, and as the SDK's samplers decide.
"""

from __future__ import annotations

from otel_metaflow.core.settings import Settings
from otel_metaflow.model.run import Run

_LOW = 1 << 64  # of a trace id, the lower half decides


def is_sampled(run: Run, environment: Settings) -> bool:
    """Whether the spans of `run` are wanted, as far as its name alone decides."""
    name = environment.sampler
    start = run.start or {}
    if name.startswith("parentbased_") and run.traceparent is not None:
        # The last two digits are flags, the lowest bit says that the caller's trace is sampled.
        return bool(int(str(start["traceparent"])[-2:], 16) & 1)
    kind = name.rpartition("parentbased_")[2]
    if kind == "traceidratio":
        return int(run.trace_id, 16) % _LOW < round(environment.sampler_ratio * _LOW)
    return kind != "always_off"
