"""The indexes of an attempt in its foreach loops; only imported by attempts that are in one."""

from __future__ import annotations

from typing import Any, Callable, Dict, Sequence

from otel_metaflow.task.metaflow_seams import Frame

_MAX_VALUE = 256  # characters


def foreach(frames: Sequence[Frame], mask: Callable[[str], str], *, value: bool) -> Dict[str, Any]:
    """Index and size of each foreach, innermost last; with `value`, also the value of the innermost."""
    facts: Dict[str, Any] = {"foreach": [[frame.index, frame.splits] for frame in frames]}
    if value:
        facts["foreachValue"] = mask(str(frames[-1].value))[:_MAX_VALUE]
    return facts
