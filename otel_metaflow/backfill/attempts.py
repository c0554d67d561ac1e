"""The attempts of a task, from what Metaflow's metadata has of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from otel_metaflow.backfill.graph import Place
from otel_metaflow.journal.keys import AttemptKey

_MILLI = 1_000_000
_NUMBER = re.compile(r"attempt_id:([0-9]{1,3})")
ATTEMPT = re.compile(r"[0-9]{1,3}")
"""The number of an attempt in a name: Metaflow makes six at most."""
_DEEPEST = 100  # so many loops, one in the other
# Facts that metadata does not have (datastore_catalogue.py).
IN_CONTAINER = "in-container"
"""It ran in a container, nobody knows of which platform."""
CLONED = "cloned"
"""`resume` cloned it, nobody knows from where."""
FOREACH_SIZES = "foreach-sizes"
"""The size of each foreach that it is in, as `3,2`."""
# Facts that only the launcher, or the task's process before its step, registers: they are no sign of a step.
_BEGUN = "attempt"
_ENDED = "attempt_ok"


@dataclass
class StoredAttempt:
    """One attempt as Metaflow's metadata has it; times are nanoseconds since 1970, 0 if unknown."""

    key: AttemptKey
    launched: int = 0
    """When its first entry was made: with a launcher, just before its process was started."""
    begun: int = 0
    """When its process had loaded what it reads, just before user code."""
    ended: int = 0
    """When its artifacts were stored."""
    seen: int = 0
    """The last that was heard of it."""
    has_heart: bool = False
    """Whether its process sends heartbeats, so that its death is known soon."""
    is_ok: bool | None = None
    """Metaflow's result; None if its process died, or is alive."""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def datastore(self) -> tuple[str, str] | None:
        """Kind and root of the datastore with its files."""
        kind, root = self.facts.get("ds-type"), self.facts.get("ds-root")
        return (str(kind), str(root)) if kind and root else None

    @property
    def place(self) -> Place:
        """Its index in each foreach that it is in, from `STEP:INDEX,STEP:INDEX`."""
        return self._numbers("foreach-execution-path")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The size of each foreach that it is in; empty if that is unknown."""
        return self._numbers(FOREACH_SIZES)

    def _numbers(self, fact: str) -> tuple[int, ...]:
        parts = [part for part in str(self.facts.get(fact) or "").split(",") if part]
        try:
            return tuple(int(part.rpartition(":")[2]) for part in parts[:_DEEPEST])
        except ValueError:
            return ()

    @property
    def origin(self) -> str | None:
        """The run that is resumed."""
        found = self.facts.get("origin-run-id")
        return str(found) if found and str(found) != "None" else None

    @property
    def cloned_from(self) -> tuple[str, str] | None:
        """Run and task that `resume` cloned it from."""
        task = self.facts.get("origin-task-id")
        return (self.origin, str(task)) if self.origin and task else None

    @property
    def is_cloned(self) -> bool:
        """Whether `resume` cloned it."""
        return self.cloned_from is not None or CLONED in self.facts

    def parsed(self, name: str) -> Any:
        """A fact that is stored as JSON; None if it is not there or damaged."""
        try:
            return json.loads(self.facts[name])
        except (KeyError, TypeError, ValueError):
            return None


def of_task(step: str, task: Mapping[str, Any], metadata: Iterable[Mapping[str, Any]]) -> list[StoredAttempt]:
    """The attempts of a task in order, at least one; `task` and its `metadata` are as the provider has them."""
    name = str(task["task_id"])
    registered = registered_at(task)
    found: dict[int, StoredAttempt] = {
        0: StoredAttempt(AttemptKey(step, name, 0), launched=registered, seen=registered)
    }
    number = 0
    for entry in metadata:
        at, field_name, value = registered_at(entry), str(entry.get("field_name")), entry.get("value")
        number = _attempt_of(entry, number)
        attempt = found.setdefault(number, StoredAttempt(AttemptKey(step, name, number)))
        attempt.launched = min(attempt.launched or at, at)
        attempt.seen = max(attempt.seen, at)
        if field_name == _BEGUN:
            attempt.begun = at
        elif field_name == _ENDED:
            attempt.ended = at
            attempt.is_ok = str(value) == "True"
        attempt.facts[field_name] = value
    last = found[max(found)]
    heartbeat = last_heartbeat(task)
    if heartbeat:
        last.has_heart = True
        last.seen = max(last.seen, heartbeat)
    return [found[each] for each in sorted(found)]


def registered_at(described: Mapping[str, Any]) -> int:
    """When Metaflow noted a run, a task or a fact, in nanoseconds since 1970; 0 if unknown."""
    at = described.get("ts_epoch")
    return int(at) * _MILLI if isinstance(at, (int, float)) and at > 0 else 0


def last_heartbeat(described: Mapping[str, Any]) -> int:
    """When a run or task last sent a heartbeat, in nanoseconds since 1970; 0 if it never did.

    The service notes one, in seconds, when it creates the object. Of a pod that still waits for a node, and of a run
    that no launcher watches over, there is no other.
    """
    at, created = described.get("last_heartbeat_ts"), described.get("ts_epoch")
    if not isinstance(at, (int, float)) or not isinstance(created, (int, float)) or at * 1_000 <= created + 1_000:
        return 0
    return int(at) * 1_000_000_000


def _attempt_of(entry: Mapping[str, Any], before: int) -> int:
    """The attempt that an entry belongs to; in metadata of old versions it is that of the entry before."""
    for tag in entry.get("tags") or ():
        number = _NUMBER.fullmatch(str(tag))
        if number is not None:
            return int(number.group(1))
    value = str(entry.get("value"))
    return int(value) if entry.get("field_name") == _BEGUN and ATTEMPT.fullmatch(value) else before
