"""`otel-metaflow status`: which runs are not wholly delivered, and why."""

from __future__ import annotations

from typing import Any

import click

from otel_metaflow.cli.arguments import as_json as json_option
from otel_metaflow.cli.arguments import print_foreign, print_json, print_problems, reasons_of
from otel_metaflow.core import settings
from otel_metaflow.journal import layout
from otel_metaflow.journal import lock as locks
from otel_metaflow.viewer.terminal import echo


@click.command()
@json_option
def status(*, as_json: bool) -> None:
    """List the runs whose telemetry is not fully delivered, and why.

    Including runs that had no endpoint: only `otel-metaflow ship` sends those.
    """
    from otel_metaflow.journal.checkpoint import Checkpoint
    from otel_metaflow.shipper import backlog

    environment = settings.read()
    print_problems(environment)
    waiting: list[dict[str, Any]] = []
    print_foreign(environment)
    for folder in [*backlog.kept(environment.home), *backlog.unfinished(environment.home)]:
        trouble = Checkpoint.read(folder).trouble
        reason = reasons_of(trouble)
        if not backlog.is_meant(folder):
            reason = "no endpoint was set when it ran"
        key = layout.run_key(environment.home, folder)
        state = "being delivered" if locks.is_shipping(folder) else "kept"
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
