"""Decides whether a run's trace is sent, from its trace id, so that every process makes the same decision.

OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG work as in the specification and the SDK. With OTEL_METAFLOW_KEEP_FAILED
the trace of a run that was not sampled is sent nevertheless, at its end, if it has failed.
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


class Sampling:
    """Whether the spans of one run are sent."""

    def __init__(self, run: Run, environment: Settings) -> None:
        self.is_sampled = is_sampled(run, environment)
        self.may_send = self.is_sampled or environment.keep_failed
        """Whether its spans are sent, or may be at its end."""
        self._run = run

    def sends(self, *, run_is_over: bool) -> bool:
        """Whether its spans are sent, as far as is known now."""
        return self.is_sampled or (self.may_send and run_is_over and self._has_failed())

    def _has_failed(self) -> bool:
        """Whether the run failed, or where nobody knows of the run, any attempt here."""
        if not self._run.has_launcher:
            return any(attempt.failed for attempt in self._run.attempts.values())
        return self._run.result in ("failure", "error")
