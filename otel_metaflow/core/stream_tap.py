"""Observes what a process writes to stdout and stderr, without changing it.

Only `write` of the two stream objects is replaced, on the instances: `sys.stdout` remains the same object, handlers and
libraries with an earlier reference to it are covered, and the program still writes the same bytes with the same system
calls at the same time.

What cannot be observed here (C code, subprocesses, `sys.stdout.buffer`) is in the raw stream that Metaflow's launcher
reads; `otel_metaflow.model.subtraction` subtracts one from the other. So a line may only be reported if it goes through
the pipe, and each write first checks where its descriptor points: libraries silence noisy code with `os.dup2`, and that
text reaches no output.
"""

from __future__ import annotations

import os
import sys
import threading
from threading import get_ident
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Optional, TextIO, Tuple

from otel_metaflow.core.guard import contain, hidden
from otel_metaflow.core.long_lines import LONGEST_LINE, shortened, truncated

if TYPE_CHECKING:
    # The stream that it goes to, the line (truncated), its full length in characters, the stream object that it came
    # from.
    OnLine = Callable[[str, str, int, str], None]
    # st_dev and st_ino: the file that a descriptor points to.
    File = Tuple[int, int]

# Bound before user code runs, which may replace it.
_fstat = os.fstat


class Pipes:
    """Shared by the taps of one process: the files that the streams pointed to at first, and unfinished lines."""

    def __init__(self) -> None:
        self.names: Dict[File, str] = {}
        # By stream and thread, because `print` writes a text and its newline separately, and another thread may write
        # in between; each with its full length.
        self.begun: Dict[Tuple[str, int], Tuple[str, int]] = {}


class StreamTap:
    """Reports each complete line that is written to one stream, before it is written.

    Before, so that the report is already in the journal when the launcher reads the raw stream. The lock covers report
    and write, so that reports have the order of the stream.

    Text is reported for the stream that its descriptor points to when it is written (stdout is stderr after
    `os.dup2(2, 1)`), and not reported if it points elsewhere. A task's streams are unbuffered (Metaflow sets
    PYTHONUNBUFFERED); if user code adds a buffer, the descriptor may have changed when that is flushed.
    """

    def __init__(self, stream: TextIO, name: str, on_line: OnLine, pipes: Pipes) -> None:
        self.name = name
        self.is_muted = False
        self._stream = stream
        self._on_line = on_line
        self._descriptor = _descriptor(stream)
        self._file = _file(self._descriptor)
        if self._file is not None:
            pipes.names.setdefault(self._file, name)
        self._pipes = pipes
        self._write = stream.write
        # During interpreter shutdown, user code may still print from `__del__`. The globals of this module are gone by
        # then, and a stopped daemon thread may hold the lock.
        self._is_finalizing = sys.is_finalizing
        self._lock = threading.RLock()
        stream.write = self.write  # type: ignore[method-assign]  # the point of this class
        stream.writelines = self.writelines  # type: ignore[method-assign]  # C code would bypass write
        self._begin_anew_in_children()

    @hidden
    def write(self, text: str) -> int:
        """Stand in for the stream's own `write`."""
        if self.is_muted or self._is_finalizing():
            return self._write(text)
        with self._lock:
            if isinstance(text, str):
                try:
                    name = self._target()
                    if name is not None:
                        # A subclass may override __str__, but its own characters are written.
                        self._add(text if text.__class__ is str else str.__str__(text), (name, get_ident()))
                except UnicodeEncodeError:
                    pass  # the stream cannot encode it and will raise without writing anything
                except Exception as error:  # noqa: BLE001 - a print must not fail because of us
                    contain(error)
            return self._write(text)

    @hidden
    def writelines(self, lines: Iterable[str]) -> None:
        """Stand in for the stream's own `writelines`."""
        for line in lines:
            self.write(line)

    def flush_line(self) -> None:
        """Report unfinished lines."""
        with self._lock:
            for whose in list(self._pipes.begun):
                if whose[0] == self.name:
                    self._report("", whose)

    def _target(self) -> Optional[str]:
        """The stream that the descriptor points to now; None if it is closed or points to neither stream."""
        if self._file is None:
            return self.name
        file = _file(self._descriptor)
        if file == self._file:
            return self.name
        return self._pipes.names.get(file) if file is not None else None

    def _add(self, text: str, whose: Tuple[str, int]) -> None:
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
        """The text as the launcher will read it: its bytes, in the stream's encoding, decoded as UTF-8.

        Raises:
            UnicodeEncodeError: the stream cannot encode the text.
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
        self._on_line(whose[0], truncated(line, length), length, self.name)

    def _begin_anew_in_children(self) -> None:
        """Have a forked child begin anew: a thread that is not there may hold the lock.

        What is called after a fork lives until the interpreter is gone. A method of ours would keep alive all that can
        be reached from here, whose taking down costs a task more than its imports do: 6 million instructions.
        """
        os.register_at_fork(after_in_child=self._pipes.begun.clear)
        os.register_at_fork(after_in_child=getattr(self._lock, "_at_fork_reinit", self._replace_lock))

    def _replace_lock(self) -> None:  # Python 3.8, and locks of others
        self._lock = threading.RLock()


def tap(streams: Iterable[Any], on_line: OnLine) -> List[StreamTap]:
    """Tap stdout and stderr, given as pairs (name, stream).

    Pass the original streams (`sys.__stdout__`): a replacement set by user code may change or swallow lines. A stream
    without settable attributes is not tapped; its lines are in the raw stream anyway.
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
    """The stream's descriptor, or -1."""
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):
        return -1


def _file(descriptor: int) -> Optional[File]:
    """The file that a descriptor points to, or None if it is closed."""
    try:
        found = _fstat(descriptor)
    except OSError as error:
        if error.errno is None:  # not from the system: a TimeoutError raised by the user's alarm handler
            raise
        return None
    return found.st_dev, found.st_ino
