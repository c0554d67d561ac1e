"""`otel-metaflow`: look at runs, compute their ids, see and send what was not delivered."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import List, NoReturn, Tuple

import click

from otel_metaflow import __version__, ids, settings, spawn
from otel_metaflow.journal import layout

_PATHSPEC = "FLOW/RUN[/STEP/TASK[/ATTEMPT]]"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Telemetry of Metaflow runs: look at it, find its ids, see where it went."""


@main.command()
@click.argument("run", metavar="FLOW/RUN")
@click.option("--html", metavar="FILE", help="Write it as a page that holds all it needs; - for standard output.")
@click.option("--open", "opens", is_flag=True, help="Show that page in the browser.")
def view(run: str, html: str | None, *, opens: bool) -> None:
    """Draw a run as a waterfall, from its journals."""
    environment = settings.read()
    folder = _folder(environment, run)
    if html is None and not opens:
        from otel_metaflow.viewer import terminal

        terminal.show(environment.home, folder, environment.trace_url)
        return
    from otel_metaflow.viewer import page

    text = page.html(environment, folder)
    if html == "-":
        click.echo(text)
        return
    path = Path(html) if html else Path(tempfile.mkdtemp(prefix="otel-metaflow-")) / f"{run.replace('/', '-')}.html"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        _fail(f"cannot write {path} ({error.strerror}); name another file after --html")
    click.echo(f"wrote {path}", err=True)
    if opens:
        click.launch(path.resolve().as_uri())


@main.command(name="id")
@click.argument("pathspec", metavar=_PATHSPEC)
def id_(pathspec: str) -> None:
    """Print the trace and span id that PATHSPEC has or will have; an attempt counts from 0."""
    namespace = settings.read().namespace
    found = re.fullmatch(r"([^/]+)/([^/]+)(?:/([^/]+)/([^/]+)(?:/(\d+))?)?", pathspec)
    if found is None:
        _fail(f"{pathspec!r} is not of the form {_PATHSPEC}, as in HelloFlow/12 or HelloFlow/12/train/7")
    flow, run, step, task, attempt = found.groups()
    click.echo(f"trace_id {ids.trace_id(flow, run, namespace)}")
    if step is None:
        click.echo(f"span_id  {ids.run_span_id(flow, run, namespace)}")
    else:
        click.echo(f"span_id  {ids.attempt_span_id(flow, run, step, task, int(attempt or 0), namespace)}")


@main.command()
def status() -> None:
    """List the runs whose telemetry was not all delivered, and why."""
    from otel_metaflow.assembly.checkpoint import Checkpoint
    from otel_metaflow.shipper import prune
    from otel_metaflow.shipper.sweep import unfinished

    environment = settings.read()
    _say_problems(environment)
    listed = False
    for folder in unfinished(environment.home):
        listed = True
        checkpoint = Checkpoint.read(folder)
        state = "being delivered" if spawn.is_shipping(folder) else "kept"
        reasons = "; ".join(f"{signal} {reason}" for signal, reason in sorted(checkpoint.trouble.items()))
        key = layout.run_key(environment.home, folder)
        click.echo(f"{key}  {state}" + (f"  ({reasons})" if reasons else ""))
    if not listed:
        click.echo("nothing is waiting to be delivered")
    given_up = environment.home / prune.GIVEN_UP
    if given_up.exists():
        click.echo(given_up.read_text(), nl=False)


@main.command()
@click.argument("run", metavar="[FLOW/RUN]", required=False)
@click.option("--all", "everything", is_flag=True, help="Every run that is not wholly delivered.")
@click.option("--wait", default=30.0, show_default=True, help="Seconds to try while the endpoint fails.")
def ship(run: str | None, everything: bool, wait: float) -> None:
    """Deliver a run's telemetry now, or that of all runs that are waiting."""
    from otel_metaflow.shipper import sweep

    environment = settings.read()
    _say_problems(environment)
    if not environment.is_shipping:
        _fail("no endpoint is configured; set OTEL_EXPORTER_OTLP_ENDPOINT, for example to http://localhost:4318")
    if bool(run) == everything:
        _fail("say which run to ship, as in `otel-metaflow ship HelloFlow/12`, or --all")
    folders = list(sweep.unfinished(environment.home)) if run is None else [_folder(environment, run)]
    failed = [folder for folder in folders if not _ship(environment, folder, wait)]
    sys.exit(1 if failed else 0)


@main.command()
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds for each leg."
)
@click.option("--health", metavar="URL", help="The collector's health, if not on the endpoint's host at port 13133.")
@click.option("--metrics", metavar="URL", help="The collector's own metrics, if not there at port 8888.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def doctor(timeout: float, health: str | None, metrics: str | None, *, as_json: bool) -> None:
    """Send a marked span, log record and metric, and say leg by leg how far they come.

    Exits with 0 if all is well, with 1 if something failed.
    """
    from otel_metaflow.shipper.doctor import examine
    from otel_metaflow.shipper.reach import State

    colours = {State.OK: "green", State.FAILED: "red", State.WARNING: "yellow", State.SKIPPED: "bright_black"}
    found = []
    for finding in examine(settings.read(), timeout, health, metrics):
        found.append(finding)
        if not as_json:
            state = click.style(f"{finding.state.value:4}", fg=colours[finding.state])
            click.echo(f"{state}  {finding.leg:12}  {finding.says}")
            if finding.do:
                click.echo(f"{'':6}{'':14}do: {finding.do}")
    is_well = all(finding.state is not State.FAILED for finding in found)
    if as_json:
        legs = [{**finding._asdict(), "state": finding.state.name.lower()} for finding in found]
        click.echo(json.dumps({"ok": is_well, "legs": legs}, indent=2))
    sys.exit(0 if is_well else 1)


@main.command()
@click.argument("pathspec", metavar="FLOW/RUN[/STEP[/TASK]]")
def cloudwatch(pathspec: str) -> None:
    """Print the CloudWatch log streams of tasks on AWS Batch: task, log group, stream."""
    if re.fullmatch(r"[^/]+(/[^/]+){1,3}", pathspec) is None:
        _fail(f"{pathspec!r} is not of the form FLOW/RUN, FLOW/RUN/STEP or FLOW/RUN/STEP/TASK, as in HelloFlow/12")
    from metaflow.exception import MetaflowException

    from otel_metaflow.cloudwatch import streams

    try:
        found = list(streams(pathspec))
    except MetaflowException as error:
        _fail(str(error))
    for stream in found:
        click.echo("\t".join(stream))
    if not found:
        _fail(f"no task of {pathspec} ran on AWS Batch: Metaflow noted no log stream")


def _ship(environment: settings.Settings, folder: Path, wait: float) -> bool:
    from otel_metaflow.assembly.checkpoint import Checkpoint
    from otel_metaflow.shipper import sweep

    key = layout.run_key(environment.home, folder)
    lock = spawn.try_lock(folder)
    if lock is None:
        click.echo(f"{key}: being delivered by another process")
        return True
    delivered = sweep.ship(environment, folder, linger=wait)
    checkpoint = Checkpoint.read(folder)
    counts = ", ".join(f"{count} {signal}" for signal, count in sorted(checkpoint.delivered.items()))
    reasons = "; ".join(f"{signal} {reason}" for signal, reason in sorted(checkpoint.trouble.items()))
    click.echo(
        f"{key}: {'delivered' if delivered else 'kept'} ({counts or 'nothing sent'}{'; ' if reasons else ''}{reasons})"
    )
    return delivered


def _say_problems(environment: settings.Settings) -> None:
    for problem in environment.problems:
        click.echo(f"otel: {problem}", err=True)


def _folder(environment: settings.Settings, run: str) -> Path:
    """The folder of the run called FLOW/RUN; ends the program where there is none."""
    flow, slash, run_id = run.partition("/")
    if not slash or not flow or not run_id or "/" in run_id:
        _fail(f"{run!r} is not of the form FLOW/RUN, as in HelloFlow/12")
    folder = layout.run_folder(environment.home, layout.RunKey(flow, run_id, environment.namespace))
    if not folder.is_dir():
        known = _recent(environment)
        advice = f"the latest here: {', '.join(known)}" if known else "there are none here yet"
        _fail(f"no journal of {run} in {environment.home}; {advice}")
    return folder


def _recent(environment: settings.Settings, most: int = 5) -> List[str]:
    found: List[Tuple[float, str]] = []
    for folder in layout.run_folders(environment.home):
        key = layout.run_key(environment.home, folder)
        if key.namespace == environment.namespace:
            found.append((folder.stat().st_mtime, str(key)))
    return [name for _, name in sorted(found, reverse=True)[:most]]


def _fail(message: str) -> NoReturn:
    click.echo(f"otel-metaflow: {message}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
