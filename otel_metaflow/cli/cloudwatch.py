"""`otel-metaflow cloudwatch`: the CloudWatch log streams of tasks on AWS Batch, from Metaflow's metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from otel_metaflow.cli import runs, stored_runs
from otel_metaflow.cli.arguments import as_json as json_option
from otel_metaflow.cli.arguments import fail, print_json
from otel_metaflow.core import settings
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.viewer.terminal import echo

if TYPE_CHECKING:
    from otel_metaflow.backfill.last_lines import Line

_GROUP, _STREAM, _REGION = (f"aws-batch-awslogs-{name}" for name in ("group", "stream", "region"))


@click.command()
@click.argument("pathspec", metavar="FLOW/RUN[/STEP[/TASK]]", shell_complete=runs.completion(parts=4))
@click.option("--last-lines", is_flag=True, help="Print what killed containers printed last and journals lack.")
@json_option
@click.pass_obj
def cloudwatch(environment: settings.Settings, pathspec: str, *, last_lines: bool, as_json: bool) -> None:
    """Print the CloudWatch log streams of tasks on AWS Batch.

    One line for each attempt: task, log group, stream. With --last-lines, of attempts whose end is not in the journals,
    the lines that only CloudWatch has.
    RUN is an id, the beginning of one, or latest, among the runs that Metaflow knows.
    """
    if re.fullmatch(r"[^/]+(/[^/]+){1,3}", pathspec) is None:
        fail(f"{pathspec!r} is not of the form FLOW/RUN, FLOW/RUN/STEP or FLOW/RUN/STEP/TASK, as in HelloFlow/12")
    from metaflow.exception import MetaflowException

    try:
        pathspec = _resolved(pathspec)
        found = list(streams(pathspec))
    except MetaflowException as error:
        fail(str(error))
    if not found:
        fail(f"no task of {pathspec} ran on AWS Batch: Metaflow's metadata has no log stream")
    if last_lines:
        _print_last_lines(environment, found, as_json=as_json)
        return
    if as_json:
        print_json([_described(stream) for stream in found])
        return
    for stream in found:
        echo(f"{stream.task}\t{stream.group}\t{stream.name}")


def _print_last_lines(environment: settings.Settings, found: Sequence[Stream], *, as_json: bool) -> None:
    with stored_runs.readable():
        lines = [(stream, _last_lines(environment, stream)) for stream in found]
    if as_json:
        print_json([{**_described(stream), "lines": [line._asdict() for line in those]} for stream, those in lines])
        return
    for stream, those in lines:
        for line in those:
            echo(f"{stream.task}/{stream.attempt}\t{line.text}")


def _described(stream: Stream) -> dict[str, Any]:
    return {"task": stream.task, "attempt": stream.attempt, "group": stream.group, "stream": stream.name}


def _last_lines(environment: settings.Settings, stream: Stream) -> list[Line]:
    """The lines of an attempt that only CloudWatch has; none of one whose end is recorded."""
    from otel_metaflow.backfill import last_lines
    from otel_metaflow.journal import reader

    flow, run, step, task = stream.task.split("/")
    folder = layout.run_folder(environment.home, RunKey(flow, run, environment.namespace))
    if not folder.exists():
        fail(f"{flow}/{run} has no journals here; type: otel-metaflow fetch {flow}/{run}")
    key = AttemptKey(step, task, stream.attempt)
    if any(record["kind"] == layout.END for record in reader.facts(layout.attempt_file(folder, key))):
        return []
    return last_lines.of_attempt(folder, key, stream.group, stream.name, stream.region)


def _resolved(pathspec: str) -> str:
    """The pathspec with the run's full id; looked up in Metaflow, since the run may have no journal here.

    Raises:
        metaflow.exception.MetaflowException: the flow does not exist.
    """
    from metaflow import Flow, Run, namespace
    from metaflow.exception import MetaflowNotFound

    namespace(None)
    flow, run, *rest = pathspec.split("/")
    try:
        Run(f"{flow}/{run}")
    except MetaflowNotFound:
        run = runs.pick(flow, run, [known.id for known in Flow(flow)]) or run
    return "/".join((flow, run, *rest))


class Stream(NamedTuple):
    """The log stream of one attempt; `task` is its pathspec, FLOW/RUN/STEP/TASK."""

    task: str
    attempt: int
    group: str
    name: str
    region: str


def streams(pathspec: str) -> Iterator[Stream]:
    """The streams of a run, a step or a task.

    Raises:
        metaflow.exception.MetaflowException: nothing has that name.
    """
    from metaflow import Run, Step, Task, namespace

    # A full pathspec may be another user's.
    namespace(None)
    kind = (Run, Step, Task)[pathspec.count("/") - 1]
    for task in _tasks(kind(pathspec)):
        found = sorted((entry.created_at, entry.name, entry.value) for entry in task.metadata)
        groups = [value for _, name, value in found if name == _GROUP]
        names = [value for _, name, value in found if name == _STREAM]
        region = next((value for _, name, value in found if name == _REGION and value), "")
        # One pair for each attempt, in order of the attempts.
        for attempt, (group, name) in enumerate(zip(groups, names, strict=False)):
            if name:
                yield Stream(task.pathspec, attempt, group or "", name, region)


def _tasks(thing: Any) -> list[Any]:
    found: list[Any] = []
    levels: list[tuple[int, Any]] = [(len(thing.pathspec.split("/")), thing)]
    while levels:
        level, each = levels.pop()
        if level == 4:  # noqa: PLR2004 - FLOW/RUN/STEP/TASK
            found.append(each)
        else:
            levels.extend((level + 1, child) for child in each)
    return sorted(found, key=lambda task: task.created_at)
