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

from otel_metaflow.assembly import story
from otel_metaflow.assembly.checkpoint import Checkpoint
from otel_metaflow.assembly.logs import AttemptLogs, Cursor
from otel_metaflow.assembly.run import Run
from otel_metaflow.journal import layout
from otel_metaflow.journal.reader import Tail
from otel_metaflow.settings import Destination, Settings
from otel_metaflow.shipper import exporters, sampling, users
from otel_metaflow.shipper.events import Events
from otel_metaflow.shipper.exporters import Exporter
from otel_metaflow.shipper.files import Files
from otel_metaflow.shipper.lane import Batch, Lane
from otel_metaflow.shipper.logs import LogRecords
from otel_metaflow.shipper.metrics import Metrics
from otel_metaflow.shipper.pulse import Pulse
from otel_metaflow.shipper.redaction import Redaction
from otel_metaflow.shipper.resources import Resources
from otel_metaflow.shipper.spans import Spans

# How often the journals are looked at, in seconds: a line is on its way within one second.
_POLL = 0.4
# What goes into one request at most: below the 4 MB that a gRPC server takes by default.
_MOST_RECORDS = 1_000
_MOST_BYTES = 1_000_000
_RUN = "RUN"
# About how many bytes an event takes in a request.
_EVENT_COST = 1_000


@dataclass(frozen=True)
class Item:
    """One thing to send, and the name under which it is remembered as sent."""

    name: str
    value: Any


class Delivery:
    """Delivers one run; not for use by two processes at once."""

    def __init__(
        self,
        home: Path,
        folder: Path,
        environment: Settings,
        wake: threading.Event,
        build: Callable[[Destination], Exporter] = exporters.build,
    ) -> None:
        self.folder = folder
        self.run = Run(layout.run_key(home, folder))
        self.checkpoint = Checkpoint.read(folder)
        self.checkpoint.complete = False
        self._corrupt_before = self.checkpoint.corrupt
        self.checkpoint.write()
        self._facts: Dict[str, Tail] = {}
        self._settled: Set[layout.AttemptKey] = set()
        self._read_out: Set[str] = set()  # files of settled attempts that were read to their end
        self._told_out: Set[layout.AttemptKey] = set()  # attempts of which no log record will come
        self._offered: Set[Tuple[str, str]] = set()  # signal and name of what a lane has, or had
        self._run_over = False
        self._follow()
        self._is_sampled = sampling.is_sampled(self.run, environment)
        self._keeps_failed = environment.keep_failed
        redaction = self._redaction = Redaction(environment.redact)
        self._resources = Resources(self.run, sampled=self._is_sampled or self._keeps_failed)
        pulse = Pulse()
        self._spans = Spans(home, self.run, self._resources, redaction, pulse, detail=environment.detail)
        self._events = Events(self.run, self._resources, redaction, pulse)
        self._records = LogRecords(self.run, self._resources, environment.redact)
        self._metrics = Metrics(self.run, self._resources)
        self._logs: Dict[layout.AttemptKey, AttemptLogs] = {}
        self._users = {
            "traces": users.UserRecords(folder, layout.SPAN, self._cursor),
            "metrics": users.UserRecords(folder, layout.METRIC, self._cursor),
        }
        self._launcher_lines = Tail(folder / layout.RUN_FILE, self._cursor(layout.RUN_FILE).sent[0])
        self.wake = wake
        self.lanes = {
            signal: Lane(signal, partial(build, destination), self.wake)
            for signal, destination in environment.destinations.items()
        }
        self._files: Optional[Files] = None
        if environment.log_dir is not None:
            # Records of its own: redaction remembers, line by line, whether it is inside a private key.
            records = LogRecords(self.run, self._resources, environment.redact)
            self._files = Files(environment.log_dir, folder, self.run, records, self._events, time.time_ns)

    def work(self, linger: float, give_way: Optional[Callable[[], bool]] = None) -> bool:
        """Deliver until all is sent, or until nothing more can be for `linger` seconds after the run's end.

        Returns whether all is sent. `give_way` may end the wait early.
        """
        try:
            self._work(linger, give_way or (lambda: False))
        finally:
            for lane in self.lanes.values():
                lane.finish()
                lane.close()
        self._note_corrupt()
        written = self._files is None or self._files.at_end()
        self.checkpoint.complete = written and all(lane.is_done for lane in self.lanes.values())
        self.checkpoint.write()
        return self.checkpoint.complete

    def _work(self, linger: float, give_way: Callable[[], bool]) -> None:
        since: Optional[float] = None
        is_leaving = False
        while True:
            self.wake.clear()
            self._follow()
            for lane in self.lanes.values():
                lane.step()
            fed = self._feed()
            if self._files is not None:
                fed |= self._files.feed(self._settled, run_is_over=self._run_over)
                self.checkpoint.delivered["files"] = self._files.written
            self._note_trouble()
            idle = not fed and not any(lane.is_busy for lane in self.lanes.values())
            if self._run_over and idle and self._all_read():
                break
            if self._run_over and self._trouble():
                since = since or time.monotonic()
                if give_way():
                    break
                is_leaving = is_leaving or time.monotonic() - since > linger
            else:
                since = None
            if is_leaving:
                for lane in self.lanes.values():
                    lane.is_leaving = True
                if not any(lane.is_sending for lane in self.lanes.values()):
                    break
            if not fed:
                self.wake.wait(_POLL)

    # Reading

    def _follow(self) -> None:
        """Take in what the journals say besides log lines."""
        # The launcher's first: what it says of an attempt's end comes after all that the attempt said.
        self._take_in(self.folder / layout.RUN_FILE)
        for path in sorted(self.folder.glob("*.jsonl")):
            key = layout.attempt_key(path.name)
            if key is None or path.name in self._read_out:
                continue
            self.run.attempt(key)
            if key in self._settled:
                self._read_out.add(path.name)  # after this last look
            self._take_in(path)
        self._settle()

    def _take_in(self, path: Path) -> None:
        tail = self._facts.get(path.name)
        if tail is None:
            tail = self._facts[path.name] = Tail(path, facts_only=True)
        before = -1
        while tail.offset != before:
            before = tail.offset
            for entry in tail.read():
                self.run.add(path.name, entry.record)

    def _settle(self) -> None:
        """Find the attempts, and the run, of which nothing more will be heard."""
        launcher_gone = self.run.start is None or self.run.closed or not self.run.launcher_is_alive()
        for key, attempt in self.run.attempts.items():
            if key in self._settled:
                continue
            # The launcher's word comes after all that it read from the task; where it will not speak, because it
            # is gone or because another task started this one (@parallel), the process's end decides.
            unheard = launcher_gone or attempt.is_within_another
            if attempt.is_cloned or attempt.exit is not None or (unheard and not attempt.is_running()):
                self._settled.add(key)
        self._run_over = launcher_gone and len(self._settled) == len(self.run.attempts)

    def _all_read(self) -> bool:
        """Whether the journals hold nothing that was not handed to a lane."""
        self._follow()
        if not self._run_over or not self._users_are_read():
            return False
        if self._files is not None and not self._files.at_end():
            return False
        lane = self.lanes.get("logs")
        return lane is None or lane.is_parked or self._logs_are_read()

    def _logs_are_read(self) -> bool:
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
        events: Dict[str, int] = {}
        size = 0
        # Closed at once when the batch is full: closing is what notes how far it came.
        with closing(self._pending_logs(cursors, events)) as pending:
            for record, cost in pending:
                records.append(record)
                size += cost
                if len(records) >= _MOST_RECORDS or size >= _MOST_BYTES:
                    break
        if not records and not self.lanes["logs"].is_done:
            return None  # what is in doubt may have to be read again
        if not records:
            self._note_logs(cursors, events)
            return None
        self._offered.update(("events", name) for name in events)

        def settled(bad: int) -> None:
            self._note_logs(cursors, events)
            self._settled_batch("logs", len(records), bad)

        return Batch(records, settled)

    def _note_logs(self, cursors: Dict[str, Cursor], events: Dict[str, int]) -> None:
        self.checkpoint.cursors.update(cursors)
        self.checkpoint.sent["events"].update(events)
        self.checkpoint.unwritten += sum(events.values())

    def _pending_logs(
        self, cursors: Dict[str, Cursor], events: Dict[str, int]
    ) -> Generator[Tuple[Any, int], None, None]:
        """Log records that were not handed out, with their size.

        `cursors` say how far it came, `events` which attempts are told to the end, and what their journals lost.
        """
        now = time.time_ns()
        for entry in self._launcher_lines.read():
            cursors[layout.RUN_FILE] = Cursor(sent=(entry.end, 0))
            if entry.record["kind"] == layout.LINE:
                yield self._records.of_launcher(entry.record, f"r{entry.start}"), _cost(entry.record)
        for key, attempt in list(self.run.attempts.items()):
            if key in self._told_out:
                continue
            logs = self._attempt_logs(key)
            final = key in self._settled
            before = len(events)
            if (not logs.at_end() or logs.holds) and (final or logs.may_begin(attempt)):
                with closing(logs.read(now, final=final)) as entries:
                    try:
                        for log in entries:
                            yield self._records.of_attempt(attempt, log.record, log.uid), _cost(log.record)
                    finally:
                        cursors[str(key)] = logs.cursor()
            for event in self._events.of_attempt(attempt, self._is_untold, is_over=final):
                # With the last word on an attempt, so that it is counted once.
                events[event.name] = attempt.lost(logs.unread) if event.is_last else 0
                yield event.make(), _EVENT_COST
            is_told = final and len(events) == before and logs.at_end() and not logs.holds
            # A failed one may still be followed by another attempt, which is an event too.
            if is_told and story.is_final(self.run, attempt, run_is_over=self._run_over) is not None:
                self._told_out.add(key)
        for event in self._events.of_run(self._is_untold, is_over=self._run_over):
            events[event.name] = 0
            yield event.make(), _EVENT_COST

    def _is_untold(self, event: str) -> bool:
        return self._is_new("events", event)

    def _user_batch(self, signal: str, convert: Callable[..., Any]) -> Optional[Batch]:
        """What user code said through OpenTelemetry, as it was said."""
        if signal == "traces" and not self._sends_spans():
            return None
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
            records.is_read(self._facts)
            for signal, records in self._users.items()
            if signal in self.lanes and not self.lanes[signal].is_parked and (signal != "traces" or self._sends_spans())
        )

    def _span_batch(self) -> Optional[Batch]:
        if not self._sends_spans():
            return None
        items = []
        for key in self._unsent("traces"):
            attempt = self.run.attempts[key]
            # A failed attempt's span says whether another followed: that is known at once, or with the run's end.
            if story.is_final(self.run, attempt, run_is_over=self._run_over) is not None:
                items.append(Item(str(key), self._spans.of_attempt(attempt, run_is_over=self._run_over)))
        if self._run_is_due("traces"):
            items.append(Item(_RUN, [self._spans.of_run()]))
        return self._named_batch("traces", items, lambda part: [span for item in part for span in item.value])

    def _sends_spans(self) -> bool:
        """Whether the run's spans are wanted; of one that was not drawn, perhaps, once it has failed."""
        return self._is_sampled or (self._keeps_failed and self._run_over and self.run.result in ("failure", "error"))

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
            self._note_corrupt()
            given_up = self.checkpoint.given_up
            if given_up:
                more = self._metrics.of_dropped(given_up, self.run.ended_at)
                data = type(data)([*data.resource_metrics, *more.resource_metrics])
        return data

    def _unsent(self, signal: str) -> List[layout.AttemptKey]:
        return [key for key in self.run.attempts if key in self._settled and self._is_new(signal, str(key))][
            :_MOST_RECORDS
        ]

    def _is_new(self, signal: str, name: str) -> bool:
        return name not in self.checkpoint.sent[signal] and (signal, name) not in self._offered

    def _run_is_due(self, signal: str) -> bool:
        """Whether the run's own span or metrics can be made: it has a launcher, and all its attempts went before."""
        return (
            self._run_over
            and self.run.has_launcher
            and self._is_new(signal, _RUN)
            and not any(self._is_new(signal, str(key)) for key in self.run.attempts)
            and (signal != "metrics" or self._logs_are_over())
        )

    def _logs_are_over(self) -> bool:
        """Whether it is known how many log records were given up."""
        lane = self.lanes.get("logs")
        return lane is None or lane.is_parked or (lane.is_idle and self._logs_are_read())

    def _named_batch(self, signal: str, items: Sequence[Item], wrap: Any) -> Optional[Batch]:
        if not items:
            return None
        self._offered.update((signal, item.name) for item in items)

        def settled(bad: int) -> None:
            self.checkpoint.sent[signal].update(item.name for item in items)
            self._settled_batch(signal, len(items), bad)

        return Batch(items, settled, wrap)

    def _settled_batch(self, signal: str, count: int, bad: int) -> None:
        self.checkpoint.delivered[signal] = self.checkpoint.delivered.get(signal, 0) + count - bad
        if bad:
            self.checkpoint.dropped[signal] = self.checkpoint.dropped.get(signal, 0) + bad
        self._note_corrupt()
        self.checkpoint.write()

    def _note_corrupt(self) -> None:
        corrupt = sum(logs.corrupt for logs in self._logs.values()) + self._launcher_lines.corrupt
        self.checkpoint.corrupt = self._corrupt_before + corrupt

    def _trouble(self) -> Dict[str, str]:
        trouble = {signal: lane.trouble for signal, lane in self.lanes.items()}
        if self._files is not None:
            trouble["files"] = self._files.trouble
        return {name: reason for name, reason in trouble.items() if reason}

    def _note_trouble(self) -> None:
        trouble = self._trouble()
        if trouble != self.checkpoint.trouble:
            self.checkpoint.trouble = trouble
            self.checkpoint.write()
            for signal, reason in trouble.items():
                print(f"{signal}: {reason}", file=sys.stderr, flush=True)  # noqa: T201 - shipper.log


def _cost(record: Dict[str, Any]) -> int:
    """About how many bytes a record takes in a request."""
    return len(str(record.get("body", ""))) + 400
