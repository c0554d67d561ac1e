"""What telemetry costs a run: paired, interleaved runs of tiny flows, with it and without.

Prints, for each flow and each state of the endpoint, how much longer a task took than with Metaflow
alone and than with Metaflow and an empty extension installed (whose discovery costs every process a
little, before any code of ours runs). Wall is what the user waits for; CPU counts all processes, the
shipper's too.

    make bench                                  # everything
    python bench/overhead.py --rounds 5 --flow linear5
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from collectors import Collector, Vendors
from environments import OTHER, Environment, build, copy_of_source, write_files

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, prctl(2)
_STATES = ("none", "up", "refused", "black hole")


@dataclass(frozen=True)
class Work:
    """A flow, how it is run, and how many tasks it has."""

    name: str
    source: str
    tasks: int
    arguments: tuple[str, ...] = ()


def linear(steps: int) -> Work:
    """A chain of steps that do nothing."""
    names = ["start", *(f"s{number}" for number in range(steps - 2)), "end"]
    body = ""
    for name, after in zip(names, [*names[1:], None], strict=True):
        body += f"    @step\n    def {name}(self):\n        {f'self.next(self.{after})' if after else 'pass'}\n"
    return Work(f"linear, {steps} steps", _flow(body), steps)


def fan_out(width: int, at_once: int) -> Work:
    """A foreach of tasks that do nothing."""
    body = f"""\
    @step
    def start(self):
        self.items = list(range({width}))
        self.next(self.work, foreach="items")
    @step
    def work(self):
        self.next(self.join)
    @step
    def join(self, inputs):
        self.next(self.end)
    @step
    def end(self):
        pass
"""
    return Work(f"foreach of {width}, {at_once} at once", _flow(body), width + 3, ("--max-workers", str(at_once)))


def _flow(body: str) -> str:
    return f"from metaflow import FlowSpec, step\nclass BenchFlow(FlowSpec):\n{body}BenchFlow()\n"


WORKS = {"linear5": linear(5), "linear50": linear(50), "foreach20": fan_out(20, 16)}


@dataclass
class Cost:
    """What a run took, in seconds."""

    wall: float
    cpu: float


def measure(environment: Environment, flow: Path, work: Work, env: dict[str, str], *, telemetry: bool) -> Cost:
    """Run a flow once; CPU is counted when its last process, the shipper perhaps, is gone."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    with_otel = ("--with", "otel") if telemetry else ()
    finished = environment.run(flow, "run", *work.arguments, *with_otel, env=env)
    wall = time.perf_counter() - started
    if finished.returncode:
        raise click.ClickException(finished.stdout + finished.stderr)
    if env["STATE"] in ("refused", "black hole"):
        # It would try for ten minutes more, and compete with the next run.
        subprocess.run(["pkill", "-KILL", "-f", "otel_metaflow.shipper"], check=False)
    shippers = subprocess.run(["pgrep", "-f", "otel_metaflow.shipper"], check=False, capture_output=True, text=True)
    for pid in shippers.stdout.split():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(int(pid), 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


@contextlib.contextmanager
def endpoints(directory: Path) -> Iterator[dict[str, str]]:
    """The endpoint of each state that has one: the real collector, nothing, and one that never answers."""
    with contextlib.ExitStack() as stack:
        vendors = stack.enter_context(Vendors(directory / "vendors"))
        collector = stack.enter_context(Collector(directory, vendors.environment))
        hole = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        refused = stack.enter_context(socket.socket())
        refused.bind(("127.0.0.1", 0))
        yield {
            "up": collector.http,
            "refused": f"http://127.0.0.1:{refused.getsockname()[1]}",
            "black hole": f"http://127.0.0.1:{hole.getsockname()[1]}",
        }


def environments(directory: Path) -> dict[str, Environment]:
    """Metaflow alone, with an empty extension, and with ours; byte-compiled, as installed packages are."""
    made = {}
    for name in ("alone", "empty", "otel"):
        (directory / name).mkdir()
        made[name] = Environment(directory / name)
    (directory / "wheels").mkdir()
    made["empty"].install(str(build(write_files(directory / "other", OTHER), directory / "wheels")))
    (directory / "ours").mkdir()
    made["otel"].install(str(build(copy_of_source(directory / "source"), directory / "ours")))
    return made


def quartiles(values: list[float], tasks: int) -> str:
    """Median and lower quartile of differences of runs, in milliseconds a task."""
    low, middle, _ = statistics.quantiles(values, n=4)
    return f"{middle / tasks * 1000:+.1f}  ({low / tasks * 1000:+.1f})"


@click.command()
@click.option("--rounds", default=30, show_default=True, help="Interleaved rounds of each comparison.")
@click.option("--flow", "flows", type=click.Choice(list(WORKS)), multiple=True, help="Only these flows.")
@click.option("--state", "states", type=click.Choice(_STATES), multiple=True, help="Only these endpoints.")
def main(rounds: int, flows: tuple[str, ...], states: tuple[str, ...]) -> None:
    """Measure and print the table."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Adopts the shippers that launchers leave behind, so that their CPU is counted.
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    console = Console()
    table = Table(title=f"telemetry per task, ms: median (lower quartile) of {rounds} interleaved rounds")
    for column in ("flow", "endpoint", "run alone", "wall vs alone", "wall vs empty ext.", "CPU vs empty ext."):
        table.add_column(column, justify="left" if column in ("flow", "endpoint") else "right")
    with tempfile.TemporaryDirectory() as name, endpoints(Path(name)) as urls:
        installed = environments(Path(name))
        for key in flows or WORKS:
            work = WORKS[key]
            files = {}
            for label, environment in installed.items():
                files[label] = environment.path / "flow.py"
                files[label].write_text(work.source)
            costs: dict[str, list[Cost]] = {}
            chosen = states or _STATES
            for number in track(range(rounds + 1), description=work.name, console=console):
                for label in ("alone", "empty", *chosen):
                    ours = label in _STATES
                    # As on an ordinary host: only where it would be lost does a launcher wait for its shipper.
                    env = {"OTEL_METAFLOW_FLUSH_TIMEOUT": "0", "STATE": label}
                    if label in urls:
                        env["OTEL_EXPORTER_OTLP_ENDPOINT"] = urls[label]
                    environment = installed["otel" if ours else label]
                    cost = measure(environment, files["otel" if ours else label], work, env, telemetry=ours)
                    if number:  # the first round fills caches
                        costs.setdefault(label, []).append(cost)
            alone = statistics.median(cost.wall for cost in costs["alone"])
            for label in chosen:
                against = {base: list(zip(costs[label], costs[base], strict=True)) for base in ("alone", "empty")}
                table.add_row(
                    work.name,
                    label,
                    f"{alone:.2f} s",
                    quartiles([ours.wall - base.wall for ours, base in against["alone"]], work.tasks),
                    quartiles([ours.wall - base.wall for ours, base in against["empty"]], work.tasks),
                    quartiles([ours.cpu - base.cpu for ours, base in against["empty"]], work.tasks),
                )
    console.print(table)


if __name__ == "__main__":
    main()
