"""`otel-metaflow view`: choose the run, step or task, and how it is shown."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from click.core import ParameterSource

from otel_metaflow.cli import runs
from otel_metaflow.cli.arguments import as_json as json_option
from otel_metaflow.cli.arguments import check_combination, fail, print_json
from otel_metaflow.core import settings
from otel_metaflow.journal import layout
from otel_metaflow.viewer.terminal import echo

if TYPE_CHECKING:
    from otel_metaflow.journal.keys import AttemptKey
    from otel_metaflow.model.run import Attempt, Run

_FORM = "FLOW[/RUN[/STEP[/TASK[/ATTEMPT]]]], as in HelloFlow/12"
_MAX_PARTS = 5
_PARTS = ("step", "task", "attempt")
_LISTED = 10


@click.command()
@click.argument(
    "pathspec",
    metavar="[FLOW[/RUN[/STEP[/TASK[/ATTEMPT]]]]]",
    default="",
    shell_complete=runs.completion(parts=5),
)
@click.option("--logs", is_flag=True, help="Print log records, ordered by time.")
@click.option("--errors", is_flag=True, help="Only ERROR and above.")
@click.option("--follow", is_flag=True, help="Follow: print new records until the run ends.")
@click.option("--all", "whole", is_flag=True, help="Show a row for every attempt of a large run.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many runs to list.")
@click.option("--html", metavar="FILE", help="Write the run as a self-contained page; - for standard output.")
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser.")
@json_option
@click.pass_context
def view(
    context: click.Context,
    pathspec: str,
    limit: int,
    html: str | None,
    *,
    logs: bool,
    errors: bool,
    follow: bool,
    whole: bool,
    opens: bool,
    as_json: bool,
) -> None:
    """Show a run, a step or a task, or list the recent runs.

    RUN is an id, the beginning of one, or latest. --errors and --follow imply --logs.
    """
    environment = settings.read()
    parts = pathspec.split("/") if pathspec else []
    if len(parts) > _MAX_PARTS or not all(parts):
        fail(f"{pathspec!r} is not of the form {_FORM}")
    given = [
        str(parameter.opts[0])
        for parameter in context.command.params
        if parameter.name and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    _check_options([name for name in given if name in _OPTIONS], len(parts), html)
    if len(parts) < 2:  # noqa: PLR2004 - a flow, or nothing
        _list(environment, pathspec, limit, as_json=as_json)
        return
    key = runs.find(environment, "/".join(parts[:2]))
    folder = layout.run_folder(environment.home, key)
    if html is not None or opens:
        _write_page(environment, folder, f"{key.flow}-{key.run}", html, opens=opens)
        return
    if logs or errors or follow:
        _show_log(environment, folder, parts[2:], follow=follow, errors=errors, as_json=as_json)
        return
    from otel_metaflow.model.run import load

    run = load(environment.home, folder)
    attempts = _chosen(run, parts[2:])
    if as_json:
        _print(environment, run, parts[2:], attempts)
    elif len(parts) > 3:  # noqa: PLR2004 - flow, run and step
        from otel_metaflow.core.redaction import Redaction
        from otel_metaflow.viewer import task_view

        task_view.show(folder, run, attempts, Redaction(environment.redact))
    else:
        from otel_metaflow.viewer import run_view

        run_view.show(folder, run, step="".join(parts[2:]), trace_url=environment.trace_url, whole=whole)


class _Use(NamedTuple):
    """The pathspecs that an option applies to, by their number of parts."""

    min_parts: int
    max_parts: int
    what: str
    example: str


_OPTIONS = {
    "--limit": _Use(0, 1, "the list of runs", "--limit 5"),
    "--logs": _Use(2, 5, "a run or a part of it", "HelloFlow/latest --logs"),
    "--errors": _Use(2, 5, "a run or a part of it", "HelloFlow/latest --errors"),
    "--follow": _Use(2, 5, "a run or a part of it", "HelloFlow/latest --follow"),
    "--all": _Use(2, 3, "a run or a step", "HelloFlow/latest --all"),
    "--html": _Use(2, 2, "a whole run", "HelloFlow/latest --html run.html"),
    "--open": _Use(2, 2, "a whole run", "HelloFlow/latest --open"),
    "--json": _Use(0, 5, "everything", "--json"),
}
# The pairs of options that can be combined; every other pair is an error.
_COMBINATIONS = (
    ("--limit", "--json"),
    ("--logs", "--errors"),
    ("--logs", "--follow"),
    ("--logs", "--json"),
    ("--errors", "--follow"),
    ("--errors", "--json"),
    ("--follow", "--json"),
    ("--html", "--open"),
)


def _check_options(given: Sequence[str], depth: int, html: str | None) -> None:
    """End the program if options cannot be combined, or do not apply to a pathspec of `depth` parts."""
    check_combination(given, _COMBINATIONS)
    for name in given:
        use = _OPTIONS[name]
        if not use.min_parts <= depth <= use.max_parts:
            fail(f"{name} is for {use.what}, as in `otel-metaflow view {use.example}`")
    if html == "-" and "--open" in given:
        fail("--open cannot be combined with --html -; name a file after --html, or drop it")


def _list(environment: settings.Settings, flow: str, limit: int, *, as_json: bool) -> None:
    from otel_metaflow.viewer import report, run_list

    found = run_list.recent(environment.home, environment.namespace, flow, limit)
    if flow and not found:
        known = sorted({run.key.flow for run in run_list.recent(environment.home, environment.namespace, "", limit)})
        advice = f"there are runs of {', '.join(known)}" if known else _NONE
        fail(f"no run of {flow} in {environment.home}; {advice}")
    if as_json:
        print_json([report.summary(run) for run in found])
    elif found:
        run_list.show(found)
    else:
        echo(f"no run in {environment.home}; {_NONE}")


_NONE = "run a flow with `python flow.py run --with otel`"


def _chosen(run: Run, parts: Sequence[str]) -> list[Attempt]:
    """The attempts that match [STEP[/TASK[/ATTEMPT]]]; ends the program if there are none."""
    attempts = list(run.in_order)
    for index, part in enumerate(parts):
        known = list(dict.fromkeys(str(attempt.key[index]) for attempt in attempts))
        if index == 0:
            known += [step for step in run.steps if step not in known]
        if part not in known:
            above = "/".join([str(run.key), *parts[:index]])
            more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
            fail(f"{above} has no {_PARTS[index]} {part!r}; it has {', '.join(known[:_LISTED]) or 'none'}{more}")
        attempts = [attempt for attempt in attempts if str(attempt.key[index]) == part]
    return attempts


def _wanted(parts: Sequence[str]) -> Callable[[AttemptKey], bool]:
    return lambda key: all(str(own) == part for own, part in zip(key, parts, strict=False))


def _show_log(
    environment: settings.Settings,
    folder: Path,
    parts: Sequence[str],
    *,
    follow: bool,
    errors: bool,
    as_json: bool,
) -> None:
    from otel_metaflow.viewer import log_view

    feed = log_view.Feed(environment.home, folder, environment.redact, _wanted(parts), launcher=not parts)
    try:
        feed.look()
        _chosen(feed.run, parts)
        log_view.show(feed, follow=follow, errors=errors, as_json=as_json, names=len(parts) < 2)  # noqa: PLR2004 - no task
    except KeyboardInterrupt:
        sys.exit(130)


def _print(environment: settings.Settings, run: Run, parts: Sequence[str], attempts: Sequence[Attempt]) -> None:
    from otel_metaflow.core.redaction import Redaction
    from otel_metaflow.model import story
    from otel_metaflow.viewer import report

    values = report.of_run(run, Redaction(environment.redact), environment.trace_url)
    if parts:
        names = {story.name(attempt.key) for attempt in attempts}
        values["steps"] = [step for step in values["steps"] if step["name"] == parts[0]]
        values["attempts"] = [attempt for attempt in values["attempts"] if attempt["name"] in names]
    print_json(values)


def _write_page(environment: settings.Settings, folder: Path, name: str, html: str | None, *, opens: bool) -> None:
    from otel_metaflow.viewer import formatting, page

    with formatting.busy(f"drawing {name}"):
        text = page.html(environment, folder)
    if html == "-":
        with contextlib.suppress(BrokenPipeError):
            click.echo(text.encode("utf-8", "replace"))  # as its <meta charset> has it
        return
    path = Path(html) if html else Path(tempfile.mkdtemp(prefix="otel-metaflow-")) / f"{name}.html"
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        fail(f"cannot write {path} ({error.strerror}); choose another file for --html")
    echo(f"wrote {path}", err=True)
    if opens:
        click.launch(path.resolve().as_uri())
