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

_FLOW = f"""
    import logging, os, signal, subprocess, time
    from metaflow import FlowSpec, batch, current, kubernetes, retry, step

    is_first_work = "/work/" in os.environ.get("MF_PATHSPEC", "") and os.environ.get("MF_ATTEMPT") == "0"
    if is_first_work and os.environ.get("HOW") == "bootstrap":
        print(f"line {{os.environ['MF_PATHSPEC']}}/0 imports what the image lacks")
        import nowhere_but_on_the_laptop

    class PodFlow(FlowSpec):
        def lines(self, count, first=0):
            for number in range(first, first + count):
                print(f"line {{current.pathspec}}/{{current.retry_count}} {{number}}")
                time.sleep(0.005)

        @REMOTE
        @step
        def start(self):
            self.lines(20)
            logging.warning("a logging record")
            subprocess.run(["echo", f"line {{current.pathspec}}/0 from a subprocess"])
            self.xs = [1, 2]
            self.next(self.work, foreach="xs")

        @retry(times=1, minutes_between_retries=0)
        @REMOTE
        @step
        def work(self):
            self.lines({LINES})
            if self.input == 2 and os.environ.get("HOW") == "raise":
                raise ValueError("shard 2 is damaged")
            if self.input == 2 and current.retry_count == 0:
                how = os.environ.get("HOW")
                if how == "kill -9":
                    os.kill(os.getpid(), signal.SIGKILL)
                if how == "out of memory":
                    held = [bytearray(32 << 20) for _ in range(100)]
                if how == "container":
                    print(f"line {{current.pathspec}}/0 now")
                    self.lines(100_000, first=1_000)
            self.next(self.join)

        @REMOTE
        @step
        def join(self, inputs):
            self.lines(20)
            self.next(self.end)

        @REMOTE
        @step
        def end(self):
            self.lines(20)

    if __name__ == "__main__":
        PodFlow()
"""

_LINE = re.compile(r"line PodFlow/\S+ (?:\d+|now|from a subprocess|imports what the image lacks)")


@dataclass(frozen=True)
class Death:
    """A way in which first attempts of `work` end."""

    name: str
    how: str = ""
    dead: int = 1
    result: str = "error"
    cause: str = ""  # what the span of such an attempt says

    def options(self) -> tuple[str, str]:
        """The options of a flow by which `work` is told how to end."""
        return "--with", f"environment:vars={json.dumps({'HOW': self.how})}"

    def results(self) -> Counter[tuple[str, str]]:
        """How often a span of each name has each result: the dead were tried again."""
        steps = ["start", "work", "work", "join", "end"]
        return Counter([*((step, "success") for step in steps), *[("work", self.result)] * self.dead])


OK = Death("success", dead=0)
DEATHS = (
    OK,
    Death("kill -9, retried", "kill -9", cause="SIGKILL"),
    Death("out of memory, retried", "out of memory", cause="memory"),
    Death("bootstrap fails, retried", "bootstrap", dead=2, result="failure", cause="exited with code 1"),
)
FAILURE = Death("exception, in the retry too: the run fails", "raise")
CONTAINER = Death("container killed at once, retried", "container")


def flow(remote: str) -> str:
    """The source of a flow whose steps run where the decorator `remote` has them run."""
    return _FLOW.replace("REMOTE", remote)


@dataclass(frozen=True)
class Attempt:
    """A span of an attempt."""

    span: Any
    attributes: dict[str, str]

    @property
    def path(self) -> str:
        """As `otel-metaflow id` takes it."""
        names = ("flow.name", "run.id", "step.name", "task.id", "attempt")
        return "/".join(self.attributes[f"metaflow.{name}"] for name in names)


@dataclass
class Arrived:
    """What an endpoint received, beside what the containers printed."""

    printed: Counter[str]
    lines: Counter[str]
    resourced: list[tuple[Any, Any]] = field(default_factory=list)
    """Spans, each with its resource."""

    @property
    def spans(self) -> list[Any]:
        """The spans alone."""
        return [span for span, _ in self.resourced]

    @property
    def lost(self) -> list[str]:
        """The lines that were printed, and did not arrive."""
        return sorted(self.printed - self.lines)

    @property
    def twice(self) -> list[str]:
        """The lines that arrived more than once: each is printed once, even if nobody saw it before a kill."""
        return sorted(line for line, count in self.lines.items() if count > 1)

    @property
    def attempts(self) -> list[Attempt]:
        """The spans of attempts."""
        found = ((span, {**_attributes(resource), **_attributes(span)}) for span, resource in self.resourced)
        return [Attempt(span, attributes) for span, attributes in found if "metaflow.task.result" in attributes]

    @property
    def runs(self) -> list[Any]:
        """The spans of the run itself."""
        return [span for span in self.spans if "metaflow.run.result" in _attributes(span)]

    def run_results(self) -> list[str]:
        """The result of each span of the run itself."""
        return [_attributes(span)["metaflow.run.result"] for span in self.runs]

    def results(self) -> Counter[tuple[str, str]]:
        """How often a span of each name had each result."""
        return Counter((each.span.name, each.attributes["metaflow.task.result"]) for each in self.attempts)

    def causes(self) -> list[str]:
        """What the spans of attempts that failed say."""
        failed = (each for each in self.attempts if each.attributes["metaflow.task.result"] != "success")
        return [each.span.status.message for each in failed]


def arrived(receiver: Endpoint, outputs: Iterable[str]) -> Arrived:
    """What `receiver` acknowledged, and the lines in the output of containers."""
    printed = Counter(line for output in outputs for line in _LINE.findall(output))
    lines = Counter(body for body in receiver.bodies() if _LINE.fullmatch(body))
    return Arrived(printed, lines, receiver.spans())


def _attributes(span: Any) -> dict[str, str]:
    found = ((each.key, each.value) for each in span.attributes)
    return {key: str(getattr(value, value.WhichOneof("value"))) for key, value in found}


def lines_in(text: str) -> list[str]:
    """The lines of the flow in a text, be it an output or a journal."""
    return _LINE.findall(text)
