"""Truncates lines that are too long for a journal.

A task and the launcher truncate a line in the same way, so that the shipper recognizes it by the rest and its length.
"""

from __future__ import annotations

LONGEST_LINE = 65_536
"""A line longer than this many characters is truncated; its record has its full length."""


def truncated(line: str, length: int) -> str:
    """A line of `length` characters, or the beginning of its last state if it is too long.

    A progress bar is one line that overwrites itself after each carriage return. `line` may have been
    through `shortened` while it was written.
    """
    return line if length <= LONGEST_LINE else _last_state(line)[:LONGEST_LINE]


def shortened(begun: str) -> str:
    """The beginning of an unfinished line without the parts that `truncated` will not need, whatever follows."""
    state = _last_state(begun)[:LONGEST_LINE]
    return f"{state}\r" if begun.endswith("\r") else state


def _last_state(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]
