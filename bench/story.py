"""What it takes to assemble a wide run: journals of a foreach, delivered to nobody."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.progress import track
from rich.table import Table

from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.journal.writer import Journal


def write(home: Path, tasks: int) -> Path:
    """The journals of a foreach of so many tasks, as its processes would leave them; the folder of the run."""
    folder = layout.run_folder(home, RunKey("WideFlow", "1"))
    folder.mkdir(parents=True)
    start = time.time_ns() - 10**12
    run = Journal(folder / layout.RUN_FILE, lambda _: None)
    common = {"version": layout.VERSION, "flow": "WideFlow", "run": "1", "namespace": "", "pid": 2**22}
    run.append(layout.START, {**common, "timeUnixNano": start, "processStart": 1, "resource": {}})
    work = [AttemptKey("work", str(number + 2), 0) for number in range(tasks)]
    chain = [AttemptKey("start", "1", 0), *work, AttemptKey("join", str(tasks + 2), 0)]
    for number, key in enumerate(chain):
        at = start + number * 10**7
        identity = {"step": key.step, "task": key.task, "attempt": key.attempt}
        inputs = {"start": [], "work": [chain[0]], "join": work[:100]}[key.step]
        facts = {**common, **identity, "timeUnixNano": at + 10, "processStart": 1, "inputs": inputs}
        journal = Journal(layout.attempt_file(folder, key), lambda _: None)
        journal.append(layout.START, facts)
        journal.append(layout.LINE, {"timeUnixNano": at + 20, "stream": "stdout", "body": f"line of {key.task}"})
        journal.append(layout.END, {"timeUnixNano": at + 10**6, "result": "success", "usage": {"cpu": 0.1}})
        journal.close()
        run.append(layout.LAUNCH, {**identity, "timeUnixNano": at, "pid": 2**22, "processStart": 1})
        run.append(layout.EXIT, {**identity, "timeUnixNano": at + 2 * 10**6, "code": 0, "killed": False})
    run.append(layout.END, {"timeUnixNano": start + len(chain) * 10**7, "result": "success"})
    run.append(layout.CLOSED, {"timeUnixNano": start + len(chain) * 10**7})
    run.close()
    return folder


_DELIVER = """
import json, re, sys, threading, time
from pathlib import Path
from otel_metaflow.core import settings
from otel_metaflow.shipper.sinks.answers import DELIVERED
from otel_metaflow.shipper.delivery import Delivery
home, folder = map(Path, sys.argv[1:])
environment = settings.read({"OTEL_METAFLOW_HOME": str(home), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost"})
began = time.perf_counter()
done = Delivery(home, folder, environment, threading.Event(), lambda _: lambda _: DELIVERED).work(linger=0.0)
took = time.perf_counter() - began
# Not ru_maxrss, which begins with the size of the process that started this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024
print(json.dumps([done, took, peak]))
"""


def wide(tasks: int, rounds: int) -> Table:
    """Time and memory of a shipper that finds the whole run on disk."""
    times, peaks = [], []
    for _ in track(range(rounds), description=f"foreach of {tasks}"):
        with tempfile.TemporaryDirectory() as home:
            folder = write(Path(home), tasks)
            answer = subprocess.run(
                [sys.executable, "-c", _DELIVER, home, str(folder)], check=True, capture_output=True, text=True
            ).stdout
        done, took, peak = json.loads(answer)
        if not done:
            raise RuntimeError("the run was not delivered")
        times.append(took)
        peaks.append(peak)
    table = Table()
    for column in ("foreach of", "assembled in", "shipper's peak"):
        table.add_column(column)
    table.add_row(f"{tasks:,} tasks", f"{statistics.median(times):.2f} s", f"{max(peaks) / 2**20:.0f} MiB")
    return table
