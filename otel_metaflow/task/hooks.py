"""The hooks that the decorator calls in a task; each is guarded, so that none can affect the step."""

from __future__ import annotations

from typing import Any, Iterable, Optional

from otel_metaflow.core.guard import guarded
from otel_metaflow.task import attempt as attempts
from otel_metaflow.task import metaflow_seams

Attempt = attempts.Attempt


@guarded
def pre_step(**arguments: Any) -> Optional[Attempt]:
    """Start the attempt; None if nothing is to be recorded."""
    return attempts.begin(**arguments)


@guarded
def before_user_code(attempt: Attempt) -> None:
    """All decorators' pre-steps have run, so the environment is complete."""
    attempt.record_user_telemetry()
    attempt.ensure_shipper()
    attempt.enter_user_code()


@guarded
def after_user_code(attempt: Attempt) -> None:
    """The step has returned."""
    attempt.leave_user_code()


@guarded
def exception(attempt: Attempt, error: BaseException) -> None:
    """The step raised `error`."""
    attempt.failed(error)


@guarded
def finished(attempt: Attempt, ok: Optional[bool], decorators: Iterable[Any]) -> None:
    """Metaflow has stored the attempt, with result `ok`; `decorators` are the step's."""
    attempt.finish(ok)
    if not ok:
        metaflow_seams.render_failed_cards(decorators)
