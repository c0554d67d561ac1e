"""Describes exceptions with the attributes of the semantic conventions."""

from __future__ import annotations

import traceback
from typing import Any, Callable, Dict

from otel_metaflow.core.guard import let_pass
from otel_metaflow.core.long_lines import LONGEST_LINE

_BEGIN = "Traceback (most recent call last)"


def kind_of(error: BaseException) -> str:
    """The name of its class, with its module unless it is built in."""
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"


def formatted(error: BaseException) -> str:
    """Its traceback as Python prints it; empty if its own `__str__` raises."""
    try:
        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception as odd:  # noqa: BLE001 - formatting calls the user's __str__ and __repr__ too
        let_pass(odd)
        return ""


def describe_exception(error: BaseException, text: Callable[[str], str], stack: str = "") -> Dict[str, str]:
    """Type, message and stack trace; `stack` is the latter if it has already been formatted.

    https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-logs/
    """
    stack = stack or formatted(error)
    return {"type": kind_of(error), "message": text(_message(error, stack)), "stacktrace": text(_shortened(stack))}


def shown_exception(
    error: BaseException, text: Callable[[str], str], stack: str, is_shown: Callable[[str], bool], output: str
) -> Dict[str, str]:
    """Like `describe_exception`, but only what is shown in a formatter's `output`."""
    stack = stack or formatted(error)
    if is_shown(stack.rstrip("\n")):
        return describe_exception(error, text, stack)
    at = output.find(_BEGIN)
    described: Dict[str, Any] = {"type": kind_of(error)}
    return described if at < 0 else {**described, "stacktrace": text(_shortened(output[at:]))}


def _message(error: BaseException, stack: str) -> str:
    """The message from the end of the stack trace, for which the user's `__str__` has already been called."""
    # traceback leaves out the names of these two modules.
    kind = type(error)
    named = (
        kind.__qualname__ if kind.__module__ in ("__main__", "builtins") else f"{kind.__module__}.{kind.__qualname__}"
    )
    lines = f"\n{stack}"
    begin = lines.find(f"\n{named}: ", max(lines.rfind(f"\n{_BEGIN}"), 0))
    try:
        if begin >= 0 and not getattr(error, "__notes__", None):
            return lines[begin + len(named) + 3 :].rstrip("\n")
        return str(error)
    except Exception as odd:  # noqa: BLE001 - the user's __str__ and __getattribute__ may be broken
        let_pass(odd)
        return f"<{type(error).__name__} without a readable message>"


def _shortened(stack: str) -> str:
    if len(stack) <= LONGEST_LINE:
        return stack
    return stack[: LONGEST_LINE // 2] + "\n…\n" + stack[-LONGEST_LINE // 2 :]
