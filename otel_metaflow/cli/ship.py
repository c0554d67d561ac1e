"""`otel-metaflow ship`: exports now what is not exported yet."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from otel_metaflow.cli import runs
from otel_metaflow.cli.arguments import (
    EXPORTED,
    EXPORTING,
    NOT_EXPORTED,
    check_endpoint,
    fail,
    print_foreign,
    print_json,
    print_problems,
    reasons_of,
)
from otel_metaflow.cli.arguments import as_json as json_option
from otel_metaflow.cli.arguments import wait as wait_option
from otel_metaflow.core import settings
from otel_metaflow.journal import layout, setbacks
from otel_metaflow.journal import lock as locks
from otel_metaflow.journal.run_record import is_closed
from otel_metaflow.viewer.terminal import echo

# How often a run's lock is tried while another process holds it, in seconds.
_POLL = 0.05


@click.command()
@click.argument("run", metavar="[FLOW/RUN]", required=False, shell_complete=runs.completion())
@click.option(
    "--all", "everything", is_flag=True, help="Every run not fully exported, including those that had no endpoint."
)
@wait_option
@json_option
@click.pass_obj
def ship(environment: settings.Settings, run: str | None, wait: float, *, everything: bool, as_json: bool) -> None:
    """Export the telemetry of one run, or of all, that is still due.

    RUN is an id, the beginning of one, or latest. Exits with 1 if something could not be exported.
    """
    from otel_metaflow.shipper import backlog

    print_problems(environment)
    check_endpoint(environment)
    if run is not None and everything:
        fail("--all cannot be combined with a run; drop one of them")
    home = environment.home
    if run is not None:
        folders = [layout.run_folder(home, runs.find(environment, run))]
    elif everything:
        folders = [*backlog.without_endpoint(home), *backlog.unfinished(home)]
    else:
        fail("no run given; type one, as in `otel-metaflow ship HelloFlow/latest`, or --all")
    shipped = []
    for folder in folders:
        is_quarantined = run is None and setbacks.reason(folder) is not None  # its shippers died, and so might we
        shipped.append((_skip if is_quarantined else deliver)(environment, folder, wait, quiet=as_json))
    if everything:
        print_foreign(environment)
    if as_json:
        print_json(shipped)
    sys.exit(0 if all(one["state"] != NOT_EXPORTED for one in shipped) else 1)


def _skip(environment: settings.Settings, folder: Path, _wait: float, *, quiet: bool) -> dict[str, Any]:
    """Report why a quarantined run is skipped, unless `quiet`."""
    key, reason = layout.run_key(environment.home, folder), setbacks.reason(folder)
    if not quiet:
        echo(f"{key}: {reason}")
    return {"flow": key.flow, "run": key.run, "state": NOT_EXPORTED, "errors": {"run": reason}}


def deliver(environment: settings.Settings, folder: Path, wait: float, *, quiet: bool, **how: Any) -> dict[str, Any]:
    """Export a run and report the result, unless `quiet`; `how` goes to `Delivery`."""
    from otel_metaflow.journal.delivery_status import DeliveryStatus
    from otel_metaflow.shipper import backlog

    key = layout.run_key(environment.home, folder)
    result: dict[str, Any] = {"flow": key.flow, "run": key.run, "state": EXPORTING}
    if backlog.awaits_more(folder):
        fail(f"{key} was still going when it was fetched; to export it once it has ended: otel-metaflow backfill {key}")
    lock = _take_over(folder, wait)
    if lock is None:
        text = f"{EXPORTING}, by another process"
    else:
        with _output_into(folder / layout.SHIPPER_LOG):
            is_delivered = backlog.ship_guarded(environment, folder, linger=wait, **how)
        locks.release(lock)
        status = DeliveryStatus.read(folder)
        is_left = bool(status.left) and not status.stalled
        result["state"] = EXPORTED if is_delivered else EXPORTING if is_left else NOT_EXPORTED
        result.update({"exported": status.delivered, "errors": status.trouble})
        counts = ", ".join(f"{count} {signal}" for signal, count in sorted(status.delivered.items()))
        reasons = reasons_of(status.trouble)
        if is_left:
            reasons = f"{status.left} in containers that run"
        elif not is_delivered and not reasons:
            reasons = f"see {folder / layout.SHIPPER_LOG}"
        text = f"{result['state']} ({'; '.join(filter(None, (counts or 'nothing sent', reasons)))})"
    if not quiet:
        echo(f"{key}: {text}")
    return result


def _take_over(folder: Path, wait: float) -> int | None:
    """The lock of a run's delivery, or None if its own shipper holds it because the run goes on, or for `wait` seconds.

    A shipper that cannot deliver retries for minutes after the run's end, with the settings that the run started with.
    The user has changed them since, so that shipper is ended, which is safe at any moment.
    """
    from otel_metaflow.journal.delivery_status import DeliveryStatus

    deadline = time.monotonic() + wait
    while True:
        lock = locks.try_lock(folder)
        if lock is not None or not is_closed(folder) or time.monotonic() > deadline:
            return lock
        holder = locks.holder(folder) if DeliveryStatus.read(folder).stalled else None
        if holder is not None:
            with contextlib.suppress(OSError):  # it has just ended, or belongs to another user
                os.kill(holder, signal.SIGTERM)
        time.sleep(_POLL)


@contextlib.contextmanager
def _output_into(log: Path) -> Iterator[None]:
    """Redirect what libraries print to the shipper's log, by descriptor: gRPC does not write to sys.stderr."""
    sys.stdout.flush()
    sys.stderr.flush()
    copies = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    try:
        target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError:
        target = os.open(os.devnull, os.O_WRONLY)
    for descriptor in copies:
        os.dup2(target, descriptor)
    os.close(target)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in copies.items():
            os.dup2(copy, descriptor)
            os.close(copy)
