"""What it costs to send: by the official exporters, and by the standard library alone.

make bench-sinks

Instructions are counted by callgrind, exact beside anything else; memory is that of a process that has sent one record
of each signal, to an endpoint without TLS.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "cost"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from callgrind import counted, slope
from endpoint import Endpoint
from rich import box
from rich.console import Console
from rich.table import Table

SINKS = ("otlp", "otlp_http")
# A line as the shipper makes it of a journal, the span of an attempt, one of its metrics.
_RECORDS = """
import os, sys
from otel_metaflow.shipper.telemetry import Record, Resource, Scope
facts = {f"metaflow.fact.number{number}": f"value {number}" for number in range(25)}
resource, scope = Resource(facts), Scope("otel-metaflow", "0.1.0")
ids = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331"}
time = 1795000000000000000
def data(signal, number):
    if signal == "logs":
        line = f"epoch {number} of 1000: loss 0.1234, accuracy 0.9876"
        attributes = {"log.iostream": "stdout", "process.pid": 12345, "log.record.uid": f"{number:032x}"}
        return {"timeUnixNano": time, "observedTimeUnixNano": time, "severityNumber": 9, "severityText": "INFO",
            "body": line, "attributes": attributes, "flags": 1, **ids}
    if signal == "traces":
        return {**ids, "spanId": f"{number + 1:016x}", "name": "train", "kind": 1, "startTimeUnixNano": time,
            "endTimeUnixNano": time + number, "attributes": {**facts, "attempt": number}, "status": {"code": 1}}
    point = {"startTimeUnixNano": time, "timeUnixNano": time, "count": 1, "sum": 1.5, "min": 1.5, "max": 1.5,
        "bucketCounts": [0] * 7 + [1] + [0] * 8, "explicitBounds": [2.0**power for power in range(15)],
        "attributes": {"metaflow.step.name": "train"}}
    return {"name": "metaflow.task.duration", "unit": "s",
        "histogram": {"dataPoints": [point], "aggregationTemporality": 1}}
def records(signal, many):
    return [Record(resource, scope, data(signal, number)) for number in range(many)]
"""
_ENCODE = f"""{_RECORDS}
sink, signal = sys.argv[1:]
batch = records(signal, 500)
if sink == "otlp":
    from opentelemetry.exporter.otlp.proto.common import _log_encoder, metrics_encoder, trace_encoder
    from otel_metaflow.shipper.sinks import sdk_objects
    official = {{"logs": _log_encoder.encode_logs, "traces": trace_encoder.encode_spans,
        "metrics": metrics_encoder.encode_metrics}}[signal]
    encode = lambda batch: official(sdk_objects.OF[signal](batch)).SerializeToString()
else:
    from otel_metaflow.shipper.sinks import protobuf
    encode = lambda batch: protobuf.encode(signal, batch)
for _ in range(int(os.environ["TIMES"])):
    encode(batch)
"""
_START = f"""{_RECORDS}
import importlib
from otel_metaflow.core import settings
sink = importlib.import_module(f"otel_metaflow.shipper.sinks.{{sys.argv[1]}}")
exporters = [(signal, sink.build(destination)) for signal, destination in settings.read().destinations.items()]
"""
_SEND = f"""{_START}
for signal, export in exporters:
    assert export(records(signal, 1)).verdict.value == "delivered"
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmHWM")).split()[1])
"""


def encoded(sink: str, signal: str, cwd: Path) -> float:
    """Instructions for a record: from plain to the bytes of a request."""
    command = [sys.executable, "-c", _ENCODE, sink, signal]
    subprocess.run(command, env={**os.environ, "TIMES": "1"}, cwd=cwd, check=True)  # it is compiled now
    return slope(command, dict(os.environ), cwd, "TIMES", 2, 4) / 500


def started(script: str, sink: str, cwd: Path) -> float:
    """Instructions of a script that has a sink, without those of Python's own start."""
    env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    command = [sys.executable, "-c", script, sink]
    subprocess.run(command, env=env, cwd=cwd, check=True)  # it is compiled now
    return counted(command, env, cwd) - counted([sys.executable, "-c", "pass"], env, cwd)


def resident(sink: str, cwd: Path) -> float:
    """MiB, at most."""
    with Endpoint() as endpoint:
        env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        command = [sys.executable, "-c", _SEND, sink]
        found = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=True)
    return int(found.stdout) / 1024


def main() -> None:
    """Print the table."""
    table = Table("", "official exporters", "standard library", box=box.MARKDOWN)
    with tempfile.TemporaryDirectory() as name:
        for signal, what in (
            ("logs", "a log record"),
            ("traces", "a span of 26 attributes"),
            ("metrics", "a histogram"),
        ):
            costs = (encoded(sink, signal, Path(name)) for sink in SINKS)
            table.add_row(f"{what}, encoded: thousands of instructions", *(f"{cost / 1e3:.1f}" for cost in costs))
        costs = (started(_START, sink, Path(name)) for sink in SINKS)
        table.add_row("start, until it can send: millions of instructions", *(f"{cost / 1e6:.0f}" for cost in costs))
        sizes = (resident(sink, Path(name)) for sink in SINKS)
        table.add_row("memory once it has sent, MiB", *(f"{size:.1f}" for size in sizes))
    print(f"Python {platform.python_version()}, OpenTelemetry {version('opentelemetry-sdk')}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
