"""`otel-metaflow`: view runs, compute their ids, check and complete their export."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import click

from otel_metaflow.cli import backfill, cloudwatch, compare, doctor, export, fetch, ids, ship, status, view, watch
from otel_metaflow.core import sdk_variables, settings
from otel_metaflow.core.version import __version__
from otel_metaflow.viewer.terminal import degrade

_EPILOG = """\
\b
Shell completion of commands, flows, runs and steps: add this line to
  ~/.bashrc     eval "$(_OTEL_METAFLOW_COMPLETE=bash_source otel-metaflow)"
  ~/.zshrc      eval "$(_OTEL_METAFLOW_COMPLETE=zsh_source otel-metaflow)"
  config.fish   _OTEL_METAFLOW_COMPLETE=fish_source otel-metaflow | source
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__)
@click.pass_context
def main(context: click.Context) -> None:
    """View the telemetry of Metaflow runs, print its ids, check and complete its export."""
    context.obj = settings.read()  # before OTEL_SDK_DISABLED is removed
    sdk_variables.remove_unused(os.environ)
    # Logging and warnings of libraries are for their developers; each command reports what matters to a user.
    logging.getLogger().addHandler(logging.NullHandler())
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    degrade()


for command in (
    view.view, compare.compare, export.export, ids.id_, status.status, ship.ship, doctor.doctor, cloudwatch.cloudwatch,
    fetch.fetch, backfill.backfill, watch.watch,
):  # fmt: skip
    main.add_command(command)
