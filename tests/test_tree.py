"""The span tree of an example as text, which is how a reader checks it too."""

from __future__ import annotations

import textwrap

from collectors import ROOT
from endpoint import Endpoint
from running import Place

from otel_metaflow import ids

SHOWN = (
    "metaflow.task.result",
    "metaflow.run.result",
    "metaflow.run.task.count",
    "metaflow.run.failed.count",
    "metaflow.run.retried.count",
    "metaflow.attempt",
    "error.type",
    "process.exit.code",
)


def tree(receiver: Endpoint) -> str:
    """The spans received, children indented below their parents in the order of their names and attributes."""
    children: dict[bytes, list[str]] = {}
    lines: dict[str, bytes] = {}
    for span, _ in receiver.spans():
        attributes = {each.key: each.value for each in span.attributes}
        shown = " ".join(
            f"{name}={attributes[name].string_value or attributes[name].int_value}"
            for name in SHOWN
            if name in attributes
        )
        status = f" ERROR {span.status.message!r}" if span.status.code == 2 else ""
        line = f"{span.name} {shown}{status}"
        while line in lines:
            line += " "
        lines[line] = span.span_id
        children.setdefault(span.parent_span_id, []).append(line)

    def draw(parent: bytes, depth: int) -> list[str]:
        drawn: list[str] = []
        for line in sorted(children.get(parent, [])):
            drawn.append("  " * depth + line.rstrip())
            drawn.extend(draw(lines[line], depth + 1))
        return drawn

    return "\n".join(draw(b"", 0))


def test_the_tree_of_a_fan_out_with_a_retried_failure(place: Place) -> None:
    """One trace, one span for each attempt below the run's, the failed one marked and nothing else."""
    with Endpoint() as receiver:
        finished = place.run(ROOT / "examples/fanout.py", env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
        finished.wait_delivered()
    golden = """\
        RUN FanoutFlow metaflow.run.result=success metaflow.run.task.count=7 metaflow.run.failed.count=1 metaflow.run.retried.count=1
          collect metaflow.task.result=success metaflow.attempt=0 process.exit.code=0
          end metaflow.task.result=success metaflow.attempt=0 process.exit.code=0
          start metaflow.task.result=success metaflow.attempt=0 process.exit.code=0
          work metaflow.task.result=failure metaflow.attempt=0 error.type=RuntimeError process.exit.code=1 ERROR 'RuntimeError: shard 3 is locked by another process'
          work metaflow.task.result=success metaflow.attempt=0 process.exit.code=0
          work metaflow.task.result=success metaflow.attempt=0 process.exit.code=0
          work metaflow.task.result=success metaflow.attempt=0 process.exit.code=0
          work metaflow.task.result=success metaflow.attempt=1 process.exit.code=0
        """  # noqa: E501 - a tree reads by its lines
    assert tree(receiver) == textwrap.dedent(golden).rstrip()
    trace_id = ids.trace_id("FanoutFlow", finished.run)
    assert {span.trace_id.hex() for span, _ in receiver.spans()} == {trace_id}
    for span, resource in receiver.spans():
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert {"metaflow.flow.name", "metaflow.run.id"} <= {each.key for each in resource.attributes}
