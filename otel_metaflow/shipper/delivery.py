"""Delivers one run: follows its journals, assembles telemetry and sends it, until the run has ended."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Callable, Deque, Dict, List, Optional, Sequence, Set, Tuple

from otel_metaflow.core.redaction import Redaction
from otel_metaflow.core.settings import Destination, Settings
from otel_metaflow.journal import layout, setbacks
from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.ledger import Changes, Ledger, Subject
from otel_metaflow.model.following import Following, Update
from otel_metaflow.model.span_limit import Slowest, SpanLimit, summarized
from otel_metaflow.shipper import quarantine
from otel_metaflow.shipper.convert import sampling, user_telemetry
from otel_metaflow.shipper.convert.events import Events
from otel_metaflow.shipper.convert.logs import LogRecords
from otel_metaflow.shipper.convert.metrics import Metrics
from otel_metaflow.shipper.convert.resources import Resources
from otel_metaflow.shipper.convert.spans import Spans
from otel_metaflow.shipper.log_feed import LOGS, LogFeed, Progress
from otel_metaflow.shipper.log_files import Files
from otel_metaflow.shipper.signal_worker import Batch, SignalWorker, Unfit
from otel_metaflow.shipper.sinks import choice
from otel_metaflow.shipper.sinks.answers import Exporter
from otel_metaflow.shipper.telemetry import Record
from otel_metaflow.shipper.usage_sampler import UsageSampler
from otel_metaflow.shipper.user_records import UserRecords

# How often the journals are read, in seconds: a line is sent within one second.
_POLL = 0.4
# Limits of one request, below the 4 MB that a gRPC server accepts by default.
_MAX_RECORDS = 1_000
_MAX_BYTES = 1_000_000
_MAX_ATTEMPTS = 200  # whose spans, or metrics, are in it: a dozen points each
# Names of the span and the metrics of an attempt, or of the run, in the ledger.
_NAMES = {"traces": "span", "metrics": "metrics"}
# While an endpoint takes what it is sent, no more of the launcher's journal is read than it takes: so many bytes at a
# time, and nothing as long as so many attempts can be delivered.
_LAUNCHER_BYTES = 1 << 16
_MAX_DELIVERABLE = 200
# What a look may take of the time, with many attempts at once; but it is not put off longer than that, in seconds.
_LOOK_SHARE = 0.05
_LONGEST_PAUSE = 0.8
# What a container that has delivered its attempt has sent of events; the others are its launcher's.
_EVENTS_OF_CONTAINERS = ("start", "exception", "lost", "end")
# What is to be found out of an attempt: whether another one follows it, and whatever is in its journal.
_FACTS = frozenset(("decided", "read"))


class _Undelivered:
    """What is still to be done for an attempt: signals to be acknowledged, and what is to be found out of it."""

    __slots__ = ("batches", "parts")

    def __init__(self, parts: Set[str]) -> None:
        self.parts = parts
        self.batches = 0  # of user code's spans and metrics that are on their way


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
        stop: Optional[threading.Event] = None,
        *,
        follows: bool = True,
    ) -> None:
        """Deliver the run in `folder`; unless it `follows` the run, only what is there. `stop` ends it early."""
        self._home, self._folder = home, folder
        self._follows = follows
        self._stop = stop or threading.Event()
        limit = SpanLimit(environment.max_attempt_spans)
        self._following = Following(home, folder, limit) if following is None else following
        self._ledger = Ledger(self._following.ledger_file)
        self.status = DeliveryStatus.from_json(self._ledger.status)
        self.status.complete = self.status.stalled = False
        self._corrupt_before = self.status.corrupt
        self._note(Changes())
        self._poll = poll
        self._has_hurried = False
        update = self._following.poll(max_bytes=_LAUNCHER_BYTES)
        run = self.run = self._following.run
        self._submitted: Set[Tuple[Subject, str]] = set()  # submitted to signal workers and not acknowledged
        self._is_sampled = sampling.is_sampled(run, environment)
        self._keeps_failed = environment.keep_failed
        self._redaction = Redaction(environment.redact)
        self._resources = Resources(run, sampled=self._is_sampled or self._keeps_failed)
        usage_sampler = self._usage_sampler = UsageSampler()
        self._spans = Spans(home, run, self._resources, self._redaction, usage_sampler, detail=environment.detail)
        events = Events(run, self._resources, self._redaction, usage_sampler)
        self._metrics = Metrics(run, self._resources)
        records = LogRecords(run, self._resources, environment.redact)
        self._logs = LogFeed(self._following, records, events, self._ledger.cursor, self._is_new)
        self.wake = wake
        self.workers = {
            signal: SignalWorker(signal, partial(build, destination), self.wake)
            for signal, destination in environment.destinations.items()
        }
        self._files: Optional[Files] = None
        if environment.log_dir is not None:
            # A separate instance, because redaction has state: whether a line is inside a private key.
            records = LogRecords(run, self._resources, environment.redact)
            self._files = Files(environment.log_dir, self._following, records, events)
        # Spans of a run that was not drawn are wanted, perhaps, at its end.
        self._may_send_spans = self._is_sampled or self._keeps_failed
        self._user_records = {
            signal: UserRecords(folder, kind, self._ledger.cursor)
            for signal, kind in (("traces", layout.SPAN), ("metrics", layout.METRIC))
            if signal in self.workers and (signal != "traces" or self._may_send_spans)
        }
        self._undelivered: Dict[AttemptKey, _Undelivered] = {}
        self._deliverable = 0  # those of them for which nothing more is to be found out
        # Attempts whose span, or whose metrics, can be made.
        self._ready: Dict[str, Deque[AttemptKey]] = {signal: deque() for signal in _NAMES}
        self._slowest = Slowest()  # of those without spans
        self._held_back: Dict[AttemptKey, int] = {}  # up to where the records of user code go, of those
        self._has_more_logs = False  # than went into the last batch
        self._take_in(update)

    def work(self, linger: float, give_way: Optional[Callable[[], bool]] = None) -> bool:
        """Deliver until everything is sent, or until nothing can be sent for `linger` seconds after the run's end.

        Returns whether the run is over and everything is sent. `give_way` may end the wait early.
        """
        try:
            self._work(linger, give_way or (lambda: False))
        finally:
            for worker in self.workers.values():
                worker.finish()
                worker.close()
        self._note_corrupt()
        written = self._files is None or self._files.at_end()
        is_done = written and all(worker.is_done for worker in self.workers.values())
        self.status.left = self._following.left
        self.status.complete = is_done and self._following.run_is_over and not self.status.left
        self.status.stalled = not is_done
        self._note(Changes())
        return self.status.complete

    def _work(self, linger: float, give_way: Callable[[], bool]) -> None:
        since: Optional[float] = None
        is_leaving = False
        next_look = 0.0
        while True:
            self.wake.clear()
            for worker in self.workers.values():
                worker.step()
            fed = False
            # Records of the same moment are sent together: a request for each line would cost more than the lines.
            if self._is_urgent() or time.monotonic() >= next_look:
                began = time.monotonic()
                self._look()
                self._hurry(linger)
                pause = (time.monotonic() - began) / _LOOK_SHARE
                next_look = began + min(max(self._poll, pause), _LONGEST_PAUSE)
                fed = self._feed()
            self._note_trouble(is_stalled=not fed and self._is_stalled())
            idle = not fed and not any(worker.is_busy for worker in self.workers.values())
            if self._is_all_there and idle and self._all_read():
                break
            if self._is_all_there and self._trouble():
                since = since or time.monotonic()
                if give_way():
                    break
                is_leaving = is_leaving or time.monotonic() - since > linger
            else:
                since = None
            is_leaving = is_leaving or self._stop.is_set()
            if is_leaving:
                for worker in self.workers.values():
                    worker.is_leaving = True
                if not any(worker.is_sending for worker in self.workers.values()):
                    break
            if not self._is_urgent():
                self.wake.wait(max(0.0, next_look - time.monotonic()))
            elif not fed:
                self.wake.wait(self._poll)

    @property
    def _is_all_there(self) -> bool:
        """Whether the journals hold all that is to be sent."""
        return self._following.run_is_over or not (self._follows or self._following.is_behind)

    def _hurry(self, linger: float) -> None:
        """Where nobody waits for the next try of a worker that has failed, give each one more, at the run's end."""
        if linger or self._has_hurried or not self._following.run_is_over:
            return
        self._has_hurried = True
        for worker in self.workers.values():
            worker.retry_now()

    def _is_urgent(self) -> bool:
        """Whether more can be sent at once, or nothing more will come, and somebody may wait for the end."""
        return (
            self._is_all_there
            or self._following.is_behind
            or any(worker.is_idle and self._has_more(signal) for signal, worker in self.workers.items())
        )

    def _has_more(self, signal: str) -> bool:
        """Whether it is known that there is something to send; of spans, only while they are sent at once."""
        if signal == "logs":
            return self._has_more_logs
        is_wanted = signal != "traces" or self._is_sampled
        return is_wanted and (bool(self._ready[signal]) or not self._user_records[signal].is_read())

    def _all_read(self) -> bool:
        """Whether everything in the journals was submitted to the workers."""
        self._look(thorough=True)
        if not self._is_all_there or not self._users_are_read():
            return False
        if self._files is not None and not self._files.at_end():
            return False
        worker = self.workers.get("logs")
        return worker is None or worker.is_parked or self._logs.is_read()

    # Following the run

    def _look(self, *, thorough: bool = False) -> None:
        is_flowing = self._deliverable >= _MAX_DELIVERABLE and self._is_sampled and not self._trouble()
        self._take_in(self._following.poll(max_bytes=0 if is_flowing else _LAUNCHER_BYTES, thorough=thorough))

    def _take_in(self, update: Update) -> None:
        for key in update.returned:
            self._adopt(key)
        for key in update.appeared:
            self._begin(key)
        for key, end in update.user_records.items():
            if key not in self._ledger.done and not self.run.attempts[key].is_exported:
                self._note_user_records(key, end)
        for key in update.settled:
            if self._undelivered[key].parts <= _FACTS:  # its start, which makes it one to deliver, was not read before
                self._begin(key)
            self._put_in_order("metrics", key)
        self._deliverable += len(update.decided)
        without_span = [key for key in map(self._decide_span, update.decided) if key is not None]
        for key in update.decided:
            self._logs.decided(key)
            if self._files is not None:
                self._files.decided(key)
        if self._following.run_is_over:
            for key in self._slowest.take():
                self._deliverable += self._awaits_span(key)
                self._send_span(key)
        done = [*self._finish(without_span, "traces"), *self._finish(update.decided, "decided")]
        self._ledger.take(Changes(done=[*done, *self._finish(update.read, "read")]))

    def _adopt(self, key: AttemptKey) -> None:
        """An attempt exported itself: what of it was acknowledged to its own shipper is not sent again."""
        files, attempt = layout.came_home(self._folder, key), self.run.attempts[key]
        other = Ledger(files["ledger"])
        if attempt.launch is None:  # all that is known of it, its container knew
            self._ledger.adopt(other, key)
            return
        end = _size(files["journal"]), _size(files["output"])
        if key in other.done:
            attempt.is_exported = key not in self._ledger.done
            if attempt.is_exported:
                sent: Set[Tuple[Subject, str]] = {(key, name) for name in _EVENTS_OF_CONTAINERS}
                self._ledger.take(Changes({(key, LOGS): Cursor(clean=end, sent=end)}, sent))
            return
        self._ledger.adopt(other, key)
        trouble = DeliveryStatus.from_json(other.status).trouble
        if attempt.witnessed is None and files["journal"].exists() and "logs" not in trouble:
            # Its container was killed as a whole, and this is from some time before. Its shipper has gone on since, and
            # unless the endpoint was failing, has delivered what was recorded then.
            self._ledger.take(Changes({(key, LOGS): Cursor(clean=end, sent=end)}, {(key, "start")}))

    def _note_user_records(self, key: AttemptKey, end: int) -> None:
        """Of what user code recorded in an attempt there is more; its spans go with the attempt's own."""
        for signal, records in self._user_records.items():
            if signal == "traces" and not self.run.attempts[key].has_span:
                self._held_back[key] = end
            else:
                records.note(key, end)

    def _decide_span(self, key: AttemptKey) -> Optional[AttemptKey]:
        """An attempt is over and its span can be made; one, itself or another, that is known to get none."""
        attempt = self.run.attempts[key]
        if attempt.has_span:
            self._send_span(key)
            return None
        # Also if an earlier shipper has sent its span: another attempt is not to take its place among the slowest.
        dropped = self._slowest.offer(attempt)
        self._deliverable -= self._awaits_span(key)  # it may have to wait for the run's end
        if dropped is None or not self._awaits_span(dropped):
            return None
        self._deliverable += 1
        self._held_back.pop(dropped, None)
        return dropped

    def _awaits_span(self, key: AttemptKey) -> bool:
        """Whether the span of an attempt is wanted and was not sent."""
        undelivered = self._undelivered.get(key)
        return undelivered is not None and "traces" in undelivered.parts

    def _send_span(self, key: AttemptKey) -> None:
        self._put_in_order("traces", key)
        if key in self._held_back:
            self._user_records["traces"].note(key, self._held_back.pop(key))

    def _begin(self, key: AttemptKey) -> None:
        """An attempt is new."""
        parts = set(_FACTS)
        if key not in self._ledger.done and self.run.is_recorded(self.run.attempts[key]):
            parts.update(signal for signal in self.workers if self._is_wanted(signal, key))
            if "logs" in parts:
                self._logs.add(key)
            is_exported = self.run.attempts[key].is_exported
            if self._files is not None and not is_exported and self._files.add(key):
                parts.add("files")
        self._undelivered[key] = _Undelivered(parts)

    def _is_wanted(self, signal: str, key: AttemptKey) -> bool:
        if signal == "traces" and not self._may_send_spans:
            return False
        return signal == "logs" or self._is_new(key, _NAMES[signal])

    def _put_in_order(self, signal: str, key: AttemptKey) -> None:
        """What is made of an attempt for `signal` can be made."""
        undelivered = self._undelivered.get(key)
        if undelivered is not None and signal in undelivered.parts:
            self._ready[signal].append(key)

    def _finish(self, keys: Sequence[AttemptKey], part: str) -> List[AttemptKey]:
        """Of these attempts a part is done; those of which that was the last.

        Of them only what the end of the run has to know is kept in memory.
        """
        done = []
        for key in keys:
            attempt = self._undelivered[key]
            attempt.parts.discard(part)
            if attempt.parts or attempt.batches or not all(one.is_read_of(key) for one in self._user_records.values()):
                continue
            if key not in self._ledger.done and self.run.is_recorded(self.run.attempts[key]):
                done.append(key)
            del self._undelivered[key]
            self._deliverable -= 1
            for records in self._user_records.values():
                records.forget(key)
            self._usage_sampler.forget(key)
            self.run.keep_outline(key)
        return done

    # Feeding the workers

    def _feed(self) -> bool:
        fed = False
        if self._files is not None:
            fed = self._files.feed()
            self.status.delivered["files"] = self._files.written
            self._ledger.take(Changes(done=self._finish(self._files.take_finished(), "files")))
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
        # Closed as soon as the batch is full, because closing it sets the cursors.
        with closing(self._logs.pending(progress)) as pending:
            for record, cost in pending:
                records.append(record)
                size += cost
                if len(records) >= _MAX_RECORDS or size >= _MAX_BYTES:
                    break
        self._has_more_logs = len(records) >= _MAX_RECORDS or size >= _MAX_BYTES
        if not records and not progress.unfit:
            if self.workers["logs"].is_done:  # otherwise doubted batches may have to be read again
                progress.changes.done += self._finish(self._logs.close(progress), "logs")
                self._ledger.take(progress.changes)
            return None
        self._submitted |= progress.changes.sent

        def settled(bad: int, unfit: List[Unfit]) -> None:
            self.status.unwritten += progress.unwritten
            progress.changes.done += self._finish(self._logs.close(progress), "logs")
            self._settled_batch("logs", progress.changes, len(records), bad, unfit, progress.unfit)

        return Batch(records, settled)

    def _user_batch(self, signal: str, convert: Callable[..., Record]) -> Optional[Batch]:
        """The next telemetry of user code."""
        if signal == "traces" and not self._sends_spans():
            return None
        changes = Changes()
        taken, read = self._user_records[signal].take(self.run.attempts, changes, _MAX_RECORDS, _MAX_BYTES)
        keys = [key for key, _ in changes.cursors if key is not None]
        for key in keys:
            self._undelivered[key].batches += 1
        self._ledger.take(Changes(done=self._finish(read, "")))
        if not taken:
            return None
        never: List[Unfit] = []
        records: List[Record] = []
        for each in taken:
            make = partial(convert, each, self._resources.of_attempt, self._redaction)
            made = quarantine.converted(partial(getattr, each, "name"), never, make)
            if made is not None:
                records.append(made)

        def settled(bad: int, unfit: List[Unfit]) -> None:
            for key in keys:
                self._undelivered[key].batches -= 1
            changes.done += self._finish(keys, "")
            self._settled_batch(signal, changes, len(records), bad, unfit, never)

        return Batch(records, settled)

    def _users_are_read(self) -> bool:
        """Whether all telemetry of user code was submitted, for signals that have a worker."""
        return all(
            records.is_read()
            for signal, records in self._user_records.items()
            if not self.workers[signal].is_parked and (signal != "traces" or self._sends_spans())
        )

    def _span_batch(self) -> Optional[Batch]:
        if not self._sends_spans():
            return None
        is_over = self._following.run_is_over
        subjects: List[Subject] = []
        spans: List[Record] = []
        never: List[Unfit] = []
        for key in self._next("traces"):
            subjects.append(key)
            make = partial(self._spans.of_attempt, self.run.attempts[key], run_is_over=is_over)
            spans += quarantine.converted(f"{key} span", never, make) or ()
        if self._run_is_due("traces"):
            subjects.append(None)
            for step, attempts in summarized(self.run.recorded.values()).items():
                make = partial(self._spans.of_step, step, attempts)
                spans += quarantine.converted(f"{step} summary", never, make) or ()
            spans += quarantine.converted("the run's span", never, lambda: [self._spans.of_run()]) or ()
        return self._batch_of("traces", subjects, spans, never)

    def _sends_spans(self) -> bool:
        """Whether the run's spans are sent; those of a run that was not sampled may be once it has failed."""
        return self._is_sampled or (self._keeps_failed and self._following.run_is_over and self._has_failed())

    def _has_failed(self) -> bool:
        """Whether the run failed, or where nobody knows of the run, any attempt here."""
        if not self.run.has_launcher:
            return any(attempt.failed for attempt in self.run.attempts.values())
        return self.run.result in ("failure", "error")

    def _metric_batch(self) -> Optional[Batch]:
        subjects: List[Subject] = []
        never: List[Unfit] = []
        for key in self._next("metrics"):
            subjects.append(key)
            add = partial(self._metrics.add_attempt, self.run.attempts[key])
            quarantine.converted(f"{key} metrics", never, add)
        if self._run_is_due("metrics"):
            subjects.append(None)
            quarantine.converted("the run's metrics", never, self._metrics.add_run)
            self._note_corrupt()
            self._metrics.add_dropped(self.status.dropped, self.run.ended_at)
        return self._batch_of("metrics", subjects, self._metrics.take(), never)

    def _next(self, signal: str) -> List[AttemptKey]:
        """The attempts that the next batch is made of."""
        ready = self._ready[signal]
        return [ready.popleft() for _ in range(min(len(ready), _MAX_ATTEMPTS))]

    def _is_new(self, subject: Subject, name: str) -> bool:
        return (subject, name) not in self._submitted and not self._ledger.is_sent(subject, name)

    def _run_is_due(self, signal: str) -> bool:
        """Whether the run's own span or metrics can be sent: it has a launcher, and all its attempts were submitted."""
        return (
            self._following.run_is_over
            and self.run.has_launcher
            and self._is_new(None, _NAMES[signal])
            and not self._ready[signal]
            and (signal != "metrics" or self._drops_are_known())
        )

    def _drops_are_known(self) -> bool:
        """Whether the number of dropped log records is final, and that of spans, unless their endpoint fails."""
        logs, traces = self.workers.get("logs"), self.workers.get("traces")
        if not (logs is None or logs.is_parked or (logs.is_idle and self._logs.is_read())):
            return False
        return traces is None or traces.has_failed or (not traces.is_busy and self._users_are_read())

    def _batch_of(
        self, signal: str, subjects: Sequence[Subject], records: Sequence[Record], never: Sequence[Unfit]
    ) -> Optional[Batch]:
        """A batch with the records of `subjects`, which count as sent when it is settled."""
        if not subjects:
            return None
        changes = Changes(sent={(subject, _NAMES[signal]) for subject in subjects})
        self._submitted |= changes.sent

        def settled(bad: int, unfit: List[Unfit]) -> None:
            changes.done += self._finish([key for key in subjects if key is not None], signal)
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
        """Of `count` records in a request, `bad` were rejected and `unfit` not sent; `never` were in no request."""
        status = self.status
        status.delivered[signal] = status.delivered.get(signal, 0) + count - bad - len(unfit)
        if bad:
            status.rejected[signal] = status.rejected.get(signal, 0) + bad
        dropped = [*unfit, *never]
        if dropped:
            status.unconvertible[signal] = status.unconvertible.get(signal, 0) + len(dropped)
            quarantine.report(self._home, self.run.key, signal, dropped)
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
            if trouble:  # the problem is the endpoint
                setbacks.progress(self._folder)
            for signal, reason in trouble.items():
                print(f"{signal}: {reason}", file=sys.stderr, flush=True)  # noqa: T201 - shipper.log


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
