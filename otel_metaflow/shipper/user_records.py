"""The spans and metrics of user code in the journals of a run, each returned once."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterator, List, Mapping, NamedTuple, Tuple

from otel_metaflow.journal import layout
from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.ledger import Changes, Subject
from otel_metaflow.journal.reader import Entry, Tail
from otel_metaflow.model.run import Attempt


class UserRecord(NamedTuple):
    """One record of an attempt, and its offset in the journal."""

    attempt: Attempt
    record: Dict[str, Any]
    start: int

    @property
    def name(self) -> str:
        """How messages call it if it is dropped."""
        return f"{self.attempt.key} {self.record['kind']} t{self.start}"


class UserRecords:
    """The records of one kind; journals without any are not opened."""

    def __init__(self, folder: Path, kind: str, cursor_of: Callable[[Subject, str], Cursor]) -> None:
        """`cursor_of` returns how far the records of an attempt, of this kind, were acknowledged before."""
        self._folder = folder
        self._kind = kind
        self._cursor_of = cursor_of
        self._ends: Dict[AttemptKey, int] = {}  # of journals that may have unread records
        self._tails: Dict[AttemptKey, Tail] = {}
        self._entries: Dict[AttemptKey, Deque[Entry]] = {}  # read and not yet returned

    def note(self, key: AttemptKey, end: int) -> None:
        """A record of user code, of this kind or another, ends at `end` in the attempt's journal."""
        self._ends[key] = end

    def is_read(self) -> bool:
        """Whether all noted records were returned."""
        return not self._ends

    def is_read_of(self, key: AttemptKey) -> bool:
        """The same of one attempt."""
        return key not in self._ends

    def forget(self, key: AttemptKey) -> None:
        """Forget an attempt of which no more records will be taken."""
        self._tails.pop(key, None)
        self._entries.pop(key, None)

    def take(
        self, attempts: Mapping[AttemptKey, Attempt], changes: Changes, limit: int, max_bytes: int
    ) -> Tuple[List[UserRecord], List[AttemptKey]]:
        """The next records, within `limit` and `max_bytes`, and the attempts whose journals were read to their end.

        The new cursors are noted in `changes`.
        """
        taken: List[UserRecord] = []
        read: List[AttemptKey] = []
        size = 0
        for key, end in list(self._ends.items()):
            for entry in self._next(key, end):
                changes.cursors[key, self._kind] = Cursor(sent=(entry.end, 0))
                taken.append(UserRecord(attempts[key], entry.record, entry.start))
                size += entry.end - entry.start
                if len(taken) >= limit or size >= max_bytes:
                    return taken, read
            del self._ends[key]
            read.append(key)
        return taken, read

    def _next(self, key: AttemptKey, end: int) -> Iterator[Entry]:
        entries, tail = self._entries.setdefault(key, deque()), self._tail(key)
        while True:
            while entries:
                yield entries.popleft()
            if tail.offset >= end:
                return
            before = tail.offset
            entries.extend(tail.read())
            if tail.offset == before:  # the file is gone
                tail.offset = end
                return

    def _tail(self, key: AttemptKey) -> Tail:
        if key not in self._tails:
            path = layout.attempt_file(self._folder, key)
            self._tails[key] = Tail(path, self._cursor_of(key, self._kind).sent[0], only=self._kind)
        return self._tails[key]
