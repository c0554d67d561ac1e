"""Delivers one run: follows its journals, assembles telemetry and sends it, until the run has ended."""

from __future__ import annotations

import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, Optional, Tuple

from otel_metaflow.core.redaction import Redaction
from otel_metaflow.core.settings import Destination, Settings
from otel_metaflow.journal import layout, setbacks
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.ledger import Changes, Ledger
from otel_metaflow.model.following import Following
from otel_metaflow.model.span_limit import SpanLimit
from otel_metaflow.shipper import quarantine
from otel_metaflow.shipper.batches import Batches, Outcome
from otel_metaflow.shipper.convert import user_telemetry
from otel_metaflow.shipper.convert.events import Events
from otel_metaflow.shipper.convert.logs import LogRecords
from otel_metaflow.shipper.convert.metrics import Metrics
from otel_metaflow.shipper.convert.resources import Resources
from otel_metaflow.shipper.convert.sampling import Sampling
from otel_metaflow.shipper.convert.spans import Spans
from otel_metaflow.shipper.log_feed import LogFeed
from otel_metaflow.shipper.signal_worker import Batch, SignalWorker
from otel_metaflow.shipper.sinks import choice
from otel_metaflow.shipper.sinks.answers import Exporter
from otel_metaflow.shipper.submissions import Submissions
from otel_metaflow.shipper.undelivered import Undelivered
from otel_metaflow.shipper.usage_sampler import UsageSampler
from otel_metaflow.shipper.user_records import UserRecords

if TYPE_CHECKING:
    from otel_metaflow.shipper.log_files import Files

# How often the journals are read, in seconds: a line is sent within one second.
_POLL = 0.4
# While an endpoint takes what it is sent, no more of the launcher's journal is read than it takes: so many bytes at a
# time, and nothing as long as so many attempts can be delivered.
_LAUNCHER_BYTES = 1 << 16
_MAX_DELIVERABLE = 200
# What a look may take of a core, with many attempts at once; but it is not put off longer than that, in seconds.
_LOOK_SHARE = 0.05
_LONGEST_PAUSE = 0.8


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
        is_awaited: bool = False,
    ) -> None:
        """Deliver the run in `folder`; unless it `follows` the run, only what is there. `stop` ends it early.

        If somebody waits for its end (`is_awaited`), it does not linger where no batch can be delivered meanwhile.
        """
        self._home, self._folder = home, folder
        self._follows = follows
        self._is_awaited = is_awaited
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
        run = self._following.run
        self.wake = wake
        self.workers = {
            signal: SignalWorker(signal, partial(build, destination), self.wake)
            for signal, destination in environment.destinations.items()
        }
        sampling = self._sampling = Sampling(run, environment)
        submissions = Submissions(self._ledger)
        resources = Resources(run, sampled=sampling.may_send)
        redaction = Redaction(environment.redact)
        usage_sampler = UsageSampler()
        events = Events(run, resources, redaction, usage_sampler)

        def log_records() -> LogRecords:
            """New ones for each consumer, because redaction has state: whether a line is inside a private key."""
            return LogRecords(run, resources, environment.redact)

        self._logs = LogFeed(self._following, log_records(), events, self._ledger.cursor, submissions.is_new)
        self._files: Optional[Files] = None
        if environment.log_dir is not None:
            from otel_metaflow.shipper.log_files import Files

            self._files = Files(environment.log_dir, self._following, log_records(), events)
        user_records = {
            signal: UserRecords(folder, kind, self._ledger.cursor)
            for signal, kind in (("traces", layout.SPAN), ("metrics", layout.METRIC))
            if signal in self.workers and (signal != "traces" or sampling.may_send)
        }
        self._undelivered = Undelivered(
            self._following,
            self._ledger,
            submissions,
            sampling,
            self.workers,
            self._logs,
            self._files,
            user_records,
            usage_sampler,
        )
        self._batches = Batches(
            self._following,
            self._ledger,
            submissions,
            self._undelivered,
            sampling,
            self._logs,
            Spans(home, run, resources, redaction, usage_sampler, detail=environment.detail),
            Metrics(run, resources),
            user_records,
            self._settle,
        )
        of_span = partial(user_telemetry.of_span, resource_of=resources.of_attempt, redaction=redaction)
        of_metric = partial(user_telemetry.of_metric, resource_of=resources.of_attempt, redaction=redaction)
        self._makers = (
            ("logs", self._log_batch),
            ("traces", partial(self._batches.of_user_code, "traces", of_span)),
            ("traces", self._batches.of_spans),
            ("metrics", partial(self._batches.of_user_code, "metrics", of_metric)),
            ("metrics", partial(self._batches.of_metrics, self._final_drops)),
        )
        self._undelivered.take_in(update)

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
                began, began_cpu = time.monotonic(), time.thread_time()
                self._look()
                self._hurry()
                pause = (time.thread_time() - began_cpu) / _LOOK_SHARE
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
                is_leaving = is_leaving or (self._is_awaited and not fed and not self._may_deliver_by(since + linger))
            else:
                since = None
            is_leaving = is_leaving or self._stop.is_set()
            if is_leaving:
                for worker in self.workers.values():
                    worker.is_leaving = True
                if not any(worker.is_sending for worker in self.workers.values()):
                    break
            if not self._is_urgent():
                self._following.wait(self.wake, max(0.0, next_look - time.monotonic()))
            elif not fed:
                self.wake.wait(self._poll)

    @property
    def _is_all_there(self) -> bool:
        """Whether the journals hold all that is to be sent."""
        return self._following.run_is_over or not (self._follows or self._following.is_behind)

    def _may_deliver_by(self, deadline: float) -> bool:
        logs = self.workers.get("logs")
        has_more = logs is not None and logs.is_idle and not self._logs.is_read()
        return has_more or any(worker.may_deliver_by(deadline) for worker in self.workers.values())

    def _hurry(self) -> None:
        """At the run's end, have each worker that has failed try again at once, if somebody waits."""
        if not self._is_awaited or self._has_hurried or not self._following.run_is_over:
            return
        self._has_hurried = True
        for worker in self.workers.values():
            worker.retry_now()

    def _is_urgent(self) -> bool:
        """Whether more can be sent at once, or nothing more will come, and somebody may wait for the end."""
        return (
            self._is_all_there
            or self._following.is_behind
            or any(worker.is_idle and self._batches.has_more(signal) for signal, worker in self.workers.items())
        )

    def _all_read(self) -> bool:
        """Whether everything in the journals was submitted to the workers."""
        self._look(thorough=True)
        if not self._is_all_there or not self._user_code_is_read():
            return False
        if self._files is not None and not self._files.at_end():
            return False
        worker = self.workers.get("logs")
        return worker is None or worker.is_parked or self._logs.is_read()

    def _look(self, *, thorough: bool = False) -> None:
        has_enough = self._undelivered.deliverable >= _MAX_DELIVERABLE and self._sampling.is_sampled
        max_bytes = 0 if has_enough and not self._trouble() else _LAUNCHER_BYTES
        self._undelivered.take_in(self._following.poll(max_bytes=max_bytes, thorough=thorough))

    def _feed(self) -> bool:
        """Submit a batch to each worker that is idle; whether there was any."""
        fed = False
        if self._files is not None:
            fed = self._files.feed()
            self.status.delivered["files"] = self._files.written
            self._ledger.take(Changes(done=self._undelivered.finish(self._files.take_finished(), "files")))
        for signal, make in self._makers:
            worker = self.workers.get(signal)
            if worker is not None and worker.is_idle:
                batch = make()
                if batch is not None:
                    worker.submit(batch)
                    fed = True
        return fed

    def _log_batch(self) -> Optional[Batch]:
        return self._batches.of_logs(is_settled=self.workers["logs"].is_done)

    def _user_code_is_read(self) -> bool:
        """Whether all telemetry of user code was submitted, for signals whose worker takes any."""
        return all(
            worker.is_parked or self._batches.user_code_is_read(signal) for signal, worker in self.workers.items()
        )

    def _final_drops(self) -> Optional[Dict[Tuple[str, str], int]]:
        """How many log records were dropped, and spans unless their endpoint fails; None while that is not final."""
        logs, traces = self.workers.get("logs"), self.workers.get("traces")
        if not (logs is None or logs.is_parked or (logs.is_idle and self._logs.is_read())):
            return None
        if not (traces is None or traces.has_failed or (not traces.is_busy and self._user_code_is_read())):
            return None
        self._note_corrupt()
        return self.status.dropped

    def _settle(self, outcome: Outcome) -> None:
        status, signal = self.status, outcome.signal
        status.unwritten += outcome.unwritten
        status.delivered[signal] = status.delivered.get(signal, 0) + outcome.accepted
        if outcome.rejected:
            status.rejected[signal] = status.rejected.get(signal, 0) + outcome.rejected
        if outcome.dropped:
            status.unconvertible[signal] = status.unconvertible.get(signal, 0) + len(outcome.dropped)
            quarantine.report(self._home, self._following.run.key, signal, outcome.dropped)
        self._note_corrupt()
        self._note(outcome.changes)
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
