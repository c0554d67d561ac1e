"""The product's collector between the official OTLP exporters and the vendors' own receivers."""

from __future__ import annotations

import itertools
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import requests
from collectors import PRODUCT, PRODUCT_CONFIG, Collector, CollectorError, Vendors, free_ports
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

if TYPE_CHECKING:
    from pathlib import Path

    from collectors import Log, Metric, Span, Vendor
    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter

IDENTITY = {"metaflow.flow.name": "Hello", "metaflow.run.id": "12", "metaflow.step.name": "train"}
DELTA: dict[type, AggregationTemporality] = {
    Counter: AggregationTemporality.DELTA,
    Histogram: AggregationTemporality.DELTA,
}


@dataclass(frozen=True)
class Sent:
    """The ids of what `send` sent."""

    trace_id: str
    run_span_id: str
    span_id: str


def exporters(collector: Collector, protocol: str) -> tuple[SpanExporter, LogRecordExporter, MetricExporter]:
    """Return the official OTLP exporters of a protocol."""
    if protocol == "grpc":
        return (
            GrpcSpans(collector.grpc),
            GrpcLogs(collector.grpc),
            GrpcMetrics(collector.grpc, preferred_temporality=DELTA),
        )
    return (
        HttpSpans(f"{collector.http}/v1/traces"),
        HttpLogs(f"{collector.http}/v1/logs"),
        HttpMetrics(f"{collector.http}/v1/metrics", preferred_temporality=DELTA),
    )


def send(collector: Collector, protocol: str, line: str = "a line") -> Sent:
    """Send a run span, an attempt span that failed, two log records and two metrics."""
    spans, logs, metrics = exporters(collector, protocol)
    resource = Resource.create(
        {**IDENTITY, "metaflow.attempt": 0, "service.name": "metaflow", "deployment.environment.name": "dev"}
    )
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    loggers = LoggerProvider(resource=resource)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    meters = MeterProvider([PeriodicExportingMetricReader(metrics)], resource=resource)

    logger = loggers.get_logger("train.logger")
    tracer = tracers.get_tracer("test")
    with tracer.start_as_current_span("RUN Hello") as run, tracer.start_as_current_span("train") as attempt:
        attempt.set_status(StatusCode.ERROR, "boom")
        logger.emit(
            LogRecord(
                timestamp=time.time_ns(),
                severity_number=SeverityNumber.WARN,
                severity_text="WARN",
                body=line,
                attributes={"log.record.uid": f"{line}-1"},
            )
        )
        logger.emit(LogRecord(timestamp=time.time_ns(), body="train ended", event_name="metaflow.task.end"))
    meter = meters.get_meter("test")
    meter.create_histogram("metaflow.task.duration", "s").record(1.5, {"metaflow.task.result": "failure"})
    meter.create_counter("metaflow.task.retries").add(2)
    for provider in (tracers, loggers, meters):
        provider.shutdown()
    return Sent(
        format_trace_id(run.get_span_context().trace_id),
        format_span_id(run.get_span_context().span_id),
        format_span_id(attempt.get_span_context().span_id),
    )


def everything(vendor: Vendor) -> tuple[list[Log], list[Span], list[Metric]]:
    """Return the logs, spans and metrics that a vendor received."""
    return vendor.logs(), vendor.spans(), vendor.metrics()


def retries(vendor: Vendor) -> float:
    """Return what a vendor was sent of the counter; each `send` counts two, and points of one second are one."""
    return sum(metric.value for metric in vendor.metrics() if metric.name == "metaflow.task.retries")


def assert_arrived(vendors: Vendors, sent: Sent, line: str = "a line") -> None:
    """Assert that each vendor received all that `send` sent, once, with flow, run and step."""
    vendors.wait_for(lambda: all(len(items) >= 2 for vendor in vendors.both for items in everything(vendor)))
    for vendor in vendors.both:
        logs = {log.body: log for log in vendor.logs()}
        assert sorted(log.body for log in vendor.logs()) == sorted([line, "train ended"])
        assert (logs[line].trace_id, logs[line].span_id) == (sent.trace_id, sent.span_id)
        assert logs[line].severity.lower() == "warn"
        assert logs[line].attributes["log.record.uid"] == f"{line}-1"
        assert logs[line].attributes["otel.scope.name"] == "train.logger"
        assert logs["train ended"].attributes["event.name"] == "metaflow.task.end"

        spans = {span.name: span for span in vendor.spans()}
        run, attempt = spans["RUN Hello"], spans["train"]
        assert len(vendor.spans()) == 2
        assert {run.trace_id, attempt.trace_id} == {sent.trace_id}
        assert (run.span_id, run.parent_id) == (sent.run_span_id, "")
        assert (attempt.span_id, attempt.parent_id) == (sent.span_id, sent.run_span_id)
        assert (run.status, attempt.status) == ("ok", "error")
        assert run.start <= attempt.start < attempt.end <= run.end

        metrics = {metric.name: metric for metric in vendor.metrics()}
        assert len(vendor.metrics()) == 2
        assert (metrics["metaflow.task.duration"].count, metrics["metaflow.task.duration"].value) == (1, 1.5)
        assert metrics["metaflow.task.duration"].attributes["metaflow.task.result"] == "failure"
        assert metrics["metaflow.task.retries"].value == 2

        for item in (item for items in everything(vendor) for item in items):
            # A run's id is no dimension of a metric.
            identity = {
                name: value
                for name, value in IDENTITY.items()
                if name != "metaflow.run.id" or item not in metrics.values()
            }
            assert item.attributes.items() >= {**identity, "metaflow.attempt": "0", "service.name": "metaflow"}.items()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_both_vendors_receive_all_three_signals_once(tmp_path: Path, vendors: Vendors, protocol: str) -> None:
    """Flow, run and step are on every record, and the three signals hang together by their ids."""
    with Collector(tmp_path, vendors.environment) as collector:
        sent = send(collector, protocol)
        assert_arrived(vendors, sent)


def test_indexes_are_named(tmp_path: Path, vendors: Vendors) -> None:
    """Splunk keeps metrics in indexes of their own kind, so each signal names its own."""
    with Collector(tmp_path, vendors.environment) as collector:
        send(collector, "http/protobuf")
        vendors.wait_for(lambda: all(everything(vendors.splunk)))
    events: list[Log | Span] = [*vendors.splunk.logs(), *vendors.splunk.spans()]
    assert {event.attributes["com.splunk.index"] for event in events} == {"flows"}
    assert {metric.attributes["com.splunk.index"] for metric in vendors.splunk.metrics()} == {"flow_metrics"}


def test_one_vendor_alone(tmp_path: Path, vendors: Vendors) -> None:
    """A vendor that is not configured gets nothing, and the collector prints at its start how to enable it."""
    with Collector(tmp_path, vendors.splunk_environment) as collector:
        send(collector, "http/protobuf")
        vendors.wait_for(lambda: all(everything(vendors.splunk)))
    assert "not exporting to datadog: set DD_API_KEY to enable it" in collector.output
    assert everything(vendors.datadog) == ([], [], [])


def test_no_vendor_at_all_shows_a_sample(tmp_path: Path) -> None:
    """A first try needs no account: the collector's own output shows what arrives."""
    with Collector(tmp_path, {}) as collector:
        send(collector, "http/protobuf", line="seen in the sample")
        collector.wait_for_output("seen in the sample", timeout=10)
    assert "DD_API_KEY" in collector.output
    assert "SPLUNK_HEC_URL and SPLUNK_HEC_TOKEN" in collector.output


@pytest.mark.parametrize("missing", ["DD_API_KEY", "SPLUNK_HEC_URL", "SPLUNK_HEC_TOKEN"])
def test_a_missing_variable_stops_the_start_and_is_named(tmp_path: Path, missing: str) -> None:
    """One line names the variable, and what to do."""
    complete = Vendors(tmp_path / "vendors").environment
    half = {name: value for name, value in complete.items() if name != missing}
    with pytest.raises(CollectorError) as error, Collector(tmp_path, half):
        pass
    (line,) = str(error.value).splitlines()
    assert f"{missing} is not set" in line
    assert f"set {missing}" in line
    assert complete["SPLUNK_HEC_TOKEN"] not in line


def test_a_destination_asked_for_by_name_must_be_whole(tmp_path: Path) -> None:
    """With COLLECTOR_DESTINATIONS, a key lost in a deployment stops the start instead of a vendor."""
    environment = {"COLLECTOR_DESTINATIONS": "datadog,splunk", "DD_API_KEY": "abc"}
    with (
        pytest.raises(CollectorError, match="SPLUNK_HEC_URL and SPLUNK_HEC_TOKEN are not set"),
        Collector(tmp_path, environment),
    ):
        pass


def test_a_vendor_that_is_away_neither_holds_up_nor_doubles_the_other(tmp_path: Path, vendors: Vendors) -> None:
    """Each vendor has its own queue, so the sender never has reason to send again."""
    (nobody,) = free_ports(1)
    environment = vendors.environment | {"SPLUNK_HEC_URL": f"http://localhost:{nobody}"}
    with Collector(tmp_path, environment) as collector:
        send(collector, "http/protobuf")
        collector.wait_for_output("Exporting failed", timeout=10)
        send(collector, "http/protobuf")
        vendors.wait_for(lambda: retries(vendors.datadog) == 4 and len(vendors.datadog.spans()) == 4)
    assert [len(items) for items in everything(vendors.datadog)[:2]] == [4, 4]
    assert retries(vendors.datadog) == 4


@pytest.mark.parametrize("route", ["splunk", "datadog", "datadog_otlp"])
def test_the_queue_survives_a_crash(tmp_path: Path, vendors: Vendors, route: str) -> None:
    """What was accepted while the vendor was away is on disk, and delivered by the next collector."""
    environment = getattr(vendors, f"{route}_environment")
    vendors.stop()
    collector = Collector(tmp_path, environment)
    with collector:
        sent = send(collector, "http/protobuf")
        collector.wait_for_output("Exporting failed", timeout=10)
        collector.kill()
    with Vendors(tmp_path / "vendors", vendors.ports) as again, Collector(tmp_path, environment):
        vendor = getattr(again, route)
        again.wait_for(lambda: all(everything(vendor)))
    assert {log.body for log in vendor.logs()} == {"a line", "train ended"}
    assert {span.trace_id for span in vendor.spans()} == {sent.trace_id}


def test_datadogs_exporter_loses_nothing_by_a_crash_after_it_took_it(tmp_path: Path, vendors: Vendors) -> None:
    """What it has in memory only, spans for up to five seconds, is on disk still."""
    collector = Collector(tmp_path, vendors.datadog_environment)
    with collector:
        sent = send(collector, "http/protobuf")
        vendors.wait_for(vendors.datadog.metrics)
        collector.kill()
    with Collector(tmp_path, vendors.datadog_environment):
        vendors.wait_for(lambda: all(everything(vendors.datadog)))
    assert {log.body for log in vendors.datadog.logs()} == {"a line", "train ended"}
    assert {span.trace_id for span in vendors.datadog.spans()} == {sent.trace_id}


def test_health(tmp_path: Path) -> None:
    """The address that container platforms ask."""
    with Collector(tmp_path, {}) as collector:
        assert requests.get(collector.health, timeout=5).json()["status"] == "Server available"


@pytest.mark.parametrize("overlays", [[], ["filelog"], ["awscloudwatch"], ["filelog", "awscloudwatch"]])
def test_every_combination_of_destinations_is_a_valid_configuration(tmp_path: Path, overlays: list[str]) -> None:
    """What is left of the shipped configuration is whole, whatever the environment switches off."""
    datadog = {"DD_API_KEY": "abc"}
    splunk = {"SPLUNK_HEC_URL": "https://localhost:8088", "SPLUNK_HEC_TOKEN": "t"}
    otlp = {"COLLECTOR_OTLP_FORWARD_ENDPOINT": "http://localhost:4318"}
    configs = [PRODUCT_CONFIG, *(PRODUCT_CONFIG.with_name(f"{name}.yaml") for name in overlays)]
    for chosen in itertools.product(
        [{}, datadog, {**datadog, "COLLECTOR_DATADOG_ROUTE": "otlp"}], [{}, splunk], [{}, otlp]
    ):
        environment = {"HOME": str(tmp_path)}
        for each in chosen:
            environment |= each
        result = subprocess.run(
            [PRODUCT, "validate", *(f"--config={config}" for config in configs)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"{environment}: {result.stderr}"
