"""What telemetry costs a task that does nothing: interleaved runs of tiny flows, with it and without."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from environments import Environment
from places import Cost, end_shippers, measure, quartiles, variables
from rich.progress import track
from rich.table import Table

# How our runs are labelled, and which endpoint each has.
OURS = {"journal only": None, "up": "up", "up, cold": "up", "refused": "refused", "black hole": "black hole"}
THEIRS = ("opentelemetry-instrument", "Metaflow's tracing")
_INSTRUMENT = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"


@dataclass(frozen=True)
class Work:
    """A flow, how it is run, how many tasks it has, and how often it is measured."""

    name: str
    source: str
    tasks: int
    rounds: int
    arguments: tuple[str, ...] = ()


def linear(steps: int, rounds: int) -> Work:
    """A chain of steps that do nothing."""
    names = ["start", *(f"s{number}" for number in range(steps - 2)), "end"]
    body = ""
    for name, after in zip(names, [*names[1:], None], strict=True):
        body += f"    @step\n    def {name}(self):\n        {f'self.next(self.{after})' if after else 'pass'}\n"
    return Work(f"linear, {steps} steps", _flow(body), steps, rounds)


def fan_out(width: int, at_once: int, rounds: int) -> Work:
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
    return Work(
        f"foreach of {width}, {at_once} at once", _flow(body), width + 3, rounds, ("--max-workers", str(at_once))
    )


def _flow(body: str) -> str:
    return f"from metaflow import FlowSpec, step\nclass BenchFlow(FlowSpec):\n{body}BenchFlow()\n"


WORKS = {"linear5": linear(5, 30), "linear50": linear(50, 4), "foreach20": fan_out(20, 16, 8)}


def _run(label: str, installed: dict[str, Environment], work: Work, urls: dict[str, str]) -> Cost:
    environment = installed["otel" if label in OURS else "empty" if label == "empty" else "alone"]
    flow = environment.path / "flow.py"
    flow.write_text(work.source)
    python = str(environment.python)
    command = [python, str(flow), "--no-pylint", "run", *work.arguments]
    endpoint = OURS.get(label)
    env = variables(environment.path, label, urls[endpoint] if endpoint else None)
    if label in OURS:
        command += ["--with", "otel"]
    if label == "up, cold":
        end_shippers()
    elif label == THEIRS[0]:
        # All three signals, the log records of `logging` with them.
        env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": urls["up"], "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
        env["OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED"] = "true"
        command = [python, "-c", _INSTRUMENT, *command]
    elif label == THEIRS[1]:
        env["METAFLOW_OTEL_ENDPOINT"] = urls["up"] + "/v1/traces"
    return measure(command, environment.path, env)


def compare(
    installed: dict[str, Environment], urls: dict[str, str], names: Sequence[str], rounds: int | None
) -> tuple[Table, dict[str, dict[str, list[float]]]]:
    """The table, and by flow and label the differences to the empty extension in ms a task, for the plot."""
    table = Table()
    for column in ("flow", "what", "run alone", "wall over alone", "wall over empty extension", "CPU over the same"):
        table.add_column(column)
    plotted: dict[str, dict[str, list[float]]] = {}
    labels = ("alone", "empty", *OURS, *THEIRS)
    for name in names:
        work = WORKS[name]
        costs: dict[str, list[Cost]] = {}
        for number in track(range((rounds or work.rounds) + 1), description=work.name):
            for place in range(len(labels)):
                label = labels[(number + place) % len(labels)]  # so that none always comes after the same one
                cost = _run(label, installed, work, urls)
                if number:  # the first round fills caches
                    costs.setdefault(label, []).append(cost)
        end_shippers()
        alone = statistics.median(cost.wall for cost in costs["alone"])
        scale = 1000 / work.tasks
        for label in (*OURS, *THEIRS):
            pairs = {base: list(zip(costs[label], costs[base], strict=True)) for base in ("alone", "empty")}
            walls = [one.wall - base.wall for one, base in pairs["empty"]]
            plotted.setdefault(work.name, {})[label] = [wall * scale for wall in walls]
            table.add_row(
                work.name,
                label,
                f"{alone:.2f} s",
                quartiles([one.wall - base.wall for one, base in pairs["alone"]], scale),
                quartiles(walls, scale),
                quartiles([one.cpu - base.cpu for one, base in pairs["empty"]], scale),
            )
    return table, plotted
