"""Makes the spans of runs and attempts, once each, after their end."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Sequence

from otel_metaflow.core import ids, names, otlp_values
from otel_metaflow.core.redaction import Redaction
from otel_metaflow.core.version import __version__
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.model import story
from otel_metaflow.model.critical_path import CriticalPath, critical_path
from otel_metaflow.model.run import Attempt, Run, load
from otel_metaflow.shipper.convert.aggregation import Histogram
from otel_metaflow.shipper.convert.resources import Resources, attempt_span_id, own_span_id, run_span_id
from otel_metaflow.shipper.telemetry import Link, Record, Scope, Span, Status

if TYPE_CHECKING:
    from otel_metaflow.shipper.usage_sampler import UsageSampler

_SCOPE = Scope(names.SCOPE, __version__)
_INTERNAL, _SERVER = 1, 2  # SpanKind
_ERROR = 2  # StatusCode
_SAMPLED = 1
_NANO = 1_000_000_000
_MEBIBYTE = 1 << 20
# How many inputs of a wide join are linked; an attribute has their number.
_MAX_LINKS = 100
_MAX_ERROR_TYPES = 10
_PARTS = 4  # of a traceparent
# Queueing for longer than this is a span of its own.
_QUEUED = _NANO
# https://opentelemetry.io/docs/specs/semconv/attributes-registry/cicd/
_CICD_RESULTS = {"success", "failure", "error", "timeout", "cancellation", "skip"}


class Spans:
    """Makes the spans of one run; `home` may have the journals of the runs that it resumes or was triggered by."""

    def __init__(
        self,
        home: Path,
        run: Run,
        resources: Resources,
        redaction: Redaction,
        usage_sampler: UsageSampler,
        *,
        detail: int,
    ) -> None:
        self._home = home
        self._run = run
        self._resources = resources
        self._redaction = redaction
        self._usage_sampler = usage_sampler
        self._detail = detail
        self._origin: Optional[Run] = None
        self._failures: Optional[List[Optional[Attempt]]] = None

    def of_attempt(self, attempt: Attempt, *, run_is_over: bool) -> List[Record]:
        """The span of an attempt that has ended, and those of its parts."""
        if attempt.is_exported:
            return list(self._queued(attempt))
        run = self._run
        attributes = {
            **self._identity(attempt),
            **_outcome(run, attempt, run_is_over=run_is_over),
            names.FIRST_FAILURE: True if run_is_over and run.has_launcher and self._is_first_failure(attempt) else None,
            **_graph_position(attempt, run.steps.get(attempt.key.step, {})),
            **_times(run, attempt),
            **_use(attempt, run.steps.get(attempt.key.step, {}), self._usage_sampler.peak(attempt.key)),
            names.TASK_GPU_MEMORY_PEAK: self._usage_sampler.gpu_peak(attempt.key) or None,
            names.PARTIAL: attempt.is_partial or None,
        }
        if isinstance(attributes.get(names.FOREACH_VALUE), str):
            attributes[names.FOREACH_VALUE] = self._redaction.text(attributes[names.FOREACH_VALUE])
        source = self._resources.source(attempt)
        began, ended = max(attempt.started_at, run.started_at), max(attempt.ended_at, run.started_at)
        span: Span = {
            **self._timed(attempt.key.step, source.span_id, _INTERNAL, began, ended),
            "parentSpanId": run_span_id(run.key),
            "attributes": _known(attributes),
            "links": list(self._links(attempt)),
            "status": self._status(attempt.error_message),
        }
        return [Record(source.resource, _SCOPE, span), *self._parts(attempt, source.span_id)]

    def of_run(self) -> Record:
        """The span of a run that has ended, made afterwards because an open span would be lost in a restart."""
        run = self._run
        failed = run.result in ("failure", "error")
        origin = self._failure()
        # One that no launcher recorded knows of the attempts of one container.
        of_attempts = {} if run.is_partial else {**run_counts(run), **critical(critical_path(run))}
        resumed = run.origin
        triggers = (run.start or {}).get("triggers") or []
        by_hand = None if run.is_partial else "manual"  # a container does not know what started its run
        attributes: Dict[str, Any] = {
            names.RUN_RESULT: run.result,
            **of_attempts,
            names.PARTIAL: run.is_partial or None,
            names.RUN_TRIGGER_TYPE: "resume" if resumed else "run" if triggers else by_hand,
            names.SAVED_DURATION: self._saved(),
            names.CICD_PIPELINE_ACTION_NAME: "RUN",
            names.CICD_PIPELINE_RESULT: run.result if run.result in _CICD_RESULTS else None,
            names.ERROR_TYPE: (origin.error_type if origin else _run_error_type(run)) if failed else None,
        }
        message = (origin.error_message if origin else None) or run.error_message
        joined = run.traceparent
        span_id = run_span_id(run.key)
        if run.again:
            joined = (run.trace_id, span_id)
            span_id = ids.again_span_id(span_id, run.again)
        last = max((attempt.ended_at for attempt in run.attempts.values()), default=0)
        ended = max(run.ended_at, last, run.started_at)
        span: Span = {
            **self._timed(f"RUN {run.key.flow}", span_id, _SERVER, run.started_at, ended),
            "attributes": _known(attributes),
            "links": list(self._run_links(origin, triggers, resumed)),
            "status": self._status(message.partition("\n")[0] if failed else None),
        }
        if joined:
            span["parentSpanId"] = joined[1]
        return Record(self._resources.of_run(), _SCOPE, span)

    def of_step(self, step: str, attempts: Sequence[Attempt]) -> List[Record]:
        """The one span that stands for attempts of a step that have none."""
        run = self._run
        durations = Histogram(names.TASK_DURATION_BOUNDARIES)
        for attempt in attempts:
            durations.add((attempt.ended_at - attempt.started_at) / _NANO)
        point = durations.point()
        errors = Counter(attempt.error_type for attempt in attempts if attempt.failed).most_common(_MAX_ERROR_TYPES)
        failed = sum(attempt.failed for attempt in attempts)
        attributes: Dict[str, Any] = {
            names.STEP_NAME: step,
            names.SUMMARY_ATTEMPT_COUNT: len(attempts),
            names.SUMMARY_FAILED_COUNT: failed,
            names.SUMMARY_ERROR_TYPES: [kind for kind, _ in errors] or None,
            names.SUMMARY_ERROR_COUNTS: [count for _, count in errors] or None,
            names.SUMMARY_DURATION_SUM: point["sum"],
            names.SUMMARY_DURATION_MIN: point["min"],
            names.SUMMARY_DURATION_MAX: point["max"],
            names.SUMMARY_DURATION_BOUNDS: point["explicitBounds"],
            names.SUMMARY_DURATION_COUNTS: point["bucketCounts"],
        }
        began = max(run.started_at, min(attempt.started_at for attempt in attempts))
        ended = max(attempt.ended_at for attempt in attempts)
        key = run.key
        span_id = ids.summary_span_id(key.flow, key.run, step, key.namespace)
        span: Span = {
            **self._timed(f"{step} summary", span_id, _INTERNAL, began, max(began, ended)),
            "parentSpanId": run_span_id(key),
            "attributes": _known(attributes),
            "status": self._status(f"{failed:,} attempts failed" if failed else None),
        }
        return [Record(self._resources.of_step(attempts[0]), _SCOPE, span)]

    def _timed(self, name: str, span_id: str, kind: int, start: int, end: int) -> Span:
        """The fields of every span."""
        return {
            "traceId": self._run.trace_id,
            "spanId": span_id,
            "flags": _SAMPLED,
            "name": name,
            "kind": kind,
            "startTimeUnixNano": start,
            "endTimeUnixNano": end,
        }

    def _is_first_failure(self, attempt: Attempt) -> bool:
        first = self._failure()
        return first is not None and attempt.key == first.key

    def _failure(self) -> Optional[Attempt]:
        """The first failure of a run that has ended; cached."""
        if self._failures is None:
            self._failures = [story.first_failure(self._run)]
        return self._failures[0]

    def _identity(self, attempt: Attempt) -> Dict[str, Any]:
        key = attempt.key
        return {
            names.STEP_NAME: key.step,
            names.TASK_ID: key.task,
            names.ATTEMPT: key.attempt,
            names.PATHSPEC: f"{self._run.key}/{key.step}/{key.task}",
            names.CICD_PIPELINE_TASK_NAME: key.step,
            names.CICD_PIPELINE_TASK_RUN_ID: key.task,
            names.CICD_PIPELINE_TASK_RUN_RESULT: attempt.result,
        }

    def _links(self, attempt: Attempt) -> Iterator[Link]:
        key = self._run.key
        run = self._run
        inputs = run.inputs_of(attempt) or ()
        recorded = (one for one in inputs if run.is_recorded(run.attempts.get(one) or Attempt(one)))
        for read in islice(recorded, _MAX_LINKS):
            yield _link(run.trace_id, attempt_span_id(key, read), "input")
        before = story.previous(self._run, attempt)
        if before is not None:
            yield _link(run.trace_id, own_span_id(key, before), "retry")
        elif attempt.is_alone and attempt.key.attempt:  # another container made the one before
            earlier = attempt.key._replace(attempt=attempt.key.attempt - 1)
            yield _link(run.trace_id, attempt_span_id(key, earlier), "retry")
        if attempt.again:
            yield _link(run.trace_id, attempt_span_id(key, attempt.key), "retry")
        # Its trace may be incomplete, and nobody who derives ids knows of it: ours is not made a part of it.
        tracing = str((attempt.start or {}).get("orchestratorTraceparent", "")).split("-")
        if len(tracing) == _PARTS:
            yield _link(tracing[1], tracing[2], "orchestrator")
        if attempt.clone is not None and attempt.cloned_from is not None:
            cloned = attempt.clone
            origin = RunKey(key.flow, str(cloned["originRun"]), key.namespace)
            read = AttemptKey(attempt.key.step, str(cloned["originTask"]), int(cloned["originAttempt"]))
            yield _link(self._trace_id_of(origin), attempt_span_id(origin, read), "clone")

    def _run_links(self, origin: Optional[Attempt], triggers: Sequence[str], resumed: Optional[str]) -> Iterator[Link]:
        key = self._run.key
        if origin is not None and self._run.is_recorded(origin):
            yield _link(
                self._run.trace_id,
                attempt_span_id(key, origin.key),
                "first_failure",
                {names.ERROR_TYPE: origin.error_type, names.PATHSPEC: f"{key}/{origin.key.step}/{origin.key.task}"},
            )
        if resumed:
            yield self._link_to_run(RunKey(key.flow, resumed, key.namespace), "resume")
        for name in triggers:
            flow, _, run = str(name).partition("/")
            yield self._link_to_run(RunKey(flow, run, key.namespace), "trigger")

    def _link_to_run(self, key: RunKey, kind: str) -> Link:
        facts = {names.FLOW_NAME: key.flow, names.RUN_ID: key.run}
        return _link(self._trace_id_of(key), run_span_id(key), kind, facts)

    def _trace_id_of(self, key: RunKey) -> str:
        """The trace id of another run: from its journals if available, since it may continue a caller's trace."""
        folder = layout.run_folder(self._home, key)
        return load(self._home, folder).trace_id if folder.is_dir() else ids.trace_id(*key)

    def _saved(self) -> Optional[float]:
        """The duration of the cloned tasks in the resumed run, in seconds."""
        clones = [one.clone for one in self._run.attempts.values() if one.clone is not None and one.cloned_from]
        saved: List[int] = []
        for record in clones:
            key = RunKey(self._run.key.flow, str(record["originRun"]), self._run.key.namespace)
            if self._origin is None or self._origin.key != key:
                self._origin = load(self._home, layout.run_folder(self._home, key))
            step, task = str(record["step"]), str(record["originTask"])
            took = [
                one.ended_at - one.started_at for one in self._origin.attempts.values() if one.key[:2] == (step, task)
            ]
            saved.extend(took)
        return sum(saved) / _NANO if saved else None

    def _parts(self, attempt: Attempt, parent: str) -> Iterator[Record]:
        """Spans for the parts of an attempt, depending on the level of detail."""
        yield from self._queued(attempt)
        if self._detail > 1:
            end = attempt.end or {}
            began, left = end.get("codeStart"), end.get("codeEnd")
            if began:
                yield self._part(attempt, "load", attempt.started_at, began, parent)
                yield self._part(attempt, "user code", began, left or attempt.ended_at, parent)
            if began and left:
                yield self._part(attempt, "persist", left, attempt.ended_at, parent)

    def _queued(self, attempt: Attempt) -> Iterator[Record]:
        queued = story.queue_time(self._run, attempt)
        if queued is not None and queued > _QUEUED:
            until = story.queued_until(attempt)
            yield self._part(attempt, "queued", until - queued, until, run_span_id(self._run.key))

    def _part(self, attempt: Attempt, part: str, start: int, end: int, parent: str) -> Record:
        key, step, task, number = self._run.key, *attempt.key
        span_id = ids.part_span_id(key.flow, key.run, step, task, number, part, key.namespace)
        if attempt.again:
            span_id = ids.again_span_id(span_id, attempt.again)
        span: Span = {
            **self._timed(f"{step} {part}", span_id, _INTERNAL, start, max(start, end)),
            "parentSpanId": parent,
            "attributes": {names.STEP_NAME: step, names.TASK_ID: task, names.ATTEMPT: number},
            "status": self._status(None),
        }
        return Record(self._resources.of_attempt(attempt), _SCOPE, span)

    def _status(self, error: Optional[str]) -> Status:
        """Unset on success: by the conventions OK is reserved for the application."""
        return {} if error is None else {"code": _ERROR, "message": self._redaction.text(error)}


def run_counts(run: Run) -> Dict[str, Any]:
    """The numbers of tasks and attempts of the run, as attributes."""
    attempts = run.attempts.values()
    firsts = sum(not key.attempt for key in run.attempts)
    unseen = {key[:2] for key in run.attempts if key.attempt and key._replace(attempt=0) not in run.attempts}
    return {
        names.RUN_TASK_COUNT: firsts + len(unseen),
        names.RUN_FAILED_COUNT: sum(attempt.failed for attempt in attempts),
        names.RUN_RETRIED_COUNT: sum(attempt.key.attempt > 0 for attempt in attempts),
        names.RUN_CLONED_COUNT: sum(attempt.is_cloned for attempt in attempts),
    }


def critical(path: CriticalPath) -> Dict[str, Any]:
    """The critical path as attributes."""
    return {
        names.CRITICAL_STEPS: path.steps,
        names.CRITICAL_DURATION: path.duration / _NANO,
        names.CRITICAL_QUEUE: path.queued / _NANO,
    }


def _outcome(run: Run, attempt: Attempt, *, run_is_over: bool) -> Dict[str, Any]:
    return {
        names.TASK_RESULT: attempt.result,
        names.ERROR_TYPE: attempt.error_type,
        names.PROCESS_EXIT_CODE: attempt.exit_code,
        names.TASK_SIGNAL: attempt.signal_name,
        names.FINAL: story.is_final(run, attempt, run_is_over=run_is_over),
        names.CAUGHT: (attempt.end or {}).get("caught") or None,
        names.CLONED: True if attempt.is_cloned else None,
    }


def _graph_position(attempt: Attempt, step: Dict[str, Any]) -> Dict[str, Any]:
    """The position of the attempt in the flow's graph, and of its step in the source code."""
    start, end = attempt.start or {}, attempt.end or {}
    frames = start.get("foreach") or []
    node, count = end.get("parallel") or (None, None)
    kind = step.get("type") or start.get("stepType")
    return {
        names.STEP_TYPE: kind,
        names.FOREACH_INDEX: [int(index) for index, _ in frames] or None,
        names.FOREACH_SIZE: [int(size or 0) for _, size in frames] or None,
        names.FOREACH_VALUE: start.get("foreachValue"),
        names.JOIN_INPUT_COUNT: attempt.input_count if kind == "join" else None,
        names.PARALLEL_NODE_INDEX: node,
        names.PARALLEL_NODE_COUNT: count,
        names.CODE_FUNCTION_NAME: attempt.key.step if step else None,
        names.CODE_FILE_PATH: step.get("file"),
        names.CODE_LINE_NUMBER: step.get("line"),
    }


def _times(run: Run, attempt: Attempt) -> Dict[str, Any]:
    """The durations of its parts: queued, startup, load, user code, persist; in seconds, never negative."""
    start, end = attempt.start or {}, attempt.end or {}
    queued = story.queue_time(run, attempt)
    return {
        names.QUEUE_DURATION: None if queued is None else queued / _NANO,
        names.STARTUP_DURATION: _between(story.queued_until(attempt) or None, start.get("timeUnixNano")),
        names.LOAD_DURATION: _between(start.get("timeUnixNano"), end.get("codeStart")),
        names.CODE_DURATION: _between(end.get("codeStart"), end.get("codeEnd")),
        names.PERSIST_DURATION: _between(end.get("codeEnd"), end.get("timeUnixNano")),
    }


def _between(before: Optional[int], after: Optional[int]) -> Optional[float]:
    return None if before is None or after is None else max(0, after - before) / _NANO


def _use(attempt: Attempt, step: Dict[str, Any], sampled_peak: int) -> Dict[str, Any]:
    """The usage of the attempt and its requested resources."""
    requested = step.get("requested") or {}
    artifacts = (attempt.end or {}).get("artifacts") or {}
    return {
        names.TASK_CPU_TIME: attempt.usage.get("cpu"),
        names.TASK_MEMORY_PEAK: max(attempt.usage.get("memoryPeak", 0), sampled_peak) or None,
        names.TASK_IO_READ: attempt.usage.get("read"),
        names.TASK_IO_WRITE: attempt.usage.get("written"),
        names.REQUESTED_CPU: requested.get("cpu"),
        names.REQUESTED_GPU: requested.get("gpu"),
        names.REQUESTED_MEMORY: int(requested["memory"] * _MEBIBYTE) if "memory" in requested else None,
        names.ARTIFACT_COUNT: artifacts.get("count"),
        names.ARTIFACT_SIZE: artifacts.get("bytes"),
    }


def _link(trace_id: str, span_id: str, kind: str, attributes: Optional[Dict[str, Any]] = None) -> Link:
    facts = _known({names.LINK_TYPE: kind, **(attributes or {})})
    return {"traceId": trace_id, "spanId": span_id, "flags": _SAMPLED, "attributes": facts}


def _run_error_type(run: Run) -> str:
    exception = (run.end or {}).get("exception") or {}
    return str(exception.get("type") or "_OTHER")


def _known(attributes: Dict[str, Any]) -> Dict[str, Any]:
    return otlp_values.attributes({name: value for name, value in attributes.items() if value is not None})
