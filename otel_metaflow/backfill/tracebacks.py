"""Finds the exception of a failed attempt in what it printed.

Metaflow keeps the exception itself as an artifact, which only unpickling would read. But it also prints it: the
traceback at the end of stderr (metaflow/cli.py), and by `@catch` on stdout, each line behind a mark.
"""

from __future__ import annotations

import builtins
import re
from collections import deque

from otel_metaflow.core.long_lines import LONGEST_LINE

BEGIN = "Traceback (most recent call last):"
_CAUGHT = "@catch caught an exception from <flow "
_MARK = ">  "
_FAILED = re.compile(r"<flow \S+ step .*> failed:")
_TIMEOUT = "    @timeout:"
_TIMEOUT_TYPE = "metaflow.plugins.timeout_decorator.TimeoutException"
# The frames above belong to Metaflow's command line, and are in no traceback that is recorded while a step runs.
_STEP_FRAME = re.compile(r'  File ".*[/\\]metaflow[/\\]task\.py", line \d+, in run_step')
_NAMED = re.compile(r"([A-Za-z_][\w.]*(?:\.<locals>[\w.]*)*)(?::\s?(.*))?", re.DOTALL)
# A chain of exceptions has a traceback of each, with one of these lines between two.
_BETWEEN = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
_MAX_LINES = 2_000


class Traceback:
    """Follows the lines of an attempt, and keeps what it last printed of an exception."""

    def __init__(self) -> None:
        self._failure: deque[str] | None = None
        self._caught: deque[str] | None = None

    def add(self, stream: str, text: str) -> None:
        """One line of a stream, in order."""
        if stream == "stderr":
            if text.startswith("<flow ") and _FAILED.fullmatch(text):
                self._failure = deque(maxlen=_MAX_LINES)
            elif self._failure is not None:
                self._failure.append(text)
        elif text.startswith(_CAUGHT):
            self._caught = deque(maxlen=_MAX_LINES)
        elif self._caught is not None and text.startswith(_MARK):
            self._caught.append(text[len(_MARK) :])

    def failure(self) -> dict[str, str] | None:
        """Type, message and stack trace of the exception that the attempt failed with; None if it printed none."""
        lines = list(self._failure or ())
        if BEGIN in lines:
            return _described(lines[lines.index(BEGIN) :])
        for place, line in enumerate(lines):
            if line.startswith(_TIMEOUT):
                message = "\n".join(each[4:] for each in lines[place + 1 :] if each.startswith("    ")).strip()
                return {"type": _TIMEOUT_TYPE, "message": message}
        return None

    def caught(self) -> dict[str, str] | None:
        """The same of the exception that `@catch` caught."""
        lines = list(self._caught or ())
        return _described(lines[lines.index(BEGIN) :]) if BEGIN in lines else None


def is_timeout(exception: dict[str, str] | None) -> bool:
    """Whether `@timeout` raised it."""
    return exception is not None and exception.get("type") == _TIMEOUT_TYPE


def _described(lines: list[str]) -> dict[str, str] | None:
    while lines and not lines[-1].strip():
        lines.pop()
    start = max(place for place, line in enumerate(lines) if line == BEGIN)
    end = next((place for place in range(start + 1, len(lines)) if not lines[place].startswith(" ")), None)
    named = _NAMED.fullmatch("\n".join(lines[end:])) if end is not None else None
    if named is None:
        return None
    kind, message = named.group(1), named.group(2) or ""
    stack = "\n".join([*_without_command_line(lines), ""])
    if len(stack) > LONGEST_LINE:
        stack = stack[: LONGEST_LINE // 2] + "\n…\n" + stack[-LONGEST_LINE // 2 :]
    return {"type": _qualified(kind), "message": message, "stacktrace": stack}


def _qualified(kind: str) -> str:
    """The name with its module: Python leaves out that of the flow's own file, as it does that of its built-in ones.

    A class that is nested in another is no module: the name of a class begins with a capital.
    """
    first, dot, _ = kind.partition(".")
    is_of_module = dot and not first[0].isupper() and "<locals>" not in kind
    return kind if is_of_module or hasattr(builtins, kind) else f"__main__.{kind}"


def _without_command_line(lines: list[str]) -> list[str]:
    kept: list[str] = []
    begin = 0
    for place, line in enumerate(lines):
        if line == BEGIN:
            kept += lines[begin : place + 1]
            begin = place + 1
        elif _STEP_FRAME.match(line):
            begin = place
        elif line in _BETWEEN:
            kept += lines[begin:place]
            begin = place
    return kept + lines[begin:]
