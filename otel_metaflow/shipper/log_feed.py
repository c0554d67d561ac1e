"""Yields the log records of a run in order, for the endpoint and for files."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Dict, Generator, Iterator, List, Optional, Set, Tuple

from otel_metaflow.core import otlp_values
from otel_metaflow.journal import layout
from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.ledger import Changes, Subject
from otel_metaflow.journal.reader import Tail
from otel_metaflow.model import story
from otel_metaflow.model.attempt_logs import AttemptLogs, LogEntry
from otel_metaflow.model.following import Following
from otel_metaflow.model.run import Attempt
from otel_metaflow.shipper import quarantine
from otel_metaflow.shipper.convert.events import Event, Events
from otel_metaflow.shipper.convert.logs import LogRecords
from otel_metaflow.shipper.signal_worker import Unfit
from otel_metaflow.shipper.telemetry import Record

LOGS = "logs"
"""The name of the cursors of log records in the ledger."""

_EVENT_COST = 1_000


@dataclass
class Progress:
    """How far the journals are read with a batch, and what cannot be converted of what was read.

    `unwritten` counts the records that the journals of attempts did not take whose last event is among the `changes`.
    No more will come of attempts that are `finished`; of those that `rest` only if another attempt follows them.
    """

    changes: Changes = field(default_factory=Changes)
    unwritten: int = 0
    unfit: List[Unfit] = field(default_factory=list)
    finished: List[AttemptKey] = field(default_factory=list)
    resting: List[AttemptKey] = field(default_factory=list)


class LogFeed:
    """Log records for one consumer, each once; `cursor` and `is_new` return how far that consumer is."""

    def __init__(
        self,
        following: Following,
        records: LogRecords,
        events: Events,
        cursor: Callable[[Subject, str], Cursor],
        is_new: Callable[[Subject, str], bool],
    ) -> None:
        self._following = following
        self._records = records
        self._events = events
        self._cursor = cursor
        self._is_new = is_new
        self._launcher = Tail(following.folder / layout.RUN_FILE, cursor(None, LOGS).sent[0])
        self._open: Dict[AttemptKey, Optional[AttemptLogs]] = {}  # attempts of which records may come
        self._resting: Set[AttemptKey] = set()
        self._corrupt = 0  # of the other attempts

    def add(self, key: AttemptKey) -> None:
        """Records of an attempt are wanted."""
        self._open.setdefault(key, None)

    def decided(self, key: AttemptKey) -> None:
        """It is known now whether another attempt follows."""
        if key in self._resting:
            self._resting.discard(key)
            self._open[key] = None

    def close(self, progress: Progress) -> List[AttemptKey]:
        """What was handed out with `progress` has arrived; the attempts of which with that everything has."""
        is_over = self._following.run_is_over
        run = self._following.run
        for key in progress.resting:
            if key in self._open and story.is_final(run, run.attempts[key], run_is_over=is_over) is None:
                self._close(key)
                self._resting.add(key)
        finished = [key for key in progress.finished if key in self._open]
        for key in finished:
            self._close(key)
        return finished

    def _close(self, key: AttemptKey) -> None:
        logs = self._open.pop(key, None)
        self._corrupt += logs.corrupt if logs is not None else 0

    @property
    def corrupt(self) -> int:
        """The number of corrupt lines in the journals."""
        of_open = sum(logs.corrupt for logs in self._open.values() if logs is not None)
        return self._corrupt + of_open + self._launcher.corrupt

    def is_read(self) -> bool:
        """Whether everything in the journals was yielded."""
        return self._launcher.at_end() and all(self._logs(key).at_end() for key in self._open)

    def pending(self, progress: Progress) -> Generator[Tuple[Record, int], None, None]:
        """Yield records that were not yielded yet, with the approximate size of each in a request.

        A caller that has enough closes the generator; `progress` then has the positions.
        """
        for entry in self._launcher.read():
            progress.changes.cursors[None, LOGS] = Cursor(sent=(entry.end, 0))
            if entry.record["kind"] == layout.LINE:
                uid = entry.record.get("id") or f"r{entry.start}"
                yield from self._made(None, LogEntry(uid, entry.record), progress)
        for key in list(self._open):
            yield from self._of_attempt(key, progress)
        for event in self._events.of_run(self._is_new, is_over=self._following.run_is_over):
            yield from _made_event(None, event, progress)

    def _of_attempt(self, key: AttemptKey, progress: Progress) -> Generator[Tuple[Record, int], None, None]:
        run = self._following.run
        attempt, logs = run.attempts[key], self._logs(key)
        final = attempt.is_settled
        before = len(progress.changes.sent)
        if (not logs.at_end() or logs.holds) and (final or logs.may_begin(attempt)):
            with closing(logs.read(final=final)) as entries:
                try:
                    for log in entries:
                        yield from self._made(attempt, log, progress)
                finally:
                    progress.changes.cursors[key, LOGS] = logs.cursor()
        for event in self._events.of_attempt(attempt, self._is_new, is_over=final):
            # With the last event of an attempt, so that they are counted once.
            progress.unwritten += attempt.unwritten(logs.unread) if event.is_last else 0
            yield from _made_event(key, event, progress)
        if final and len(progress.changes.sent) == before and logs.at_end() and not logs.holds:
            # A failed one may still be followed by another attempt, which is an event too.
            is_final = story.is_final(run, attempt, run_is_over=self._following.run_is_over)
            (progress.resting if is_final is None else progress.finished).append(key)

    def _made(self, attempt: Optional[Attempt], log: LogEntry, progress: Progress) -> Iterator[Tuple[Record, int]]:
        """The log record for a record of the journal; as a plain line if it cannot be converted."""
        records = self._records
        made = quarantine.converted(
            lambda: f"{attempt.key if attempt else 'the launcher'} {log.uid}",
            progress.unfit,
            partial(records.of_attempt, attempt, log.record, log.uid)
            if attempt
            else partial(records.of_launcher, log.record, log.uid),
            partial(records.plain, attempt, log.record, log.uid),
        )
        if made is not None:
            yield made, _cost(log.record)

    def _logs(self, key: AttemptKey) -> AttemptLogs:
        logs = self._open.get(key)
        if logs is None:
            logs = self._open[key] = AttemptLogs(self._following.folder, key, self._cursor(key, LOGS))
        return logs


def _made_event(subject: Subject, event: Event, progress: Progress) -> Iterator[Tuple[Record, int]]:
    progress.changes.sent.add((subject, event.name))
    made = quarantine.converted(f"{subject or 'the run'} {event.name}", progress.unfit, event.make)
    if made is not None:
        yield made, _EVENT_COST


def _cost(record: Dict[str, Any]) -> int:
    return len(otlp_values.text(record.get("body", ""))) + 400
