"""Appends records to a journal so that they outlive the process that wrote them.

One `os.write` a record on a descriptor opened with O_APPEND: threads and forked children write whole
lines without a lock, and what was written survives a kill (it is in the page cache, not in ours).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence

from otel_metaflow.core import clock

# Journals are parked on high descriptor numbers: user code that closes "all" descriptors and opens a
# file of its own gets the lowest free number, and our lines must never land in that file.
_LOWEST_DESCRIPTOR = 200

# Bound before user code runs, which may put others in their place.
_open, _write, _dumps = os.open, os.write, json.dumps

quoted: Callable[[str], str] = encode_basestring_ascii
"""A string as JSON, escaped to ASCII, so that lone surrogates can be written too."""


def _parked(descriptor: int) -> int:
    try:
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LOWEST_DESCRIPTOR)
    except OSError:  # the limit on descriptors is lower than that
        return descriptor
    os.close(descriptor)
    return high


class Journal:
    """One journal, open for appending; `on_failure` is called once, when the disk takes no more."""

    def __init__(self, path: Path, on_failure: Callable[[OSError], None], most_bytes: Optional[int] = None) -> None:
        """Open `path`, which is created for its owner alone; beyond `most_bytes` lines and logs are given up.

        Raises:
            OSError: the file cannot be opened.
        """
        self.path = path
        self.unwritten: Dict[str, int] = {}  # how many records of each kind
        self._on_failure = on_failure
        self._torn = False
        self._left = sys.maxsize if most_bytes is None else most_bytes
        self._descriptor = _parked(_open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def append(self, kind: str, fields: Dict[str, Any]) -> None:
        """Append one record, stamped with the time unless `fields` say when."""
        record = {"kind": kind, "timeUnixNano": clock.now(), **fields}
        self._write(_dumps(record, separators=(",", ":"), default=str))

    def append_line(self, line: str) -> None:
        """Append one line or log that is already JSON, without its newline."""
        self._left -= len(line)
        if self._left < 0:
            self._give_up(OSError(errno.EFBIG, "OTEL_METAFLOW_JOURNAL_MAX_MB is reached"), line.split("\n"))
            return
        self._write(line)

    def append_lines(self, lines: Sequence[str]) -> None:
        """Append many lines or logs with one call to the system."""
        self.append_line("\n".join(lines))

    def _write(self, line: str) -> None:
        data = (line + "\n").encode("ascii", "backslashreplace")
        if self._torn:
            # End what a full disk cut off, or this record would be lost with it.
            data = b"\n" + data
        try:
            written = self._written(data)
        except OSError as error:
            if error.errno is None:  # not of the system: a TimeoutError of the user's own alarm
                raise
            self._give_up(error, line.split("\n"))
            return
        whole = data.count(b"\n", int(self._torn), written)
        self._torn = written < len(data)
        if self._torn:
            self._give_up(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), line.split("\n")[whole:])

    def _written(self, data: bytes) -> int:
        try:
            return _write(self._descriptor, data)
        except OSError as error:
            if error.errno != errno.EBADF or self._descriptor < 0:
                raise
        # User code closed all descriptors, ours with them, as programs that become daemons do.
        self._descriptor = _parked(_open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return _write(self._descriptor, data)

    def _give_up(self, error: OSError, lines: Sequence[str]) -> None:
        is_first = not self.unwritten
        for line in lines:
            kind = line.split('"', 4)[3]  # the first key of every record
            self.unwritten[kind] = self.unwritten.get(kind, 0) + 1
        if is_first:
            self._on_failure(error)

    def close(self) -> None:
        """Close the descriptor; what is appended afterwards is lost."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
