"""Log records as JSON lines in a folder, for agents that read files: a Datadog Agent, a Splunk forwarder.

All runs write into DIR/metaflow.jsonl, one after the other by a lock. At 64 MiB it becomes metaflow.jsonl.1,
that .2 and so on up to .9: names that `*.jsonl` does not match, so that an agent reads nothing twice.

How far a run's journals were written out is noted in its folder after each write. What was written but
not noted, because the shipper was killed in between, is found in the file by the records' own ids.
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
from otel_metaflow.journal.ledger import Changes, Ledger
from otel_metaflow.model.following import Following
from otel_metaflow.shipper.convert.events import Events
from otel_metaflow.shipper.convert.logs import LogRecords
from otel_metaflow.shipper.log_feed import LogFeed, Progress
from otel_metaflow.shipper.telemetry import LogRecord, Record

NAME = "metaflow.jsonl"
MOST_BYTES = 64 << 20
MOST_FILES = 10
LEDGER = "log-files.ledger"
_LOCK = ".lock"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# What is written at a time, in bytes: the bound on what is kept in memory.
_BATCH = 1_000_000
# Fields of a line besides attributes; an attribute of such a name would overwrite one.
_RESERVED = frozenset(
    ("timestamp", "severity", "message", "service", "env", "version", "host", "source", "trace_id", "span_id", "status")
)


class Files:
    """Writes the log records of one run."""

    def __init__(self, directory: Path, following: Following, records: LogRecords, events: Events) -> None:
        """`directory` is made if need be."""
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
        self._waiting: Optional[_Batch] = None
        # Records that stand in the files though it was not noted, and whether there may be more of them.
        self._unnoted: Set[str] = set()
        self._is_unsure = True

    def feed(self) -> bool:
        """Write what there is; whether anything was."""
        batch = self._waiting or self._next()
        if not batch.lines:
            return False
        self._waiting = batch
        try:
            self._write(batch)
        except OSError as error:
            self._is_unsure = True
            self.trouble = f"cannot be written into {self._directory} ({error.strerror})"
            return False
        self.trouble = ""
        self.written = self._position.written
        self._waiting = None
        return True

    def at_end(self) -> bool:
        """Whether all that is in the journals now was written."""
        return self._waiting is None and self._logs.is_read()

    def _next(self) -> _Batch:
        batch = _Batch()
        with closing(self._logs.pending(batch.progress)) as pending:
            for record, _ in pending:
                uid, line = _line(record)
                batch.lines.append((uid, line))
                batch.size += len(line)
                if batch.size >= _BATCH:
                    break
        if not batch.lines and batch.progress.changes:
            self._ledger.take(batch.progress.changes)
        return batch

    # Writing the files

    def _write(self, batch: _Batch) -> None:
        """Write the batch and note that it is.

        Raises:
            OSError: not all of it could be written, or it could not be noted.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with _locked(self._directory / _LOCK):
            if self._is_unsure:
                if self._ledger.status:
                    self._unnoted |= self._look()
                else:
                    self._note(Changes(), 0)
                self._is_unsure = False
            new = b"".join(line for uid, line in batch.lines if uid not in self._unnoted)
            _append(self._directory / NAME, new)
            self._note(batch.progress.changes, len(batch.lines))

    def _note(self, changes: Changes, count: int) -> None:
        """Note that `count` more lines are written, and where the file ends now.

        Raises:
            OSError: the disk takes no more.
        """
        position = _Position(self._position.written + count, *_end(self._directory / NAME))
        self._ledger.append(changes, position._asdict())
        self._position = position

    def _look(self) -> Set[str]:
        """The ids of this run's records that stand behind the place that was noted last."""
        mine = _text({names.RUN_ID: self._run.key.run})[1:-1].encode()
        found: Set[str] = set()
        for number in range(MOST_FILES):
            path = _numbered(self._directory / NAME, number)
            if not path.exists():
                break
            with path.open("rb") as file:
                is_noted = os.fstat(file.fileno()).st_ino == self._position.inode
                if is_noted:
                    file.seek(self._position.offset)
                for line in file:
                    if mine in line and line.endswith(b"\n"):
                        found.add(_uid(line))
            if is_noted:
                break
        return found


class _Batch:
    """Lines to write with their ids, and how far the journals are written out with them."""

    def __init__(self) -> None:
        self.lines: List[Tuple[str, bytes]] = []
        self.size = 0
        self.progress = Progress()


class _Position(NamedTuple):
    """How many lines were written, and where the file ended then."""

    written: int = 0
    inode: int = 0
    offset: int = 0

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> _Position:
        """The inverse of `_asdict`; of nothing, where `value` is none."""
        try:
            return cls(int(value["written"]), int(value["inode"]), int(value["offset"]))
        except (ValueError, KeyError, TypeError):
            return cls()


def _line(record: Record) -> Tuple[str, bytes]:
    """The id of a record, and its line: named as the collector names things, flat, as agents want it."""
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
    """The time in ISO 8601, with whole microseconds; the last that there is of one beyond the year 9999."""
    try:
        at = _EPOCH + timedelta(microseconds=nanoseconds // 1_000)
    except OverflowError:
        at = datetime.max.replace(tzinfo=timezone.utc)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _text(value: Dict[str, Any]) -> str:
    """The value as JSON, which knows neither NaN nor infinity (RFC 8259)."""
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
        OSError: the disk takes no more; a part may be written.
    """
    _, size = _end(path)
    if size and size + len(data) > MOST_BYTES:
        for number in reversed(range(MOST_FILES - 1)):
            older = _numbered(path, number)
            if older.exists():
                os.replace(older, _numbered(path, number + 1))
    with path.open("a+b", buffering=0) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                # Of a shipper that was killed while it wrote; its next one writes the record again.
                data = b"\n" + data
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock at `path`: shippers of other runs write into the same file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            # Without it, files may turn over early; batches are appended whole all the same (O_APPEND).
            if error.errno not in layout.NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)
