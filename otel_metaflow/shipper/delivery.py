"""The delivery of one run: follows its journals, assembles its story and sends it, to the end."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from otel_metaflow.core.redaction import Redaction
from otel_metaflow.core.settings import Destination, Settings
from otel_metaflow.journal import layout, setbacks
from otel_metaflow.journal.checkpoint import Checkpoint, Cursor
from otel_metaflow.model import story
from otel_metaflow.model.following import Following
from otel_metaflow.shipper import quarantine
from otel_metaflow.shipper.convert import sampling, user_telemetry
from otel_metaflow.shipper.convert.events import Events
from otel_metaflow.shipper.convert.logs import LogRecords
from otel_metaflow.shipper.convert.metrics import Metrics
from otel_metaflow.shipper.convert.resources import Resources
from otel_metaflow.shipper.convert.spans import Spans
from otel_metaflow.shipper.log_feed import LogFeed, Progress
from otel_metaflow.shipper.log_files import Files
from otel_metaflow.shipper.signal_worker import Batch, SignalWorker, Unfit
from otel_metaflow.shipper.sinks import otlp
from otel_metaflow.shipper.sinks.answers import Exporter
from otel_metaflow.shipper.usage_sampler import UsageSampler

# How often the journals are looked at, in seconds: a line is on its way within one second.
_POLL = 0.4
# What goes into one request at most: below the 4 MB that a gRPC server takes by default.
_MOST_RECORDS = 1_000
_MOST_BYTES = 1_000_000
_RUN = "RUN"


@dataclass(frozen=True)
class Item:
    """One thing to send, or how it is made, and the name under which it is remembered as sent."""

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
        build: Callable[[Destination], Exporter] = otlp.build,
    ) -> None:
        self._home, self._folder = home, folder
        self.checkpoint = Checkpoint.read(folder)
        self.checkpoint.complete = self.checkpoint.stalled = False
        self._corrupt_before = self.checkpoint.corrupt
        self.checkpoint.write()
        self._following = Following(home, folder)
        self._following.look()
        run = self.run = self._following.run
        self._submitted: Set[Tuple[str, str]] = set()  # signal and name of what a signal worker has, or had
        self._is_sampled = sampling.is_sampled(run, environment)
        self._keeps_failed = environment.keep_failed
        self._redaction = Redaction(environment.redact)
        self._resources = Resources(run, sampled=self._is_sampled or self._keeps_failed)
        usage_sampler = UsageSampler()
        self._spans = Spans(home, run, self._resources, self._redaction, usage_sampler, detail=environment.detail)
        events = Events(run, self._resources, self._redaction, usage_sampler)
        self._metrics = Metrics(run, self._resources)
        self._user_telemetry = {
            "traces": user_telemetry.UserRecords(folder, layout.SPAN, self._cursor),
            "metrics": user_telemetry.UserRecords(folder, layout.METRIC, self._cursor),
        }
        records = LogRecords(run, self._resources, environment.redact)
        self._logs = LogFeed(self._following, records, events, self._cursor, partial(self._is_new, "events"))
        self.wake = wake
        self.workers = {
            signal: SignalWorker(signal, partial(build, destination), self.wake)
            for signal, destination in environment.destinations.items()
        }
        self._files: Optional[Files] = None
        if environment.log_dir is not None:
            # Records of its own: redaction remembers, line by line, whether it is inside a private key.
            records = LogRecords(run, self._resources, environment.redact)
            self._files = Files(environment.log_dir, self._following, records, events)

    def work(self, linger: float, give_way: Optional[Callable[[], bool]] = None) -> bool:
        """Deliver until all is sent, or until nothing more can be for `linger` seconds after the run's end.

        Returns whether all is sent. `give_way` may end the wait early.
        """
        try:
            self._work(linger, give_way or (lambda: False))
        finally:
            for worker in self.workers.values():
                worker.finish()
                worker.close()
        self._note_corrupt()
        written = self._files is None or self._files.at_end()
        self.checkpoint.complete = written and all(worker.is_done for worker in self.workers.values())
        self.checkpoint.stalled = not self.checkpoint.complete
        self.checkpoint.write()
        return self.checkpoint.complete

    def _work(self, linger: float, give_way: Callable[[], bool]) -> None:
        since: Optional[float] = None
        is_leaving = False
        while True:
            self.wake.clear()
            self._following.look()
            for worker in self.workers.values():
                worker.step()
            fed = self._feed()
            if self._files is not None:
                fed |= self._files.feed()
                self.checkpoint.delivered["files"] = self._files.written
            self._note_trouble(is_stalled=not fed and self._is_stalled())
            idle = not fed and not any(worker.is_busy for worker in self.workers.values())
            if self._following.run_is_over and idle and self._all_read():
                break
            if self._following.run_is_over and self._trouble():
                since = since or time.monotonic()
                if give_way():
                    break
                is_leaving = is_leaving or time.monotonic() - since > linger
            else:
                since = None
            if is_leaving:
                for worker in self.workers.values():
                    worker.is_leaving = True
                if not any(worker.is_sending for worker in self.workers.values()):
                    break
            if not fed:
                self.wake.wait(_POLL)

    def _all_read(self) -> bool:
        """Whether the journals hold nothing that was not handed to a worker."""
        self._following.look()
        if not self._following.run_is_over or not self._users_are_read():
            return False
        if self._files is not None and not self._files.at_end():
            return False
        worker = self.workers.get("logs")
        return worker is None or worker.is_parked or self._logs.is_read()

    # Feeding the workers

    def _feed(self) -> bool:
        fed = False
        for signal, batch in (
            ("logs", self._log_batch),
            ("traces", partial(self._user_batch, "traces", user_telemetry.of_span, list)),
            ("traces", self._span_batch),
            ("metrics", partial(self._user_batch, "metrics", user_telemetry.of_metric, user_telemetry.together)),
            ("metrics", self._metric_batch),
        ):
            worker = self.workers.get(signal)
            if worker is not None and worker.is_idle:
                made = batch()
                if made is not None:
                    worker.submit(made)
                    fed = True
        return fed

    def _cursor(self, name: str) -> Cursor:
        return self.checkpoint.cursors.get(name) or Cursor()

    def _log_batch(self) -> Optional[Batch]:
        records: List[Any] = []
        progress = Progress()
        size = 0
        # Closed at once when the batch is full: closing is what notes how far it came.
        with closing(self._logs.pending(progress)) as pending:
            for record, cost in pending:
                records.append(record)
                size += cost
                if len(records) >= _MOST_RECORDS or size >= _MOST_BYTES:
                    break
        if not records and not progress.unfit:
            if self.workers["logs"].is_done:  # what is in doubt may have to be read again
                self._note_logs(progress)
            return None
        self._submitted.update(("events", name) for name in progress.events)

        def settled(bad: int, unfit: List[Unfit]) -> None:
            self._note_logs(progress)
            self._settled_batch("logs", len(records), bad, unfit, progress.unfit)

        return Batch(records, settled)

    def _note_logs(self, progress: Progress) -> None:
        self.checkpoint.cursors.update(progress.cursors)
        self.checkpoint.sent["events"].update(progress.events)
        self.checkpoint.unwritten += sum(progress.events.values())

    def _user_batch(
        self, signal: str, convert: Callable[..., Any], wrap: Callable[[Sequence[Any]], Any]
    ) -> Optional[Batch]:
        """What user code said through OpenTelemetry, as it was said."""
        if signal == "traces" and not self._sends_spans():
            return None
        cursors: Dict[str, Cursor] = {}
        said = self._user_telemetry[signal].take(
            self.run.attempts, self._following.tails, cursors, _MOST_RECORDS, _MOST_BYTES
        )
        if not said:
            return None
        never: List[Unfit] = []
        made = [
            quarantine.converted(each.name, never, partial(convert, each, self._resources.of_attempt, self._redaction))
            for each in said
        ]
        records = [record for record in made if record is not None]

        def settled(bad: int, unfit: List[Unfit]) -> None:
            self.checkpoint.cursors.update(cursors)
            self._settled_batch(signal, len(records), bad, unfit, never)

        return Batch(records, settled, wrap)

    def _users_are_read(self) -> bool:
        """Whether all that user code said is with a worker, as far as there is one that takes it."""
        return all(
            records.is_read(self._following.tails)
            for signal, records in self._user_telemetry.items()
            if signal in self.workers
            and not self.workers[signal].is_parked
            and (signal != "traces" or self._sends_spans())
        )

    def _span_batch(self) -> Optional[Batch]:
        if not self._sends_spans():
            return None
        is_over = self._following.run_is_over
        items: List[Item] = []
        for key in self._unsent("traces"):
            attempt = self.run.attempts[key]
            # A failed attempt's span says whether another followed: that is known at once, or with the run's end.
            if story.is_final(self.run, attempt, run_is_over=is_over) is not None:
                items.append(Item(str(key), partial(self._spans.of_attempt, attempt, run_is_over=is_over)))
        if self._run_is_due("traces"):
            items.append(Item(_RUN, lambda: [self._spans.of_run()]))
        return self._named_batch("traces", items, lambda part: [span for item in part for span in item.value()])

    def _sends_spans(self) -> bool:
        """Whether the run's spans are wanted; of one that was not drawn, perhaps, once it has failed."""
        return self._is_sampled or (
            self._keeps_failed and self._following.run_is_over and self.run.result in ("failure", "error")
        )

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
        return [key for key in self.run.recorded if key in self._following.settled and self._is_new(signal, str(key))][
            :_MOST_RECORDS
        ]

    def _is_new(self, signal: str, name: str) -> bool:
        return name not in self.checkpoint.sent[signal] and (signal, name) not in self._submitted

    def _run_is_due(self, signal: str) -> bool:
        """Whether the run's own span or metrics can be made: it has a launcher, and all its attempts went before."""
        return (
            self._following.run_is_over
            and self.run.has_launcher
            and self._is_new(signal, _RUN)
            and not any(self._is_new(signal, str(key)) for key in self.run.recorded)
            and (signal != "metrics" or self._logs_are_over())
        )

    def _logs_are_over(self) -> bool:
        """Whether it is known how many log records were given up."""
        worker = self.workers.get("logs")
        return worker is None or worker.is_parked or (worker.is_idle and self._logs.is_read())

    def _named_batch(self, signal: str, items: Sequence[Item], wrap: Any) -> Optional[Batch]:
        if not items:
            return None
        self._submitted.update((signal, item.name) for item in items)

        def settled(bad: int, unfit: List[Unfit]) -> None:
            self.checkpoint.sent[signal].update(item.name for item in items)
            self._settled_batch(signal, len(items), bad, unfit)

        return Batch(items, settled, wrap)

    def _settled_batch(
        self, signal: str, count: int, bad: int, unfit: Sequence[Unfit], never: Sequence[Unfit] = ()
    ) -> None:
        """Of `count` records that were offered `bad` were rejected and `unfit` not sent; `never` were not offered."""
        checkpoint = self.checkpoint
        checkpoint.delivered[signal] = checkpoint.delivered.get(signal, 0) + count - bad - len(unfit)
        if bad:
            checkpoint.dropped[signal] = checkpoint.dropped.get(signal, 0) + bad
        given_up = [*unfit, *never]
        if given_up:
            checkpoint.unconvertible[signal] = checkpoint.unconvertible.get(signal, 0) + len(given_up)
            quarantine.report(self._home, self.run.key, signal, given_up)
        self._note_corrupt()
        self.checkpoint.write()
        setbacks.progress(self._folder)

    def _note_corrupt(self) -> None:
        self.checkpoint.corrupt = self._corrupt_before + self._logs.corrupt

    def _trouble(self) -> Dict[str, str]:
        trouble = {signal: worker.trouble for signal, worker in self.workers.items()}
        if self._files is not None:
            trouble["files"] = self._files.trouble
        return {name: reason for name, reason in trouble.items() if reason}

    def _is_stalled(self) -> bool:
        """Whether the run is over and each signal that is not delivered has failed at least once."""
        busy = [worker for worker in self.workers.values() if worker.is_busy]
        failed = [worker for worker in self.workers.values() if worker.has_failed]
        files = self._files
        return (
            self._following.run_is_over
            and all(worker.has_failed for worker in busy)
            and (files is None or bool(files.trouble) or files.at_end())
            and bool(failed or (files is not None and files.trouble))
        )

    def _note_trouble(self, *, is_stalled: bool) -> None:
        trouble, before = self._trouble(), self.checkpoint.trouble
        if trouble != before or is_stalled != self.checkpoint.stalled:
            self.checkpoint.trouble, self.checkpoint.stalled = trouble, is_stalled
            self.checkpoint.write()
        if trouble != before:
            if trouble:  # what is in the way is the endpoint
                setbacks.progress(self._folder)
            for signal, reason in trouble.items():
                print(f"{signal}: {reason}", file=sys.stderr, flush=True)  # noqa: T201 - shipper.log
