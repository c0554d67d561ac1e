"""Identifies runs and attempts, on the side of those that read journals.

A module of its own because a task needs no key: the two classes cost each task 1.5 million instructions.
"""

from __future__ import annotations

from typing import NamedTuple


class RunKey(NamedTuple):
    """Identifies a run."""

    flow: str
    run: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.flow}/{self.run}"


class AttemptKey(NamedTuple):
    """Identifies an attempt within its run; `attempt` counts from 0."""

    step: str
    task: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.step}/{self.task}/{self.attempt}"
