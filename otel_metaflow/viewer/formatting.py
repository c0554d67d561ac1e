"""Formats figures, times and results for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime

from rich.console import Console

STYLES = {
    "success": "green",
    "failure": "red",
    "error": "red",
    "timeout": "red",
    "cancellation": "yellow",
    "skip": "dim",
    "running": "cyan",
}
_WIDE = 200
_BLOCKS = "▁▂▃▄▅▆▇█"
# Sequences that move a terminal's cursor or change its state; colours (SGR) are allowed.
_MOVES = re.compile(
    r"\x1b\[(?![0-9;:]*m)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b(?!\[)."
    r"|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]",
    re.DOTALL,
)
_COLOURS = re.compile(r"\x1b\[[0-9;:]*m|\x1b")


def console() -> Console:
    """Standard output; if it is not a terminal but a pipe, for example, lines may be wide."""
    made = Console()
    return made if made.is_terminal else Console(file=made.file, width=_WIDE, highlight=False)


def busy(what: str) -> AbstractContextManager[object]:
    """A spinner on standard error, if that is a terminal."""
    return Console(stderr=True).status(what)


def seconds(value: float) -> str:
    """1.25s, 2m05s, 1h02m."""
    if value < 60:  # noqa: PLR2004 - a minute
        return f"{value:.2f}s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def size(count: int) -> str:
    """1.5 MiB, 12 GiB; an empty string for 0."""
    for unit, one in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= one:
            return f"{count / one:.0f} {unit}" if count >= 10 * one else f"{count / one:.1f} {unit}"
    return f"{count} B" if count else ""


def clock(at: int) -> str:
    """A time, in nanoseconds since 1970, as local time."""
    return datetime.fromtimestamp(at / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def first_line(text: str | None) -> str:
    """The first line of a text, without terminal control sequences."""
    return plain((text or "").partition("\n")[0])


def plain(text: str) -> str:
    """A text without terminal control sequences."""
    return _COLOURS.sub("", _MOVES.sub("", text))


def coloured(text: str) -> str:
    """A line without terminal control sequences, except for colours."""
    shown = _MOVES.sub("", text)
    return f"{shown}\x1b[0m" if "\x1b" in shown else shown


def spark(values: Sequence[float]) -> str:
    """A sparkline: a row of blocks, scaled to the largest value."""
    largest = max(values, default=0.0)
    if largest <= 0:
        return _BLOCKS[0] * len(values)
    return "".join(_BLOCKS[min(len(_BLOCKS) - 1, int(value / largest * len(_BLOCKS)))] for value in values)
