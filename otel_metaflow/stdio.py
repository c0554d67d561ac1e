"""Sees what a process writes to stdout and stderr, without standing in the way.

Only the `write` of the two stream objects is replaced, on the instances: `sys.stdout` stays the object
it was, a handler or a library that kept a reference from before is seen as well, and nothing between
the program and its pipe changes: the same bytes, the same system calls, at the same time.

What this cannot see (C code, subprocesses, `sys.stdout.buffer`) is in the raw stream that Metaflow's
launcher reads; `otel_metaflow.assembly.lines` takes one from the other.
"""

from __future__ import annotations

import os
import threading
from threading import get_ident
from typing import Any, Callable, Dict, Iterable, List, Optional, TextIO, Tuple

from otel_metaflow.guard import contain, hidden
from otel_metaflow.journal.layout import LONGEST_LINE

# stream name, the line (cut at LONGEST_LINE), its full length in characters
OnLine = Callable[[str, str, int], None]


class StreamTap:
    """Reports each whole line that is written to one stream, before it is written.

    Before, because then whoever reads the raw stream finds the report already in the journal. The lock
    spans report and write, so that reports stand in the order of the stream.
    """

    def __init__(self, stream: TextIO, name: str, on_line: OnLine) -> None:
        self.name = name
        self.is_muted = False
        self._stream = stream
        self._on_line = on_line
        self._write = stream.write
        self._lock = threading.RLock()
        # By thread, for `print` writes a text and its newline apart, and another thread may write between.
        self._begun: Dict[int, Tuple[str, int]] = {}
        stream.write = self.write  # type: ignore[method-assign]  # the point of this class
        stream.writelines = self.writelines  # type: ignore[method-assign]  # C code would bypass write
        os.register_at_fork(after_in_child=self._after_fork)

    @hidden
    def write(self, text: str) -> int:
        """Stand in for the stream's own `write`."""
        if self.is_muted:
            return self._write(text)
        with self._lock:
            if isinstance(text, str):
                try:
                    # The characters of a subclass, which may print otherwise, are what is written.
                    self._note(text if text.__class__ is str else str.__str__(text))
                except UnicodeEncodeError:
                    pass  # the stream cannot hold it and will raise, having written nothing
                except Exception as error:  # noqa: BLE001 - a print must print, whatever we do
                    contain(error)
            return self._write(text)

    @hidden
    def writelines(self, lines: Iterable[str]) -> None:
        """Stand in for the stream's own `writelines`."""
        for line in lines:
            self.write(line)

    def flush_line(self) -> None:
        """Report lines that were begun and never ended."""
        with self._lock:
            for thread in list(self._begun):
                self._report("", thread)

    def _note(self, text: str) -> None:
        thread = get_ident()
        if text == "\n":
            self._report("", thread)
            return
        if not text.isascii():
            text = self._as_read(text)
        if "\n" not in text:
            self._begin(text, thread)
            return
        *ended, begun = text.split("\n")
        for line in ended:
            self._report(line, thread)
        self._begin(begun, thread)

    def _as_read(self, text: str) -> str:
        """The text as UTF-8 shows its bytes, for so the launcher reads them, whatever the stream's encoding.

        Raises:
            UnicodeEncodeError: the stream cannot hold the text.
        """
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        data = text.encode(encoding, getattr(self._stream, "errors", None) or "strict")
        return data.decode("utf-8", "replace")

    def _begin(self, text: str, thread: int) -> None:
        if not text:
            return
        begun, length = self._begun.get(thread, ("", 0))
        if length < LONGEST_LINE:
            begun += text[:LONGEST_LINE]
        self._begun[thread] = (begun, length + len(text))

    def _report(self, rest: str, thread: int) -> None:
        begun, length = self._begun.pop(thread, ("", 0))
        line, length = begun + rest, length + len(rest)
        self._on_line(self.name, line if length <= LONGEST_LINE else line[:LONGEST_LINE], length)

    def _after_fork(self) -> None:
        """Begin anew in a forked child: a thread that is not there may hold the lock."""
        self._lock = threading.RLock()
        self._begun = {}


def tap(streams: Iterable[Any], on_line: OnLine) -> List[StreamTap]:
    """Tap those of stdout and stderr, given as (name, stream), that can be tapped.

    Give those that the process began with (`sys.__stdout__`): what user code puts in their place may change
    its lines or keep them for itself. One without settable attributes is left alone; its lines are in the
    raw stream all the same.
    """
    taps: List[StreamTap] = []
    for name, stream in streams:
        made = _try_tap(name, stream, on_line)
        if made is not None:
            taps.append(made)
    return taps


def _try_tap(name: str, stream: Optional[TextIO], on_line: OnLine) -> Optional[StreamTap]:
    if stream is None:
        return None
    try:
        return StreamTap(stream, name, on_line)
    except (AttributeError, TypeError):
        return None
