"""Where an attempt stands in its flow: what it read from, which part of a foreach it is."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Sequence, Tuple

from otel_metaflow.task.metaflow_seams import Frame

_LONGEST_VALUE = 256


def inputs(read: Optional[Sequence[Tuple[str, str, int]]]) -> Dict[str, Any]:
    """The tasks that were read, given as step, task and attempt; nothing, not none, where that is not known."""
    if read is None:
        return {}
    # `_parameters` is what the run was started with, no task of the user's.
    return {"inputs": [list(each) for each in read if each[0] != "_parameters"]}


def foreach(frames: Sequence[Frame], mask: Callable[[str], str], *, value: bool) -> Dict[str, Any]:
    """Index and size of each foreach, the innermost last; `value` asks for the innermost's value, too."""
    if not frames:
        return {}
    facts: Dict[str, Any] = {"foreach": [[frame.place, frame.splits] for frame in frames]}
    if value:
        facts["foreachValue"] = mask(str(frames[-1].value))[:_LONGEST_VALUE]
    return facts
