"""Printing to a terminal, or to whatever stands in its place, in an encoding that may hold little."""

from __future__ import annotations

import codecs
import contextlib
import io
import sys

import click

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


def _degraded(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ASCII.get(character, "?") for character in error.object[error.start : error.end]), error.end


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a line as the stream's encoding has it: of its own, click writes UTF-8 where that is ASCII."""
    click.echo(text, file=sys.stderr if err else sys.stdout, nl=nl)
