"""How figures, times and results are printed in a terminal."""

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
# What moves a terminal's cursor or changes its state; colours (SGR) may stay.
_MOVES = re.compile(
    r"\x1b\[(?![0-9;:]*m)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b(?!\[)."
    r"|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]",
    re.DOTALL,
)
_COLOURS = re.compile(r"\x1b\[[0-9;:]*m|\x1b")


def console() -> Console:
    """Standard output; where there is no terminal to fit in, as in a pipe, lines are as wide as they need."""
    made = Console()
    return made if made.is_terminal else Console(file=made.file, width=_WIDE, highlight=False)


def busy(what: str) -> AbstractContextManager[object]:
    """A spinner on standard error, if that is a terminal, while something takes its time."""
    return Console(stderr=True).status(what)


def seconds(value: float) -> str:
    """1.25s, 2m05s, 1h02m."""
    if value < 60:  # noqa: PLR2004 - a minute
        return f"{value:.2f}s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def size(count: int) -> str:
    """1.5 MiB, 12 GiB; nothing for none."""
    for unit, one in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= one:
            return f"{count / one:.0f} {unit}" if count >= 10 * one else f"{count / one:.1f} {unit}"
    return f"{count} B" if count else ""


def clock(at: int) -> str:
    """A moment in nanoseconds since 1970, here."""
    return datetime.fromtimestamp(at / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def first_line(text: str | None) -> str:
    """The first line of a text, without what others may have written to move the cursor."""
    return plain((text or "").partition("\n")[0])


def plain(text: str) -> str:
    """A text that others wrote, without anything that a terminal would obey."""
    return _COLOURS.sub("", _MOVES.sub("", text))


def coloured(text: str) -> str:
    """A line that others wrote, with its colours, and nothing else that a terminal would obey."""
    shown = _MOVES.sub("", text)
    return f"{shown}\x1b[0m" if "\x1b" in shown else shown


def spark(values: Sequence[float]) -> str:
    """A line of blocks, each as high as its value beside the largest."""
    most = max(values, default=0.0)
    if most <= 0:
        return _BLOCKS[0] * len(values)
    return "".join(_BLOCKS[min(len(_BLOCKS) - 1, int(value / most * len(_BLOCKS)))] for value in values)
