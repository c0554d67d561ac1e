"""What a busy loop feels, and how fast its lines are delivered: counted by the collector that takes them in."""

from __future__ import annotations

import re
import statistics
import time
from pathlib import Path

import requests
from environments import Environment
from places import end_shippers, measure, shippers, variables
from rich.progress import track
from rich.table import Table

from otel_metaflow.journal import layout
from otel_metaflow.journal.delivery_status import DeliveryStatus

_SOURCE = """\
import logging, os, subprocess, sys, time
from metaflow import FlowSpec, step
class BusyFlow(FlowSpec):
    @step
    def start(self):
        kind, count = os.environ["KIND"], int(os.environ["COUNT"])
        began = time.time()
        if kind == "print":
            for number in range(count):
                print("line", number, "of a busy loop")
        elif kind == "logging":
            logging.basicConfig(level=logging.INFO)
            log = logging.getLogger("busy")
            for number in range(count):
                log.info("record %d of a busy loop", number)
        else:
            child = f"for number in range({count}): print('line', number, 'of a child')"
            subprocess.run([sys.executable, "-c", child], check=True)
        with open(os.environ["TRUTH"], "w") as truth:
            truth.write(f"{began} {time.time() - began}")
        self.next(self.end)
    @step
    def end(self):
        pass
BusyFlow()
"""
_ACCEPTED = re.compile(r"otelcol_receiver_accepted_log_records(?:_total)?\{[^}]*\} ([\d.e+]+)")
KINDS = ("logging", "print", "subprocess")


def busy(installed: dict[str, Environment], urls: dict[str, str], count: int, rounds: int) -> Table:
    """Loops of `count` lines each, against the same loops without telemetry."""
    url, telemetry = urls["up"], urls["collector's metrics"]
    table = Table()
    what = "100,000 lines by" if count == 100_000 else f"{count:,} lines by"
    for column in (what, "loop, plain", "journals only, ratio", "endpoint up, ratio"):
        table.add_column(column)
    for column in ("lost", "twice", "delivered a second", "shipper's peak"):
        table.add_column(column)
    for kind in KINDS if count == 100_000 else ("print",):
        plain, alone, ratios, rates, peaks, wrong = [], [], [], [], [], []
        own = _taken_in(installed["otel"], kind, 0, url, telemetry)[0]  # the launcher's own lines
        for _ in track(range(rounds), description=f"{count:,} by {kind}"):
            _, base = _loop(installed["empty"], kind, count)
            alone.append(_loop(installed["otel"], kind, count, "--with", "otel")[1] / base)
            accepted, began, loop = _taken_in(installed["otel"], kind, count, url, telemetry)
            rates.append(count / (time.time() - began))
            peaks.append(max(_peak(pid) for pid in shippers()))
            wrong.append(accepted - own - count)
            plain.append(base)
            ratios.append(loop / base)
        end_shippers()
        table.add_row(
            kind,
            f"{statistics.median(plain):.2f} s",
            _ratio(alone),
            _ratio(ratios),
            str(-sum(number for number in wrong if number < 0)),
            str(sum(number for number in wrong if number > 0)),
            f"{statistics.median(rates):,.0f}",
            f"{max(peaks) / 2**20:.0f} MiB",
        )
    return table


def _ratio(values: list[float]) -> str:
    """The median, and in brackets the quartiles, or the extremes of few."""
    if len(values) < 4:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _loop(
    environment: Environment, kind: str, count: int, *arguments: str, url: str | None = None
) -> tuple[float, float]:
    """When the loop began, and how long it took."""
    flow = environment.path / "busy.py"
    flow.write_text(_SOURCE)
    truth = environment.path / "truth"
    env = variables(environment.path, "lines", url) | {"KIND": kind, "COUNT": str(count), "TRUTH": str(truth)}
    command = [str(environment.python), str(flow), "--no-pylint", "run", *arguments]
    measure(command, environment.path, env, settle=False)
    began, took = truth.read_text().split()
    return float(began), float(took)


def _taken_in(environment: Environment, kind: str, count: int, url: str, telemetry: str) -> tuple[int, float, float]:
    """How many records the collector took in of a run, when its loop began, and how long it took."""
    before = _accepted(telemetry)
    began, took = _loop(environment, kind, count, "--with", "otel", url=url)
    folder = max(layout.run_folders(environment.path / "lines/journals"), key=lambda path: path.name)
    while not DeliveryStatus.read(folder).complete:
        time.sleep(0.02)
    return _accepted(telemetry) - before, began, took


def _accepted(telemetry: str) -> int:
    found = _ACCEPTED.findall(requests.get(telemetry, timeout=10).text)
    return int(sum(map(float, found)))


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) * 1024
