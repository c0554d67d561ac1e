"""What a run's attempts have to do with each other: what waited for what, what failed first, what decided.

Times are nanoseconds since 1970. Of attempts of steps without `@otel` the launcher knows when they were
launched, what they read and how they ended, which is all that is asked here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Optional

from otel_metaflow.journal.layout import AttemptKey
from otel_metaflow.model.run import Attempt, Run


def name(key: AttemptKey) -> str:
    """STEP/TASK, and the attempt's number from its first retry on: STEP/TASK/1.

    The one spelling, of which FLOW/RUN/ and it is what `otel-metaflow view` and `id` take.
    """
    return f"{key.step}/{key.task}" + (f"/{key.attempt}" if key.attempt else "")


def previous(run: Run, attempt: Attempt) -> Optional[Attempt]:
    """The attempt of the same task before this one."""
    key = attempt.key
    return run.attempts.get(AttemptKey(key.step, key.task, key.attempt - 1)) if key.attempt else None


def following(run: Run, attempt: Attempt) -> Optional[Attempt]:
    """The attempt of the same task after this one."""
    key = attempt.key
    return run.attempts.get(AttemptKey(key.step, key.task, key.attempt + 1))


def is_final(run: Run, attempt: Attempt, *, run_is_over: bool) -> Optional[bool]:
    """Whether no other attempt of the task follows; None while that is open.

    Only Metaflow knows whether it tries a failed one again (`@retry`, and `@catch` after a death): it starts
    the next attempt at once, or ends the run.
    """
    if following(run, attempt) is not None:
        return False
    return True if run_is_over or not attempt.failed else None


def first_failure(run: Run) -> Optional[Attempt]:
    """The attempt whose failure made the run fail: the first in time of those that were not tried again.

    Of a run that goes on, the first that may: an attempt that still runs has not failed.
    """
    if run.result not in ("failure", "error"):
        return None
    failed = (one for one in run.attempts.values() if one.failed and following(run, one) is None and not _runs(one))
    return min(failed, key=lambda one: (_over_at(one), one.key), default=None)


def prerequisites(run: Run, attempt: Attempt) -> Iterator[Attempt]:
    """What had to be over before the attempt could start: the attempt before it, else all that it read."""
    before = previous(run, attempt)
    if before is not None:
        yield before
        return
    for key in run.inputs_of(attempt) or attempt.inputs:
        read = run.attempts.get(key)
        if read is not None and read is not attempt:
            yield read


def queue_time(run: Run, attempt: Attempt) -> Optional[int]:
    """How long the attempt waited for its launch after all that it needed was there; None if nobody saw."""
    if attempt.launch is None or run.start is None:
        return None
    needed = list(prerequisites(run, attempt))
    if attempt.key.attempt == 0:
        inputs = run.inputs_of(attempt)
        if inputs is None or not all(_is_known(run, key) for key in inputs) or (inputs and not needed):
            return None
    ready = max((_over_at(one) for one in needed), default=run.started_at)
    return max(0, int(attempt.launch["timeUnixNano"]) - ready)


@dataclass(frozen=True)
class CriticalPath:
    """The chain that decided when the run ended: each attempt could not start before the one ahead of it."""

    attempts: List[Attempt]
    duration: int
    queued: int

    @property
    def steps(self) -> List[str]:
        """`step/task` of each, a task once."""
        return list(dict.fromkeys(f"{one.key.step}/{one.key.task}" for one in self.attempts))


def critical_path(run: Run) -> CriticalPath:
    """Follow the run back from the attempt that ended last, each time to what it waited for longest.

    `duration` is from the run's start to that end, `queued` the part of it in which none of the chain ran.
    """
    ran = [one for one in run.attempts.values() if not one.is_cloned]
    if not ran:
        return CriticalPath([], 0, 0)
    chain = [max(ran, key=_rank)]
    seen = {chain[0].key}
    while True:
        # A journal that was tampered with may name a circle.
        before = [one for one in prerequisites(run, chain[-1]) if not one.is_cloned and one.key not in seen]
        if not before:
            break
        chain.append(max(before, key=_rank))
        seen.add(chain[-1].key)
    chain.reverse()
    queued, until = 0, run.started_at
    for attempt in chain:
        queued += max(0, attempt.started_at - until)
        until = max(until, attempt.ended_at)
    return CriticalPath(chain, max(0, until - run.started_at), queued)


def _is_known(run: Run, key: AttemptKey) -> bool:
    """Whether it is known when an attempt was over.

    The launcher does not see the nodes of a `@parallel` step, but their control task, which outlasts them.
    """
    return key in run.attempts or bool(run.steps.get(key.step, {}).get("parallel"))


def _runs(attempt: Attempt) -> bool:
    return attempt.end is None and attempt.is_running()


def _rank(attempt: Attempt) -> tuple[int, AttemptKey]:
    return attempt.ended_at, attempt.key


def _over_at(attempt: Attempt) -> int:
    """When the launcher knew that it was over, which is what the next one waits for."""
    return int(attempt.exit["timeUnixNano"]) if attempt.exit is not None else attempt.ended_at
