"""Log records of the SDK, from the records of the journal."""

from __future__ import annotations

import logging
import re
from typing import Any, Dict, NamedTuple, Optional, Tuple

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, set_span_in_context

from otel_metaflow.core import long_lines, names, otlp_values
from otel_metaflow.core.redaction import Redaction
from otel_metaflow.core.version import __version__
from otel_metaflow.journal import layout
from otel_metaflow.journal.layout import AttemptKey
from otel_metaflow.model import structured
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.shipper.convert import user_telemetry
from otel_metaflow.shipper.convert.resources import Resources, attempt_span_id, run_span_id

_STDIO = InstrumentationScope(names.SCOPE_STDIO, __version__)
_LAUNCHER = InstrumentationScope(names.SCOPE_LAUNCHER, __version__)
_BLANK = logging.makeLogRecord({}).__dict__
_SEVERITIES = {severity.value for severity in SeverityNumber}
_NUL = "\x00"
_REPLACEMENT = "\ufffd"
# Such as 2026-11-23 09:29:20.693 [12/start/1 (pid 14466)] Task is starting. (metaflow/cli.py, logger)
_MESSAGE = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (?:\[([^/\]]+)/([^/\]]+)/([^/\] ]+)(?: \(pid \d+\))?\] )?"
)


class _Collector(LogRecordProcessor):
    """Keeps what the handler emits, instead of a queue that would drop it."""

    def __init__(self) -> None:
        self.record: Optional[ReadWriteLogRecord] = None

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self.record = log_record

    def shutdown(self) -> None:
        """Nothing to end."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Nothing is waiting."""
        return True


class _Source(NamedTuple):
    """What all records of an attempt, or of the launcher, have in common."""

    span_id: str
    context: Context
    resource: Resource


class LogRecords:
    """Makes the log records of one run."""

    def __init__(self, run: Run, resources: Resources, redact: str = "") -> None:
        self._run = run
        self._resources = resources
        self._redaction = Redaction(redact)
        self._collector = _Collector()
        self._handler: Optional[logging.Handler] = None
        self._sources: Dict[Tuple[Optional[AttemptKey], bool], _Source] = {}

    def of_attempt(self, attempt: Attempt, record: Dict[str, Any], uid: str) -> ReadableLogRecord:
        """The log record of a line, of a logging record, or of one of the logs API, of an attempt."""
        source = self._source(attempt)
        attributes: Dict[str, Any] = {names.LOG_RECORD_UID: f"{source.span_id}-{uid}"}
        if record["kind"] == layout.LOG:
            return self._of_logging(record, attributes, source)
        if record["kind"] == layout.RECORD:
            return self._of_api(record, attributes, source)
        return self._of_line(record, attributes, source, _STDIO)

    def of_launcher(self, record: Dict[str, Any], uid: str) -> ReadableLogRecord:
        """The log record of a line of the launcher, which may speak of an attempt."""
        source = self._source(None)
        attributes: Dict[str, Any] = {names.LOG_RECORD_UID: f"{source.span_id}-{uid}"}
        body = str(record.get("body", ""))
        message = _MESSAGE.match(body)
        if message:
            record = {**record, "body": body[message.end() :]}
            if message.group(2):
                attributes[names.STEP_NAME] = message.group(2)
                attributes[names.TASK_ID] = message.group(3)
        return self._of_line(record, attributes, source, _LAUNCHER)

    def plain(self, attempt: Optional[Attempt], record: Dict[str, Any], uid: str) -> ReadableLogRecord:
        """As a line of text what cannot be made of all that the record says; without `attempt` it is the launcher's."""
        source = self._source(attempt)
        body, marks = _clean(self._masked(record, source), None)
        made = LogRecord(
            timestamp=record["timeUnixNano"],
            context=source.context,
            severity_number=SeverityNumber.INFO,
            severity_text="INFO",
            body=body,
            attributes={names.LOG_RECORD_UID: f"{source.span_id}-{uid}", **marks},
        )
        return ReadableLogRecord(made, source.resource, _LAUNCHER if attempt is None else _STDIO)

    def _source(self, attempt: Optional[Attempt]) -> _Source:
        # What a task says of itself comes with its start; the launcher may have read lines of it before.
        key = (None, True) if attempt is None else (attempt.key, attempt.start is not None)
        source = self._sources.get(key)
        if source is None:
            if attempt is None:
                span_id, resource = run_span_id(self._run.key), self._resources.of_run()
            else:
                span_id, resource = attempt_span_id(self._run.key, attempt.key), self._resources.of_attempt(attempt)
            source = self._sources[key] = _Source(span_id, self._resources.context(span_id), resource)
        return source

    def _make_handler(self) -> logging.Handler:
        # As slow to import as the rest of the SDK, and not needed by runs that only print.
        from opentelemetry.instrumentation.logging.handler import LoggingHandler

        provider = LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(self._collector)
        return LoggingHandler(logger_provider=provider)

    def _of_logging(self, record: Dict[str, Any], attributes: Dict[str, Any], source: _Source) -> ReadableLogRecord:
        """Through the ecosystem's own handler, so that the mapping is the one that users know."""
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
        told = structured.message(body)
        extra = record.get("attributes") or {}
        rebuilt = logging.LogRecord.__new__(logging.LogRecord)  # its __init__ finds out what we overwrite
        rebuilt.__dict__ = {
            **_BLANK,
            "name": str(record.get("logger", "root")),
            "levelno": record.get("severityNumber", logging.INFO),
            "levelname": str(record.get("severityText", "")),
            "msg": body if told is None else told[0],
        }
        extra = self._redaction.attributes(extra if told is None else {**told[1], **extra})
        if self._handler is None:
            self._handler = self._make_handler()
        token = attach(source.context)
        try:
            self._handler.emit(rebuilt)
        finally:
            detach(token)
        made, self._collector.record = self._collector.record, None
        if made is None:
            raise ValueError("the handler of opentelemetry-instrumentation-logging made no record of it")
        made.log_record.timestamp = record["timeUnixNano"]
        # Not through the handler: SDKs before 1.45 empty lists of mixed types, and all of them take their time.
        made.log_record.attributes = {**(made.log_record.attributes or {}), **extra, **attributes}
        return ReadableLogRecord(made.log_record, source.resource, made.instrumentation_scope, made.limits)

    def _of_api(self, record: Dict[str, Any], attributes: Dict[str, Any], source: _Source) -> ReadableLogRecord:
        """As user code emitted it through the logs API."""
        context = source.context
        if record.get("spanId") and record.get("traceId"):
            context = set_span_in_context(NonRecordingSpan(user_telemetry.span_context(record)), Context())
        if "pid" in record:
            attributes[names.PROCESS_PID] = record["pid"]
        severity = record.get("severityNumber")
        made = LogRecord(
            timestamp=record["timeUnixNano"],
            observed_timestamp=record.get("observedTimeUnixNano"),
            context=context,
            severity_number=SeverityNumber(severity) if severity in _SEVERITIES else None,
            severity_text=record.get("severityText"),
            body=self._redaction.value(record.get("body")),
            attributes={**self._redaction.attributes(record.get("attributes") or {}), **attributes},
            event_name=record.get("eventName"),
        )
        return ReadableLogRecord(made, source.resource, user_telemetry.scope(record, self._redaction))

    def _of_line(
        self,
        record: Dict[str, Any],
        attributes: Dict[str, Any],
        source: _Source,
        scope: InstrumentationScope,
    ) -> ReadableLogRecord:
        body, marks = _clean(self._masked(record, source), record.get("length"))
        attributes.update(marks)
        attributes[names.LOG_IOSTREAM] = record.get("stream", "")
        if "pid" in record:
            attributes[names.PROCESS_PID] = record["pid"]
        said = structured.parse(body, record["timeUnixNano"], (self._run.start or {}).get("timeUnixNano"))
        made = LogRecord(
            timestamp=(said and said.at) or record["timeUnixNano"],
            context=source.context,
            severity_number=SeverityNumber((said and said.severity) or SeverityNumber.INFO.value),
            severity_text=(said and said.severity_text) or "INFO",
            body=body if said is None else said.body,
            attributes=attributes if said is None else {**self._redaction.attributes(said.attributes), **attributes},
        )
        return ReadableLogRecord(made, source.resource, scope)

    def _masked(self, record: Dict[str, Any], source: _Source) -> str:
        """The line, masked; streams are told apart by their span, a private key is printed into one of them."""
        stream = f"{source.span_id} {record.get('stream')} {record.get('pid')}"
        return self._redaction.line(otlp_values.text(record.get("body", "")), stream)


def _clean(text: str, length: Optional[int]) -> tuple[str, Dict[str, Any]]:
    """What a terminal would show of a line, and marks where that is not all of it.

    A progress bar is one line that overwrites itself after each carriage return: its last state is the
    body, all of it is kept beside. NUL ends strings at some back ends; invalid UTF-8 was replaced when
    the line was read.
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
