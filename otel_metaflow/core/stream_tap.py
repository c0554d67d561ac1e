"""Sees what a process writes to stdout and stderr, without standing in the way.

Only the `write` of the two stream objects is replaced, on the instances: `sys.stdout` stays the object
it was, a handler or a library that kept a reference from before is seen as well, and nothing between
the program and its pipe changes: the same bytes, the same system calls, at the same time.

What this cannot see (C code, subprocesses, `sys.stdout.buffer`) is in the raw stream that Metaflow's
launcher reads; `otel_metaflow.model.subtraction` takes one from the other. A report is therefore a promise
that the line goes through the pipe, and each write first looks where its descriptor leads: libraries
silence noisy code with `os.dup2`, and what they silence is on nobody's output.
"""

from __future__ import annotations

import os
import sys
import threading
from threading import get_ident
from typing import Any, Callable, Dict, Iterable, List, Optional, TextIO, Tuple

from otel_metaflow.core.guard import contain, hidden
from otel_metaflow.core.long_lines import LONGEST_LINE, kept, shortened

# Into which stream it goes, the line (what is kept of it), its full length in characters, by which stream object.
OnLine = Callable[[str, str, int, str], None]
# st_dev and st_ino: what a descriptor leads to, by whatever number.
Place = Tuple[int, int]

# Bound before user code runs, which may put others in their place.
_fstat = os.fstat


class Pipes:
    """What the taps of one process have in common: where their streams led at first, and lines that were begun."""

    def __init__(self) -> None:
        self.names: Dict[Place, str] = {}
        # By stream and thread, for `print` writes a text and its newline apart, and another thread may write
        # between; with what is kept of each line, how long it is.
        self.begun: Dict[Tuple[str, int], Tuple[str, int]] = {}


class StreamTap:
    """Reports each whole line that is written to one stream, before it is written.

    Before, because then whoever reads the raw stream finds the report already in the journal. The lock
    spans report and write, so that reports stand in the order of the stream.

    A text is reported of the stream into which its descriptor leads when it is written (stdout is stderr
    after `os.dup2(2, 1)`), and of none if it leads elsewhere. A task's streams hold nothing back (Metaflow
    sets PYTHONUNBUFFERED); where user code gives them a buffer, the descriptor may be another one by the
    time that is flushed.
    """

    def __init__(self, stream: TextIO, name: str, on_line: OnLine, pipes: Pipes) -> None:
        self.name = name
        self.is_muted = False
        self._stream = stream
        self._on_line = on_line
        self._descriptor = _descriptor(stream)
        self._place = _place(self._descriptor)
        if self._place is not None:
            pipes.names.setdefault(self._place, name)
        self._pipes = pipes
        self._write = stream.write
        # While the interpreter is taken down user code may still print, from `__del__`. What names of this module
        # stand for is gone by then, and a daemon thread may be stopped for good that holds the lock.
        self._is_finalizing = sys.is_finalizing
        self._lock = threading.RLock()
        stream.write = self.write  # type: ignore[method-assign]  # the point of this class
        stream.writelines = self.writelines  # type: ignore[method-assign]  # C code would bypass write
        os.register_at_fork(after_in_child=self._after_fork)

    @hidden
    def write(self, text: str) -> int:
        """Stand in for the stream's own `write`."""
        if self.is_muted or self._is_finalizing():
            return self._write(text)
        with self._lock:
            if isinstance(text, str):
                try:
                    name = self._leads_to()
                    if name is not None:
                        # The characters of a subclass, which may print otherwise, are what is written.
                        self._note(text if text.__class__ is str else str.__str__(text), (name, get_ident()))
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
            for whose in list(self._pipes.begun):
                if whose[0] == self.name:
                    self._report("", whose)

    def _leads_to(self) -> Optional[str]:
        """The stream into which the descriptor leads now, None if into none that is known, or if it is closed."""
        if self._place is None:
            return self.name
        place = _place(self._descriptor)
        if place == self._place:
            return self.name
        return self._pipes.names.get(place) if place is not None else None

    def _note(self, text: str, whose: Tuple[str, int]) -> None:
        if text == "\n":
            self._report("", whose)
            return
        if not text.isascii():
            text = self._as_read(text)
        if "\n" not in text:
            self._begin(text, whose)
            return
        *ended, begun = text.split("\n")
        for line in ended:
            self._report(line, whose)
        self._begin(begun, whose)

    def _as_read(self, text: str) -> str:
        """The text as UTF-8 shows its bytes, for so the launcher reads them, whatever the stream's encoding.

        Raises:
            UnicodeEncodeError: the stream cannot hold the text.
        """
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        data = text.encode(encoding, getattr(self._stream, "errors", None) or "strict")
        return data.decode("utf-8", "replace")

    def _begin(self, text: str, whose: Tuple[str, int]) -> None:
        if not text:
            return
        begun, length = self._pipes.begun.get(whose, ("", 0))
        begun, length = begun + text, length + len(text)
        self._pipes.begun[whose] = (begun if length <= LONGEST_LINE else shortened(begun), length)

    def _report(self, rest: str, whose: Tuple[str, int]) -> None:
        begun, length = self._pipes.begun.pop(whose, ("", 0))
        line, length = begun + rest, length + len(rest)
        self._on_line(whose[0], kept(line, length), length, self.name)

    def _after_fork(self) -> None:
        """Begin anew in a forked child: a thread that is not there may hold the lock."""
        self._lock = threading.RLock()
        self._pipes.begun.clear()


def tap(streams: Iterable[Any], on_line: OnLine) -> List[StreamTap]:
    """Tap those of stdout and stderr, given as (name, stream), that can be tapped.

    Give those that the process began with (`sys.__stdout__`): what user code puts in their place may change
    its lines or keep them for itself. One without settable attributes is left alone; its lines are in the
    raw stream all the same.
    """
    taps: List[StreamTap] = []
    pipes = Pipes()
    for name, stream in streams:
        made = _try_tap(name, stream, on_line, pipes)
        if made is not None:
            taps.append(made)
    return taps


def _try_tap(name: str, stream: Optional[TextIO], on_line: OnLine, pipes: Pipes) -> Optional[StreamTap]:
    if stream is None:
        return None
    try:
        return StreamTap(stream, name, on_line, pipes)
    except (AttributeError, TypeError):
        return None


def _descriptor(stream: TextIO) -> int:
    """The stream's descriptor, -1 if it has none."""
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):
        return -1


def _place(descriptor: int) -> Optional[Place]:
    """Where a descriptor leads, None if it is closed."""
    try:
        found = _fstat(descriptor)
    except OSError as error:
        if error.errno is None:  # not of the system: a TimeoutError of the user's own alarm
            raise
        return None
    return found.st_dev, found.st_ino
