"""The official OTLP exporters, wrapped so that the endpoint's actual answer is known.

An exporter's `export` returns only success or failure, retries by itself for ten seconds and takes a
redirect for a success. The delivery needs to know more: what to retry, when, and what never to send
again. So the transport under the exporter is watched, and its first answer ends the export.

Log records, which are numerous, do not become objects of the SDK first, which costs three times as much as encoding
them at once (protobuf.py, held to the official encoder by tests): over HTTP the exporter is asked to send none, and
the request of the same records takes the place of its empty one.
"""

from __future__ import annotations

import importlib
import logging
import zlib
from itertools import islice
from typing import Any, Callable, Optional, Sequence

import requests

from otel_metaflow.core.settings import Destination
from otel_metaflow.shipper.sinks import answers, protobuf, sdk_objects
from otel_metaflow.shipper.sinks.answers import Answer, Exporter, Verdict
from otel_metaflow.shipper.telemetry import Record

_CLASSES = {
    "traces": ("trace_exporter", "OTLPSpanExporter", "ExportTraceServiceResponse", "trace"),
    "metrics": ("metric_exporter", "OTLPMetricExporter", "ExportMetricsServiceResponse", "metrics"),
    "logs": ("_log_exporter", "OTLPLogExporter", "ExportLogsServiceResponse", "logs"),
}


class _AnsweredError(Exception):
    """Ends an export as soon as the endpoint has answered."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.reason)
        self.answer = answer


class _WatchedSession(requests.Session):
    """Sees each response of an HTTP exporter."""

    def __init__(self, rejected: Callable[[bytes], Answer]) -> None:
        super().__init__()
        self.answer: Optional[Answer] = None
        self.body = b""
        """What is sent instead of an empty request."""
        self._rejected = rejected

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request and end the export if the answer is anything but a success."""
        kwargs["allow_redirects"] = False
        if self.body:
            kwargs["data"] = _compressed_as(kwargs.get("data") or b"", self.body)
        if self.verify is not True:
            # Passed again, or REQUESTS_CA_BUNDLE would take precedence over OTEL_EXPORTER_OTLP_CERTIFICATE.
            kwargs["verify"] = self.verify
        kwargs["stream"] = True
        try:
            response = super().request(*args, **kwargs)
            # In small parts, because a part may be a thousand times as long once it is decompressed.
            body = b"".join(islice(response.iter_content(_PART), _MAX_PARTS))
            response.close()  # the connection is kept if it was read to its end
        except Exception as error:
            self.answer = _unanswered(error)
            raise _AnsweredError(self.answer) from error
        self.answer = answers.from_http(
            response.status_code,
            response.headers.get("content-type", ""),
            response.headers.get("retry-after"),
            response.reason or "",
        )
        if self.answer.verdict is not Verdict.DELIVERED:
            raise _AnsweredError(self.answer)
        self.answer = self._rejected(body)
        return response


# Of the body of a response, in bytes: an endpoint may answer without end.
_PART = 4_096
_MAX_PARTS = 16
_GZIP = b"\x1f\x8b"  # RFC 1952


def _compressed_as(empty: bytes, body: bytes) -> bytes:
    """`body` as the exporter has compressed what was `empty`."""
    if empty.startswith(_GZIP):
        compressor = zlib.compressobj(wbits=31)  # 15 of the window, 16 for gzip's head and tail
        return compressor.compress(body) + compressor.flush()
    return zlib.compress(body) if empty else body


class _HttpExporter:
    def __init__(self, destination: Destination) -> None:
        self._convert = sdk_objects.OF[destination.signal]
        self._session = _WatchedSession(_partial_success(destination.signal))
        self._exporter = exporter_class(destination)(session=self._session)

    def __call__(self, records: Sequence[Record]) -> Answer:
        self._session.answer = None
        try:
            self._exporter.export(self._convert(records))
        except _AnsweredError as answered:  # releases before 1.44 let it through
            return answered.answer
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about these data
            return self._session.answer or answers.unfit(error)
        return self._session.answer or Answer(Verdict.UNFIT, "the exporter could not encode it")


class _HttpLogExporter(_HttpExporter):
    def __call__(self, records: Sequence[Record]) -> Answer:
        try:
            self._session.body = protobuf.encode("logs", records, sdk_objects.sender())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about these data
            return answers.unfit(error)
        answer = super().__call__([])
        # Not of these data, none of which it has seen.
        return answer if self._session.answer is not None else answers.unaskable(RuntimeError(answer.reason))


class _WatchedStub:
    """Sees each answer of a gRPC exporter."""

    def __init__(self, stub: Any, rejected: Callable[[Any], Answer]) -> None:
        self.answer: Optional[Answer] = None
        self._stub = stub
        self._rejected = rejected

    def Export(self, **kwargs: Any) -> Any:  # noqa: N802 - the name of the remote procedure
        import grpc

        try:
            response = self._stub.Export(**kwargs)
        except grpc.RpcError as error:
            self.answer = answers.from_grpc(error.code().name, error.details() or "", _retry_delay(error))
            raise _AnsweredError(self.answer) from error
        except Exception as error:
            self.answer = answers.unaskable(error)
            raise _AnsweredError(self.answer) from error
        self.answer = _rejection(response)
        return response


class _GrpcExporter:
    def __init__(self, destination: Destination) -> None:
        self._convert = sdk_objects.OF[destination.signal]
        self._exporter = exporter_class(destination)()
        # There is no public way: the exporter creates its channel itself. tests/test_exporters.py checks the name.
        self._stub = _WatchedStub(self._exporter._client, _rejection)  # noqa: SLF001
        self._exporter._client = self._stub  # noqa: SLF001

    def __call__(self, records: Sequence[Record]) -> Answer:
        self._stub.answer = None
        try:
            self._exporter.export(self._convert(records))
        except _AnsweredError as answered:
            return answered.answer
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about these data
            return self._stub.answer or answers.unfit(error)
        return self._stub.answer or Answer(Verdict.UNFIT, "the exporter could not encode it")


def build(destination: Destination) -> Exporter:
    """The exporter of one signal, configured by the standard variables.

    Raises:
        Exception: the exporter does not accept a variable's value; its message names it.
    """
    root = logging.getLogger()
    if not root.handlers:  # a signal worker reports failures better than the exporters' own log messages
        root.addHandler(logging.NullHandler())
    if destination.protocol == "grpc":
        return _GrpcExporter(destination)
    return _HttpLogExporter(destination) if destination.signal == "logs" else _HttpExporter(destination)


def exporter_class(destination: Destination) -> Any:
    """The official exporter of a signal, for its protocol.

    Raises:
        Exception: it cannot be imported.
    """
    module, name, _, _ = _CLASSES[destination.signal]
    package = "grpc" if destination.protocol == "grpc" else "http"
    return getattr(importlib.import_module(f"opentelemetry.exporter.otlp.proto.{package}.{module}"), name)


def _partial_success(signal: str) -> Callable[[bytes], Answer]:
    _, _, name, package = _CLASSES[signal]

    def read(body: bytes) -> Answer:
        module = importlib.import_module(f"opentelemetry.proto.collector.{package}.v1.{package}_service_pb2")
        response = getattr(module, name)()
        try:
            response.ParseFromString(body)
        except Exception:  # noqa: BLE001 - protobuf's error class moved; an unreadable body of a 2xx is still a 2xx
            return answers.DELIVERED
        return _rejection(response)

    return read


def _rejection(response: Any) -> Answer:
    """Delivered, with the number of records that the endpoint rejected."""
    partial = response.partial_success
    rejected = sum(value for field, value in partial.ListFields() if field.name.startswith("rejected"))
    return answers.partial(rejected, partial.error_message)


def _retry_delay(error: Any) -> Optional[float]:
    """RetryInfo of a gRPC status, in seconds."""
    for key, value in error.trailing_metadata() or ():
        if key == "google.rpc.retryinfo-bin":
            from google.rpc.error_details_pb2 import RetryInfo

            info = RetryInfo()
            info.ParseFromString(value)
            return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None


_TROUBLES: Sequence[tuple[str, str]] = (
    ("ProxyError", answers.NO_PROXY),
    ("CertificateError", answers.TLS_FAILED),
    ("SSLError", answers.TLS_FAILED),
    ("NameResolutionError", answers.UNRESOLVED),
    ("ConnectTimeout", answers.NOT_CONNECTED),
    ("Timeout", answers.LATE),
    ("ReadTimeoutError", answers.LATE),
    ("ProtocolError", answers.BROKEN),
    ("NewConnectionError", answers.CONNECTION_REFUSED),
)


def _unanswered(error: Exception) -> Answer:
    """What follows from a request that was not answered; `requests` marks by ValueError one that it cannot send."""
    if isinstance(error, ValueError) or not isinstance(error, requests.exceptions.RequestException):
        return answers.unaskable(error)
    return Answer(Verdict.RETRY, _trouble(error), is_late=isinstance(error, requests.exceptions.ReadTimeout))


def _trouble(error: BaseException) -> str:
    """Why a request was not answered."""
    names: list[str] = []
    seen: Optional[BaseException] = error
    while seen is not None:
        names.extend(kind.__name__ for kind in type(seen).__mro__)
        inner = getattr(seen, "reason", None) or (seen.args[0] if seen.args else None)
        seen = inner if isinstance(inner, BaseException) else seen.__cause__
    return next((words for name, words in _TROUBLES if name in names), answers.UNREACHABLE)
