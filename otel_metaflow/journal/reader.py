"""Reads journals while they are written, half-written ones and damaged ones included."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any, Deque, Dict, Iterator, NamedTuple, Optional

from otel_metaflow.core import otlp_values
from otel_metaflow.journal import layout, records

# How much is read at a time: enough to be quick, and the bound on what a reader keeps in memory.
CHUNK = 1 << 18
# Not `json.loads`, which looks for the encoding and for white space first: that takes as long as the rest.
_decode = json.JSONDecoder().raw_decode
_SAID = tuple(f'{{"kind":"{kind}"'.encode() for kind in (layout.SPAN, layout.METRIC))
_PASSED = (*(f'{{"kind":"{kind}"'.encode() for kind in (layout.LINE, layout.LOG, layout.RECORD)), *_SAID)


# There is none, or what is there is no file of ours: a folder, or another user's.
_NO_JOURNAL = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


class Entry(NamedTuple):
    """One record, and where the next one begins."""

    record: Dict[str, Any]
    start: int
    end: int


class Tail:
    """Follows one journal from an offset, a whole line at a time."""

    def __init__(
        self, path: Path, offset: int = 0, *, facts_only: bool = False, only: str = "", counted: int = 0
    ) -> None:
        """Begin at `offset`.

        With `facts_only`, pass over what may be many, lines, logs and what user code said, without the cost
        of parsing it; with `only`, over all other kinds. What is corrupt before `counted` was counted by an
        earlier reader.
        """
        self.path = path
        self.offset = offset
        self.corrupt = 0
        self.said = 0
        """With `facts_only`: where the last span or metric of user code ended that was passed over."""
        self._facts_only = facts_only
        self._only = f'{{"kind":"{only}"'.encode() if only else b""
        self._counted = counted
        self._damage: Deque[int] = deque()

    def read(self, limit: int = CHUNK) -> Iterator[Entry]:
        """Yield the records of at most about `limit` bytes and move on past each.

        A line that is not one of ours is skipped and counted in `corrupt`. What follows the last newline
        is not yet a record and stays for the next call.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(limit)
                # A single record may be longer than a chunk: read on until it ends or the file does.
                while data and b"\n" not in data:
                    more = file.read(limit)
                    if not more:
                        return
                    data += more
        except _NO_JOURNAL:
            return
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].split(b"\n")[:-1]:
            start, self.offset = self.offset, self.offset + len(line) + 1
            if self._facts_only and line.startswith(_PASSED):
                if line.startswith(_SAID):
                    self.said = self.offset
                continue
            if self._only and not line.startswith(self._only):
                continue
            record = parse(line)
            if record is not None:
                yield Entry(record, start, self.offset)
            elif line and start >= self._counted:
                self.corrupt += 1
                self._damage.append(start)

    def corrupt_before(self, offset: int) -> int:
        """How many corrupt lines were met before `offset`, which only grows from call to call."""
        while self._damage and self._damage[0] < offset:
            self._damage.popleft()
        return self.corrupt - len(self._damage)

    def at_end(self) -> bool:
        """Whether nothing whole is left to read now."""
        try:
            if self.path.stat().st_size <= self.offset:
                return True
            with self.path.open("rb") as file:
                file.seek(self.offset)
                while chunk := file.read(CHUNK):
                    if b"\n" in chunk:
                        return False
        except _NO_JOURNAL:
            pass
        return True


def parse(line: bytes) -> Optional[Dict[str, Any]]:
    """The record on `line`, its fields of the types that records.py tells, or None where there is none."""
    try:
        text = line.decode()
        record, end = _decode(text)
        if b"\\ud" in line or b"\\uD" in line:
            record = _whole(record)
    except (ValueError, RecursionError):
        return None
    return records.check(record) if end == len(text) else None


def _whole(value: Any) -> Any:
    """`value` with the replacement character for each half of one."""
    if isinstance(value, str):
        return otlp_values.whole(value)
    if isinstance(value, dict):
        return {_whole(name): _whole(item) for name, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


def facts(path: Path) -> Iterator[Dict[str, Any]]:
    """All records of `path` but lines, logs and what user code said through OpenTelemetry."""
    tail = Tail(path, facts_only=True)
    before = -1
    while tail.offset != before:
        before = tail.offset
        for entry in tail.read():
            yield entry.record
