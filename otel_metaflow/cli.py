"""`otel-metaflow`: look at runs, compute their ids, see and send what was not delivered."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, Dict, List

import click

from otel_metaflow import __version__, ids, sdk_variables, setbacks, settings, spawn
from otel_metaflow.arguments import as_json as json_option
from otel_metaflow.arguments import degrade, echo, fail, folder_of, print_json
from otel_metaflow.journal import layout
from otel_metaflow.viewer import commands

_PATHSPEC = "FLOW/RUN[/STEP/TASK[/ATTEMPT]]"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Telemetry of Metaflow runs: look at it, find its ids, see where it went."""
    sdk_variables.put_away(os.environ)
    degrade()


main.add_command(commands.view)
main.add_command(commands.compare)
main.add_command(commands.export)


@main.command(name="id")
@click.argument("pathspec", metavar=_PATHSPEC)
@json_option
def id_(pathspec: str, *, as_json: bool) -> None:
    """Print the trace and span id that PATHSPEC has or will have; an attempt counts from 0."""
    namespace = settings.read().namespace
    found = re.fullmatch(r"([^/]+)/([^/]+)(?:/([^/]+)/([^/]+)(?:/(\d+))?)?", pathspec)
    if found is None:
        fail(f"{pathspec!r} is not of the form {_PATHSPEC}, as in HelloFlow/12 or HelloFlow/12/train/7")
    flow, run, step, task, attempt = found.groups()
    trace_id, span_id = ids.trace_id(flow, run, namespace), ids.run_span_id(flow, run, namespace)
    if step is not None:
        span_id = ids.attempt_span_id(flow, run, step, task, int(attempt or 0), namespace)
    if as_json:
        print_json({"traceId": trace_id, "spanId": span_id})
        return
    echo(f"trace_id {trace_id}")
    echo(f"span_id  {span_id}")


@main.command()
@json_option
def status(*, as_json: bool) -> None:
    """List the runs whose telemetry was not all delivered, and why.

    Those without an endpoint too, which `ship` sends when there is one, and nothing sends unasked.
    """
    from otel_metaflow.assembly.checkpoint import Checkpoint
    from otel_metaflow.shipper import sweep

    environment = settings.read()
    _say_problems(environment)
    waiting: List[Dict[str, Any]] = []
    _say_foreign(environment)
    for folder in [*sweep.kept(environment.home), *sweep.unfinished(environment.home)]:
        trouble = Checkpoint.read(folder).trouble
        reason = "; ".join(f"{signal} {why}" for signal, why in sorted(trouble.items()))
        if not sweep.is_meant(folder):
            reason = "no endpoint was set when it ran"
        key = layout.run_key(environment.home, folder)
        state = "being delivered" if spawn.is_shipping(folder) else "kept"
        waiting.append({"flow": key.flow, "run": key.run, "state": state, "trouble": trouble, "reason": reason})
        if not as_json:
            echo(f"{key}  {state}" + (f"  ({reason})" if reason else ""))
    path = environment.home / layout.GIVEN_UP
    given_up = path.read_text("utf-8", "replace") if path.exists() else ""
    if as_json:
        print_json({"waiting": waiting, "givenUp": given_up.splitlines()})
        return
    if not waiting:
        echo("nothing is waiting to be delivered")
    echo(given_up, nl=False)


@main.command()
@click.argument("run", metavar="[FLOW/RUN]", required=False)
@click.option(
    "--all", "everything", is_flag=True, help="Every run that is not wholly delivered, also those that had no endpoint."
)
@click.option("--wait", default=30.0, show_default=True, help="Seconds to try while the endpoint fails.")
@json_option
def ship(run: str | None, wait: float, *, everything: bool, as_json: bool) -> None:
    """Deliver a run's telemetry now, or that of all runs that are waiting."""
    from otel_metaflow.shipper import sweep

    environment = settings.read()
    _say_problems(environment)
    if not environment.is_shipping:
        fail("no endpoint is configured; set OTEL_EXPORTER_OTLP_ENDPOINT, for example to http://localhost:4318")
    if bool(run) == everything:
        fail("say which run to ship, as in `otel-metaflow ship HelloFlow/12`, or --all")
    home = environment.home
    folders = [*sweep.kept(home), *sweep.unfinished(home)] if run is None else [folder_of(environment, run)]
    shipped = []
    for folder in folders:
        is_set_aside = run is None and setbacks.reason(folder) is not None  # what killed its shippers would kill us
        shipped.append((_set_aside if is_set_aside else _ship)(environment, folder, wait, quiet=as_json))
    if everything:
        _say_foreign(environment)
    if as_json:
        print_json(shipped)
    sys.exit(0 if all(one["state"] != "kept" for one in shipped) else 1)


@main.command()
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds for each leg."
)
@click.option("--health", metavar="URL", help="The collector's health, if not on the endpoint's host at port 13133.")
@click.option("--metrics", metavar="URL", help="The collector's own metrics, if not there at port 8888.")
@json_option
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
            echo(f"{state}  {finding.leg:12}  {finding.says}")
            if finding.do:
                echo(f"{'':6}{'':14}do: {finding.do}")
    is_well = all(finding.state is not State.FAILED for finding in found)
    if as_json:
        legs = [{**finding._asdict(), "state": finding.state.name.lower()} for finding in found]
        print_json({"ok": is_well, "legs": legs})
    sys.exit(0 if is_well else 1)


@main.command()
@click.argument("pathspec", metavar="FLOW/RUN[/STEP[/TASK]]")
@json_option
def cloudwatch(pathspec: str, *, as_json: bool) -> None:
    """Print the CloudWatch log streams of tasks on AWS Batch: task, log group, stream."""
    if re.fullmatch(r"[^/]+(/[^/]+){1,3}", pathspec) is None:
        fail(f"{pathspec!r} is not of the form FLOW/RUN, FLOW/RUN/STEP or FLOW/RUN/STEP/TASK, as in HelloFlow/12")
    from metaflow.exception import MetaflowException

    from otel_metaflow.cloudwatch import streams

    try:
        found = list(streams(pathspec))
    except MetaflowException as error:
        fail(str(error))
    if not found:
        fail(f"no task of {pathspec} ran on AWS Batch: Metaflow noted no log stream")
    if as_json:
        print_json([dict(zip(("task", "group", "stream"), stream, strict=True)) for stream in found])
        return
    for stream in found:
        echo("\t".join(stream))


def _set_aside(environment: settings.Settings, folder: Path, _wait: float, *, quiet: bool) -> Dict[str, Any]:
    """Say why a run is passed over, unless `quiet`."""
    key, reason = layout.run_key(environment.home, folder), setbacks.reason(folder)
    if not quiet:
        echo(f"{key}: {reason}")
    return {"flow": key.flow, "run": key.run, "state": "kept", "trouble": {"run": reason}}


def _say_foreign(environment: settings.Settings) -> None:
    from otel_metaflow.shipper import sweep

    for folder in sweep.foreign(environment.home):
        key = layout.run_key(environment.home, folder)
        echo(f"{key}: passed over, {folder} belongs to another user; to have it back: sudo chown -R $USER", err=True)


def _ship(environment: settings.Settings, folder: Path, wait: float, *, quiet: bool) -> Dict[str, Any]:
    """Deliver a run and say what became of it, unless `quiet`."""
    from otel_metaflow.assembly.checkpoint import Checkpoint
    from otel_metaflow.shipper import sweep

    key = layout.run_key(environment.home, folder)
    told: Dict[str, Any] = {"flow": key.flow, "run": key.run, "state": "being delivered"}
    lock = spawn.try_lock(folder)
    if lock is None:
        said = "being delivered by another process"
    else:
        told["state"] = "delivered" if sweep.ship_guarded(environment, folder, linger=wait) else "kept"
        spawn.release(lock)
        checkpoint = Checkpoint.read(folder)
        told.update({"delivered": checkpoint.delivered, "trouble": checkpoint.trouble})
        counts = ", ".join(f"{count} {signal}" for signal, count in sorted(checkpoint.delivered.items()))
        reasons = "; ".join(f"{signal} {reason}" for signal, reason in sorted(checkpoint.trouble.items()))
        said = f"{told['state']} ({counts or 'nothing sent'}{'; ' if reasons else ''}{reasons})"
    if not quiet:
        echo(f"{key}: {said}")
    return told


def _say_problems(environment: settings.Settings) -> None:
    for problem in environment.problems:
        echo(f"otel: {problem}", err=True)


if __name__ == "__main__":
    main()
