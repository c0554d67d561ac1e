"""What a task that does nothing pays, with `@otel` and where no step of the flow has it."""

from __future__ import annotations

from callgrind import counted
from environments import Environment
from row import Row
from started import task

_FLOW = """\
from metaflow import {names}

class CountedFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.middle)

    {decorator}@step
    def middle(self):
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    CountedFlow()
"""


def rows(installed: dict[str, Environment]) -> list[Row]:
    """The middle task of a flow, beside one where an extension without decorators is installed."""
    without = _FLOW.format(names="FlowSpec, step", decorator="")
    decorated = _FLOW.format(names="FlowSpec, otel, step", decorator="@otel\n    ")
    plain = counted(*task(installed["empty"], without))
    ours = installed["otel"]
    return [
        Row("a task of a flow without `@otel`", plain, counted(*task(ours, without)), budget=5e6),
        Row("a task with `@otel`, no endpoint", plain, counted(*task(ours, decorated)), budget=20e6),
        # What Metaflow itself does for a decorator that `--with` attaches takes 2 million more.
        Row("the same by `run --with otel`", plain, counted(*task(ours, without, "--with", "otel")), budget=22e6),
    ]
