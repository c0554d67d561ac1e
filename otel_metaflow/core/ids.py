r"""Trace and span ids, derived from the names of a run, a step and an attempt.

No id is passed between processes: the launcher, the task, the shipper, a later re-run and a shell script
compute the same ids from the same names. Version 1 is a BLAKE2b digest of the UTF-8 names joined by NUL,
which no name can contain:

    trace id   = BLAKE2b-128(otel-metaflow/1 NUL namespace NUL flow NUL run)
    run span   = BLAKE2b-64 (otel-metaflow/1 NUL namespace NUL flow NUL run)
    attempt    = BLAKE2b-64 (otel-metaflow/1 NUL namespace NUL flow NUL run NUL step NUL task NUL attempt)
    its parts  = BLAKE2b-64 (… NUL attempt NUL part)
    made again = BLAKE2b-64 (otel-metaflow/1 NUL span id NUL the pod's uid, or the job's id)
    a step's summary = BLAKE2b-64 (otel-metaflow/1 NUL namespace NUL flow NUL run NUL step)

In a shell, for the empty namespace: ``printf '%s\0%s\0%s\0%s' otel-metaflow/1 '' HelloFlow 12 | b2sum -l 128``.
Digests are uniformly distributed, so ratio samplers, which use the low bits of the trace id, make the same
decision in every process.
"""

from __future__ import annotations

# Not from hashlib: that loads OpenSSL, 4 MB.
try:
    from _blake2 import blake2b
except ImportError:  # another Python
    from hashlib import blake2b

RECIPE = "otel-metaflow/1"
_NAMESPACE_URL = bytes.fromhex("6ba7b8119dad11d180b400c04fd430c8")


def _digest(size: int, *names: str) -> str:
    text = "\0".join((RECIPE, *names))
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=size).hexdigest()


def trace_id(flow: str, run: str, namespace: str = "") -> str:
    """The 32 hex digits of a run's trace."""
    return _digest(16, namespace, flow, run)


def run_span_id(flow: str, run: str, namespace: str = "") -> str:
    """The 16 hex digits of a run's own span, the parent of its attempts."""
    return _digest(8, namespace, flow, run)


def attempt_span_id(flow: str, run: str, step: str, task: str, attempt: int, namespace: str = "") -> str:
    """The 16 hex digits of one attempt of one task; `attempt` counts from 0 as Metaflow's retry count does."""
    return _digest(8, namespace, flow, run, step, task, str(attempt))


def part_span_id(flow: str, run: str, step: str, task: str, attempt: int, part: str, namespace: str = "") -> str:
    """The 16 hex digits of the span of one part of an attempt: `queued`, `load`, `user code`, `persist`."""
    return _digest(8, namespace, flow, run, step, task, str(attempt), part)


def again_span_id(span_id: str, place: str) -> str:
    """The 16 hex digits of a span whose run or attempt was made again under the same name, in the container `place`."""
    return _digest(8, span_id, place)


def summary_span_id(flow: str, run: str, step: str, namespace: str = "") -> str:
    """The 16 hex digits of the span that summarizes attempts of a very wide step."""
    return _digest(8, namespace, flow, run, step)


def instance_id(span_id: str) -> str:
    """`service.instance.id` of an attempt: one process is one attempt, so it is derived from the span id.

    A UUID of version 5 in the namespace for URLs (RFC 9562), made here because the module for that loads OpenSSL, too.
    """
    try:
        from _sha1 import sha1  # type: ignore[import-not-found]
    except ImportError:  # another Python
        from hashlib import sha1
    digest = bytearray(sha1(_NAMESPACE_URL + f"{RECIPE}/{span_id}".encode()).digest()[:16])  # noqa: S324 - no secret
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
