"""Follows the journals of a run for their facts: what began, what ended, of what nothing more will be heard.

The launcher's journal announces attempts and their ends; besides it only the journals of attempts that run are looked
at. Those of attempts that no launcher announces (in containers, or started by another task) are found by listing
the folder: as often as that takes no more than a small part of the time, or, where no step of the flow starts tasks
itself, at the run's end.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Container, Dict, List, Optional, Set

from otel_metaflow.journal import layout, lock
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.processes import is_held
from otel_metaflow.journal.reader import CHUNK, Tail, facts
from otel_metaflow.model import story
from otel_metaflow.model.run import Attempt, Place, Record, Run
from otel_metaflow.model.span_limit import SpanLimit

# Listing the folder takes at most this part of the time.
_LISTING_SHARE = 0.005
# A folder that changed so lately, in nanoseconds, may change again without its time of change moving on.
_COARSE = 2_000_000_000
# Within this time, in seconds, the shell of a container records how its step ended (task/witness.sh).
_WITNESS = 2.0


@dataclass
class Update:
    """The attempts that a poll found to have changed, in order."""

    returned: List[AttemptKey] = field(default_factory=list)
    """They exported themselves in a container, whose shipper is gone."""
    appeared: List[AttemptKey] = field(default_factory=list)
    settled: List[AttemptKey] = field(default_factory=list)
    """Nothing more will be recorded of them."""
    decided: List[AttemptKey] = field(default_factory=list)
    """They are settled, and it is known whether another attempt of the task follows."""
    read: List[AttemptKey] = field(default_factory=list)
    """They are settled, and their journals were read for the last time."""
    user_records: Dict[AttemptKey, int] = field(default_factory=dict)
    """Offsets in the journals that have new spans or metrics of user code: the end of the last one."""


class Following:
    """Follows the journals of one run and keeps its facts up to date."""

    def __init__(self, home: Path, folder: Path, span_limit: Optional[SpanLimit] = None) -> None:
        """`span_limit` decides about the attempts' spans, for whoever asks."""
        self.folder = folder
        self._span_limit = span_limit
        self.run = Run(layout.run_key(home, folder), Place(folder))
        self.run_is_over = False
        self.is_behind = False
        """Whether the launcher's journal held more than was read of it."""
        self.left = 0
        """How many attempts were left to others by the last look."""
        self._launcher = Tail(folder / layout.RUN_FILE, facts_only=True)
        self._listing = _Listing(folder)
        self._active: Dict[AttemptKey, Tail] = {}
        self._last_reads: Dict[AttemptKey, Tail] = {}  # settled by the last poll
        self._undecided: Set[AttemptKey] = set()
        self._gone: Dict[AttemptKey, float] = {}  # since when the processes of attempts elsewhere are
        self._away: Dict[AttemptKey, Record] = {}  # launches of attempts that export themselves and are not over

    @property
    def ledger_file(self) -> Path:
        """Where whoever delivers this notes what was acknowledged."""
        return self.folder / layout.LEDGER_FILE

    def poll(self, *, max_bytes: Optional[int] = None, thorough: bool = False) -> Update:
        """Read what was added to the journals, of the launcher's about `max_bytes` at most.

        If `thorough`, the folder is listed in any case.
        """
        update = Update()
        # Checked before its journal is read: a launcher that has ended by then writes nothing more.
        is_known = self.run.start is not None
        is_gone = is_known and not self.run.launcher_is_alive()
        self.is_behind = not self._read_launcher(update, max_bytes)
        if not is_known and not self.is_behind and self.run.start is not None:
            is_gone = not self.run.launcher_is_alive()
            self._read_launcher(update, None)
        is_gone = not self.is_behind and (is_gone or self.run.start is None or self.run.closed)
        # What its journal has of an attempt counts first: that it exported itself, say; and a run that is behind is not
        # to begin all that is in the folder at once.
        if not self.is_behind and (thorough or (not self._announces_all() and self._listing.is_due())):
            self._list(update)
        self._read_attempts(update)
        self._settle(update, is_launcher_gone=is_gone)
        if is_gone and not self._active and not self.run_is_over and self._list(update):
            self._read_attempts(update)
            self._settle(update, is_launcher_gone=True)
        self.run_is_over = self.is_run_over(is_launcher_gone=is_gone)
        if self.run_is_over:
            update.decided.extend(self._undecided)
            self._undecided.clear()
        return update

    def wait(self, wake: threading.Event, seconds: float) -> None:
        """Wait for the time of the next poll, in `seconds`, or until `wake` is set."""
        wake.wait(seconds)

    def _read_launcher(self, update: Update, max_bytes: Optional[int]) -> bool:
        """Read the launcher's journal; whether its end was reached."""
        start, before = self._launcher.offset, -1
        while _has_more(self._launcher) and self._launcher.offset != before:
            before = self._launcher.offset
            if max_bytes is not None and before - start >= max_bytes:
                return False
            for entry in self._launcher.read(max_bytes or CHUNK):
                for record in self._known_here(entry.record, update):
                    attempt = self.run.add(None, record)
                    if attempt is not None:
                        if self._span_limit is not None:
                            self._span_limit.take(attempt, record["kind"])
                        self._begin(attempt, update)
        return True

    def _known_here(self, record: Record, update: Update) -> List[Record]:
        """The records to add for a record of the launcher; of attempts that export themselves, both at the exit."""
        if record["kind"] not in (layout.LAUNCH, layout.EXIT):
            return [record]
        key = AttemptKey(record["step"], record["task"], record["attempt"])
        if record["kind"] == layout.LAUNCH and record.get("remote"):
            self._away[key] = record
            return []
        launch = self._away.pop(key, None)
        if launch is None:
            return [record]
        update.returned.append(key)
        return [launch, record]

    def _announces_all(self) -> bool:
        """Whether a launcher starts all tasks, as far as the flow's graph shows."""
        run = self.run
        is_launched = run.has_launcher and not run.is_partial and not run.is_backfilled
        return is_launched and bool(run.steps) and not any(step.get("parallel") for step in run.steps.values())

    def _list(self, update: Update) -> bool:
        """List the folder; whether it holds journals of attempts that were unknown."""
        unknown = [key for key in self._listing.unknown(self.run.attempts) if key not in self._away]
        found = list(filter(self.is_ours, unknown))
        self.left = len(unknown) - len(found)
        if self.left:
            self._listing.look_again()  # the folder need not change when they are over
        for key in found:
            if (self.folder / layout.attempt_lock(key)).exists():
                update.returned.append(key)
            self._begin(self.run.attempt(key), update)
        return bool(found)

    def is_ours(self, key: AttemptKey) -> bool:
        """Whether nobody else delivers an attempt: not a container that lives and has its journals in this folder."""
        if self.run.has_launcher and not self.run.is_partial:
            return True
        own = layout.attempt_lock(key)
        if (self.folder / own).exists() and not lock.is_free(self.folder, own):
            return False
        return not is_held(layout.attempt_file(self.folder, key))

    def _begin(self, attempt: Attempt, update: Update) -> None:
        """Follow an attempt, unless it is followed or settled."""
        if attempt.is_settled or attempt.key in self._active:
            return
        self._active[attempt.key] = Tail(layout.attempt_file(self.folder, attempt.key), facts_only=True)
        update.appeared.append(attempt.key)
        before = story.previous(self.run, attempt)
        if before is not None and before.key in self._undecided:
            self._undecided.discard(before.key)
            update.decided.append(before.key)

    def _read_attempts(self, update: Update) -> None:
        for key, tail in self._last_reads.items():
            self._read(key, tail, update)
            update.read.append(key)
        self._last_reads.clear()
        for key, tail in self._active.items():
            self._read(key, tail, update)

    def _read(self, key: AttemptKey, tail: Tail, update: Update) -> None:
        skipped_to, before = tail.skipped_to, -1
        while _has_more(tail) and tail.offset != before:
            before = tail.offset
            for entry in tail.read():
                self.run.add(key, entry.record)
        if tail.skipped_to != skipped_to:
            update.user_records[key] = tail.skipped_to

    def _settle(self, update: Update, *, is_launcher_gone: bool) -> None:
        """Find the attempts of which nothing more will be recorded."""
        for key in list(self._active):
            attempt = self.run.attempts[key]
            if self.is_over(attempt, is_launcher_gone=is_launcher_gone):
                self._end(attempt, update)

    def is_over(self, attempt: Attempt, *, is_launcher_gone: bool) -> bool:
        """Whether nothing more will be recorded of an attempt."""
        # The launcher records a task's exit after all of its output. If it will not, because it is gone or because
        # another task started this one (@parallel), the end of the task's process decides.
        is_unwatched = is_launcher_gone or attempt.is_within_another
        return attempt.is_cloned or attempt.exit is not None or (is_unwatched and self._has_ended(attempt))

    def _has_ended(self, attempt: Attempt) -> bool:
        """Whether its process has ended; on another machine, so long ago that its container would have recorded how."""
        if attempt.is_running():
            self._gone.pop(attempt.key, None)
            return False
        since = self._gone.setdefault(attempt.key, time.monotonic())
        return not attempt.is_elsewhere or time.monotonic() - since >= _WITNESS

    def is_run_over(self, *, is_launcher_gone: bool) -> bool:
        """Whether nothing more will be recorded of the run."""
        return is_launcher_gone and not self._active

    def _end(self, attempt: Attempt, update: Update) -> None:
        attempt.is_settled = True
        self._last_reads[attempt.key] = self._active.pop(attempt.key)
        if attempt.exit is None and not attempt.is_cloned:
            attempt.has_span = True  # it is lost, or no launcher sees its end
        if attempt.end is None and attempt.exit is None:
            # Its end was not recorded: it was, at the earliest, when the launcher last read from it.
            for record in facts(layout.output_file(self.folder, attempt.key)):
                self.run.add(attempt.key, record)
        update.settled.append(attempt.key)
        if story.is_final(self.run, attempt, run_is_over=False) is None:
            self._undecided.add(attempt.key)
        else:
            update.decided.append(attempt.key)


class _Listing:
    """Finds attempts by their journals, if the folder has changed and it is not too soon."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed = -1  # when the folder was, as far as it is known what it holds since then
        self._next = 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self._next and self._change() != self._changed

    def unknown(self, known: Container[AttemptKey]) -> List[AttemptKey]:
        """The attempts that are not `known`."""
        changed, began = self._change(), time.thread_time()
        found = layout.unknown_attempts(self._folder, known)
        self._changed = changed if time.time_ns() - changed > _COARSE else -1
        self._next = time.monotonic() + (time.thread_time() - began) / _LISTING_SHARE
        return found

    def look_again(self) -> None:
        """Not all that was found is taken in yet, although the folder may not change any more."""
        self._changed = -1

    def _change(self) -> int:
        try:
            return os.stat(self._folder).st_mtime_ns
        except OSError:  # pruned meanwhile
            return -1


def _has_more(tail: Tail) -> bool:
    """Whether the journal has grown; without opening it."""
    try:
        return os.stat(tail.path).st_size > tail.offset
    except OSError:
        return False
