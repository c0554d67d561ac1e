"""`otel-metaflow`: look at runs, compute their ids, see and send what was not delivered."""

from __future__ import annotations

import os

import click

from otel_metaflow.cli import cloudwatch, compare, doctor, export, ids, ship, status, view
from otel_metaflow.core import sdk_variables
from otel_metaflow.core.version import __version__
from otel_metaflow.viewer.terminal import degrade


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Telemetry of Metaflow runs: look at it, find its ids, see where it went."""
    sdk_variables.put_away(os.environ)
    degrade()


for command in (
    view.view, compare.compare, export.export, ids.id_, status.status, ship.ship, doctor.doctor, cloudwatch.cloudwatch,
):  # fmt: skip
    main.add_command(command)
