"""`otel-metaflow compare`: two runs side by side."""

from __future__ import annotations

import click

from otel_metaflow.cli.arguments import as_json as json_option
from otel_metaflow.cli.arguments import folder_of, print_json
from otel_metaflow.core import settings


@click.command()
@click.argument("before", metavar="FLOW/RUN")
@click.argument("after", metavar="FLOW/RUN")
@json_option
def compare(before: str, after: str, *, as_json: bool) -> None:
    """Say which steps became slower or hungrier from one run to the other."""
    from otel_metaflow.model.run import load
    from otel_metaflow.viewer import comparison

    environment = settings.read()
    runs = [load(environment.home, folder_of(environment, name)) for name in (before, after)]
    if as_json:
        print_json(comparison.as_values(*runs))
    else:
        comparison.show(*runs)
