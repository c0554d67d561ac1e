"""Metaflow's own log format: each line of its log files begins with a time and an id (metaflow/mflog/mflog.py)."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import NamedTuple, Optional

_LINE = re.compile(rb"(?:\[!)?\[MFLOG\|0\|(.+?)Z\|(.+?)\|(.+?)\](.*\n?)", re.DOTALL)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

RUNTIME = "runtime"
"""The source of lines that a launcher read; those that a container's own shell read are of `task`."""


class StoredLine(NamedTuple):
    """One line of Metaflow's log files: when it was read, in nanoseconds since 1970, its id, and its bytes."""

    at: Optional[int]
    source: str
    id: str
    data: bytes


def parse(line: bytes) -> Optional[StoredLine]:
    """A line of a log file, its newline included; None if it is not in that format, `at` is None if its time is not."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    time, source, identity, data = found.groups()
    return StoredLine(_nanoseconds(time), source.decode("utf-8", "replace"), identity.decode("utf-8", "replace"), data)


def _nanoseconds(text: bytes) -> Optional[int]:
    try:
        at = datetime.fromisoformat(text.decode("ascii")).replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return (at - _EPOCH) // timedelta(microseconds=1) * 1_000
