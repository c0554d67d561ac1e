"""What a vendor refuses costs nothing else: each rejected record is dropped by name, everything else arrives."""

from __future__ import annotations

import json
import os
import random
import re
import string
import time
from typing import TYPE_CHECKING, Any

import pytest
import requests
from collectors import Collector
from intakes import DATADOG_LIMIT, DatadogLogs, Hec, Otlp
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from running import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

RESOURCE = {"service.name": "metaflow", "metaflow.flow.name": "Hello", "metaflow.run.id": "12"}


def value(content: Any) -> AnyValue:
    """Return what OTLP holds a Python value in; None is a value that is not set."""
    if isinstance(content, dict):
        return AnyValue(kvlist_value=KeyValueList(values=pairs(content)))
    if isinstance(content, list):
        return AnyValue(array_value=ArrayValue(values=[value(each) for each in content]))
    if isinstance(content, bool):
        return AnyValue(bool_value=content)
    if isinstance(content, int):
        return AnyValue(int_value=content)
    if isinstance(content, float):
        return AnyValue(double_value=content)
    return AnyValue() if content is None else AnyValue(string_value=content)


def pairs(attributes: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=value(content)) for key, content in attributes.items()]


def logs(
    bodies: Sequence[Any],
    resource: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
    **more: Any,
) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.extend(pairs({**RESOURCE, **(resource or {})}))
    scope = group.scope_logs.add()
    for body in bodies:
        record = scope.log_records.add(time_unix_nano=time.time_ns(), attributes=pairs(attributes or {}), **more)
        record.body.CopyFrom(value(body))
    return request


def spans(names: Sequence[str], resource: Mapping[str, Any] | None = None) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.extend(pairs({**RESOURCE, **(resource or {})}))
    scope = group.scope_spans.add()
    for name in names:
        now = time.time_ns()
        scope.spans.add(
            trace_id=os.urandom(16), span_id=os.urandom(8), name=name, start_time_unix_nano=now, end_time_unix_nano=now
        )
    return request


def metrics(names: Sequence[str], resource: Mapping[str, Any] | None = None) -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    group.resource.attributes.extend(pairs({**RESOURCE, **(resource or {})}))
    scope = group.scope_metrics.add()
    for name in names:
        total = scope.metrics.add(name=name).sum
        total.aggregation_temporality, total.is_monotonic = 1, True
        total.data_points.add(time_unix_nano=time.time_ns(), as_int=1)
    return request


PATHS = {
    ExportLogsServiceRequest: "logs",
    ExportTraceServiceRequest: "traces",
    ExportMetricsServiceRequest: "metrics",
}


def post(collector: Collector, *requests_: Any) -> None:
    for request in requests_:
        answer = requests.post(
            f"{collector.http}/v1/{PATHS[type(request)]}",
            request.SerializeToString(),
            headers={"content-type": "application/x-protobuf"},
            timeout=30,
        )
        assert answer.ok, answer.text


def rejected(collector: Collector) -> int:
    """Return how many records the collector's own metrics count as rejected."""
    text = requests.get(collector.telemetry, timeout=5).text
    counts = re.findall(r"^otelcol_metaflow_rejected_records\S*\{.*\} (\S+)$", text, re.MULTILINE)
    return int(sum(float(count) for count in counts))


def errors(collector: Collector) -> list[str]:
    return [line for line in collector.output.splitlines() if "\terror\t" in line]


def dropped(collector: Collector) -> list[str]:
    return [line for line in errors(collector) if " rejected " in line or "Dropping" in line]


def noise(length: int) -> str:
    """Return text that hardly becomes smaller by compression."""
    return "".join(random.choices(string.ascii_lowercase + string.digits, k=length))


GOOD = [f"line {number}" for number in range(600)]

BAD = {
    "a resource's index": {"resource": {"com.splunk.index": "nope"}},
    "a record's index": {"attributes": {"com.splunk.index": "nope"}},
}


@pytest.mark.parametrize("fault", BAD)
def test_one_record_that_splunk_refuses_costs_no_other(tmp_path: Path, fault: str) -> None:
    """In the middle of a stream of several senders: 600 of 600, and the one is named."""
    with Hec() as splunk, Collector(tmp_path, splunk.environment) as collector:
        for number in range(0, 600, 50):
            post(collector, logs(GOOD[number : number + 50]))
            if number == 300:
                post(collector, logs(["refused"], **BAD[fault]))
        eventually(lambda: len(splunk.events) >= 600)
        eventually(lambda: rejected(collector) == 1)
        (error,) = errors(collector)
    assert splunk.bodies == dict.fromkeys(GOOD, 1)
    assert "Splunk rejected 1 of" in error
    assert "source" in error
    assert "metaflow.run.id 12" in error
    assert "Incorrect index" in error
    assert "nope" in error


NOTHING = {
    "a value": {"note": None, "kept": "a"},
    "a value in a map": {"note": {"empty": None, "deeper": {"empty": None}, "kept": "a"}},
    "a value in an array": {"note": ["a", None, {"empty": None}]},
    "all values of a map": {"note": {"empty": None}},
}


@pytest.mark.parametrize("attributes", NOTHING.values(), ids=NOTHING)
def test_an_attribute_without_a_value_costs_nothing(tmp_path: Path, attributes: dict[str, Any]) -> None:
    """OpenTelemetry defines none, other senders have it, and Splunk would refuse the event."""
    with Hec() as splunk, Collector(tmp_path, splunk.environment) as collector:
        post(collector, logs(["a record"], attributes=attributes), logs(["a resource"], attributes))
        post(collector, spans(["a span"], attributes), metrics(["a.metric"], attributes))
        eventually(lambda: len(splunk.events) >= 4)
        assert not errors(collector)
    assert {"a record", "a resource"} <= set(splunk.bodies)


def test_a_rejected_record_affects_its_own_signal_only(tmp_path: Path) -> None:
    """Spans and metrics name indexes, too."""
    nope = {"com.splunk.index": "nope"}
    with Hec() as splunk, Collector(tmp_path, splunk.environment) as collector:
        for _ in range(3):
            post(
                collector, spans(GOOD[:50]), spans(["refused"] * 7, nope), metrics(["a"] * 50), metrics(["b"] * 7, nope)
            )
        eventually(lambda: len(splunk.events) >= 300)
        eventually(lambda: rejected(collector) == 42)
    assert len(splunk.events) == 300
    assert not any("refused" in json.dumps(event) or "metric_name:b" in json.dumps(event) for event in splunk.events)


def test_a_development_index_that_is_not_there_costs_production_nothing(tmp_path: Path) -> None:
    own = {"SPLUNK_DEVELOPMENT_INDEX": "typo", "SPLUNK_DEVELOPMENT_METRICS_INDEX": "typo_too"}
    dev, production = {"deployment.environment.name": "user.ann"}, {"deployment.environment.name": "production"}
    with Hec() as splunk, Collector(tmp_path, splunk.environment | own) as collector:
        for number in range(0, 600, 50):
            post(collector, logs(GOOD[number : number + 50], production), logs(["dev"] * 50, dev))
        eventually(lambda: len(splunk.events) >= 600)
        eventually(lambda: rejected(collector) == 600)
        # One request finds out for a whole index.
        assert splunk.answers[400] < 60
    assert splunk.bodies == dict.fromkeys(GOOD, 1)


def test_a_senders_own_token_is_not_used(tmp_path: Path) -> None:
    """The collector's is: a sender cannot choose it, and a masked one would be refused."""
    with Hec() as splunk, Collector(tmp_path, splunk.environment) as collector:
        for number in range(0, 600, 50):
            own = {"com.splunk.hec.access_token": "not-this-one"} if number % 100 == 0 else {}
            post(collector, logs(GOOD[number : number + 50], own), spans(["a"], own), metrics(["a"], own))
        eventually(lambda: len(splunk.events) >= 624)
        assert not errors(collector)
    assert splunk.bodies == dict.fromkeys(GOOD, 1)
    assert "not-this-one" not in json.dumps(splunk.events)


BLANK = ["", " ", "\t\n\r", "\N{NO-BREAK SPACE}", "\N{IDEOGRAPHIC SPACE}\N{ZERO WIDTH SPACE}", "\0", None, {}, []]


@pytest.mark.parametrize("body", BLANK, ids=repr)
def test_a_blank_line_is_a_line(tmp_path: Path, body: Any) -> None:
    """Every line arrives once, and an event without a body has its name."""
    with Hec() as splunk, Collector(tmp_path, splunk.environment) as collector:
        post(collector, logs([*GOOD, body]), logs([body], event_name="metaflow.task.end"))
        eventually(lambda: len(splunk.events) >= 602)
        assert not errors(collector)
    assert splunk.bodies == {**dict.fromkeys(GOOD, 1), "(blank)": 1, "metaflow.task.end": 1}


@pytest.mark.parametrize("vendor", [Hec, Otlp, DatadogLogs])
def test_a_request_too_large_for_a_proxy_is_divided(tmp_path: Path, vendor: type[Hec | Otlp | DatadogLogs]) -> None:
    """A proxy with a limit far below ours: all that fits alone arrives, the one that does not is named."""
    lines = [f"{number} {noise(3_000)}" for number in range(600)]
    with vendor(limit=40_000) as intake, Collector(tmp_path, intake.environment) as collector:
        for number in range(0, 600, 50):
            post(collector, logs(lines[number : number + 50]))
            if number == 300:
                post(collector, logs(["large " + noise(90_000)]))
        eventually(lambda: len(intake.bodies) >= 600)
        eventually(lambda: rejected(collector) == 1)
        (error,) = errors(collector)
    assert intake.bodies == dict.fromkeys(lines, 1)
    assert "413" in error
    assert "metaflow.run.id 12" in error


def test_nothing_of_datadogs_exporter_waits_behind_a_permanent_failure(tmp_path: Path) -> None:
    """Nor is it dropped without a word: its logs go through the same delivery."""
    with DatadogLogs() as intake, Collector(tmp_path, intake.environment) as collector:
        for number, status in enumerate((401, 403, 404, 405, 414)):
            intake.status = status
            post(collector, logs([f"lost by {status}"]))
            eventually(lambda: rejected(collector) == number + 1)  # noqa: B023
            assert any(f"Datadog rejected 1 of 1 records: {status}" in line for line in errors(collector))
        intake.status = 200
        post(collector, logs(GOOD))
        eventually(lambda: len(intake.bodies) >= 600)
    assert intake.bodies == dict.fromkeys(GOOD, 1)


@pytest.mark.parametrize(("variable", "most"), [("", 1_000_000), ("200000", 200_000)])
def test_requests_stay_within_what_proxies_take(tmp_path: Path, variable: str, most: int) -> None:
    """Without a single refusal, whatever comes at once after an outage, before compression and after it."""
    lines = [f"{number} {noise(6_000)}" for number in range(1_000)]
    environment = {"COLLECTOR_SPLUNK_MAX_CONTENT_LENGTH": variable}
    with Hec(limit=most) as splunk, Collector(tmp_path, splunk.environment | environment) as collector:
        splunk.status = 503
        for number in range(0, 1_000, 100):
            post(collector, logs(lines[number : number + 100]), spans([noise(6_000) for _ in range(20)]))
        splunk.status = 200
        eventually(lambda: len(splunk.events) >= 1_200, 60)
    assert splunk.answers.keys() == {200, 503}
    assert splunk.bodies == dict.fromkeys(lines, 1)
    assert max(splunk.sizes) <= most


FINAL = [301, 400, 401, 402, 403, 404, 405, 406, 410, 411, 414, 415, 417, 421, 422, 431, 451, 501, 505]


@pytest.mark.parametrize("vendor", [Hec, Otlp])
def test_nothing_waits_behind_a_permanent_failure(tmp_path: Path, vendor: type[Hec | Otlp]) -> None:
    """Whatever the answer, it is counted and an error in the log, and what comes later arrives."""
    with vendor() as intake, Collector(tmp_path, intake.environment) as collector:
        for number, status in enumerate(FINAL):
            intake.status = status
            post(collector, logs([f"lost by {status}"]), spans(["lost"]), metrics(["lost"]))
            eventually(lambda: rejected(collector) == 3 * number + 3)  # noqa: B023
            assert any(f"{intake.name} rejected 1 of 1 records: {status}" in line for line in errors(collector))
        intake.status = 200
        post(collector, logs(GOOD))
        eventually(lambda: len(intake.bodies) >= 600)
    assert intake.bodies == dict.fromkeys(GOOD, 1)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507])
@pytest.mark.parametrize("vendor", [Hec, Otlp])
def test_temporary_failures_are_retried(tmp_path: Path, vendor: type[Hec | Otlp], status: int) -> None:
    with vendor(status=status) as intake, Collector(tmp_path, intake.environment) as collector:
        post(collector, logs(GOOD))
        eventually(lambda: intake.answers[status])
        intake.status = 200
        eventually(lambda: len(intake.bodies) >= 600)
        assert not dropped(collector)
    assert intake.bodies == dict.fromkeys(GOOD, 1)


def test_a_fault_amid_the_parts_of_a_request_doubles_nothing(tmp_path: Path) -> None:
    """What of a request was taken is not sent again with the rest."""
    lines = [f"{number} {noise(3_000)}" for number in range(600)]
    with (
        Hec() as splunk,
        Collector(tmp_path, splunk.environment | {"COLLECTOR_SPLUNK_MAX_CONTENT_LENGTH": "50000"}) as collector,
    ):
        taking = splunk._take

        def flapping(*request: Any) -> tuple[int, bytes]:
            return (503, b"") if splunk.answers.total() in {3, 8} else taking(*request)

        splunk._take = flapping  # type: ignore[method-assign]
        post(collector, *(logs(lines[number : number + 200]) for number in range(0, 600, 200)))
        eventually(lambda: len(splunk.events) >= 600, 60)
    assert splunk.answers[503]
    assert splunk.bodies == dict.fromkeys(lines, 1)


def test_datadogs_otlp_intake_gets_no_more_than_it_takes(tmp_path: Path) -> None:
    """6,400 lines of 6 kB that waited for an outage to end; and one line beyond its limit is rejected alone."""
    lines = [f"{number} {noise(6_000)}" for number in range(6_400)]
    with Otlp(limit=DATADOG_LIMIT, status=503) as datadog, Collector(tmp_path, datadog.environment) as collector:
        for number in range(0, 6_400, 400):
            post(collector, logs(lines[number : number + 400]))
        post(collector, logs(["large " + "x" * DATADOG_LIMIT]))
        datadog.status = 200
        eventually(lambda: len(datadog.bodies) >= 6_400, 90)
        eventually(lambda: rejected(collector) == 1)
        (error,) = errors(collector)
    assert datadog.bodies == dict.fromkeys(lines, 1)
    assert "metaflow.run.id 12" in error
    assert max(datadog.sizes) <= 1_000_000
