"""A logging record becomes what opentelemetry-instrumentation-logging makes of it, from the tap to the wire.

The official handler is an oracle here and nothing more: it and the SDK under it take three times as long.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from unmasked import Unmasked

from otel_metaflow.core import names
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.journal.reader import parse
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.shipper.convert.logs import LogRecords
from otel_metaflow.shipper.convert.resources import Resources
from otel_metaflow.shipper.sinks import sdk_objects
from otel_metaflow.task.handler_tap import Handling, Passage
from otel_metaflow.task.record_writer import RecordWriter

# Attributes that only we add.
OURS = {names.LOG_RECORD_UID, names.THREAD_NAME}
# Not halves of characters, and not what a terminal would not show: convert/logs.py cleans a body of these.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"))
BODIES = TEXT.filter(lambda text: not text.startswith("{"))  # which becomes its fields, if it is JSON
SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
EVENTS = ("otel.event.name", "event.name")
RESERVED = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "getMessage", *OURS, *EVENTS}
EXTRAS = st.dictionaries(
    TEXT.filter(lambda name: name and name not in RESERVED),
    SCALARS | st.lists(TEXT, max_size=3) | st.dictionaries(TEXT.filter(bool), SCALARS, max_size=3),
    max_size=4,
)


def ours(record: logging.LogRecord) -> tuple[Any, Any]:
    """The scope and the record, by way of the tap, the journal and the shipper."""
    lines: list[str] = []
    writer = RecordWriter(lines.append, lambda text: text, {}, os.getpid(), lambda *_: None)
    writer.write(record, Handling(logging.NullHandler(), record, Passage(record), only_forwards=False))
    attempt = Attempt(AttemptKey("start", "1", 0), start={"timeUnixNano": 1})
    run = Run(RunKey("F", "1"))
    made = LogRecords(run, Resources(run))
    made._redaction = Unmasked()
    written = parse(lines[0].encode())
    assert written is not None
    return _encoded(sdk_objects.logs([made.of_attempt(attempt, written, "t0")]))


def theirs(record: logging.LogRecord) -> tuple[Any, Any]:
    """The same by the official handler."""
    run = Resources(Run(RunKey("F", "1")))
    source = run.source(Attempt(AttemptKey("start", "1", 0)))
    context = trace.SpanContext(int(source.trace_id, 16), int(source.span_id, 16), False, trace.TraceFlags(1))
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    with trace.use_span(trace.NonRecordingSpan(context)):
        LoggingHandler(logger_provider=provider, log_code_attributes=True).emit(record)
    return _encoded(exporter.get_finished_logs())


def _encoded(logs: Any) -> tuple[Any, Any]:
    (of_scope,) = encode_logs(logs).resource_logs[0].scope_logs
    (made,) = of_scope.log_records
    return of_scope.scope, made


def _raised(error: BaseException) -> Any:
    try:
        raise error  # noqa: TRY301 - to be given a traceback
    except BaseException as raised:  # noqa: BLE001 - any of them
        return type(raised), raised, raised.__traceback__


@given(
    level=st.integers(-1, 110),
    name=TEXT,
    body=BODIES,
    extras=EXTRAS,
    events=st.dictionaries(st.sampled_from(EVENTS), TEXT.filter(bool)),
    error=st.none() | st.builds(ValueError, BODIES.filter(str.strip)) | st.just(KeyError("k")),
)
@example(
    level=logging.CRITICAL, name="a.b", body="50 %", extras={"x": [1.5]}, events={"event.name": "paid"}, error=None
)
@example(level=logging.WARNING, name="root", body="", extras={}, events={}, error=OSError(2, "no such file"))
def test_a_logging_record_is_mapped_as_by_the_official_handler(
    level: int, name: str, body: str, extras: dict[str, Any], events: dict[str, str], error: BaseException | None
) -> None:
    """Whatever its level, name, message, extras and exception."""
    raised = _raised(error) if error else None
    record = logging.getLogger().makeRecord(name, level, "/flow.py", 7, body, (), raised, "work", {**extras, **events})
    (scope, made), (expected_scope, expected) = ours(record), theirs(record)
    assert scope == expected_scope
    for field in ("body", "event_name", "severity_number", "severity_text", "trace_id", "span_id", "flags"):
        assert getattr(made, field) == getattr(expected, field)
    assert abs(made.time_unix_nano - expected.time_unix_nano) <= 1
    found, wanted = _attributes(made), _attributes(expected)
    if error is not None:
        # Theirs is the first of the arguments, ours the end of the stack trace, without its line feeds.
        assert found.pop("exception.message").string_value.rstrip("\n") == str(error).rstrip("\n")
        wanted.pop("exception.message", None)
    assert {key: value for key, value in found.items() if key not in OURS} == wanted


def _attributes(record: Any) -> dict[str, Any]:
    return {each.key: each.value for each in record.attributes}


def test_an_invalid_event_name_stays_an_attribute() -> None:
    """The official handler makes a record of it that the encoder refuses."""
    record = logging.makeLogRecord({"msg": "paid", "event.name": 7, "levelname": "INFO"})
    made = ours(record)[1]
    assert made.event_name == ""
    assert _attributes(made)["event.name"].int_value == 7


def test_the_message_is_made_of_its_arguments() -> None:
    """As `logging` does."""
    record = logging.getLogger().makeRecord("a", logging.INFO, "/flow.py", 7, "%s of %d", ("1", 2), None)
    assert ours(record)[1].body.string_value == theirs(record)[1].body.string_value == "1 of 2"


def test_a_message_that_is_json_becomes_its_fields() -> None:
    """The one thing that the official handler does not do."""
    record = logging.getLogger().makeRecord("a", logging.INFO, "", 7, json.dumps({"event": "paid", "sum": 3}), (), None)
    made = ours(record)[1]
    assert made.body.string_value == "paid"
    assert _attributes(made)["sum"].int_value == 3
