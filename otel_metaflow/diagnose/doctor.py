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
from otel_metaflow.diagnose.reach import GRPC, HTTP, Address, Finding, State, not_tried, reach, spoken
from otel_metaflow.shipper.sinks import choice
from otel_metaflow.shipper.sinks.answers import Answer, Verdict
from otel_metaflow.shipper.telemetry import Data, LogRecord, Metric, Record, Resource, Scope, Span

FLOW = "otel-metaflow-doctor"
"""The name of the flow that the marked telemetry is of."""

_PORTS = {GRPC: 4317, HTTP: 4318}
_HEADER = re.compile(r"\s*([\w-]+)\s*=(?=[^=]*[^=\s])")  # not the padding of base64
_SHOWN = ("OTEL_EXPORTER_OTLP_", "OTEL_SERVICE_", "OTEL_RESOURCE_", "OTEL_METAFLOW_", "OTEL_TRACES_", "OTEL_SDK_")


@dataclass(frozen=True)
class Marked:
    """What is sent: one span, one log record, one metric, all of one trace."""

    trace_id: str
    batches: Mapping[str, Sequence[Record]]


def examine(
    environment: Settings, timeout: float, health: str | None = None, metrics: str | None = None
) -> Iterator[Finding]:
    """Yield what is found, leg by leg, as it is found.

    `timeout` is for each leg, in seconds; `health` and `metrics` are addresses of the bundled collector, where they
    are not on its host at their usual ports.
    """
    yield from _variables(environment)
    if environment.disabled or not environment.destinations:
        return
    ways: dict[Address, list[Destination]] = {}
    for destination in environment.destinations.values():
        ways.setdefault(Address.of(destination), []).append(destination)
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # its errors are reported as findings
    marked = mark(environment.namespace)
    collectors = {address.host: bundled_collector.Collector(address.host, health, metrics) for address in ways}
    counted = {host: collector.counts() for host, collector in collectors.items()}
    taken: dict[str, list[str]] = {host: [] for host in collectors}
    for address, destinations in ways.items():
        signals = [destination.signal for destination in destinations]
        reached = True
        for finding in reach(address, timeout):
            reached = reached and finding.state is not State.FAILED
            yield finding
        for finding in _send(address, destinations, marked, timeout) if reached else map(not_tried, signals):
            if finding.state is State.OK:
                taken[address.host].append(finding.leg)
            yield finding
    if "metrics" in environment.destinations:
        yield _temporality()
    for host, collector in collectors.items():
        for leg, says, do in collector.health(timeout):
            yield Finding(leg, State.FAILED if do else State.OK if says else State.SKIPPED, says or _NO_COLLECTOR, do)
        for leg, says, do in collector.onward(counted[host], taken[host], timeout):
            yield Finding(leg, State.FAILED if do else State.OK, says, do)
    if any(taken.values()):
        yield Finding("look for", State.OK, f"flow {FLOW}, trace {marked.trace_id}")


_NO_COLLECTOR = "no answer at its default port: not the bundled collector, or set --health"


def _variables(environment: Settings) -> Iterator[Finding]:
    for name in sorted(os.environ):
        if name.startswith(_SHOWN) and os.environ[name]:
            yield Finding("variables", State.OK, f"{name}={shown(name, os.environ[name])}")
    for problem in environment.problems:
        what, _, do = problem.partition("; ")
        yield Finding("variables", State.FAILED, what, do or "correct it, or unset it")
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
    """The value of a variable without secrets: values of headers, credentials and queries in an address."""
    if name.endswith("_HEADERS"):
        return ",".join(_header(pair) for pair in value.split(",") if pair)
    if not name.endswith("_ENDPOINT"):
        return value
    scheme, mark_, rest = value.rpartition("://")
    rest, asked, _ = rest.partition("?")
    credentials = "****@" if "@" in rest else ""
    return f"{scheme}{mark_}{credentials}{rest.rpartition('@')[2]}{'?****' if asked else ''}"


def _header(pair: str) -> str:
    """The name of a header; of what is no `name=value` nothing, for it may be the key itself."""
    found = _HEADER.match(pair)
    return f"{found.group(1)}=****" if found else "****"


def mark(namespace: str) -> Marked:
    """Make what is to be sent, of a run of its own each time."""
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
    """Send each signal, all at once: an endpoint that swallows them is waited for once."""
    answers: dict[str, queue.SimpleQueue[tuple[Answer, float]]] = {}
    for destination in destinations:
        answered: queue.SimpleQueue[tuple[Answer, float]] = queue.SimpleQueue()
        answers[destination.signal] = answered
        work = (destination, marked.batches[destination.signal], answered.put)
        threading.Thread(target=_export, args=work, daemon=True).start()
    deadline = time.monotonic() + timeout
    advice = ""
    for signal, answered in answers.items():
        try:
            answer, took = answered.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            do = "see the load of the endpoint, or raise --timeout"
            yield Finding(signal, State.FAILED, f"no answer within {timeout:g} s", do)
            continue
        if answer.verdict is Verdict.DELIVERED and not answer.rejected:
            yield Finding(signal, State.OK, f"accepted, {took * 1000:.0f} ms")
            continue
        advice = advice or _misunderstanding(address, timeout)
        yield Finding(signal, State.FAILED, _what(answer), advice or _do(answer, address))


def _export(
    destination: Destination, records: Sequence[Record], answered: Callable[[tuple[Answer, float]], None]
) -> None:
    began = time.monotonic()
    try:
        answer = choice.build(destination)(records)
    except Exception as error:  # noqa: BLE001 - a variable that its exporter does not accept
        answer = Answer(Verdict.REFUSED, f"cannot be sent: {error}")
    answered((answer, time.monotonic() - began))


def _what(answer: Answer) -> str:
    if answer.verdict is Verdict.DELIVERED:
        return f"the request was accepted, but its record rejected: {answer.reason or 'no reason given'}"
    return answer.reason.partition("; ")[0].partition(", check")[0] or "the export failed"


def _do(answer: Answer, address: Address) -> str:
    """What to do about an answer; most name what to look at themselves."""
    for mark_ in ("; check ", ", check "):
        _, found, what = answer.reason.partition(mark_)
        if found:
            return f"check {what}"
    if answer.rejected or answer.verdict is Verdict.SPLIT:
        return "see the log of the endpoint: it rejects the data"
    if answer.is_late:
        return "see the load of the endpoint, or raise OTEL_EXPORTER_OTLP_TIMEOUT"
    if answer.verdict is Verdict.RETRY and "answered" in answer.reason:
        return "wait: the endpoint asks for a retry, and the shipper retries"
    return f"check {address.variable}, and the log of the endpoint"


def _misunderstanding(address: Address, timeout: float) -> str:
    """What to change where the endpoint speaks, but not what it is spoken to in."""
    if address.is_tls:
        return ""
    found, change = spoken(address, timeout), "export OTEL_EXPORTER_OTLP_PROTOCOL="
    if found == "tls":
        return f"the endpoint expects TLS: change http:// to https:// in {address.variable}"
    if found == GRPC != address.protocol:
        return f"the endpoint speaks gRPC: {change}grpc, or use the HTTP port, {_PORTS[HTTP]} by convention"
    if found == HTTP != address.protocol:
        return f"the endpoint speaks HTTP: {change}http/protobuf, or use the gRPC port, {_PORTS[GRPC]} by convention"
    return ""


def _temporality() -> Finding:
    chosen = temporality.preference()
    if chosen == "cumulative":
        return Finding(
            "temporality",
            State.WARNING,
            "cumulative: a task exports one point a series, which back ends such as Datadog drop",
            "unset OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, or set it to delta",
        )
    return Finding("temporality", State.OK, chosen)
