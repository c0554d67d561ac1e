"""The catalogue of runs that a datastore alone gives, where nobody has Metaflow's metadata.

Metaflow stores files beside the log files of a task (metaflow/datastore/task_datastore.py, task.py, runtime.py), and
from these comes what the metadata would have had, in its own form:

    N.attempt.json    when the process of attempt N had loaded Metaflow; before that, when its launcher started it
    N.task_begin      user code follows; a task that `resume` cloned has none
    N.data.json       its artifacts: whether it succeeded, and its place in each foreach, are among them
    N.DONE.lock       its artifacts are stored; it has no content, but was stored at a time
    N.runtime         its launcher saw its process end
    N.task_stdout.log it runs, or ran, in a container

There is nothing of tags, users, versions, platforms, and of the run that was resumed (docs/backfill.md).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from otel_metaflow.backfill import literals
from otel_metaflow.backfill.attempts import ATTEMPT, CLONED, FOREACH_SIZES, IN_CONTAINER
from otel_metaflow.backfill.metaflow_seams import Storage, default_datastore, in_batches
from otel_metaflow.backfill.stored_json import read_json

_BATCH = 100  # tasks whose files are read together
_PARAMETERS = "_parameters"
# Folders beside flows, and in each flow beside its runs, that hold artifacts and packages.
_NO_FLOWS, _NO_RUN = ("data", "conda"), "data"
# The id of a run of local metadata is when it began, in microseconds.
_MOMENT = re.compile(r"1[0-9]{15}")
_MICROS_OF_MILLI = 1_000
_NANOS_OF_MILLI = 1_000_000
_DAY = 86_400_000  # in milliseconds
_LATEST = 2**63 / 1e9  # in seconds
# How an orchestrator's name begins the ids of its runs; those of `flow.py run` are numbers.
_ORCHESTRATORS = {"argo": "argo-workflows", "sfn": "step-functions", "airflow": "airflow"}
_DEVELOPMENT = "dev"
# Metaflow's class of a place in a foreach, as pickles name it (metaflow/tuple_util.py), and where its fields are.
_FRAME = ("__main__", "ForeachFrame")
_STEP, _SIZE, _INDEX = 0, 2, 3

Entry = dict[str, Any]


class DatastoreCatalogue:
    """The runs of one datastore. A request is a folder that is listed, or a file that is read or asked for its time."""

    reads_files = True

    def __init__(self, before_request: Callable[[], object] = lambda: None) -> None:
        """Use the datastore that METAFLOW_DEFAULT_DATASTORE and its like name.

        Raises:
            UnreadableError: there is none, or it cannot be used.
        """
        self._storage = Storage(*default_datastore(), before_request)
        self._began: dict[tuple[str, str], int] = {}

    @property
    def place(self) -> str:
        """Where the datastore is."""
        return f"the datastore {self._storage.place}"

    def flows(self) -> list[str]:
        """The names of all flows."""
        return sorted(name for name in self._folders("") if name.isidentifier() and name not in _NO_FLOWS)

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """All runs of a flow, the newest first; of one whose id is no time, two more requests, once."""
        names = [name for name in self._folders(flow) if name != _NO_RUN]
        self._read_beginnings(flow, [name for name in names if _moment(name) is None])
        found = [self._described(flow, name) for name in names]
        return sorted((each for each in found if "ts_epoch" in each), key=lambda each: -int(each["ts_epoch"]))

    def run(self, flow: str, run: str) -> dict[str, Any] | None:
        """One run; None if there is none."""
        if run == _NO_RUN or not self.steps(flow, run):
            return None
        if _moment(run) is None:
            self._read_beginnings(flow, [run])
        return self._described(flow, run)

    def steps(self, flow: str, run: str) -> list[str]:
        """The steps of a run that have begun, with `_parameters`, by their names."""
        return sorted(name for name in self._folders(f"{flow}/{run}") if name.isidentifier())

    def tasks(self, flow: str, run: str, step: str) -> list[dict[str, Any]]:
        """The tasks of a step, in the order of their ids."""
        names = sorted(self._folders(f"{flow}/{run}/{step}"), key=lambda name: (len(name), name))
        return [{"task_id": name} for name in names]

    def metadata(
        self, flow: str, run: str, step: str, tasks: Sequence[str], *, again: bool = False
    ) -> dict[str, list[Entry]]:
        """What would be noted of each of some tasks."""
        del again  # nothing is remembered
        found: dict[str, list[Entry]] = {}
        for batch in in_batches(tasks, _BATCH):
            names = self._storage.names([f"{flow}/{run}/{step}/{task}" for task in batch])
            attempts = [attempt for folder, listed in names.items() for attempt in _attempts(folder, listed)]
            noted = self._noted(flow, attempts)
            found.update({task: noted.get(f"{flow}/{run}/{step}/{task}", []) for task in batch})
        return found

    def storage(self, kind: str, root: str) -> Storage:
        """The datastore itself, whatever an attempt names: its root may have another name there."""
        del kind, root
        return self._storage

    def _folders(self, parent: str) -> list[str]:
        return self._storage.folders([parent])[parent]

    def _described(self, flow: str, run: str) -> dict[str, Any]:
        began = _moment(run) or self._began.get((flow, run))
        head, dash, _ = run.partition("-")
        runtime = _ORCHESTRATORS.get(head, head) if dash else _DEVELOPMENT
        described = {"run_number": run, "tags": [], "system_tags": [f"runtime:{runtime}"]}
        return {**described, "ts_epoch": began} if began else described

    def _read_beginnings(self, flow: str, runs: Sequence[str]) -> None:
        """Read when runs began: when their parameters were stored."""
        for batch in in_batches((run for run in runs if (flow, run) not in self._began), _BATCH):
            folders = self._storage.folders([f"{flow}/{run}/{_PARAMETERS}" for run in batch])
            paths = [f"{folder}/{task}/0.attempt.json" for folder, tasks in folders.items() for task in tasks[:1]]
            with self._storage.opened(paths) as files:
                for path, file in files.items():
                    began = _at(file)
                    if began:
                        self._began[flow, path.split("/")[1]] = began // _NANOS_OF_MILLI

    def _noted(self, flow: str, attempts: Sequence[_Attempt]) -> dict[str, list[Entry]]:
        """What would be noted of these attempts, by the folder of their task."""
        with self._storage.opened([path for each in attempts for path in each.paths]) as files:
            stored = {each: _Stored.read(each, files) for each in attempts}
        keys = {key for each in stored.values() for key in (each.task_ok, each.frames) if key}
        artifacts = self._storage.artifacts(flow, sorted(keys))
        times = self._storage.stored_at([path for each in attempts for path in each.signs])
        noted: dict[str, list[Entry]] = {}
        places: dict[str, dict[str, str]] = {}
        for each, found in stored.items():
            noted.setdefault(each.folder, []).extend(self._entries(each, found, artifacts, times))
            places[each.folder] = _place(artifacts.get(found.frames)) or places.get(each.folder, {})
        for each, found in stored.items():  # of those, too, that died before they could store theirs
            noted[each.folder] += [each.entry(*place, found.began) for place in places[each.folder].items()]
        return noted

    def _entries(
        self, attempt: _Attempt, stored: _Stored, artifacts: Mapping[str, bytes], times: Mapping[str, int]
    ) -> Iterator[Entry]:
        began = stored.began
        yield attempt.entry("ds-type", self._storage.kind, began)
        yield attempt.entry("ds-root", self._storage.root, began)
        if attempt.has("task_begin"):
            yield attempt.entry("attempt", str(attempt.number), began)
        if attempt.has("DONE.lock") and not (attempt.has("task_begin") or attempt.has("runtime")):
            yield attempt.entry(CLONED, "True", began)
        if attempt.has("task_stdout.log"):
            yield attempt.entry(IN_CONTAINER, "True", began)
        if stored.code:
            yield attempt.entry("code-package", json.dumps({"sha": stored.code}), began)
        if stored.python:
            yield attempt.entry("python_version", stored.python, began)
        last = max(began, *(times.get(path, 0) for path in attempt.signs), 0)
        if attempt.has("DONE.lock") and stored.task_ok in artifacts:
            # None after sys.exit, as Metaflow itself reads it (metaflow/task.py, run_step).
            yield attempt.entry("attempt_ok", str(bool(_plain(artifacts[stored.task_ok]))), last)
        else:
            yield attempt.entry("seen", "True", last)


class _Attempt(NamedTuple):
    """An attempt by its files."""

    folder: str
    number: int
    names: frozenset[str]

    def has(self, name: str) -> bool:
        return f"{self.number}.{name}" in self.names

    def path(self, name: str) -> str:
        return f"{self.folder}/{self.number}.{name}"

    @property
    def paths(self) -> list[str]:
        """The files that have to be read; while it shows no sign, only when it began."""
        names = ("attempt.json", "task_begin", "data.json") if self.signs else ("attempt.json",)
        return [self.path(name) for name in names if self.has(name)]

    @property
    def signs(self) -> list[str]:
        """The files whose time is when it ended, or when it was last heard of."""
        for those in (("DONE.lock",), ("runtime",), ("task_stdout.log", "task_stderr.log")):
            found = [self.path(name) for name in those if self.has(name)]
            if found:
                return found
        return []

    def entry(self, name: str, value: str, at: int) -> Entry:
        """An entry as the metadata has it."""
        tags = [f"attempt_id:{self.number}"]
        return {"field_name": name, "value": value, "tags": tags, "ts_epoch": at // _NANOS_OF_MILLI}


class _Stored(NamedTuple):
    """What the files of an attempt have; empty or 0 if unknown."""

    began: int
    """In nanoseconds since 1970."""
    code: str
    """The name of the code package."""
    task_ok: str
    """The name of the artifact that has whether it succeeded."""
    frames: str
    """That of its place in each foreach."""
    python: str
    """Python's version."""

    @classmethod
    def read(cls, attempt: _Attempt, files: Mapping[str, Path]) -> _Stored:
        begin, data = (read_json(files.get(attempt.path(name))) for name in ("task_begin", "data.json"))
        objects = data.get("objects")
        names = objects if isinstance(objects, dict) else {}
        return cls(
            _at(files.get(attempt.path("attempt.json"))),
            str(begin.get("code_package_sha") or ""),
            str(names.get("_task_ok") or ""),
            str(names.get("_foreach_stack") or ""),
            str(data.get("python_version") or "").partition(" ")[0],
        )


def _attempts(folder: str, names: Sequence[str]) -> list[_Attempt]:
    """The attempts of a task of which Metaflow stored that they began."""
    listed = frozenset(names)
    heads = {head for head, _, rest in (name.partition(".") for name in names) if rest == "attempt.json"}
    numbers = sorted(int(head) for head in heads if ATTEMPT.fullmatch(head))
    return [_Attempt(folder, number, listed) for number in numbers]


def _moment(run: str) -> int | None:
    """When a run began, in milliseconds since 1970, if its id is that."""
    if _MOMENT.fullmatch(run) is None:
        return None
    at = int(run) // _MICROS_OF_MILLI
    return at if at < time.time() * 1_000 + _DAY else None


def _at(file: Path | None) -> int:
    """The time in an `attempt.json`, in nanoseconds since 1970; 0 if it has none."""
    at = read_json(file).get("time")
    return int(at * 1e9) if isinstance(at, (int, float)) and 0 < at < _LATEST else 0


def _place(data: bytes | None) -> dict[str, str]:
    """Where a task is in each foreach, as the metadata has it: `STEP:INDEX,STEP:INDEX`; and their sizes, if known."""
    frames = _plain(data) or ()
    try:
        place = ",".join(f"{frame[_STEP]}:{int(frame[_INDEX])}" for frame in frames)
        sizes = [frame[_SIZE] for frame in frames]
    except (TypeError, ValueError, LookupError):
        return {}
    known = ",".join(map(str, sizes)) if all(isinstance(size, int) for size in sizes) else ""
    return {"foreach-execution-path": place, FOREACH_SIZES: known}


def _plain(data: bytes | None) -> Any:
    """What an artifact consists of; None if that is not plain."""
    try:
        return literals.read(data, _FRAME) if data is not None else None
    except literals.NotPlainError:
        return None
