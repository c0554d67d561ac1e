"""How the attempts of a run relate: retries, inputs, queue times, the first failure.

Times are nanoseconds since 1970. Of attempts of steps without `@otel` the launcher records launch, inputs and end,
which is sufficient here.
"""

from __future__ import annotations

from typing import Iterator, Optional

from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.model.run import Attempt, Run


def name(key: AttemptKey) -> str:
    """STEP/TASK, or STEP/TASK/1 and so on for retries.

    Attempts are named like this everywhere; after FLOW/RUN/, `otel-metaflow view` and `id` accept it.
    """
    return f"{key.step}/{key.task}" + (f"/{key.attempt}" if key.attempt else "")


def previous(run: Run, attempt: Attempt) -> Optional[Attempt]:
    """The previous attempt of the same task."""
    key = attempt.key
    return run.attempts.get(AttemptKey(key.step, key.task, key.attempt - 1)) if key.attempt else None


def following(run: Run, attempt: Attempt) -> Optional[Attempt]:
    """The next attempt of the same task."""
    key = attempt.key
    return run.attempts.get(AttemptKey(key.step, key.task, key.attempt + 1))


def is_final(run: Run, attempt: Attempt, *, run_is_over: bool) -> Optional[bool]:
    """Whether no other attempt of the task follows; None while that is unknown.

    Only Metaflow knows whether it retries a failed attempt (`@retry`, and `@catch` after a death): it starts the next
    attempt immediately, or ends the run.
    """
    if following(run, attempt) is not None:
        return False
    if attempt.failed and attempt.is_alone and not run.has_launcher:  # its container sees nothing of the next one
        return attempt.key.attempt >= int((attempt.start or {}).get("maxUserCodeRetries") or 0)
    return True if run_is_over or not attempt.failed else None


def first_failure(run: Run) -> Optional[Attempt]:
    """The attempt whose failure made the run fail: the first to fail of those that were not retried.

    In a running run, the first that may make it fail: an attempt that is still running has not failed.
    """
    if run.result not in ("failure", "error"):
        return None
    failed = (one for one in run.attempts.values() if one.failed and following(run, one) is None and not _runs(one))
    return min(failed, key=lambda one: (one.over_at, one.key), default=None)


def prerequisites(run: Run, attempt: Attempt) -> Iterator[Attempt]:
    """The attempts that had to end before this one could start: the previous attempt, else all its inputs."""
    before = previous(run, attempt)
    if before is not None:
        yield before
        return
    for key in run.inputs_of(attempt) or ():
        read = run.attempts.get(key)
        if read is not None and read is not attempt:
            yield read


def queue_time(run: Run, attempt: Attempt) -> Optional[int]:
    """The time from when all prerequisites had ended to the attempt's launch; None if unknown.

    Of an attempt in a container, to the container's start: it was scheduled meanwhile, and its image pulled.
    """
    if attempt.launch is None or run.start is None:
        return None
    ready = max((one.over_at for one in prerequisites(run, attempt)), default=None)
    if attempt.key.attempt == 0:
        inputs = run.inputs_of(attempt)
        if inputs is None or not all(_is_known(run, key) for key in inputs) or (inputs and ready is None):
            return None
    return max(0, queued_until(attempt) - (run.started_at if ready is None else ready))


def queued_until(attempt: Attempt) -> int:
    """When an attempt that was launched began to run; 0 for any other."""
    launched = int((attempt.launch or {}).get("timeUnixNano", 0))
    return max(launched, int((attempt.start or {}).get("containerStartTimeUnixNano", 0))) if launched else 0


def _is_known(run: Run, key: AttemptKey) -> bool:
    """Whether the end of an attempt is known.

    The launcher does not see the nodes of a `@parallel` step, but it sees their control task, which ends after them.
    """
    return key in run.attempts or bool(run.steps.get(key.step, {}).get("parallel"))


def _runs(attempt: Attempt) -> bool:
    return attempt.end is None and attempt.is_running()
