"""One run as Metaflow stored it: its tasks and attempts, its graph, and the datastores with their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from otel_metaflow.backfill import attempts, literals
from otel_metaflow.backfill.attempts import StoredAttempt
from otel_metaflow.backfill.catalogue import Catalogue
from otel_metaflow.backfill.graph import Graph
from otel_metaflow.backfill.metaflow_seams import Storage, UnreadableError
from otel_metaflow.backfill.stored_json import read_json
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey

_PARAMETERS = "_parameters"


class StoredRun:
    """A run of a catalogue; `notes` has what of it could not be read, a line each."""

    def __init__(self, catalogue: Catalogue, flow: str, run: str) -> None:
        """Find the run.

        Raises:
            UnreadableError: there is none, or the metadata cannot be read.
        """
        self.flow, self.run = flow, run
        self.notes: list[str] = []
        self._catalogue = catalogue
        self._storages: dict[tuple[str, str], Storage | None] = {}
        found = catalogue.run(flow, run)
        if found is None:
            raise UnreadableError(f"{flow}/{run} is not in {catalogue.place}")
        self.described: Mapping[str, Any] = found

    @cached_property
    def _all_steps(self) -> list[str]:
        return self._catalogue.steps(self.flow, self.run)

    @property
    def steps(self) -> Sequence[str]:
        """The steps that have begun, in their order."""
        return [step for step in self._all_steps if step != _PARAMETERS]

    def tasks(self, step: str) -> list[dict[str, Any]]:
        """The tasks of a step in their order, as the metadata has them."""
        return self._catalogue.tasks(self.flow, self.run, step)

    def attempts(
        self, step: str, tasks: Sequence[Mapping[str, Any]], *, again: bool = False
    ) -> list[list[StoredAttempt]]:
        """The attempts of each of some tasks in their order, at least one; with `again`, as they are now."""
        names = [str(task["task_id"]) for task in tasks]
        metadata = self._catalogue.metadata(self.flow, self.run, step, names, again=again)
        return [attempts.of_task(step, task, metadata[name]) for task, name in zip(tasks, names, strict=True)]

    def origin_of(self, clone: StoredAttempt) -> StoredAttempt | None:
        """The attempt that `resume` cloned; None if its run is gone."""
        if clone.cloned_from is None:
            return None
        run, task = clone.cloned_from
        metadata = self._catalogue.metadata(self.flow, run, clone.key.step, [task])[task]
        found = attempts.of_task(clone.key.step, {"task_id": task}, metadata) if metadata else []
        return next((each for each in reversed(found) if each.is_ok), None)

    def folder(self, key: AttemptKey) -> str:
        """The folder of a task in its datastore."""
        return f"{self.flow}/{self.run}/{key.step}/{key.task}"

    def storage(self, attempt: StoredAttempt) -> Storage | None:
        """The datastore with the files of an attempt; None if it has none, or none that can be opened."""
        where = attempt.datastore or self._usual_datastore
        if where is None:
            return None
        if where not in self._storages:
            try:
                self._storages[where] = self._catalogue.storage(*where)
            except UnreadableError as error:
                self._storages[where] = None
                self.notes.append(str(error))
        return self._storages[where]

    @cached_property
    def _usual_datastore(self) -> tuple[str, str] | None:
        """That of the first task that names one; those of parameters and of tasks that died at once do not."""
        return next((each.datastore for each in self._first_attempts() if each.datastore is not None), None)

    def _first_attempts(self) -> Iterator[StoredAttempt]:
        for step in self.steps:
            for found in self.attempts(step, self.tasks(step)[:1]):
                yield from found

    @cached_property
    def graph(self) -> Graph:
        """The flow's graph, which Metaflow stores with the parameters of each run; empty if it cannot be known."""
        for step in [_PARAMETERS] if _PARAMETERS in self._all_steps else self.steps:
            for *_, attempt in self.attempts(step, self.tasks(step)[:1]):
                storage = self.storage(attempt)
                found = None if storage is None else self._stored_graph(storage, attempt.key)
                if found is not None:
                    return found
        return Graph()

    def _stored_graph(self, storage: Storage, key: AttemptKey) -> Graph | None:
        path = f"{self.folder(key)}/{key.attempt}.data.json"
        with storage.opened([path]) as files:
            stored = read_json(files.get(path))
        try:
            return Graph.from_stored(literals.read(storage.artifact(self.flow, stored["objects"]["_graph_info"])))
        except UnreadableError as error:
            self.notes.append(str(error))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
            pass  # of a version of Metaflow that stores none, or tampered with
        return None

    @cached_property
    def has_marked_span(self) -> bool:
        """Whether a container wrote the run's own span, and left a mark, but perhaps no ledger."""
        if not any(step.is_recorded for step in self.graph.steps.values()):
            return False
        for *_, attempt in self.attempts(_PARAMETERS, self.tasks(_PARAMETERS)[:1]):
            storage, folder = self.storage(attempt), self.folder(attempt.key)
            return storage is not None and layout.RUN_MARK in storage.names([folder])[folder]
        return False

    @property
    def has_recorded_itself(self) -> bool:
        """Whether its launcher had us: `@otel` is in the flow's graph, and a launcher saw an attempt end."""
        if not any(step.is_recorded for step in self.graph.steps.values()):
            return False
        for step in self.steps:
            for attempt, *_ in self.attempts(step, self.tasks(step)[:1]):
                storage, folder = self.storage(attempt), self.folder(attempt.key)
                if storage is not None and any(name.endswith(".runtime") for name in storage.names([folder])[folder]):
                    return True
        return False
