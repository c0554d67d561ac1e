"""A catalogue that is asked again only for what may have changed.

A metadata service has of each task when its last heartbeat was, in the list of a step's tasks: one request for all of
them. As long as heartbeats come, a task is alive, and what is noted of it is seldom read; when they cease, it is read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from otel_metaflow.backfill.catalogue import Catalogue
from otel_metaflow.backfill.metaflow_seams import Storage
from otel_metaflow.watch.pace import Pace

# After how many seconds without a new heartbeat a task is silent: Metaflow sends one in ten.
_SILENT = 30.0
_NOTED = ("field_name", "value", "tags", "ts_epoch")


@dataclass
class _Task:
    """What is known of a task; times are of the monotonic clock, `began` is in seconds since 1970."""

    began: float
    heartbeat: Any = None
    changed_at: float = 0.0
    """When a new heartbeat was last seen."""
    read_at: float = 0.0
    noted: list[dict[str, Any]] | None = None

    def is_due(self, now: float, pace: Pace) -> bool:
        """Whether what is noted of it has to be read again."""
        age = time.time() - self.began
        if self.noted is None or now - self.read_at >= (pace.longest if self.heartbeat else pace.pause(age)):
            return True
        silent_since = self.changed_at + _SILENT
        return bool(self.heartbeat) and self.read_at < silent_since <= now


@dataclass
class Memory:
    """What is remembered of one run."""

    tasks: dict[tuple[str, ...], _Task] = field(default_factory=dict)
    lists: dict[tuple[str, ...], list[dict[str, Any]]] = field(default_factory=dict)

    def look_again(self) -> None:
        """Another look at the run begins."""
        self.lists.clear()


class Metadata:
    """A catalogue, with the memory of the run that is looked at."""

    def __init__(self, catalogue: Catalogue, pace: Pace) -> None:
        self._catalogue = catalogue
        self._pace = pace
        self.memory = Memory()

    @property
    def reads_files(self) -> bool:
        """Whether nothing changes as long as no file of a task comes."""
        return self._catalogue.reads_files

    @property
    def place(self) -> str:
        """What is read, and where, for people."""
        return self._catalogue.place

    def flows(self) -> list[str]:
        """The names of all flows."""
        return self._catalogue.flows()

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """All runs of a flow, the newest first."""
        return self._catalogue.runs(flow)

    def run(self, flow: str, run: str) -> dict[str, Any] | None:
        """One run; None if there is none."""
        return self._catalogue.run(flow, run)

    def steps(self, flow: str, run: str) -> list[str]:
        """The steps of a run that have begun, with `_parameters`."""
        return self._catalogue.steps(flow, run)

    def storage(self, kind: str, root: str) -> Storage:
        """The datastore of a kind and root."""
        return self._catalogue.storage(kind, root)

    def tasks(self, flow: str, run: str, step: str) -> list[dict[str, Any]]:
        """The tasks of a step, listed once a look."""
        path = (flow, run, step)
        if path not in self.memory.lists:
            self.memory.lists[path] = self._catalogue.tasks(*path)
            now = time.monotonic()
            for each in self.memory.lists[path]:
                self._take_heartbeat((*path, str(each["task_id"])), each, now)
        return self.memory.lists[path]

    def _take_heartbeat(self, path: tuple[str, ...], described: dict[str, Any], now: float) -> None:
        task = self.memory.tasks.setdefault(path, _Task(float(described.get("ts_epoch") or 0) / 1000))
        heartbeat = described.get("last_heartbeat_ts")
        if heartbeat != task.heartbeat:
            task.heartbeat, task.changed_at = heartbeat, now

    def _is_due(self, task: _Task, now: float) -> bool:
        return task.noted is None or (not self.reads_files and task.is_due(now, self._pace))

    def metadata(
        self, flow: str, run: str, step: str, tasks: Sequence[str], *, again: bool = False
    ) -> dict[str, list[dict[str, Any]]]:
        """What is noted of each of some tasks, as far as that is needed here."""
        known = {task: self.memory.tasks.setdefault((flow, run, step, task), _Task(0.0)) for task in tasks}
        now = time.monotonic()
        due = [task for task, each in known.items() if again or self._is_due(each, now)]
        noted = self._catalogue.metadata(flow, run, step, due, again=again) if due else {}
        for task, entries in noted.items():
            known[task].noted = [{name: entry.get(name) for name in _NOTED} for entry in entries]
            known[task].read_at = now
        return {task: each.noted or [] for task, each in known.items()}
