"""`otel-metaflow ship`: delivers now what is not delivered yet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict

import click

from otel_metaflow.cli.arguments import as_json as json_option
from otel_metaflow.cli.arguments import fail, folder_of, print_json, say_foreign, say_problems
from otel_metaflow.core import settings
from otel_metaflow.journal import layout, setbacks
from otel_metaflow.journal import lock as locks
from otel_metaflow.viewer.terminal import echo


@click.command()
@click.argument("run", metavar="[FLOW/RUN]", required=False)
@click.option(
    "--all", "everything", is_flag=True, help="Every run that is not wholly delivered, also those that had no endpoint."
)
@click.option("--wait", default=30.0, show_default=True, help="Seconds to try while the endpoint fails.")
@json_option
def ship(run: str | None, wait: float, *, everything: bool, as_json: bool) -> None:
    """Deliver a run's telemetry now, or that of all runs that are waiting."""
    from otel_metaflow.shipper import backlog

    environment = settings.read()
    say_problems(environment)
    if not environment.is_shipping:
        fail("no endpoint is configured; set OTEL_EXPORTER_OTLP_ENDPOINT, for example to http://localhost:4318")
    if bool(run) == everything:
        fail("say which run to ship, as in `otel-metaflow ship HelloFlow/12`, or --all")
    home = environment.home
    folders = [*backlog.kept(home), *backlog.unfinished(home)] if run is None else [folder_of(environment, run)]
    shipped = []
    for folder in folders:
        is_set_aside = run is None and setbacks.reason(folder) is not None  # what killed its shippers would kill us
        shipped.append((_set_aside if is_set_aside else _ship)(environment, folder, wait, quiet=as_json))
    if everything:
        say_foreign(environment)
    if as_json:
        print_json(shipped)
    sys.exit(0 if all(one["state"] != "kept" for one in shipped) else 1)


def _set_aside(environment: settings.Settings, folder: Path, _wait: float, *, quiet: bool) -> Dict[str, Any]:
    """Say why a run is passed over, unless `quiet`."""
    key, reason = layout.run_key(environment.home, folder), setbacks.reason(folder)
    if not quiet:
        echo(f"{key}: {reason}")
    return {"flow": key.flow, "run": key.run, "state": "kept", "trouble": {"run": reason}}


def _ship(environment: settings.Settings, folder: Path, wait: float, *, quiet: bool) -> Dict[str, Any]:
    """Deliver a run and say what became of it, unless `quiet`."""
    from otel_metaflow.journal.checkpoint import Checkpoint
    from otel_metaflow.shipper import backlog

    key = layout.run_key(environment.home, folder)
    told: Dict[str, Any] = {"flow": key.flow, "run": key.run, "state": "being delivered"}
    lock = locks.try_lock(folder)
    if lock is None:
        said = "being delivered by another process"
    else:
        told["state"] = "delivered" if backlog.ship_guarded(environment, folder, linger=wait) else "kept"
        locks.release(lock)
        checkpoint = Checkpoint.read(folder)
        told.update({"delivered": checkpoint.delivered, "trouble": checkpoint.trouble})
        counts = ", ".join(f"{count} {signal}" for signal, count in sorted(checkpoint.delivered.items()))
        reasons = "; ".join(f"{signal} {reason}" for signal, reason in sorted(checkpoint.trouble.items()))
        said = f"{told['state']} ({counts or 'nothing sent'}{'; ' if reasons else ''}{reasons})"
    if not quiet:
        echo(f"{key}: {said}")
    return told
