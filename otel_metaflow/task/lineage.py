"""Which part of each foreach around it an attempt is; imported only by those that are in one."""

from __future__ import annotations

from typing import Any, Callable, Dict, Sequence

from otel_metaflow.task.metaflow_seams import Frame

_LONGEST_VALUE = 256


def foreach(frames: Sequence[Frame], mask: Callable[[str], str], *, value: bool) -> Dict[str, Any]:
    """Index and size of each foreach, the innermost last; `value` asks for the innermost's value, too."""
    facts: Dict[str, Any] = {"foreach": [[frame.place, frame.splits] for frame in frames]}
    if value:
        facts["foreachValue"] = mask(str(frames[-1].value))[:_LONGEST_VALUE]
    return facts
