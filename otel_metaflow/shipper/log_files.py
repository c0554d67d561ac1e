"""Writes log records as JSON lines to files, for agents that tail files: a Datadog Agent, a Splunk forwarder.

All runs write to DIR/metaflow.jsonl, serialized by a lock. At 64 MiB it is renamed to metaflow.jsonl.1, that to .2 and
so on up to .9: names that `*.jsonl` does not match, so that an agent reads nothing twice.

The position in a run's journals is stored in its folder after each write. Records that were written but not
acknowledged there, because the shipper was killed in between, are recognized in the file by their ids.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple, cast

from otel_metaflow.core import names, otlp_values
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.ledger import Changes, Ledger
from otel_metaflow.model.following import Following
from otel_metaflow.shipper.convert.events import Events
from otel_metaflow.shipper.convert.logs import LogRecords
from otel_metaflow.shipper.log_feed import LogFeed, Progress
from otel_metaflow.shipper.telemetry import LogRecord, Record

NAME = "metaflow.jsonl"
MAX_BYTES = 64 << 20
MAX_FILES = 10
LEDGER = "log-files.ledger"
_LOCK = ".lock"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Bytes written at a time, which limits the use of memory.
_BATCH = 1_000_000
# Fields of a line other than attributes; an attribute with such a name would overwrite one.
_RESERVED = frozenset(
    ("timestamp", "severity", "message", "service", "env", "version", "host", "source", "trace_id", "span_id", "status")
)


class Files:
    """Writes the log records of one run."""

    def __init__(self, directory: Path, following: Following, records: LogRecords, events: Events) -> None:
        """`directory` is created if necessary."""
        self.trouble = ""
        self._directory = directory
        self._run = following.run
        self._ledger = Ledger(following.folder / LEDGER)
        self._position = _Position.from_json(self._ledger.status)
        self.written = self._position.written
        self._logs = LogFeed(
            following,
            records,
            events,
            self._ledger.cursor,
            lambda subject, name: not self._ledger.is_sent(subject, name),
        )
        self._finished: List[AttemptKey] = []
        self._pending: Optional[_Batch] = None
        # Records that are in the files but not in the ledger, and whether there may be more of them.
        self._unacknowledged: Set[str] = set()
        self._is_unsure = True

    def add(self, key: AttemptKey) -> bool:
        """Write the records of an attempt, too; whether they are not all written yet."""
        if key in self._ledger.done:
            return False
        self._logs.add(key)
        return True

    def decided(self, key: AttemptKey) -> None:
        """It is known now whether another attempt follows."""
        self._logs.decided(key)

    def take_finished(self) -> List[AttemptKey]:
        """The attempts of which everything was written since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def feed(self) -> bool:
        """Write the next batch; return whether anything was written."""
        batch = self._pending or self._next()
        if not batch.lines:
            return False
        self._pending = batch
        try:
            self._write(batch)
        except OSError as error:
            self._is_unsure = True
            self.trouble = f"cannot write to {self._directory} ({error.strerror})"
            return False
        self.trouble = ""
        self.written = self._position.written
        self._pending = None
        return True

    def at_end(self) -> bool:
        """Whether everything in the journals so far was written."""
        return self._pending is None and self._logs.is_read()

    def _next(self) -> _Batch:
        batch = _Batch()
        with closing(self._logs.pending(batch.progress)) as pending:
            for record, _ in pending:
                uid, line = _line(record)
                batch.lines.append((uid, line))
                batch.size += len(line)
                if batch.size >= _BATCH:
                    break
        if not batch.lines:
            self._ledger.take(self._changes(batch))
            self._finished += batch.progress.changes.done
        return batch

    def _changes(self, batch: _Batch) -> Changes:
        changes = batch.progress.changes
        changes.done += self._logs.close(batch.progress)
        return changes

    # Writing the files

    def _write(self, batch: _Batch) -> None:
        """Write the batch and acknowledge it in the ledger.

        Raises:
            OSError: the batch or the ledger could not be written.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with _locked(self._directory / _LOCK):
            if self._is_unsure:
                if self._ledger.status:
                    self._unacknowledged |= self._find_unacknowledged()
                else:
                    self._note(Changes(), 0)
                self._is_unsure = False
            new = b"".join(line for uid, line in batch.lines if uid not in self._unacknowledged)
            _append(self._directory / NAME, new)
            self._note(self._changes(batch), len(batch.lines))
            self._finished += batch.progress.changes.done

    def _note(self, changes: Changes, count: int) -> None:
        """Add `changes` to the ledger, with `count` more lines written and the current end of the file.

        Raises:
            OSError: the disk is full.
        """
        position = _Position(self._position.written + count, *_end(self._directory / NAME))
        self._ledger.append(changes, position._asdict())
        self._position = position

    def _find_unacknowledged(self) -> Set[str]:
        """The ids of this run's records after the last acknowledged position."""
        mine = _text({names.RUN_ID: self._run.key.run})[1:-1].encode()
        found: Set[str] = set()
        for number in range(MAX_FILES):
            path = _numbered(self._directory / NAME, number)
            if not path.exists():
                break
            with path.open("rb") as file:
                is_last = os.fstat(file.fileno()).st_ino == self._position.inode
                if is_last:
                    file.seek(self._position.offset)
                for line in file:
                    if mine in line and line.endswith(b"\n"):
                        found.add(_uid(line))
            if is_last:
                break
        return found


class _Batch:
    """Lines to write with their ids, and the position in the journals after them."""

    def __init__(self) -> None:
        self.lines: List[Tuple[str, bytes]] = []
        self.size = 0
        self.progress = Progress()


class _Position(NamedTuple):
    """How many lines were written, and the end of the file then."""

    written: int = 0
    inode: int = 0
    offset: int = 0

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> _Position:
        """The inverse of `_asdict`; the start if `value` is invalid."""
        try:
            return cls(int(value["written"]), int(value["inode"]), int(value["offset"]))
        except (ValueError, KeyError, TypeError):
            return cls()


def _line(record: Record) -> Tuple[str, bytes]:
    """The id of a record, and its line: flat, with the collector's names for fields."""
    data = cast("LogRecord", record.data)
    attributes, resource = data["attributes"], record.resource.attributes
    line: Dict[str, Any] = {
        "timestamp": _time(data["timeUnixNano"]),
        "severity": data["severityText"] or "INFO",
        "message": otlp_values.fit(data["body"]),
        "service": resource.get(names.SERVICE_NAME),
        "env": resource.get(names.DEPLOYMENT_ENVIRONMENT_NAME),
        "trace_id": data["traceId"],
        "span_id": data["spanId"],
    }
    if data.get("eventName"):
        line["event.name"] = data["eventName"]
    line["otel.scope.name"] = record.scope.name
    line.update(resource)
    for name, value in otlp_values.attributes(attributes).items():
        line[f"extra.{name}" if name in _RESERVED else name] = value
    return str(attributes[names.LOG_RECORD_UID]), _text(line).encode() + b"\n"


def _time(nanoseconds: int) -> str:
    """The time in ISO 8601 with microseconds; times after the year 9999 become its end."""
    try:
        at = _EPOCH + timedelta(microseconds=nanoseconds // 1_000)
    except OverflowError:
        at = datetime.max.replace(tzinfo=timezone.utc)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _text(value: Dict[str, Any]) -> str:
    """The value as JSON, which has neither NaN nor infinity (RFC 8259)."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _uid(line: bytes) -> str:
    try:
        return str(json.loads(line)[names.LOG_RECORD_UID])
    except (ValueError, KeyError, TypeError):
        return ""


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


def _end(path: Path) -> Tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_size


def _append(path: Path, data: bytes) -> None:
    """Append `data`, to a new file if it does not fit.

    Raises:
        OSError: the disk is full; a part may be written.
    """
    _, size = _end(path)
    if size and size + len(data) > MAX_BYTES:
        for number in reversed(range(MAX_FILES - 1)):
            older = _numbered(path, number)
            if older.exists():
                os.replace(older, _numbered(path, number + 1))
    with path.open("a+b", buffering=0) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                # Cut off by a kill; the next shipper of that run writes the record again.
                data = b"\n" + data
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock at `path`: shippers of other runs write to the same file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            # Without the lock, files may be rotated early; batches are still appended as a whole (O_APPEND).
            if error.errno not in layout.NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)
