"""The events of a run and of its attempts: log records with a name, sent while a span is not finished yet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, NamedTuple, Optional

from otel_metaflow.core import names
from otel_metaflow.core.redaction import Redaction
from otel_metaflow.core.version import __version__
from otel_metaflow.journal.ledger import Subject
from otel_metaflow.model import endings
from otel_metaflow.model.critical_path import critical_path
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.shipper.convert import spans
from otel_metaflow.shipper.convert.resources import Resources
from otel_metaflow.shipper.telemetry import Record, Scope

if TYPE_CHECKING:
    from otel_metaflow.shipper.usage_sampler import UsageSampler

_SCOPE = Scope(names.SCOPE, __version__)
# SeverityNumber of OTLP, https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
_SEVERITIES = {"INFO": 9, "WARN": 13, "ERROR": 17, "FATAL": 21}
_NANO = 1_000_000_000
# Seconds to the first heartbeat, and between heartbeats.
_FIRST_BEAT, _BEAT = 10, 60


class Event(NamedTuple):
    """An event, and the name under which the ledger stores it."""

    name: str
    make: Callable[[], Record]
    is_last: bool = False


class Events:
    """Makes the events of one run that are due."""

    def __init__(self, run: Run, resources: Resources, redaction: Redaction, usage_sampler: UsageSampler) -> None:
        self._run = run
        self._resources = resources
        self._redaction = redaction
        self._usage_sampler = usage_sampler

    def of_attempt(self, attempt: Attempt, is_new: Callable[[Subject, str], bool], *, is_over: bool) -> Iterator[Event]:
        """The events of an attempt that are new; `is_over` when there will be no more records of it."""
        for event in self._known_of(attempt, is_over=is_over):
            if is_new(attempt.key, event.name):
                yield event

    def of_run(self, is_new: Callable[[Subject, str], bool], *, is_over: bool) -> Iterator[Event]:
        """The events of the run that are new."""
        for event in self._known_of_run(is_over=is_over):
            if is_new(None, event.name):
                yield event

    def _known_of(self, attempt: Attempt, *, is_over: bool) -> Iterator[Event]:
        if attempt.is_cloned:
            return
        if attempt.start is not None:
            yield Event(
                "start",
                lambda: self._of_attempt(attempt, names.EVENT_TASK_START, "attempt started", attempt.started_at),
            )
            if not is_over and attempt.end is None:
                yield from self._beat(attempt)
        if not is_over:
            return
        yield from self._endings(attempt)
        again = endings.retry(self._run, attempt)
        if again is not None:
            yield self._notice("retry", attempt, again)

    def _endings(self, attempt: Attempt) -> Iterator[Event]:
        at = attempt.ended_at
        for name, notice in (("exception", endings.exception(attempt)), ("lost", endings.death(attempt))):
            if notice is not None:
                yield self._notice(name, attempt, notice)
        elapsed = (at - attempt.started_at) / _NANO
        yield Event(
            "end",
            lambda: self._of_attempt(
                attempt,
                names.EVENT_TASK_END,
                f"attempt ended: {attempt.result}",
                at,
                "ERROR" if attempt.failed else "INFO",
                {names.TASK_RESULT: attempt.result, names.TASK_ELAPSED: elapsed},
            ),
            is_last=True,
        )

    def _notice(self, name: str, attempt: Attempt, notice: endings.Notice) -> Event:
        _, severity, body, at, facts = notice
        return Event(name, lambda: self._of_attempt(attempt, notice.event, body, at, severity, facts))

    def _beat(self, attempt: Attempt) -> Iterator[Event]:
        now = time.time_ns()
        elapsed = (now - attempt.started_at) // _NANO
        if elapsed < _FIRST_BEAT:
            return
        number = (elapsed - _FIRST_BEAT) // _BEAT
        sample = self._usage_sampler.of(attempt)
        if sample is None:
            return
        facts: Dict[str, Any] = {
            names.TASK_ELAPSED: float(elapsed),
            names.TASK_MEMORY: sample.memory,
            names.TASK_CPU_TIME: sample.cpu,
        }
        if sample.gpu is not None:
            facts[names.TASK_GPU_MEMORY] = sample.gpu.memory
            facts[names.TASK_GPU_UTILIZATION] = sample.gpu.utilization
        yield Event(
            f"beat {number}",
            lambda: self._of_attempt(
                attempt,
                names.EVENT_TASK_HEARTBEAT,
                f"attempt has been running for {elapsed} s",
                now,
                more=facts,
                number=str(number),
            ),
        )

    def _known_of_run(self, *, is_over: bool) -> Iterator[Event]:
        run = self._run
        if run.start is None:
            return
        yield Event("start", lambda: self._of_run(names.EVENT_RUN_START, "run started", run.started_at))
        if not is_over:
            return
        yield Event("end", self._end)
        if not run.is_partial:
            yield Event("summary", self._summary)

    def _end(self) -> Record:
        result = self._run.result
        severity = "ERROR" if result in ("failure", "error") else "INFO"
        facts = {names.RUN_RESULT: result}
        return self._of_run(names.EVENT_RUN_END, f"run ended: {result}", self._run.ended_at, severity, facts)

    def _summary(self) -> Record:
        path = critical_path(self._run)
        counts = spans.run_counts(self._run)
        tasks, failed, retried, cloned = counts.values()
        body = (
            f"{tasks} tasks, {failed} failed, {retried} retried, {cloned} cloned; decided by {' > '.join(path.steps)}"
        )
        facts = {**counts, **spans.critical(path)}
        return self._of_run(names.EVENT_RUN_SUMMARY, body, self._run.ended_at, more=facts)

    def _of_attempt(
        self,
        attempt: Attempt,
        name: str,
        body: str,
        at: int,
        severity: str = "INFO",
        more: Optional[Dict[str, Any]] = None,
        number: str = "",
    ) -> Record:
        return self._record(attempt, name + number, name, body, at, severity, more)

    def _of_run(
        self, name: str, body: str, at: int, severity: str = "INFO", more: Optional[Dict[str, Any]] = None
    ) -> Record:
        return self._record(None, name, name, body, at, severity, more)

    def _record(
        self,
        attempt: Optional[Attempt],
        unique: str,
        name: str,
        body: str,
        at: int,
        severity: str,
        more: Optional[Dict[str, Any]],
    ) -> Record:
        source = self._resources.source(attempt)
        facts = {key: value for key, value in (more or {}).items() if value is not None}
        return Record(
            source.resource,
            _SCOPE,
            {
                "timeUnixNano": at,
                "observedTimeUnixNano": time.time_ns(),
                "severityNumber": _SEVERITIES[severity],
                "severityText": severity,
                "eventName": name,
                "body": self._redaction.text(body),
                "attributes": {
                    **self._redaction.attributes(facts),
                    names.LOG_RECORD_UID: f"{source.span_id}-{unique}",
                },
                "traceId": source.trace_id,
                "spanId": source.span_id,
                "flags": source.flags,
            },
        )
