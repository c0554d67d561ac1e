"""Observes what the handlers of the `logging` module do with each record.

It taps `logging.Logger.callHandlers` and methods that all handlers inherit. A handler of our own on the root logger
would disable `lastResort`, turn the user's `basicConfig` into a no-op, miss loggers with `propagate=False` and be
removed by `dictConfig`; this leaves the user's configuration alone.

What a handler shows is exported. A record counts once it has passed the level and the filters of a handler, as that
handler's filters left it and its formatter wrote it; a record that no handler accepted is not exported. So records are
only formatted by handlers, and the user's `__str__` runs as often as without us. A QueueHandler or a MemoryHandler only
forwards records; the handlers behind it decide.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from threading import get_ident
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple
from weakref import WeakKeyDictionary, ref

from otel_metaflow.core.guard import contain, hidden, hide_frames
from otel_metaflow.core.long_lines import LONGEST_LINE

if TYPE_CHECKING:
    from typing import Protocol

    from otel_metaflow.task.record_output import Written

    class Writer(Protocol):
        """Writes records; see record_writer.py, which a task without logging does not import."""

        def write(self, record: logging.LogRecord, handling: Handling, output: str = "") -> bool:
            """Write a record that a handler accepted; return whether with `output`, the line that it writes next."""

        def expected(self, handling: Handling) -> Written:
            """The text that the handler is expected to write for its record."""

        def next_to(self, handler: logging.Handler, output: str) -> str:
            """The stream that a handler will write to right after its formatter has returned `output`, or nothing."""

        def described(self, record: logging.LogRecord) -> Optional[Dict[str, str]]:
            """The exception of a record."""


_MAX_FORWARDED = 4_096
# What a line that is about to be written is to a record: none of its output; output of a record that is in the journal
# already; output that is in the journal now, with its record.
NOT_OWNED, COVERED, WITH_RECORD = range(3)
# The attributes of every record, taken before user code runs, which may change the record factory; others are `extra`.
STANDARD = frozenset(logging.makeLogRecord({}).__dict__)
# Of a handler whose `emit` is this one, nothing happens between the formatter's return and the write to its stream.
EMIT: Any = logging.StreamHandler.emit


class Passage:
    """One record on its way through the handlers, possibly through a queue."""

    __slots__ = ("exception", "key", "message", "record", "seen", "unclaimed")

    def __init__(self, record: Optional[logging.LogRecord]) -> None:
        self.record = record
        self.unclaimed = [True]  # emptied when it is written to the journal: `pop` is atomic
        self.message: Optional[str] = None  # its message, as made by a handler that only forwards it
        self.exception: Optional[Dict[str, str]] = None
        self.key: Any = None
        self.seen: List[logging.Handler] = []

    def claim(self) -> bool:
        """Whether it has not been written yet."""
        if not self.unclaimed:  # asked several times of each record, and an exception takes longer
            return False
        try:
            self.unclaimed.pop()
        except IndexError:
            return False
        return True


class Handling:
    """One handler at work on one record."""

    __slots__ = (
        "failed", "handler", "is_over", "message", "next_to", "only_forwards", "output", "passage", "record", "written"
    )  # fmt: skip

    def __init__(
        self, handler: logging.Handler, record: logging.LogRecord, passage: Passage, *, only_forwards: bool
    ) -> None:
        self.handler = handler
        self.record = record
        self.passage = passage
        self.only_forwards = only_forwards
        self.message: Optional[str] = None
        self.output: Optional[str] = None
        self.failed = False  # whether the record cannot be formatted
        self.written: Optional[Written] = None
        self.next_to = ""  # the stream that the formatter's output goes to at once
        self.is_over = False  # an asyncio task that was started meanwhile still has it in its context


class _Nothing:
    """What is expected of a handler that has written all of its output."""

    def owns(self, *_: Any) -> bool:
        """None of what it may still write."""
        return False


_NOTHING: Any = _Nothing()


class HandlerTap:
    """Has each record that a handler accepted written once; `make_writer` is called with the first of them."""

    def __init__(self, make_writer: Callable[[], Writer]) -> None:
        self._make_writer = make_writer
        self._made: Optional[Writer] = None
        # Not thread-local: under gevent, several pieces of user code share a thread.
        self._passing: ContextVar[Optional[Passage]] = ContextVar("passing", default=None)
        self._working: ContextVar[Optional[Handling]] = ContextVar("working", default=None)
        self._arrived: ContextVar[Optional[Tuple[Any, Passage]]] = ContextVar("arrived", default=None)
        self._kinds: WeakKeyDictionary[type, bool] = WeakKeyDictionary()  # of handlers: whether they only forward
        self._begun: Dict[Tuple[str, int], str] = {}  # by stream and thread: output of handlers that end no line
        self._forwarded: Dict[Any, List[Passage]] = {}  # from handlers that forward to those behind them

    @property
    def is_handling(self) -> bool:
        """Whether a handler is running in this context."""
        handling = self._working.get()
        return handling is not None and not handling.is_over

    def owns(self, stream: str, line: str, length: int, text: str) -> int:
        """What a line that is about to be written is to the record of the handler that is running, if there is one.

        A record that is not in the journal yet is written now, with the line as `text`.
        """
        handling = self._working.get()
        begun = self._begun.pop((stream, get_ident()), "") if self._begun else ""
        if handling is None or handling.is_over:
            return COVERED if begun and line == begun else NOT_OWNED
        if begun and line.startswith(begun):
            line, length = line[len(begun) :], length - len(begun)
        if handling.next_to == stream and handling.output == line:  # all of its output, as nearly always
            handling.written = _NOTHING
        else:
            if handling.written is None:
                handling.written = self._writer.expected(handling)
            if not handling.written.owns(stream, line, length):
                return NOT_OWNED
        handling.next_to = ""
        return WITH_RECORD if self._take(handling.record, handling, text) else COVERED

    @property
    def _writer(self) -> Writer:
        if self._made is None:
            self._made = self._make_writer()
        return self._made

    def install(self) -> None:
        """Install the tap, permanently: a task is one process and one attempt."""
        self._tap_handling()
        self._tap_formatting()

    def _tap_handling(self) -> None:
        handler_class: Any = logging.Handler
        call_handlers, handle = logging.Logger.callHandlers, handler_class.handle
        passing, working = self._passing, self._working
        is_finalizing = sys.is_finalizing  # globals of this module are gone during shutdown

        def tapped_call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            if is_finalizing():
                call_handlers(logger, record)
                return
            outer, passage = passing.get(), Passage(record)
            passing.set(passage)
            try:
                call_handlers(logger, record)
            finally:
                passing.set(outer)
                passage.record = None
                if passage.unclaimed:
                    self._take_overlooked(logger, record, passage)

        def tapped_handle(handler: logging.Handler, record: logging.LogRecord) -> Any:
            if is_finalizing():
                return handle(handler, record)
            outer = working.get()
            handling = self._begin(handler, record, outer)
            working.set(handling)
            taken: Any = True
            try:
                taken = handle(handler, record)
                return taken
            except BaseException as error:
                taken = not _is_of_filter(error)
                raise
            finally:
                working.set(outer)
                if handling is not None:
                    handling.is_over = True
                    if handling.next_to and handling.output:
                        self._begin_line(handling, handling.output)
                    if taken:
                        # Since Python 3.12 a filter may replace the record.
                        self._take(taken if isinstance(taken, logging.LogRecord) else record, handling)

        logging.Logger.callHandlers = _unseen(tapped_call_handlers)  # type: ignore[method-assign]
        handler_class.handle = _unseen(tapped_handle)

    def _tap_formatting(self) -> None:
        handler_class: Any = logging.Handler
        format_, handle_error = handler_class.format, handler_class.handleError
        get_message = logging.LogRecord.getMessage
        working, is_finalizing = self._working, sys.is_finalizing
        hide, exception = hide_frames, sys.exc_info

        def tapped_format(handler: logging.Handler, record: logging.LogRecord) -> Any:
            handling = None if is_finalizing() else working.get()
            if handling is None or handling.handler is not handler:
                return format_(handler, record)
            handling.failed = True
            output = format_(handler, record)
            handling.failed = False
            self._formatted(record, handling, output)
            return output

        def tapped_get_message(record: logging.LogRecord) -> str:
            message = get_message(record)
            handling = None if is_finalizing() else working.get()
            if handling is not None and type(message) is str and handling.message != message:
                handling.message = message
                if handling.output is None:
                    handling.written = None
            return message

        def tapped_handle_error(handler: logging.Handler, record: logging.LogRecord) -> None:
            hide(exception()[1])
            handle_error(handler, record)

        handler_class.format = _unseen(tapped_format)
        handler_class.handleError = _unseen(tapped_handle_error)
        logging.LogRecord.getMessage = _unseen(tapped_get_message)  # type: ignore[method-assign]

    def _begin(
        self, handler: logging.Handler, record: logging.LogRecord, outer: Optional[Handling]
    ) -> Optional[Handling]:
        try:
            passage = self._passing.get()
            if passage is None or passage.record is not record:
                passage = self._arrival(record)
            elif outer is not None and outer.only_forwards and outer.passage is passage:
                self._forget(passage)  # forwarded immediately, by a full buffer
            passage.seen.append(handler)
            kind = type(handler)
            only_forwards = self._kinds.get(kind)
            if only_forwards is None:
                only_forwards = self._kinds[kind] = _only_forwards(handler)
            handling = Handling(handler, record, passage, only_forwards=only_forwards)
            if handling.only_forwards:
                self._send(record, passage)
        except Exception as error:  # noqa: BLE001 - logging must not fail because of us
            contain(error)
            return None
        return handling

    def _formatted(self, record: logging.LogRecord, handling: Handling, output: Any) -> None:
        """Write the record to the journal before the handler writes its output, or have it written with that."""
        try:
            is_first, handling.output = (
                handling.output is None,
                str.__str__(output) if isinstance(output, str) else None,
            )
            handling.written = None
            if handling.only_forwards:
                # Its copy of the record has the formatted text, but no exception.
                handling.passage.message = handling.message
                handling.passage.exception = self._writer.described(record)
            elif handling.output is not None and is_first:  # a handler of files formats before it begins another, too
                handling.next_to = self._writer.next_to(handling.handler, handling.output)
        except Exception as error:  # noqa: BLE001 - logging must not fail because of us
            contain(error)
        if not handling.next_to:
            self._take(record, handling)

    def _begin_line(self, handling: Handling, output: str) -> None:
        """Remember output that came to no line, if that is because the handler's terminator ends none."""
        end, at = getattr(handling.handler, "terminator", "\n"), (handling.next_to, get_ident())
        if type(end) is str and "\n" not in end:
            begun = self._begun.get(at, "") + output + end
            self._begun[at] = begun if len(begun) <= LONGEST_LINE else ""

    def _take(self, record: logging.LogRecord, handling: Handling, output: str = "") -> bool:
        """Write a record, unless that has been done; return whether with `output`."""
        is_with = False
        if handling.only_forwards:
            return is_with
        try:
            if handling.passage.claim():
                is_with = self._writer.write(record, handling, output)
                if handling.output is None and handling.message is None:
                    # It has not been formatted yet: the handler may keep it, and forward it to another handler later.
                    self._send(record, handling.passage)
        except Exception as error:  # noqa: BLE001 - logging must not fail because of us
            contain(error)
        return is_with

    def _take_overlooked(self, logger: Optional[logging.Logger], record: logging.LogRecord, passage: Passage) -> None:
        """Take a record that only handlers with their own `handle` method have seen, which is not tapped."""
        try:
            while logger is not None:
                for handler in logger.handlers:
                    is_own = getattr(handler.handle, "__func__", None) is not logging.Handler.handle
                    is_nothing = isinstance(handler, logging.NullHandler) or handler in passage.seen
                    if is_own and not is_nothing and record.levelno >= handler.level:
                        self._take(record, Handling(handler, record, passage, only_forwards=_only_forwards(handler)))
                logger = logger.parent if logger.propagate else None
        except Exception as error:  # noqa: BLE001 - logging must not fail because of us
            contain(error)

    def _send(self, record: logging.LogRecord, passage: Passage) -> None:
        """Remember a record that another handler may handle later, or a copy of it."""
        passage.key = _key(record)
        while len(self._forwarded) >= _MAX_FORWARDED:
            self._forwarded.pop(next(iter(self._forwarded)), None)
        self._forwarded.setdefault(passage.key, []).append(passage)

    def _forget(self, passage: Passage) -> None:
        passages = self._forwarded.get(passage.key, [])
        if passage in passages:
            passages.remove(passage)
        passage.key = None

    def _arrival(self, record: logging.LogRecord) -> Passage:
        """The passage of a record that arrives from a queue or a buffer, possibly for several handlers."""
        last = self._arrived.get()
        if last is not None and last[0]() is record:
            return last[1]
        passages = self._forwarded.get(_key(record))
        passage = passages.pop(0) if passages else Passage(None)
        if not passages:
            self._forwarded.pop(_key(record), None)
        self._arrived.set((ref(record), passage))
        return passage


def _unseen(tapped: Any) -> Any:
    """A function that logging skips when it looks for its caller, the innermost frame outside its own file."""
    tapped.__code__ = tapped.__code__.replace(co_filename=logging.__file__)
    return hidden(tapped)


def _key(record: logging.LogRecord) -> Any:
    key = record.created, record.process, record.thread, record.name, record.lineno, record.levelno
    return key if all(isinstance(part, (str, int, float, type(None))) for part in key) else repr(id(record))


def _only_forwards(handler: logging.Handler) -> bool:
    handlers: Any = sys.modules.get("logging.handlers")
    return handlers is not None and isinstance(handler, (handlers.QueueHandler, handlers.MemoryHandler))


def _is_of_filter(error: BaseException) -> bool:
    """Whether a filter raised, so that the handler did not accept the record."""
    frame: Any = error.__traceback__
    for _ in range(2):  # ours, then that of logging.Handler.handle
        frame = frame and frame.tb_next
    return frame is not None and frame.tb_frame.f_code.co_name == "filter"
