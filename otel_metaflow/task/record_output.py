"""Distinguishes a handler's output for a record from other text that is printed meanwhile.

A line that is dropped by mistake is lost, one that is kept by mistake is a duplicate of its record. So a line counts as
the record's output only if it equals the formatter's text, on the stream that the handler writes to; or if a library
that is known to format records in its own way wrote it from within the handler, and it contains the words of the
record.
"""

from __future__ import annotations

import logging
import re
import sys
from contextlib import suppress
from typing import Any, Dict, List, Optional

from otel_metaflow.core.long_lines import truncated
from otel_metaflow.core.stream_tap import as_read

# Libraries that write text of their own instead of the formatter's, by the first part of their modules' names.
_RENDERERS = ("rich", "loguru")
_MIN_CHARACTERS = 4
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Written:
    """The text that one handler is expected to write for one record, minus the lines that it has written."""

    def __init__(
        self, handler: logging.Handler, output: Optional[str], message: Optional[str], streams: Dict[str, Any]
    ) -> None:
        self._is_stream = isinstance(handler, logging.StreamHandler)
        self._streams = streams
        text = message if output is None else output
        self._lines: List[str] = [] if text is None else text.split("\n")[::-1]
        self._only: Optional[str] = None  # the stream that it writes to, if known
        if isinstance(handler, logging.FileHandler):
            self._lines = []
        elif self._is_stream:
            target = getattr(handler, "stream", None)
            self._only = next((name for name, stream in streams.items() if stream is target), None)
        self._drawn = "".join((message or text or "").split())
        self._has_begun = False

    def owns(self, stream: str, line: str, length: int) -> bool:
        """Whether a line is the next one expected; each is expected once."""
        if self._lines and self._only in (None, stream) and self._is_next(stream, line, length):
            self._lines.pop()
            return True
        return not self._is_stream and self._is_drawn(line)

    def _is_next(self, stream: str, line: str, length: int) -> bool:
        expected = self._lines[-1]
        with suppress(UnicodeEncodeError):
            expected = as_read(self._streams.get(stream), expected)
        if line == truncated(expected, len(expected)) and length == len(expected):
            return True
        if "\x1b" in line:
            line, expected = _COLOURS.sub("", line), _COLOURS.sub("", expected)
        if "\r" in line:  # written over a progress bar, or with a terminal's line ending
            line = line.rstrip("\r").rpartition("\r")[2]
        return line == expected.rstrip("\r")

    def _is_drawn(self, line: str) -> bool:
        """Whether a known library writes the record in this line, possibly in columns, wrapped or framed."""
        if not _is_called_by(_RENDERERS):
            return False
        row = "".join(_COLOURS.sub("", line).split())
        if not self._drawn:
            return self._has_begun  # a traceback in its frame
        length = _common(row, self._drawn)
        if length < min(len(self._drawn), _MIN_CHARACTERS):
            return self._has_begun and not row
        self._drawn = self._drawn[length:]
        self._has_begun = True
        return True


def _common(row: str, text: str) -> int:
    """The length of the longest prefix of `text` that `row` contains."""
    low, high = 0, min(len(row), len(text))
    while low < high:
        middle = (low + high + 1) // 2
        if text[:middle] in row:
            low = middle
        else:
            high = middle - 1
    return low


def _is_called_by(modules: Any) -> bool:
    """Whether a function of one of these modules is between here and the handler on the stack."""
    frame: Any = sys._getframe(1)  # noqa: SLF001 - as logging itself looks for its callers
    while frame is not None and frame.f_code.co_name != "tapped_handle":
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in modules:
            return True
        frame = frame.f_back
    return False
