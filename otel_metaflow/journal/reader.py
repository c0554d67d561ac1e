"""Reads journals while they are being written, including incomplete and damaged ones."""

from __future__ import annotations

import json
import re
from collections import deque
from pathlib import Path
from typing import Any, Deque, Dict, Iterator, NamedTuple, Optional, Tuple

from otel_metaflow.core import otlp_values
from otel_metaflow.journal import layout, records

# Bytes read at a time: enough to be fast, and the limit of a reader's memory.
CHUNK = 1 << 18
# Not `json.loads`, which detects the encoding and skips white space first: that takes as long as the rest.
_decode = json.JSONDecoder().raw_decode
_USER_TELEMETRY = tuple(f'{{"kind":"{kind}"'.encode() for kind in (layout.SPAN, layout.METRIC))
LINE_HEAD = f'{{"kind":"{layout.LINE}","timeUnixNano":'.encode()
"""How a line begins that writer.py or raw_journal.py has recorded."""
# Of those whose time has nineteen digits, as it has from 2001 to 2262: where it ends.
_TIME_END = len(LINE_HEAD) + 19
_OUTPUT_HEAD = b'"output":{"timeUnixNano":'
_COVERED_END = b',"covered":true}'
# Printable ASCII in a string without escapes, times and numbers that need no check.
_PLAIN, _TIME, _NUMBER = r'"([ !#-\[\]-~]*)"', "([1-8][0-9]{0,18})", "(0|[1-9][0-9]{0,8})"
_LINE_FIELDS = f'"timeUnixNano":{_TIME},"stream":{_PLAIN},"body":{_PLAIN}'
_SIMPLE_LINE = re.compile(f'{{"kind":"{layout.LINE}",{_LINE_FIELDS}}}').fullmatch
_SIMPLE_LOG = re.compile(
    f'{{"kind":"{layout.LOG}","timeUnixNano":{_TIME},"severityNumber":{_NUMBER},"severityText":{_PLAIN},'
    f'"logger":{_PLAIN},"body":{_PLAIN},"thread":{_PLAIN},"file":{_PLAIN},"line":{_NUMBER},"function":{_PLAIN}'
    f'(?:,"output":{{{_LINE_FIELDS}}})?}}'
).fullmatch
_NUMEROUS = (*(f'{{"kind":"{kind}"'.encode() for kind in (layout.LINE, layout.LOG, layout.RECORD)), *_USER_TELEMETRY)


# The journal does not exist, or is not a file of ours: a folder, or another user's.
_NO_JOURNAL = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


Unparsed = Tuple[bytes, int, int]
"""A line of a journal, with the offsets of its start and of the next one."""


class Entry(NamedTuple):
    """One record, with the offsets of its start and of the next record."""

    record: Dict[str, Any]
    start: int
    end: int


def read_chunk(path: Path, offset: int, limit: int = CHUNK) -> bytes:
    """About `limit` bytes of the file at `path` from `offset`; if a single line is longer, all of it that there is.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(limit)
        while data and b"\n" not in data:
            more = file.read(limit)
            if not more:
                break
            data += more
    return data


class Tail:
    """Follows one journal from an offset, line by line."""

    def __init__(
        self, path: Path, offset: int = 0, *, facts_only: bool = False, only: str = "", counted: int = 0
    ) -> None:
        """Start at `offset`.

        With `facts_only`, skip the numerous kinds (lines, logs, telemetry of user code) without parsing them; with
        `only`, skip all other kinds. Corrupt lines before `counted` were counted by an earlier reader.
        """
        self.path = path
        self.offset = offset
        self.corrupt = 0
        self.skipped_to = 0
        """With `facts_only`: the end of the last span or metric of user code that was skipped."""
        self._facts_only = facts_only
        self._only = f'{{"kind":"{only}"'.encode() if only else b""
        self._counted = counted
        self._damage: Deque[int] = deque()

    def read(self, limit: int = CHUNK) -> Iterator[Entry]:
        """Yield the records in at most about `limit` bytes, advancing past each.

        A line that is not a record is skipped and counted in `corrupt`. Data after the last newline is an unfinished
        record and is left for the next call.
        """
        for line, start, end in self.unparsed(limit):
            record = self.parsed(line, start)
            if record is not None:
                yield Entry(record, start, end)

    def unparsed(self, limit: int = CHUNK) -> Iterator[Unparsed]:
        """Yield the same records as lines, for `parsed`, which must be called in their order."""
        try:
            data = read_chunk(self.path, self.offset, limit)
        except _NO_JOURNAL:
            return
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].split(b"\n")[:-1]:
            start, self.offset = self.offset, self.offset + len(line) + 1
            if self._facts_only and line.startswith(_NUMEROUS):
                if line.startswith(_USER_TELEMETRY):
                    self.skipped_to = self.offset
                continue
            if self._only and not line.startswith(self._only):
                continue
            yield line, start, self.offset

    def parsed(self, line: bytes, start: int) -> Optional[Dict[str, Any]]:
        """The record on a line; None if it is none, which is counted."""
        record = parse(line)
        if record is None and line and start >= self._counted:
            self.corrupt += 1
            self._damage.append(start)
        return record

    def corrupt_before(self, offset: int) -> int:
        """The number of corrupt lines before `offset`, which must not decrease between calls."""
        while self._damage and self._damage[0] < offset:
            self._damage.popleft()
        return self.corrupt - len(self._damage)

    def at_end(self) -> bool:
        """Whether no complete line is left to read."""
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
    """The record on `line`, with fields of the types in records.py, or None if it is not a record."""
    simple = _SIMPLE.get(line[:_KIND_END])
    if simple is not None:
        found = simple(line)
        if found is not None:
            return found
    try:
        text = line.decode()
        record, end = _decode(text)
        if b"\\ud" in line or b"\\uD" in line:
            record = _whole(record)
    except (ValueError, RecursionError):
        return None
    return records.check(record) if end == len(text) else None


def _simple_line(line: bytes) -> Optional[Dict[str, Any]]:
    """The same as by JSON, in a third of the time, of a line as nearly all are."""
    match = _SIMPLE_LINE(line.decode("latin-1"))
    if match is None:
        return None
    at, stream, body = match.groups()
    return {"kind": layout.LINE, "timeUnixNano": int(at), "stream": stream, "body": body}


def _simple_log(line: bytes) -> Optional[Dict[str, Any]]:
    """The same, of a logging record."""
    match = _SIMPLE_LOG(line.decode("latin-1"))
    if match is None:
        return None
    at, severity, level, logger, body, thread, file, number, function, output_at, stream, output = match.groups()
    record = {
        "kind": layout.LOG,
        "timeUnixNano": int(at),
        "severityNumber": int(severity),
        "severityText": level,
        "logger": logger,
        "body": body,
        "thread": thread,
        "file": file,
        "line": int(number),
        "function": function,
    }
    if output_at is not None:
        record["output"] = {"timeUnixNano": int(output_at), "stream": stream, "body": output}
    return record


# By how a record begins.
_KIND_END = len(f'{{"kind":"{layout.LINE}"')
_SIMPLE = {f'{{"kind":"{layout.LINE}"'.encode(): _simple_line, f'{{"kind":"{layout.LOG}",'.encode(): _simple_log}


def same_line(line: bytes) -> bytes:
    """What the records of a line that was reported and read have in common, as bytes; nothing of another record.

    That is their fields but for the time, and for those that only a report has.
    """
    if line[: len(LINE_HEAD)] == LINE_HEAD:
        at = _TIME_END if line[len(LINE_HEAD) : _TIME_END].isdigit() else len(line)
        return line[at : -len(_COVERED_END)] + b"}" if line.endswith(_COVERED_END) else line[at:]
    # Last in the record of a logging record. In a string, its quotes would be escaped.
    at = line.rfind(_OUTPUT_HEAD)
    return line[at + len(_OUTPUT_HEAD) + 19 : -1] if at > 0 and line[-2:] == b"}}" else b""


def _whole(value: Any) -> Any:
    """`value` with U+FFFD for each lone surrogate."""
    if isinstance(value, str):
        return otlp_values.whole(value)
    if isinstance(value, dict):
        return {_whole(name): _whole(item) for name, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


def facts(path: Path) -> Iterator[Dict[str, Any]]:
    """All records of `path` except lines, logs and telemetry of user code."""
    tail = Tail(path, facts_only=True)
    before = -1
    while tail.offset != before:
        before = tail.offset
        for entry in tail.read():
            yield entry.record
