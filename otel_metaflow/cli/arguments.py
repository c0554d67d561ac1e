"""Shared by the commands: options that can be combined, JSON output, errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import click

from otel_metaflow.core import settings
from otel_metaflow.journal import layout
from otel_metaflow.viewer.terminal import echo

# States of a run's telemetry, as printed.
EXPORTED, EXPORTING, NOT_EXPORTED = "exported", "exporting", "not exported"

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")

wait = click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds to keep trying while the endpoint fails.",
)


def print_json(values: Any) -> None:
    """Print a document for scripts."""
    echo(json.dumps(values, indent=2, default=str))


def fail(message: str) -> NoReturn:
    """End the program with one line: what is wrong and how to fix it."""
    echo(f"otel-metaflow: {message}", err=True)
    sys.exit(2)


def check_combination(given: Collection[str], allowed: Collection[Collection[str]]) -> None:
    """End the program if two of the options `given` are not one of the pairs `allowed`."""
    names = list(given)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            if {one, other} not in map(set, allowed):
                fail(f"{one} cannot be combined with {other}; drop one of them")


def check_endpoint(environment: settings.Settings, otherwise: str = "", *, is_needed: bool = True) -> None:
    """End the program if telemetry is off, or if there is no endpoint where one `is_needed`.

    `otherwise` is what can be done without one.
    """
    if environment.disabled:
        fail("OTEL_SDK_DISABLED turns telemetry off; type: unset OTEL_SDK_DISABLED")
    if is_needed and not environment.is_shipping:
        ways = ("type: export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318", otherwise)
        fail(f"no endpoint is configured; {', '.join(filter(None, ways))}")


def reasons_of(trouble: Mapping[str, str]) -> str:
    """Why a run is not exported, from the reason for each signal; each reason appears once."""
    signals: dict[str, list[str]] = {}
    for signal, reason in sorted(trouble.items()):
        signals.setdefault(reason, []).append(signal)
    # The reason for "run" is a predicate: "run is quarantined: …".
    return "; ".join(
        f"run {reason}" if names == ["run"] else f"{', '.join(names)}: {reason}" for reason, names in signals.items()
    )


def print_problems(environment: settings.Settings) -> None:
    """Print each invalid variable."""
    for problem in environment.problems:
        echo(f"otel: {problem}", err=True)


def print_foreign(environment: settings.Settings) -> None:
    """Print the runs that are skipped because they belong to another user."""
    from otel_metaflow.shipper import backlog

    for folder in backlog.foreign(environment.home):
        key = layout.run_key(environment.home, folder)
        echo(
            f"{key}: skipped, it belongs to another user; to take it back, type: sudo chown -R $USER {folder}", err=True
        )
