"""Where an attempt stands in its flow: what it read from, which part of a foreach it is."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List

_LONGEST_VALUE = 256


def describe(
    inputs: Iterable[Any], frames: Iterable[Any], step_type: str, mask: Callable[[str], str], *, value: bool
) -> Dict[str, Any]:
    """`inputs` are Metaflow's datastores of the tasks read, `frames` its stack of foreach, the innermost last.

    `value` asks for the innermost foreach's value, as Metaflow shortened it.
    """
    facts: Dict[str, Any] = {"stepType": step_type}
    named: List[List[Any]] = []
    for read in inputs or ():
        _, step, task = str(read.pathspec).split("/")
        if step == "_parameters":  # what the run was started with, no task of the user's
            continue
        named.append([step, task, int(read.attempt or 0)])
    facts["inputs"] = named
    stack = [[frame.index, frame.num_splits] for frame in frames if frame.index is not None]
    if stack:
        facts["foreach"] = stack
        if value:
            facts["foreachValue"] = mask(str(list(frames)[-1].value))[:_LONGEST_VALUE]
    return facts


def parallel() -> Dict[str, Any]:
    """Which node of how many this attempt of a `@parallel` step is."""
    from metaflow import current

    return {"parallel": [current.parallel.node_index, current.parallel.num_nodes]}


def artifacts(output: Any) -> Dict[str, Any]:
    """How many artifacts the attempt stored, and their bytes before compression; empty where Metaflow hides them.

    Of a datastore's private `_info` (metaflow/datastore/task_datastore.py): there is no public way that
    does not read each artifact.
    """
    stored = getattr(output, "_info", None)
    if not isinstance(stored, dict):
        return {}
    sizes = [info.get("size") for info in stored.values() if isinstance(info, dict)]
    return {"artifacts": {"count": len(sizes), "bytes": sum(size for size in sizes if isinstance(size, int))}}
