"""A kept-alive HTTP/1.1 connection to an endpoint, direct or through a proxy, with a deadline for each request."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import select
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Mapping, NamedTuple, Optional
from urllib.parse import SplitResult, quote, unquote

from otel_metaflow.shipper.sinks import answers, http_response
from otel_metaflow.shipper.sinks.http_response import Response
from otel_metaflow.shipper.sinks.proxies import proxy_of

if TYPE_CHECKING:  # OpenSSL takes 5 MB, and most containers send to a collector in their cluster
    import ssl

# How much of a response is read; an OTLP response has a few bytes, a proxy's page a few thousand.
_MAX_BODY = 1 << 16
_OK = 200
_PORTS = {"http": 80, "https": 443}
# As requests has them: what a header may be, and what a URL may hold as it is.
_NAME, _TEXT = re.compile(r"[^:\s][^:\r\n]*"), re.compile(r"(?:\S[^\r\n]*)?")
_SAFE = "!#$%&'()*+,/:;=?@[]~"


class UnansweredError(Exception):
    """A request was not answered, for a reason in the words of answers.py."""

    def __init__(self, reason: str, *, is_late: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_late = is_late


class Trust(NamedTuple):
    """PEM files: the CA of the endpoint's certificate, and the client's certificate and key; empty for the default."""

    authorities: str = ""
    certificate: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """Created anew for each connection, because certificates are renewed.

        Raises:
            OSError: a file cannot be read, or holds no certificate (SSLError).
        """
        import ssl

        authorities = self.authorities or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        made = ssl.create_default_context(cafile=authorities or None)
        made.set_alpn_protocols(["http/1.1"])
        if self.certificate:
            made.load_cert_chain(self.certificate, self.key or None)
        return made


class _Stream:
    """A socket whose operations end by a deadline: with one byte per second, a socket's own timeout never expires."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket = sock
        self.deadline = deadline

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Use TLS from now on."""
        self._limit()
        self._socket = context.wrap_socket(self._socket, server_hostname=host)

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._limit()
            view = view[self._socket.send(view) :]

    def receive_into(self, buffer: Any) -> int:
        self._limit()
        return self._socket.recv_into(buffer)

    def reader(self) -> io.BufferedReader:
        """What a response is read from; to close it leaves the connection open."""
        return io.BufferedReader(_Reader(self))

    def is_quiet(self) -> bool:
        """Whether there is nothing to read: neither the end of the connection nor unexpected data."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        self._socket.close()

    def _limit(self) -> None:
        self._socket.settimeout(_remaining(self.deadline))


class _Reader(io.RawIOBase):
    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._stream.receive_into(buffer)


def _remaining(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise socket.timeout
    return seconds


class Connection:
    """Requests to one endpoint, over one connection for as long as the endpoint keeps it open."""

    def __init__(self, url: SplitResult, trust: Trust, environ: Optional[Mapping[str, str]] = None) -> None:
        """`url` is that of the endpoint.

        Raises:
            ValueError: it is reached through a proxy of a kind that is not spoken here.
        """
        self._url, self._trust = url, trust
        self._proxy = proxy_of(url, os.environ if environ is None else environ)
        self._stream: Optional[_Stream] = None

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; another request would open one again."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def post(self, headers: Mapping[str, str], body: bytes, seconds: float) -> Response:
        """Send a request, and return what was answered within `seconds`. No redirect is followed.

        Nothing is sent twice: that a kept-alive connection is still open is looked at before, as urllib3 does.

        Raises:
            UnansweredError: it was not.
            ValueError: the request cannot be made.
        """
        head = self._head({**headers, "content-length": str(len(body))})
        deadline = time.monotonic() + seconds
        stream = self._stream
        if stream is None or not stream.is_quiet():
            self.close()
            stream = self._open(deadline)
        self._stream = None  # until it is known that it can be used again
        try:
            stream.deadline = deadline
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before
                stream.send(head + body)
            response = http_response.read(stream.reader(), _MAX_BODY)
        except BaseException as error:
            stream.close()
            raise _unanswered(error) from error
        if response.is_kept:
            self._stream = stream
        else:
            stream.close()
        return response

    def _head(self, headers: Mapping[str, str]) -> bytes:
        """The head of a request.

        Raises:
            ValueError: HTTP does not allow one of `headers`; the text does not quote it, it may be a key.
        """
        url = self._url
        target = quote(f"{url.path or '/'}{f'?{url.query}' if url.query else ''}", safe=_SAFE)
        if self._proxy is not None and url.scheme == "http":
            target = f"http://{_authority(url)}{target}"
            headers = {**_credentials(self._proxy, "proxy-authorization"), **headers}
        lines = [f"POST {target} HTTP/1.1"]
        for name, value in {"host": _authority(url), **headers, **_credentials(url, "authorization")}.items():
            if not _NAME.fullmatch(name) or not _TEXT.fullmatch(value):
                raise ValueError("a header that HTTP does not allow")
            lines.append(f"{name}: {value}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _open(self, deadline: float) -> _Stream:
        if self._proxy is None:
            stream = _connected(self._url, deadline)
        else:
            try:
                stream = _connected(self._proxy, deadline)
                self._pass_through(stream)
            except UnansweredError as error:
                raise UnansweredError(answers.NO_PROXY) from error
        if self._url.scheme == "https":
            _secured(stream, self._trust, self._url)
        return stream

    def _pass_through(self, proxy: _Stream) -> None:
        """Have the proxy connect to an endpoint that speaks TLS, and secure the way to a proxy that does."""
        if self._proxy is None:
            return
        if self._proxy.scheme == "https":
            _secured(proxy, self._trust, self._proxy)
        if self._url.scheme != "https":
            return
        target = f"{_bracketed(self._url)}:{_port(self._url)}"
        lines = [f"CONNECT {target} HTTP/1.1", f"host: {target}"]
        lines += [f"{name}: {value}" for name, value in _credentials(self._proxy, "proxy-authorization").items()]
        try:
            proxy.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
            response = http_response.read(proxy.reader(), _MAX_BODY, is_tunnel=True)
        except BaseException as error:
            proxy.close()
            raise _unanswered(error) from error
        if response.status != _OK:
            proxy.close()
            raise UnansweredError(f"answered {response.status}")


def _connected(url: SplitResult, deadline: float) -> _Stream:
    """A connection to the first of a host's addresses that accepts one."""
    try:
        found = socket.getaddrinfo(url.hostname, _port(url), type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnansweredError(answers.UNRESOLVED) from error
    failed: OSError = OSError("no address")
    for family, kind, protocol, _, address in found:
        try:
            made = socket.socket(family, kind, protocol)
        except OSError as error:  # a kind of address that this machine does not have
            failed = error
            continue
        try:
            made.settimeout(_remaining(deadline))
            made.connect(address)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            made.close()
            failed = error
        else:
            return _Stream(made, deadline)
    is_late = isinstance(failed, socket.timeout)
    raise UnansweredError(answers.NOT_CONNECTED if is_late else answers.CONNECTION_REFUSED) from failed


def _secured(stream: _Stream, trust: Trust, url: SplitResult) -> None:
    try:
        stream.secure(trust.context(), url.hostname or "")
    except BaseException as error:
        stream.close()
        raise _unanswered(error) from error


def _unanswered(error: BaseException) -> BaseException:
    """The reason of answers.py for an error of a socket or of HTTP; any other error as it is."""
    if isinstance(error, socket.timeout):
        return UnansweredError(answers.LATE, is_late=True)
    if _is_of_tls(error):
        return UnansweredError(answers.TLS_FAILED)
    if isinstance(error, (OSError, http_response.ResponseError)):
        return UnansweredError(answers.BROKEN)
    return error


def _is_of_tls(error: BaseException) -> bool:
    ssl = sys.modules.get("ssl")  # without it, there is no such error
    return ssl is not None and isinstance(error, ssl.SSLError)


def _port(url: SplitResult) -> int:
    return url.port or _PORTS[url.scheme]


def _bracketed(url: SplitResult) -> str:
    host = url.hostname or ""
    return f"[{host}]" if ":" in host else host.encode("idna").decode()


def _authority(url: SplitResult) -> str:
    """Host and port as in a URL, without the credentials, and without the scheme's default port."""
    return _bracketed(url) + (f":{url.port}" if url.port and url.port != _PORTS[url.scheme] else "")


def _credentials(url: SplitResult, header: str) -> Mapping[str, str]:
    """The header for the user and password in a URL, if there are any."""
    if url.username is None:
        return {}
    pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return {header: f"Basic {base64.b64encode(pair.encode('latin-1', 'replace')).decode()}"}
