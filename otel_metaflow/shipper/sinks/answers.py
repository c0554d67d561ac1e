"""The answer of an endpoint to a batch, and what to do about it.

By the OTLP specification (https://opentelemetry.io/docs/specs/otlp/#failures), with two additions: an
answer that is no OTLP answer at all (a redirect, a login page) is a refusal, not a success; and an
answer that blames the data makes us look for the one record that deserves the blame.
"""

from __future__ import annotations

import math
import time
from enum import Enum
from typing import NamedTuple, Optional, Protocol, Sequence

from otel_metaflow.shipper.telemetry import Record


class Verdict(Enum):
    """What to do with the batch."""

    DELIVERED = "delivered"
    RETRY = "retry"  # the same again, later
    SPLIT = "split"  # the data was rejected: halve it until the bad record is isolated
    REFUSED = "refused"  # nothing will be accepted until the configuration is changed
    UNFIT = "unfit"  # not sent, because a record cannot be encoded: halve it as well


class Answer(NamedTuple):
    """One answer; `reason` is for messages and names what to check."""

    verdict: Verdict
    reason: str = ""
    wait: Optional[float] = None
    rejected: int = 0
    is_late: bool = False
    """There was no answer in time: the request may have been too large for a slow endpoint."""


DELIVERED = Answer(Verdict.DELIVERED)


class Exporter(Protocol):
    """Sends records of one signal: spans, log records or metrics; never raises."""

    def __call__(self, records: Sequence[Record]) -> Answer:
        """Send `records` and return the answer."""


# Reasons why a request is not answered.
TLS_FAILED = "TLS failed, check OTEL_EXPORTER_OTLP_CERTIFICATE"
UNRESOLVED = "cannot be resolved, check OTEL_EXPORTER_OTLP_ENDPOINT"
NO_PROXY = "cannot be reached through the proxy, check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
NOT_CONNECTED = "did not answer"
LATE = "did not answer in time"
BROKEN = "broke the connection"
CONNECTION_REFUSED = "refused the connection"
UNREACHABLE = "cannot be reached"
# Of these, those that a second try within seconds does not change.
LASTING = frozenset({TLS_FAILED, UNRESOLVED, NO_PROXY, NOT_CONNECTED, CONNECTION_REFUSED, UNREACHABLE})


def unfit(error: Exception) -> Answer:
    """The answer for an error while encoding, before anything was sent."""
    return Answer(Verdict.UNFIT, f"{type(error).__name__}: {error}"[:300])


def unaskable(error: BaseException) -> Answer:
    """The answer for a request that cannot be made, whatever its records are."""
    # Without the error's text, which quotes the header and so may have a key.
    what = type(error).__name__
    return Answer(Verdict.REFUSED, f"rejected by the exporter ({what}); check OTEL_EXPORTER_OTLP_HEADERS and _ENDPOINT")


def partial(rejected: int, message: str) -> Answer:
    """Delivered, except for the records that the endpoint rejected."""
    return Answer(Verdict.DELIVERED, message[:300], rejected=max(0, rejected))


_RETRYABLE = frozenset({408, 425, 429, 502, 503, 504})
_ABOUT_DATA = frozenset({400, 413, 422, 500})
_ADVICE = {
    401: "check OTEL_EXPORTER_OTLP_HEADERS",
    403: "check OTEL_EXPORTER_OTLP_HEADERS",
    404: "check the path in OTEL_EXPORTER_OTLP_ENDPOINT",
    405: "check the path in OTEL_EXPORTER_OTLP_ENDPOINT",
    407: "check HTTP_PROXY and HTTPS_PROXY",
    413: "the endpoint accepts smaller requests only",
}


def from_http(status: int, content_type: str, retry_after: Optional[str], reason: str) -> Answer:
    """The answer for an HTTP response."""
    if 200 <= status < 300:  # noqa: PLR2004 - HTTP
        if content_type.startswith("text/html"):
            return Answer(
                Verdict.REFUSED,
                "answered with a web page, so it is not an OTLP endpoint; check OTEL_EXPORTER_OTLP_ENDPOINT",
            )
        return DELIVERED
    reason = f"answered {status} {reason}".strip()
    if status in _RETRYABLE:
        return Answer(Verdict.RETRY, reason, wait=_seconds(retry_after))
    if status in _ABOUT_DATA:
        return Answer(Verdict.SPLIT, reason)
    advice = _ADVICE.get(status, "check OTEL_EXPORTER_OTLP_ENDPOINT")
    return Answer(Verdict.REFUSED, f"{reason}; {advice}")


def _seconds(retry_after: Optional[str]) -> Optional[float]:
    """The seconds of Retry-After, which is a number or a date (RFC 9110)."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    from email.utils import parsedate_to_datetime  # as much as all else that is imported for a response, and rare

    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


_GRPC_RETRYABLE = frozenset({"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"})
_GRPC_ABOUT_DATA = frozenset({"INVALID_ARGUMENT", "INTERNAL", "UNKNOWN"})
_GRPC_ADVICE = {
    "UNAUTHENTICATED": "check OTEL_EXPORTER_OTLP_HEADERS",
    "PERMISSION_DENIED": "check OTEL_EXPORTER_OTLP_HEADERS",
}


# gRPC's messages about failed connections, and ours.
_GRPC_TROUBLES = (
    ("handshake failed", TLS_FAILED),
    ("errors resolving", UNRESOLVED),
    ("Connection refused", CONNECTION_REFUSED),
    ("Failed parsing HTTP/2", "does not speak gRPC, check OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_PROTOCOL"),
)


def from_grpc(code: str, details: str, wait: Optional[float]) -> Answer:
    """The answer for a gRPC status."""
    reason = f"answered {code} {details}".strip()[:300]
    if code == "UNAVAILABLE":
        reason = next((words for part, words in _GRPC_TROUBLES if part in details), reason)
    if code == "RESOURCE_EXHAUSTED":
        # Without RetryInfo the message may be too large, and then retrying is useless.
        too_large = wait is None and "larger than max" in details
        return Answer(Verdict.SPLIT, reason) if too_large else Answer(Verdict.RETRY, reason, wait=wait)
    if code in _GRPC_RETRYABLE:
        return Answer(Verdict.RETRY, reason, wait=wait, is_late=code == "DEADLINE_EXCEEDED")
    if code in _GRPC_ABOUT_DATA:
        return Answer(Verdict.SPLIT, reason)
    return Answer(Verdict.REFUSED, f"{reason}; {_GRPC_ADVICE.get(code, 'check OTEL_EXPORTER_OTLP_ENDPOINT')}")
