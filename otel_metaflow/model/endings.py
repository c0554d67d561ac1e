"""What is said of an attempt, or of a run, that went wrong: the same to back ends, in the terminal, on the page."""

from __future__ import annotations

from typing import Any, Dict, Iterator, NamedTuple, Optional

from otel_metaflow.core import names
from otel_metaflow.model import story
from otel_metaflow.model.run import Attempt, Run

WARN, ERROR, FATAL = "WARN", "ERROR", "FATAL"


class Notice(NamedTuple):
    """An event: its name (docs/names.md), how bad it is, what it says and with which attributes."""

    event: str
    severity: str
    body: str
    at: int
    facts: Dict[str, Any]

    @property
    def text(self) -> str:
        """All of it as text: the traceback, which begins with what was raised or ends with it, where there is one."""
        trace = str(self.facts.get(names.EXCEPTION_STACKTRACE) or "").rstrip()
        return f"{self.body}\n{trace}" if trace else self.body


def exception(attempt: Attempt) -> Optional[Notice]:
    """What the step raised; a warning only, where `@catch` rescued it."""
    if not attempt.exception or attempt.result == "cancellation":
        return None
    said = attempt.exception
    return Notice(
        names.EVENT_TASK_EXCEPTION,
        ERROR if attempt.failed else WARN,
        f"{said.get('type')}: {said.get('message')}",
        attempt.ended_at,
        {f"exception.{name}": str(value) for name, value in said.items()},
    )


def death(attempt: Attempt) -> Optional[Notice]:
    """That its process died without a word."""
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
    """That it is tried again."""
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
    """All that is wrong with an attempt that is over: if it failed, one error at least."""
    if attempt.is_cloned:
        return
    found = [notice for notice in (exception(attempt), death(attempt)) if notice is not None]
    if attempt.failed and not found:
        body = f"attempt ended: {attempt.result}: {attempt.error_message}"
        found.append(Notice(names.EVENT_TASK_END, ERROR, body, attempt.ended_at, {}))
    again = retry(run, attempt)
    yield from found if again is None else [*found, again]


def of_run(run: Run) -> Iterator[Notice]:
    """That a run is over and failed, and why, as far as none of its attempts tells it."""
    if run.result in ("failure", "error") and story.first_failure(run) is None:
        body = f"run ended: {run.result}: {run.error_message}"
        yield Notice(names.EVENT_RUN_END, ERROR, body, run.ended_at, {})
