"""Converts records of the journal to log records."""

from __future__ import annotations

import re
import time
from typing import Any, Dict, Optional, Tuple

from otel_metaflow.core import long_lines, names, otlp_values
from otel_metaflow.core.redaction import Redaction
from otel_metaflow.core.version import __version__
from otel_metaflow.journal import layout
from otel_metaflow.model import structured
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.shipper.convert import user_telemetry
from otel_metaflow.shipper.convert.resources import Resources, Source
from otel_metaflow.shipper.telemetry import LogRecord, Record, Scope

_STDIO = Scope(names.SCOPE_STDIO, __version__)
_LAUNCHER = Scope(names.SCOPE_LAUNCHER, __version__)
# SeverityNumber of OTLP, https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
_INFO, _FATAL4 = 9, 24
_NUL = "\x00"
_REPLACEMENT = "\ufffd"
# Such as 2026-11-23 09:29:20.693 [12/start/1 (pid 14466)] Task is starting. (metaflow/cli.py, logger)
_MESSAGE = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (?:\[([^/\]]+)/([^/\]]+)/([^/\] ]+)(?: \(pid \d+\))?\] )?"
)


class LogRecords:
    """Makes the log records of one run."""

    def __init__(self, run: Run, resources: Resources, redact: str = "") -> None:
        self._run = run
        self._resources = resources
        self._redaction = Redaction(redact)

    def of_attempt(self, attempt: Attempt, record: Dict[str, Any], uid: str) -> Record:
        """The log record of a line, of a logging record, or of one of the logs API, of an attempt."""
        source = self._resources.source(attempt)
        attributes: Dict[str, Any] = {names.LOG_RECORD_UID: f"{source.span_id}-{uid}"}
        if record["kind"] == layout.LOG:
            return self._of_logging(record, attributes, source)
        if record["kind"] == layout.RECORD:
            return self._of_api(record, attributes, source)
        return self._of_line(record, attributes, source, _STDIO)

    def of_launcher(self, record: Dict[str, Any], uid: str) -> Record:
        """The log record of a line of the launcher, which may be about an attempt."""
        source = self._resources.source(None)
        attributes: Dict[str, Any] = {names.LOG_RECORD_UID: f"{source.span_id}-{uid}"}
        body = str(record.get("body", ""))
        message = _MESSAGE.match(body)
        if message:
            record = {**record, "body": body[message.end() :]}
            if message.group(2):
                attributes[names.STEP_NAME] = message.group(2)
                attributes[names.TASK_ID] = message.group(3)
        return self._of_line(record, attributes, source, _LAUNCHER)

    def plain(self, attempt: Optional[Attempt], record: Dict[str, Any], uid: str) -> Record:
        """A record that cannot be converted completely, as a plain line; without `attempt` it is the launcher's."""
        source = self._resources.source(attempt)
        body, marks = _clean(self._masked(record, source), None)
        made = _made(record, source, {names.LOG_RECORD_UID: f"{source.span_id}-{uid}", **marks}, body)
        return Record(source.resource, _LAUNCHER if attempt is None else _STDIO, made)

    def _of_logging(self, record: Dict[str, Any], attributes: Dict[str, Any], source: Source) -> Record:
        """Mapped as by opentelemetry-instrumentation-logging, which users know; a test compares the two."""
        body, marks = _clean(self._redaction.text(str(record.get("body", ""))), record.get("length"))
        attributes.update(marks)
        attributes[names.THREAD_NAME] = record.get("thread", "")
        attributes[names.CODE_FILE_PATH] = record.get("file", "")
        attributes[names.CODE_LINE_NUMBER] = record.get("line", 0)
        attributes[names.CODE_FUNCTION_NAME] = record.get("function", "")
        if "pid" in record:
            attributes[names.PROCESS_PID] = record["pid"]
        if "attributesTruncated" in record:
            attributes[names.LOG_ATTRIBUTES_TRUNCATED] = record["attributesTruncated"]
        for name, value in (record.get("exception") or {}).items():
            attributes[f"exception.{name}"] = self._redaction.text(str(value))
        parsed = structured.message(body)
        extra = record.get("attributes") or {}
        if parsed is not None:
            body, fields = parsed
            extra = {**fields, **extra}
        if extra:
            attributes = {**self._redaction.attributes(extra), **attributes}
        level = str(record.get("severityText", ""))
        made = _made(record, source, attributes, body)
        event = _event_name(attributes) if extra else ""
        if event:
            made["eventName"] = event
        made["severityNumber"] = _severity(record.get("severityNumber", _LOGGING_INFO))
        made["severityText"] = _LEVELS.get(level, level)
        return Record(source.resource, user_telemetry.named_scope(str(record.get("logger", "root"))), made)

    def _of_api(self, record: Dict[str, Any], attributes: Dict[str, Any], source: Source) -> Record:
        """As user code emitted it through the logs API."""
        if "pid" in record:
            attributes[names.PROCESS_PID] = record["pid"]
        attributes = {**self._redaction.attributes(record.get("attributes") or {}), **attributes}
        made = _made(record, source, attributes, self._redaction.value(record.get("body")))
        severity = record.get("severityNumber")
        made["severityNumber"] = severity if isinstance(severity, int) and 0 <= severity <= _FATAL4 else 0
        made["severityText"] = record.get("severityText", "")
        if record.get("observedTimeUnixNano"):
            made["observedTimeUnixNano"] = record["observedTimeUnixNano"]
        if record.get("eventName"):
            made["eventName"] = record["eventName"]
        if record.get("spanId") and record.get("traceId"):
            context = user_telemetry.span_context(record)
            made.update({"traceId": context["traceId"], "spanId": context["spanId"], "flags": context.get("flags", 0)})
        return Record(source.resource, user_telemetry.scope(record, self._redaction), made)

    def _of_line(self, record: Dict[str, Any], attributes: Dict[str, Any], source: Source, scope: Scope) -> Record:
        body, marks = _clean(self._masked(record, source), record.get("length"))
        attributes.update(marks)
        attributes[names.LOG_IOSTREAM] = record.get("stream", "")
        if "inDoubt" in record:
            attributes[names.IN_DOUBT] = True
        if "pid" in record:
            attributes[names.PROCESS_PID] = record["pid"]
        made = _made(record, source, attributes, body)
        parsed = structured.parse(body, record["timeUnixNano"], (self._run.start or {}).get("timeUnixNano"))
        if parsed is not None:
            made["timeUnixNano"] = parsed.at or record["timeUnixNano"]
            made["severityNumber"] = parsed.severity or _INFO
            made["severityText"] = parsed.severity_text or "INFO"
            made["body"] = parsed.body
            made["attributes"] = {**self._redaction.attributes(parsed.attributes), **attributes}
        return Record(source.resource, scope, made)

    def _masked(self, record: Dict[str, Any], source: Source) -> str:
        """The line, masked; private keys span several lines of one stream, so each stream is masked separately."""
        stream = f"{source.span_id} {record.get('stream')} {record.get('pid')}"
        return self._redaction.line(otlp_values.text(record.get("body", "")), stream)


def _made(record: Dict[str, Any], source: Source, attributes: Dict[str, Any], body: Any) -> LogRecord:
    """The fields of every log record; severity INFO unless another one is known."""
    at = record["timeUnixNano"]
    return {
        "timeUnixNano": at,
        "observedTimeUnixNano": at or time.time_ns(),  # by the tap that wrote it
        "severityNumber": _INFO,
        "severityText": "INFO",
        "body": body,
        "attributes": attributes,
        "traceId": source.trace_id,
        "spanId": source.span_id,
        "flags": source.flags,
    }


def _event_name(attributes: Dict[str, Any]) -> str:
    """Remove and return the event name in `extra`, if there is one; the second name is the former one."""
    named = [name for name in ("otel.event.name", "event.name") if isinstance(attributes.get(name), str)]
    found = [str(attributes.pop(name)) for name in named]
    return found[0] if found else ""


# Levels of logging, which is not imported for them.
_LOGGING_DEBUG, _LOGGING_INFO, _LOGGING_CRITICAL = 10, 20, 50
# OpenTelemetry's names of levels, where they differ from logging's.
_LEVELS = {"WARNING": "WARN", "CRITICAL": "FATAL"}


def _severity(level: int) -> int:
    """OTLP's severity number for a level of logging: every ten levels map to four numbers."""
    if level < _LOGGING_DEBUG:
        return 0
    tens, ones = divmod(min(level, _LOGGING_CRITICAL + 3), 10)
    return 4 * tens + 1 + min(ones, 3)


def _clean(text: str, length: Optional[int]) -> Tuple[str, Dict[str, Any]]:
    """A line as a terminal would show it, and attributes that mark changes.

    A progress bar is one line that overwrites itself after each carriage return: its last state is the body, and an
    attribute has the whole line. NUL ends strings at some back ends; invalid UTF-8 was replaced when the line was read.
    """
    marks: Dict[str, Any] = {}
    if "\r" in text:
        shown = text.rstrip("\r").rpartition("\r")[2]
        if shown != text.rstrip("\r"):
            marks[names.LOG_RECORD_ORIGINAL] = text.replace(_NUL, _REPLACEMENT)
        text = shown
    if _NUL in text:
        text = text.replace(_NUL, _REPLACEMENT)
    if _REPLACEMENT in text:
        marks[names.LOG_SANITIZED] = True
    if length is not None and length > long_lines.LONGEST_LINE:
        marks[names.LOG_TRUNCATED_LENGTH] = length
    return text, marks
