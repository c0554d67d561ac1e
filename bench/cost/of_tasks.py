"""What a task that does nothing pays, with `@otel` and where no step of the flow has it."""

from __future__ import annotations

from callgrind import counted
from environments import Environment
from row import Row
from started import task

FLOW = """\
from metaflow import FlowSpec, step

class CountedFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.middle)

    @step
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
    plain = counted(*task(installed["empty"], FLOW))
    return [
        Row("a task of a flow without `@otel`", plain, counted(*task(installed["otel"], FLOW)), budget=5e6),
        Row(
            "a task with `@otel`, no endpoint",
            plain,
            counted(*task(installed["otel"], FLOW, "--with", "otel")),
            budget=20e6,
        ),
    ]
