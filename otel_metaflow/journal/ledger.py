"""Stores on disk what was acknowledged of a run, in a file to which a line is appended for each batch.

If a shipper is killed, the next one continues after the last complete line. Each line is one JSON object:

    {"version":1,"changes":[{"of":["train","7",0],"cursors":{"logs":{…}},"sent":["start"]}],"done":[["start","1",0]],
     "status":{…}}

`of` is an attempt, or null for the run itself; `cursors` are the positions up to which its records were acknowledged,
by kind; `sent` names what else was. For an attempt that is `done` everything was acknowledged, and nothing else is
stored. `status` is always complete, so the last line alone has the state of the delivery.

Nothing is synced to disk: if a line is missing after a power failure, incomplete or damaged, its batch is sent again.
But nothing that was not sent ever counts as sent.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.replacement import replacing

Subject = Optional[AttemptKey]
"""An attempt, or None for the run itself."""

_VERSION = 1
_BLOCK = 1 << 14
# The file is rewritten when it has grown by this factor since the last time, and is at least this large, in bytes.
_GROWTH = 4
_MIN_SIZE = 1 << 18
_MAX_CHANGES = 1_000  # on one line, when it is rewritten


@dataclass
class Changes:
    """What changes when a batch is acknowledged."""

    cursors: Dict[Tuple[Subject, str], Cursor] = field(default_factory=dict)
    sent: Set[Tuple[Subject, str]] = field(default_factory=set)
    done: List[AttemptKey] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.cursors or self.sent or self.done)

    def update(self, later: Changes) -> None:
        """Add later changes."""
        self.cursors.update(later.cursors)
        self.sent |= later.sent
        self.done += later.done


@dataclass
class _Entry:
    """The state of one subject that is not done."""

    cursors: Dict[str, Cursor] = field(default_factory=dict)
    sent: Set[str] = field(default_factory=set)


class Ledger:
    """What was acknowledged of one run; for one writer at a time."""

    def __init__(self, path: Path) -> None:
        """Read the file at `path`, and remove an incomplete last line."""
        self.path = path
        self.done: Set[AttemptKey] = set()
        self.status: Dict[str, Any] = {}
        self._entries: Dict[Subject, _Entry] = {}
        self._unwritten = Changes()
        self._size = 0
        self._compacted = 0
        for line in self._whole_lines():
            value = _parsed(line)
            if value is not None:
                self._take(value[0])
                self.status = value[1] or self.status

    def _whole_lines(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb+") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        file.truncate(self._size)
                        return
                    self._size += len(line)
                    yield line
        except (FileNotFoundError, IsADirectoryError):
            return

    def cursor(self, subject: Subject, kind: str) -> Cursor:
        """The position up to which records of that kind were acknowledged."""
        entry = self._entries.get(subject)
        return Cursor() if entry is None else entry.cursors.get(kind) or Cursor()

    def is_sent(self, subject: Subject, name: str) -> bool:
        """Whether the item `name` was acknowledged."""
        entry = self._entries.get(subject)
        return subject in self.done or (entry is not None and name in entry.sent)

    def append(self, changes: Changes, status: Dict[str, Any]) -> None:
        """Apply changes, and write them together with those that were applied before.

        Raises:
            OSError: the disk is full; then nothing is written.
        """
        self.status = status
        self.take(changes)
        self._write(_line(_changed(self._unwritten), self._unwritten.done, status))
        self._unwritten = Changes()
        if self._size > max(_MIN_SIZE, _GROWTH * self._compacted):
            self.compact()

    def _write(self, line: bytes) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            written = 0
            while written < len(line):
                written += os.write(descriptor, line[written:])
        except OSError:
            os.ftruncate(descriptor, self._size)
            raise
        finally:
            os.close(descriptor)
        self._size += len(line)

    def compact(self) -> None:
        """Rewrite the file with the current state, atomically.

        Raises:
            OSError: the disk is full.
        """
        changes = Changes(
            {(of, kind): cursor for of, entry in self._entries.items() for kind, cursor in entry.cursors.items()},
            {(of, name) for of, entry in self._entries.items() for name in entry.sent},
        )
        changed = _changed(changes)
        done = sorted(self.done)
        with replacing(self.path) as new, new.open("wb") as file:
            for at in range(0, max(len(changed), len(done)), _MAX_CHANGES):
                file.write(_line(changed[at : at + _MAX_CHANGES], done[at : at + _MAX_CHANGES], {}))
            file.write(_line([], [], self.status))
            self._size = self._compacted = file.tell()

    def adopt(self, other: Ledger, key: AttemptKey) -> None:
        """Take in what another shipper noted of an attempt, unless this one has begun with it."""
        if key in self.done or key in self._entries:
            return
        entry = other._entries.get(key, _Entry())
        changes = Changes(done=[key] if key in other.done else [])
        changes.cursors.update({(key, kind): cursor for kind, cursor in entry.cursors.items()})
        changes.sent.update((key, name) for name in entry.sent)
        # A container that was the run's last has also sent what is the run's own.
        changes.sent.update((None, name) for name in other._entries.get(None, _Entry()).sent)
        self.take(changes)

    def take(self, changes: Changes) -> None:
        """Apply changes with which nothing was sent; they are written with the next ones."""
        self._take(changes)
        self._unwritten.update(changes)

    def _take(self, changes: Changes) -> None:
        for (subject, kind), cursor in changes.cursors.items():
            if subject not in self.done:
                self._entry(subject).cursors[kind] = cursor
        for subject, name in changes.sent:
            if subject not in self.done:
                self._entry(subject).sent.add(name)
        for key in changes.done:
            self._entries.pop(key, None)
            self.done.add(key)

    def _entry(self, subject: Subject) -> _Entry:
        entry = self._entries.get(subject)
        if entry is None:
            entry = self._entries[subject] = _Entry()
        return entry


def last_status(path: Path) -> Dict[str, Any]:
    """The last status in the ledger at `path`, read from its end; empty if there is none."""
    try:
        with path.open("rb") as file:
            start, text = file.seek(0, os.SEEK_END), b""
            while start:
                end, start = start, max(0, start - _BLOCK)
                file.seek(start)
                # Data after the last newline is incomplete; data before the first one may start in the previous block.
                text = file.read(end - start) + text
                lines = text.split(b"\n")[:-1]
                for line in reversed(lines[1:] if start else lines):
                    value = _parsed(line)
                    if value is not None and value[1]:
                        return value[1]
    except OSError:
        pass
    return {}


def _changed(changes: Changes) -> List[Dict[str, Any]]:
    """The cursors and names as JSON, one object for each subject."""
    made: Dict[Subject, Dict[str, Any]] = {}
    for (subject, kind), cursor in changes.cursors.items():
        made.setdefault(subject, {"of": subject}).setdefault("cursors", {})[kind] = cursor.as_json()
    for subject, name in sorted(changes.sent, key=str):
        made.setdefault(subject, {"of": subject}).setdefault("sent", []).append(name)
    return list(made.values())


def _line(changed: List[Dict[str, Any]], done: List[AttemptKey], status: Dict[str, Any]) -> bytes:
    value: Dict[str, Any] = {"version": _VERSION}
    value.update({name: part for name, part in (("changes", changed), ("done", done), ("status", status)) if part})
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> Optional[Tuple[Changes, Dict[str, Any]]]:
    """The changes and the status on a line; None if it is damaged or of another version."""
    changes = Changes()
    try:
        value = json.loads(line)
        if value["version"] != _VERSION:
            return None
        for change in value.get("changes", ()):
            subject = None if change["of"] is None else _key(change["of"])
            for kind, cursor in change.get("cursors", {}).items():
                changes.cursors[subject, kind] = Cursor.from_json(cursor)
            changes.sent.update((subject, str(name)) for name in change.get("sent", ()))
        changes.done.extend(map(_key, value.get("done", ())))
        status = value.get("status", {})
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None
    return (changes, status) if isinstance(status, dict) else None


def _key(value: List[Any]) -> AttemptKey:
    step, task, attempt = value
    return AttemptKey(str(step), str(task), int(attempt))
