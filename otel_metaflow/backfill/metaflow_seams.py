"""Everything that backfilling reads through Metaflow's own classes, as plain values.

Metaflow's Client API has most of it, but not to whom of several attempts an entry of metadata belongs, nor log files
without loading them whole, nor artifacts without unpickling them. So this goes one level below: to the metadata
provider that the client uses, and to the storage of a datastore. No other module of this package touches Metaflow's
attributes; what goes wrong ends in one line (`UnreadableError`).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

DEPENDS = (
    "metaflow.Metaflow",
    "metaflow.namespace",
    "metaflow.plugins.DATASTORES",
    "metaflow.metadata_provider.metadata.MetadataProvider.get_object",
    "metaflow.plugins.metadata_providers.local.LocalMetadataProvider._read_json_file",
    "metaflow.plugins.metadata_providers.service.SERVICE_RETRY_COUNT",
    "metaflow.plugins.metadata_providers.service.ServiceMetadataProvider._session",
    "metaflow.datastore.datastore_storage.DataStoreStorage.list_content",
    "metaflow.datastore.datastore_storage.DataStoreStorage.load_bytes",
    "metaflow.datastore.flow_datastore.FlowDataStore.load_data",
)
"""The names that this module depends on, where Metaflow 2.19 defines them."""

# How long a request to the metadata service may take, in seconds: Metaflow itself waits for ever.
_TIMEOUT = 30.0
_TRIES = 3
_PAUSE = 1.0  # before the second try, in seconds; twice as long before each further one
# What objects are called by: one without a name is damaged, and left out.
_NAMES = {"flow": "flow_id", "run": "run_number", "step": "step_name", "task": "task_id", "metadata": "field_name"}
# The latest time that nanoseconds in 64 bits have, in each field's own unit.
_LATEST = {"ts_epoch": 2**63 // 10**6, "last_heartbeat_ts": 2**63 // 10**9}
_LISTS = ("tags", "system_tags")

_T = TypeVar("_T")


class UnreadableError(Exception):
    """Metaflow's metadata or datastore cannot be read; the message has where, and Metaflow's own words."""


class Catalogue:
    """Metaflow's metadata, of the provider that its configuration names: flows, runs, steps, tasks, and what is noted.

    Everything is a dictionary as the provider has it, with times in milliseconds since 1970 (`ts_epoch`), of which what
    is not of its type is left out.
    """

    def __init__(
        self, before_request: Callable[[], object] = lambda: None, report: Callable[[str], object] = lambda _: None
    ) -> None:
        """Use what METAFLOW_DEFAULT_METADATA and its like name.

        `before_request` is called before each request, and `report` with a line on whatever is left out.

        Raises:
            UnreadableError: Metaflow is configured to something that cannot be used.
        """

        def connect() -> Any:
            # Metaflow puts what it reads from S3 into the working directory, unless this says otherwise.
            os.environ.setdefault("METAFLOW_ARTIFACT_LOCALROOT", tempfile.gettempdir())
            from metaflow import Metaflow, namespace

            namespace(None)  # the runs of all users
            return Metaflow().metadata

        self._provider = _attempted("Metaflow's metadata", connect, tries=1)
        _limit_requests(self._provider)
        _pass_over_damaged_files(self._provider, report)
        self._before_request = before_request
        self.requests = 0
        """How many requests were made; with local metadata, directories that were read."""

    @property
    def place(self) -> str:
        """What the provider is, and where: `service@https://…` or `local@/…`."""
        return f"{self._provider.TYPE}@{self._provider.INFO}"

    def flows(self) -> list[str]:
        """The names of all flows."""
        return sorted(str(each["flow_id"]) for each in self._children("root", "flow"))

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """All runs of a flow, the newest first."""
        return sorted(self._children("flow", "run", flow), key=lambda each: -int(each.get("ts_epoch") or 0))

    def run(self, flow: str, run: str) -> dict[str, Any] | None:
        """One run; None if there is none."""
        found = self._get("run", "self", flow, run)
        return _plain(found) if _is_whole("run", found) else None

    def steps(self, flow: str, run: str) -> list[str]:
        """The steps of a run that have begun, with `_parameters`, in their order."""
        found = sorted(self._children("run", "step", flow, run), key=lambda each: int(each.get("ts_epoch") or 0))
        return [str(each["step_name"]) for each in found]

    def tasks(self, flow: str, run: str, step: str) -> list[dict[str, Any]]:
        """The tasks of a step, in their order."""
        return sorted(
            self._children("step", "task", flow, run, step),
            key=lambda each: (int(each.get("ts_epoch") or 0), _id(each)),
        )

    def metadata(self, flow: str, run: str, step: str, task: str) -> list[dict[str, Any]]:
        """What is noted of a task: `field_name`, `value`, `tags` (among them its attempt's), `ts_epoch`."""
        found = self._children("task", "metadata", flow, run, step, task)
        return sorted(found, key=lambda each: int(each.get("ts_epoch") or 0))

    def _children(self, kind: str, below: str, *path: str) -> list[dict[str, Any]]:
        found = self._get(kind, below, *path) or []
        if not isinstance(found, list):
            raise UnreadableError(f"cannot read {self._what(path)}: the answer is not a list")
        return [_plain(each) for each in found if _is_whole(below, each)]

    def _get(self, kind: str, below: str, *path: str) -> Any:
        def ask() -> Any:
            self._before_request()
            self.requests += 1
            return self._provider.get_object(kind, below, None, None, *path)

        return _attempted(self._what(path), ask)

    def _what(self, path: Sequence[str]) -> str:
        return f"the metadata of {'/'.join(path) or 'flows'} at {self.place}"


def _is_whole(kind: str, described: Any) -> bool:
    """Whether an object has a name."""
    return isinstance(described, dict) and isinstance(described.get(_NAMES[kind]), (str, int))


def _plain(described: dict[str, Any]) -> dict[str, Any]:
    """An object without what is not of its type: all but tags is text or a number, and times are in their range."""
    found: dict[str, Any] = {name: value for name, value in described.items() if isinstance(value, (str, int, float))}
    for name in _LISTS:
        listed = described.get(name)
        found[name] = [str(each) for each in listed] if isinstance(listed, list) else []
    for name, latest in _LATEST.items():
        if not (isinstance(found.get(name), (int, float)) and 0 < found[name] < latest):
            found.pop(name, None)
    return found


def _id(task: dict[str, Any]) -> tuple[int, str]:
    name = str(task.get("task_id"))
    return len(name), name


def _limit_requests(provider: Any) -> None:
    """Have requests to a metadata service end within a time, which those of Metaflow do not, and try each only once.

    Metaflow tries five times itself: a service that hangs would take minutes for each of the tries here.
    """
    module: Any = sys.modules[provider.__module__]
    if hasattr(module, "SERVICE_RETRY_COUNT"):
        module.SERVICE_RETRY_COUNT = 1
    session = getattr(provider, "_session", None)
    for adapter in getattr(session, "adapters", {}).values():
        send = adapter.send
        if getattr(send, "is_limited", False):
            continue

        def limited(*args: Any, _send: Callable[..., Any] = send, **kwargs: Any) -> Any:
            kwargs["timeout"] = kwargs.get("timeout") or _TIMEOUT
            return _send(*args, **kwargs)

        limited.is_limited = True  # type: ignore[attr-defined]
        adapter.send = limited


def _pass_over_damaged_files(provider: Any, report: Callable[[str], object]) -> None:
    """Have local metadata go on if one of its files is damaged, which is reported once, or deleted while it is read."""
    kind: Any = provider if isinstance(provider, type) else type(provider)
    found = getattr(kind, "_read_json_file", None)
    if found is None:
        return
    read, reported = getattr(found, "original", found), set()

    def tolerant(_: Any, path: str) -> Any:
        try:
            return read(path)
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            if path not in reported:
                reported.add(path)
                report(f"{path} is damaged, and left out")
            return {}

    tolerant.original = read  # type: ignore[attr-defined]
    kind._read_json_file = classmethod(tolerant)


class Storage:
    """One datastore: a kind, such as `s3`, and the root of a `metadata` entry. Paths are FLOW/RUN/STEP/TASK/NAME."""

    def __init__(self, kind: str, root: str) -> None:
        """Open the datastore.

        Raises:
            UnreadableError: this Metaflow knows no such kind, or the root is a folder of another machine.
        """
        self.place = f"{kind}:{root}"
        self._kind = kind
        if kind == "local" and not Path(root).is_dir():
            raise UnreadableError(
                f"{self.place}: there is no such folder here; run this on the machine, or with the volume, that has it"
            )
        self._storage = _attempted(self.place, lambda: _implementation(kind)(root), tries=1)

    def names(self, folders: Sequence[str]) -> dict[str, list[str]]:
        """The names of the files in each of the folders."""

        def listed() -> dict[str, list[str]]:
            found: dict[str, list[str]] = {folder: [] for folder in folders}
            for each in self._storage.list_content(list(folders)):
                folder, _, name = str(each.path).rstrip("/").rpartition("/")
                if each.is_file and folder in found:
                    found[folder].append(name)
            return found

        return _attempted(self.place, listed, tries=1)

    @contextmanager
    def opened(self, paths: Sequence[str]) -> Iterator[dict[str, Path]]:
        """Those of the paths that exist, each with a file of its contents, which may be gone afterwards."""
        if not paths:
            yield {}
            return
        with ExitStack() as stack:

            def load() -> dict[str, Path]:
                loaded = stack.enter_context(self._storage.load_bytes(list(paths)))
                return {str(path): Path(file) for path, file, _ in loaded if file is not None}

            yield _attempted(self.place, load, tries=1)

    def artifact(self, flow: str, key: str) -> bytes:
        """The bytes of an artifact, as they were pickled."""

        def load() -> bytes:
            from metaflow.datastore import FlowDataStore

            kept = FlowDataStore(flow, storage_impl=lambda _: self._storage)
            return bytes(next(iter(kept.load_data([key])))[1])

        return _attempted(self.place, load, tries=1)


def _implementation(kind: str) -> Any:
    from metaflow.plugins import DATASTORES

    known = {each.TYPE: each for each in DATASTORES}
    if kind not in known:
        raise UnreadableError(f"datastore of type {kind!r}: this Metaflow has only {', '.join(sorted(known))}")
    return known[kind]


def _attempted(what: str, ask: Callable[[], _T], *, tries: int = _TRIES) -> _T:
    """Ask, and again a moment later if that failed.

    Raises:
        UnreadableError: it failed for the last time.
    """
    pause = _PAUSE
    for _ in range(tries - 1):
        with suppress(Exception):
            return ask()
        time.sleep(pause)
        pause *= 2
    try:
        return ask()
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(f"cannot read {what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What an error of Metaflow, or of a library below it, has to say, in one line."""
    text = " ".join(str(getattr(error, "message", "") or error).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__


def in_batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """The items, so many at a time."""
    batch: list[_T] = []
    for each in items:
        batch.append(each)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
