"""What is kept of a line that is longer than a journal holds; the same on whichever side the line is seen.

A task and the launcher both cut a line, and the shipper recognizes it by what is left and by its length.
"""

from __future__ import annotations

LONGEST_LINE = 65_536
"""A line longer than this many characters is cut, and reports how long it was."""


def kept(line: str, length: int) -> str:
    """What is kept of a line of `length` characters: all, or the beginning of its last state if that is too much.

    A progress bar is one line that overwrites itself after each carriage return. `line` may have been
    through `shortened` while it grew.
    """
    return line if length <= LONGEST_LINE else _last_state(line)[:LONGEST_LINE]


def shortened(begun: str) -> str:
    """The beginning of an overlong line without what `kept` will not need, whatever follows."""
    state = _last_state(begun)[:LONGEST_LINE]
    return f"{state}\r" if begun.endswith("\r") else state


def _last_state(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]
