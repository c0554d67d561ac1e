"""What an attempt read from, kept as its record names it: a join of 50,000 tasks takes no more memory than another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Collection, Dict, Iterator, List

from otel_metaflow.journal.keys import AttemptKey


@dataclass
class Inputs(Collection[AttemptKey]):
    """Attempts, in the order in which they were read; `tasks` are by step, as `layout.grouped` names them."""

    tasks: Dict[str, List[Any]]

    def __iter__(self) -> Iterator[AttemptKey]:
        for step, tasks in self.tasks.items():
            for item in tasks:
                if item.__class__ is list:
                    for number in range(item[0], item[1] + 1):
                        yield AttemptKey(step, str(number), 0)
                else:
                    task, _, attempt = item.partition("/")
                    yield AttemptKey(step, task, int(attempt or 0))

    def __len__(self) -> int:
        each = (item for tasks in self.tasks.values() for item in tasks)
        return sum(item[1] - item[0] + 1 if item.__class__ is list else 1 for item in each)

    def __contains__(self, key: object) -> bool:
        return any(key == own for own in self)
