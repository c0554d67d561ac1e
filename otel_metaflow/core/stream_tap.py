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

import codecs
import io
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
# Text streams that encode what they are given; others pass it on to one of these.
_ENCODERS = (io.TextIOWrapper, codecs.StreamWriter, codecs.StreamReaderWriter)


class Pipes:
    """Shared by the taps of one process: the files that the streams pointed to at first, and unfinished lines."""

    def __init__(self) -> None:
        self.names: Dict[File, str] = {}
        # By stream and thread, because `print` writes a text and its newline separately, and another thread may write
        # in between.
        self.begun: Dict[str, Dict[int, str]] = {}
        # By the same, how many characters of them were left out, if any.
        self.left_out: Dict[Tuple[str, int], int] = {}


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
        pipes.begun.setdefault(name, {})
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
            try:
                if isinstance(text, str):
                    self._note(text)
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

    def leads_to(self, file: Optional[File]) -> bool:
        """Whether it led to that file when it was tapped."""
        return file is not None and file == self._file

    def flush_line(self) -> None:
        """Report unfinished lines."""
        with self._lock:
            for thread in list(self._pipes.begun[self.name]):
                self._report("", self.name, thread)

    # Python calls this for each argument of each print, so it is one function, and what is rare is in others.
    def _note(self, text: str) -> None:
        name = self.name
        if self._file is not None:
            try:
                found = _fstat(self._descriptor)
            except OSError as error:
                if error.errno is None:  # not from the system: a TimeoutError raised by the user's alarm handler
                    raise
                return  # it is closed
            if found.st_ino != self._file[1] or found.st_dev != self._file[0]:
                file = found.st_dev, found.st_ino
                if file not in self._pipes.names:
                    return  # it points to neither stream
                name = self._pipes.names[file]
        if text.__class__ is not str:
            # A subclass may override __str__, but its own characters are written.
            text = str.__str__(text)
        thread = get_ident()
        if text == "\n":
            self._report("", name, thread)
            return
        if not text.isascii():
            text = as_read(self._stream, text)
        if "\n" in text:
            *ended, text = text.split("\n")
            for line in ended:
                self._report(line, name, thread)
        if text:
            begun = self._pipes.begun[name]
            text = begun.get(thread, "") + text
            begun[thread] = text if len(text) <= LONGEST_LINE else self._shortened(text, name, thread)

    def _shortened(self, begun: str, name: str, thread: int) -> str:
        short = shortened(begun)
        left_out = self._pipes.left_out
        left_out[name, thread] = left_out.get((name, thread), 0) + len(begun) - len(short)
        return short

    def _report(self, rest: str, name: str, thread: int) -> None:
        line = self._pipes.begun[name].pop(thread, "") + rest
        length = len(line)
        if self._pipes.left_out:
            length += self._pipes.left_out.pop((name, thread), 0)
        self._on_line(name, line if length <= LONGEST_LINE else truncated(line, length), length, self.name)

    def _begin_anew_in_children(self) -> None:
        """Have a forked child begin anew: a thread that is not there may hold the lock.

        What is called after a fork lives until the interpreter is gone. A method of ours would keep alive all that can
        be reached from here, whose taking down costs a task more than its imports do: 6 million instructions.
        """
        os.register_at_fork(after_in_child=self._pipes.begun[self.name].clear)
        os.register_at_fork(after_in_child=self._pipes.left_out.clear)
        os.register_at_fork(after_in_child=getattr(self._lock, "_at_fork_reinit", self._replace_lock))

    def _replace_lock(self) -> None:  # Python 3.8, and locks of others
        self._lock = threading.RLock()


def as_read(stream: Any, text: str) -> str:
    """The text as the launcher will read it: its bytes, in the stream's encoding, decoded as UTF-8.

    Raises:
        UnicodeEncodeError: the stream cannot encode the text.
    """
    data = text.encode(getattr(stream, "encoding", None) or "utf-8", getattr(stream, "errors", None) or "strict")
    return data.decode("utf-8", "replace")


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


def written_past(stream: Any, taps: Iterable[StreamTap]) -> str:
    """The tapped stream whose pipe another text stream writes to itself, rather than through the tapped one."""
    if isinstance(stream, _ENCODERS):
        file = _file(_descriptor(stream))
        for each in taps:
            if each.leads_to(file):
                return each.name
    return ""


def _try_tap(name: str, stream: Optional[TextIO], on_line: OnLine, pipes: Pipes) -> Optional[StreamTap]:
    if stream is None:
        return None
    try:
        return StreamTap(stream, name, on_line, pipes)
    except (AttributeError, TypeError):
        return None


def _descriptor(stream: Any) -> int:
    """The stream's descriptor, or -1."""
    try:
        return int(stream.fileno())
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
