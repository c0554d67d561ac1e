"""Checks the path of telemetry hop by hop, and reports where it breaks and how to fix it.

The test span, log record and metric are sent by the shipper's own exporters, so what works here works there.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from otel_metaflow.core import ids, names, resource, temporality
from otel_metaflow.core.metaflow_seams import facts
from otel_metaflow.core.settings import SIGNALS, Destination, Settings
from otel_metaflow.diagnose import bundled_collector
from otel_metaflow.diagnose.reach import GRPC, HTTP, Address, Finding, State, detect_protocol, not_tried, reach
from otel_metaflow.shipper.sinks import choice
from otel_metaflow.shipper.sinks.answers import Answer, Exporter, Verdict
from otel_metaflow.shipper.telemetry import Data, LogRecord, Metric, Record, Resource, Scope, Span

FLOW = "otel-metaflow-doctor"
"""The flow name of the test telemetry."""

_PORTS = {GRPC: 4317, HTTP: 4318}
_HEADER = re.compile(r"\s*([\w-]+)\s*=(?=[^=]*[^=\s])")  # not the padding of base64
_SHOWN = ("OTEL_EXPORTER_OTLP_", "OTEL_SERVICE_", "OTEL_RESOURCE_", "OTEL_METAFLOW_", "OTEL_TRACES_", "OTEL_SDK_")


@dataclass(frozen=True)
class Marked:
    """The test telemetry: one span, one log record and one metric, in one trace."""

    trace_id: str
    batches: Mapping[str, Sequence[Record]]


def examine(
    environment: Settings, timeout: float, health: str | None = None, metrics: str | None = None
) -> Iterator[Finding]:
    """Check hop by hop, and yield each finding at once.

    `timeout` is for each hop, in seconds; `health` and `metrics` are URLs of the bundled collector, if they are not on
    its host at their default ports.
    """
    yield from _variables(environment)
    if environment.disabled or not environment.destinations:
        return
    by_address: dict[Address, list[Destination]] = {}
    for destination in environment.destinations.values():
        by_address.setdefault(Address.of(destination), []).append(destination)
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # its errors are reported as findings
    marked = mark(environment.namespace)
    collectors = {address.host: bundled_collector.Collector(address.host, health, metrics) for address in by_address}
    counts = {host: collector.counts() for host, collector in collectors.items()}
    accepted: dict[str, list[str]] = {host: [] for host in collectors}
    for address, destinations in by_address.items():
        signals = [destination.signal for destination in destinations]
        reached = True
        for finding in reach(address, timeout):
            reached = reached and finding.state is not State.FAILED
            yield finding
        for finding in _send(address, destinations, marked, timeout) if reached else map(not_tried, signals):
            if finding.state is State.OK:
                accepted[address.host].append(finding.hop)
            yield finding
    if "metrics" in environment.destinations:
        yield _temporality()
    for host, collector in collectors.items():
        for hop, message, fix in collector.health(timeout):
            state = State.FAILED if fix else State.OK if message else State.SKIPPED
            yield Finding(hop, state, message or _NO_COLLECTOR, fix)
        for hop, message, fix in collector.onward(counts[host], accepted[host], timeout):
            yield Finding(hop, State.FAILED if fix else State.OK, message, fix)
    if any(accepted.values()):
        yield Finding("look for", State.OK, f"flow {FLOW}, trace {marked.trace_id}")


_NO_COLLECTOR = "no response at its default port: not the bundled collector, or set --health"


def _variables(environment: Settings) -> Iterator[Finding]:
    for name in sorted(os.environ):
        if name.startswith(_SHOWN) and os.environ[name]:
            yield Finding("variables", State.OK, f"{name}={shown(name, os.environ[name])}")
    for problem in environment.problems:
        message, _, fix = problem.partition("; ")
        yield Finding("variables", State.FAILED, message, fix or "correct it, or unset it")
    if environment.disabled:
        yield Finding("variables", State.FAILED, "OTEL_SDK_DISABLED turns telemetry off", "unset OTEL_SDK_DISABLED")
    elif not environment.destinations and not environment.problems:
        yield Finding(
            "variables",
            State.FAILED,
            "no endpoint is configured, so nothing is exported",
            "export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318",
        )
    elif environment.destinations:
        missing = [signal for signal in SIGNALS if signal not in environment.destinations]
        if missing:
            yield Finding(
                "variables",
                State.WARNING,
                f"{' and '.join(missing)} have no endpoint",
                f"set OTEL_EXPORTER_OTLP_ENDPOINT, for all signals, or unset OTEL_{missing[0].upper()}_EXPORTER",
            )


def shown(name: str, value: str) -> str:
    """The value of a variable without secrets: values of headers, credentials and queries of URLs."""
    if name.endswith("_HEADERS"):
        return ",".join(_header(pair) for pair in value.split(",") if pair)
    if not name.endswith("_ENDPOINT"):
        return value
    scheme, mark_, rest = value.rpartition("://")
    rest, query, _ = rest.partition("?")
    credentials = "****@" if "@" in rest else ""
    return f"{scheme}{mark_}{credentials}{rest.rpartition('@')[2]}{'?****' if query else ''}"


def _header(pair: str) -> str:
    """The name of a header; nothing of text that is not `name=value`, because it may be the key itself."""
    found = _HEADER.match(pair)
    return f"{found.group(1)}=****" if found else "****"


def mark(namespace: str) -> Marked:
    """Make the test telemetry, with a new run id each time."""
    run, now = str(time.time_ns() // 1_000_000), time.time_ns()
    trace_id, span_id = ids.trace_id(FLOW, run, namespace), ids.run_span_id(FLOW, run, namespace)
    described = Resource({names.SERVICE_NAME: "metaflow", **resource.describe(FLOW, run, facts())})
    span: Span = {
        "traceId": trace_id,
        "spanId": span_id,
        "flags": 1,
        "name": FLOW,
        "kind": 2,  # a server's
        "startTimeUnixNano": now,
        "endTimeUnixNano": now,
        "attributes": {names.RUN_RESULT: "success"},
        "status": {},
    }
    record: LogRecord = {
        "timeUnixNano": now,
        "observedTimeUnixNano": now,
        "severityNumber": 9,
        "severityText": "INFO",
        "body": "otel-metaflow doctor was here",
        "traceId": trace_id,
        "spanId": span_id,
        "flags": 1,
    }
    count: Data = {
        "dataPoints": [{"startTimeUnixNano": now, "timeUnixNano": now, "asInt": 0}],
        "aggregationTemporality": 2 if temporality.preference() == "cumulative" else 1,
        "isMonotonic": True,
    }
    metric: Metric = {"name": names.METRIC_TELEMETRY_DROPPED, "unit": "{record}", "sum": count}
    data: dict[str, Span | LogRecord | Metric] = {"traces": span, "logs": record, "metrics": metric}
    scope = Scope(names.SCOPE)
    batches = {signal: [Record(described, scope, one)] for signal, one in data.items()}
    return Marked(trace_id, batches)


def _send(address: Address, destinations: Sequence[Destination], marked: Marked, timeout: float) -> Iterator[Finding]:
    """Send all signals in parallel, so that an endpoint that does not respond is waited for only once."""
    answers: dict[str, queue.SimpleQueue[tuple[Answer, float]]] = {}
    exporters = [_exporter(destination) for destination in destinations]  # imports take time: before the timeout starts
    for destination, exporter in zip(destinations, exporters, strict=True):
        answered: queue.SimpleQueue[tuple[Answer, float]] = queue.SimpleQueue()
        answers[destination.signal] = answered
        work = (exporter, marked.batches[destination.signal], answered.put)
        threading.Thread(target=_export, args=work, daemon=True).start()
    deadline = time.monotonic() + timeout
    advice = ""
    for signal, answered in answers.items():
        try:
            answer, took = answered.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            fix = "check the load of the endpoint, or raise --timeout"
            yield Finding(signal, State.FAILED, f"no response within {timeout:g} s", fix)
            continue
        if answer.verdict is Verdict.DELIVERED and not answer.rejected:
            yield Finding(signal, State.OK, f"accepted, {took * 1000:.0f} ms")
            continue
        advice = advice or _wrong_protocol(address, timeout)
        yield Finding(signal, State.FAILED, _message(answer), advice or _fix(answer, address))


def _exporter(destination: Destination) -> Exporter:
    try:
        return choice.build(destination)
    except Exception as error:  # noqa: BLE001 - a variable that the exporter does not accept
        answer = Answer(Verdict.REFUSED, f"cannot be sent: {error}")
        return lambda _: answer


def _export(exporter: Exporter, records: Sequence[Record], answered: Callable[[tuple[Answer, float]], None]) -> None:
    began = time.monotonic()
    answer = exporter(records)
    answered((answer, time.monotonic() - began))


def _message(answer: Answer) -> str:
    if answer.verdict is Verdict.DELIVERED:
        return f"the request was accepted, but its record was rejected: {answer.reason or 'no reason given'}"
    return answer.reason.partition("; ")[0].partition(", check")[0] or "the export failed"


def _fix(answer: Answer, address: Address) -> str:
    """How to fix the cause of an answer; most reasons name what to check."""
    for mark_ in ("; check ", ", check "):
        _, found, what = answer.reason.partition(mark_)
        if found:
            return f"check {what}"
    if answer.rejected or answer.verdict is Verdict.SPLIT:
        return "see the log of the endpoint: it rejects the data"
    if answer.is_late:
        return "check the load of the endpoint, or raise OTEL_EXPORTER_OTLP_TIMEOUT"
    if answer.verdict is Verdict.RETRY and "answered" in answer.reason:
        return "wait: the endpoint asks for a retry, and the shipper retries"
    return f"check {address.variable}, and the log of the endpoint"


def _wrong_protocol(address: Address, timeout: float) -> str:
    """What to change if the endpoint uses another protocol than the configured one."""
    if address.is_tls:
        return ""
    found, change = detect_protocol(address, timeout), "export OTEL_EXPORTER_OTLP_PROTOCOL="
    if found == "tls":
        return f"the endpoint expects TLS: change http:// to https:// in {address.variable}"
    if found == GRPC != address.protocol:
        return f"the endpoint is for gRPC: {change}grpc, or use its HTTP port, by convention {_PORTS[HTTP]}"
    if found == HTTP != address.protocol:
        return f"the endpoint is for HTTP: {change}http/protobuf, or use its gRPC port, by convention {_PORTS[GRPC]}"
    return ""


def _temporality() -> Finding:
    chosen = temporality.preference()
    if chosen == "cumulative":
        return Finding(
            "temporality",
            State.WARNING,
            "cumulative: a task exports one point per series, which back ends such as Datadog drop",
            "unset OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, or set it to delta",
        )
    return Finding("temporality", State.OK, chosen)
