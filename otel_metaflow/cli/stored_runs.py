"""Shared by the commands that read what Metaflow stored: names of runs, durations, errors in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from otel_metaflow.cli import runs
from otel_metaflow.cli.arguments import fail
from otel_metaflow.viewer.terminal import echo

if TYPE_CHECKING:
    from otel_metaflow.backfill.catalogue import Catalogue
    from otel_metaflow.backfill.journals import Made
    from otel_metaflow.backfill.runs import StoredRunName

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


class Duration(click.ParamType):  # type: ignore[type-arg]  # a generic from click 8.4 on
    """A duration such as 90s, 15m, 12h, 7d or 2w, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse it; click calls this with a default, too."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a duration; type one such as 90s, 15m, 12h, 7d or 2w", param, ctx)
        return float(found.group(1)) * _UNITS[found.group(2)]


dead_after = click.option(
    "--dead-after",
    type=Duration(),
    default="1d",
    show_default=True,
    metavar="DURATION",
    help="How long a run, or a task that sends no heartbeats, has to show no sign of life until it counts as dead.",
)


datastore_only = click.option(
    "--datastore-only",
    is_flag=True,
    help="Read runs from the datastore alone, where nobody has their metadata: without tags, users, and more.",
)

cloudwatch = click.option(
    "--cloudwatch",
    is_flag=True,
    help="Add what only CloudWatch has of tasks that were killed with their containers on AWS Batch.",
)


def report(line: str) -> None:
    """Print something about what could not be read."""
    echo(f"otel: {line}", err=True)


@contextmanager
def readable() -> Iterator[None]:
    """End the program with one line if Metaflow's metadata or datastore cannot be read, or journals not be written."""
    from otel_metaflow.backfill.metaflow_seams import UnreadableError

    try:
        yield
    except UnreadableError as error:
        fail(str(error))
    except BlockingIOError:
        fail("another process is making these journals; type this again when it is done")
    except OSError as error:
        fail(f"cannot write journals ({error.strerror}: {error.filename}); choose another OTEL_METAFLOW_HOME")


def resolved(catalogue: Catalogue, name: str) -> StoredRunName:
    """The run FLOW/RUN, where RUN is an id, the beginning of one or latest, among those that Metaflow knows."""
    from otel_metaflow.backfill.datastore_catalogue import DatastoreCatalogue
    from otel_metaflow.backfill.runs import find, newest

    flow, slash, run = name.partition("/")
    if not slash or not flow or not run or "/" in run:
        fail(f"{name!r} is not of the form {runs.FORM}")
    found = None if run == runs.LATEST else find(catalogue, flow, run)
    if found is not None:
        return found
    known = {each.run: each for each in newest(catalogue, flow)}
    chosen = runs.pick(flow, run, list(known))
    if chosen is None:
        is_all = isinstance(catalogue, DatastoreCatalogue)
        fail(f"{name} is not in {catalogue.place}{'' if is_all else '; if the datastore has it, add --datastore-only'}")
    return known[chosen]


def described(made: Made) -> str:
    """What was made of a run, for people."""
    counts = [f"{made.attempts:,} attempt{'' if made.attempts == 1 else 's'}", f"{made.lines:,} lines"]
    if made.brought:
        counts.append(f"{made.brought:,} brought from their containers")
    if made.in_doubt:
        counts.append(f"{made.in_doubt:,} may have been exported in part")
    return ", ".join(counts)


def values(made: Made) -> dict[str, Any]:
    """The same for scripts."""
    found = asdict(made)
    del found["key"]
    return {"flow": made.key.flow, "run": made.key.run, **found}
