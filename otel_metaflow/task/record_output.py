"""Tells a record's own text, which its handler writes, from whatever else is printed meanwhile.

A line that is dropped by mistake is lost, one that is kept by mistake arrives beside its record. So a
line counts as the record's output on proof alone: it is the very text that the formatter made, on the
stream that the handler writes to; or a library that is known to draw records its own way wrote it from
within the handler, and the record's words stand in it.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Dict, List, Optional

from otel_metaflow.core.long_lines import truncated

# Those that do not write the formatter's text but a text of their own, by the first part of their modules' names.
_RENDERERS = ("rich", "loguru")
_FEWEST_CHARACTERS = 4
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Written:
    """What one handler is expected to write of one record, less what it has written."""

    def __init__(
        self, handler: logging.Handler, output: Optional[str], message: Optional[str], streams: Dict[str, Any]
    ) -> None:
        self._is_stream = isinstance(handler, logging.StreamHandler)
        self._streams = streams
        text = message if output is None else output
        self._lines: List[str] = [] if text is None else text.split("\n")[::-1]
        self._only: Optional[str] = None  # the one stream that it writes to, where that is known
        if isinstance(handler, logging.FileHandler):
            self._lines = []
        elif self._is_stream:
            target = getattr(handler, "stream", None)
            self._only = next((name for name, stream in streams.items() if stream is target), None)
        self._drawn = "".join((message or text or "").split())
        self._has_begun = False

    def owns(self, stream: str, line: str, length: int) -> bool:
        """Whether a line is that, which it is only once."""
        if self._lines and self._only in (None, stream) and self._is_next(stream, line, length):
            self._lines.pop()
            return True
        return not self._is_stream and self._is_drawn(line)

    def _is_next(self, stream: str, line: str, length: int) -> bool:
        expected = self._lines[-1]
        if not expected.isascii():
            expected = self._as_read(stream, expected)
        if line == truncated(expected, len(expected)) and length == len(expected):
            return True
        if "\x1b" in line:
            line, expected = _COLOURS.sub("", line), _COLOURS.sub("", expected)
        if "\r" in line:  # drawn over a progress bar, or ended as terminals end lines
            line = line.rstrip("\r").rpartition("\r")[2]
        return line == expected.rstrip("\r")

    def _as_read(self, stream: str, text: str) -> str:
        """As the stream's encoding has it, see stdio.StreamTap."""
        to = self._streams.get(stream)
        try:
            data = text.encode(getattr(to, "encoding", None) or "utf-8", getattr(to, "errors", None) or "strict")
        except UnicodeEncodeError:
            return text
        return data.decode("utf-8", "replace")

    def _is_drawn(self, line: str) -> bool:
        """Whether a known library draws the record in this line, in columns perhaps, wrapped and framed."""
        if not _is_called_by(_RENDERERS):
            return False
        row = "".join(_COLOURS.sub("", line).split())
        if not self._drawn:
            return self._has_begun  # a traceback in its frame
        most = _common(row, self._drawn)
        if most < min(len(self._drawn), _FEWEST_CHARACTERS):
            return self._has_begun and not row
        self._drawn = self._drawn[most:]
        self._has_begun = True
        return True


def _common(row: str, text: str) -> int:
    """The length of the longest beginning of `text` that stands in `row`."""
    low, high = 0, min(len(row), len(text))
    while low < high:
        middle = (low + high + 1) // 2
        if text[:middle] in row:
            low = middle
        else:
            high = middle - 1
    return low


def _is_called_by(modules: Any) -> bool:
    """Whether one of these modules stands between here and the handler."""
    frame: Any = sys._getframe(1)  # noqa: SLF001 - as logging itself looks for its callers
    while frame is not None and frame.f_code.co_name != "tapped_handle":
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in modules:
            return True
        frame = frame.f_back
    return False
