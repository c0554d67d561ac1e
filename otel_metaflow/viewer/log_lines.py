"""The output and log records of a run's processes, as lines to show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from otel_metaflow.core.redaction import Redaction
from otel_metaflow.journal import layout
from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.reader import Tail
from otel_metaflow.model import endings
from otel_metaflow.model.attempt_logs import AttemptLogs, LogEntry
from otel_metaflow.model.run import Attempt, Run

DEBUG, INFO, WARN, ERROR = 1, 2, 3, 4
# The highest severity number of OpenTelemetry of each level; TRACE counts as debug.
_OF_OTEL = ((8, DEBUG), (12, INFO), (16, WARN))
_INFO = 9
LEVELS = {endings.WARN: WARN, endings.ERROR: ERROR, endings.FATAL: ERROR}
"""The level of a notice, by its severity."""


class Line(NamedTuple):
    """One record: time (nanoseconds since 1970), level, stream or logger, and text, which may have several lines."""

    at: int
    level: int
    source: str
    text: str


def of_attempt(folder: Path, run: Run, attempt: Attempt, pattern: str = "") -> Iterator[Line]:
    """The log records of an attempt so far, masked as for export; then the events of its failure.

    `pattern` is an additional regular expression whose matches are masked.
    """
    redaction = Redaction(pattern)
    for entry in read(folder, attempt):
        yield from_record(entry.record, redaction)
    for notice in notices(run, attempt):
        yield from_notice(notice, redaction)


def read(folder: Path, attempt: Attempt) -> Iterator[LogEntry]:
    """The log records in an attempt's journals so far."""
    return AttemptLogs(folder, attempt.key, Cursor()).read(final=True)


def notices(run: Run, attempt: Attempt) -> Iterator[endings.Notice]:
    """The events of an attempt's failure, if it has ended."""
    if attempt.end is not None or not attempt.is_running():
        yield from endings.of_attempt(run, attempt)


def from_notice(notice: endings.Notice, redaction: Redaction) -> Line:
    """The line for a notice."""
    return Line(notice.at, LEVELS[notice.severity], notice.event, redaction.text(notice.text))


def from_record(record: dict[str, Any], redaction: Redaction) -> Line:
    """The line for a record of kind line, log or record."""
    kind = record["kind"]
    if kind == layout.LINE:
        return _printed(record, redaction)
    return _logged(record, redaction) if kind == layout.LOG else _emitted(record, redaction)


def level(record: dict[str, Any]) -> int:
    """The level of a record, from its severity number."""
    number = int(record.get("severityNumber") or 0)
    if record["kind"] == layout.LOG:
        return ERROR if number >= 40 else WARN if number >= 30 else INFO if number >= 20 else DEBUG  # noqa: PLR2004 - logging's
    return _level(number or _INFO)


def of_launcher(folder: Path, run: Run, pattern: str = "") -> Iterator[Line]:
    """The launcher's own output, with Metaflow's messages; then why the run failed, if no attempt did."""
    redaction = Redaction(pattern)
    tail = Tail(folder / layout.RUN_FILE, only=layout.LINE)
    before = -1
    while tail.offset != before:
        before = tail.offset
        for entry in tail.read():
            yield _printed(entry.record, redaction)
    if run.end is not None or not run.is_running():
        yield from (from_notice(notice, redaction) for notice in endings.of_run(run))


def _printed(record: dict[str, Any], redaction: Redaction) -> Line:
    stream = str(record.get("stream", ""))
    text = redaction.line(str(record.get("body", "")), stream)
    severity = INFO
    if text.startswith("{"):
        severity = _level_of_json(text, record["timeUnixNano"]) or INFO
    elif "\r" in text:  # the last state of a progress bar
        text = text.rstrip("\r").rpartition("\r")[2]
    return Line(record["timeUnixNano"], severity, stream, text)


def _level_of_json(text: str, written: int) -> int | None:
    """The level in a line of structlog or python-json-logger."""
    from otel_metaflow.model import structured

    fields = structured.parse(text, written)
    return _level(int(fields.severity)) if fields is not None and fields.severity is not None else None


def _logged(record: dict[str, Any], redaction: Redaction) -> Line:
    text = redaction.text(str(record.get("body", "")))
    trace = (record.get("exception") or {}).get("stacktrace")
    if trace:
        text = f"{text}\n{redaction.text(str(trace)).rstrip()}"
    return Line(record["timeUnixNano"], level(record), str(record.get("logger", "root")), text)


def _emitted(record: dict[str, Any], redaction: Redaction) -> Line:
    body = redaction.value(record.get("body"))
    text = str(record.get("eventName") or "") if body is None else body if isinstance(body, str) else str(body)
    source = str((record.get("scope") or {}).get("name", ""))
    return Line(record["timeUnixNano"], level(record), source, text)


def _level(number: int) -> int:
    return next((found for highest, found in _OF_OTEL if number <= highest), ERROR)
