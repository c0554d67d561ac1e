"""What a shipper needs for a wide run: CPU an attempt, memory, rest while nothing happens, and the end.

make bench-wide                                          # 25 minutes
python bench/wide.py --attempts 1000 --rate 200 --only live

The journals come from a simulated run (tests/wide_runs.py), the endpoint is a real one that counts what arrives. CPU is
that of the shipper's process alone, without what its start takes; it is not wall time, but a machine that does other
things at the same time makes it larger by some tenths all the same. Each attempt has a span,
which is more than by the default of OTEL_METAFLOW_MAX_ATTEMPT_SPANS.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import click
import wide_runs
from endpoint import Endpoint
from rich import box
from rich.console import Console
from rich.table import Table
from running import Place
from wide_runs import UNLIMITED, Shape

from otel_metaflow.journal.delivery_status import DeliveryStatus

MODES = ("live", "afterwards")
_SMALLEST = 4  # attempts of the run that shows what a shipper's start takes
_SETTLED = 2.0
_IDLE = 10.0
_LONG = 3600.0


class Figures(NamedTuple):
    """Of one run; CPU and times in seconds, memory in bytes."""

    cpu: float
    memory: int
    idle: float | None
    end: float


def live(place: Place, endpoint: Endpoint, shape: Shape) -> Figures:
    """A shipper that follows the run while it goes on."""
    with wide_runs.running(place.home, shape) as wide:
        shipper = place.start_shipper(wide.folder, endpoint.url, **UNLIMITED)
        wide.wait_written()
        # All that can be sent while the run goes on: not its own span.
        endpoint.wait_for(lambda: len(endpoint.span_ids) >= len(wide_runs.span_ids(shape)) - 1, _LONG)
        time.sleep(_SETTLED)
        idle = -wide_runs.cpu_seconds(shipper.pid)
        time.sleep(_IDLE)
        idle += wide_runs.cpu_seconds(shipper.pid)
        ended = wide.end()
        cpu, memory = _to_the_end(shipper)
        return Figures(cpu, memory, idle / _IDLE, time.monotonic() - ended)


def afterwards(place: Place, endpoint: Endpoint, shape: Shape) -> Figures:
    """A shipper that finds the whole run on disk."""
    with wide_runs.running(place.home, replace(shape, rate=0)) as wide:
        wide.wait_written()
        wide.end()
        began = time.monotonic()
        cpu, memory = _to_the_end(place.start_shipper(wide.folder, endpoint.url, **UNLIMITED))
        return Figures(cpu, memory, None, time.monotonic() - began)


def _to_the_end(shipper: subprocess.Popen[bytes]) -> tuple[float, int]:
    """CPU of a shipper in all, and its peak of memory, once it has ended by itself."""
    before, peak = resource.getrusage(resource.RUSAGE_CHILDREN), 0
    while shipper.poll() is None:
        with contextlib.suppress(OSError, IndexError):  # it ends just now
            peak = wide_runs.memory_peak(shipper.pid)
        time.sleep(0.02)
    if shipper.returncode:
        raise RuntimeError(f"the shipper ended with {shipper.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, peak


def measure(mode: str, shape: Shape) -> Figures:
    """One run in a place of its own.

    Raises:
        RuntimeError: something did not arrive, or came twice.
    """
    with tempfile.TemporaryDirectory() as name, Endpoint(keeps_messages=False) as endpoint:
        place = Place(Path(name))
        figures = (live if mode == "live" else afterwards)(place, endpoint, shape)
        spans, lines = wide_runs.span_ids(shape), wide_runs.bodies(shape)
        counts = {body: count for body, count in endpoint.body_counts.items() if wide_runs.is_line(body)}
        if endpoint.span_ids != dict.fromkeys(spans, 1) or counts != dict.fromkeys(lines, 1):
            raise RuntimeError(
                f"{len(endpoint.span_ids)} of {len(spans)} spans, {len(counts)} of {len(lines)} lines came"
            )
        if not DeliveryStatus.read(next(place.home.glob("*/*"))).complete:
            raise RuntimeError("the run was not delivered")
        return figures


@click.command()
@click.option("--attempts", multiple=True, type=int, default=[100, 1_000, 10_000, 50_000], show_default=True)
@click.option("--rate", default=50.0, show_default=True, help="Attempts a second of a live run.")
@click.option("--lines", default=3, show_default=True, help="Of each attempt.")
@click.option("--only", type=click.Choice(MODES), help="Instead of both.")
def main(attempts: tuple[int, ...], rate: float, lines: int, only: str | None) -> None:
    """Measure."""
    table = Table("attempts", "delivered", "CPU an attempt", "memory, peak", "idle", "from the last line to the end")
    table.box = box.MARKDOWN
    for mode in [only] if only else MODES:
        start = measure(mode, Shape(_SMALLEST, rate, lines=lines)).cpu
        for count in attempts:
            figures = measure(mode, Shape(count, rate, lines=lines))
            table.add_row(
                f"{count:,}",
                f"live, {rate:.0f} a second" if mode == "live" else mode,
                f"{(figures.cpu - start) / (count - _SMALLEST) * 1e3:.2f} ms",
                f"{figures.memory / 2**20:.0f} MiB",
                "" if figures.idle is None else f"{figures.idle:.2%} of a core",
                f"{figures.end:.1f} s",
            )
        table.caption = (
            f"without the {start:.2f} s of CPU that a shipper's start and a run of {_SMALLEST} attempts take"
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
