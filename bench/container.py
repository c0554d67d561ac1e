"""What the shipper of a container takes: to start, in memory, while its step prints nothing, and while it prints.

make bench-container

The real shipper, by an interpreter without OpenTelemetry, follows the attempt of this process. CPU time is the kernel's
(/proc/PID/schedstat), so that it is the same beside other work, but for caches.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from endpoint import Endpoint
from rich import box
from rich.console import Console
from rich.table import Table

from otel_metaflow.journal.processes import process_space, process_start

ROOT = Path(__file__).resolve().parent.parent
_IDLE = 10.0
_LINES = 1_000  # of a step that prints, at five milliseconds each
_TIMES = 3


@contextmanager
def shipper(endpoint: Endpoint, home: Path, *, is_compiled: bool) -> Iterator[int]:
    """The pid of a shipper that has delivered what it found, by modules that were compiled before, or not."""
    folder = home / "F" / "1"
    folder.mkdir(parents=True)
    start = {
        "kind": "start", "timeUnixNano": time.time_ns(), "version": 1, "flow": "F", "run": "1", "step": "start",
        "task": "1", "attempt": 0, "pid": os.getpid(), "processStart": process_start(), "processSpace": process_space(),
    }  # fmt: skip
    (folder / "start.1.0.jsonl").write_text(json.dumps(start) + "\n")
    output = home / "stdout"
    output.write_text("[MFLOG|0|2026-11-28T10:00:00.000000Z|task|x]a line\n")
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT if is_compiled else _fresh(home / "carried")),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url,
        "OTEL_METAFLOW_HOME": str(home),
        "MFLOG_STDOUT": str(output),
    }
    python = getattr(sys, "_base_executable", sys.executable)
    command = [python, "-S", "-m", "otel_metaflow.shipper", str(folder), "start.1.0.jsonl"]
    with subprocess.Popen(command, cwd=folder, env=env) as process:
        try:
            endpoint.wait_for(lambda: "a line" in endpoint.bodies())
            yield process.pid
        finally:
            process.kill()


def _fresh(folder: Path) -> Path:
    """A copy of our modules as they come to a container."""
    shutil.copytree(ROOT / "otel_metaflow", folder / "otel_metaflow", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def cpu(pid: int) -> float:
    """Milliseconds that a process has been on a CPU."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e6


def memory(pid: int) -> tuple[float, float]:
    """What is resident of a process, and its share of that, in MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    rss, pss = (re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE) for name in ("Rss", "Pss"))
    return (int(rss[1]) / 1024, int(pss[1]) / 1024) if rss and pss else (0.0, 0.0)


def share(pid: int, work: Callable[[], None]) -> float:
    """The part of a core, in percent, that a process takes during some work of others."""
    before, began = cpu(pid), time.monotonic()
    work()
    return (cpu(pid) - before) / (time.monotonic() - began) / 10


def print_lines(output: Path) -> None:
    """What a step prints, as Metaflow's shell copies it."""
    with output.open("a", buffering=1) as file:
        for number in range(_LINES):
            file.write(f"[MFLOG|0|2026-11-28T10:00:00.000000Z|task|x]line {number}\n")
            time.sleep(0.005)


def measure(*, is_compiled: bool) -> tuple[float, ...]:
    """CPU of the start, resident memory, its share, and the part of a core that it takes while it waits and works."""
    with (
        tempfile.TemporaryDirectory() as name,
        Endpoint() as endpoint,
        shipper(endpoint, Path(name), is_compiled=is_compiled) as pid,
    ):
        started = cpu(pid)
        time.sleep(1.0)  # what is left of the start
        if not is_compiled:
            return (started,)
        idle = share(pid, lambda: time.sleep(_IDLE))
        busy = share(pid, lambda: print_lines(Path(name) / "stdout"))
        return started, *memory(pid), idle, busy


def main() -> None:
    """Print the table: the least of several, since other work only adds."""
    best = [min(each) for each in zip(*(measure(is_compiled=True) for _ in range(_TIMES)), strict=True)]
    cold = min(measure(is_compiled=False)[0] for _ in range(_TIMES))
    table = Table("", "", box=box.MARKDOWN)
    table.add_row("CPU until the first line is delivered, ms", f"{best[0]:.0f}")
    table.add_row("the same where nothing is compiled yet, ms", f"{cold:.0f}")
    table.add_row("resident memory, MiB", f"{best[1]:.1f}")
    table.add_row("its share of that (PSS), MiB", f"{best[2]:.1f}")
    table.add_row("of a core while nothing is printed, %", f"{best[3]:.2f}")
    table.add_row("while 200 lines a second are, %", f"{best[4]:.1f}")
    print(f"Python {platform.python_version()}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
