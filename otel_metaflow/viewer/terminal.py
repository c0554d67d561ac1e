"""Prints to a terminal, a pipe or a file, whatever its encoding."""

from __future__ import annotations

import codecs
import contextlib
import io
import sys

import click

# Replacements of the characters that we draw with, for encodings without them; one for one, so that columns align.
_ASCII = {
    **dict(zip("·░█▒╌━▁▂▃▄▅▆▇█", ".:#=--_..--==#", strict=True)),
    **dict(zip("…↺▲▼⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏╸╺", "~@^v----------", strict=False)),
}
_DEGRADED = "otel_metaflow_degraded"


def degrade() -> None:
    """Make standard output and error accept any text: characters outside their encoding become ASCII, or `?`."""
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
    """Print a line in the stream's own encoding: by itself, click writes UTF-8 to a stream that is ASCII."""
    click.echo(text, file=sys.stderr if err else sys.stdout, nl=nl)
