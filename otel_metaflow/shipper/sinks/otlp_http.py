"""OTLP http/protobuf by the standard library alone, where the official exporters are not installed, as in a container.

Configured by the same variables, each with the meaning that opentelemetry-exporter-otlp-proto-http gives it, and with
the same answers for what an endpoint does. Two things are different: a request ends after OTEL_EXPORTER_OTLP_TIMEOUT
even if an endpoint sends a byte now and then, and neither ~/.netrc nor a proxy that speaks SOCKS is known.
"""

from __future__ import annotations

import re
import zlib
from typing import Dict, NamedTuple, Sequence
from urllib.parse import unquote, urlsplit

from otel_metaflow.core.settings import Destination, of_signal
from otel_metaflow.core.version import __version__
from otel_metaflow.shipper.sinks import answers, protobuf
from otel_metaflow.shipper.sinks.answers import Answer, Exporter, Verdict
from otel_metaflow.shipper.sinks.connection import Connection, Trust, UnansweredError
from otel_metaflow.shipper.telemetry import Record

_PATHS = {"traces": "/v1/traces", "metrics": "/v1/metrics", "logs": "/v1/logs"}
_TIMEOUT = 10.0
# What 0 stands for, which the specification has for no limit: nothing waits for an export any longer.
_NO_TIMEOUT = 300.0


class Options(NamedTuple):
    """The variables of one signal, understood."""

    url: str
    headers: Dict[str, str]
    timeout: float
    compression: str
    trust: Trust

    @classmethod
    def read(cls, destination: Destination) -> Options:
        """Read the environment."""
        signal = destination.signal
        url = destination.endpoint
        if destination.variable != f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT":
            url = (url[:-1] if url.endswith("/") else url) + _PATHS[signal]
        compression = of_signal(signal, "COMPRESSION").strip().lower()
        headers = {"content-type": "application/x-protobuf", "user-agent": f"otel-metaflow/{__version__}"}
        headers.update(_headers(of_signal(signal, "HEADERS")))
        if compression not in ("", "none"):
            headers.setdefault("content-encoding", compression)
        return cls(
            url,
            headers,
            float(of_signal(signal, "TIMEOUT") or _TIMEOUT) or _NO_TIMEOUT,
            compression,
            Trust(*(of_signal(signal, name) for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"))),
        )


# As opentelemetry.util.re has it, by https://www.w3.org/TR/baggage/#header-content, and with spaces in a value, too.
_NAME, _VALUE = r"[!#-'*+\-.0-9A-Z^-z|~]+", r"[ !#-+\--:<-\[\]-~]*"
_PAIR = re.compile(rf"[ \t]*{_NAME}[ \t]*=[ \t]*({_VALUE})[ \t]*")


def _headers(text: str) -> Dict[str, str]:
    """The headers of OTEL_EXPORTER_OTLP_HEADERS; what is no `name=value` is passed over, as the official one does."""
    found: Dict[str, str] = {}
    for part in re.split(r"[ \t]*,[ \t]*", text):
        pair = _PAIR.fullmatch(part.strip())
        if pair is None:
            continue
        name, _, value = part.partition("=")
        if " " not in pair.group(1).rstrip(" "):  # else it is not by the specification, and nothing was encoded
            name, value = unquote(name), unquote(value)
        found[name.strip().lower()] = value.strip()
    return found


class _HttpExporter:
    def __init__(self, destination: Destination) -> None:
        self._signal = destination.signal
        self._options = Options.read(destination)
        self._connection = Connection(urlsplit(self._options.url), self._options.trust)

    def __call__(self, records: Sequence[Record]) -> Answer:
        try:
            body = self._compressed(protobuf.encode(self._signal, records))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about these data
            return answers.unfit(error)
        try:
            response = self._connection.post(self._options.headers, body, self._options.timeout)
        except UnansweredError as error:
            return Answer(Verdict.RETRY, error.reason, is_late=error.is_late)
        except Exception as error:  # noqa: BLE001 - such as a header that HTTP does not allow
            return answers.unaskable(error)
        headers = response.headers
        answer = answers.from_http(
            response.status, headers.get("content-type", ""), headers.get("retry-after"), response.reason
        )
        if answer.verdict is not Verdict.DELIVERED:
            return answer
        return answers.partial(*protobuf.partial_success(response.body))

    def _compressed(self, request: bytes) -> bytes:
        compression = self._options.compression
        if compression == "gzip":
            compressor = zlib.compressobj(wbits=31)  # 15 of the window, 16 for gzip's head and tail
            return compressor.compress(request) + compressor.flush()
        return zlib.compress(request) if compression == "deflate" else request


def build(destination: Destination) -> Exporter:
    """The exporter of one signal, configured by the standard variables.

    Raises:
        ValueError: a variable has a value that cannot be used; its message names it.
    """
    return _HttpExporter(destination)
