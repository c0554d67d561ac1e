"""Writes logging records to the journal, each as the first handler that accepted it showed it.

Imported with the first record, so that a task without logging does not pay for it. User code has run by then, so
functions of the standard library that it may have replaced are taken from modules that were imported before.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, Callable, Dict, Optional, Tuple

from otel_metaflow.core import clock
from otel_metaflow.core.guard import let_pass
from otel_metaflow.core.long_lines import LONGEST_LINE
from otel_metaflow.core.secrets import MASK
from otel_metaflow.journal.layout import LOG
from otel_metaflow.journal.writer import dumps, getpid, loads, quoted
from otel_metaflow.task.bounded_values import as_json, plain
from otel_metaflow.task.exceptions import describe_exception, shown_exception
from otel_metaflow.task.handler_tap import EMIT, STANDARD, Handling
from otel_metaflow.task.record_output import Written

# The attributes of records without `extra`.
_STANDARD = STANDARD | {"message", "asctime", "taskName"}
_MANDATORY = len(STANDARD)
# Passed by structlog.stdlib.ProcessorFormatter.wrap_for_formatter to its formatter in `extra`.
_STRUCTLOG = frozenset({"_logger", "_name", "_from_structlog", "_record"})
# Whose handlers write what their formatters return.
_EMITTERS = ("logging", "logging.handlers")
_MESSAGES = ("event", "message", "msg")
_SLACK = 4_096  # characters beyond the limit, so that a secret that would be cut by it is masked
_MAX_COMPARED = LONGEST_LINE + _SLACK
_MAX_TIME = 9_223_372_036  # seconds since 1970 that fit a record's time in nanoseconds
_PLAIN = (str, int, float, bool, type(None))


class RecordWriter:
    """Writes the records of one attempt."""

    def __init__(
        self,
        append_line: Callable[[str], None],
        mask: Callable[[str], str],
        streams: Dict[str, Any],
        pid: int,
        before_output: Callable[[Any, str], None],
    ) -> None:
        """`streams` are stdout and stderr as the process `pid`, the attempt's, began with them.

        `before_output` is called with another stream and the text that a handler is about to write to it.
        """
        self._append_line = append_line
        self._mask = mask
        self._streams = streams
        self._pid = pid
        self._before_output = before_output

    def next_to(self, handler: logging.Handler, output: str) -> str:
        """The stream that a handler will write to right after its formatter has returned `output`, or nothing.

        If it is another that leads to the same pipe, its lines are reported now, because no tap will see them.
        """
        emit: Any = type(handler).emit
        stream = handler.__dict__.get("stream")
        for name, each in self._streams.items():
            if each is stream:
                return name if emit is EMIT else ""
        if emit.__module__ in _EMITTERS:
            with suppress(UnicodeEncodeError):  # the handler will not write anything
                self._before_output(stream, output)
        return ""

    def expected(self, handling: Handling) -> Written:
        """What a handler is expected to write of its record."""
        return Written(handling.handler, handling.output, handling.message, self._streams)

    def described(self, record: logging.LogRecord) -> Optional[Dict[str, str]]:
        """The exception of a record."""
        return self._exception(record, _Shown(None, ""))

    def write(self, record: logging.LogRecord, handling: Handling, output: str = "") -> bool:
        """Write a record as a handler's filters left it, and as it was handled.

        `output` is the line that the handler is about to write, as the fields of its own record. Returns whether it was
        written with the record.
        """
        passage = handling.passage
        message = _message(record, handling)
        shown = _Shown(handling.output, passage.message if passage.message is not None else message)
        body = shown.text
        fields: Dict[Any, Any] = {}
        given: Any = record.msg
        if issubclass(type(given), dict):
            body, fields = _split(shown.of(given), body)
        here = getpid()
        line = (
            f'{{"kind":"{LOG}","timeUnixNano":{_nanoseconds(record)},"severityNumber":{_integer(record.levelno)},'
            f'"severityText":{quoted(str(record.levelname))},"logger":{quoted(self._mask(str(record.name)))},'
            f'"body":{quoted(self._text(body))},"thread":{quoted(str(record.threadName or ""))},'
            f'"file":{quoted(str(record.pathname))},"line":{_integer(record.lineno)},'
            f'"function":{quoted(str(record.funcName))}'
        )
        if len(body) > LONGEST_LINE:
            line += f',"length":{len(body)}'
        process = record.process or here  # None with logging.logProcesses = False
        if process != self._pid:
            line += f',"pid":{_integer(process)}'
            if process != here:
                # It came through a queue. A forked child has already written it, a spawned one has not; the shipper
                # drops the duplicate.
                line += ',"forwarded":true'
                output = ""  # which is this process's, and the record another's
        exception = self._exception(record, shown)
        if exception is None and passage.exception is not None:
            exception = passage.exception
            if not shown.has(exception["stacktrace"].rstrip("\n")):
                exception = {"type": exception["type"]}
        if exception:
            line += f',"exception":{as_json(exception)}'
        # Comparing sizes first avoids scanning a record without `extra`.
        held = record.__dict__
        if fields or len(held) - ("message" in held) - ("asctime" in held) != _MANDATORY:
            attributes, cut = plain(self._attributes(record, fields, shown, handling.handler), self._mask)
            if attributes:
                line += f',"attributes":{as_json(attributes)}'
            if cut:
                line += f',"attributesTruncated":{cut}'
        self._append_line(f'{line},"output":{{{output}}}}}' if output else line + "}")
        return bool(output)

    def _text(self, text: str) -> str:
        return self._mask(text[: LONGEST_LINE + _SLACK])[:LONGEST_LINE]

    def _exception(self, record: logging.LogRecord, shown: _Shown) -> Optional[Dict[str, str]]:
        info = record.exc_info
        if not isinstance(info, tuple) or not isinstance(info[1], BaseException):
            return None
        stack = record.exc_text if isinstance(record.exc_text, str) else ""
        if shown.output is None:
            return describe_exception(info[1], self._text, stack)
        return shown_exception(info[1], self._text, stack, shown.has, shown.output)

    def _attributes(
        self, record: logging.LogRecord, fields: Dict[Any, Any], shown: _Shown, handler: logging.Handler
    ) -> Any:
        """The fields of a message and the user's `extra`, as (name, value)."""
        is_wrapped = issubclass(type(record.msg), dict)
        extras = {
            name: value
            for name, value in record.__dict__.items()
            if name not in _STANDARD and not (is_wrapped and name in _STRUCTLOG)
        }
        if shown.output is not None and extras:
            form = str(getattr(getattr(handler, "formatter", None), "_fmt", ""))
            fields_shown = shown.fields
            extras = {name: shown.value(name, value, form, fields_shown) for name, value in extras.items()}
        yield from dict.items(fields)
        yield from ((name, value) for name, value in extras.items() if name not in fields)


class _Shown:
    """What a handler shows of a record: its formatter may mask or omit parts of it."""

    def __init__(self, output: Optional[str], message: Optional[str]) -> None:
        self.output = output
        self._message = message
        self._is_whole = message is None or self.has(message)

    @property
    def fields(self) -> Optional[Dict[str, Any]]:
        """The fields of the output, if the formatter writes JSON."""
        return _object(self.output)

    @property
    def text(self) -> str:
        """The message, or the formatter's output if that has another message."""
        if self._message is not None and (self._is_whole or self.output is None):
            return self._message
        return self.output or ""

    def has(self, text: str) -> bool:
        """Whether a text is in the output, as it is or as a JSON string; of a long text, its truncated form."""
        if self.output is None or self.output.endswith(text):
            return True
        if len(text) > _MAX_COMPARED:
            return self.has(text[:_MAX_COMPARED]) and self.has(text[-_MAX_COMPARED:])
        if text in self.output:
            return True
        return quoted(text)[1:-1] in self.output or dumps(text, ensure_ascii=False)[1:-1] in self.output

    def of(self, fields: Dict[Any, Any]) -> Dict[Any, Any]:
        """The fields of a message that may be exported: those in the output, or all if the output has their text."""
        shown = self.fields
        if shown is not None and any(type(name) is str and name in shown for name in dict.keys(fields)):
            return shown
        name = _named(fields)
        return fields if (self._is_whole if name is None else self.has(fields[name])) else {}

    def value(self, name: str, value: Any, form: str, fields: Optional[Dict[str, Any]]) -> Any:
        """The value of an `extra`, or the output's value if that differs."""
        if fields is not None and name in fields:
            return fields[name]
        if type(value) is str and value and not self.has(value):
            is_used = any(f"{begin}{name}" in form for begin in ("%(", "{", "${", "$"))
            if is_used or (not self._is_whole and value in (self._message or "")):
                return MASK
        return value


def _message(record: logging.LogRecord, handling: Handling) -> Optional[str]:
    """The record's message as made by a handler's formatter, or made here if no handler made one."""
    if handling.message is not None:
        return str.__str__(handling.message)
    if handling.failed:
        return _raw(record)
    if handling.output is not None:
        # A formatter of the user's that does not call getMessage.
        message = record.__dict__.get("message", None if record.args else record.msg)
        return message if type(message) is str else None
    try:
        return str(record.getMessage())
    except Exception as odd:  # noqa: BLE001 - the user's format string is wrong; use the raw text
        let_pass(odd)
        return _raw(record)


def _integer(value: Any) -> int:
    """A number; 0 if a program has made a record with another value."""
    return int(value) if isinstance(value, int) else 0


def _nanoseconds(record: logging.LogRecord) -> int:
    created = record.created
    is_time = isinstance(created, (int, float)) and 0 < created < _MAX_TIME
    return int(created * 1e9) if is_time else clock.now()


def _raw(record: logging.LogRecord) -> str:
    """Message and arguments of a record that cannot be formatted, without running user code."""
    arguments = record.args if isinstance(record.args, tuple) else (record.args,)
    parts = [repr(each) if type(each) in _PLAIN else f"<{type(each).__qualname__}>" for each in arguments[:16]]
    message = record.msg if type(record.msg) in _PLAIN else f"<{type(record.msg).__qualname__}>"
    return f"{message} ({', '.join(parts)}{',' if len(parts) == 1 else ''})" if parts else f"{message}"


def _object(output: Optional[str]) -> Optional[Dict[str, Any]]:
    if output is None or output[:1] != "{" or len(output) > LONGEST_LINE:
        return None
    try:
        found = loads(output)
    except (ValueError, RecursionError):
        return None
    return found if type(found) is dict else None


def _named(fields: Dict[Any, Any]) -> Optional[str]:
    return next((name for name in _MESSAGES if type(dict.get(fields, name)) is str), None)


def _split(fields: Dict[Any, Any], body: str) -> Tuple[str, Dict[Any, Any]]:
    """The text of a message that is a mapping, and its other fields."""
    name = _named(fields)
    if name is None:
        return body, fields
    return fields[name], {key: value for key, value in dict.items(fields) if key != name}
