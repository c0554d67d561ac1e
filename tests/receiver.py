"""The simplest OTLP/HTTP endpoint: takes everything and remembers it. Faults are endpoint.py's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_REQUESTS = {
    "/v1/logs": ExportLogsServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/traces": ExportTraceServiceRequest,
}


class Receiver:
    """Listens on a free port of localhost while entered."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.messages: list[Any] = []
        self._news = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                message = _REQUESTS[self.path]()
                message.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
                with receiver._news:
                    receiver.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
                    receiver.messages.append(message)
                    receiver._news.notify_all()
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, arrived: Callable[[], bool], timeout: float = 30) -> None:
        """Return when `arrived()` is true of what was received.

        Raises:
            AssertionError: `timeout` seconds went by.
        """
        with self._news:
            assert self._news.wait_for(arrived, timeout), f"not within {timeout} s"

    def of(self, kind: type) -> list[Any]:
        """The messages of one kind that arrived."""
        return [message for message in self.messages if isinstance(message, kind)]

    def bodies(self) -> list[str]:
        """The bodies of all log records."""
        return [
            record.body.string_value
            for message in self.of(ExportLogsServiceRequest)
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def spans(self) -> list[tuple[Any, Any]]:
        """All spans, each with its resource."""
        return [
            (span, resource.resource)
            for message in self.of(ExportTraceServiceRequest)
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
