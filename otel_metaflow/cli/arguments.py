"""What the commands have in common: options that go together, JSON, errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import click

from otel_metaflow.core import settings
from otel_metaflow.journal import layout
from otel_metaflow.viewer.terminal import echo

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def print_json(values: Any) -> None:
    """Print a document for scripts."""
    echo(json.dumps(values, indent=2, default=str))


def fail(message: str) -> NoReturn:
    """End the program with one line: what was wrong, what is allowed, what to type."""
    echo(f"otel-metaflow: {message}", err=True)
    sys.exit(2)


def check_together(given: Collection[str], allowed: Collection[Collection[str]]) -> None:
    """End the program where two of the options `given` are not among the pairs `allowed`."""
    names = list(given)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            if {one, other} not in map(set, allowed):
                fail(f"{one} does not go with {other}: leave one of them out")


def reasons_of(trouble: Mapping[str, str]) -> str:
    """Why something is not delivered, from the reason of each signal: each reason once."""
    signals: dict[str, list[str]] = {}
    for signal, reason in sorted(trouble.items()):
        signals.setdefault(reason, []).append(signal)
    # Of the run as a whole the reason is a sentence about it.
    return "; ".join(
        f"run {reason}" if names == ["run"] else f"{', '.join(names)}: {reason}" for reason, names in signals.items()
    )


def print_problems(environment: settings.Settings) -> None:
    """Print what is wrong with the environment."""
    for problem in environment.problems:
        echo(f"otel: {problem}", err=True)


def print_foreign(environment: settings.Settings) -> None:
    """Print which runs are skipped because they belong to another user."""
    from otel_metaflow.shipper import backlog

    for folder in backlog.foreign(environment.home):
        key = layout.run_key(environment.home, folder)
        echo(
            f"{key}: skipped, it belongs to another user; to take it back, type: sudo chown -R $USER {folder}", err=True
        )
