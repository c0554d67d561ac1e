"""The sink of the standard library alone answers as the official exporters do, for whatever an endpoint does."""

from __future__ import annotations

import contextlib
import email.utils
import gzip
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import pytest
import trustme
from endpoint import Endpoint
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)
from opentelemetry.util.re import parse_env_headers
from requests.utils import get_environ_proxies
from running import eventually

from otel_metaflow.core import settings
from otel_metaflow.shipper.sinks import answers, http_response, otlp, otlp_http, protobuf, proxies
from otel_metaflow.shipper.sinks.answers import Answer, Verdict
from otel_metaflow.shipper.telemetry import Record, Resource, Scope

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
SINKS = {"official": otlp.build, "ours": otlp_http.build}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no certificates of this machine's, and little patience."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "5")


def answer_of(sink: str, url: str, monkeypatch: pytest.MonkeyPatch, batch: Any = ()) -> Answer:
    """What a sink makes of an endpoint."""
    monkeypatch.setenv(ENDPOINT, url)
    destination = settings.read().destinations["logs"]
    return SINKS[sink](destination)(list(batch))


RESOURCE, SCOPE = Resource({"service.name": "box"}), Scope("test")
# More than what the buffers of a connection take.
MANY = [Record(RESOURCE, SCOPE, {"body": str(number) * 100_000}) for number in range(200)]
ONE = MANY[:1]


# Servers that do one thing, made of a socket


@contextlib.contextmanager
def serving(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that has one talk with each client, at the address that is yielded."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                talk(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)


def request(connection: socket.socket) -> bytes:
    """The head of a request; its body is read, too."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        if not more:
            raise OSError
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    size = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < size:
        body += connection.recv(65536)
    return head


def reply(text: bytes) -> Callable[[], AbstractContextManager[str]]:
    """A server that sends the same answer to any request, and hangs up."""

    def talk(connection: socket.socket) -> None:
        request(connection)
        connection.sendall(text)

    return lambda: serving(talk)


def without_end(head: bytes, part: bytes) -> Callable[[], AbstractContextManager[str]]:
    """A server that sends a part of a body again and again."""

    def talk(connection: socket.socket) -> None:
        request(connection)
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))

    return lambda: serving(talk)


def resetting_after(text: bytes) -> Callable[[], AbstractContextManager[str]]:
    def talk(connection: socket.socket) -> None:
        request(connection)
        connection.sendall(text)
        time.sleep(0.2)  # what was sent is to be read before the reset takes it away
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return lambda: serving(talk)


def failing(fault: str, retry_after: str | None = None) -> Callable[[], AbstractContextManager[str]]:
    @contextlib.contextmanager
    def server() -> Iterator[str]:
        with Endpoint(fault, retry_after=retry_after) as endpoint:
            yield endpoint.url

    return server


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def untrusted() -> Iterator[str]:
    with Endpoint(tls=trustme.CA().issue_cert("127.0.0.1")) as endpoint:
        yield endpoint.url


@contextlib.contextmanager
def plain_where_tls_is_expected() -> Iterator[str]:
    with Endpoint() as endpoint:
        yield endpoint.url.replace("http", "https")


@contextlib.contextmanager
def tls_where_none_is_expected() -> Iterator[str]:
    with Endpoint(tls=trustme.CA().issue_cert("127.0.0.1")) as endpoint:
        yield endpoint.url.replace("https", "http")


@contextlib.contextmanager
def unresolvable() -> Iterator[str]:
    yield "http://nobody.invalid:4318"


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n"
REFUSES = "answered 302 Found; check OTEL_EXPORTER_OTLP_ENDPOINT"
NO_TLS = Answer(Verdict.RETRY, "TLS failed, check OTEL_EXPORTER_OTLP_CERTIFICATE")
BROKEN = Answer(Verdict.RETRY, "broke the connection")
LATE = Answer(Verdict.RETRY, "did not answer in time", is_late=True)
TABLE: dict[str, tuple[Callable[[], AbstractContextManager[str]], Answer]] = {
    "200": (failing("ok"), answers.DELIVERED),
    "200 with a web page": (
        failing("html"),
        Answer(
            Verdict.REFUSED,
            "answered with a web page, so it is not an OTLP endpoint; check OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
    ),
    "204": (reply(b"HTTP/1.1 204 No Content\r\n\r\n"), answers.DELIVERED),
    "200 with what is no answer": (reply(OK + b'Content-Length: 5\r\n\r\n{"a":'), answers.DELIVERED),
    "200 in chunks": (
        reply(OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\n\x0a\x02\x08\x03\r\n0\r\n\r\n"),
        Answer(Verdict.DELIVERED, rejected=3),
    ),
    "200 without a length": (reply(OK + b"\r\n\x0a\x02\x08\x03"), Answer(Verdict.DELIVERED, rejected=3)),
    "200 without end": (without_end(OK, bytes(9999)), answers.DELIVERED),
    "200 without end, compressed": (
        without_end(OK + b"Content-Encoding: gzip\r\n", gzip.compress(bytes(9_999_999))),
        answers.DELIVERED,
    ),
    "400 without end": (
        without_end(b"HTTP/1.1 400 Bad Request\r\n", b"no" * 999),
        Answer(Verdict.SPLIT, "answered 400 Bad Request"),
    ),
    "200 of HTTP/1.0": (reply(b"HTTP/1.0 200 OK\r\n\r\n"), answers.DELIVERED),
    "100 before 200": (reply(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n"), answers.DELIVERED),
    "302": (failing("302"), Answer(Verdict.REFUSED, REFUSES)),
    "400": (failing("400"), Answer(Verdict.SPLIT, "answered 400 Bad Request")),
    "401": (
        failing("401"),
        Answer(Verdict.REFUSED, "answered 401 Unauthorized; check OTEL_EXPORTER_OTLP_HEADERS"),
    ),
    "404": (
        failing("404"),
        Answer(Verdict.REFUSED, "answered 404 Not Found; check the path in OTEL_EXPORTER_OTLP_ENDPOINT"),
    ),
    "413": (failing("413"), Answer(Verdict.SPLIT, "answered 413 Request Entity Too Large")),
    "429, in seconds": (failing("429", "7"), Answer(Verdict.RETRY, "answered 429 Too Many Requests", wait=7)),
    "500": (failing("500"), Answer(Verdict.SPLIT, "answered 500 Internal Server Error")),
    "503": (failing("503"), Answer(Verdict.RETRY, "answered 503 Service Unavailable")),
    "503 without a reason": (
        reply(b"HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n"),
        Answer(Verdict.RETRY, "answered 503"),
    ),
    "a part is rejected": (failing("partial"), Answer(Verdict.DELIVERED, "too old", rejected=1)),
    "connection refused": (nobody, Answer(Verdict.RETRY, "refused the connection")),
    "the connection breaks before an answer": (failing("reset"), BROKEN),
    "the connection ends before an answer": (reply(b""), BROKEN),
    "the connection breaks in an answer": (
        resetting_after(OK + b"Content-Length: 100\r\n\r\nhalf"),
        BROKEN,
    ),
    "the connection ends in an answer": (
        reply(OK + b"Content-Length: 100\r\n\r\nhalf"),
        BROKEN,
    ),
    "the connection ends in a chunk": (
        reply(OK + b"Transfer-Encoding: chunked\r\n\r\n64\r\nhalf"),
        BROKEN,
    ),
    "no HTTP": (reply(b"SSH-2.0-OpenSSH_9.2\r\n"), BROKEN),
    "an authority that nobody trusts": (untrusted, NO_TLS),
    "no TLS where it is expected": (plain_where_tls_is_expected, NO_TLS),
    "TLS where none is expected": (tls_where_none_is_expected, BROKEN),
    "no such name": (unresolvable, Answer(Verdict.RETRY, "cannot be resolved, check OTEL_EXPORTER_OTLP_ENDPOINT")),
}  # fmt: skip


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("behaviour", TABLE)
def test_both_answer_the_same(behaviour: str, sink: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server, expected = TABLE[behaviour]
    with server() as url:
        assert answer_of(sink, url, monkeypatch) == expected


def test_an_invalid_host_is_refused_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same words, but for the error's class."""
    found = {sink: answer_of(sink, f"http://{'a' * 64}.invalid:4318", monkeypatch) for sink in SINKS}
    assert {answer.verdict for answer in found.values()} == {Verdict.REFUSED}
    assert found["ours"].reason == found["official"].reason.replace("LocationParseError", "UnicodeError")


def test_a_retry_after_may_be_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    for sink in SINKS:
        with failing("429", email.utils.formatdate(time.time() + 60, usegmt=True))() as url:
            answer = answer_of(sink, url, monkeypatch)
        assert answer.verdict is Verdict.RETRY
        assert answer.wait is not None
        assert 50 < answer.wait <= 61


@pytest.mark.parametrize("size", [b"-5", b"+5", b"0x5", b"1_0", b"", b"a chunk"])
def test_a_chunk_of_no_size_is_not_read(size: bytes) -> None:
    """A negative one would be read without end."""
    file = BufferedReader(BytesIO(OK + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\n" + b"x" * 100_000))
    with pytest.raises(http_response.ResponseError):
        http_response.read(file, 10)
    assert len(file.read()) == 100_000


# Patience


@contextlib.contextmanager
def full() -> Iterator[str]:
    """A listener whose queue is full: what asks for a connection hears nothing."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def silent(scheme: str = "http") -> Iterator[str]:
    """A server that takes connections, and reads nothing."""
    over = threading.Event()
    with serving(lambda _: over.wait(30) and None) as url:
        yield url.replace("http", scheme)
        over.set()


def after_a_second(kind: str) -> AbstractContextManager[str]:
    if kind == "connecting":
        return full()
    if kind == "shaking hands":
        return silent("https")
    if kind == "sending":
        return silent()
    if kind == "answering":
        return failing("blackhole")()
    return resting_in_an_answer()


@contextlib.contextmanager
def resting_in_an_answer() -> Iterator[str]:
    over = threading.Event()

    def talk(connection: socket.socket) -> None:
        request(connection)
        connection.sendall(OK + b"Content-Length: 100\r\n\r\nhalf")
        over.wait(30)

    with serving(talk) as url:
        yield url
        over.set()


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("stalls_while", ["connecting", "shaking hands", "sending", "answering", "in an answer"])
def test_both_have_the_same_patience(stalls_while: str, sink: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of OTEL_EXPORTER_OTLP_TIMEOUT, in seconds, whatever it is that stalls."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "0.7")
    batch = MANY if stalls_while == "sending" else ()
    expected = Answer(Verdict.RETRY, "did not answer") if stalls_while == "connecting" else LATE
    if (stalls_while, sink) == ("sending", "official"):
        expected = BROKEN  # urllib3 takes a timeout while it sends for a broken connection: the same size again
    elif (stalls_while, sink) == ("in an answer", "official"):
        expected = LATE._replace(is_late=False)  # the request was not too large, its answer is
    with after_a_second(stalls_while) as url:
        began = time.monotonic()
        assert answer_of(sink, url, monkeypatch, batch) == expected
        assert 0.6 < time.monotonic() - began < 20  # a stall is of thirty


def test_an_endpoint_that_answers_a_byte_at_a_time_ends_our_patience_and_not_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Theirs is that of each byte: a worker's own, of minutes, has to end it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    found = {}
    for sink in SINKS:
        with Endpoint("slow", pace=0.01) as endpoint:
            found[sink] = answer_of(sink, endpoint.url, monkeypatch)
    assert found == {"official": answers.DELIVERED, "ours": LATE}


def test_no_timeout_is_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the specification 0 is no limit; the official exporters refuse to send with it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0")
    with failing("ok")() as url:
        assert answer_of("ours", url, monkeypatch) == answers.DELIVERED
        assert answer_of("official", url, monkeypatch).verdict is Verdict.REFUSED
        assert otlp_http.Options.read(settings.read().destinations["logs"]).timeout == 300


# The connection


@contextlib.contextmanager
def counting(then: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[int]]]:
    """A server that answers requests, `then` does something else with each connection; how many came by each."""
    requests: list[int] = []

    def talk(connection: socket.socket) -> None:
        mine = len(requests)
        requests.append(0)
        while True:
            request(connection)
            requests[mine] += 1
            connection.sendall(OK + b"Content-Length: 0\r\n\r\n")
            then(connection)

    with serving(talk) as url:
        yield url, requests


def exporter(sink: str, url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(ENDPOINT, url)
    return SINKS[sink](settings.read().destinations["logs"])


@pytest.mark.parametrize("sink", SINKS)
def test_one_connection_serves_many_requests(sink: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with counting(lambda _: None) as (url, requests):
        export = exporter(sink, url, monkeypatch)
        assert {export(list(ONE)) for _ in range(5)} == {answers.DELIVERED}
    assert requests == [5]


@pytest.mark.parametrize("sink", SINKS)
def test_a_connection_that_the_endpoint_has_closed_is_seen_before_anything_is_sent(
    sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nothing fails, and nothing is sent twice."""
    with counting(lambda connection: connection.shutdown(socket.SHUT_RDWR)) as (url, requests):
        export = exporter(sink, url, monkeypatch)
        for sent in range(1, 4):
            assert export(list(ONE)) == answers.DELIVERED
            eventually(lambda sent=sent: requests == [1] * sent)
            time.sleep(0.05)  # the end of a connection is on its way, and nothing can be asked of it
    assert requests == [1, 1, 1]


@pytest.mark.parametrize("sink", SINKS)
def test_a_request_that_was_read_and_not_answered_is_not_sent_again_by_itself(
    sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been taken: whether to risk a double is the worker's to decide."""
    requests = []

    def talk(connection: socket.socket) -> None:
        while True:
            requests.append(request(connection))
            if len(requests) == 2:
                return
            connection.sendall(OK + b"Content-Length: 0\r\n\r\n")

    with serving(talk) as url:
        export = exporter(sink, url, monkeypatch)
        assert [export(list(ONE)) for _ in range(2)] == [answers.DELIVERED, BROKEN]
        assert len(requests) == 2
        assert export(list(ONE)) == answers.DELIVERED


@pytest.mark.parametrize("sink", SINKS)
def test_an_answer_that_comes_before_all_is_sent_is_read(sink: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server answers that turns a large request away by its head."""

    def talk(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 Request Entity Too Large\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    with serving(talk) as url:
        answer = answer_of(sink, url, monkeypatch, MANY)
    assert answer == Answer(Verdict.SPLIT, "answered 413 Request Entity Too Large")


@pytest.mark.parametrize("sink", SINKS)
def test_another_address_of_the_same_name_is_tried(sink: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Localhost is ::1, too, where only 127.0.0.1 listens."""
    found = socket.getaddrinfo
    both = [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]

    def resolved(_host: Any, port: Any, *_: Any, **__: Any) -> Any:
        return [one for family, host in both for one in found(host, port, family, socket.SOCK_STREAM)]

    with Endpoint() as endpoint:
        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        assert answer_of(sink, f"http://box.example:{endpoint.port}", monkeypatch) == answers.DELIVERED


def test_a_closed_sink_leaves_no_connection_open(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def talk(connection: socket.socket) -> None:
        request(connection)
        connection.sendall(OK + b"Content-Length: 0\r\n\r\n")
        assert connection.recv(1) == b""
        over.set()

    with serving(talk) as url:
        export = exporter("ours", url, monkeypatch)
        assert export(list(ONE)) == answers.DELIVERED
        del export
        assert over.wait(10)


# TLS


class Secured:
    """A server that wants a certificate of its clients, and the files that they need."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.theirs = trustme.CA(), trustme.CA()
        self.files = {
            "CERTIFICATE": folder / "authority.pem",
            "CLIENT_CERTIFICATE": folder / "client.pem",
            "CLIENT_KEY": folder / "client.key",
        }
        client = self.theirs.issue_cert("client@example.org")
        self.authority.cert_pem.write_to_path(str(self.files["CERTIFICATE"]))
        client.cert_chain_pems[0].write_to_path(str(self.files["CLIENT_CERTIFICATE"]))
        client.private_key_pem.write_to_path(str(self.files["CLIENT_KEY"]))

    @contextlib.contextmanager
    def __call__(self, name: str = "127.0.0.1") -> Iterator[str]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        self.authority.issue_cert(name).configure_cert(context)
        self.theirs.configure_trust(context)

        def talk(connection: socket.socket) -> None:
            with contextlib.suppress(ssl.SSLError), context.wrap_socket(connection, server_side=True) as secured:
                while True:
                    request(secured)
                    secured.sendall(OK + b"Content-Length: 0\r\n\r\n")

        with serving(talk) as url:
            yield url.replace("http", "https")


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("infix", ["", "LOGS_"])
def test_client_certificates(sink: str, infix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint's authority, our certificate and its key; for all signals or for one."""
    server = Secured(tmp_path)
    for name, path in server.files.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{infix}{name}", str(path))
    with server() as url:
        export = exporter(sink, url, monkeypatch)
        assert [export(list(ONE)) for _ in range(3)] == [answers.DELIVERED] * 3
    with server("example.org") as url:
        assert answer_of(sink, url, monkeypatch) == NO_TLS
    monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{infix}CLIENT_CERTIFICATE")
    with server() as url:
        assert answer_of(sink, url, monkeypatch) == NO_TLS


@pytest.mark.parametrize("sink", SINKS)
def test_a_certificate_file_that_holds_none(sink: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "authority.pem").write_text("nothing of the kind")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "authority.pem"))
    with untrusted() as url:
        assert answer_of(sink, url, monkeypatch) == NO_TLS


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_bundle_that_requests_knows_is_known_to_both(
    sink: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in companies that inspect what leaves; OTEL_EXPORTER_OTLP_CERTIFICATE goes before it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "bundle.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    monkeypatch.setenv(variable, str(tmp_path / "bundle.pem"))
    with Endpoint(tls=authority.issue_cert("127.0.0.1")) as endpoint:
        assert answer_of(sink, endpoint.url, monkeypatch) == answers.DELIVERED
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "other.pem"))
        assert answer_of(sink, endpoint.url, monkeypatch) == NO_TLS


# What is sent


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("infix", ["", "LOGS_"])
@pytest.mark.parametrize("compression", ["none", "gzip", "deflate", " GZIP"])
def test_compression(sink: str, infix: str, compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variable for all signals or for one."""
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{infix}COMPRESSION", compression)
    with Endpoint() as endpoint:
        assert answer_of(sink, endpoint.url, monkeypatch, ONE) == answers.DELIVERED
        (_, headers), *_ = endpoint.requests
        assert endpoint.bodies() == ["0" * 100_000]
    assert headers.get("content-encoding", "none") == compression.strip().lower()
    assert (int(headers["content-length"]) < 2_000) == (compression != "none")


HEADERS = "api-key=a%20b%2Cc, X-Tenant = one two ,authorization=Basic%20dTpw,nonsense,empty="


def test_headers_equal_the_official_exporters(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it sends but what urllib3 adds, and who it is."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", HEADERS)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    seen = {}
    for sink in SINKS:
        with Endpoint() as endpoint:
            assert answer_of(sink, endpoint.url, monkeypatch, ONE) == answers.DELIVERED
            (path, headers), *_ = endpoint.requests
        for name in ("user-agent", "content-length", "host", "accept", "accept-encoding", "connection"):
            headers.pop(name, None)
        seen[sink] = (path, headers)
    assert seen["ours"] == seen["official"]
    assert seen["ours"][1]["api-key"] == "a b,c"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "api-key=other")
    with Endpoint() as endpoint:
        assert answer_of("ours", endpoint.url, monkeypatch) == answers.DELIVERED
        (_, headers), *_ = endpoint.requests
    assert headers["api-key"] == "other"
    assert "x-tenant" not in headers


@given(st.text(st.sampled_from('aB1-=,% \t"\\;:{}é%2C%0A')) | st.text(max_size=30))
@example("a=1,b = 2 3 ,c=%41%20,=x,d==,e")
def test_any_text_of_headers_is_read_as_the_official_exporter_reads_it(text: str) -> None:
    assert otlp_http._headers(text) == parse_env_headers(text, liberal=True)


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("value", ["a%0D%0Ab:c", "%E2%82%AC"])
def test_a_header_that_http_does_not_allow_is_refused(sink: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its value, which may be a key."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"key={value}")
    with Endpoint() as endpoint:
        answer = answer_of(sink, endpoint.url, monkeypatch)
        assert not endpoint.seen
    assert answer.verdict is Verdict.REFUSED
    assert answer.reason.startswith("rejected by the exporter (")
    assert answer.reason.endswith("); check OTEL_EXPORTER_OTLP_HEADERS and _ENDPOINT")


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("ending", ["", "/", "/o tel", "/a%2Fé", "/otlp?key=a b&c", "//"])
def test_paths_queries_and_credentials_of_an_endpoint(sink: str, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are asked for on the wire."""
    heads = []

    def talk(connection: socket.socket) -> None:
        heads.append(request(connection))
        connection.sendall(OK + b"Content-Length: 0\r\n\r\n")

    with serving(talk) as url:
        at = url.replace("http://", "http://us%65r:p%20w@") + ending
        for name in (ENDPOINT, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"):
            monkeypatch.setenv(name, at)
            assert SINKS[sink](settings.read().destinations["logs"])([]) == answers.DELIVERED
    wire = {"": "/", "/": "/", "/o tel": "/o%20tel", "/a%2Fé": "/a%2F%C3%A9", "//": "//"}.get(
        ending, "/otlp?key=a%20b&c"
    )
    general = {"": "/v1/logs", "/": "/v1/logs", "//": "//v1/logs"}.get(ending, f"{wire}/v1/logs")
    asked = [head.split(b" ")[1].decode() for head in heads]
    assert asked == [general, wire]
    for head in heads:
        lines = head.decode().lower().split("\r\n")
        assert "authorization: basic dxnlcjpwihc=" in lines
        assert f"host: {url.removeprefix('http://')}" in lines


@given(
    st.builds(
        ExportLogsServiceResponse,
        partial_success=st.none()
        | st.builds(
            ExportLogsPartialSuccess,
            rejected_log_records=st.integers(0, 2**63 - 1),
            error_message=st.text(max_size=300),
        ),
    ),
    st.binary(max_size=4),
)
def test_any_partial_success_is_read_as_the_official_message_reads_it(message: Any, more: bytes) -> None:
    """And what is no message rejects nothing."""
    partial = message.partial_success
    data = message.SerializeToString()
    assert protobuf.partial_success(data) == (partial.rejected_log_records, partial.error_message)
    for size in range(len(data)):
        protobuf.partial_success(data[:size])
    rejected, _ = protobuf.partial_success(data + more)
    assert rejected >= 0


# Proxies


@contextlib.contextmanager
def proxying(answer: bytes = b"") -> Iterator[tuple[str, list[bytes]]]:
    """A proxy of HTTP, which tunnels, too; `answer` to refuse. Its address, and the heads of what it was asked."""
    heads: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(65536)
        head = received.partition(b"\r\n\r\n")[0]
        heads.append(head)
        if answer:
            connection.sendall(answer)
            return
        method, target, _ = head.split(b"\r\n")[0].split(b" ")
        url = urlsplit(f"//{target.decode()}" if method == b"CONNECT" else target.decode())
        with socket.create_connection((url.hostname, url.port)) as there:
            if method == b"CONNECT":
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                there.sendall(received.replace(target, url.path.encode(), 1))
            back = threading.Thread(target=pass_on, args=(there, connection), daemon=True)
            back.start()
            pass_on(connection, there)
            back.join(10)

    with serving(talk) as url:
        yield url, heads


def pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("sink", SINKS)
def test_a_proxy_for_plain_http(sink: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxying() as (proxy, heads), Endpoint() as endpoint:
        monkeypatch.setenv("HTTP_PROXY", proxy.replace("http://", "http://me:p%40ss@"))
        assert answer_of(sink, endpoint.url, monkeypatch, ONE) == answers.DELIVERED
    lines = heads[0].decode().split("\r\n")
    assert lines[0] == f"POST {endpoint.url}/v1/logs HTTP/1.1"
    assert "proxy-authorization: basic bwu6cebzcw==" in [line.lower() for line in lines]


@pytest.mark.parametrize("sink", SINKS)
def test_a_proxy_for_https(sink: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our headers are for the endpoint, the proxy's credentials for the proxy."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret")
    with proxying() as (proxy, heads), Endpoint(tls=authority.issue_cert("127.0.0.1")) as endpoint:
        monkeypatch.setenv("https_proxy", proxy.replace("http://", "http://me:p%40ss@"))
        assert answer_of(sink, endpoint.url, monkeypatch, ONE) == answers.DELIVERED
        (_, headers), *_ = endpoint.requests
    lines = heads[0].decode().split("\r\n")
    assert lines[0].split()[:2] == ["CONNECT", f"127.0.0.1:{endpoint.port}"]
    assert "proxy-authorization: basic bwu6cebzcw==" in [line.lower() for line in lines]
    assert "secret" not in heads[0].decode()
    assert headers["api-key"] == "secret"
    assert "proxy-authorization" not in headers


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there(sink: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with nobody() as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy)
        assert answer_of(sink, f"{scheme}://box.invalid:4318", monkeypatch) == Answer(Verdict.RETRY, answers.NO_PROXY)


@pytest.mark.parametrize("sink", SINKS)
def test_a_proxy_that_refuses(sink: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    with proxying(refusal) as (proxy, _):
        monkeypatch.setenv("ALL_PROXY", proxy)
        assert answer_of(sink, "https://box.invalid:4318", monkeypatch) == Answer(Verdict.RETRY, answers.NO_PROXY)
        answer = answer_of(sink, "http://box.invalid:4318", monkeypatch)
    words = "answered 407 Proxy Authentication Required; check HTTP_PROXY and HTTPS_PROXY"
    assert answer == Answer(Verdict.REFUSED, words)


def test_a_proxy_of_another_kind_is_named() -> None:
    """With PySocks the official exporters speak it; without, they name a header and an endpoint."""
    environ = {"ALL_PROXY": "socks5://box:1080"}
    with pytest.raises(ValueError, match="ALL_PROXY is of the kind socks5://"):
        proxies.proxy_of(urlsplit("http://box:4318"), environ)


NAMES = st.sampled_from(
    ["box", "a.box", "A.Box", ".box", "10.0.0.1", "10.0.0.0/8", "10.0.0.1:4318", "box:4318", "box:1", "*", "", "x"]
)
VARIABLES = st.sampled_from(["http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY", "HTTPS_PROXY"])


@given(
    st.sampled_from(["http", "https"]),
    st.sampled_from(["box", "a.box", "abox", "10.0.0.1", "11.0.0.1"]),
    st.sampled_from(["", ":4318", ":1"]),
    st.dictionaries(VARIABLES, st.sampled_from(["http://proxy:3128", "http://other", ""]), max_size=3),
    st.dictionaries(st.sampled_from(["no_proxy", "NO_PROXY"]), st.lists(NAMES, max_size=3).map(" ,".join), max_size=1),
)
def test_any_choice_of_proxies_is_made_as_requests_makes_it(
    scheme: str, host: str, port: str, variables: dict[str, str], no_proxy: dict[str, str]
) -> None:
    url = f"{scheme}://{host}{port}/v1/logs"
    environ = {**variables, **no_proxy}
    with mock.patch.dict(os.environ, environ, clear=True):
        found = get_environ_proxies(url)
        expected = found.get(scheme, found.get("all"))
    chosen = proxies.proxy_of(urlsplit(url), environ)
    assert (chosen.geturl() if chosen else None) == (expected or None)
