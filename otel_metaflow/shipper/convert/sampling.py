"""Whether a run's trace is sent: decided from its trace id, so that every process decides alike.

OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG as the specification defines them, by the SDK's own samplers.
"""

from __future__ import annotations

from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, Sampler, TraceIdRatioBased

from otel_metaflow.core.settings import Settings
from otel_metaflow.model.run import Run


def is_sampled(run: Run, environment: Settings) -> bool:
    """Whether the spans of `run` are wanted, as far as its name alone decides."""
    name = environment.sampler
    start = run.start or {}
    if name.startswith("parentbased_") and run.traceparent is not None:
        # The last two digits are flags, the lowest bit says that the caller's trace is sampled.
        return bool(int(str(start["traceparent"])[-2:], 16) & 1)
    kind = name.removeprefix("parentbased_")
    sampler: Sampler = ALWAYS_ON
    if kind == "always_off":
        sampler = ALWAYS_OFF
    elif kind == "traceidratio":
        sampler = TraceIdRatioBased(environment.sampler_ratio)
    return sampler.should_sample(None, int(run.trace_id, 16), run.key.flow).decision is not Decision.DROP
