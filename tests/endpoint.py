"""An OTLP endpoint that fails on command; it remembers what it acknowledged, apart from what it only saw.

    python tests/endpoint.py --port 4318 --fault 503 --retry-after 2
    python tests/endpoint.py --port 4317 --protocol grpc --fault RESOURCE_EXHAUSTED --retry-after 2

Faults of both protocols: `ok`, `blackhole` (never answers), `partial` (success, one record rejected),
`bad-record` (400 or INVALID_ARGUMENT while a record's body holds the word POISON), `flap` (a few requests each
way, by --seed). Of HTTP: a status (400, 401, 403, 404, 413, 429, 500, 502, 503, 504, 302), `html` (200 with a web
page), `reset` (takes the request, then breaks the connection), `slow` (answers a byte each --pace seconds). Of
gRPC: the name of a status, such as UNAVAILABLE. --most-bytes turns larger requests away; --tls speaks TLS with
the certificate of an authority that nobody trusts.
"""

from __future__ import annotations

import gzip
import random
import socket
import ssl
import struct
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import grpc
import trustme
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from typing_extensions import Self

_LOGS, _METRICS, _TRACES = "/v1/logs", "/v1/metrics", "/v1/traces"
_REQUESTS: dict[str, Any] = {
    _LOGS: ExportLogsServiceRequest,
    _METRICS: ExportMetricsServiceRequest,
    _TRACES: ExportTraceServiceRequest,
}
_RESPONSES: dict[str, Any] = {
    _LOGS: ExportLogsServiceResponse,
    _METRICS: ExportMetricsServiceResponse,
    _TRACES: ExportTraceServiceResponse,
}
_SERVICES: dict[str, Callable[[Any, grpc.Server], None]] = {
    _LOGS: logs_service_pb2_grpc.add_LogsServiceServicer_to_server,
    _METRICS: metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server,
    _TRACES: trace_service_pb2_grpc.add_TraceServiceServicer_to_server,
}
_FLAPS = {"http": ("503", "429", "502", "reset"), "grpc": ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED")}
_MOST_IN_A_ROW = 4
POISON = "POISON"


class Endpoint:
    """Listens on localhost while entered; `fault` and `retry_after` may be changed at any time.

    Without `keeps_messages` what was acknowledged is only counted: of a run that is larger than memory.
    """

    def __init__(
        self,
        fault: str = "ok",
        port: int = 0,
        retry_after: str | None = None,
        *,
        protocol: str = "http",
        tls: trustme.LeafCert | None = None,
        pace: float = 0.02,
        seed: int = 0,
        flaps: Sequence[str] = (),
        max_bytes: int | None = None,
        keeps_messages: bool = True,
    ) -> None:
        self.fault = fault
        self.retry_after = retry_after
        self.seen = 0
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.messages: list[Any] = []
        self.uids: Counter[str] = Counter()
        self.body_counts: Counter[str] = Counter()
        self.span_ids: Counter[str] = Counter()
        self._keeps_messages = keeps_messages
        self._news = threading.Condition()
        self._released = threading.Event()
        self._flaps = _flaps(flaps or _FLAPS[protocol], seed)
        server = _Grpc if protocol == "grpc" else _Http
        self._server = server(self, port, tls, pace, max_bytes)
        self.port = self._server.port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.stop()

    def wait_for(self, condition: Callable[[], bool], timeout: float = 30) -> None:
        """Return when `condition()` is true of what was seen.

        Raises:
            AssertionError: `timeout` seconds went by.
        """
        with self._news:
            assert self._news.wait_for(condition, timeout), f"not within {timeout} s; {self.seen} requests seen"

    # What was acknowledged

    def of(self, kind: type) -> list[Any]:
        """The messages of one kind."""
        return [message for message in self.messages if isinstance(message, kind)]

    def bodies(self) -> list[str]:
        """The bodies of all log records."""
        return [record.body.string_value for record in self.logs()]

    def logs(self) -> list[Any]:
        """All log records."""
        return [record for message in self.of(ExportLogsServiceRequest) for record in _logs(message)]

    def spans(self) -> list[tuple[Any, Any]]:
        """All spans, each with its resource."""
        return [pair for message in self.of(ExportTraceServiceRequest) for pair in _spans(message)]

    def run_and_attempt_ids(self) -> set[str]:
        """The ids of spans but those of waiting, of which there are more the slower the machine is."""
        return {span.span_id.hex() for span, _ in self.spans() if not span.name.endswith(" queued")}

    def observations(self, name: str) -> int:
        """How many observations the histograms of that name have counted."""
        return sum(
            int(point.count)
            for message in self.of(ExportMetricsServiceRequest)
            for resource in message.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.histogram.data_points
        )

    def largest_batch(self, kind: type) -> int:
        """How many log records, or spans, the largest request held."""
        records = _logs if kind is ExportLogsServiceRequest else _spans
        return max(sum(1 for _ in records(message)) for message in self.of(kind))

    # What a server does with a request

    def see(self, message: Any) -> str:
        """Note that a request came; what is to be done with it: `ok` or a fault."""
        with self._news:
            self.seen += 1
            fault = next(self._flaps) if self.fault == "flap" else self.fault
            self._news.notify_all()
        if fault == "blackhole":
            self._released.wait()
        return "ok" if fault == "bad-record" and POISON not in str(message) else fault

    def acknowledge(self, path: str, headers: dict[str, str], message: Any) -> None:
        """Take a message for good."""
        with self._news:
            self.requests.append((path, headers))
            if self._keeps_messages:
                self.messages.append(message)
            if path == _LOGS:
                for record in _logs(message):
                    # Others who send here too give their records no name.
                    self.uids.update(
                        each.value.string_value for each in record.attributes if each.key == "log.record.uid"
                    )
                    self.body_counts[record.body.string_value] += 1
            elif path == _TRACES:
                self.span_ids.update(span.span_id.hex() for span, _ in _spans(message))
            self._news.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than the endpoint lives."""
        self._released.wait(seconds)


def _logs(message: Any) -> Iterator[Any]:
    for resource in message.resource_logs:
        for scope in resource.scope_logs:
            yield from scope.log_records


def _spans(message: Any) -> Iterator[tuple[Any, Any]]:
    for resource in message.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield span, resource.resource


def _flaps(faults: Sequence[str], seed: int) -> Iterator[str]:
    """Up for a few requests, down for a few, without end; the same for the same seed."""
    dice = random.Random(seed)
    while True:
        yield from ["ok"] * dice.randint(1, _MOST_IN_A_ROW)
        yield from [dice.choice(faults)] * dice.randint(1, _MOST_IN_A_ROW)


def _response(path: str, fault: str) -> Any:
    if fault == "partial" and path == _LOGS:
        partial = ExportLogsPartialSuccess(rejected_log_records=1, error_message="too old")
        return ExportLogsServiceResponse(partial_success=partial)
    return _RESPONSES[path]()


class _Http:
    def __init__(
        self, endpoint: Endpoint, port: int, tls: trustme.LeafCert | None, pace: float, max_bytes: int | None
    ) -> None:
        self._endpoint = endpoint
        self._pace = pace
        self._max_bytes = max_bytes
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                answer(self)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                """Clients that are killed or do not trust us break connections; that is what tests want."""

        self._server = Server(("127.0.0.1", port), Handler)
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.configure_cert(context)
            # The handshake is the connection's own thread's, or one bad client would hold up all.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_port

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        data = handler.rfile.read(int(handler.headers["content-length"]))
        encoding = handler.headers.get("content-encoding")
        if encoding is not None:
            data = {"gzip": gzip.decompress, "deflate": zlib.decompress}[encoding](data)
        message = _REQUESTS[handler.path]()
        message.ParseFromString(data)
        fault = self._endpoint.see(message)
        if fault == "blackhole":
            handler.close_connection = True  # once the test is over: or the client would wait for its timeout
            return
        if fault == "reset":
            # Linger of zero seconds: closing sends RST instead of FIN.
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
            return
        if self._max_bytes is not None and len(data) > self._max_bytes:
            fault = "413"
        status = {"bad-record": 400}.get(fault, int(fault) if fault.isdigit() else 200)
        body = b"<html>please log in</html>" if fault == "html" else b""
        if status == 200 and fault != "html":
            body = _response(handler.path, fault).SerializeToString()
            headers = {name.lower(): value for name, value in handler.headers.items()}
            self._endpoint.acknowledge(handler.path, headers, message)
        handler.send_response(status)
        handler.send_header("content-type", "text/html" if fault == "html" else "application/x-protobuf")
        handler.send_header("content-length", str(len(body)))
        if self._endpoint.retry_after is not None:
            handler.send_header("retry-after", self._endpoint.retry_after)
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
            self._endpoint.pause(self._pace)


class _Grpc:
    def __init__(
        self, endpoint: Endpoint, port: int, tls: trustme.LeafCert | None, _pace: float, max_bytes: int | None
    ) -> None:
        self._endpoint = endpoint
        options = [] if max_bytes is None else [("grpc.max_receive_message_length", max_bytes)]
        self._server = grpc.server(ThreadPoolExecutor(16), options=[*options, ("grpc.so_reuseport", 0)])
        for path, add in _SERVICES.items():
            add(self._service(path), self._server)
        address = f"127.0.0.1:{port}"
        if tls is None:
            self.port: int = self._server.add_insecure_port(address)
        else:
            pair = (tls.private_key_pem.bytes(), b"".join(part.bytes() for part in tls.cert_chain_pems))
            self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait(5)

    def _service(self, path: str) -> Any:
        answer = self._answer

        class Service:
            def Export(self, message: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the procedure
                return answer(path, message, context)

        return Service()

    def _answer(self, path: str, message: Any, context: grpc.ServicerContext) -> Any:
        fault = self._endpoint.see(message)
        if fault not in ("ok", "partial"):
            code = {"bad-record": "INVALID_ARGUMENT", "blackhole": "CANCELLED"}.get(fault, fault)
            if self._endpoint.retry_after is not None:
                info = RetryInfo(retry_delay=Duration(seconds=int(self._endpoint.retry_after)))
                context.set_trailing_metadata((("google.rpc.retryinfo-bin", info.SerializeToString()),))
            context.abort(grpc.StatusCode[code], "as configured")
        self._endpoint.acknowledge(path, {name: str(value) for name, value in context.invocation_metadata()}, message)
        return _response(path, fault)


@click.command(epilog=(__doc__ or "").partition("\n\n")[2].replace("    python", "\b\n    python", 1))
@click.option("--port", default=4318, show_default=True)
@click.option("--protocol", type=click.Choice(["http", "grpc"]), default="http", show_default=True)
@click.option("--fault", default="ok", show_default=True, help="See below.")
@click.option("--retry-after", help="Value of the Retry-After header, or of gRPC's RetryInfo.")
@click.option("--pace", default=1.0, show_default=True, help="Seconds a byte of a slow answer.")
@click.option("--seed", default=0, show_default=True, help="Of what flap does.")
@click.option("--most-bytes", "max_bytes", type=int, help="The largest request that is taken.")
@click.option("--tls", is_flag=True, help="Speak TLS; the authority's certificate is written to a file.")
def main(*, tls: bool, **options: Any) -> None:
    """Run an OTLP endpoint that fails as configured until Ctrl-C."""
    leaf = None
    if tls:
        authority = trustme.CA()
        leaf = authority.issue_cert("127.0.0.1", "localhost")
        file = Path(tempfile.mkdtemp()) / "authority.pem"
        authority.cert_pem.write_to_path(str(file))
        click.echo(f"OTEL_EXPORTER_OTLP_CERTIFICATE={file}")
    with Endpoint(tls=leaf, **options) as endpoint:
        click.echo(f"OTEL_EXPORTER_OTLP_ENDPOINT={endpoint.url}")
        threading.Event().wait()


if __name__ == "__main__":
    main()
