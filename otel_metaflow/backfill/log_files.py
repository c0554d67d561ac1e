"""Metaflow's log files of an attempt as lines in the order of their times."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from otel_metaflow.core import mflog

STREAMS = ("stdout", "stderr")
_SOURCES = ("runtime", "task")  # metaflow/mflog/__init__.py, LOG_SOURCES
# What the launcher itself notes at the end of the stderr of a task that failed (metaflow/runtime.py, Worker.terminate).
_NOTES = (b"Task failed.", b"Task failed with a segmentation fault.")


class Line(NamedTuple):
    """One line: when it was read, its stream, source and id, its bytes with their newline if they have one."""

    at: int
    stream: str
    source: str
    id: str
    data: bytes

    @property
    def is_note(self) -> bool:
        """Whether the launcher wrote it, rather than the task: the last one of the file, without a newline."""
        return self.source == mflog.RUNTIME and self.stream == "stderr" and self.data in _NOTES


def names(attempt: int) -> list[str]:
    """The names of an attempt's log files."""
    return [f"{attempt}.{source}_{stream}.log" for source in _SOURCES for stream in STREAMS]


def lines(files: Mapping[str, Path], attempt: int, began: int) -> Iterator[Line]:
    """The lines of those of the attempt's log files that are among `files`, which has them by their names.

    Lines without a time have that of the line before, or when the attempt `began`, in nanoseconds since 1970.
    """
    parts = [
        _lines(files[name], source, stream, began)
        for source in _SOURCES
        for stream in STREAMS
        if (name := f"{attempt}.{source}_{stream}.log") in files
    ]
    return heapq.merge(*parts, key=lambda line: line.at)


def _lines(file: Path, source: str, stream: str, at: int) -> Iterator[Line]:
    with file.open("rb") as opened:
        for number, data in enumerate(opened):
            found = mflog.parse(data)
            if found is None:
                # Text of an old version, or what stands for the rest of a file that was too long.
                yield Line(at, stream, source, f"{source}-{stream}-{number}", data)
                continue
            at = found.at or at
            yield Line(at, stream, found.source, found.id, found.data)
