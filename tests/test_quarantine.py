"""Whatever stands in a run's journals: all that can be delivered is, once, and the rest is counted."""

from __future__ import annotations

import importlib
import json
import math
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from journals import BEGIN, Journals
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_metaflow.core.redaction import Redaction
from otel_metaflow.core.settings import Destination, Settings
from otel_metaflow.journal import layout
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.model.critical_path import critical_path
from otel_metaflow.model.run import load
from otel_metaflow.shipper.delivery import Delivery
from otel_metaflow.shipper.sinks import answers, sdk_objects
from otel_metaflow.shipper.sinks.answers import Answer
from otel_metaflow.shipper.telemetry import Record
from otel_metaflow.viewer import report

ENCODERS = {
    "traces": ("trace_encoder", "encode_spans"),
    "metrics": ("metrics_encoder", "encode_metrics"),
    "logs": ("_log_encoder", "encode_logs"),
}


class Receiver:
    """Takes what the official encoders make of a batch, as the bytes that protobuf's decoder reads again."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def __call__(self, destination: Destination) -> answers.Exporter:
        module, name = ENCODERS[destination.signal]
        encode = getattr(importlib.import_module(f"opentelemetry.exporter.otlp.proto.common.{module}"), name)

        def take(records: Sequence[Record]) -> Answer:
            try:
                message = encode(sdk_objects.OF[destination.signal](records))
                message = type(message).FromString(message.SerializeToString())
            except Exception as error:  # noqa: BLE001 - as exporters do
                return answers.unfit(error)
            self.messages.append(message)
            return answers.DELIVERED

        return take

    def logs(self) -> list[Any]:
        return [
            record
            for message in self.messages
            if isinstance(message, ExportLogsServiceRequest)
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def bodies(self) -> Counter[str]:
        return Counter(record.body.string_value for record in self.logs())

    def spans(self) -> Counter[str]:
        return Counter(
            span.name
            for message in self.messages
            for resource in getattr(message, "resource_spans", ())
            for scope in resource.scope_spans
            for span in scope.spans
        )

    def metrics(self) -> Counter[str]:
        return Counter(
            metric.name
            for message in self.messages
            for resource in getattr(message, "resource_metrics", ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        )


def deliver(home: Path, folder: Path, log_dir: Path | None = None) -> tuple[Receiver, DeliveryStatus]:
    """Deliver all of a run that is over, and what became of it."""
    receiver = Receiver()
    destinations = {signal: Destination(signal, "http/protobuf", "http://none", "") for signal in ENCODERS}
    environment = Settings(home=home, destinations=destinations, log_dir=log_dir)
    delivery = Delivery(home, folder, environment, threading.Event(), receiver)
    assert delivery.work(linger=0), delivery.status.trouble
    return receiver, DeliveryStatus.read(folder)


def append(path: Path, *records: Any) -> None:
    """Append records as they are, JSON or not."""
    with path.open("ab") as file:
        for record in records:
            file.write(
                (record if isinstance(record, bytes) else json.dumps(record, separators=(",", ":")).encode()) + b"\n"
            )


def made(home: Path, records: list[Any], lines: list[str] | None = None) -> Journals:
    """A run of one attempt whose user code left `records` and printed `lines`."""
    journals = Journals(home)
    journals.step("start")
    journals.attempt("start", 1, 1, 1, lines=["before", *(lines or []), "after"])
    append(layout.attempt_file(journals.folder, AttemptKey("start", "1", 0)), *records)
    journals.end(3)
    return journals


# What was known to end a delivery

HUGE = 10**309  # larger than any float
NESTED: Any = 1
for _ in range(250):  # 500 levels
    NESTED = [{"a": NESTED}]


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({"message": "hello", "time": HUGE}),
        '{"message": "hello", "time": ' + "9" * 309 + "}",
        json.dumps({"message": "hello", "ts": 10**18 * 10**18}),
        json.dumps({"message": "hello", "deep": NESTED}),
        json.dumps({"message": "hello", "level": "info", "seen": math.nan, "most": [math.inf, {"x": -math.inf}]}),
        '{"message": "hello", "n": ' + "9" * 10_000 + "}",
        '{"message": "hello", "half": "\\ud800", "\\udfff": 1}',
        '{"message": "\\ud800hello"}',
        '{"message": "hello", "time": "9999-12-31T23:59:59.999999+00:00"}',
        '{"message": "hello", "time": "0001-01-01T00:00:00-23:59"}',
        "[" * 100_000,
        "{" * 50_000 + "}" * 50_000,
    ],
    ids=lambda line: line[:40],
)
@pytest.mark.parametrize("kind", ["line", "log"])
def test_a_line_that_cannot_be_parsed_is_delivered_and_so_are_the_others(tmp_path: Path, line: str, kind: str) -> None:
    record = {"kind": kind, "timeUnixNano": BEGIN + 10**9, "stream": "stderr", "body": line}
    journals = made(tmp_path, [record])
    receiver, status = deliver(tmp_path, journals.folder, tmp_path / "log-files")
    bodies = receiver.bodies()
    assert bodies["before"] == bodies["after"] == 1
    assert sum("hello" in body or body == line for body in bodies.elements()) == 1
    assert status.dropped == {}
    written = [json.loads(text, parse_constant=pytest.fail) for text in _files(tmp_path / "log-files")]
    assert len(written) == len(receiver.logs())


def test_values_beyond_otlp_arrive_as_text_at_any_depth(tmp_path: Path) -> None:
    """In attributes of logs, spans, events, links, scopes, points, exemplars and resources; none is dropped."""
    given_attributes = {"nan": math.nan, "in": {"inf": [math.inf, -math.inf]}, "int": 2**63, "deep": NESTED}
    at = BEGIN + 10**9
    ids = {"traceId": "1" * 32, "spanId": "2" * 16}
    scope = {"name": "lib", "version": "1", "attributes": given_attributes}
    point = {
        "attributes": given_attributes,
        "timeUnixNano": at,
        "asInt": 1,
        "exemplars": [{"filteredAttributes": given_attributes, "timeUnixNano": at, "asInt": 1}],
    }
    times = {"startTimeUnixNano": at, "endTimeUnixNano": at}
    span = {"name": "load", **ids, **times, "attributes": given_attributes, "scope": scope}
    span["events"] = [{"name": "event", "timeUnixNano": at, "attributes": given_attributes}]
    span["links"] = [{**ids, "attributes": given_attributes}]
    records = [
        {"kind": "log", "timeUnixNano": at, "body": "log", "attributes": given_attributes},
        {
            "kind": "record",
            "timeUnixNano": at,
            "body": given_attributes,
            "attributes": given_attributes,
            "scope": scope,
        },
        {"kind": "span", "timeUnixNano": at, **span},
        {"kind": "metric", "timeUnixNano": at, "name": "m", "gauge": {"dataPoints": [point]}, "scope": scope},
    ]
    journals = Journals(tmp_path, resource={"service.name": "s", **given_attributes})
    journals.attempt("start", 1, 1, 1, records=records, attributes=given_attributes)
    journals.end(3)
    receiver, status = deliver(tmp_path, journals.folder)
    assert status.dropped == {}
    found = [attributes for message in receiver.messages for attributes in _attributes(message)]
    assert len(found) >= 14
    for attributes in found:
        values = {each.key: each.value for each in attributes}
        assert values["nan"].string_value == "NaN"
        assert [each.string_value for each in values["in"].kvlist_value.values[0].value.array_value.values] == [
            "Infinity",
            "-Infinity",
        ]
        assert values["int"].string_value == str(2**63)
        assert '[{"a":' in str(values["deep"]).replace("\\", "")


def _attributes(message: Any) -> Any:
    """All lists of attributes in a message that hold one called nan."""
    for descriptor, value in message.ListFields():
        if descriptor.type != descriptor.TYPE_MESSAGE:
            continue
        items = value if descriptor.is_repeated else [value]
        if descriptor.name in ("attributes", "filtered_attributes", "values"):
            if any(getattr(each, "key", "") == "nan" for each in items):
                yield items
            continue
        for item in items:
            yield from _attributes(item)


@pytest.mark.parametrize("kind", ["span", "metric"])
def test_spans_and_metrics_that_cannot_be_converted_are_dropped_and_listed_by_name(tmp_path: Path, kind: str) -> None:
    """More in a row than a worker takes from an endpoint, and each of another kind of wrong."""
    at = BEGIN + 10**9
    good = {
        "span": {
            "name": "good",
            "traceId": "1" * 32,
            "spanId": "2" * 16,
            "startTimeUnixNano": at,
            "endTimeUnixNano": at,
        },
        "metric": {"name": "good", "gauge": {"dataPoints": [{"timeUnixNano": at, "asInt": 1}]}},
    }[kind]
    wrong = [{"name": "bad"}, *({**good, "name": "bad", name: "x"} for name in good if name != "name")]
    wrong += [{**good, "name": "bad", name: [HUGE]} for name in good if name != "name"]
    wrong += [{**good, "name": "bad", "gauge": {"dataPoints": [{"timeUnixNano": at, "asInt": "many"}]}}] * 12
    if kind == "span":
        wrong = [one for one in wrong if "gauge" not in one]
    records = [{"kind": kind, "timeUnixNano": at, **one} for one in [good, *wrong, good]]
    journals = made(tmp_path, records)
    receiver, status = deliver(tmp_path, journals.folder)
    signal = {"span": "traces", "metric": "metrics"}[kind]
    delivered = {"span": receiver.spans, "metric": receiver.metrics}[kind]()
    assert delivered["good"] == 2
    dropped = status.dropped[signal, "unconvertible"]
    assert dropped + delivered["bad"] == len(wrong)
    listed = (tmp_path / layout.DROPPED_LOG).read_text().splitlines()
    assert len(listed) == dropped
    for line in listed:  # by its place, if it could not be converted, by its own name, if it could not be encoded
        assert f"{signal}: dropped start/1/0 {kind} t" in line or f"{signal}: dropped bad, " in line
    assert receiver.metrics()["metaflow.telemetry.dropped"] == 1


# Anything at all

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([HUGE, -HUGE, 2**63, 2**64, BEGIN, 10**4299])
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["\ud800", "start", "success", "1" * 32, "00-" + "1" * 32 + "-" + "2" * 16 + "-01"])
)
ANY = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
KINDS = [
    layout.START, layout.LINE, layout.LOG, layout.SPAN, layout.METRIC, layout.RECORD, layout.END, layout.STEP,
    layout.CLONE, layout.LAUNCH, layout.EXIT, layout.CLOSED, "unknown",
]  # fmt: skip
# Names of all fields in docs/journal.md: any of them may hold anything.
FIELDS = [
    "version", "flow", "run", "namespace", "processStart", "resource", "traceparent", "origin", "triggers", "step",
    "type", "parallel", "next", "file", "line", "requested", "originRun", "originTask", "originAttempt", "stream",
    "body", "task", "attempt", "code", "killed", "unwritten", "result", "exception", "maxUserCodeRetries", "logs",
    "attributes", "stepType", "inputs", "foreach", "foreachValue", "processStartTimeUnixNano", "within",
    "length", "covered", "severityNumber", "severityText", "logger", "thread", "function", "forwarded", "traceId",
    "spanId", "parentSpanId", "traceState", "flags", "name", "spanKind", "startTimeUnixNano", "endTimeUnixNano",
    "events", "links", "status", "droppedAttributesCount", "droppedEventsCount", "droppedLinksCount", "scope", "unit",
    "description", "sum", "gauge", "histogram", "exponentialHistogram", "observedTimeUnixNano", "eventName",
    "codeStart", "codeEnd", "recorded", "ok", "artifacts", "caught", "usage", "pid",
]  # fmt: skip
# Of what type a field is, more often than chance would have it: what follows from right ones is met, too.
RIGHT: dict[str, st.SearchStrategy[Any]] = {
    "step": st.sampled_from(["start", "end", "x" * 240]),
    "task": st.sampled_from(["1", "2", 3]),
    "attempt": st.integers(0, 2),
    "pid": st.just(2**22),
    "body": st.text() | st.just('{"message": "text", "time": 1e308, "n": 1' + "0" * 400 + "}"),
    "stream": st.sampled_from(["stdout", "stderr"]),
    "inputs": st.dictionaries(
        st.sampled_from(["start", "end"]),
        st.lists(st.sampled_from(["1", "1/1", "1/x", "/"]) | st.tuples(st.integers(0), st.integers(0)), max_size=3),
    ),
    "foreach": st.lists(st.tuples(st.integers(), st.none() | st.integers()), max_size=2),
    "exception": st.dictionaries(st.sampled_from(["type", "message", "stacktrace"]), ANY),
    "usage": st.dictionaries(st.sampled_from(["cpu", "memoryPeak", "read"]), st.integers() | st.floats()),
    "unwritten": st.dictionaries(st.sampled_from(["line", "log"]), st.integers()),
    "attributes": st.dictionaries(st.text(st.characters(), max_size=5), ANY, max_size=3),
    "traceId": st.just("1" * 32),
    "spanId": st.just("2" * 16),
    "startTimeUnixNano": st.just(BEGIN),
    "endTimeUnixNano": st.just(BEGIN + 1),
    "timeUnixNano": st.integers(BEGIN, BEGIN + 10**10),
    "gauge": st.fixed_dictionaries(
        {
            "dataPoints": st.lists(
                st.dictionaries(st.sampled_from(["asInt", "timeUnixNano", "attributes"]), ANY), max_size=2
            )
        }
    ),
    "scope": st.dictionaries(st.sampled_from(["name", "version", "attributes"]), ANY),
    "events": st.lists(st.dictionaries(st.sampled_from(["name", "timeUnixNano", "attributes"]), ANY), max_size=2),
}


@st.composite
def records(draw: st.DrawFn) -> Any:
    """A record with any of the fields, of any types, or a line that is none."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=30)).replace(b"\n", b" ")
    record: dict[str, Any] = {"kind": draw(st.sampled_from(KINDS))}
    for name in [
        "timeUnixNano",
        *draw(st.lists(st.sampled_from(FIELDS), max_size=8, unique=True)),
        *draw(
            st.sampled_from(
                [
                    [],
                    ["step", "task", "attempt"],
                    ["traceId", "spanId", "startTimeUnixNano", "endTimeUnixNano", "name"],
                    ["name", "gauge"],
                ]
            )
        ),
    ]:
        is_right = draw(st.integers(0, 3)) and name in RIGHT
        value = draw(RIGHT[name] if is_right else ANY)
        # A process that lives would be waited for.
        record[name] = 2**22 if name == "pid" and value.__class__ is int else value
    return record


FILES = st.sampled_from(
    ["run.jsonl", "start.1.0.jsonl", "start.1.0.output.jsonl", "end.2.1.jsonl", "weird.x.0.output.jsonl"]
)


@given(st.lists(st.tuples(FILES, records()), max_size=25))
@example([("run.jsonl", {"kind": "start", "timeUnixNano": 10**30, "pid": 0})])
@example([("run.jsonl", {"kind": "start", "timeUnixNano": 1})])
@example([("weird.x.0.output.jsonl", {"kind": "span", "timeUnixNano": 1, "name": "in a file of lines"})])
@example(
    [
        (
            "start.1.0.jsonl",
            {"kind": "start", "timeUnixNano": 1, "pid": -1, "attributes": [], "inputs": [1], "foreach": 7},
        )
    ]
)
@example(
    [
        (
            "start.1.0.jsonl",
            {"kind": "end", "timeUnixNano": 1, "usage": {"cpu": HUGE}, "unwritten": {"line": "x"}, "parallel": 3},
        )
    ]
)
@example([("start.1.0.jsonl", b'{"kind":"log","timeUnixNano":1,"attributes":' + b"[" * 900 + b"]" * 900 + b"}")])
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_whatever_stands_in_the_journals_every_good_record_is_delivered_and_the_rest_is_counted(
    written: list[tuple[str, Any]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        journals = Journals(home)
        journals.step("good", "start")
        at = BEGIN + 10**9
        span = {"traceId": "1" * 32, "spanId": "3" * 16, "startTimeUnixNano": at, "endTimeUnixNano": at}
        mine = [
            {"kind": "log", "timeUnixNano": at, "body": "good log", "attributes": {"a": 1}},
            {"kind": "span", "timeUnixNano": at, "name": "good span", **span},
            {
                "kind": "metric",
                "timeUnixNano": at,
                "name": "good metric",
                "gauge": {"dataPoints": [{"timeUnixNano": at, "asInt": 1}]},
            },
        ]
        journals.attempt("good", 1, 1, 1, lines=["good line"], records=mine)
        for file, record in written:
            append(journals.folder / file, record)
        journals.end(3)
        receiver, status = deliver(home, journals.folder, home / "log-files")
        assert status.complete
        assert receiver.bodies()["good line"] >= 1
        assert receiver.bodies()["good log"] >= 1
        assert receiver.spans()["good span"] >= 1
        assert receiver.spans()["good"] == 1
        assert receiver.metrics()["good metric"] >= 1
        uids = Counter(
            each.value.string_value
            for log in receiver.logs()
            for each in log.attributes
            if each.key == "log.record.uid"
        )
        assert set(uids.values()) == {1}
        assert len(receiver.logs()) == status.delivered["logs"]
        # What is no record of the journal's is counted as damage, every span and metric is there or dropped.
        lines = [(file, record) for file, record in written if not isinstance(record, bytes)]
        for kind, signal in (("span", "traces"), ("metric", "metrics")):
            recorded = sum(
                record["kind"] == kind and record["timeUnixNano"].__class__ is int and file in _OF_TASKS
                for file, record in lines
            )
            never = status.dropped.get((signal, "unconvertible"), 0)
            found = receiver.spans() if kind == "span" else receiver.metrics()
            assert never <= recorded
            assert status.delivered[signal] >= recorded - never
            assert sum(found.values()) >= recorded - never
        for text in _files(home / "log-files"):
            json.loads(text, parse_constant=pytest.fail)
        _look_at(home, journals.folder)


_OF_TASKS = ("start.1.0.jsonl", "end.2.1.jsonl")


def _look_at(home: Path, folder: Path) -> None:
    """What the viewer reads of such a run: nothing of it raises."""
    run = load(home, folder)
    critical_path(run)
    json.dumps(report.of_run(run, Redaction("")), default=str)


def _files(directory: Path) -> list[bytes]:
    return [line for path in directory.glob("*.jsonl") for line in path.read_bytes().split(b"\n") if line]
