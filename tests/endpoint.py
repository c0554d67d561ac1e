"""An OTLP/HTTP endpoint that fails on command, and keeps what it acknowledged apart from what it saw.

    python tests/endpoint.py --port 4318 --fault 503 --retry-after 2

Faults: a status (400, 401, 403, 404, 413, 429, 500, 503, 302), `blackhole` (never answers), `reset` (takes
the request, then breaks the connection), `slow` (a byte at a time), `html` (200 with a web page), `partial`
(200, one record rejected), `bad-record` (400 while a record's body holds the word POISON), `ok`.
"""

from __future__ import annotations

import gzip
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import click
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_REQUESTS: dict[str, Any] = {
    "/v1/logs": ExportLogsServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/traces": ExportTraceServiceRequest,
}
POISON = "POISON"


class Endpoint:
    """Listens on localhost while entered; `fault` may be changed at any time."""

    def __init__(self, fault: str = "ok", port: int = 0, retry_after: str | None = None) -> None:
        self.fault = fault
        self.retry_after = retry_after
        self.seen = 0
        self.uids: Counter[str] = Counter()
        self.bodies: Counter[str] = Counter()
        self.spans: Counter[str] = Counter()
        self._news = threading.Condition()
        self._released = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                endpoint._answer(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def port(self) -> int:
        return self._server.server_port

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, condition: Callable[[], bool], timeout: float = 30) -> None:
        """Return when `condition()` is true of what was seen.

        Raises:
            AssertionError: `timeout` seconds went by.
        """
        with self._news:
            assert self._news.wait_for(condition, timeout), f"not within {timeout} s; {self.seen} requests seen"

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        data = handler.rfile.read(int(handler.headers["content-length"]))
        if handler.headers.get("content-encoding") == "gzip":
            data = gzip.decompress(data)
        message = _REQUESTS[handler.path]()
        message.ParseFromString(data)
        fault = self.fault
        with self._news:
            self.seen += 1
            self._news.notify_all()
        if fault == "blackhole":
            self._released.wait()
            return
        if fault == "reset":
            # Linger of zero seconds: closing sends RST instead of FIN.
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
            return
        if fault == "bad-record" and POISON in str(message):
            fault = "400"
        status = int(fault) if fault.isdigit() else 200
        body = b"<html>please log in</html>" if fault == "html" else b""
        if fault == "partial" and handler.path == "/v1/logs":
            partial = ExportLogsPartialSuccess(rejected_log_records=1, error_message="too old")
            body = ExportLogsServiceResponse(partial_success=partial).SerializeToString()
        if status == 200 and fault != "html":
            self._acknowledge(handler.path, message)
        handler.send_response(status)
        handler.send_header("content-type", "text/html" if fault == "html" else "application/x-protobuf")
        handler.send_header("content-length", str(len(body)))
        if self.retry_after is not None:
            handler.send_header("retry-after", self.retry_after)
        if status == 302:
            handler.send_header("location", "/login")
        if fault == "slow":
            self._trickle(handler)
        handler.end_headers()
        handler.wfile.write(body)

    def _trickle(self, handler: BaseHTTPRequestHandler) -> None:
        """Send the head of the answer a byte at a time."""
        head, handler._headers_buffer = b"".join(handler._headers_buffer), []  # type: ignore[attr-defined]
        for byte in head:
            handler.wfile.write(bytes([byte]))
            self._released.wait(0.02)

    def _acknowledge(self, path: str, message: Any) -> None:
        with self._news:
            if path == "/v1/logs":
                for resource in message.resource_logs:
                    for scope in resource.scope_logs:
                        for record in scope.log_records:
                            attributes = {each.key: each.value.string_value for each in record.attributes}
                            self.uids[attributes["log.record.uid"]] += 1
                            self.bodies[record.body.string_value] += 1
            elif path == "/v1/traces":
                for resource in message.resource_spans:
                    for scope in resource.scope_spans:
                        self.spans.update(span.span_id.hex() for span in scope.spans)
            self._news.notify_all()


@click.command()
@click.option("--port", default=4318, show_default=True)
@click.option("--fault", default="ok", show_default=True, help="See above.")
@click.option("--retry-after", help="Value of the Retry-After header.")
def main(port: int, fault: str, retry_after: str | None) -> None:
    """Run an endpoint that fails as told until Ctrl-C."""
    with Endpoint(fault, port, retry_after) as endpoint:
        click.echo(f"{endpoint.url} {fault}")
        threading.Event().wait()


if __name__ == "__main__":
    main()
