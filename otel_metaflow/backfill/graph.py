"""The graph of a flow as Metaflow stored it with a run, and what tasks read from by it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from otel_metaflow.core import requested_resources
from otel_metaflow.core.requested_resources import number

# Metaflow's names for types of steps in its stored graph, as its own graph has them (metaflow/graph.py, output_steps).
_TYPES = {"split-static": "split", "split-foreach": "foreach", "split-parallel": "foreach"}
_OURS = "otel"

Place = tuple[int, ...]
"""The index of a task in each foreach that it is in, the innermost last."""


@dataclass(frozen=True)
class Step:
    """One step of a flow."""

    name: str
    type: str
    following: tuple[str, ...]
    file: str
    line: int
    requested: Mapping[str, float]
    max_retries: int
    minutes_between_retries: float
    is_recorded: bool
    """Whether it has `@otel`, so that something else has recorded it."""
    is_parallel: bool = False

    def as_record(self) -> dict[str, Any]:
        """The journal's record of it, as a launcher writes it."""
        return {
            "step": self.name,
            "type": self.type,
            "parallel": self.is_parallel,
            "next": list(self.following),
            "file": self.file,
            "line": self.line,
            "requested": dict(self.requested),
        }


@dataclass(frozen=True)
class Graph:
    """The steps of a flow in their order, empty if they are unknown."""

    steps: Mapping[str, Step] = field(default_factory=dict)
    end: str = "end"

    @classmethod
    def from_stored(cls, stored: Any) -> Graph:
        """The graph as Metaflow stored it.

        Raises:
            LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError: it is not in that form.
        """
        nodes = stored["steps"]
        followed = {
            name for node in nodes.values() if node["type"] == "split-parallel" for name in node.get("next") or ()
        }
        steps = {str(name): _step(str(name), node, is_parallel=name in followed) for name, node in nodes.items()}
        ordered = [name for name in _in_order(stored.get("graph_structure") or ()) if name in steps]
        return cls(
            {name: steps[name] for name in dict.fromkeys([*ordered, *steps])}, str(stored.get("end_step", "end"))
        )

    def before(self, step: str) -> list[str]:
        """The steps that lead to `step`."""
        return [one.name for one in self.steps.values() if step in one.following]


def _step(name: str, node: Mapping[str, Any], *, is_parallel: bool) -> Step:
    kind = str(node["type"])
    decorators = [(str(each["name"]), each.get("attributes") or {}) for each in node.get("decorators") or ()]
    given = dict(decorators)
    retry = given.get("retry", {})
    return Step(
        name=name,
        type=_TYPES.get(kind, kind),
        following=tuple(str(each) for each in node.get("next") or ()),
        file=str(node.get("source_file") or ""),
        line=int(node.get("line") or 0),
        requested=requested_resources.of(decorators),
        max_retries=int(number(retry.get("times"))) + (1 if "catch" in given else 0),
        minutes_between_retries=number(retry.get("minutes_between_retries")),
        is_recorded=_OURS in given,
        is_parallel=is_parallel,
    )


def _in_order(structure: Iterable[Any]) -> Iterator[str]:
    for each in structure:
        if isinstance(each, str):
            yield each
        else:
            yield from _in_order(each)


class Known(NamedTuple):
    """A task whose place is known, and when it was over, in nanoseconds since 1970; 0 while it is not."""

    step: str
    task: str
    place: Place
    ended: int


class Lineage:
    """Finds the tasks that a task has read from, by the graph and the places of both in their foreach loops."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._tasks: dict[str, dict[Place, list[Known]]] = defaultdict(lambda: defaultdict(list))
        self._below: dict[str, dict[Place, list[Known]]] = defaultdict(lambda: defaultdict(list))
        self._sizes: dict[tuple[str, Place], int] = {}
        self._known: dict[tuple[str, str], Known] = {}

    def add(self, known: Known) -> None:
        """Add a task of the run, or what is known of it by now."""
        before = self._known.get((known.step, known.task))
        if before is not None:
            self._tasks[before.step][before.place].remove(before)
            if before.place:
                self._below[before.step][before.place[:-1]].remove(before)
        self._known[known.step, known.task] = known
        self._tasks[known.step][known.place].append(known)
        if known.place:
            self._below[known.step][known.place[:-1]].append(known)
        for depth, index in enumerate(known.place):
            around = (known.step, known.place[:depth])
            self._sizes[around] = max(self._sizes.get(around, 0), index + 1)

    def size(self, step: str, place: Place) -> int:
        """How many tasks of the innermost foreach around a task have been seen."""
        return self._sizes.get((step, place[:-1]), 0)

    def inputs(self, step: str, place: Place, began: int) -> dict[str, list[str]] | None:
        """The tasks that it has read from, by step; None if that is unknown."""
        node = self._graph.steps.get(step)
        if node is None:
            return None
        found: dict[str, list[str]] = {}
        candidates: list[Known] = []
        for before in self._graph.before(step):
            splits = self._graph.steps[before].type == "foreach"
            if node.type == "join":
                # Of a foreach that it joins, all tasks; of branches, the one at its own place.
                joined = self._below[before].get(place) or self._tasks[before].get(place, [])
                found.setdefault(before, []).extend(each.task for each in sorted(joined, key=_by_place))
            else:
                candidates += self._tasks[before].get(place[:-1] if splits else place, [])
        if node.type != "join":
            # One of them, even where several lead here: of a switch that loops, the last.
            earlier = [each for each in candidates if each.ended and each.ended <= began] or candidates[:1]
            if earlier:
                last = max(earlier, key=lambda each: each.ended)
                found[last.step] = [last.task]
        return {name: tasks for name, tasks in found.items() if tasks}


def _by_place(known: Known) -> tuple[Place, int, str]:
    return known.place, len(known.task), known.task
