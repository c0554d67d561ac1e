"""`otel-metaflow watch`: exports for ever what nobody recorded, from what Metaflow stores of it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from otel_metaflow.cli import stored_runs
from otel_metaflow.cli.arguments import check_endpoint, fail, print_problems
from otel_metaflow.core import settings
from otel_metaflow.viewer.terminal import echo

if TYPE_CHECKING:
    from otel_metaflow.watch.watcher import Watcher

# How long after SIGTERM or Ctrl-C it may finish what it is sending, in seconds.
_GRACE = 1.5
_HIGHEST_PORT = 65_535


class _Address(click.ParamType):  # type: ignore[type-arg]  # a generic from click 8.4 on
    """HOST:PORT."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        host, colon, port = str(value).rpartition(":")
        if not colon or not port.isdecimal() or int(port) > _HIGHEST_PORT:
            self.fail(f"{value!r} is not an address; type one such as 0.0.0.0:13134", param, ctx)
        return host.strip("[]"), int(port)


@click.command()
@click.argument("flows", metavar="[FLOW | PATTERN]...", nargs=-1)
@click.option(
    "--every",
    type=stored_runs.Duration(),
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="How often to look; at what is old, less often.",
)
@click.option(
    "--since",
    type=stored_runs.Duration(),
    default="1d",
    show_default=True,
    metavar="DURATION",
    help="Runs that began within this time before they are found.",
)
@stored_runs.datastore_only
@stored_runs.dead_after
@stored_runs.cloudwatch
@click.option(
    "--requests-per-minute",
    type=click.IntRange(min=1),
    default=600,
    show_default=True,
    metavar="NUMBER",
    help="The most requests a minute to Metaflow's metadata.",
)
@click.option("--health", type=_Address(), metavar="HOST:PORT", help="Where to answer /healthz and /metrics.")
@click.pass_obj
def watch(
    environment: settings.Settings,
    flows: tuple[str, ...],
    every: float,
    since: float,
    dead_after: float,
    requests_per_minute: int,
    health: tuple[str, int] | None,
    *,
    datastore_only: bool,
    cloudwatch: bool,
) -> None:
    """Export runs that nobody recorded, for ever.

    It follows FLOW, flows that match PATTERN (* stands for any text), or all flows, and exports each attempt when it is
    over, and what died without a word. What was exported is noted in OTEL_METAFLOW_HOME, so that it may be stopped and
    started again.
    """
    from otel_metaflow.backfill import sources
    from otel_metaflow.watch.health import serving
    from otel_metaflow.watch.metrics import Metrics
    from otel_metaflow.watch.pace import Pace
    from otel_metaflow.watch.watcher import AlreadyWatchedError, Watcher

    print_problems(environment)
    check_endpoint(environment)
    stop, metrics = threading.Event(), Metrics()
    with stored_runs.readable(), contextlib.ExitStack() as stack:
        try:
            watcher = Watcher(
                environment,
                flows or ("*",),
                partial(sources.catalogue, echo, datastore_only=datastore_only),
                since=since,
                dead_after=dead_after,
                cloudwatch=cloudwatch,
                pace=Pace(every, requests_per_minute),
                metrics=metrics,
                stop=stop,
                report=echo,
            )
        except AlreadyWatchedError:
            fail(f"another process watches with {environment.home}; end it, or choose another OTEL_METAFLOW_HOME")
        if health is not None:
            try:
                port = stack.enter_context(serving(metrics, *health))
            except OSError as error:
                fail(f"cannot listen on --health {health[0]}:{health[1]} ({error.strerror}); choose another port")
            echo(f"http://{health[0]}:{port}/healthz and /metrics")
        _end_at_signals(watcher, stop)
        echo(f"watching {', '.join(flows) or 'all flows'} of {watcher.place}, exporting to {environment.targets}")
        watcher.watch()


def _end_at_signals(watcher: Watcher, stop: threading.Event) -> None:
    """End at SIGTERM and Ctrl-C: at once, or while something is being sent, when that is acknowledged."""

    def end(*_: object) -> None:
        if stop.is_set():
            return
        stop.set()
        timer = threading.Timer(_GRACE, os._exit, (0,))
        timer.daemon = True
        timer.start()
        if not watcher.is_exporting:
            sys.exit(0)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, end)
