"""`otel-metaflow view`: which of the views is meant, and of what."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Callable, List, Sequence

import click

from otel_metaflow.cli.arguments import as_json as json_option
from otel_metaflow.cli.arguments import fail, folder_of, print_json
from otel_metaflow.core import settings
from otel_metaflow.viewer.terminal import echo

if TYPE_CHECKING:
    from otel_metaflow.journal.layout import AttemptKey
    from otel_metaflow.model.run import Attempt, Run

_FORM = "FLOW/RUN/STEP/TASK/ATTEMPT or the beginning of it, as in HelloFlow/12"
_MOST_PARTS = 5
_PARTS = ("step", "task", "attempt")
_FEW = 10


@click.command()
@click.argument("pathspec", metavar="[FLOW[/RUN[/STEP[/TASK[/ATTEMPT]]]]]", default="")
@click.option("--logs", is_flag=True, help="Its log records instead, in the order of time.")
@click.option("--errors", is_flag=True, help="Only those that are errors.")
@click.option("--follow", is_flag=True, help="Those that come, too, until the run ends.")
@click.option("--all", "whole", is_flag=True, help="A row for every attempt, however many there are.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many runs are listed.")
@click.option("--html", metavar="FILE", help="Write the run as a page that holds all it needs; - for standard output.")
@click.option("--open", "opens", is_flag=True, help="Show that page in the browser.")
@json_option
def view(
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
    """Look at a run, a step or a task, from their journals; at the recent runs, if none is named."""
    environment = settings.read()
    parts = pathspec.split("/") if pathspec else []
    if len(parts) > _MOST_PARTS or not all(parts):
        fail(f"{pathspec!r} is not of the form {_FORM}")
    wants_run = [name for name, given in (("--logs", logs), ("--errors", errors), ("--follow", follow)) if given]
    wants_run += [name for name, given in (("--html", html is not None), ("--open", opens)) if given]
    if len(parts) < 2:  # noqa: PLR2004 - a flow, or nothing
        if wants_run:
            fail(f"{wants_run[0]} is for a run: say which, as in `otel-metaflow view HelloFlow/12 {wants_run[0]}`")
        _list(environment, pathspec, limit, as_json=as_json)
        return
    folder = folder_of(environment, "/".join(parts[:2]))
    if html is not None or opens:
        _write_page(environment, folder, "-".join(parts[:2]), html, opens=opens)
        return
    from otel_metaflow.model.run import load

    run = load(environment.home, folder)
    attempts = _chosen(run, parts[2:])
    if logs or errors or follow:
        wanted = _wanted(parts[2:])
        _show_log(environment, folder, wanted, len(parts), follow=follow, errors=errors, as_json=as_json)
    elif as_json:
        _print(environment, run, parts[2:], attempts)
    elif len(parts) > 3:  # noqa: PLR2004 - flow, run and step
        from otel_metaflow.core.redaction import Redaction
        from otel_metaflow.viewer import task_view

        task_view.show(folder, run, attempts, Redaction(environment.redact))
    else:
        from otel_metaflow.viewer import run_view

        run_view.show(folder, run, step="".join(parts[2:]), trace_url=environment.trace_url, whole=whole)


def _list(environment: settings.Settings, flow: str, limit: int, *, as_json: bool) -> None:
    from otel_metaflow.viewer import report, run_list

    runs = run_list.recent(environment.home, environment.namespace, flow, limit)
    if flow and not runs:
        known = sorted({run.key.flow for run in run_list.recent(environment.home, environment.namespace, "", limit)})
        advice = f"there are some of {', '.join(known)}" if known else _NONE
        fail(f"no run of {flow} in {environment.home}; {advice}")
    if as_json:
        print_json([report.summary(run) for run in runs])
    elif runs:
        run_list.show(runs)
    else:
        echo(f"no run in {environment.home}; {_NONE}")


_NONE = "run a flow with `python flow.py run --with otel`"


def _chosen(run: Run, parts: Sequence[str]) -> List[Attempt]:
    """The attempts that STEP/TASK/ATTEMPT, or the beginning of it, means; ends the program where there are none."""
    attempts = list(run.in_order)
    for index, part in enumerate(parts):
        known = list(dict.fromkeys(str(attempt.key[index]) for attempt in attempts))
        if index == 0:
            known += [step for step in run.steps if step not in known]
        if part not in known:
            above = "/".join([str(run.key), *parts[:index]])
            more = f" and {len(known) - _FEW} more" if len(known) > _FEW else ""
            fail(f"{above} has no {_PARTS[index]} {part!r}; it has {', '.join(known[:_FEW]) or 'none'}{more}")
        attempts = [attempt for attempt in attempts if str(attempt.key[index]) == part]
    return attempts


def _wanted(parts: Sequence[str]) -> Callable[[AttemptKey], bool]:
    return lambda key: all(str(own) == part for own, part in zip(key, parts, strict=False))


def _show_log(
    environment: settings.Settings,
    folder: Path,
    wanted: Callable[[AttemptKey], bool],
    depth: int,
    *,
    follow: bool,
    errors: bool,
    as_json: bool,
) -> None:
    from otel_metaflow.viewer import log_view

    feed = log_view.Feed(environment.home, folder, environment.redact, wanted, launcher=depth == 2)  # noqa: PLR2004 - a run
    try:
        log_view.show(feed, follow=follow, errors=errors, as_json=as_json, names=depth < 4)  # noqa: PLR2004 - more than a task
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
            click.echo(text.encode("utf-8", "replace"))  # as it says of itself, whatever the terminal's encoding
        return
    path = Path(html) if html else Path(tempfile.mkdtemp(prefix="otel-metaflow-")) / f"{name}.html"
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        fail(f"cannot write {path} ({error.strerror}); name another file after --html")
    echo(f"wrote {path}", err=True)
    if opens:
        click.launch(path.resolve().as_uri())
