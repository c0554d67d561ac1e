"""Checks whether an endpoint can be reached: DNS, TCP, TLS, and its protocol."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from otel_metaflow.core import settings
from otel_metaflow.core.settings import Destination

GRPC, HTTP = "grpc", "http/protobuf"

_PROBE_TIMEOUT = 2.0
# The preface and an empty SETTINGS frame: an HTTP/2 server responds with its own (RFC 9113, 3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS_FRAME = 4
_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")


class State(Enum):
    """The result of a hop."""

    OK = "ok"
    FAILED = "fail"
    WARNING = "warn"
    SKIPPED = "--"


class Finding(NamedTuple):
    """The result of checking one hop; `fix` is how to fix it if something is wrong."""

    hop: str
    state: State
    message: str
    fix: str = ""


def not_tried(hop: str) -> Finding:
    """The finding for a hop after one that failed."""
    return Finding(hop, State.SKIPPED, "not tried")


class Address(NamedTuple):
    """The address and protocol of an endpoint; `variable` is the one that sets it; the last three fields are files."""

    protocol: str
    host: str
    port: int
    is_tls: bool
    variable: str
    authority: str | None = None
    certificate: str | None = None
    key: str | None = None

    @classmethod
    def of(cls, destination: Destination) -> Address:
        """The address of a destination."""
        text = destination.endpoint
        url = urlsplit(text if "://" in text else f"http://{text}")
        is_tls = url.scheme == "https"
        if "://" not in text and destination.protocol == GRPC:
            # Like the gRPC exporter: without a scheme, TLS unless INSECURE is true.
            is_tls = settings.of_signal(destination.signal, "INSECURE").lower() != "true"
        return cls(
            destination.protocol,
            url.hostname or "",
            url.port or (443 if is_tls else 80),
            is_tls,
            destination.variable,
            *(
                settings.of_signal(destination.signal, name) or None
                for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
            ),
        )

    def __str__(self) -> str:
        """Host and port, as in a URL."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def connect(self, timeout: float) -> socket.socket:
        """Connect to it.

        Raises:
            OSError: the connection failed.
        """
        return socket.create_connection((self.host, self.port), timeout)


def reach(address: Address, timeout: float) -> Iterator[Finding]:
    """Resolve the host, connect, and do the TLS handshake; with a proxy, only connect to the proxy."""
    proxy = _proxy(address)
    if proxy is not None:
        via = Address("", proxy.hostname or "", proxy.port or 3128, is_tls=False, variable="HTTP_PROXY or HTTPS_PROXY")
        yield Finding("proxy", State.OK, f"{via}, for {address}")
        for finding, connection in _connect(via, timeout):
            if connection is not None:
                connection.close()
            yield finding
        return
    connected: socket.socket | None = None
    for finding, connection in _connect(address, timeout):
        connected = connection or connected
        yield finding
    if connected is None:
        yield not_tried("tls")
    elif not address.is_tls:
        connected.close()
        yield Finding("tls", State.OK, "not used")
    else:
        with connected:
            yield _shake_hands(address, connected)


def _proxy(address: Address) -> SplitResult | None:
    from requests.utils import get_environ_proxies

    scheme = "https" if address.is_tls else "http"
    found = get_environ_proxies(f"{scheme}://{address}")
    text = found.get(scheme) or found.get("all")
    return urlsplit(text if "://" in text else f"http://{text}") if text else None


def _connect(address: Address, timeout: float) -> Iterator[tuple[Finding, socket.socket | None]]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError for an invalid host name
        fix = f"check the host in {address.variable}, or this machine's DNS"
        why = getattr(error, "strerror", None) or error
        yield Finding("name", State.FAILED, f"{address.host} cannot be resolved ({why})", fix), None
        yield not_tried("tcp"), None
        return
    numbers = dict.fromkeys(str(one[4][0]) for one in found)
    yield Finding("name", State.OK, f"{address.host} is {', '.join(numbers)}"), None
    began = time.monotonic()
    try:
        connection = address.connect(timeout)
    except TimeoutError:
        fix = f"check the port in {address.variable}, and any firewall on the way"
        yield Finding("tcp", State.FAILED, f"{address} did not respond within {timeout:g} s", fix), None
    except OSError as error:
        fix = f"start the collector, or check host and port in {address.variable}"
        yield Finding("tcp", State.FAILED, f"{address}: {(error.strerror or str(error)).lower()}", fix), None
    else:
        yield Finding("tcp", State.OK, f"{address}, {(time.monotonic() - began) * 1000:.1f} ms"), connection


def _shake_hands(address: Address, connection: socket.socket) -> Finding:
    authority = address.authority or _authorities(address.protocol)
    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as error:  # SSLError is one
        fix = "set OTEL_EXPORTER_OTLP_CERTIFICATE to a file of certificates in PEM format"
        why = getattr(error, "reason", None) or error.strerror
        return Finding("tls", State.FAILED, f"{authority} has no valid certificate ({why})", fix)
    context.set_alpn_protocols(["h2"] if address.protocol == GRPC else ["http/1.1"])
    fix = "check OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_CERTIFICATE and _CLIENT_KEY"
    try:
        if address.certificate:
            context.load_cert_chain(address.certificate, address.key)
        with context.wrap_socket(connection, server_hostname=address.host) as secured:
            return Finding("tls", State.OK, f"{secured.version()}, certificate trusted")
    except ssl.SSLCertVerificationError as error:
        what = error.verify_message
        fix = "set OTEL_EXPORTER_OTLP_CERTIFICATE to the CA certificate that issued it"
        if "mismatch" in what or "not valid for" in what:
            fix = f"use a name that the certificate covers in {address.variable}"
        return Finding("tls", State.FAILED, f"certificate not trusted: {what}", fix)
    except ssl.SSLError as error:
        if error.reason in _NO_TLS:
            fix = f"change https:// to http:// in {address.variable}"
            return Finding("tls", State.FAILED, "the endpoint does not use TLS", fix)
        return Finding("tls", State.FAILED, f"handshake failed: {error.reason or error}", fix)
    except OSError as error:
        fix = f"if {address} does not use TLS, change https:// to http:// in {address.variable}"
        return Finding("tls", State.FAILED, f"handshake failed: {error.strerror or error}", fix)


def _authorities(protocol: str) -> str | None:
    """The certificates that its exporter trusts by default: requests comes with its own."""
    if protocol == GRPC:
        return os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH") or None
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    chosen = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
    return chosen if Path(chosen).is_file() else None


def detect_protocol(address: Address, timeout: float) -> str:
    """The protocol of an endpoint that is configured without TLS: grpc, http/protobuf, tls, or an empty string."""
    probes: tuple[tuple[bytes, Callable[[bytes], bool], str], ...] = (
        (_PREFACE, lambda response: response[:4] != b"HTTP" and response[3:4] == bytes([_SETTINGS_FRAME]), GRPC),
        (_REQUEST, lambda response: response.startswith(b"HTTP/1"), HTTP),
    )
    for probe, is_expected, protocol in probes:
        with contextlib.suppress(OSError), address.connect(timeout) as connection:
            connection.settimeout(_PROBE_TIMEOUT)
            connection.sendall(probe)
            if is_expected(connection.recv(64)):
                return protocol
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError), address.connect(timeout) as connection:
        connection.settimeout(_PROBE_TIMEOUT)
        context.wrap_socket(connection).close()
        return "tls"
    return ""
