"""`otel-metaflow doctor`: find out why no telemetry arrives."""

from __future__ import annotations

import sys

import click

from otel_metaflow.cli.arguments import as_json as json_option
from otel_metaflow.cli.arguments import print_json
from otel_metaflow.core import settings
from otel_metaflow.viewer.terminal import echo


@click.command()
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds to wait at each stage."
)
@click.option(
    "--health", metavar="URL", help="The collector's health check.  [default: port 13133 of the endpoint's host]"
)
@click.option("--metrics", metavar="URL", help="The collector's own metrics.  [default: port 8888 of that host]")
@json_option
@click.pass_obj
def doctor(
    environment: settings.Settings, timeout: float, health: str | None, metrics: str | None, *, as_json: bool
) -> None:
    """Send test telemetry and report how far it gets.

    Sends one span, one log record and one metric, marked as a test. Exits with 1 if something failed.
    """
    from otel_metaflow.diagnose.doctor import examine
    from otel_metaflow.diagnose.reach import State

    colours = {State.OK: "green", State.FAILED: "red", State.WARNING: "yellow", State.SKIPPED: "bright_black"}
    found = []
    for finding in examine(environment, timeout, health, metrics):
        found.append(finding)
        if not as_json:
            state = click.style(f"{finding.state.value:4}", fg=colours[finding.state])
            echo(f"{state}  {finding.hop:12}  {finding.message}")
            if finding.fix:
                echo(f"{'':6}{'':14}fix: {finding.fix}")
    is_well = all(finding.state is not State.FAILED for finding in found)
    if as_json:
        hops = [{**finding._asdict(), "state": finding.state.name.lower()} for finding in found]
        print_json({"ok": is_well, "hops": hops})
    sys.exit(0 if is_well else 1)
