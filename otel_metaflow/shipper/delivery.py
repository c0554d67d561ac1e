"""The delivery of one run: follows its journals, assembles its story and sends it, to the end."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple

from otel_metaflow.core.redaction import Redaction
from otel_metaflow.core.settings import Destination, Settings
from otel_metaflow.journal import layout, setbacks
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.ledger import Changes, Ledger, Subject
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
from otel_metaflow.shipper.sinks import choice
from otel_metaflow.shipper.sinks.answers import Exporter
from otel_metaflow.shipper.telemetry import Record
from otel_metaflow.shipper.usage_sampler import UsageSampler

# How often the journals are looked at, in seconds: a line is on its way within one second.
_POLL = 0.4
# What goes into one request at most: below the 4 MB that a gRPC server takes by default.
_MOST_RECORDS = 1_000
_MOST_BYTES = 1_000_000
# What a ledger calls the span and the metrics of an attempt, or of the run.
_NAMES = {"traces": "span", "metrics": "metrics"}


class Delivery:
    """Delivers one run; not for use by two processes at once."""

    def __init__(
        self,
        home: Path,
        folder: Path,
        environment: Settings,
        wake: threading.Event,
        build: Callable[[Destination], Exporter] = choice.build,
        following: Optional[Following] = None,
        poll: float = _POLL,
    ) -> None:
        self._home, self._folder = home, folder
        self._ledger = Ledger(folder / layout.LEDGER_FILE)
        self.status = DeliveryStatus.from_json(self._ledger.status)
        self.status.complete = self.status.stalled = False
        self._corrupt_before = self.status.corrupt
        self._note(Changes())
        self._following = Following(home, folder) if following is None else following
        self._poll = poll
        self._has_hurried = False
        self._following.look()
        run = self.run = self._following.run
        self._submitted: Set[Tuple[Subject, str]] = set()  # what signal workers have and is not acknowledged
        self._is_sampled = sampling.is_sampled(run, environment)
        self._keeps_failed = environment.keep_failed
        self._redaction = Redaction(environment.redact)
        self._resources = Resources(run, sampled=self._is_sampled or self._keeps_failed)
        usage_sampler = UsageSampler()
        self._spans = Spans(home, run, self._resources, self._redaction, usage_sampler, detail=environment.detail)
        events = Events(run, self._resources, self._redaction, usage_sampler)
        self._metrics = Metrics(run, self._resources)
        self._user_telemetry = {
            "traces": user_telemetry.UserRecords(folder, layout.SPAN, self._ledger.cursor),
            "metrics": user_telemetry.UserRecords(folder, layout.METRIC, self._ledger.cursor),
        }
        records = LogRecords(run, self._resources, environment.redact)
        self._logs = LogFeed(self._following, records, events, self._ledger.cursor, self._is_new)
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
        self.status.complete = written and all(worker.is_done for worker in self.workers.values())
        self.status.stalled = not self.status.complete
        self._note(Changes())
        return self.status.complete

    def _work(self, linger: float, give_way: Callable[[], bool]) -> None:
        since: Optional[float] = None
        is_leaving = False
        while True:
            self.wake.clear()
            self._following.look()
            self._hurry(linger)
            for worker in self.workers.values():
                worker.step()
            fed = self._feed()
            if self._files is not None:
                fed |= self._files.feed()
                self.status.delivered["files"] = self._files.written
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
                self.wake.wait(self._poll)

    def _hurry(self, linger: float) -> None:
        """Where nobody waits for the next try of a worker that has failed, give each one more, at the run's end."""
        if linger or self._has_hurried or not self._following.run_is_over:
            return
        self._has_hurried = True
        for worker in self.workers.values():
            worker.retry_now()

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
            ("traces", partial(self._user_batch, "traces", user_telemetry.of_span)),
            ("traces", self._span_batch),
            ("metrics", partial(self._user_batch, "metrics", user_telemetry.of_metric)),
            ("metrics", self._metric_batch),
        ):
            worker = self.workers.get(signal)
            if worker is not None and worker.is_idle:
                made = batch()
                if made is not None:
                    worker.submit(made)
                    fed = True
        return fed

    def _log_batch(self) -> Optional[Batch]:
        records: List[Record] = []
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
                self._ledger.take(progress.changes)
            return None
        self._submitted |= progress.changes.sent

        def settled(bad: int, unfit: List[Unfit]) -> None:
            self.status.unwritten += progress.unwritten
            self._settled_batch("logs", progress.changes, len(records), bad, unfit, progress.unfit)

        return Batch(records, settled)

    def _user_batch(self, signal: str, convert: Callable[..., Record]) -> Optional[Batch]:
        """What user code said through OpenTelemetry, as it was said."""
        if signal == "traces" and not self._sends_spans():
            return None
        changes = Changes()
        said = self._user_telemetry[signal].take(
            self.run.attempts, self._following.tails, changes, _MOST_RECORDS, _MOST_BYTES
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
            self._settled_batch(signal, changes, len(records), bad, unfit, never)

        return Batch(records, settled)

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
        subjects: List[Subject] = []
        spans: List[Record] = []
        never: List[Unfit] = []
        for key in self._unsent("traces"):
            attempt = self.run.attempts[key]
            # A failed attempt's span says whether another followed: that is known at once, or with the run's end.
            if story.is_final(self.run, attempt, run_is_over=is_over) is not None:
                subjects.append(key)
                make = partial(self._spans.of_attempt, attempt, run_is_over=is_over)
                spans += quarantine.converted(f"{key} span", never, make) or ()
        if self._run_is_due("traces"):
            subjects.append(None)
            spans += quarantine.converted("the run's span", never, lambda: [self._spans.of_run()]) or ()
        return self._batch_of("traces", subjects, spans, never)

    def _sends_spans(self) -> bool:
        """Whether the run's spans are wanted; of one that was not drawn, perhaps, once it has failed."""
        return self._is_sampled or (self._keeps_failed and self._following.run_is_over and self._has_failed())

    def _has_failed(self) -> bool:
        """Whether the run failed, or where nobody knows of the run, any attempt here."""
        if not self.run.has_launcher:
            return any(attempt.failed for attempt in self.run.attempts.values())
        return self.run.result in ("failure", "error")

    def _metric_batch(self) -> Optional[Batch]:
        subjects: List[Subject] = []
        never: List[Unfit] = []
        for key in self._unsent("metrics"):
            subjects.append(key)
            add = partial(self._metrics.add_attempt, self.run.attempts[key])
            quarantine.converted(f"{key} metrics", never, add)
        if self._run_is_due("metrics"):
            subjects.append(None)
            quarantine.converted("the run's metrics", never, self._metrics.add_run)
            self._note_corrupt()
            self._metrics.add_dropped(self.status.given_up, self.run.ended_at)
        return self._batch_of("metrics", subjects, self._metrics.take(), never)

    def _unsent(self, signal: str) -> List[AttemptKey]:
        return [
            key for key in self.run.recorded if key in self._following.settled and self._is_new(key, _NAMES[signal])
        ][:_MOST_RECORDS]

    def _is_new(self, subject: Subject, name: str) -> bool:
        return (subject, name) not in self._submitted and not self._ledger.is_sent(subject, name)

    def _run_is_due(self, signal: str) -> bool:
        """Whether the run's own span or metrics can be made: it has a launcher, and all its attempts went before."""
        return (
            self._following.run_is_over
            and self.run.has_launcher
            and self._is_new(None, _NAMES[signal])
            and not any(self._is_new(key, _NAMES[signal]) for key in self.run.recorded)
            and (signal != "metrics" or self._logs_are_over())
        )

    def _logs_are_over(self) -> bool:
        """Whether it is known how many log records were given up."""
        worker = self.workers.get("logs")
        return worker is None or worker.is_parked or (worker.is_idle and self._logs.is_read())

    def _batch_of(
        self, signal: str, subjects: Sequence[Subject], records: Sequence[Record], never: Sequence[Unfit]
    ) -> Optional[Batch]:
        """What is sent of `subjects`, which count as sent when it is settled."""
        if not subjects:
            return None
        changes = Changes(sent={(subject, _NAMES[signal]) for subject in subjects})
        self._submitted |= changes.sent

        def settled(bad: int, unfit: List[Unfit]) -> None:
            self._settled_batch(signal, changes, len(records), bad, unfit, never)

        return Batch(records, settled)

    def _settled_batch(
        self,
        signal: str,
        changes: Changes,
        count: int,
        bad: int,
        unfit: Sequence[Unfit],
        never: Sequence[Unfit] = (),
    ) -> None:
        """Of `count` records that were offered `bad` were rejected and `unfit` not sent; `never` were not offered."""
        status = self.status
        status.delivered[signal] = status.delivered.get(signal, 0) + count - bad - len(unfit)
        if bad:
            status.rejected[signal] = status.rejected.get(signal, 0) + bad
        given_up = [*unfit, *never]
        if given_up:
            status.unconvertible[signal] = status.unconvertible.get(signal, 0) + len(given_up)
            quarantine.report(self._home, self.run.key, signal, given_up)
        self._note_corrupt()
        self._note(changes)
        self._submitted -= changes.sent
        setbacks.progress(self._folder)

    def _note(self, changes: Changes) -> None:
        self._ledger.append(changes, self.status.as_json())

    def _note_corrupt(self) -> None:
        self.status.corrupt = self._corrupt_before + self._logs.corrupt

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
        trouble, before = self._trouble(), self.status.trouble
        if trouble != before or is_stalled != self.status.stalled:
            self.status.trouble, self.status.stalled = trouble, is_stalled
            self._note(Changes())
        if trouble != before:
            if trouble:  # what is in the way is the endpoint
                setbacks.progress(self._folder)
            for signal, reason in trouble.items():
                print(f"{signal}: {reason}", file=sys.stderr, flush=True)  # noqa: T201 - shipper.log
