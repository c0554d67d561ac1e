"""Whether an endpoint can be reached: DNS, TCP, TLS, and the protocol it speaks."""

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

_GREETING_PATIENCE = 2.0
# An empty SETTINGS frame after the preface: whoever speaks HTTP/2 answers with one of its own (RFC 9113, 3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS_FRAME = 4
_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")


class State(Enum):
    """How a leg went."""

    OK = "ok"
    FAILED = "fail"
    WARNING = "warn"
    SKIPPED = "--"


class Finding(NamedTuple):
    """What was found on one leg; `fix` is what to do where something is wrong."""

    leg: str
    state: State
    message: str
    fix: str = ""


def not_tried(leg: str) -> Finding:
    """A leg behind one that failed."""
    return Finding(leg, State.SKIPPED, "not tried")


class Address(NamedTuple):
    """Where an endpoint is and how it is spoken to; `variable` is the one that says so, the last three are files."""

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
        """The address of what a signal is sent to."""
        text = destination.endpoint
        url = urlsplit(text if "://" in text else f"http://{text}")
        is_tls = url.scheme == "https"
        if "://" not in text and destination.protocol == GRPC:
            # As its exporter has it: without a scheme, TLS unless INSECURE says otherwise.
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
        """Host and port, as in an address."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def connect(self, timeout: float) -> socket.socket:
        """A connection to it.

        Raises:
            OSError: there is none, for whatever reason.
        """
        return socket.create_connection((self.host, self.port), timeout)


def reach(address: Address, timeout: float) -> Iterator[Finding]:
    """Look up its name, connect, shake hands; through a proxy, only as far as the proxy."""
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
    except (OSError, UnicodeError) as error:  # the latter of a host that cannot be a name at all
        do = f"check the host in {address.variable}, or this machine's DNS"
        why = getattr(error, "strerror", None) or error
        yield Finding("name", State.FAILED, f"{address.host} cannot be resolved ({why})", do), None
        yield not_tried("tcp"), None
        return
    numbers = dict.fromkeys(str(one[4][0]) for one in found)
    yield Finding("name", State.OK, f"{address.host} is {', '.join(numbers)}"), None
    began = time.monotonic()
    try:
        connection = address.connect(timeout)
    except TimeoutError:
        do = f"check the port in {address.variable}, and firewalls between here and there"
        yield Finding("tcp", State.FAILED, f"{address} did not answer within {timeout:g} s", do), None
    except OSError as error:
        do = f"start the collector, or check host and port in {address.variable}"
        yield Finding("tcp", State.FAILED, f"{address}: {(error.strerror or str(error)).lower()}", do), None
    else:
        yield Finding("tcp", State.OK, f"{address}, {(time.monotonic() - began) * 1000:.1f} ms"), connection


def _shake_hands(address: Address, connection: socket.socket) -> Finding:
    authority = address.authority or _authorities(address.protocol)
    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as error:  # SSLError is one
        do = "set OTEL_EXPORTER_OTLP_CERTIFICATE to a file of certificates in PEM format"
        why = getattr(error, "reason", None) or error.strerror
        return Finding("tls", State.FAILED, f"{authority} holds no readable certificate ({why})", do)
    context.set_alpn_protocols(["h2"] if address.protocol == GRPC else ["http/1.1"])
    do = "check OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_CERTIFICATE and _CLIENT_KEY"
    try:
        if address.certificate:
            context.load_cert_chain(address.certificate, address.key)
        with context.wrap_socket(connection, server_hostname=address.host) as secured:
            return Finding("tls", State.OK, f"{secured.version()}, certificate trusted")
    except ssl.SSLCertVerificationError as error:
        what = error.verify_message
        do = "set OTEL_EXPORTER_OTLP_CERTIFICATE to the CA certificate that issued it"
        if "mismatch" in what or "not valid for" in what:
            do = f"use a name that the certificate covers in {address.variable}"
        return Finding("tls", State.FAILED, f"certificate not trusted: {what}", do)
    except ssl.SSLError as error:
        if error.reason in _NO_TLS:
            do = f"change https:// to http:// in {address.variable}"
            return Finding("tls", State.FAILED, "the endpoint does not speak TLS", do)
        return Finding("tls", State.FAILED, f"the handshake failed: {error.reason or error}", do)
    except OSError as error:
        do = f"if {address} does not speak TLS, use http:// in {address.variable}"
        return Finding("tls", State.FAILED, f"the handshake failed: {error.strerror or error}", do)


def _authorities(protocol: str) -> str | None:
    """Whom its exporter trusts where nothing is said: requests brings a list of its own."""
    if protocol == GRPC:
        return os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH") or None
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    chosen = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
    return chosen if Path(chosen).is_file() else None


def spoken(address: Address, timeout: float) -> str:
    """What an endpoint that was asked without TLS does speak: grpc, http/protobuf, tls, or nothing that is known."""
    greetings: tuple[tuple[bytes, Callable[[bytes], bool], str], ...] = (
        (_PREFACE, lambda said: said[:4] != b"HTTP" and said[3:4] == bytes([_SETTINGS_FRAME]), GRPC),
        (_REQUEST, lambda said: said.startswith(b"HTTP/1"), HTTP),
    )
    for greeting, is_known, protocol in greetings:
        with contextlib.suppress(OSError), address.connect(timeout) as connection:
            connection.settimeout(_GREETING_PATIENCE)
            connection.sendall(greeting)
            if is_known(connection.recv(64)):
                return protocol
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError), address.connect(timeout) as connection:
        connection.settimeout(_GREETING_PATIENCE)
        context.wrap_socket(connection).close()
        return "tls"
    return ""
