"""The delivery of one run: follows its journals, assembles its story and sends it, to the end."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Generator, List, Optional, Sequence, Set, Tuple

from otel_metaflow.assembly.checkpoint import Checkpoint
from otel_metaflow.assembly.logs import AttemptLogs, Cursor
from otel_metaflow.assembly.run import Run
from otel_metaflow.journal import layout
from otel_metaflow.journal.reader import Tail
from otel_metaflow.settings import Settings
from otel_metaflow.shipper import exporters, spans, users
from otel_metaflow.shipper.lane import Batch, Lane
from otel_metaflow.shipper.logs import LogRecords
from otel_metaflow.shipper.metrics import Metrics
from otel_metaflow.shipper.redaction import Redaction
from otel_metaflow.shipper.resources import Resources

# How often the journals are looked at, in seconds: a line is on its way within one second.
_POLL = 0.4
# What goes into one request at most: below the 4 MB that a gRPC server takes by default.
_MOST_RECORDS = 1_000
_MOST_BYTES = 1_000_000
_RUN = "RUN"


@dataclass(frozen=True)
class Item:
    """One thing to send, and the name under which it is remembered as sent."""

    name: str
    value: Any


class Delivery:
    """Delivers one run; not for use by two processes at once."""

    def __init__(self, home: Path, folder: Path, environment: Settings, wake: threading.Event) -> None:
        self.folder = folder
        self.run = Run(layout.run_key(home, folder))
        self.checkpoint = Checkpoint.read(folder)
        self.checkpoint.complete = False
        self.checkpoint.write()
        self._resources = Resources(self.run)
        self._redaction = Redaction(environment.redact)
        self._records = LogRecords(self.run, self._resources, environment.redact)
        self._metrics = Metrics(self.run, self._resources)
        self._facts: Dict[str, Tail] = {}
        self._logs: Dict[layout.AttemptKey, AttemptLogs] = {}
        self._users = {
            "traces": users.UserRecords(folder, layout.SPAN, self._cursor),
            "metrics": users.UserRecords(folder, layout.METRIC, self._cursor),
        }
        self._launcher_lines = Tail(folder / layout.RUN_FILE, self._cursor(layout.RUN_FILE).sent[0])
        self._settled: Set[layout.AttemptKey] = set()
        self._run_over = False
        self.wake = wake
        self.lanes = {
            signal: Lane(signal, partial(exporters.build, destination), self.wake)
            for signal, destination in environment.destinations.items()
        }

    def work(self, linger: float, give_way: Optional[Callable[[], bool]] = None) -> bool:
        """Deliver until all is sent, or until nothing more can be for `linger` seconds after the run's end.

        Returns whether all is sent. `give_way` may end the wait early.
        """
        try:
            self._work(linger, give_way or (lambda: False))
        finally:
            for lane in self.lanes.values():
                lane.close()
        self.checkpoint.complete = not any(lane.is_parked or lane.is_busy for lane in self.lanes.values())
        self.checkpoint.write()
        return self.checkpoint.complete

    def _work(self, linger: float, give_way: Callable[[], bool]) -> None:
        since: Optional[float] = None
        while True:
            self.wake.clear()
            self._follow()
            for lane in self.lanes.values():
                lane.step()
            fed = self._feed()
            self._note_trouble()
            idle = not fed and not any(lane.is_busy for lane in self.lanes.values())
            if self._run_over and idle and self._all_read():
                break
            if self._run_over and any(lane.trouble for lane in self.lanes.values()):
                since = since or time.monotonic()
                if time.monotonic() - since > linger or give_way():
                    break
            else:
                since = None
            if not fed:
                self.wake.wait(_POLL)

    # Reading

    def _follow(self) -> None:
        """Take in what the journals say besides log lines."""
        for path in sorted(self.folder.glob("*.jsonl")):
            tail = self._facts.get(path.name)
            if tail is None:
                tail = self._facts[path.name] = Tail(path, facts_only=True)
                key = layout.attempt_key(path.name)
                if key is not None:
                    self.run.attempt(key)
            while True:
                before = tail.offset
                for entry in tail.read():
                    self.run.add(path.name, entry.record)
                if tail.offset == before:
                    break
        self._settle()

    def _settle(self) -> None:
        """Find the attempts, and the run, of which nothing more will be heard."""
        launcher_gone = self.run.start is None or self.run.closed or not self.run.launcher_is_alive()
        for key, attempt in self.run.attempts.items():
            if key in self._settled:
                continue
            # The launcher's word comes after all that it read from the task; without it, the process's end decides.
            if attempt.exit is not None or (launcher_gone and not attempt.is_running()):
                self._settled.add(key)
        self._run_over = launcher_gone and len(self._settled) == len(self.run.attempts)

    def _all_read(self) -> bool:
        """Whether the journals hold nothing that was not handed to a lane."""
        self._follow()
        if not self._run_over or not self._users_are_read():
            return False
        lane = self.lanes.get("logs")
        if lane is None or lane.is_parked:
            return True
        return self._launcher_lines.at_end() and all(self._attempt_logs(key).at_end() for key in self.run.attempts)

    # Feeding the lanes

    def _feed(self) -> bool:
        fed = False
        for signal, batch in (
            ("logs", self._log_batch),
            ("traces", partial(self._user_batch, "traces", users.spans)),
            ("traces", self._span_batch),
            ("metrics", partial(self._user_batch, "metrics", users.metrics)),
            ("metrics", self._metric_batch),
        ):
            lane = self.lanes.get(signal)
            if lane is not None and lane.is_idle:
                made = batch()
                if made is not None:
                    lane.offer(made)
                    fed = True
        return fed

    def _cursor(self, name: str) -> Cursor:
        return self.checkpoint.cursors.get(name) or Cursor()

    def _attempt_logs(self, key: layout.AttemptKey) -> AttemptLogs:
        logs = self._logs.get(key)
        if logs is None:
            logs = self._logs[key] = AttemptLogs(self.folder, key, self._cursor(str(key)))
        return logs

    def _log_batch(self) -> Optional[Batch]:
        records: List[Any] = []
        cursors: Dict[str, Cursor] = {}
        events: List[str] = []
        size = 0
        # Closed at once when the batch is full: closing is what notes how far it came.
        with closing(self._pending_logs(cursors, events)) as pending:
            for record, cost in pending:
                records.append(record)
                size += cost
                if len(records) >= _MOST_RECORDS or size >= _MOST_BYTES:
                    break
        if not records:
            self.checkpoint.cursors.update(cursors)
            self.checkpoint.sent["events"].update(events)
            return None

        def settled(bad: int) -> None:
            self.checkpoint.cursors.update(cursors)
            self.checkpoint.sent["events"].update(events)
            self._settled_batch("logs", len(records), bad)

        return Batch(records, settled)

    def _pending_logs(self, cursors: Dict[str, Cursor], events: List[str]) -> Generator[Tuple[Any, int], None, None]:
        """Log records that were not handed out, with their size; `cursors` and `events` say how far it came."""
        now = time.time_ns()
        for entry in self._launcher_lines.read():
            cursors[layout.RUN_FILE] = Cursor(sent=(entry.end, 0))
            if entry.record["kind"] == layout.LINE:
                yield self._records.of_launcher(entry.record, f"r{entry.start}"), _cost(entry.record)
        for key, attempt in list(self.run.attempts.items()):
            logs = self._attempt_logs(key)
            final = key in self._settled
            name = str(key)
            told = name in self.checkpoint.sent["events"]
            if logs.at_end() and not logs.holds and (told or not final):
                continue
            with closing(logs.read(now, final=final)) as entries:
                try:
                    for log in entries:
                        yield self._records.of_attempt(attempt, log.record, log.uid), _cost(log.record)
                finally:
                    cursors[name] = logs.cursor()
            if final and not told:
                events.append(name)
                for event in self._records.events_of(attempt):
                    yield event, 1_000

    def _user_batch(self, signal: str, convert: Callable[..., Any]) -> Optional[Batch]:
        """What user code said through OpenTelemetry, as it was said."""
        cursors: Dict[str, Cursor] = {}
        said = self._users[signal].take(self.run.attempts, self._facts, cursors, _MOST_RECORDS, _MOST_BYTES)
        if not said:
            return None

        def settled(bad: int) -> None:
            self.checkpoint.cursors.update(cursors)
            self._settled_batch(signal, len(said), bad)

        return Batch(said, settled, lambda part: convert(part, self._resources.of_attempt, self._redaction))

    def _users_are_read(self) -> bool:
        """Whether all that user code said is with a lane, as far as there is one that takes it."""
        return all(
            records.is_read(self.run.attempts, self._facts)
            for signal, records in self._users.items()
            if signal in self.lanes and not self.lanes[signal].is_parked
        )

    def _span_batch(self) -> Optional[Batch]:
        items = [
            Item(str(key), spans.of_attempt(self.run, self.run.attempts[key], self._resources, self._redaction))
            for key in self._unsent("traces")
        ]
        if self._run_is_due("traces"):
            items.append(Item(_RUN, spans.of_run(self.run, self._resources, self._redaction)))
        return self._named_batch("traces", items, lambda part: [item.value for item in part])

    def _metric_batch(self) -> Optional[Batch]:
        items = [Item(str(key), self.run.attempts[key]) for key in self._unsent("metrics")]
        if self._run_is_due("metrics"):
            items.append(Item(_RUN, None))
        return self._named_batch("metrics", items, self._as_metrics)

    def _as_metrics(self, part: Sequence[Item]) -> Any:
        data = self._metrics.of_attempts([item.value for item in part if item.value is not None])
        if any(item.value is None for item in part):
            more = self._metrics.of_run()
            data = type(data)([*data.resource_metrics, *more.resource_metrics])
            dropped = {signal: count for signal, count in self.checkpoint.dropped.items() if count}
            if dropped:
                more = self._metrics.of_dropped(dropped, self.run.ended_at)
                data = type(data)([*data.resource_metrics, *more.resource_metrics])
        return data

    def _unsent(self, signal: str) -> List[layout.AttemptKey]:
        sent = self.checkpoint.sent[signal]
        return [key for key in self.run.attempts if key in self._settled and str(key) not in sent][:_MOST_RECORDS]

    def _run_is_due(self, signal: str) -> bool:
        """Whether the run's own span or metrics can be made: it has a launcher, and all its attempts went before."""
        return (
            self._run_over
            and self.run.has_launcher
            and _RUN not in self.checkpoint.sent[signal]
            and all(str(key) in self.checkpoint.sent[signal] for key in self.run.attempts)
        )

    def _named_batch(self, signal: str, items: Sequence[Item], wrap: Any) -> Optional[Batch]:
        if not items:
            return None

        def settled(bad: int) -> None:
            self.checkpoint.sent[signal].update(item.name for item in items)
            self._settled_batch(signal, len(items), bad)

        return Batch(items, settled, wrap)

    def _settled_batch(self, signal: str, count: int, bad: int) -> None:
        self.checkpoint.delivered[signal] = self.checkpoint.delivered.get(signal, 0) + count - bad
        if bad:
            self.checkpoint.dropped[signal] = self.checkpoint.dropped.get(signal, 0) + bad
        self.checkpoint.corrupt = sum(logs.corrupt for logs in self._logs.values())
        self.checkpoint.write()

    def _note_trouble(self) -> None:
        trouble = {signal: lane.trouble for signal, lane in self.lanes.items() if lane.trouble}
        if trouble != self.checkpoint.trouble:
            self.checkpoint.trouble = trouble
            self.checkpoint.write()
            for signal, reason in trouble.items():
                print(f"{signal}: {reason}", file=sys.stderr, flush=True)  # noqa: T201 - shipper.log


def _cost(record: Dict[str, Any]) -> int:
    """About how many bytes a record takes in a request."""
    return len(str(record.get("body", ""))) + 400
