"""`otel-metaflow id`: the ids of a run or an attempt, also before it runs."""

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

    ATTEMPT counts from 0. RUN is latest or an id, which may be that of a run to come.
    """
    environment = settings.read()
    namespace = environment.namespace
    found = re.fullmatch(r"([^/]+)/([^/]+)(?:/([^/]+)/([^/]+)(?:/(\d+))?)?", pathspec)
    if found is None:
        fail(f"{pathspec!r} is not of the form {_PATHSPEC}, as in HelloFlow/12 or HelloFlow/12/train/7")
    flow, run, step, task, attempt = found.groups()
    if run == runs.LATEST:  # not the beginning of an id: it may be that of a run to come
        run = runs.find(environment, f"{flow}/{run}").run
    trace_id, span_id = ids.trace_id(flow, run, namespace), ids.run_span_id(flow, run, namespace)
    if step is not None:
        span_id = ids.attempt_span_id(flow, run, step, task, int(attempt or 0), namespace)
    if as_json:
        print_json({"traceId": trace_id, "spanId": span_id})
        return
    echo(f"trace_id {trace_id}")
    echo(f"span_id  {span_id}")
