"""The collectors that the tests run: the product's own, and one that stands for the vendors.

    with Vendors(tmp_path / "vendors") as vendors, Collector(tmp_path, vendors.environment) as collector:
        ...  # something that sends to collector.http or collector.grpc
        vendors.wait_for(lambda: vendors.datadog.logs() and vendors.splunk.logs())

The same as fixtures, once the conftest has `pytest_plugins = ["collectors"]`: `vendors`,
`collector` and, for the image instead of the binary, `container`.

The vendors' collector is made of the vendors' own receivers (`tests/vendors`), so what
`vendors.datadog` and `vendors.splunk` return is what Datadog and Splunk would have been sent,
brought into one shape: `Log`, `Span` and `Metric`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from typing_extensions import Self

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ROOT / "collector/dist/otelcol-metaflow"
PRODUCT_CONFIG = ROOT / "collector/config/config.yaml"
VENDORS = ROOT / "tests/vendors/dist/otelcol-vendors"
VENDORS_CONFIG = ROOT / "tests/vendors/config.yaml"
# A tag of this checkout's own: another one that is tested at the same time builds its image, too.
IMAGE = f"localhost/otelcol-metaflow:test-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
PODMAN = ["podman", "--runtime=runc"]
# Below those that the kernel gives to outgoing connections (ip_local_port_range), and with no seed that tests share.
_PORTS = range(10_000, 32_000)
_DICE = random.SystemRandom()

START_TIMEOUT = 30.0
"""Seconds that a collector may take to start. It takes 0.1 on an idle machine."""


@dataclass(frozen=True)
class Log:
    """A log record as a vendor received it, attributes of the resource included; time is milliseconds since 1970."""

    body: str
    severity: str
    trace_id: str
    span_id: str
    attributes: dict[str, str]
    time: int = 0


@dataclass(frozen=True)
class Span:
    """A span as a vendor received it; times are nanoseconds since 1970, status is ok or error."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    status: str
    attributes: dict[str, str]


@dataclass(frozen=True)
class Metric:
    """One data point of a metric as a vendor received it; of a histogram, sum and count; time is seconds since 1970."""

    name: str
    value: float
    count: int
    attributes: dict[str, str]
    time: int = 0


class Vendor(ABC):
    """What one vendor received, read from the files that its receivers wrote."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @abstractmethod
    def logs(self) -> list[Log]: ...

    @abstractmethod
    def spans(self) -> list[Span]: ...

    @abstractmethod
    def metrics(self) -> list[Metric]: ...

    def _read(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the OTLP payloads of a file, but for a last line still being written."""
        path = self._directory / name
        if not path.exists():
            return
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)


class Datadog(Vendor):
    """What the Datadog intakes were sent.

    Logs are JSON objects in the body, with the attributes of the resource among their keys.
    """

    def logs(self) -> list[Log]:
        found = []
        for record, _ in _records(self._read("datadog_logs.jsonl"), "resourceLogs", "scopeLogs", "logRecords"):
            text = _value(record["body"])
            if not text:  # The exporter's connection check sends an empty record.
                continue
            fields = json.loads(text)
            found.append(
                Log(
                    body=fields.pop("message", ""),
                    severity=fields.pop("status", ""),
                    trace_id=fields.pop("otel.trace_id", ""),
                    span_id=fields.pop("otel.span_id", ""),
                    attributes=_texts(_attributes(record) | fields),
                    time=_milliseconds(fields.get("@timestamp", "")),
                )
            )
        return found

    def spans(self) -> list[Span]:
        found = []
        for span, resource in _records(self._read("datadog_traces.jsonl"), "resourceSpans", "scopeSpans", "spans"):
            attributes = _texts(resource | _attributes(span))
            found.append(
                Span(
                    # Datadog's "resource"; its "name" is the kind of operation.
                    name=attributes.pop("dd.span.Resource", ""),
                    # Datadog's own ids keep the lower half only.
                    trace_id=attributes.pop("otel.trace_id", ""),
                    span_id=span["spanId"],
                    parent_id=span.get("parentSpanId", ""),
                    start=int(span["startTimeUnixNano"]),
                    end=int(span["endTimeUnixNano"]),
                    status=_status(span.get("status", {}).get("code")),
                    attributes=attributes | {"operation.name": span["name"]},
                )
            )
        return found

    def metrics(self) -> list[Metric]:
        found = []
        for metric, resource in _records(
            self._read("datadog_metrics.jsonl"), "resourceMetrics", "scopeMetrics", "metrics"
        ):
            if metric["name"].startswith(("otel.", "datadog.")):  # The exporter's own metrics.
                continue
            found += [
                Metric(
                    name=metric["name"],
                    value=_number(point),
                    count=int(point.get("count", 1)),
                    attributes=_texts(resource | _attributes(point)),
                    time=int(point["timeUnixNano"]) // 1_000_000_000,
                )
                for point in _points(metric)
            ]
        return found


class DatadogOtlp(Vendor):
    """What Datadog's OTLP intake was sent."""

    def logs(self) -> list[Log]:
        return [
            Log(
                body=_text(_value(record["body"])),
                severity=record.get("severityText", ""),
                trace_id=record.get("traceId", ""),
                span_id=record.get("spanId", ""),
                attributes=_texts(resource | _attributes(record)),
                time=int(record["timeUnixNano"]) // 1_000_000,
            )
            for record, resource in _records(self._read("otlp_logs.jsonl"), "resourceLogs", "scopeLogs", "logRecords")
        ]

    def spans(self) -> list[Span]:
        found = []
        for span, resource in _records(self._read("otlp_traces.jsonl"), "resourceSpans", "scopeSpans", "spans"):
            attributes = _texts(resource | _attributes(span))
            found.append(
                Span(
                    name=attributes.pop("resource.name", span["name"]),
                    trace_id=span["traceId"],
                    span_id=span["spanId"],
                    parent_id=span.get("parentSpanId", ""),
                    start=int(span["startTimeUnixNano"]),
                    end=int(span["endTimeUnixNano"]),
                    status=_status(span.get("status", {}).get("code")),
                    attributes=attributes,
                )
            )
        return found

    def metrics(self) -> list[Metric]:
        return [
            Metric(
                name=metric["name"],
                value=_number(point),
                count=int(point.get("count", 1)),
                attributes=_texts(resource | _attributes(point)),
                time=int(point["timeUnixNano"]) // 1_000_000_000,
            )
            for metric, resource in _records(
                self._read("otlp_metrics.jsonl"), "resourceMetrics", "scopeMetrics", "metrics"
            )
            for point in _points(metric)
        ]


class Splunk(Vendor):
    """What the HTTP event collector was sent.

    Spans are events whose body is a map; a histogram is one metric for its sum, one for its
    count and one for each bucket.
    """

    def logs(self) -> list[Log]:
        found = []
        for record, resource in self._events():
            body = _value(record["body"])
            if _is_span(body):
                continue
            attributes = _texts(resource | _attributes(record))
            found.append(
                Log(
                    body=body if isinstance(body, str) else json.dumps(body),
                    severity=attributes.pop("otel.log.severity.text", ""),
                    trace_id=attributes.pop("trace_id", ""),
                    span_id=attributes.pop("span_id", ""),
                    attributes=attributes,
                    time=int(record["timeUnixNano"]) // 1_000_000,
                )
            )
        return found

    def spans(self) -> list[Span]:
        found = []
        for record, resource in self._events():
            body = _value(record["body"])
            if _is_span(body):
                found.append(
                    Span(
                        name=body["name"],
                        trace_id=body["trace_id"],
                        span_id=body["span_id"],
                        parent_id=body.get("parent_span_id", ""),
                        start=int(body["start_time"]),
                        end=int(body["end_time"]),
                        status=_status(body.get("status", {}).get("code")),
                        attributes=_texts(resource | _attributes(record) | body.get("attributes", {})),
                    )
                )
        return found

    def metrics(self) -> list[Metric]:
        found: dict[Any, Metric] = {}
        for metric, resource in _records(
            self._read("splunk_metrics.jsonl"), "resourceMetrics", "scopeMetrics", "metrics"
        ):
            for point in _points(metric):
                attributes = _texts(resource | _attributes(point))
                if "le" in attributes:
                    continue
                name, value, count = metric["name"], _number(point), 1
                if attributes.get("metric_type") == "Histogram":
                    name, _, part = name.rpartition("_")
                    value, count = (value, 0) if part == "sum" else (0.0, int(value))
                key = (name, point["timeUnixNano"], tuple(sorted(attributes.items())))
                other = found.get(key, Metric(name, 0.0, 0, attributes))
                found[key] = Metric(name, other.value + value, other.count + count, attributes)
        return list(found.values())

    def metric_events(self) -> list[dict[str, str]]:
        """The dimensions of each metric event, those of buckets included."""
        return [
            _texts(resource | _attributes(point))
            for metric, resource in _records(
                self._read("splunk_metrics.jsonl"), "resourceMetrics", "scopeMetrics", "metrics"
            )
            for point in _points(metric)
        ]

    def _events(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        return _records(self._read("splunk_logs.jsonl"), "resourceLogs", "scopeLogs", "logRecords")


class CollectorError(Exception):
    """A collector did not start; the text is what it printed."""


class Process:
    """A collector as a child process: entered when it is ready, left when it has stopped."""

    READY = "Everything is ready"

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = dict(environment)
        self._output: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._process: subprocess.Popen[str]
        self._reader: threading.Thread

    def __enter__(self) -> Self:
        if not shutil.which(self._command[0]):
            message = f"{self._command[0]} is not built: make collector vendors"
            raise CollectorError(message)
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.wait_for_output(self.READY, START_TIMEOUT)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """All that it printed so far."""
        return "".join(self._output)

    def wait_for_output(self, text: str, timeout: float) -> None:
        """Return when `text` was printed.

        Raises:
            CollectorError: The process ended, or `timeout` seconds went by.

        """
        with self._news:
            self._news.wait_for(lambda: text in self.output or self._ended, timeout)
        if text not in self.output:
            raise CollectorError(self.output or f"{self._command[0]}: no output within {timeout} s")

    def stop(self) -> int:
        """Ask it to end, wait until it has, and return the exit code."""
        self._process.terminate()
        try:
            code = self._process.wait(START_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join()
        return code

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with self._news:
                    self._output.append(line)
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


class Vendors(Process):
    """The vendors' receivers on free ports, and what they received."""

    def __init__(self, directory: Path, ports: tuple[int, ...] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        # The same ports again stand for vendors that were away and came back.
        datadog, splunk, otlp = self.ports = ports or free_ports(3)
        (health,) = free_ports(1)
        super().__init__(
            [str(VENDORS), "--config", str(VENDORS_CONFIG)],
            {
                "VENDORS_DIR": str(directory),
                "DATADOG_PORT": str(datadog),
                "SPLUNK_PORT": str(splunk),
                "OTLP_PORT": str(otlp),
                "COLLECTOR_HEALTH_PORT": str(health),
            },
        )
        self.datadog = Datadog(directory)
        self.datadog_otlp = DatadogOtlp(directory)
        self.splunk = Splunk(directory)
        self.datadog_environment = {
            "DD_API_KEY": "0123456789abcdef0123456789abcdef",
            "DD_DD_URL": f"http://localhost:{datadog}",
            "DD_APM_DD_URL": f"http://localhost:{datadog}",
            "DD_LOGS_CONFIG_LOGS_DD_URL": f"http://localhost:{datadog}",
        }
        self.datadog_otlp_environment = {
            "DD_API_KEY": "0123456789abcdef0123456789abcdef",
            "COLLECTOR_DATADOG_ROUTE": "otlp",
            "DD_OTLP_URL": f"http://localhost:{otlp}",
        }
        self.splunk_environment = {
            "SPLUNK_HEC_URL": f"http://localhost:{splunk}",
            "SPLUNK_HEC_TOKEN": "00000000-0000-0000-0000-000000000000",
            "SPLUNK_INDEX": "flows",
            "SPLUNK_METRICS_INDEX": "flow_metrics",
        }

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a product collector that sends to both vendors."""
        return self.datadog_environment | self.splunk_environment

    @property
    def both(self) -> tuple[Vendor, Vendor]:
        return self.datadog, self.splunk

    def wait_for(self, arrived: Callable[[], object], timeout: float = 30.0) -> None:
        """Return when `arrived()` is true of what the vendors received.

        Raises:
            AssertionError: `timeout` seconds went by; the message lists what did arrive.

        """
        deadline = time.monotonic() + timeout
        while not arrived():
            if time.monotonic() > deadline:
                message = f"not within {timeout} s; arrived: {self.summary()}"
                raise AssertionError(message)
            # Another process writes the files, and the standard library cannot wait for that.
            time.sleep(0.05)

    def summary(self) -> str:
        return "; ".join(
            f"{type(vendor).__name__}: {len(vendor.logs())} logs {[span.name for span in vendor.spans()]} "
            f"{sorted({metric.name for metric in vendor.metrics()})}"
            for vendor in self.both
        )


class Collector(Process):
    """The product's collector with its shipped configuration, on free ports.

    `overlays` are names of files beside it, such as `filelog`, or settings such as `yaml:exporters::debug::…`.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str], overlays: Sequence[str] = ()) -> None:
        grpc, http, health, telemetry = free_ports(4)
        self.grpc = f"http://localhost:{grpc}"
        self.http = f"http://localhost:{http}"
        self.health = f"http://localhost:{health}"
        self.telemetry = f"http://localhost:{telemetry}/metrics"
        self.ports = {
            "COLLECTOR_OTLP_GRPC_PORT": str(grpc),
            "COLLECTOR_OTLP_HTTP_PORT": str(http),
            "COLLECTOR_HEALTH_PORT": str(health),
            "COLLECTOR_TELEMETRY_PORT": str(telemetry),
        }
        super().__init__(
            [
                str(PRODUCT),
                f"--config={PRODUCT_CONFIG}",
                *(
                    f"--config={name if name.startswith('yaml:') else PRODUCT_CONFIG.with_name(f'{name}.yaml')}"
                    for name in overlays
                ),
            ],
            {"COLLECTOR_QUEUE_DIR": str(directory / "queue"), **self.ports, **environment},
        )


class Container(Collector):
    """The image, run by podman: nothing writable but the queue, every capability dropped.

    `folders` are mounted where they lie, read-only.
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        image: str,
        overlays: Sequence[str] = (),
        folders: Sequence[Path] = (),
    ) -> None:
        super().__init__(directory, environment)
        configs = [f"--config=/etc/otelcol-metaflow/{name}.yaml" for name in ("config", *overlays)]
        self.name = f"otelcol-metaflow-{self.ports['COLLECTOR_OTLP_HTTP_PORT']}"
        variables = {**self.ports, "COLLECTOR_LISTEN_HOST": "localhost", **environment}
        self._command = [
            *PODMAN,
            "run",
            "--rm",
            f"--name={self.name}",
            "--network=host",
            "--read-only",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
            # The defaults of podman ask for more than a build machine may be allowed.
            "--ulimit=nofile=20000:20000",
            "--ulimit=nproc=1000:1000",
            # Names alone: a key on the command line would show in the list of processes.
            *(f"--env={name}" for name in variables),
            *(f"--volume={folder}:{folder}:ro" for folder in folders),
            image,
            *(configs if overlays else ()),
        ]
        self._environment = {**os.environ, **variables}

    def inspect(self) -> dict[str, Any]:
        """Return what podman reports of the running container."""
        (container,) = json.loads(subprocess.check_output([*PODMAN, "inspect", self.name]))
        return dict(container)


@pytest.fixture
def vendors(tmp_path: Path) -> Iterator[Vendors]:
    """Start both vendors' receivers."""
    with Vendors(tmp_path / "vendors") as started:
        yield started


@pytest.fixture
def collector(tmp_path: Path, vendors: Vendors) -> Iterator[Collector]:
    """Start the product's collector with both vendors behind it."""
    with Collector(tmp_path, vendors.environment) as started:
        yield started


@pytest.fixture(scope="session")
def image() -> str:
    """Build the image as `make image` does, under a tag of this checkout, and return its name."""
    missing = [tool for tool in ("podman", "buildah", "runc") if not shutil.which(tool)]
    if missing:
        because = f"the image cannot be built and run here without {', '.join(missing)}"
        # A CI run that quietly left the container out would prove nothing about it.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(because)
    build = subprocess.run(
        ["make", "-f", "collector.mk", "image", f"IMAGE={IMAGE}"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert build.returncode == 0, build.stdout + build.stderr
    return IMAGE


@pytest.fixture
def container(tmp_path: Path, vendors: Vendors, image: str) -> Iterator[Container]:
    """Run the image with both vendors behind it."""
    with Container(tmp_path, vendors.environment, image) as started:
        yield started


def free_ports(count: int) -> tuple[int, ...]:
    """Return TCP ports that nothing listens on, and that no outgoing connection takes before something does."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port = _DICE.choice(_PORTS)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("localhost", port))
                found.append(port)
    return tuple(found)


def _records(payloads: Iterator[dict[str, Any]], *levels: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each record of OTLP payloads with the attributes of its resource."""
    resources, scopes, records = levels
    for payload in payloads:
        for resource in payload.get(resources, []):
            for scope in resource[scopes]:
                for record in scope[records]:
                    yield record, _attributes(resource["resource"])


def _attributes(holder: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _value(pair["value"]) for pair in holder.get("attributes", [])}


def _value(value: dict[str, Any]) -> Any:
    """Return what an AnyValue of OTLP/JSON holds."""
    content: Any
    ((kind, content),) = value.items() or (("stringValue", ""),)
    if kind == "intValue":
        return int(content)
    if kind == "arrayValue":
        return [_value(each) for each in content.get("values", [])]
    if kind == "kvlistValue":
        return {pair["key"]: _value(pair["value"]) for pair in content.get("values", [])}
    return content


def _milliseconds(time: str) -> int:
    """Return an ISO 8601 time as milliseconds since 1970."""
    return round(datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp() * 1000) if time else 0


def _texts(attributes: dict[str, Any]) -> dict[str, str]:
    """Return attributes as text: the vendors differ in what they make numbers of."""
    return {key: _text(value) for key, value in attributes.items()}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value)


def _points(metric: dict[str, Any]) -> list[dict[str, Any]]:
    for kind in ("gauge", "sum", "histogram", "exponentialHistogram"):
        if kind in metric:
            points: list[dict[str, Any]] = metric[kind]["dataPoints"]
            return points
    return []


def _number(point: dict[str, Any]) -> float:
    return float(point.get("asDouble", point.get("asInt", point.get("sum", 0.0))))


def _is_span(body: object) -> bool:
    return isinstance(body, dict) and "span_id" in body and "start_time" in body


def _status(code: object) -> str:
    return "error" if code in {2, "STATUS_CODE_ERROR"} else "ok"
