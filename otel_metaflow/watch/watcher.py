"""Follows the runs of some flows: makes journals of what is over of them, and exports these.

All that it knows it has on disk: journals, their ledgers, and which runs were exported. So it may be killed at any
moment, and started again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from otel_metaflow.backfill import journals, runs, windows
from otel_metaflow.backfill.catalogue import Catalogue
from otel_metaflow.backfill.history import History
from otel_metaflow.backfill.metaflow_seams import UnreadableError
from otel_metaflow.backfill.runs import StoredRunName
from otel_metaflow.core.settings import Settings
from otel_metaflow.journal import layout, run_record, setbacks
from otel_metaflow.journal import lock as locks
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.keys import RunKey
from otel_metaflow.model.run import load
from otel_metaflow.shipper import backlog, retention
from otel_metaflow.watch.metadata import Memory, Metadata
from otel_metaflow.watch.metrics import Metrics
from otel_metaflow.watch.pace import Pace

_NANO = 1_000_000_000
# How long to try to export a run while the endpoint fails, in seconds: the next pass tries again.
_LINGER = 10.0
_BETWEEN_PRUNINGS = 3_600.0
_LOCK = "watch.lock"


class AlreadyWatchedError(Exception):
    """Another watcher has this home."""


@dataclass
class _Flow:
    """A flow, when it is due, of the monotonic clock, and which of its listed runs others record."""

    due: float = 0.0
    recorded: set[str] = field(default_factory=set)


@dataclass
class _Watched:
    """A run that is going on, or was not exported yet; `due` is of the monotonic clock."""

    name: StoredRunName
    due: float = 0.0
    failures: int = 0  # in a row
    is_undelivered: bool = False
    notes: set[str] = field(default_factory=set)
    memory: Memory = field(default_factory=Memory)


class Watcher:
    """Watches flows by name or pattern."""

    def __init__(
        self,
        environment: Settings,
        patterns: Sequence[str],
        connect: Callable[[Callable[[], object]], Catalogue],
        *,
        since: float,
        dead_after: float,
        cloudwatch: bool,
        pace: Pace,
        metrics: Metrics,
        stop: threading.Event,
        report: Callable[[str], object],
    ) -> None:
        """Take over the home of `environment`.

        Args:
            environment: What is to be recorded, and where to export it.
            patterns: The flows.
            connect: Opens what is read of runs; called with what to call before each request.
            since: How old runs may be when they are found, in seconds.
            dead_after: After how many seconds without a sign of life whatever sends no heartbeats counts as dead.
            cloudwatch: Whether to add what only CloudWatch has of attempts that died with their containers.
            pace: What it may cost.
            metrics: What it counts.
            stop: Set, while it `is_exporting`, to end it.
            report: Called with a line for people.

        Raises:
            AlreadyWatchedError: another watcher has this home.
            UnreadableError: it cannot be opened.
            OSError: the home cannot be written.
        """
        self.is_exporting = False
        environment.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if locks.try_lock(environment.home, _LOCK) is None:
            raise AlreadyWatchedError
        self._environment = environment
        self._home = environment.home
        self._patterns = patterns
        self._since, self._dead_after, self._cloudwatch = since, dead_after, cloudwatch
        self._pace, self._metrics, self._stop, self._report = pace, metrics, stop, report
        self._metadata = Metadata(connect(self._before_request), pace)
        self._history = History(self._home)
        self._flows: dict[str, _Flow] = {}
        self._open: dict[RunKey, _Watched] = {}
        self._opened: list[int] = []  # when the runs began that were opened since the last pass
        self._failures = 0  # passes in a row
        self._endpoint_fails = False
        self._next_pruning = time.monotonic() + _BETWEEN_PRUNINGS
        self._resume()

    @property
    def place(self) -> str:
        """What is read of runs, and where."""
        return self._metadata.place

    def _before_request(self) -> None:
        self._metrics.move()
        self._pace.wait_for_request()
        self._metrics.requests += 1
        self._metrics.move()

    def watch(self) -> None:
        """Pass over all flows, again and again, until it is stopped."""
        while not self._stop.is_set():
            trouble = self._pass()
            metrics = self._metrics
            if trouble and trouble != metrics.trouble:
                self._report(f"{trouble}; will try again")
            elif metrics.trouble and not trouble:
                self._report("works again")
            metrics.trouble = trouble
            metrics.passes += 1
            metrics.last_pass = metrics.last_pass if trouble else time.time()
            self._failures = self._failures + 1 if trouble else 0
            self._prune()
            metrics.move()
            self._stop.wait(self._pace.between_passes(self._failures))

    def _pass(self) -> str:
        """Look at everything that is due; return what fails."""
        self._endpoint_fails = False
        try:
            self._find_runs()
            self._warn()
            trouble = self._look_at_runs()
        except UnreadableError as error:
            self._metrics.failures["read"] += 1
            trouble = str(error)
        except OSError as error:
            self._metrics.failures["write"] += 1
            trouble = f"cannot write journals ({error.strerror}: {error.filename})"
        self._metrics.open_runs = len(self._open)
        return trouble

    def _resume(self) -> None:
        """Open the runs whose export was begun and not completed, however old."""
        for folder in backlog.unfinished(self._home):
            key = layout.run_key(self._home, folder)
            is_wanted = key.namespace == self._environment.namespace and runs.is_wanted(key.flow, self._patterns)
            if is_wanted and _is_backfilled(folder):
                began = load(self._home, folder).started_at
                self._open_run(key, _Watched(StoredRunName(key.flow, key.run, began), is_undelivered=True))

    def _find_runs(self) -> None:
        names = runs.flows(self._metadata, self._patterns)
        self._flows = {name: self._flows.get(name) or _Flow() for name in names}
        for name, flow in self._flows.items():
            if time.monotonic() >= flow.due:
                self._list(name, flow)

    def _list(self, name: str, flow: _Flow) -> None:
        """Open the new runs of a flow."""
        found = runs.newest(self._metadata, name)
        now = time.time()
        flow.due = time.monotonic() + (self._pace.pause(now - found[0].began / _NANO) if found else self._pace.every)
        recent = [run for run in found if run.began / _NANO >= now - self._since]
        flow.recorded &= {run.run for run in recent}
        for run in reversed(recent):
            key = RunKey(run.flow, run.run, self._environment.namespace)
            if key not in self._open and key not in self._history and run.run not in flow.recorded:
                # Its launcher has as long to begin its own journals, if it makes any.
                wait = max(0.0, self._pace.every - (now - run.began / _NANO))
                self._open_run(key, _Watched(run, time.monotonic() + min(wait, self._pace.every)))

    def _open_run(self, key: RunKey, run: _Watched) -> None:
        self._open[key] = run
        self._opened.append(run.name.began)

    def _warn(self) -> None:
        """Report which of the runs that were just opened may be too old for back ends, before any of them is sent."""
        old = windows.too_old(self._opened, self._environment.destinations, "new runs")
        self._opened.clear()
        if old:
            self._report(
                f"{old}; to have them there, watch with --since 1h, and export older ones by backfill --date-now"
            )

    def _look_at_runs(self) -> str:
        """Look at the runs that are due, those first that have waited longest; return what fails."""
        unreadable = 0
        due = [(run.due, key) for key, run in self._open.items() if run.due <= time.monotonic()]
        for _, key in sorted(due):
            if self._stop.is_set():
                break
            run = self._open[key]
            pause = self._pace.pause(time.time() - run.name.began / _NANO)
            try:
                self._look(key, run)
                unreadable = run.failures = 0
            except UnreadableError as error:
                self._metrics.failures["read"] += 1
                self._note(key, run, str(error))
                unreadable += 1
                run.failures += 1
                if unreadable == runs.MAX_UNREADABLE:
                    return str(error)
                pause *= 2.0 ** min(run.failures, 5)
            except BlockingIOError:
                self._note(key, run, "another process is making its journals")
            run.due = time.monotonic() + pause
            self._metrics.move()
        return "the endpoint does not take what it is sent" if self._endpoint_fails else ""

    def _look(self, key: RunKey, run: _Watched) -> None:
        """Make what is over of a run, and export it."""
        folder = layout.run_folder(self._home, key)
        if folder.exists() and not _is_backfilled(folder):  # by a launcher here, whose shipper exports it
            self._leave(key)
            return
        run.memory.look_again()
        self._metadata.memory = run.memory
        made = journals.make(
            self._metadata,
            self._environment,
            key.flow,
            key.run,
            dead_after=self._dead_after,
            cloudwatch=self._cloudwatch,
        )
        self._metrics.attempts += made.attempts
        for note in made.notes:
            self._note(key, run, note)
        if made.state == journals.RECORDED:
            self._leave(key)
            return
        run.is_undelivered |= bool(made.attempts) or made.state == journals.COMPLETE
        if run.is_undelivered and not self._endpoint_fails:
            self._deliver(key, run, folder)

    def _leave(self, key: RunKey) -> None:
        """Leave a run to whoever records it."""
        self._report(f"{key}: is recorded by @otel, and left to the machine that runs it")
        self._metrics.runs["recorded"] += 1
        del self._open[key]
        if key.flow in self._flows:
            self._flows[key.flow].recorded.add(key.run)

    def _note(self, key: RunKey, run: _Watched, note: str) -> None:
        """Report something about a run, once."""
        if note not in run.notes:
            run.notes.add(note)
            self._report(f"{key}: {note}")

    def _deliver(self, key: RunKey, run: _Watched, folder: Path) -> None:
        """Export what is there of a run."""
        quarantine = setbacks.reason(folder)
        if quarantine is not None:
            self._note(key, run, quarantine)
            return
        lock = locks.try_lock(folder)
        if lock is None:
            return
        before = DeliveryStatus.read(folder).delivered
        self.is_exporting = True
        try:
            backlog.ship_guarded(self._environment, folder, linger=_LINGER, stop=self._stop, follows=False)
        finally:
            self.is_exporting = False
            locks.release(lock)
        status = DeliveryStatus.read(folder)
        for signal, count in status.delivered.items():
            self._metrics.records[signal] += count - before.get(signal, 0)
        if status.stalled and not self._stop.is_set():
            self._metrics.failures["export"] += 1
            self._endpoint_fails = True
            for signal, reason in status.trouble.items():
                self._note(key, run, f"{signal}: {reason}")
        run.is_undelivered = status.stalled
        if status.complete:
            self._complete(key, folder, status)

    def _complete(self, key: RunKey, folder: Path, status: DeliveryStatus) -> None:
        """All of a run was exported."""
        self._history.add(key)
        del self._open[key]
        has_died = load(self._home, folder).end is None
        self._metrics.runs["exported"] += 1
        self._metrics.runs["died"] += has_died
        counts = ", ".join(f"{count:,} {signal}" for signal, count in sorted(status.delivered.items()))
        self._report(f"{key}: {'has died; ' if has_died else ''}exported {counts or 'nothing'}")

    def _prune(self) -> None:
        """Keep the journals within their limits."""
        if time.monotonic() >= self._next_pruning:
            self._next_pruning = time.monotonic() + _BETWEEN_PRUNINGS
            retention.prune(self._home, self._environment.journal_max_bytes, self._environment.journal_max_days)


def _is_backfilled(folder: Path) -> bool:
    """Whether the journals in a folder were made from what Metaflow stored, or are about to be; not by a launcher."""
    try:
        return not (folder / layout.RUN_FILE).stat().st_size or run_record.is_backfilled(folder)
    except OSError:
        return False
