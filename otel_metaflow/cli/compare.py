"""`otel-metaflow compare`: two runs side by side."""

from __future__ import annotations

import click

from otel_metaflow.cli import runs
from otel_metaflow.cli.arguments import as_json as json_option
from otel_metaflow.cli.arguments import print_json
from otel_metaflow.core import settings
from otel_metaflow.journal import layout


@click.command()
@click.argument("before", metavar="FLOW/RUN", shell_complete=runs.completion())
@click.argument("after", metavar="FLOW/RUN", shell_complete=runs.completion())
@json_option
def compare(before: str, after: str, *, as_json: bool) -> None:
    """Compare two runs: which steps became slower or use more.

    RUN is an id, the beginning of one, or latest.
    """
    from otel_metaflow.model.run import load
    from otel_metaflow.viewer import comparison

    environment = settings.read()
    keys = [runs.find(environment, name) for name in (before, after)]
    pair = [load(environment.home, layout.run_folder(environment.home, key)) for key in keys]
    if as_json:
        print_json(comparison.as_values(*pair))
    else:
        comparison.show(*pair)
