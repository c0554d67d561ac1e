"""What an outage of a vendor costs: sent, arrived and twice, for each vendor, route and kind of outage.

    make bench-collector                      # everything, a quarter of an hour
    python bench/outages.py --seconds 20 --outage 'connection refused' --outage 503
    python bench/outages.py --throughput      # 10 000 items/s for 60 s: CPU and memory

The collectors are the product's with the shipped configuration, the vendors' own receivers stand behind
a proxy that fails on command. While an outage lasts, a sender sends logs, spans and metrics once a second
and, as the shipper does, again until they are accepted.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import string
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import requests
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from collectors import PRODUCT, Collector, Vendor, Vendors
from faultproxy import FaultProxy

LOGS, SPANS, METRICS = 10, 5, 5
"""What is sent each second."""
PATIENCE = 120.0
"""Seconds after an outage within which everything has to be there."""
SIGNALS = ("logs", "spans", "metrics")


@dataclass
class Sent:
    """Names of what was sent and accepted."""

    logs: list[str] = field(default_factory=list)
    spans: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)


def attribute(name: str, value: str) -> KeyValue:
    """An attribute with a text."""
    return KeyValue(key=name, value=AnyValue(string_value=value))


RESOURCE = Resource(
    attributes=[
        attribute("service.name", "metaflow"),
        attribute("metaflow.flow.name", "Bench"),
        attribute("metaflow.run.id", "1"),
    ]
)


def logs(names: list[str], pad: int = 0) -> ExportLogsServiceRequest:
    """Log records whose bodies are `names`, followed by so many characters that hardly become less by compression."""
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add(resource=RESOURCE)
    scope = group.scope_logs.add()
    for name in names:
        body = f"{name} {''.join(random.choices(string.ascii_lowercase, k=pad))}" if pad else name
        scope.log_records.add(
            time_unix_nano=time.time_ns(),
            severity_number=9,
            severity_text="INFO",
            body=AnyValue(string_value=body),
            attributes=[attribute("log.record.uid", name), attribute("log.iostream", "stdout")],
        )
    return request


def spans(names: list[str]) -> ExportTraceServiceRequest:
    """Spans whose ids are `names`."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add(resource=RESOURCE).scope_spans.add()
    for name in names:
        scope.spans.add(
            trace_id=os.urandom(16),
            span_id=bytes.fromhex(name),
            name="train",
            kind=1,
            start_time_unix_nano=time.time_ns() - 1_000_000,
            end_time_unix_nano=time.time_ns(),
            attributes=[attribute("metaflow.step.name", "train")],
        )
    return request


def metrics(names: list[str]) -> ExportMetricsServiceRequest:
    """Points of a counter whose attribute n is one of `names`."""
    request = ExportMetricsServiceRequest()
    scope = request.resource_metrics.add(resource=RESOURCE).scope_metrics.add()
    for name in names:
        metric = scope.metrics.add(name="metaflow.bench")
        metric.sum.aggregation_temporality = 1
        metric.sum.is_monotonic = True
        now = time.time_ns()
        metric.sum.data_points.add(
            start_time_unix_nano=now - 1_000_000, time_unix_nano=now, as_int=1, attributes=[attribute("n", name)]
        )
    return request


class Sender(threading.Thread):
    """Sends to one collector once a second until it is stopped; refused records again."""

    def __init__(self, collector: Collector) -> None:
        super().__init__(daemon=True)
        self.collector = collector
        self.sent = Sent()
        # How long the lines are, and an index that somebody else asks for each second.
        self.pad = 0
        self.index = ""
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Return when the last of what it sent was accepted."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """What the thread does."""
        while not self._stopped.wait(1.0):
            for kind, path, count, make in (
                (self.sent.logs, "logs", LOGS, logs),
                (self.sent.spans, "traces", SPANS, spans),
                (self.sent.metrics, "metrics", METRICS, metrics),
            ):
                names = [os.urandom(8).hex() for _ in range(count)]
                kind.extend(names)
                request = logs(names, self.pad) if make is logs else make(names)
                self._send(path, request.SerializeToString())
            if self.index:
                bad = logs(["refused"])
                bad.resource_logs[0].resource.attributes.append(attribute("com.splunk.index", self.index))
                self._send("logs", bad.SerializeToString())

    def _send(self, path: str, data: bytes) -> None:
        while True:
            with contextlib.suppress(requests.RequestException):
                answer = requests.post(
                    f"{self.collector.http}/v1/{path}",
                    data,
                    headers={"content-type": "application/x-protobuf"},
                    timeout=30,
                )
                if answer.ok:
                    return
            time.sleep(0.2)


def arrived(vendor: Vendor) -> dict[str, Counter[str]]:
    """How often each name arrived."""
    return {
        "logs": Counter(log.body.partition(" ")[0] for log in vendor.logs()),
        "spans": Counter(span.span_id for span in vendor.spans()),
        "metrics": Counter(metric.attributes.get("n", "") for metric in vendor.metrics()),
    }


@dataclass
class Setup:
    """Two collectors, for Datadog has two routes, and a proxy before each intake."""

    vendors: Vendors
    proxies: dict[str, FaultProxy]
    collectors: dict[str, Collector]
    senders: dict[str, Sender]

    def fault(self, name: str, *intakes: str) -> None:
        """Have all intakes fail, or those that are named and no other."""
        for intake, proxy in self.proxies.items():
            proxy.fault = name if not intakes or intake in intakes else "ok"

    def kill(self) -> None:
        """As a crash would, and start again."""
        for collector in self.collectors.values():
            collector.kill()
            collector.__enter__()


def constant(fault: str) -> Callable[[Setup, float], None]:
    """An outage of all intakes."""

    def outage(setup: Setup, seconds: float) -> None:
        setup.fault(fault)
        time.sleep(seconds)

    return outage


def killed(setup: Setup, seconds: float) -> None:
    """All intakes refuse, and half-way the collector crashes and starts again."""
    setup.fault("refuse")
    time.sleep(seconds / 2)
    setup.kill()
    time.sleep(seconds / 2)


def alternately(setup: Setup, seconds: float) -> None:
    """One vendor is away while the other is there, six times."""
    for number in range(6):
        setup.fault("refuse", *(("splunk",) if number % 2 else ("datadog", "datadog_otlp")))
        time.sleep(seconds / 6)


def restarted(setup: Setup, seconds: float) -> None:
    """The vendors are there, and the collector is stopped and started again."""
    time.sleep(seconds / 2)
    for collector in setup.collectors.values():
        collector.stop()
        collector.__enter__()
    time.sleep(seconds / 2)


def limited(setup: Setup, seconds: float) -> None:
    """All intakes are unavailable, and then there is a proxy that takes 200 kB; the lines are of 6 kB."""
    for proxy in setup.proxies.values():
        proxy.limit = 200_000
    for sender in setup.senders.values():
        sender.pad = 6_000
    setup.fault("refuse")
    time.sleep(seconds)


def refused_index(setup: Setup, seconds: float) -> None:
    """Splunk refuses each second a request with a record whose index the token may not use."""
    setup.proxies["splunk"].indexes = {"flows", "flow_metrics"}
    for sender in setup.senders.values():
        sender.index = "nope"
    time.sleep(seconds)


def full(setup: Setup, seconds: float) -> None:
    """All intakes are unavailable until the queues are full, and the collector is started again."""
    for sender in setup.senders.values():
        sender.pad = 60_000
    setup.fault("refuse")
    time.sleep(seconds)
    for collector in setup.collectors.values():
        if "refusing telemetry" not in collector.output:
            print("the queues were not full: more seconds", file=sys.stderr)
        collector.stop()
        collector.__enter__()


SETTINGS = {full: {"COLLECTOR_QUEUE_LIMIT_MIB": "16"}}
"""Variables of the collectors in an outage that needs them."""
OUTAGES: dict[str, Callable[[Setup, float], None]] = {
    "connection refused": constant("refuse"),
    "black hole": constant("black hole"),
    "429, Retry-After": constant("429"),
    "503": constant("503"),
    "connection refused, collector killed": killed,
    "vendors alternately": alternately,
    "none, collector restarted": restarted,
    "connection refused, then 413": limited,
    "none, a bad index": refused_index,
    "connection refused, queues full": full,
}
ROUTES = {"Splunk HEC": ("a", "splunk"), "Datadog, exporter": ("a", "datadog"), "Datadog, OTLP": ("b", "datadog_otlp")}


def measure(outage: Callable[[Setup, float], None], seconds: float) -> list[tuple[str, ...]]:
    """The rows of one kind of outage: route, and for each signal sent, arrived, twice."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        vendors = stack.enter_context(Vendors(folder / "vendors"))
        datadog, splunk, otlp = vendors.ports
        proxies = {
            name: stack.enter_context(FaultProxy(f"http://localhost:{port}"))
            for name, port in (("datadog", datadog), ("splunk", splunk), ("datadog_otlp", otlp))
        }
        at = {name: proxy.url for name, proxy in proxies.items()}
        intakes = dict.fromkeys(("DD_DD_URL", "DD_APM_DD_URL", "DD_LOGS_CONFIG_LOGS_DD_URL"), at["datadog"])
        settings = SETTINGS.get(outage, {})
        collectors = {
            "a": Collector(folder / "a", settings | vendors.environment | intakes | {"SPLUNK_HEC_URL": at["splunk"]}),
            "b": Collector(
                folder / "b", settings | vendors.datadog_otlp_environment | {"DD_OTLP_URL": at["datadog_otlp"]}
            ),
        }
        for collector in collectors.values():
            stack.enter_context(collector)
        senders = {name: Sender(collector) for name, collector in collectors.items()}
        for sender in senders.values():
            sender.start()
        setup = Setup(vendors, proxies, collectors, senders)
        time.sleep(5)
        outage(setup, seconds)
        setup.fault("ok")
        time.sleep(5)
        for sender in senders.values():
            sender.stop()
        receivers = {name: getattr(vendors, name) for name in ("splunk", "datadog", "datadog_otlp")}

        def missing() -> int:
            lost = 0
            for side, name in ROUTES.values():
                found = arrived(receivers[name])
                lost += sum(each not in found[kind] for kind in SIGNALS for each in getattr(senders[side].sent, kind))
            return lost

        deadline = time.monotonic() + PATIENCE
        while missing() and time.monotonic() < deadline:
            time.sleep(1)
        # What comes a second time comes soon.
        time.sleep(3)
        rows = []
        for route, (side, name) in ROUTES.items():
            found, cells = arrived(receivers[name]), []
            for kind in SIGNALS:
                sent = getattr(senders[side].sent, kind)
                there = sum(each in found[kind] for each in sent)
                twice = sum(found[kind][each] - 1 for each in sent if found[kind][each] > 1)
                cells.append(f"{len(sent)} / {there} / {twice}")
            rows.append((route, *cells))
        return rows


def throughput(per_second: int, seconds: int, route: str) -> dict[str, str]:
    """CPU and memory of a collector that sends to both vendors, at so many log records, spans and points a second."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        vendors = stack.enter_context(Vendors(folder / "vendors"))
        begun = time.monotonic()
        datadog = vendors.datadog_otlp_environment if route == "otlp" else vendors.datadog_environment
        collector = stack.enter_context(Collector(folder, vendors.splunk_environment | datadog))
        start = time.monotonic() - begun
        session = requests.Session()
        # Eight logs, one span and one point of ten items, in requests of a hundred times that.
        bodies = []
        for path, count, make in (("logs", 800, logs), ("traces", 100, spans), ("metrics", 100, metrics)):
            items = [os.urandom(8).hex() for _ in range(count)]
            if make is logs:
                items = [
                    f"{name} epoch 3 of 10, step 120 of 5000: loss 0.3121, accuracy 0.9312, 412 rows/s"
                    for name in items
                ]
            bodies.append((path, make(items).SerializeToString()))
        cpu_before, most = cpu(collector.pid), 0
        began, accepted, refused = time.monotonic(), 0, 0
        for number in range(per_second * seconds // 1_000):
            time.sleep(max(0.0, began + number * 1_000 / per_second - time.monotonic()))
            for path, body in bodies:
                answer = session.post(
                    f"{collector.http}/v1/{path}", body, headers={"content-type": "application/x-protobuf"}, timeout=30
                )
                refused += not answer.ok
            accepted += 1_000
            most = max(most, memory(collector.pid))
        took = time.monotonic() - began
        used = cpu(collector.pid) - cpu_before
        return {
            "items accepted per second": f"{accepted / took:,.0f}",
            "requests refused": str(refused),
            "CPU, of one core": f"{used / took:.0%}",
            "memory at most": f"{most >> 20} MiB",
            "items a second for one core (extrapolated)": f"{accepted / used:,.0f}",
            "start": f"{start:.2f} s",
            "binary": f"{PRODUCT.stat().st_size / 1e6:.0f} MB",
        }


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@click.command()
@click.option("--outage", "chosen", multiple=True, type=click.Choice(list(OUTAGES)), help="All if none is named.")
@click.option("--seconds", default=60.0, show_default=True, help="How long an outage lasts.")
@click.option("--throughput", "only_throughput", is_flag=True, help="Nothing but CPU and memory.")
@click.option("--rate", default=10_000, show_default=True, help="Items a second.")
def main(chosen: tuple[str, ...], seconds: float, only_throughput: bool, rate: int) -> None:
    """Print the tables of collector/README.md."""
    console = Console(width=120)
    if not only_throughput:
        table = Table("outage", "route", *SIGNALS, title=f"sent / arrived / twice, outages of {seconds:.0f} s")
        for name in chosen or OUTAGES:
            for row in measure(OUTAGES[name], seconds):
                table.add_row(name, *row)
                print(name, *row, sep=" | ", flush=True)
        console.print(table)
    if not chosen:
        figures = {route: throughput(rate, 60, route) for route in ("exporter", "otlp")}
        table = Table(f"{rate:,} items/s for 60 s", *(f"Splunk, Datadog by {route}" for route in figures))
        for label in figures["otlp"]:
            table.add_row(label, *(figure[label] for figure in figures.values()))
        console.print(table)


if __name__ == "__main__":
    main()
