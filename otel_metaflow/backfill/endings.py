"""Decides which attempts are over, and whether the run is, from what Metaflow stored of them.

Nothing here asks a clock but `now`: hosts' clocks differ, and what was seen in the future counts as just seen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from otel_metaflow.backfill.attempts import StoredAttempt, last_heartbeat, registered_at
from otel_metaflow.backfill.graph import Graph

_NANO = 1_000_000_000
LOST = "lost"  # the result of an attempt whose launcher has not recorded its end, as it does while it is alive
# How long after the end of an attempt its log files may still be on their way, in seconds, if no launcher stored them.
_SETTLED = 60.0
# How long what sent heartbeats has to be silent to count as dead, in seconds: Metaflow sends six a minute.
_HEARTLESS = 300.0
# How long what sends heartbeats counts as alive after one, in seconds, without a look at its files.
_ALIVE = 45.0
# How long a run may be without any task after one has failed, in seconds, before that was the end of it.
_BETWEEN_TASKS = 60.0
# The same if no launcher watches over it, as on Argo Workflows: a pod may have to wait for a node.
_BETWEEN_PODS = 600.0
_LAUNCHED = "runtime:dev"  # Metaflow's tag of what `flow.py run` starts


@dataclass(frozen=True)
class Patience:
    """How long to wait for signs of life; `dead_after` is in seconds, `now` in nanoseconds since 1970."""

    dead_after: float
    now: int

    def is_over(self, seen: int, seconds: float) -> bool:
        """Whether that long has passed since `seen`."""
        return self.now - seen >= min(seconds, self.dead_after) * _NANO

    def is_dead(self, seen: int, *, has_heart: bool) -> bool:
        """Whether what was last `seen` then, and has not ended, counts as dead."""
        return self.is_over(seen, _HEARTLESS if has_heart else self.dead_after)


def is_alive(attempt: StoredAttempt, patience: Patience) -> bool:
    """Whether a task's last attempt has not ended and has just sent a heartbeat, so that its files need no look."""
    return attempt.has_heart and not attempt.ended and not patience.is_over(attempt.seen, _ALIVE)


def is_outdated(last: StoredAttempt, names: Collection[str], patience: Patience) -> bool:
    """Whether a task's `last` attempt may have ended, or another one begun, since it was read.

    `names` are those of its files in the datastore, listed after that: Metaflow notes an end before it stores the file.
    """
    number = last.key.attempt
    is_over = f"{number}.DONE.lock" in names or is_attempt_over(last, names, patience, is_last=True)
    return f"{number + 1}.attempt.json" in names or (is_over and not last.ended)


def is_attempt_over(attempt: StoredAttempt, names: Collection[str], patience: Patience, *, is_last: bool) -> bool:
    """Whether nothing more will be stored of an attempt, whose task has the files `names` in the datastore."""
    number = attempt.key.attempt
    is_stored = f"{number}.runtime" in names and f"{number}.runtime_stderr.log" in names
    if not is_last or is_stored or attempt.is_cloned:
        return True
    if attempt.ended:
        return patience.is_over(attempt.seen, _SETTLED)
    return patience.is_dead(attempt.seen, has_heart=attempt.has_heart)


def run_result(
    described: Mapping[str, Any], graph: Graph, last: Iterable[tuple[StoredAttempt, str]], patience: Patience
) -> str | None:
    """The result of a run, of which each task's last attempt is over; None if it may go on.

    `last` has each with its result, as the journals have it, or LOST. The result is `error` if nobody recorded how it
    ended.
    """
    failed: list[StoredAttempt] = []
    killed: list[StoredAttempt] = []
    seen = last_heartbeat(described)
    has_heart = bool(seen)
    for attempt, result in last:
        if attempt.key.step == graph.end and result == "success":
            return "success"
        seen = max(seen, attempt.seen, attempt.ended)
        if result == "cancellation":
            killed.append(attempt)
        elif result not in ("success", "skip", LOST):
            failed.append(attempt)
    if failed or killed:
        is_watched = has_heart or _LAUNCHED in (described.get("system_tags") or ())
        pause = _pause(graph, failed) + (_BETWEEN_TASKS if is_watched else _BETWEEN_PODS)
        return ("failure" if failed else "cancellation") if patience.is_over(seen, pause) else None
    return "error" if patience.is_dead(seen or registered_at(described), has_heart=has_heart) else None


def _pause(graph: Graph, failed: Iterable[StoredAttempt]) -> float:
    """How long the launcher may wait before it tries these again, in seconds."""
    longest = 0.0
    for attempt in failed:
        step = graph.steps.get(attempt.key.step)
        if step is None:
            longest = max(longest, _HEARTLESS)
        elif attempt.key.attempt < step.max_retries:
            longest = max(longest, step.minutes_between_retries * 60)
    return longest
