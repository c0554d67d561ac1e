"""The critical path of a run: which attempts determined how long it took.

Times are nanoseconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, List, Set

from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.model import story
from otel_metaflow.model.run import Attempt, Run


@dataclass(frozen=True)
class CriticalPath:
    """The chain that determined when the run ended: no attempt in it could start before the previous one had ended."""

    attempts: List[Attempt]
    duration: int
    queued: int

    @property
    def steps(self) -> List[str]:
        """`step/task` of each, without duplicates."""
        return list(dict.fromkeys(f"{one.key.step}/{one.key.task}" for one in self.attempts))


def critical_path(run: Run) -> CriticalPath:
    """Follow the run backwards from the attempt that ended last, each time to the prerequisite that ended last.

    `duration` is the time from the run's start to that end, `queued` the part of it during which none of the chain ran.
    """
    chain: List[Attempt] = []
    seen: Set[AttemptKey] = set()
    before: Iterable[Attempt] = run.attempts.values()
    while True:
        # A journal that was tampered with may contain a cycle.
        ran = (one for one in before if not one.is_cloned and one.key not in seen)
        last = max(ran, key=_rank, default=None)
        if last is None:
            break
        chain.append(last)
        seen.add(last.key)
        before = story.prerequisites(run, last)
    if not chain:
        return CriticalPath([], 0, 0)
    chain.reverse()
    queued, until = 0, run.started_at
    for attempt in chain:
        queued += max(0, attempt.started_at - until)
        until = max(until, attempt.ended_at)
    return CriticalPath(chain, max(0, until - run.started_at), queued)


def _rank(attempt: Attempt) -> tuple[int, AttemptKey]:
    return attempt.ended_at, attempt.key
