"""What a line costs the task that prints or logs it."""

from __future__ import annotations

from callgrind import slope
from environments import Environment
from row import Row
from started import task

_FLOW = """\
import logging
from metaflow import FlowSpec, step

class CountedFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.middle)

    @step
    def middle(self):
        {before}
        for number in range(int(os.environ.get("LINES", "1"))):
            {line}
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    CountedFlow()
"""
KINDS = {
    "print": ("pass", 'print("line", number, "of a busy loop")'),
    "logging": ("logging.basicConfig(level=logging.INFO)", 'logging.info("record %d of a busy loop", number)'),
}


def rows(installed: dict[str, Environment]) -> list[Row]:
    """A line of a busy loop, by print and by logging."""
    found = []
    for kind, (before, line) in KINDS.items():
        flow = _FLOW.format(before=before, line=line)
        plain = slope(*task(installed["empty"], flow), "LINES", 500, 2_500)
        ours = slope(*task(installed["otel"], flow, "--with", "otel"), "LINES", 500, 2_500)
        found.append(Row(f"a line by `{kind}`", plain, ours))
    return found
