"""Where CloudWatch keeps what tasks on AWS Batch printed, as Metaflow's metadata says."""

from __future__ import annotations

from typing import Any, Iterator, List, NamedTuple, Tuple

_GROUP, _STREAM = "aws-batch-awslogs-group", "aws-batch-awslogs-stream"


class Stream(NamedTuple):
    """The log stream of one attempt; `task` is its pathspec, FLOW/RUN/STEP/TASK."""

    task: str
    group: str
    name: str


def streams(pathspec: str) -> Iterator[Stream]:
    """The streams of a run, a step or a task.

    Raises:
        metaflow.exception.MetaflowException: there is none of that name.
    """
    from metaflow import Run, Step, Task, namespace

    # What was asked for by its full name may be anybody's.
    namespace(None)
    kind = (Run, Step, Task)[pathspec.count("/") - 1]
    for task in _tasks(kind(pathspec)):
        found = sorted((entry.created_at, entry.name, entry.value) for entry in task.metadata)
        groups = [value for _, name, value in found if name == _GROUP]
        names = [value for _, name, value in found if name == _STREAM]
        # One of each for every attempt, the first attempt first.
        for group, name in zip(groups, names, strict=False):
            if name:
                yield Stream(task.pathspec, group or "", name)


def _tasks(thing: Any) -> List[Any]:
    found: List[Any] = []
    levels: List[Tuple[int, Any]] = [(len(thing.pathspec.split("/")), thing)]
    while levels:
        level, each = levels.pop()
        if level == 4:  # noqa: PLR2004 - FLOW/RUN/STEP/TASK
            found.append(each)
        else:
            levels.extend((level + 1, child) for child in each)
    return sorted(found, key=lambda task: task.created_at)
