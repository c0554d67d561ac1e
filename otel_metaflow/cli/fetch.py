"""`otel-metaflow fetch`: brings a run from Metaflow's datastore, to look at it."""

from __future__ import annotations

import click

from otel_metaflow.cli import runs, stored_runs
from otel_metaflow.cli.arguments import as_json as json_option
from otel_metaflow.cli.arguments import print_json, print_problems
from otel_metaflow.core import settings
from otel_metaflow.viewer.terminal import echo


@click.command()
@click.argument("run", metavar="FLOW/RUN", shell_complete=runs.completion())
@stored_runs.datastore_only
@stored_runs.dead_after
@stored_runs.cloudwatch
@json_option
@click.pass_obj
def fetch(
    environment: settings.Settings,
    run: str,
    dead_after: float,
    *,
    datastore_only: bool,
    cloudwatch: bool,
    as_json: bool,
) -> None:
    """Fetch a run from what Metaflow stored.

    From then on view, compare and export show it. Attempts that recorded themselves in their containers come as they
    were recorded; of others, what Metaflow itself stored of them. Nothing is exported. RUN is an id, the beginning of
    one, or latest, among the runs that Metaflow knows.
    """
    from otel_metaflow.backfill import journals, sources
    from otel_metaflow.viewer import formatting

    print_problems(environment)
    with stored_runs.readable(), formatting.busy(f"fetching {run}"):
        catalogue = sources.catalogue(stored_runs.report, datastore_only=datastore_only)
        found = stored_runs.resolved(catalogue, run)
        made = journals.make(
            catalogue,
            environment,
            found.flow,
            found.run,
            dead_after=dead_after,
            recorded=True,
            cloudwatch=cloudwatch,
        )
    if as_json:
        print_json(stored_runs.values(made))
        return
    for note in made.notes:
        echo(f"otel: {note}", err=True)
    state = {
        journals.RUNNING: "is still going, as far as Metaflow knows; fetched what is over",
        journals.RECORDED: "was recorded here by its launcher; fetched what its containers stored",
        journals.COMPLETE: "fetched",
    }[made.state]
    if made.state == journals.COMPLETE and not made.attempts:
        echo(f"{made.key}: is here already{', and --cloudwatch adds nothing to it' if cloudwatch else ''}")
    else:
        echo(f"{made.key}: {state} ({stored_runs.described(made)})")
    echo(f"look at it: otel-metaflow view {made.key}")
