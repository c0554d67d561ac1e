"""Spans, written once, when what they speak of is over."""

from __future__ import annotations

from typing import Any, Dict, Optional

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind
from opentelemetry.trace.status import Status, StatusCode

from otel_metaflow import __version__, names
from otel_metaflow.assembly.run import Attempt, Run
from otel_metaflow.shipper.redaction import Redaction
from otel_metaflow.shipper.resources import Resources, attempt_span_id, run_span_id, span_context

_SCOPE = InstrumentationScope(names.SCOPE, __version__)
# https://opentelemetry.io/docs/specs/semconv/attributes-registry/cicd/
_CICD_RESULTS = {
    "success": "success",
    "failure": "failure",
    "error": "error",
    "timeout": "timeout",
    "cancellation": "cancellation",
}


def of_attempt(run: Run, attempt: Attempt, resources: Resources, redaction: Redaction) -> ReadableSpan:
    """The span of an attempt that is over."""
    key = attempt.key
    span_id = attempt_span_id(run.key, attempt)
    attributes: Dict[str, Any] = {
        names.STEP_NAME: key.step,
        names.TASK_ID: key.task,
        names.ATTEMPT: key.attempt,
        names.PATHSPEC: f"{run.key}/{key.step}/{key.task}",
        names.TASK_RESULT: attempt.result,
        names.CICD_PIPELINE_TASK_NAME: key.step,
        names.CICD_PIPELINE_TASK_RUN_ID: key.task,
        names.CICD_PIPELINE_TASK_RUN_RESULT: _CICD_RESULTS[attempt.result],
        names.ERROR_TYPE: attempt.error_type,
        names.PROCESS_EXIT_CODE: attempt.exit_code,
        names.TASK_SIGNAL: attempt.signal_name,
        names.CAUGHT: (attempt.end or {}).get("caught") or None,
        names.TASK_CPU_TIME: attempt.usage.get("cpu"),
        names.TASK_MEMORY_PEAK: attempt.usage.get("memoryPeak"),
    }
    return ReadableSpan(
        name=key.step,
        context=span_context(run.key, span_id),
        parent=span_context(run.key, run_span_id(run.key)),
        resource=resources.of_attempt(attempt),
        attributes=_known(attributes),
        kind=SpanKind.INTERNAL,
        status=_status(attempt.error_message, redaction),
        start_time=max(attempt.started_at, run.started_at),
        end_time=max(attempt.ended_at, run.started_at),
        instrumentation_scope=_SCOPE,
    )


def of_run(run: Run, resources: Resources, redaction: Redaction) -> ReadableSpan:
    """The span of a run that is over: back-dated, because an open span is lost in a restart."""
    failed = run.result in ("failure", "error")
    attempts = list(run.attempts.values())
    attributes: Dict[str, Any] = {
        names.RUN_RESULT: run.result,
        names.RUN_TASK_COUNT: len({(attempt.key.step, attempt.key.task) for attempt in attempts}),
        names.RUN_FAILED_COUNT: sum(attempt.failed for attempt in attempts),
        names.RUN_RETRIED_COUNT: sum(attempt.key.attempt > 0 for attempt in attempts),
        names.CICD_PIPELINE_ACTION_NAME: "RUN",
        names.CICD_PIPELINE_RESULT: _CICD_RESULTS.get(run.result),
        names.ERROR_TYPE: _run_error_type(run) if failed else None,
    }
    return ReadableSpan(
        name=f"RUN {run.key.flow}",
        context=span_context(run.key, run_span_id(run.key)),
        resource=resources.of_run(),
        attributes=_known(attributes),
        kind=SpanKind.SERVER,
        status=_status(_run_error_message(run) if failed else None, redaction),
        start_time=run.started_at,
        end_time=max(run.ended_at, *(attempt.ended_at for attempt in attempts), run.started_at),
        instrumentation_scope=_SCOPE,
    )


def _run_error_type(run: Run) -> str:
    exception = (run.end or {}).get("exception") or {}
    return str(exception.get("type") or "_OTHER")


def _run_error_message(run: Run) -> str:
    if run.end is None:
        return "the launcher died before the run ended"
    return str((run.end.get("exception") or {}).get("message") or "the run failed")


def _status(error: Optional[str], redaction: Redaction) -> Status:
    """Unset on success: by the conventions OK is for those who know better than the instrumentation."""
    return Status(StatusCode.UNSET) if error is None else Status(StatusCode.ERROR, redaction.text(error))


def _known(attributes: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
