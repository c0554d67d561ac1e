"""An HTTP proxy before a vendor's receiver that fails on command.

    with FaultProxy("http://localhost:8088") as proxy:
        proxy.fault = "503"

Faults: `ok` passes on, `refuse` (connection refused), `black hole` (takes the request and never answers), `429`
(with Retry-After), `503`, `reset` (breaks the connection). Whatever the fault, `limit` is the largest body that it
passes on, in bytes (413, as nginx by client_max_body_size), and `indexes` are those that a HEC token may use: a
request with an event for another is refused as a whole (400, code 7: Splunk documentation, "Troubleshoot HTTP Event
Collector").
"""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from typing_extensions import Self

FAULTS = ("ok", "refuse", "black hole", "429", "503", "reset")
_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "host", "content-length", "expect"}


class FaultProxy:
    """Listens on a port of its own while entered; `fault` may be changed at any time."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._fault = "ok"
        self._released = threading.Event()
        self.requests = 0
        self.limit: int | None = None
        self.indexes: set[str] | None = None
        self._server = self._listen(0)
        self.port = self._server.server_port

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def fault(self) -> str:
        return self._fault

    @fault.setter
    def fault(self, name: str) -> None:
        assert name in FAULTS, name
        before, self._fault = self._fault, name
        released, self._released = self._released, threading.Event()
        released.set()
        if name == "refuse" and before != "refuse":
            self._stop()
        elif name != "refuse" and before == "refuse":
            self._server = self._listen(self.port)
            self._serve()

    def __enter__(self) -> Self:
        self._serve()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        if self._fault != "refuse":
            self._stop()

    def _serve(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _listen(self, port: int) -> ThreadingHTTPServer:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                proxy._answer(self)

            do_GET = _any  # noqa: N815 - names of http.server
            do_POST = _any  # noqa: N815
            do_HEAD = _any  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                """A client that went away is none of ours."""

        return Server(("localhost", port), Handler)

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests += 1
        body = _body(handler)
        fault, released = self._fault, self._released
        if fault == "black hole":
            released.wait()
            fault = "reset"
        if fault in ("refuse", "reset"):
            handler.close_connection = True
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()
            return
        if fault in ("429", "503"):
            handler.send_response(int(fault))
            if fault == "429":
                handler.send_header("Retry-After", "2")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if self.limit is not None and len(body) > self.limit:
            _refuse(handler, 413, b"<html>413 Request Entity Too Large</html>")
        elif self.indexes is not None and not _indexes(handler, body) <= self.indexes:
            _refuse(handler, 400, json.dumps({"text": "Incorrect index", "code": 7}).encode())
        else:
            self._pass_on(handler, body)

    def _pass_on(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        assert self._target.hostname is not None
        there = http.client.HTTPConnection(self._target.hostname, self._target.port, timeout=30)
        try:
            headers = {name: value for name, value in handler.headers.items() if name.lower() not in _HOP_BY_HOP}
            there.request(handler.command, handler.path, body, headers)
            answer = there.getresponse()
            content = answer.read()
        except OSError:
            handler.send_error(502)
            return
        finally:
            there.close()
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content)


def _refuse(handler: BaseHTTPRequestHandler, status: int, text: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(text)))
    handler.end_headers()
    handler.wfile.write(text)


def _indexes(handler: BaseHTTPRequestHandler, body: bytes) -> set[str]:
    if handler.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    return set(re.findall(r'"index":"([^"]*)"', body.decode()))


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    parts = []
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(parts)
