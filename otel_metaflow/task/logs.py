"""Sees every record that the `logging` module hands to handlers.

The tap sits at `logging.Logger.callHandlers`. A handler on the root logger would swallow `lastResort`,
turn the user's `basicConfig` into a no-op, miss loggers with `propagate=False` and be removed by
`dictConfig`; this sees the record wherever it goes and leaves the user's configuration alone.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import traceback
from typing import Any, Callable, Dict, Optional

from otel_metaflow.guard import contain, hidden, let_pass
from otel_metaflow.journal.layout import LOG, LONGEST_LINE
from otel_metaflow.journal.writer import quoted

_MOST_ATTRIBUTES = 128  # OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT's default
_DEEPEST = 6
_NUMBERS = (int, float, bool)
# Bound before user code runs, which may put others in their place.
_getpid, _dumps = os.getpid, json.dumps

# What every record has; the rest of its dictionary is the user's `extra`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class LoggingTap:
    """Writes each logging record to the journal, once, and knows when one is being handled."""

    def __init__(self, append_line: Callable[[str], None], mask: Callable[[str], str]) -> None:
        self._append_line = append_line
        self._mask = mask
        self._state = threading.local()
        self._pid = _getpid()

    def install(self) -> None:
        """Put the tap in place, for good: a task is one process and one attempt."""
        call_handlers = logging.Logger.callHandlers
        handle, handle_error = logging.Handler.handle, logging.Handler.handleError
        state = self._state

        def tapped_call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            state.noted = record
            self._try_note(record)
            call_handlers(logger, record)

        def tapped_handle(handler: logging.Handler, record: logging.LogRecord) -> Any:
            # Not callHandlers: a QueueListener calls the handlers from a thread of its own.
            if record.process and record.process != _getpid() and getattr(state, "noted", None) is not record:
                # Made by another process and handed to several handlers, one after the other.
                state.noted = record
                self._try_note(record)
            depth = getattr(state, "depth", 0)
            state.depth = depth + 1
            try:
                return handle(handler, record)
            finally:
                state.depth = depth

        def tapped_handle_error(handler: logging.Handler, record: logging.LogRecord) -> None:
            # What this prints is about the handler, and no part of the record.
            depth, state.depth = getattr(state, "depth", 0), 0
            try:
                handle_error(handler, record)
            finally:
                state.depth = depth

        for tapped in (tapped_call_handlers, tapped_handle, tapped_handle_error):
            # When a handler fails, logging shows where the user called it: the innermost frame that is not
            # of its own folder.
            tapped.__code__ = tapped.__code__.replace(co_filename=logging.__file__)
            hidden(tapped)
        logging.Logger.callHandlers = tapped_call_handlers  # type: ignore[assignment,method-assign]
        logging.Handler.handle = tapped_handle  # type: ignore[assignment,method-assign]
        logging.Handler.handleError = tapped_handle_error  # type: ignore[assignment,method-assign]

    def _try_note(self, record: logging.LogRecord) -> None:
        try:
            self._note(record)
        except Exception as error:  # noqa: BLE001 - logging must log, whatever we do
            contain(error)

    @property
    def is_handling(self) -> bool:
        """Whether this thread is inside a handler: what it prints now is a record seen already."""
        return getattr(self._state, "depth", 0) > 0

    def _note(self, record: logging.LogRecord) -> None:
        try:
            body = record.getMessage()
        except Exception as odd:  # noqa: BLE001 - a wrong format string is the user's; logging reports it, we keep the raw text
            let_pass(odd)
            body = f"{record.msg} {record.args!r}"
        line = (
            f'{{"kind":"{LOG}","timeUnixNano":{int(record.created * 1e9)},"severityNumber":{record.levelno},'
            f'"severityText":{quoted(str(record.levelname))},"logger":{quoted(self._mask(str(record.name)))},'
            f'"body":{quoted(self._text(body))},"thread":{quoted(str(record.threadName or ""))},'
            f'"file":{quoted(record.pathname)},"line":{record.lineno},"function":{quoted(str(record.funcName))}'
        )
        if len(body) > LONGEST_LINE:
            line += f',"length":{len(body)}'
        here = _getpid()
        process = record.process or here  # None with logging.logProcesses = False
        if process != self._pid:
            line += f',"pid":{process}'
            if process != here:
                # Sent here through a queue. A forked child has written it already, a spawned one has not:
                # the assembly, which sees both files' worth, keeps one.
                line += ',"forwarded":true'
        exception = self._exception(record)
        if exception:
            line += f',"exception":{_json(exception)}'
        # Comparing sizes first spares the scan of a plain record: __dict__ holds the standard names, perhaps
        # `message` and `asctime` from an earlier formatter, and then the extras.
        if len(record.__dict__) > len(_STANDARD) - 3:
            attributes = self._extras(record)
            if attributes:
                line += f',"attributes":{_json(attributes)}'
        self._append_line(line + "}")

    def _text(self, text: str) -> str:
        return self._mask(text[:LONGEST_LINE])

    def _exception(self, record: logging.LogRecord) -> Optional[Dict[str, str]]:
        info = record.exc_info
        if not info or info[0] is None:
            return None
        return describe_exception(info[1], self._text) if info[1] is not None else None

    def _extras(self, record: logging.LogRecord) -> Dict[str, Any]:
        attributes: Dict[str, Any] = {}
        for name, value in record.__dict__.items():
            if name not in _STANDARD and len(attributes) < _MOST_ATTRIBUTES:
                attributes[str(name)] = plain(value, self._text)
        return attributes


def describe_exception(error: BaseException, text: Callable[[str], str]) -> Dict[str, str]:
    """Type, message and stack trace of an exception, as the semantic conventions name them.

    https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-logs/
    """
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    try:
        message = str(error)
    except Exception as odd:  # noqa: BLE001 - the user's __str__ may be broken
        let_pass(odd)
        message = f"<{kind.__name__} without a readable message>"
    try:
        stack = "".join(traceback.format_exception(kind, error, error.__traceback__))
    except Exception as odd:  # noqa: BLE001 - formatting calls the user's __str__ and __repr__ too
        let_pass(odd)
        stack = ""
    if len(stack) > LONGEST_LINE:
        stack = stack[: LONGEST_LINE // 2] + "\n…\n" + stack[-LONGEST_LINE // 2 :]
    return {"type": f"{module}{kind.__qualname__}", "message": text(message), "stacktrace": text(stack)}


def plain(value: Any, text: Callable[[str], str], depth: int = 0) -> Any:
    """`value` as something that JSON can hold: numbers, strings, lists and maps keep their kind."""
    if value is None or value.__class__ in _NUMBERS:
        return value
    if isinstance(value, str):
        return text(value)
    if depth < _DEEPEST:
        if isinstance(value, dict):
            items = list(value.items())[:_MOST_ATTRIBUTES]
            return {str(name): plain(item, text, depth + 1) for name, item in items}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [plain(item, text, depth + 1) for item in list(value)[:_MOST_ATTRIBUTES]]
    try:
        return text(str(value))
    except Exception as odd:  # noqa: BLE001 - the user's __str__ may be broken
        let_pass(odd)
        return f"<{type(value).__name__}>"


def _json(value: Any) -> str:
    return _dumps(value, separators=(",", ":"), default=str)
