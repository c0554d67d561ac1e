"""What telemetry adds to a container, as the containers of tests/bed see it: prints a table of docs/figures.md.

    make bench-pods                           # five minutes, on a machine that does nothing else
    python bench/pods.py --rounds 0 --kills 20  # only what is lost

A flow with one step on AWS Batch, as tests/bed has it, without `@otel`, and with it to an endpoint that is up, refuses,
and never answers. By the container's own clock: from the start of its first process to the step's first line, and from
its last line to the end of that process.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "bed"))
from batch import Batch
from bed import AwsBatch, ObjectStore
from collectors import free_ports
from containers import Containers
from deaths import lines_in
from endpoint import Endpoint
from parts import newer_boto3
from running import Place, eventually

STATES = ("without @otel", "endpoint up", "endpoint refuses", "endpoint never answers")
KILLED_AT = 600
"""Lines after which a container is killed, three seconds after its first."""
_FLOW = """
    import os, sys, time
    from metaflow import FlowSpec, batch, current, step

    def shipper():
        # Seconds of CPU and the greatest MiB of the shipper of this container.
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if "otel_metaflow.shipper" in open(f"/proc/{pid}/cmdline").read():
                    words = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
                    (peak,) = [line for line in open(f"/proc/{pid}/status") if line.startswith("VmHWM")]
                    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK"), int(peak.split()[1]) / 1024
            except OSError:
                pass
        return 0, 0

    class PodFlow(FlowSpec):
        @batch(memory=512)
        @step
        def start(self):
            if os.environ.get("HOW") == "endless":
                for number in range(100_000):
                    print(f"line {current.pathspec}/0 {number}")
                    time.sleep(0.005)
            began = time.time()
            for number in range(200):
                print(f"line {current.pathspec}/0 {number}")
                time.sleep(0.005)
            time.sleep(1)  # until the shipper has nothing left to do
            print("MEASURED", began, *shipper(), time.time())
            self.next(self.end)

        @step
        def end(self):
            pass

    if __name__ == "__main__":
        PodFlow()
"""


# Nanoseconds of CPU of all processes that a container ever had, by cgroup v1 or v2.
_CPU = (
    "cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2> /dev/null "
    "|| sed -n 's/^usage_usec \\(.*\\)/\\1000/p' /sys/fs/cgroup/cpu.stat"
)


class Timed(Containers):
    """Each container prints when its first process begins and ends: what podman takes is no part of it."""

    def start(self, name: str, command: Sequence[str], *rest: Any, **options: Any) -> subprocess.Popen[bytes]:
        """Start a container as ever, but for these two lines."""
        shell, option, script = command
        timed = f"echo BEGAN $(date +%s.%N); ( {script} ); c=$?; echo OVER $(date +%s.%N) $({_CPU}); exit $c"
        return super().start(name, [shell, option, timed], *rest, **options)


@contextlib.contextmanager
def _bed(folder: Path) -> Iterator[AwsBatch]:
    """AWS Batch and an object store, in folders of their own."""
    for name in ("store", "jobs", "place"):
        (folder / name).mkdir()
    image = {"METAFLOW_SKIP_INSTALL_DEPENDENCIES": "1", **ObjectStore.credentials}
    with (
        ObjectStore(folder / "store") as store,
        Timed(folder / "jobs", image, *newer_boto3()) as containers,
        Batch(containers) as batch,
    ):
        yield AwsBatch(Place(folder / "place"), store, containers, batch)


class Cost(NamedTuple):
    """One container: seconds before and after the step's own code; of CPU; and of its shipper CPU and MiB."""

    before: float
    after: float
    cpu: float
    shipper_cpu: float
    shipper_memory: float


def _run(bed: AwsBatch, *options: str, env: Mapping[str, str]) -> Cost:
    names = set(bed.outputs)
    ended = bed.run(_FLOW, *options, env=env)
    if not ended.succeeded:
        raise click.ClickException(ended.report)
    (name,) = set(bed.outputs) - names
    found = re.search(
        r"BEGAN (\S+)\n.*MEASURED (\S+) (\S+) (\S+) (\S+)\n.*OVER (\S+) (\d+)\n", bed.outputs[name], re.DOTALL
    )
    if found is None:
        raise click.ClickException(bed.outputs[name])
    start, first, cpu, memory, last, over, all_cpu = map(float, found.groups())
    return Cost(first - start, over - last, all_cpu / 1e9, cpu, memory)


def _kill(bed: AwsBatch) -> int:
    """How many of the lines that a container printed before it was killed at once did not arrive."""
    names = set(bed.outputs)
    options = ("--with", "otel", "--with", 'environment:vars={"HOW": "endless"}')
    with Endpoint() as receiver, ThreadPoolExecutor() as pool:
        running = pool.submit(bed.run, _FLOW, *options, env=bed.sends_to(receiver.port))
        name = eventually(lambda: next(iter(set(bed.outputs) - names), None), 60)
        eventually(lambda: len(lines_in(bed.outputs[name])) > KILLED_AT, 60)
        bed.containers.kill(name)
        running.result().wait_delivered()
        return len(set(lines_in(bed.outputs[name])) - set(receiver.bodies()))


def _package(bed: AwsBatch, *options: str) -> float:
    """The size of the code package, in kB."""
    file, package = bed.place.write(_FLOW), bed.place.path / "package.tgz"
    command = [sys.executable, str(file), "--no-pylint", *options, "package", "save", str(package)]
    subprocess.run(command, cwd=bed.place.path, env=bed.place.environ(bed.environment), check=True, capture_output=True)
    return package.stat().st_size / 1000


def _median(values: Sequence[float], scale: float = 1) -> str:
    return f"{statistics.median(values) * scale:.0f} ({min(values) * scale:.0f} to {max(values) * scale:.0f})"


@click.command(epilog=__doc__)
@click.option("--rounds", default=5, show_default=True)
@click.option("--kills", default=10, show_default=True)
def main(rounds: int, kills: int) -> None:
    """Measure what telemetry adds to a container."""
    costs: dict[str, list[Cost]] = {state: [] for state in STATES}
    with tempfile.TemporaryDirectory() as folder, _bed(Path(folder)) as bed:
        (closed,) = free_ports(1)
        packages = [_package(bed), _package(bed, "--with", "otel")]
        with Endpoint() as up, Endpoint("blackhole") as silent:
            ports = dict(zip(STATES[1:], (up.port, closed, silent.port), strict=True))
            for _ in track(range(rounds), description="containers"):
                for state in STATES:
                    options = ("--with", "otel") if state in ports else ()
                    env = bed.sends_to(ports[state]) if state in ports else {}
                    costs[state].append(_run(bed, *options, env=env))
        lost = [_kill(bed) for _ in track(range(kills), description="kills")]
    table = Table(box=box.MARKDOWN)
    for column in ("a container", "ms before the step's code", "ms after it", "ms of CPU", "of its shipper", "its MiB"):
        table.add_column(column)
    for state, found in costs.items() if rounds else ():
        own = [each for each in found if each.shipper_memory]
        table.add_row(
            state,
            _median([each.before for each in found], 1000),
            _median([each.after for each in found], 1000),
            _median([each.cpu for each in found], 1000),
            _median([each.shipper_cpu for each in own], 1000) if own else "",
            _median([each.shipper_memory for each in own]) if own else "",
        )
    console = Console(width=160)
    if rounds:
        console.print(table)
        console.print(f"Median (least to most) of {rounds}")
    console.print(f"Code package {packages[0]:.0f} kB, with @otel {packages[1]:.0f} kB")
    console.print(f"Killed at once at 200 lines a second: {sorted(lost)} lines lost")


if __name__ == "__main__":
    main()
