"""What commands are told on their command line, understood; and how they answer, also that it makes no sense."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any, List, NoReturn, Tuple

import click

from otel_metaflow import settings
from otel_metaflow.journal import layout

as_json = click.option("--json", "as_json", is_flag=True, help="As JSON, for scripts.")


# What we draw, for streams whose encoding cannot hold it: a character for a character, so that columns stay.
_ASCII = {
    **dict(zip("·░█▒╌━▁▂▃▄▅▆▇█", ".:#=--_..--==#", strict=True)),
    **dict(zip("…↺▲▼⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏╸╺", "~@^v----------", strict=False)),
}
_DEGRADED = "otel_metaflow_degraded"


def degrade() -> None:
    """Have standard output and error take any text: what their encoding cannot hold is drawn in ASCII, or as `?`."""
    codecs.register_error(_DEGRADED, _degraded)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):  # closed
                stream.reconfigure(errors=_DEGRADED)


def _degraded(error: UnicodeError) -> Tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ASCII.get(character, "?") for character in error.object[error.start : error.end]), error.end


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a line as the stream's encoding has it: of its own, click writes UTF-8 where that is ASCII."""
    click.echo(text, file=sys.stderr if err else sys.stdout, nl=nl)


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
