"""What the commands have in common: naming a run, answering as JSON, refusing what makes no sense."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, List, NoReturn, Tuple

import click

from otel_metaflow.core import settings
from otel_metaflow.journal import layout
from otel_metaflow.viewer.terminal import echo

as_json = click.option("--json", "as_json", is_flag=True, help="As JSON, for scripts.")


def folder_of(environment: settings.Settings, run: str) -> Path:
    """The folder of the run called FLOW/RUN; ends the program where there is none."""
    flow, slash, run_id = run.partition("/")
    if not slash or not flow or not run_id or "/" in run_id:
        fail(f"{run!r} is not of the form FLOW/RUN, as in HelloFlow/12")
    folder = layout.run_folder(environment.home, layout.RunKey(flow, run_id, environment.namespace))
    if not folder.is_dir():
        known = _recent(environment)
        advice = f"the latest here: {', '.join(known)}" if known else "there are none here yet"
        fail(f"no journal of {run} in {environment.home}; {advice}")
    return folder


def _recent(environment: settings.Settings, most: int = 5) -> List[str]:
    found: List[Tuple[float, str]] = []
    for folder in layout.run_folders(environment.home):
        key = layout.run_key(environment.home, folder)
        if key.namespace == environment.namespace:
            found.append((folder.stat().st_mtime, str(key)))
    return [name for _, name in sorted(found, reverse=True)[:most]]


def print_json(values: Any) -> None:
    """Print a document for scripts."""
    echo(json.dumps(values, indent=2, default=str))


def fail(message: str) -> NoReturn:
    """End the program with one line: what was wrong, what is allowed, what to type."""
    echo(f"otel-metaflow: {message}", err=True)
    sys.exit(2)


def say_problems(environment: settings.Settings) -> None:
    """Print what is wrong with the environment."""
    for problem in environment.problems:
        echo(f"otel: {problem}", err=True)


def say_foreign(environment: settings.Settings) -> None:
    """Print which runs are passed over because they are another user's."""
    from otel_metaflow.shipper import backlog

    for folder in backlog.foreign(environment.home):
        key = layout.run_key(environment.home, folder)
        echo(f"{key}: passed over, {folder} belongs to another user; to have it back: sudo chown -R $USER", err=True)
