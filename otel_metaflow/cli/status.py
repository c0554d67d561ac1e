"""`otel-metaflow status`: which runs are not fully exported, and why."""

from __future__ import annotations

from typing import Any

import click

from otel_metaflow.cli.arguments import EXPORTING, NOT_EXPORTED, print_foreign, print_json, print_problems, reasons_of
from otel_metaflow.cli.arguments import as_json as json_option
from otel_metaflow.core import settings
from otel_metaflow.journal import layout
from otel_metaflow.journal import lock as locks
from otel_metaflow.viewer.terminal import echo


@click.command()
@json_option
def status(*, as_json: bool) -> None:
    """List the runs whose telemetry is not fully exported, and why.

    Includes runs that had no endpoint; only `otel-metaflow ship` exports those.
    """
    from otel_metaflow.journal.delivery_status import DeliveryStatus
    from otel_metaflow.shipper import backlog

    environment = settings.read()
    print_problems(environment)
    runs: list[dict[str, Any]] = []
    print_foreign(environment)
    for folder in [*backlog.without_endpoint(environment.home), *backlog.unfinished(environment.home)]:
        errors = DeliveryStatus.read(folder).trouble
        reason = reasons_of(errors)
        if not backlog.has_endpoint(folder):
            reason = "no endpoint was set when it ran"
        key = layout.run_key(environment.home, folder)
        state = EXPORTING if locks.is_shipping(folder) else NOT_EXPORTED
        runs.append({"flow": key.flow, "run": key.run, "state": state, "errors": errors, "reason": reason})
        if not as_json:
            echo(f"{key}  {state}" + (f"  ({reason})" if reason else ""))
    path = environment.home / layout.DROPPED_LOG
    dropped = path.read_text("utf-8", "replace") if path.exists() else ""
    if as_json:
        print_json({"runs": runs, "dropped": dropped.splitlines()})
        return
    if not runs:
        echo("all runs are exported")
    echo(dropped, nl=False)
