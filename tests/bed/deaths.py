"""Ways in which a step ends, and what of it arrived: the same of each platform."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from endpoint import Endpoint

LINES = 200
"""Lines that each attempt of `work` prints, at five milliseconds each."""

FLOW = f"""
    import logging, os, signal, subprocess, time
    from metaflow import FlowSpec, current, kubernetes, retry, step

    class PodFlow(FlowSpec):
        def lines(self, count):
            for number in range(count):
                print(f"line {{current.pathspec}}/{{current.retry_count}} {{number}}")
                time.sleep(0.005)

        @kubernetes(memory=512, qos="guaranteed")
        @step
        def start(self):
            self.lines(20)
            logging.warning("a logging record")
            subprocess.run(["echo", f"line {{current.pathspec}}/0 from a subprocess"])
            self.xs = [1, 2]
            self.next(self.work, foreach="xs")

        @retry(times=1, minutes_between_retries=0)
        @kubernetes(memory=512, qos="guaranteed")
        @step
        def work(self):
            self.lines({LINES})
            if self.input == 2 and current.retry_count == 0:
                how = os.environ.get("HOW")
                if how == "kill -9":
                    os.kill(os.getpid(), signal.SIGKILL)
                if how == "out of memory":
                    held = [bytearray(32 << 20) for _ in range(100)]
                if how == "container":
                    print(f"line {{current.pathspec}}/0 now")
                    self.lines(100_000)
            self.next(self.join)

        @kubernetes(memory=512, qos="guaranteed")
        @step
        def join(self, inputs):
            self.lines(20)
            self.next(self.end)

        @kubernetes(memory=512, qos="guaranteed")
        @step
        def end(self):
            self.lines(20)

    if __name__ == "__main__":
        PodFlow()
"""

_LINE = re.compile(r"line PodFlow/\S+ .+")


def expected(death: str) -> Counter[tuple[str, str]]:
    """How often a span of each name has each result; one attempt of `work` died, and was retried."""
    died = [("work", "error")] if death else []
    steps = ["start", "work", "work", "join", "end"]
    return Counter([*((step, "success") for step in steps), *died])


@dataclass
class Arrived:
    """What an endpoint received, beside what the containers printed."""

    printed: Counter[str]
    lines: Counter[str]
    spans: list[Any] = field(default_factory=list)

    @property
    def lost(self) -> list[str]:
        """The lines that were printed, and did not arrive."""
        return sorted(self.printed - self.lines)

    @property
    def twice(self) -> list[str]:
        """The lines that arrived more often than they were printed."""
        return sorted(self.lines - self.printed)

    def results(self) -> Counter[tuple[str, str]]:
        """How often a span of each name had each result; spans of waiting, which a busy machine has, are left out."""
        found = ((span.name, _attributes(span).get("metaflow.task.result", "")) for span in self.spans)
        return Counter((name, result) for name, result in found if not name.endswith(" queued"))


def how(death: str) -> str:
    """The option by which `work` is told how to end."""
    return f"environment:vars={json.dumps({'HOW': death})}"


def arrived(receiver: Endpoint, outputs: Iterable[str]) -> Arrived:
    """What `receiver` acknowledged, and the lines in the output of containers."""
    printed = Counter(line for output in outputs for line in _LINE.findall(output))
    lines = Counter(body for body in receiver.bodies() if _LINE.fullmatch(body))
    return Arrived(printed, lines, [span for span, _ in receiver.spans()])


def _attributes(span: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}
