"""Intakes that answer by the rules that the vendors document, for what their receivers let pass.

    with Hec(indexes={"flows"}) as splunk, Collector(tmp_path, splunk.environment) as collector:
        ...
    splunk.events, splunk.answers

The receivers of `tests/vendors` show what would have been stored; these show what would have been refused.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from typing_extensions import Self

TOKEN = "11111111-2222-3333-4444-555555555555"
NGINX_LIMIT = 1 << 20
"""Bytes of a request's body that nginx lets pass by default (client_max_body_size, 1m)."""
DATADOG_LIMIT = 5_000_000
"""Bytes of a request's body, uncompressed, that Datadog's intake of logs takes (API reference, Send logs)."""


class Intake:
    """An HTTP server that takes what its rules let it.

    `status` other than 200 is what it answers to everything; `limit` is the largest body that a proxy before it
    lets pass, in bytes as they are sent.
    """

    name: str

    def __init__(self, *, limit: int = NGINX_LIMIT, status: int = 200) -> None:
        self.limit = limit
        self.status = status
        self.answers: Counter[int] = Counter()
        self.sizes: list[int] = []
        self._lock = threading.Lock()
        intake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["content-length"]))
                status, answer = intake._answer(self.path, {k.lower(): v for k, v in self.headers.items()}, sent)
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", "/login")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 100

        self._server = Server(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str, headers: dict[str, str], sent: bytes) -> tuple[int, bytes]:
        with self._lock:
            if self.status != 200:
                status, answer = self.status, b"<html>no</html>"
            elif len(sent) > self.limit:
                status, answer = 413, b"<html>413 Request Entity Too Large</html>"
            else:
                body = _decompressed(sent, headers.get("content-encoding", ""))
                status, answer = self._take(path, headers, body)
                if status < 300:
                    self.sizes.append(len(body))
            self.answers[status] += 1
            return status, answer

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        raise NotImplementedError


class Hec(Intake):
    """Splunk's HTTP event collector.

    A request is taken as a whole or not at all, and its first fault decides (Splunk documentation, "Troubleshoot
    HTTP Event Collector", possible error codes; "Format events for HTTP Event Collector"): the token is sent as
    `Authorization: Splunk TOKEN` and may use certain indexes; each event has a field `event` that is not blank;
    `fields` is flat.
    """

    name = "Splunk"

    def __init__(self, indexes: Collection[str] = ("flows", "flow_metrics"), **more: Any) -> None:
        super().__init__(**more)
        self.indexes = set(indexes)
        self.events: list[dict[str, Any]] = []

    @property
    def environment(self) -> dict[str, str]:
        return {
            "SPLUNK_HEC_URL": self.url,
            "SPLUNK_HEC_TOKEN": TOKEN,
            "SPLUNK_INDEX": "flows",
            "SPLUNK_METRICS_INDEX": "flow_metrics",
        }

    @property
    def bodies(self) -> Counter[str]:
        """How often each text was stored."""
        return Counter(
            event["event"] for event in self.events if event["event"] != "metric" and isinstance(event["event"], str)
        )

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if path != "/services/collector":
            return 404, b'{"text":"The requested URL was not found on this server.","code":404}'
        if headers.get("authorization") != f"Splunk {TOKEN}":
            return _hec(403, 4, "Invalid token")
        if not body.strip():
            return _hec(400, 5, "No data")
        taken = []
        for number, event in enumerate(_events(body)):
            fault = self._fault(event)
            if fault:
                return _hec(400, *fault, number)
            taken.append(event)
        self.events += taken
        return _hec(200, 0, "Success")

    def _fault(self, event: Any) -> tuple[int, str] | None:
        if not isinstance(event, dict):
            return 6, "Invalid data format"
        if event.get("index") not in self.indexes:
            return 7, "Incorrect index"
        content = event.get("event")
        if content is None:
            return 12, "Event field is required"
        if content in ({}, []) or (isinstance(content, str) and not content.strip()):
            return 13, "Event field cannot be blank"
        if any(isinstance(value, dict) or value is None for value in event.get("fields", {}).values()):
            return 15, "Error in handling indexed fields"
        return None


class Otlp(Intake):
    """Datadog's OTLP intake: OTLP over HTTP in requests of a limited size, counted before compression."""

    name = "Datadog"

    def __init__(self, *, most: int = DATADOG_LIMIT, **more: Any) -> None:
        super().__init__(**more)
        self.most = most
        self.bodies: Counter[str] = Counter()
        self.spans: Counter[bytes] = Counter()
        self.metrics: list[Any] = []

    @property
    def environment(self) -> dict[str, str]:
        return {"DD_API_KEY": "0123456789abcdef", "COLLECTOR_DATADOG_ROUTE": "otlp", "DD_OTLP_URL": self.url}

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        del headers
        if len(body) > self.most:
            return 413, b""
        if path == "/v1/logs":
            for group in ExportLogsServiceRequest.FromString(body).resource_logs:
                self.bodies.update(log.body.string_value for scope in group.scope_logs for log in scope.log_records)
        elif path == "/v1/traces":
            for spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.spans.update(span.span_id for scope in spans.scope_spans for span in scope.spans)
        else:
            for metrics in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.metrics += [metric for scope in metrics.scope_metrics for metric in scope.metrics]
        return 200, b""


class DatadogLogs(Intake):
    """Datadog's intake of logs, as its exporter sends them: lists of JSON objects (API reference, Send logs)."""

    name = "Datadog"

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.bodies: Counter[str] = Counter()

    @property
    def environment(self) -> dict[str, str]:
        urls = dict.fromkeys(("DD_DD_URL", "DD_APM_DD_URL", "DD_LOGS_CONFIG_LOGS_DD_URL"), self.url)
        return {"DD_API_KEY": "0123456789abcdef0123456789abcdef", **urls}

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        del headers
        if path != "/api/v2/logs":
            return 202, b"{}"
        if len(body) > DATADOG_LIMIT:
            return 413, b""
        logs = json.loads(body)
        self.bodies.update(json.loads(log["message"])["message"] for log in logs if isinstance(logs, list))
        return 202, b"{}"


def _hec(status: int, code: int, text: str, number: int | None = None) -> tuple[int, bytes]:
    answer: dict[str, Any] = {"text": text, "code": code}
    if number is not None:
        answer["invalid-event-number"] = number
    return status, json.dumps(answer).encode()


def _events(body: bytes) -> Iterator[Any]:
    """Yield JSON objects that stand one after another; anything else as None."""
    text, at = body.decode(), 0

    def constant(name: str) -> Any:
        message = f"{name} is not JSON"
        raise ValueError(message)

    decoder = json.JSONDecoder(parse_constant=constant)
    while at < len(text):
        try:
            event, at = decoder.raw_decode(text, at)
        except ValueError:
            yield None
            return
        yield event
        while at < len(text) and text[at].isspace():
            at += 1


def _decompressed(body: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(body)
    return body
