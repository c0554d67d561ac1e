"""Makes the batches of each signal: what of a run can be sent next, as plain records."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from otel_metaflow.journal.ledger import Changes, Ledger, Subject
from otel_metaflow.model.following import Following
from otel_metaflow.model.span_limit import summarized
from otel_metaflow.shipper import quarantine
from otel_metaflow.shipper.convert.metrics import Metrics
from otel_metaflow.shipper.convert.sampling import Sampling
from otel_metaflow.shipper.convert.spans import Spans
from otel_metaflow.shipper.log_feed import LogFeed, Progress
from otel_metaflow.shipper.signal_worker import Batch, Unfit
from otel_metaflow.shipper.submissions import Submissions
from otel_metaflow.shipper.telemetry import Record
from otel_metaflow.shipper.undelivered import ITEMS, Undelivered
from otel_metaflow.shipper.user_records import UserRecords

# Limits of one request, below the 4 MB that a gRPC server accepts by default.
_MAX_RECORDS = 1_000
_MAX_BYTES = 1_000_000
_MAX_ATTEMPTS = 200  # whose spans, or metrics, are in it: a dozen points each


class Outcome(NamedTuple):
    """How a batch ended: of its records some were rejected, and others dropped, which could not be converted."""

    signal: str
    changes: Changes
    accepted: int
    rejected: int
    dropped: Sequence[Unfit]
    unwritten: int = 0
    """Log records that the journals did not take, of the attempts whose last event was in it."""


class Batches:
    """The batches of one run."""

    def __init__(
        self,
        following: Following,
        ledger: Ledger,
        submissions: Submissions,
        undelivered: Undelivered,
        sampling: Sampling,
        logs: LogFeed,
        spans: Spans,
        metrics: Metrics,
        user_records: Mapping[str, UserRecords],
        settle: Callable[[Outcome], None],
    ) -> None:
        """`settle` is called with each batch that was acknowledged, or rejected for good."""
        self._following = following
        self._run = following.run
        self._ledger = ledger
        self._submissions = submissions
        self._undelivered = undelivered
        self._sampling = sampling
        self._logs = logs
        self._spans = spans
        self._metrics = metrics
        self._user_records = user_records
        self._settle = settle
        self._has_more_logs = False  # than went into the last batch

    def has_more(self, signal: str) -> bool:
        """Whether it is known that there is something to send; of spans, only while they are sent at once."""
        if signal == "logs":
            return self._has_more_logs
        is_wanted = signal != "traces" or self._sampling.is_sampled
        return is_wanted and (self._undelivered.is_any_ready(signal) or not self._user_records[signal].is_read())

    def of_logs(self, *, is_settled: bool) -> Optional[Batch]:
        """The next log records; `is_settled` if those of all batches before were acknowledged, or rejected for good."""
        records: List[Record] = []
        progress = Progress()
        size = 0
        # Closed as soon as the batch is full, because closing it sets the cursors.
        with closing(self._logs.pending(progress)) as pending:
            for record, cost in pending:
                records.append(record)
                size += cost
                if len(records) >= _MAX_RECORDS or size >= _MAX_BYTES:
                    break
        self._has_more_logs = len(records) >= _MAX_RECORDS or size >= _MAX_BYTES
        if not records and not progress.unfit:
            if is_settled:  # otherwise doubted batches may have to be read again
                progress.changes.done += self._undelivered.finish(self._logs.close(progress), "logs")
                self._ledger.take(progress.changes)
            return None

        def finish() -> None:
            progress.changes.done += self._undelivered.finish(self._logs.close(progress), "logs")

        return self._batch("logs", records, progress.changes, progress.unfit, finish, progress.unwritten)

    def of_user_code(self, signal: str, convert: Callable[..., Record]) -> Optional[Batch]:
        """The next spans, or metrics, of user code; `convert` makes the record of one."""
        if signal == "traces" and not self._sends_spans():
            return None
        changes = Changes()
        taken, read = self._user_records[signal].take(self._run.attempts, changes, _MAX_RECORDS, _MAX_BYTES)
        keys = [key for key, _ in changes.cursors if key is not None]
        self._undelivered.hold(keys)
        self._ledger.take(Changes(done=self._undelivered.finish(read)))
        if not taken:
            return None
        never: List[Unfit] = []
        records: List[Record] = []
        for each in taken:
            made = quarantine.converted(partial(getattr, each, "name"), never, partial(convert, each))
            if made is not None:
                records.append(made)

        def finish() -> None:
            changes.done += self._undelivered.release(keys)

        return self._batch(signal, records, changes, never, finish)

    def user_code_is_read(self, signal: str) -> bool:
        """Whether all telemetry of user code that is to be sent was submitted."""
        records = self._user_records.get(signal)
        return records is None or records.is_read() or (signal == "traces" and not self._sends_spans())

    def of_spans(self) -> Optional[Batch]:
        """The next spans of attempts; at the run's end, its own."""
        if not self._sends_spans():
            return None
        is_over = self._following.run_is_over
        subjects: List[Subject] = []
        spans: List[Record] = []
        never: List[Unfit] = []
        for key in self._undelivered.take_ready("traces", _MAX_ATTEMPTS):
            subjects.append(key)
            make = partial(self._spans.of_attempt, self._run.attempts[key], run_is_over=is_over)
            spans += quarantine.converted(f"{key} span", never, make) or ()
        if self._run_is_due("traces"):
            subjects.append(None)
            for step, attempts in summarized(self._run.recorded.values()).items():
                make = partial(self._spans.of_step, step, attempts)
                spans += quarantine.converted(f"{step} summary", never, make) or ()
            spans += quarantine.converted("the run's span", never, lambda: [self._spans.of_run()]) or ()
        return self._batch_of("traces", subjects, spans, never)

    def of_metrics(self, drops: Callable[[], Optional[Dict[Tuple[str, str], int]]]) -> Optional[Batch]:
        """The next metrics of attempts; at the run's end, its own.

        `drops` returns how many records were dropped, by signal and reason; None while that is not final.
        """
        subjects: List[Subject] = []
        never: List[Unfit] = []
        for key in self._undelivered.take_ready("metrics", _MAX_ATTEMPTS):
            subjects.append(key)
            add = partial(self._metrics.add_attempt, self._run.attempts[key])
            quarantine.converted(f"{key} metrics", never, add)
        dropped = drops() if self._run_is_due("metrics") else None
        if dropped is not None:
            subjects.append(None)
            quarantine.converted("the run's metrics", never, self._metrics.add_run)
            self._metrics.add_dropped(dropped, self._run.ended_at)
        return self._batch_of("metrics", subjects, self._metrics.take(), never)

    def _sends_spans(self) -> bool:
        return self._sampling.sends(run_is_over=self._following.run_is_over)

    def _run_is_due(self, signal: str) -> bool:
        """Whether the run's own span or metrics can be sent: it has a launcher, and all its attempts were submitted."""
        return (
            self._following.run_is_over
            and self._run.has_launcher
            and self._submissions.is_new(None, ITEMS[signal])
            and not self._undelivered.is_any_ready(signal)
        )

    def _batch_of(
        self, signal: str, subjects: Sequence[Subject], records: Sequence[Record], never: Sequence[Unfit]
    ) -> Optional[Batch]:
        """A batch with the records of `subjects`, which count as sent when it is settled."""
        if not subjects:
            return None
        changes = Changes(sent={(subject, ITEMS[signal]) for subject in subjects})

        def finish() -> None:
            keys = [key for key in subjects if key is not None]
            changes.done += self._undelivered.finish(keys, signal)

        return self._batch(signal, records, changes, never, finish)

    def _batch(
        self,
        signal: str,
        records: Sequence[Record],
        changes: Changes,
        never: Sequence[Unfit],
        finish: Callable[[], None],
        unwritten: int = 0,
    ) -> Batch:
        """A batch; `never` could not be converted, and `finish` adds to `changes` which attempts are done with it."""
        self._submissions.add(changes)

        def settled(rejected: int, unfit: List[Unfit]) -> None:
            finish()
            accepted = len(records) - rejected - len(unfit)
            self._settle(Outcome(signal, changes, accepted, rejected, [*unfit, *never], unwritten))
            self._submissions.remove(changes)

        return Batch(records, settled)
