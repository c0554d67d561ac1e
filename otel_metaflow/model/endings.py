"""The events about an attempt, or a run, that failed: the same for back ends, the terminal and the page."""

from __future__ import annotations

from typing import Any, Dict, Iterator, NamedTuple, Optional

from otel_metaflow.core import names
from otel_metaflow.model import story
from otel_metaflow.model.run import Attempt, Run

WARN, ERROR, FATAL = "WARN", "ERROR", "FATAL"


class Notice(NamedTuple):
    """An event: name (docs/names.md), severity, body, time and attributes."""

    event: str
    severity: str
    body: str
    at: int
    facts: Dict[str, Any]

    @property
    def text(self) -> str:
        """The body as text, followed by the traceback if there is one."""
        trace = str(self.facts.get(names.EXCEPTION_STACKTRACE) or "").rstrip()
        return f"{self.body}\n{trace}" if trace else self.body


def exception(attempt: Attempt) -> Optional[Notice]:
    """The exception that the step raised; a warning if `@catch` rescued it."""
    if not attempt.exception or attempt.result == "cancellation":
        return None
    raised = attempt.exception
    return Notice(
        names.EVENT_TASK_EXCEPTION,
        ERROR if attempt.failed else WARN,
        f"{raised.get('type')}: {raised.get('message')}",
        attempt.ended_at,
        {f"exception.{name}": str(value) for name, value in raised.items()},
    )


def death(attempt: Attempt) -> Optional[Notice]:
    """The death of its process, if it died without recording its end."""
    if not attempt.is_lost:
        return None
    return Notice(
        names.EVENT_TASK_LOST,
        FATAL,
        f"attempt lost: {attempt.error_message}",
        attempt.ended_at,
        {names.PROCESS_EXIT_CODE: attempt.exit_code, names.TASK_SIGNAL: attempt.signal_name},
    )


def retry(run: Run, attempt: Attempt) -> Optional[Notice]:
    """The retry of the attempt, if there is one."""
    after = story.following(run, attempt)
    if after is None:
        return None
    return Notice(
        names.EVENT_TASK_RETRY,
        WARN,
        f"{story.name(attempt.key)} is followed by {story.name(after.key)}: {attempt.error_message or attempt.result}",
        attempt.ended_at,
        {},
    )


def of_attempt(run: Run, attempt: Attempt) -> Iterator[Notice]:
    """All events about the failure of an attempt that has ended: at least one error if it failed."""
    if attempt.is_cloned:
        return
    found = [notice for notice in (exception(attempt), death(attempt)) if notice is not None]
    if attempt.failed and not found:
        body = f"attempt ended: {attempt.result}: {attempt.error_message}"
        found.append(Notice(names.EVENT_TASK_END, ERROR, body, attempt.ended_at, {}))
    again = retry(run, attempt)
    yield from found if again is None else [*found, again]


def of_run(run: Run) -> Iterator[Notice]:
    """The failure of a run that has ended, if none of its attempts explains it."""
    if run.result in ("failure", "error") and story.first_failure(run) is None:
        body = f"run ended: {run.result}: {run.error_message}"
        yield Notice(names.EVENT_RUN_END, ERROR, body, run.ended_at, {})
