"""A run as plain values: the output of `view --json`, and the data of the page and the card.

Names are those of the journal (docs/journal.md) if it has one; times are nanoseconds since 1970 (`...UnixNano`),
durations are in seconds (`...Seconds`), sizes in bytes. Unknown values are left out. Texts are masked as for export,
because a page is made to be shared.
"""

from __future__ import annotations

from typing import Any

from otel_metaflow.core import ids, trace_links
from otel_metaflow.core.redaction import Redaction
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.model import story
from otel_metaflow.model.critical_path import critical_path
from otel_metaflow.model.run import Attempt, Run

Values = dict[str, Any]

_NANO = 1e9
_MEBIBYTE = 1 << 20


def run_state(run: Run) -> str:
    """The run's result, or `running`."""
    return "running" if run.end is None and run.is_running() else run.result


def attempt_state(attempt: Attempt) -> str:
    """The attempt's result, or `running`."""
    return "running" if attempt.end is None and attempt.is_running() else attempt.result


def trace_url(run: Run, template: str) -> str | None:
    """The URL of the run's trace, by the template of OTEL_METAFLOW_TRACE_URL; None without one."""
    if not template:
        return None
    key = run.key
    return trace_links.fill(
        template, key.flow, key.run, run.trace_id, ids.run_span_id(key.flow, key.run, key.namespace)
    )


def summary(run: Run) -> Values:
    """A summary of a run, for lists of runs."""
    ran = run.ran
    return _known(
        {
            "flow": run.key.flow,
            "run": run.key.run,
            "namespace": run.key.namespace or None,
            "state": run_state(run),
            "startTimeUnixNano": run.started_at,
            "endTimeUnixNano": ended_at(run),
            "durationSeconds": (ended_at(run) - run.started_at) / _NANO,
            "traceId": run.trace_id,
            "attempts": len(ran),
            "failed": sum(attempt.failed and attempt_state(attempt) != "running" for attempt in ran),
            "cloned": (len(run.attempts) - len(ran)) or None,
        }
    )


def of_run(run: Run, redaction: Redaction, template: str = "") -> Values:
    """The run, its steps and its attempts, both in the order in which they started.

    `template` is OTEL_METAFLOW_TRACE_URL.
    """
    key = run.key
    path = critical_path(run)
    failure = story.first_failure(run)
    critical = {attempt.key for attempt in path.attempts}
    attempts = list(run.in_order)
    return _known(
        {
            "flow": key.flow,
            "run": key.run,
            "namespace": key.namespace or None,
            "state": run_state(run),
            "startTimeUnixNano": run.started_at,
            "endTimeUnixNano": ended_at(run),
            "durationSeconds": (ended_at(run) - run.started_at) / _NANO,
            "traceId": run.trace_id,
            "spanId": ids.run_span_id(key.flow, key.run, key.namespace),
            "traceUrl": trace_url(run, template),
            "resource": redaction.attributes((run.start or {}).get("resource") or {}),
            "origin": run.origin,
            "triggers": list((run.start or {}).get("triggers") or ()) or None,
            "failure": None if failure is None else story.name(failure.key),
            "exception": redaction.value((run.end or {}).get("exception")),
            "criticalPath": {
                "attempts": [story.name(attempt.key) for attempt in path.attempts],
                "durationSeconds": path.duration / _NANO,
                "queueSeconds": path.queued / _NANO,
            },
            "steps": [_of_step(run, step, ran) for step, ran in by_step(run, attempts).items()],
            "attempts": [of_attempt(run, attempt, redaction, critical) for attempt in attempts],
        }
    )


def of_attempt(run: Run, attempt: Attempt, redaction: Redaction, critical: set[AttemptKey]) -> Values:
    """One attempt; `critical` are the attempts on the critical path.

    It was queued until `launchTimeUnixNano`, its process started at `startTimeUnixNano`, user code ran from
    `codeStartTimeUnixNano` to `codeEndTimeUnixNano`, and its artifacts were stored at `endTimeUnixNano`.
    """
    start, end, key = attempt.start or {}, attempt.end or {}, attempt.key
    queued = story.queue_time(run, attempt)
    before = story.previous(run, attempt)
    origin = attempt.cloned_from
    recorded = run.is_recorded(attempt)
    return _known(
        {
            "name": story.name(key),
            "step": key.step,
            "task": key.task,
            "attempt": key.attempt,
            "spanId": ids.attempt_span_id(run.key.flow, run.key.run, *key, run.key.namespace) if recorded else None,
            "state": attempt_state(attempt),
            "recorded": None if recorded else False,
            "partial": True if recorded and attempt.is_partial else None,
            "startTimeUnixNano": attempt.started_at,
            "launchTimeUnixNano": (attempt.launch or {}).get("timeUnixNano"),
            "codeStartTimeUnixNano": end.get("codeStart"),
            "codeEndTimeUnixNano": end.get("codeEnd"),
            "endTimeUnixNano": attempt.ended_at,
            "queueSeconds": None if queued is None else queued / _NANO,
            "durationSeconds": (attempt.ended_at - attempt.started_at) / _NANO,
            "critical": True if key in critical else None,
            "inputs": [story.name(read) for read in run.inputs_of(attempt) or ()] or None,
            "retries": None if before is None else story.name(before.key),
            "retried": True if attempt.failed and story.following(run, attempt) is not None else None,
            "foreachIndex": [int(index) for index, _ in start.get("foreach") or ()] or None,
            "foreachValue": redaction.value(start.get("foreachValue")),
            "clonedFrom": None if origin is None else f"{run.key.flow}/{origin}",
            "caught": True if end.get("caught") else None,
            "exitCode": attempt.exit_code,
            "signal": attempt.signal_name,
            "error": redaction.text(attempt.error_message) if attempt.error_message else None,
            "exception": redaction.value(attempt.exception) or None,
            "usage": attempt.usage or None,
            "artifacts": end.get("artifacts"),
        }
    )


def ended_at(run: Run) -> int:
    """When the last process of the run ended, in nanoseconds since 1970; of a running one, when it was last seen."""
    return max(run.ended_at, *(attempt.ended_at for attempt in run.attempts.values()), run.started_at)


def by_step(run: Run, attempts: list[Attempt]) -> dict[str, list[Attempt]]:
    """The attempts of each step, in the order in which the steps began; then, without attempts, the steps left."""
    steps: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        members = steps.setdefault(attempt.key.step, [])
        if not attempt.is_cloned:
            members.append(attempt)
    return {**steps, **{step: [] for step in run.steps if step not in steps}}


def _of_step(run: Run, step: str, ran: list[Attempt]) -> Values:
    record = run.steps.get(step, {})
    requested = record.get("requested") or {}
    return _known(
        {
            "name": step,
            "type": record.get("type"),
            "next": record.get("next"),
            "file": record.get("file"),
            "line": record.get("line"),
            "recorded": record.get("recorded"),
            "requested": _known({**requested, "memory": _bytes(requested.get("memory"))}) or None,
            "used": use(ran) if ran and any(run.is_recorded(attempt) for attempt in ran) else None,
        }
    )


def use(attempts: list[Attempt]) -> Values:
    """The usage of attempts: the sums of their CPU seconds and I/O, and the maxima of their cores and memory.

    Only their number, if none has a record of its usage.
    """
    count, attempts = len(attempts), [attempt for attempt in attempts if attempt.usage]
    if not attempts:
        return {"attempts": count}
    cpu = [float(attempt.usage.get("cpu", 0)) for attempt in attempts]
    took = [max(0.001, (attempt.ended_at - attempt.started_at) / _NANO) for attempt in attempts]
    return {
        "attempts": count,
        "cpuSeconds": sum(cpu),
        "cores": max(used / seconds for used, seconds in zip(cpu, took, strict=True)),
        "memoryPeak": max(int(attempt.usage.get("memoryPeak", 0)) for attempt in attempts),
        "read": sum(int(attempt.usage.get("read", 0)) for attempt in attempts),
        "written": sum(int(attempt.usage.get("written", 0)) for attempt in attempts),
    }


def _bytes(mebibytes: float | None) -> int | None:
    return None if mebibytes is None else int(mebibytes * _MEBIBYTE)


def _known(values: Values) -> Values:
    return {name: value for name, value in values.items() if value is not None}
