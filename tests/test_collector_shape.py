"""What the collector makes of records before a vendor sees them: names, dimensions, secrets, environments."""

from __future__ import annotations

import gzip
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from collectors import Collector, Datadog, Vendor, Vendors
from http_service import HttpService
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import StatusCode
from running import eventually
from test_collector import everything, exporters, send
from test_collector_refusals import logs, metrics, pairs, post, spans

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from collectors import Log, Metric, Span

RESOURCE = {
    "service.name": "metaflow",
    "service.version": "1.2.3",
    "service.instance.id": "5d0f6c5e-0000-4000-8000-000000000000",
    "host.name": "worker-7",
    "deployment.environment.name": "production",
    "metaflow.flow.name": "Hello",
    "metaflow.run.id": "12",
    "metaflow.step.name": "train",
    "metaflow.task.id": "7",
}
IDS = {"metaflow.run.id", "metaflow.task.id", "service.instance.id"}


def emit(
    collector: Collector,
    resource: Mapping[str, str] = RESOURCE,
    *,
    body: Any = "a line",
    attributes: Mapping[str, Any] | None = None,
    message: str = "boom",
) -> None:
    """Send a log record, the span of an attempt that failed with a ValueError of that `message`, and a metric."""
    spans, logs, metrics = exporters(collector, "http/protobuf")
    described = Resource(resource)
    tracers = TracerProvider(resource=described)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    loggers = LoggerProvider(resource=described)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    meters = MeterProvider([PeriodicExportingMetricReader(metrics)], resource=described)
    with tracers.get_tracer("test").start_as_current_span(
        "train", attributes={"metaflow.step.name": "train", **(attributes or {})}
    ) as span:
        if message:
            span.record_exception(ValueError(message))
            span.set_status(StatusCode.ERROR, message)
        loggers.get_logger("test").emit(
            LogRecord(
                timestamp=time.time_ns(),
                severity_number=SeverityNumber.ERROR,
                severity_text="ERROR",
                body=body,
                attributes={
                    "exception.type": "ValueError",
                    "exception.message": message,
                    "exception.stacktrace": f"Traceback (most recent call last):\nValueError: {message}",
                    **(attributes or {}),
                },
            )
        )
    meters.get_meter("test").create_counter("metaflow.task.retries").add(1, {"metaflow.task.id": "7"})
    for provider in (tracers, loggers, meters):
        provider.shutdown()


class Intake(HttpService):
    """An HTTP server that takes everything: for what the vendors' receivers do not show."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(200)
                self.end_headers()

        super().__init__(Handler)

    def statistics(self) -> list[dict[str, Any]]:
        """Datadog's trace metrics: hits, errors and durations of each service, operation and resource."""
        return [
            group
            for path, _, body in self.requests
            if path == "/api/v0.2/stats"
            for stats in msgpack.unpackb(gzip.decompress(body))["Stats"]
            for bucket in stats["Stats"]
            for group in bucket["Stats"]
        ]


def arrived(vendors: Vendors, *which: Vendor) -> list[tuple[Log, Span, Metric]]:
    """The one log, span and metric that each vendor received."""
    vendors.wait_for(lambda: all(all(everything(vendor)) for vendor in which))
    found = []
    for vendor in which:
        (log,), (span,), metrics = everything(vendor)
        found.append((log, span, next(metric for metric in metrics if metric.name == "metaflow.task.retries")))
    return found


def both_routes(vendors: Vendors, route: str) -> tuple[dict[str, str], Vendor]:
    if route == "otlp":
        return vendors.datadog_otlp_environment, vendors.datadog_otlp
    return vendors.datadog_environment, vendors.datadog


@pytest.mark.parametrize("route", ["exporter", "otlp"])
def test_datadog_gets_the_fields_that_its_products_use(tmp_path: Path, vendors: Vendors, route: str) -> None:
    """Service, environment, version and host; operation and resource; Error Tracking; logs beside their trace."""
    environment, vendor = both_routes(vendors, route)
    with Collector(tmp_path, environment) as collector:
        emit(collector)
        ((log, span, metric),) = arrived(vendors, vendor)

    for item in (log, span):
        assert item.attributes["service.name"] == "metaflow"
        assert item.attributes["metaflow.run.id"] == "12"
        assert item.attributes["error.type"] == "ValueError"
        assert item.attributes["error.stack"].rstrip().endswith("ValueError: boom")
    assert log.severity == "ERROR"
    assert log.attributes["error.kind"] == "ValueError"
    assert log.attributes["error.message"] == "boom"
    assert (log.trace_id, log.span_id) == (span.trace_id, span.span_id)
    assert span.name == "Hello/train"
    assert span.attributes["operation.name"] == "metaflow.task"
    assert span.attributes["error.message"] == "boom"
    assert span.status == "error"
    assert metric.attributes["service.name"] == "metaflow"
    if isinstance(vendor, Datadog):
        assert {"env:production", "service:metaflow", "version:1.2.3"} <= set(log.attributes["ddtags"].split(","))
        assert log.attributes["hostname"] == "worker-7"
        assert span.attributes["deployment.environment.name"] == "production"
        assert span.attributes["service.version"] == "1.2.3"
        assert metric.attributes["host.name"] == "worker-7"
        assert metric.attributes["deployment.environment.name"] == "production"
    else:
        # The intake derives its own fields from these.
        for item in (log, span, metric):
            assert (
                item.attributes.items()
                >= {
                    "deployment.environment.name": "production",
                    "service.version": "1.2.3",
                    "host.name": "worker-7",
                }.items()
            )


def test_datadog_gets_hits_and_errors_of_each_resource(tmp_path: Path, vendors: Vendors) -> None:
    """APM's trace metrics; without them its service pages are empty."""
    with Intake() as intake:
        environment = vendors.datadog_environment | {"DD_APM_DD_URL": intake.url}
        soon = "yaml:connectors::datadog/stats::traces::bucket_interval: 1s"
        with Collector(tmp_path, environment, [soon]) as collector:
            emit(collector)
            emit(collector, message="")
            eventually(lambda: sum(group["Hits"] for group in intake.statistics()) == 2)
    groups = intake.statistics()
    assert {(group["Service"], group["Name"], group["Resource"]) for group in groups} == {
        ("metaflow", "metaflow.task", "Hello/train")
    }
    assert sum(group["Errors"] for group in groups) == 1


def test_the_otlp_intake_is_shown_the_key(tmp_path: Path) -> None:
    """The key travels in a header, and resource attributes are asked for as tags."""
    environment = {"DD_API_KEY": "0123456789abcdef", "COLLECTOR_DATADOG_ROUTE": "otlp"}
    with Intake() as intake, Collector(tmp_path, environment | {"DD_OTLP_URL": intake.url}) as collector:
        send(collector, "http/protobuf")
        eventually(lambda: {path for path, _, _ in intake.requests} == {"/v1/logs", "/v1/traces", "/v1/metrics"})
    assert {headers["dd-api-key"] for _, headers, _ in intake.requests} == {"0123456789abcdef"}
    assert all("resource_attributes_as_tags" in headers["dd-otel-metric-config"] for _, headers, _ in intake.requests)
    assert "0123456789abcdef" not in collector.output


def test_splunk_gets_index_source_sourcetype_and_host_of_each_record(tmp_path: Path, vendors: Vendors) -> None:
    """A search such as index=flows source=Hello metaflow.run.id=12 finds logs and spans."""
    with Collector(tmp_path, vendors.splunk_environment) as collector:
        emit(collector)
        ((log, span, metric),) = arrived(vendors, vendors.splunk)
    for kind, item in (("log", log), ("span", span), ("metric", metric)):
        assert (
            item.attributes.items()
            >= {
                "com.splunk.source": "Hello",
                "com.splunk.sourcetype": f"metaflow:{kind}",
                "com.splunk.index": "flow_metrics" if kind == "metric" else "flows",
                "host.name": "worker-7",
            }.items()
        )
    for event in (log, span):
        assert event.attributes["metaflow.run.id"] == "12"
        assert event.attributes["metaflow.step.name"] == "train"


def test_splunks_source_and_sourcetype_may_be_set(tmp_path: Path, vendors: Vendors) -> None:
    chosen = {"SPLUNK_SOURCE": "ml-platform", "SPLUNK_SOURCETYPE": "otel"}
    with Collector(tmp_path, vendors.splunk_environment | chosen) as collector:
        emit(collector)
        for item in arrived(vendors, vendors.splunk)[0]:
            assert item.attributes["com.splunk.source"] == "ml-platform"
            assert item.attributes["com.splunk.sourcetype"] == "otel"


@pytest.mark.parametrize("keep", ["", "true"])
def test_ids_of_runs_are_no_dimensions_of_metrics_unless_asked_for(tmp_path: Path, vendors: Vendors, keep: str) -> None:
    """Each value of a dimension is a time series, and a time series is what costs."""
    with Collector(tmp_path, vendors.environment | {"COLLECTOR_METRICS_KEEP_RUN_ID": keep}) as collector:
        emit(collector)
        for log, span, metric in arrived(vendors, *vendors.both):
            assert bool(metric.attributes.keys() & IDS) is bool(keep)
            assert metric.attributes["metaflow.step.name"] == "train"
            assert log.attributes.keys() & span.attributes.keys() >= IDS


def test_secrets_are_masked_wherever_they_stand(tmp_path: Path, vendors: Vendors) -> None:
    """Of senders that do not mask themselves: body, attributes, status of a span, text of an exception."""
    secrets = [
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "ghp_" + "a1b2c3d4e5" * 3,
        "xoxb-" + "1234567890-abcdef",
        "eyJhbGciOiJIUzI1" + ".eyJzdWIiOiIxMjM0." + "c2lnbmF0dXJl",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
        "employee-4711",
    ]
    texts = [f"key {secret} for the host" for secret in secrets]
    texts += ["password=hunter2 for the host", "postgres://ann:hunter2@db for the host"]
    with Collector(tmp_path, vendors.environment | {"COLLECTOR_REDACT": r"employee-\d+"}) as collector:
        for text in texts:
            emit(
                collector, body=text, message=text, attributes={"note": text, "db.password": "x", "list": [text, "two"]}
            )
        vendors.wait_for(
            lambda: all(len(found) == len(texts) for each in vendors.both for found in everything(each)[:2])
        )
    received = "".join(path.read_text() for path in (tmp_path / "vendors").glob("*.jsonl"))
    for secret in (*secrets, "hunter2", "MIIEow"):
        assert secret not in received
    for log in vendors.splunk.logs():
        assert "****" in log.body
        assert log.body.endswith(" for the host")
        assert log.attributes["db.password"] == "****"


def test_nested_bodies_are_masked_too(tmp_path: Path, vendors: Vendors) -> None:
    with Collector(tmp_path, vendors.environment) as collector:
        emit(collector, body={"level one": {"level two": "password=hunter2hunter2", "kept": "words"}})
        arrived(vendors, *vendors.both)
    received = "".join(path.read_text() for path in (tmp_path / "vendors").glob("*.jsonl"))
    assert "hunter2" not in received
    assert "words" in received


RESERVED = {
    "message": "other", "msg": "other", "host": "elsewhere", "hostname": "elsewhere", "Host": "elsewhere",
    "index": "main", "source": "mine", "sourcetype": "mine", "date": "1999-01-01", "timestamp": "1", "time": "1",
    "status": "done", "severity": "fatal", "level": "fatal", "service": "x", "event": "y", "fields": "z",
    "ddsource": "mine", "ddtags": "a:b", "env": "elsewhere", "version": "0", "trace_id": "0", "span_id": "0",
    "_time": "1", "metric_name": "other", "le": "1", "@timestamp": "1999-01-01",
}  # fmt: skip


@pytest.mark.parametrize("where", ["resource", "record"])
@pytest.mark.parametrize("route", ["datadog", "datadog_otlp", "splunk"])
def test_reserved_names_are_moved_aside(tmp_path: Path, vendors: Vendors, route: str, where: str) -> None:
    """`extra={"message": …}` and `@otel(attributes={"host": …})` change neither text nor host, time or index."""
    vendor = getattr(vendors, route)
    resource, attributes = {**RESOURCE}, {"rows": 3, "when": "now"}
    (resource if where == "resource" else attributes).update(RESERVED)
    with Collector(tmp_path, getattr(vendors, f"{route}_environment")) as collector:
        emit(collector, resource, attributes=attributes)
        ((log, span, metric),) = arrived(vendors, vendor)
    assert log.body == "a line"
    assert log.severity == "ERROR"
    assert log.trace_id == span.trace_id != "0"
    assert log.attributes["rows"] == "3"
    for item in (log, span, metric):
        assert item.attributes["host.name"] == "worker-7"
        assert route == "splunk" or item.attributes.get("hostname", "worker-7") == "worker-7"
        assert item.attributes["service.name"] == "metaflow"
    # Under these names the vendor has its own values, or none.
    free = {"metric_name", "le", "index", "sourcetype", "fields", "_time"}
    if route == "splunk":
        free = {"message", "msg", "hostname", "status", "severity", "level", "service", "ddsource", "ddtags", "env"}
        free |= {"version", "@timestamp"}
        assert log.attributes["com.splunk.index"] == "flows"
    for item in (log, metric, *((span,) if where == "resource" or route != "splunk" else ())):
        assert {name for name, value in RESERVED.items() if item.attributes.get(name) == value} <= free
    for name in RESERVED.keys() - free:
        assert log.attributes[f"extra.{name}"] == RESERVED[name]


@pytest.mark.parametrize("route", ["datadog", "datadog_otlp", "splunk"])
def test_a_number_that_json_has_not_loses_no_record(tmp_path: Path, vendors: Vendors, route: str) -> None:
    """NaN and infinity in attributes, however deep, on whatever: text, of senders of any kind."""
    numbers = {"nan": float("nan"), "up": float("inf"), "down": float("-inf")}
    vendor = getattr(vendors, route)
    deep = {**numbers, "list": [1.5, float("nan")], "map": {"map": numbers}}
    records = logs(["a line"], numbers, deep)
    records.resource_logs[0].scope_logs[0].scope.attributes.extend(pairs(numbers))
    body = logs([deep], numbers)
    traces = spans(["train"], numbers)
    span = traces.resource_spans[0].scope_spans[0].spans[0]
    span.attributes.extend(pairs(deep))
    span.events.add(name="exception", attributes=pairs(deep))
    span.links.add(trace_id=b"1" * 16, span_id=b"2" * 8, attributes=pairs(deep))
    measured = metrics(["rows", "rows"], numbers)
    for metric, number in zip(measured.resource_metrics[0].scope_metrics[0].metrics, (2.0, float("nan")), strict=True):
        metric.sum.data_points[0].as_double = number
        metric.sum.data_points[0].attributes.extend(pairs(numbers))
    with Collector(tmp_path, getattr(vendors, f"{route}_environment")) as collector:
        post(collector, records, body, traces, measured)
        vendors.wait_for(lambda: len(vendor.logs()) == 2 and vendor.spans() and vendor.metrics())
        assert "1 points of the metric rows" in collector.output
    log = next(log for log in vendor.logs() if log.body == "a line")
    (arrived_span,) = vendor.spans()
    (metric,) = vendor.metrics()
    assert metric.value == 2
    for item in (log, arrived_span, metric):
        assert [item.attributes[key].lower() for key in numbers] == ["nan", "infinity", "-infinity"]


def test_development_has_an_index_of_its_own(tmp_path: Path, vendors: Vendors) -> None:
    """Records of the production environment are production; those with another environment are development."""
    own = {"SPLUNK_DEVELOPMENT_INDEX": "flows_dev", "SPLUNK_DEVELOPMENT_METRICS_INDEX": "flow_metrics_dev"}
    with Collector(tmp_path, vendors.splunk_environment | own) as collector:
        for environment in ("production", "user.ann"):
            emit(collector, {**RESOURCE, "deployment.environment.name": environment})
        vendors.wait_for(lambda: all(len(items) == 2 for items in everything(vendors.splunk)))
    for items, suffix in zip(everything(vendors.splunk), ("flows", "flows", "flow_metrics"), strict=True):
        assert {
            item.attributes["deployment.environment.name"]: item.attributes["com.splunk.index"] for item in items
        } == {
            "production": suffix,
            "user.ann": f"{suffix}_dev",
        }


def test_development_can_be_dropped_at_the_edge(tmp_path: Path, vendors: Vendors) -> None:
    with Collector(tmp_path, vendors.environment | {"COLLECTOR_DEVELOPMENT": "drop"}) as collector:
        for environment in ("user.ann", "test.fraud", "production"):
            emit(collector, {**RESOURCE, "deployment.environment.name": environment})
        arrived(vendors, *vendors.both)
    for vendor in vendors.both:
        for (item,) in everything(vendor):
            assert "production" in item.attributes["deployment.environment.name"]
