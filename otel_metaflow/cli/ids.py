"""`otel-metaflow id`: the trace and span id of a run or an attempt, known even before it starts."""

from __future__ import annotations

import re

import click

from otel_metaflow.cli import runs
from otel_metaflow.cli.arguments import as_json as json_option
from otel_metaflow.cli.arguments import fail, print_json
from otel_metaflow.core import ids, settings
from otel_metaflow.viewer.terminal import echo

_PATHSPEC = "FLOW/RUN[/STEP/TASK[/ATTEMPT]]"


@click.command(name="id")
@click.argument("pathspec", metavar=_PATHSPEC, shell_complete=runs.completion(parts=5))
@json_option
def id_(pathspec: str, *, as_json: bool) -> None:
    """Print the trace id and span id of a run or an attempt.

    ATTEMPT counts from 0. RUN is latest or a full id; the run need not have started yet.
    """
    environment = settings.read()
    namespace = environment.namespace
    found = re.fullmatch(r"([^/]+)/([^/]+)(?:/([^/]+)/([^/]+)(?:/(\d+))?)?", pathspec)
    if found is None:
        fail(f"{pathspec!r} is not of the form {_PATHSPEC}, as in HelloFlow/12 or HelloFlow/12/train/7")
    flow, run, step, task, attempt = found.groups()
    if run == runs.LATEST:  # a prefix is not resolved: it may be the id of a run that has not started
        run = runs.find(environment, f"{flow}/{run}").run
    trace_id, span_id = ids.trace_id(flow, run, namespace), ids.run_span_id(flow, run, namespace)
    if step is not None:
        span_id = ids.attempt_span_id(flow, run, step, task, int(attempt or 0), namespace)
    if as_json:
        print_json({"traceId": trace_id, "spanId": span_id})
        return
    echo(f"trace_id {trace_id}")
    echo(f"span_id  {span_id}")
