"""SDK resources and span contexts of runs and attempts, made once each."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Dict, Mapping, Optional

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from otel_metaflow.core import ids, names, otlp_values
from otel_metaflow.journal.layout import AttemptKey, RunKey
from otel_metaflow.model.run import Attempt, Run

# What is constant for a step, and few enough to be paid for as dimensions of a metric.
_ON_METRICS = (
    names.SERVICE_NAME,
    names.SERVICE_NAMESPACE,
    names.SERVICE_VERSION,
    names.DEPLOYMENT_ENVIRONMENT_NAME,
    names.TELEMETRY_DISTRO_NAME,
    names.TELEMETRY_DISTRO_VERSION,
    names.FLOW_NAME,
    names.RUN_ID,
    names.PROJECT_NAME,
    names.BRANCH_NAME,
    names.COMPUTE_NAME,
    # Splunk has a field for it. Where it is paid for, a collector takes it off, as it does the run's id.
    names.HOST_NAME,
)


class _HashedResource(Resource):
    """A resource that computes its hash once: the encoders ask for it with every record."""

    _hash: Optional[int] = None

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = super().__hash__()
        return self._hash


@lru_cache(maxsize=1)
def _sdk() -> Mapping[str, Any]:
    """What the SDK says of itself; asked once, for it starts threads to find out."""
    found = Resource.create({}).attributes
    return {name: value for name, value in found.items() if name.startswith("telemetry.sdk.")}


def _resource(attributes: Mapping[str, Any]) -> Resource:
    return _HashedResource({**_sdk(), **otlp_values.attributes(attributes)})


class Resources:
    """The resources and contexts of one run."""

    def __init__(self, run: Run, *, sampled: bool = True) -> None:
        """`sampled` says whether the run's spans are sent, which its log records tell."""
        self._run = run
        self._sampled = sampled
        self._resources: Dict[str, Resource] = {}
        self._contexts: Dict[str, Context] = {}

    def of_run(self) -> Resource:
        """The resource of the run's own span and of its launcher's lines."""
        return self._once("", lambda: self._facts(None))

    def of_attempt(self, attempt: Attempt) -> Resource:
        """The resource of an attempt's span and records."""

        def attributes() -> Dict[str, Any]:
            key = attempt.key
            span_id = attempt_span_id(self._run.key, attempt.key)
            made = {
                **self._facts(attempt),
                names.STEP_NAME: key.step,
                names.TASK_ID: key.task,
                names.ATTEMPT: key.attempt,
                names.SERVICE_INSTANCE_ID: str(ids.instance_id(span_id)),
            }
            process = attempt.start or attempt.launch
            if process is not None and process.get("pid"):
                made[names.PROCESS_PID] = process["pid"]
            return made

        return self._once(f"attempt {attempt.key} {attempt.start is not None}", attributes)

    def of_step(self, attempt: Attempt) -> Resource:
        """The resource of a step's metrics: nothing that grows with the number of tasks."""

        def attributes() -> Dict[str, Any]:
            facts = self._facts(attempt)
            chosen = {name: facts[name] for name in _ON_METRICS if name in facts}
            return {**chosen, **_own_attributes(attempt), names.STEP_NAME: attempt.key.step}

        host = self._facts(attempt).get(names.HOST_NAME)
        return self._once(f"step {attempt.key.step} {host} {attempt.start is not None}", attributes)

    def of_run_metrics(self) -> Resource:
        """The resource of the run's own metrics."""
        facts = self._facts(None)
        return self._once("metrics", lambda: {name: facts[name] for name in _ON_METRICS if name in facts})

    def _once(self, name: str, attributes: Any) -> Resource:
        if name not in self._resources:
            self._resources[name] = _resource(attributes())
        return self._resources[name]

    def _facts(self, attempt: Optional[Attempt]) -> Dict[str, Any]:
        """What the attempt says of itself; most say nothing and are as their launcher, in whose words they are told."""
        own = (attempt.start if attempt is not None else None) or {}
        told = own.get("resource") or (self._run.start or {}).get("resource", {})
        key = self._run.key
        facts: Dict[str, Any] = {names.SERVICE_NAME: "metaflow", **told}
        facts.update({names.FLOW_NAME: key.flow, names.RUN_ID: key.run})
        if attempt is not None:
            facts.update(_own_attributes(attempt))
        return facts

    def context(self, span_id: str) -> Context:
        """A context in which the span of that id is the current one."""
        if span_id not in self._contexts:
            self._contexts[span_id] = set_span_in_context(
                NonRecordingSpan(span_context(self._run.trace_id, span_id, sampled=self._sampled)), Context()
            )
        return self._contexts[span_id]


def _own_attributes(attempt: Attempt) -> Dict[str, Any]:
    """What the user wrote in `@otel(attributes=...)`."""
    found = (attempt.start or {}).get("attributes")
    return found if isinstance(found, dict) else {}


def span_context(trace_id: str, span_id: str, *, sampled: bool = True) -> SpanContext:
    """The context of a span, from the hex digits of its ids."""
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=flags)


def run_span_id(key: RunKey) -> str:
    """The id of the run's span."""
    return ids.run_span_id(key.flow, key.run, key.namespace)


def attempt_span_id(key: RunKey, attempt: AttemptKey) -> str:
    """The id of the attempt's span."""
    step, task, number = attempt
    return ids.attempt_span_id(key.flow, key.run, step, task, number, key.namespace)
