"""Reads responses of HTTP/1.1 (RFC 9112).

Instead of http.client: that parses headers with the email package, and the two are a third of what a container's
shipper imports, in time and in memory.
"""

from __future__ import annotations

import re
from io import BufferedReader
from typing import Dict, NamedTuple

_STATUS = re.compile(rb"HTTP/1\.(\d) (\d{3})(?: ([^\r\n]*))?\r?\n")
_SIZE = re.compile(rb"\s*([0-9A-Fa-f]+)\s*(?:;|\Z)")  # of a chunk; a sign before it would be no bound at all
_LONGEST_LINE = 1 << 16
_MAX_HEADERS = 100
_INTERIM = 200  # the least status of a final response
_BODILESS = (204, 304)


class ResponseError(Exception):
    """What was read is no response, or only a part of one."""


class Response(NamedTuple):
    """The response of an endpoint."""

    status: int
    reason: str
    headers: Dict[str, str]
    """By name in lower case."""
    body: bytes
    is_kept: bool
    """Whether another request can be sent on the same connection."""


def read(file: BufferedReader, max_body: int, *, is_tunnel: bool = False) -> Response:
    """Read one final response with at most `max_body` bytes of its body; to CONNECT, which `is_tunnel`, there is none.

    Raises:
        ResponseError: there is none.
        OSError: the connection failed.
    """
    status = 0
    while status < _INTERIM:
        found = _STATUS.fullmatch(_line(file))
        if found is None:
            raise ResponseError("no status line")
        version, status, reason = int(found[1]), int(found[2]), (found[3] or b"").decode("latin-1").strip()
        headers = _headers(file)
    connection = headers.get("connection", "").lower()
    is_kept = "keep-alive" in connection if version == 0 else "close" not in connection
    if is_tunnel or status in _BODILESS:
        return Response(status, reason, headers, b"", is_kept)
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _chunks(file, max_body)
    elif headers.get("content-length", "").strip().isdigit():
        body = _exactly(file, int(headers["content-length"]), max_body)
    else:
        return Response(status, reason, headers, file.read(max_body), is_kept=False)
    return Response(status, reason, headers, body, is_kept and len(body) < max_body)


def _line(file: BufferedReader) -> bytes:
    line = file.readline(_LONGEST_LINE + 1)
    if len(line) > _LONGEST_LINE:
        raise ResponseError("a line that is too long")
    return line


def _headers(file: BufferedReader) -> Dict[str, str]:
    found: Dict[str, str] = {}
    last = ""
    for _ in range(_MAX_HEADERS):
        line = _line(file)
        if not line.strip():
            return found
        text = line.decode("latin-1")
        if text[0] in " \t":  # continued, as was allowed once
            found[last] = f"{found.get(last, '')} {text.strip()}"
            continue
        last, _, value = text.partition(":")
        last = last.strip().lower()
        found[last] = value.strip()
    raise ResponseError("too many headers")


def _exactly(file: BufferedReader, size: int, max_body: int) -> bytes:
    """A body of `size` bytes, or the beginning of a longer one."""
    body = file.read(min(size, max_body))
    if len(body) < min(size, max_body):
        raise ResponseError("a part of a body")
    return body


def _chunks(file: BufferedReader, max_body: int) -> bytes:
    body = b""
    while True:
        found = _SIZE.match(_line(file))
        if found is None:
            raise ResponseError("no size of a chunk")
        size = int(found[1], 16)
        if not size:
            _headers(file)  # trailers
            return body
        body += _exactly(file, size, max_body - len(body))
        if len(body) >= max_body:
            return body
        if _line(file).strip():
            raise ResponseError("a chunk that does not end")
