"""The resources of runs, attempts and steps, and the spans that their log records belong to."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Dict, NamedTuple, Optional, Tuple

from otel_metaflow.core import ids, names, otlp_values
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.shipper.telemetry import Resource

# Constant for a step, and with few enough values for dimensions of a metric, which vendors bill.
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
    # Splunk has a field for it; the collector removes it, like the run's id, where vendors bill it.
    names.HOST_NAME,
)
_SAMPLED = 1
# How many of the most recently used sources are cached: a run may have any number of attempts.
_MAX_SOURCES = 1_000


class Source(NamedTuple):
    """The common part of all log records of an attempt, or of the launcher."""

    resource: Resource
    trace_id: str
    span_id: str
    flags: int


class Resources:
    """The resources of one run, shared between records."""

    def __init__(self, run: Run, *, sampled: bool = True) -> None:
        """`sampled` is whether the run's spans are sent, for the flags of its log records."""
        self._run = run
        self._flags = _SAMPLED if sampled else 0
        self._sources: OrderedDict[Tuple[Optional[AttemptKey], bool], Source] = OrderedDict()
        self._on_metrics: Dict[Tuple[Any, ...], Resource] = {}  # of steps, which are few

    def source(self, attempt: Optional[Attempt]) -> Source:
        """The source of an attempt, or of the launcher if `attempt` is None."""
        # A task's own facts come with its start record; the launcher may have read lines of it before.
        key = (None, True) if attempt is None else (attempt.key, attempt.start is not None)
        found = self._sources.get(key)
        if found is None:
            found = self._sources[key] = self._launcher_source() if attempt is None else self._attempt_source(attempt)
            if len(self._sources) > _MAX_SOURCES:
                self._sources.popitem(last=False)
        else:
            self._sources.move_to_end(key)
        return found

    def of_run(self) -> Resource:
        """The resource of the run's own span and of its launcher's lines."""
        return self.source(None).resource

    def of_attempt(self, attempt: Attempt) -> Resource:
        """The resource of an attempt's span and records."""
        return self.source(attempt).resource

    def of_step(self, attempt: Attempt) -> Resource:
        """The resource of a step's metrics: nothing that grows with the number of tasks."""
        facts = self._facts(attempt)
        key = (attempt.key.step, str(facts.get(names.HOST_NAME)), attempt.start is not None)
        if key not in self._on_metrics:
            chosen = {name: facts[name] for name in _ON_METRICS if name in facts}
            self._on_metrics[key] = _resource({**chosen, **_own_attributes(attempt), names.STEP_NAME: attempt.key.step})
        return self._on_metrics[key]

    def of_run_metrics(self) -> Resource:
        """The resource of the run's own metrics."""
        if () not in self._on_metrics:
            facts = self._facts(None)
            self._on_metrics[()] = _resource({name: facts[name] for name in _ON_METRICS if name in facts})
        return self._on_metrics[()]

    def _launcher_source(self) -> Source:
        span_id = run_span_id(self._run.key)
        return Source(_resource(self._facts(None)), self._run.trace_id, span_id, self._flags)

    def _attempt_source(self, attempt: Attempt) -> Source:
        key, span_id = attempt.key, own_span_id(self._run.key, attempt)
        made = {
            **self._facts(attempt),
            names.STEP_NAME: key.step,
            names.TASK_ID: key.task,
            names.ATTEMPT: key.attempt,
            names.SERVICE_INSTANCE_ID: ids.instance_id(span_id),
        }
        process = attempt.start or attempt.launch
        if process is not None and process.get("pid"):
            made[names.PROCESS_PID] = process["pid"]
        return Source(_resource(made), self._run.trace_id, span_id, self._flags)

    def _facts(self, attempt: Optional[Attempt]) -> Dict[str, Any]:
        """The attempt's own resource attributes, or else the launcher's, which apply to most attempts."""
        own = (attempt.start if attempt is not None else None) or {}
        recorded = {**self._run.resource, **(own.get("resource") or (self._run.start or {}).get("resource") or {})}
        key = self._run.key
        facts: Dict[str, Any] = {names.SERVICE_NAME: "metaflow", **recorded}
        facts.update({names.FLOW_NAME: key.flow, names.RUN_ID: key.run})
        if attempt is not None:
            facts.update(_own_attributes(attempt))
        return facts


def _resource(attributes: Dict[str, Any]) -> Resource:
    return Resource(otlp_values.attributes(attributes))


def _own_attributes(attempt: Attempt) -> Dict[str, Any]:
    """The attributes of `@otel(attributes=...)`."""
    found = (attempt.start or {}).get("attributes")
    return found if isinstance(found, dict) else {}


def run_span_id(key: RunKey) -> str:
    """The id of the run's span."""
    return ids.run_span_id(key.flow, key.run, key.namespace)


def own_span_id(key: RunKey, attempt: Attempt) -> str:
    """The id of an attempt's span; of one that was made before under the same name, an id of its own."""
    span_id = attempt_span_id(key, attempt.key)
    return ids.again_span_id(span_id, attempt.again) if attempt.again else span_id


def attempt_span_id(key: RunKey, attempt: AttemptKey) -> str:
    """The id of the attempt's span."""
    step, task, number = attempt
    return ids.attempt_span_id(key.flow, key.run, step, task, number, key.namespace)
