"""Decides which attempts of a very wide step have spans of their own: the trace of a foreach of 100,000 is to open.

The first attempts of a step have one, and beyond the limit as many of those that failed or are retries. Of the rest the
slowest do, which are known at the run's end; one span of the step summarizes what is left.

The launcher's journal alone decides, in its order, so that a shipper that follows another one decides the same.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable

from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.model.run import Attempt

SLOWEST = 100


class SpanLimit:
    """Notes on each attempt whether it has a span of its own (`has_span`); `most` of each step do for being first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: Counter[str] = Counter()
        self._conspicuous: Counter[str] = Counter()

    def take(self, attempt: Attempt, kind: str) -> None:
        """Take in that the launcher's journal has a record of `kind` about `attempt`."""
        if (attempt.launch or {}).get("remote"):
            return  # its container exports its span itself
        step = attempt.key.step
        if kind in (layout.LAUNCH, layout.CLONE):
            self._begun[step] += 1
            attempt.has_span = self._begun[step] <= self._most or (attempt.key.attempt > 0 and self._is_shown(step))
        elif kind == layout.EXIT and not attempt.has_span and _failed(attempt):
            attempt.has_span = self._is_shown(step)

    def _is_shown(self, step: str) -> bool:
        """Whether one more attempt that failed, or is a retry, has a span."""
        self._conspicuous[step] += 1
        return self._conspicuous[step] <= self._most


def _failed(attempt: Attempt) -> bool:
    """Whether the launcher saw it fail: what its own journal holds may be read later."""
    seen = attempt.exit or {}
    return seen.get("code") != 0 or seen.get("ok") is False


class Slowest:
    """The slowest, in each step, of the attempts that were offered."""

    def __init__(self) -> None:
        self._of_step: dict[str, list[tuple[int, AttemptKey]]] = {}

    def offer(self, attempt: Attempt) -> AttemptKey | None:
        """Take one in; the attempt, itself or another, that is not among the slowest any more."""
        kept = self._of_step.setdefault(attempt.key.step, [])
        if len(kept) < SLOWEST:
            heapq.heappush(kept, _rank(attempt))
            return None
        return heapq.heappushpop(kept, _rank(attempt))[1]

    def take(self) -> list[AttemptKey]:
        """All of them, of which none is kept."""
        found = [key for kept in self._of_step.values() for _, key in kept]
        self._of_step.clear()
        return found


def summarized(attempts: Iterable[Attempt]) -> dict[str, list[Attempt]]:
    """The attempts of a run that is over that have no span, by step: neither of their own nor as one of the slowest."""
    found: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if not attempt.has_span:
            found.setdefault(attempt.key.step, []).append(attempt)
    rest = {step: sorted(each, key=_rank)[:-SLOWEST] for step, each in found.items()}
    return {step: each for step, each in rest.items() if each}


def _rank(attempt: Attempt) -> tuple[int, AttemptKey]:
    return attempt.ended_at - attempt.started_at, attempt.key
