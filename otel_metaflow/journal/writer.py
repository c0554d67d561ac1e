"""Appends records to a journal so that they survive the process that wrote them.

Each record is one `os.write` on a descriptor opened with O_APPEND: threads and forked children write complete lines
without a lock, and what was written survives a kill, because it is in the kernel's page cache.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from contextlib import suppress
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence

from otel_metaflow.core import clock

# Journals use high descriptor numbers: if user code closes "all" descriptors and opens a file, that file gets the
# lowest free number, and our lines must never be written to it.
_MIN_DESCRIPTOR = 200

# Bound before user code runs, which may replace them; for modules that are imported later, too.
_open, _write = os.open, os.write
dumps, loads, getpid = json.dumps, json.loads, os.getpid

quoted: Callable[[str], str] = encode_basestring_ascii
"""A string as JSON, escaped to ASCII, so that lone surrogates can be written, too."""


def _moved_up(descriptor: int) -> int:
    try:
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _MIN_DESCRIPTOR)
    except OSError:  # the process may not open that many descriptors
        return descriptor
    os.close(descriptor)
    return high


class Journal:
    """One journal, open for appending; `on_failure` is called once, at the first record that cannot be written."""

    def __init__(
        self,
        path: Path,
        on_failure: Callable[[OSError], None],
        max_bytes: Optional[int] = None,
        *,
        is_held: bool = False,
    ) -> None:
        """Open `path`, readable by its owner only; beyond `max_bytes`, lines and logs are dropped.

        If `is_held`, other machines on the same volume can see that this process lives (processes.py, `is_held`).

        Raises:
            OSError: the file cannot be opened.
        """
        self.path = path
        self.unwritten: Dict[str, int] = {}  # how many records of each kind
        self._on_failure = on_failure
        self._torn = False
        self._left = sys.maxsize if max_bytes is None else max_bytes
        self._is_held = is_held
        self._descriptor = self._opened()

    def _opened(self) -> int:
        descriptor = _moved_up(_open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if self._is_held:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return descriptor

    def append(self, kind: str, fields: Dict[str, Any]) -> None:
        """Append one record, with the current time unless `fields` have one."""
        record = {"kind": kind, "timeUnixNano": clock.now(), **fields}
        self._write(dumps(record, separators=(",", ":"), default=str))

    def append_line(self, line: str) -> None:
        """Append one line or log record given as JSON, without its newline."""
        self._left -= len(line)
        if self._left < 0:
            self._drop(OSError(errno.EFBIG, "OTEL_METAFLOW_JOURNAL_MAX_MB is reached"), line.split("\n"))
            return
        self._write(line)

    def append_lines(self, lines: Sequence[str]) -> None:
        """Append many lines or log records with one system call."""
        self.append_line("\n".join(lines))

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode("ascii", "backslashreplace")
        was_torn = self._torn
        if was_torn:
            # End the record that was cut off by a full disk, or this one would be corrupt, too.
            data = b"\n" + data
        try:
            try:
                written = _write(self._descriptor, data)
            except OSError as error:
                written = self._written_anew(data, error)
        except OSError as error:
            if error.errno is None:  # not from the system: a TimeoutError raised by the user's alarm handler
                raise
            self._drop(error, line.split("\n"))
            return
        self._torn = written < len(data)
        if self._torn:
            whole = data.count(b"\n", int(was_torn), written)
            self._drop(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), line.split("\n")[whole:])

    def _written_anew(self, data: bytes, error: OSError) -> int:
        """Write to the journal opened again: user code closed all descriptors, as daemons do."""
        if error.errno != errno.EBADF or self._descriptor < 0:
            raise error
        self._descriptor = self._opened()
        return _write(self._descriptor, data)

    def _drop(self, error: OSError, lines: Sequence[str]) -> None:
        is_first = not self.unwritten
        for line in lines:
            kind = line.split('"', 4)[3]  # the first key of every record
            self.unwritten[kind] = self.unwritten.get(kind, 0) + 1
        if is_first:
            self._on_failure(error)

    def close(self) -> None:
        """Close the descriptor; records appended afterwards are lost."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
