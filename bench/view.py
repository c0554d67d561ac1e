"""What it costs to look at a large run: in the terminal, and as a page, to write it and to open it in a browser."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from journals import wide
from playwright.sync_api import Browser, sync_playwright
from rich.progress import track
from rich.table import Table

_SIZES = ((1_000, 100_000), (10_000, 100_000), (1, 100_000))
_WRITE = """
import json, re, sys, time
from pathlib import Path
from otel_metaflow.core import settings
from otel_metaflow.viewer import page
home, folder, file = map(Path, sys.argv[1:])
environment = settings.read({"OTEL_METAFLOW_HOME": str(home)})
began = time.perf_counter()
file.write_text(page.html(environment, folder), encoding="utf-8")
took = time.perf_counter() - began
# Not ru_maxrss, which begins with the size of the process that started this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024
print(json.dumps([took, peak]))
"""
# When all is drawn, in milliseconds since the page was asked for: noted by the page's own clock.
_WATCH = """new MutationObserver(() => { window.readyAt ??= performance.now(); })
    .observe(document, { attributes: true, subtree: true, attributeFilter: ["data-ready"] })"""
# How long a group takes from the click to the picture, in milliseconds.
_UNFOLD = """() => new Promise((done) => {
    const began = performance.now();
    document.querySelector("#rows .row.group").click();
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
})"""


def pages(rounds: int) -> Table:
    """Time, size and memory of pages of several sizes, the medians of so many rounds."""
    table = Table()
    for column in ("tasks", "log lines", "in the terminal", "page written in", "writer's peak", "size"):
        table.add_column(column)
    for column in ("ready in", "group opened in", "browser's heap"):
        table.add_column(column)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as name:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=sandbox)
        for tasks, lines in _SIZES:
            home = Path(name) / str(tasks)
            folder, file = wide(home, tasks, lines).folder, home / "page.html"
            writes, opens, shows = [], [], []
            for _ in track(range(rounds), description=f"{tasks:,} tasks"):
                answer = [sys.executable, "-c", _WRITE, str(home), str(folder), str(file)]
                writes.append(json.loads(subprocess.run(answer, check=True, capture_output=True, text=True).stdout))
                opens.append(_opened(browser, file, is_group=tasks > 1))
                shows.append(_shown(home))
            (written, peak), (drawn, unfolded, heap) = map(_medians, (writes, opens))
            table.add_row(
                f"{tasks:,}",
                f"{lines:,}",
                f"{statistics.median(shows):.2f} s",
                f"{written:.2f} s",
                f"{peak / 2**20:.0f} MiB",
                f"{file.stat().st_size / 1e6:.2f} MB",
                f"{drawn / 1e3:.2f} s",
                f"{unfolded:.0f} ms" if unfolded else "",
                f"{heap / 2**20:.0f} MiB",
            )
        browser.close()
    return table


def _shown(home: Path) -> float:
    """Seconds that `otel-metaflow view` takes, from its start to its end."""
    environment = {**os.environ, "OTEL_METAFLOW_HOME": str(home)}
    began = time.perf_counter()
    command = [sys.executable, "-m", "otel_metaflow.cli", "view", "WideFlow/1"]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _opened(browser: Browser, file: Path, *, is_group: bool) -> tuple[float, float, float]:
    """Milliseconds until it was drawn, and until its group was open; bytes of its heap."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(_WATCH)
    page.goto(file.as_uri())
    page.wait_for_function("window.readyAt")
    drawn = page.evaluate("window.readyAt")
    unfolded = page.evaluate(_UNFOLD) if is_group else 0.0
    metrics = page.context.new_cdp_session(page)
    metrics.send("Performance.enable")
    heap = {one["name"]: one["value"] for one in metrics.send("Performance.getMetrics")["metrics"]}["JSHeapUsedSize"]
    page.close()
    return drawn, unfolded, heap


def _medians(rows: list[tuple[float, ...]]) -> list[float]:
    return [statistics.median(column) for column in zip(*rows, strict=True)]
