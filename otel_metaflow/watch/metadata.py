"""Metaflow's metadata, asked again only for what may have changed.

A metadata service has of each task when its last heartbeat was, in the list of a step's tasks: one request for all of
them. As long as heartbeats come, a task is alive, and what is noted of it is seldom read; when they cease, it is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from otel_metaflow.backfill.metaflow_seams import Catalogue
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


class Metadata(Catalogue):
    """The metadata, with the memory of the run that is looked at."""

    def __init__(self, pace: Pace, moved: Callable[[], object], report: Callable[[str], object]) -> None:
        """`moved` is called before each request, and `report` with a line on whatever is left out.

        Raises:
            UnreadableError: Metaflow is configured to something that cannot be used.
        """

        def before_request() -> None:
            moved()
            pace.wait_for_request()
            moved()

        super().__init__(before_request, report)
        self._pace = pace
        self.memory = Memory()

    def tasks(self, flow: str, run: str, step: str) -> list[dict[str, Any]]:
        """The tasks of a step, listed once a look."""
        path = (flow, run, step)
        if path not in self.memory.lists:
            self.memory.lists[path] = super().tasks(*path)
            now = time.monotonic()
            for each in self.memory.lists[path]:
                self._take_heartbeat((*path, str(each["task_id"])), each, now)
        return self.memory.lists[path]

    def _take_heartbeat(self, path: tuple[str, ...], described: dict[str, Any], now: float) -> None:
        task = self.memory.tasks.setdefault(path, _Task(float(described.get("ts_epoch") or 0) / 1000))
        heartbeat = described.get("last_heartbeat_ts")
        if heartbeat != task.heartbeat:
            task.heartbeat, task.changed_at = heartbeat, now

    def metadata(self, flow: str, run: str, step: str, task: str) -> list[dict[str, Any]]:
        """What is noted of a task, as far as that is needed here."""
        known = self.memory.tasks.setdefault((flow, run, step, task), _Task(0.0))
        now = time.monotonic()
        if known.noted is None or known.is_due(now, self._pace):
            noted = super().metadata(flow, run, step, task)
            known.noted = [{name: entry.get(name) for name in _NOTED} for entry in noted]
            known.read_at = now
        return known.noted
