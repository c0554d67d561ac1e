"""Keeps track of the attempts that are not delivered yet: what of each is still to be sent, or to be found out.

What is delivered leaves memory, but for the outline that the run's end needs.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Collection, Deque, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from otel_metaflow.journal import layout
from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.ledger import Changes, Ledger, Subject
from otel_metaflow.model.following import Following, Update
from otel_metaflow.model.span_limit import Slowest
from otel_metaflow.shipper.convert.sampling import Sampling
from otel_metaflow.shipper.log_feed import LOGS, LogFeed
from otel_metaflow.shipper.submissions import Submissions
from otel_metaflow.shipper.usage_sampler import UsageSampler
from otel_metaflow.shipper.user_records import UserRecords

if TYPE_CHECKING:
    from otel_metaflow.shipper.log_files import Files

ITEMS = {"traces": "span", "metrics": "metrics"}
"""What is sent of an attempt, or of the run, for a signal, by its name in the ledger; log records have cursors."""

# What a container that has delivered its attempt has sent of events; the others are its launcher's.
_EVENTS_OF_CONTAINERS = ("start", "exception", "lost", "end")
# What is to be found out of an attempt: whether another one follows it, and whatever is in its journal.
_FACTS = frozenset(("decided", "read"))


class _Parts:
    """What is still to be done for an attempt: signals to be acknowledged, and what is to be found out of it."""

    __slots__ = ("batches", "parts")

    def __init__(self, parts: Set[str]) -> None:
        self.parts = parts
        self.batches = 0  # of user code's spans and metrics that are on their way


class Undelivered:
    """The attempts of one run that are not delivered yet."""

    def __init__(
        self,
        following: Following,
        ledger: Ledger,
        submissions: Submissions,
        sampling: Sampling,
        signals: Collection[str],
        logs: LogFeed,
        files: Optional[Files],
        user_records: Mapping[str, UserRecords],
        usage_sampler: UsageSampler,
    ) -> None:
        """`signals` are those that have an endpoint; the feeds and `user_records` get to know each attempt here."""
        self.deliverable = 0
        """Attempts for which nothing more is to be found out."""
        self._following = following
        self._run = following.run
        self._ledger = ledger
        self._submissions = submissions
        self._sampling = sampling
        self._signals = signals
        self._logs = logs
        self._files = files
        self._user_records = user_records
        self._usage_sampler = usage_sampler
        self._attempts: Dict[AttemptKey, _Parts] = {}
        # Attempts whose span, or whose metrics, can be made.
        self._ready: Dict[str, Deque[AttemptKey]] = {signal: deque() for signal in ITEMS}
        self._slowest = Slowest()  # of those without spans
        self._held_back: Dict[AttemptKey, int] = {}  # up to where the records of user code go, of those

    def take_in(self, update: Update) -> None:
        """Take in what the journals have that is new."""
        for key in update.returned:
            self._adopt(key)
        for key in update.appeared:
            self._begin(key)
        for key, end in update.user_records.items():
            if key not in self._ledger.done and not self._run.attempts[key].is_exported:
                self._note_user_records(key, end)
        for key in update.settled:
            if self._attempts[key].parts <= _FACTS:  # its start, which makes it one to deliver, was not read before
                self._begin(key)
            self._put_in_order("metrics", key)
        self.deliverable += len(update.decided)
        without_span = [key for key in map(self._decide_span, update.decided) if key is not None]
        for key in update.decided:
            self._logs.decided(key)
            if self._files is not None:
                self._files.decided(key)
        if self._following.run_is_over:
            for key in self._slowest.take():
                self.deliverable += self._awaits_span(key)
                self._send_span(key)
        done = [*self.finish(without_span, "traces"), *self.finish(update.decided, "decided")]
        self._ledger.take(Changes(done=[*done, *self.finish(update.read, "read")]))

    def is_any_ready(self, signal: str) -> bool:
        """Whether the span, or the metrics, of any attempt can be made and were not asked for."""
        return bool(self._ready[signal])

    def take_ready(self, signal: str, limit: int) -> List[AttemptKey]:
        """The next attempts whose span, or whose metrics, can be made; at most `limit`."""
        ready = self._ready[signal]
        return [ready.popleft() for _ in range(min(len(ready), limit))]

    def hold(self, keys: Sequence[AttemptKey]) -> None:
        """A batch with telemetry of these attempts' user code is on its way."""
        for key in keys:
            self._attempts[key].batches += 1

    def release(self, keys: Sequence[AttemptKey]) -> List[AttemptKey]:
        """That batch is settled; the attempts of which it was the last part."""
        for key in keys:
            self._attempts[key].batches -= 1
        return self.finish(keys)

    def finish(self, keys: Sequence[AttemptKey], part: str = "") -> List[AttemptKey]:
        """Of these attempts a part is done; those of which that was the last, for the ledger."""
        done = []
        for key in keys:
            attempt = self._attempts[key]
            attempt.parts.discard(part)
            if attempt.parts or attempt.batches or not all(one.is_read_of(key) for one in self._user_records.values()):
                continue
            if key not in self._ledger.done and self._run.is_recorded(self._run.attempts[key]):
                done.append(key)
            del self._attempts[key]
            self.deliverable -= 1
            for records in self._user_records.values():
                records.forget(key)
            self._usage_sampler.forget(key)
            self._run.keep_outline(key)
        return done

    def _begin(self, key: AttemptKey) -> None:
        """An attempt is new."""
        parts = set(_FACTS)
        if key not in self._ledger.done and self._run.is_recorded(self._run.attempts[key]):
            parts.update(signal for signal in self._signals if self._is_wanted(signal, key))
            if "logs" in parts:
                self._logs.add(key)
            is_exported = self._run.attempts[key].is_exported
            if self._files is not None and not is_exported and self._files.add(key):
                parts.add("files")
        self._attempts[key] = _Parts(parts)

    def _is_wanted(self, signal: str, key: AttemptKey) -> bool:
        if signal == "traces" and not self._sampling.may_send:
            return False
        return signal == "logs" or self._submissions.is_new(key, ITEMS[signal])

    def _adopt(self, key: AttemptKey) -> None:
        """An attempt exported itself: what of it was acknowledged to its own shipper is not sent again."""
        files, attempt = layout.container_files(self._following.folder, key), self._run.attempts[key]
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
            end = tuple(attempt.launch.get("exported", end))
            self._ledger.take(Changes({(key, LOGS): Cursor(clean=end, sent=end)}, {(key, "start")}))

    def _note_user_records(self, key: AttemptKey, end: int) -> None:
        """Of what user code recorded in an attempt there is more; its spans go with the attempt's own."""
        for signal, records in self._user_records.items():
            if signal == "traces" and not self._run.attempts[key].has_span:
                self._held_back[key] = end
            else:
                records.note(key, end)

    def _put_in_order(self, signal: str, key: AttemptKey) -> None:
        """What is made of an attempt for `signal` can be made."""
        undelivered = self._attempts.get(key)
        if undelivered is not None and signal in undelivered.parts:
            self._ready[signal].append(key)

    def _decide_span(self, key: AttemptKey) -> Optional[AttemptKey]:
        """An attempt is over and its span can be made; one, itself or another, that is known to get none."""
        attempt = self._run.attempts[key]
        if attempt.has_span:
            self._send_span(key)
            return None
        # Also if an earlier shipper has sent its span: another attempt is not to take its place among the slowest.
        dropped = self._slowest.offer(attempt)
        self.deliverable -= self._awaits_span(key)  # it may have to wait for the run's end
        if dropped is None or not self._awaits_span(dropped):
            return None
        self.deliverable += 1
        self._held_back.pop(dropped, None)
        return dropped

    def _awaits_span(self, key: AttemptKey) -> bool:
        """Whether the span of an attempt is wanted and was not sent."""
        undelivered = self._attempts.get(key)
        return undelivered is not None and "traces" in undelivered.parts

    def _send_span(self, key: AttemptKey) -> None:
        self._put_in_order("traces", key)
        if key in self._held_back:
            self._user_records["traces"].note(key, self._held_back.pop(key))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
