"""Everything that backfilling reads through Metaflow's own classes.

Metaflow's Client API has most of it, but not to whom of several attempts an entry of metadata belongs, nor log files
without loading them whole, nor artifacts without unpickling them. So this goes one level below: to the metadata
provider that the client uses, and to the storage of a datastore. No other module of this package touches Metaflow's
private attributes; what goes wrong ends in one line (`UnreadableError`).
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
    "metaflow.datastore.datastore_storage.DataStoreStorage.full_uri",
    "metaflow.datastore.flow_datastore.FlowDataStore.load_data",
    "metaflow.metaflow_config.DEFAULT_DATASTORE",
    "metaflow.metaflow_config.ARTIFACT_LOCALROOT",
    "metaflow.plugins.datatools.s3.s3.S3.info",
    "metaflow.plugins.datatools.s3.s3.S3.info_many",
)
"""The names that this module depends on, where Metaflow 2.19 defines them."""

# How long a request to the metadata service may take, in seconds: Metaflow itself waits for ever.
_TIMEOUT = 30.0
_TRIES = 3
_PAUSE = 1.0  # before the second try, in seconds; twice as long before each further one
_FEW = 10  # so many files of S3 are asked for one after the other, as Metaflow does, and more by processes of their own

_NANO = 1_000_000_000

_T = TypeVar("_T")


class UnreadableError(Exception):
    """Metaflow's metadata or datastore cannot be read; the message has where, and Metaflow's own words."""


class Storage:
    """One datastore: a kind, such as `s3`, and its root. Paths are FLOW/RUN/STEP/TASK/NAME."""

    def __init__(self, kind: str, root: str, before_request: Callable[[], object] = lambda: None) -> None:
        """Open the datastore.

        `before_request` is called for each folder that is listed, and for each file that is read or asked for its time.

        Raises:
            UnreadableError: this Metaflow knows no such kind, or the root is a folder of another machine.
        """
        self.kind, self.root = kind, root
        self.place = f"{kind}:{root}"
        self._before_request = before_request
        if kind == "local" and not Path(root).is_dir():
            raise UnreadableError(
                f"{self.place}: there is no such folder here; run this on the machine, or with the volume, that has it"
            )
        self._storage = attempted(self.place, lambda: _implementation(kind)(root), tries=1)

    def names(self, folders: Sequence[str]) -> dict[str, list[str]]:
        """The names of the files in each of the folders."""
        return self._listed(folders, is_file=True)

    def folders(self, parents: Sequence[str]) -> dict[str, list[str]]:
        """The names of the folders in each of the folders `parents`; "" is the root."""
        return self._listed(parents, is_file=False)

    def _listed(self, folders: Sequence[str], *, is_file: bool) -> dict[str, list[str]]:
        def listed() -> dict[str, list[str]]:
            found: dict[str, list[str]] = {folder: [] for folder in folders}
            for each in self._storage.list_content(list(folders)):
                folder, _, name = str(each.path).rstrip("/").rpartition("/")
                if bool(each.is_file) is is_file and folder in found:
                    found[folder].append(name)
            return found

        self._count(len(folders))
        return attempted(self.place, listed, tries=1)

    def _count(self, requests: int) -> None:
        for _ in range(requests):
            self._before_request()

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

            self._count(len(paths))
            yield attempted(self.place, load, tries=1)

    def stored_at(self, paths: Sequence[str]) -> dict[str, int]:
        """When the files at those of the paths that exist were stored, in nanoseconds since 1970.

        Object stores note the second: the time is that of its beginning. Of a kind that is not Metaflow's own, none is
        known.
        """
        times = _TIMES.get(self.kind)
        if times is None or not paths:
            return {}
        self._count(len(paths))
        return attempted(self.place, lambda: dict(times(self._storage, paths)), tries=1)

    def artifact(self, flow: str, key: str) -> bytes:
        """The bytes of an artifact, as they were pickled."""
        return attempted(self.place, lambda: self._artifacts(flow, [key])[key], tries=1)

    def artifacts(self, flow: str, keys: Sequence[str]) -> dict[str, bytes]:
        """The same of several, without those that cannot be read."""
        if not keys:
            return {}
        try:
            return attempted(self.place, lambda: self._artifacts(flow, keys), tries=1)
        except UnreadableError:
            found = {}
            for key in keys:
                with suppress(UnreadableError):
                    found[key] = self.artifact(flow, key)
            return found

    def _artifacts(self, flow: str, keys: Sequence[str]) -> dict[str, bytes]:
        from metaflow.datastore import FlowDataStore

        self._count(len(keys))
        kept = FlowDataStore(flow, storage_impl=lambda _: self._storage)
        return {str(key): bytes(blob) for key, blob in kept.load_data(list(keys))}


def metadata_provider(report: Callable[[str], object]) -> Any:
    """Metaflow's provider of metadata that its configuration names; `report` is called with a line on what is damaged.

    Raises:
        UnreadableError: Metaflow is configured to something that cannot be used.
    """

    def connect() -> Any:
        _prepare()
        from metaflow import Metaflow, namespace

        namespace(None)  # the runs of all users
        return Metaflow().metadata

    provider = attempted("Metaflow's metadata", connect, tries=1)
    _limit_requests(provider)
    _pass_over_damaged_files(provider, report)
    return provider


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


def default_datastore() -> tuple[str, str]:
    """Kind and root of the datastore that Metaflow's configuration names.

    Raises:
        UnreadableError: it names none.
    """

    def configured() -> tuple[str, str | None]:
        _prepare()
        from metaflow.metaflow_config import DEFAULT_DATASTORE

        kind = str(DEFAULT_DATASTORE)
        return kind, _implementation(kind).get_datastore_root_from_config(lambda *_: None, create_on_absent=False)

    kind, root = attempted("Metaflow's configuration", configured, tries=1)
    if not root:
        raise UnreadableError(f"there is no datastore: set METAFLOW_DATASTORE_SYSROOT_{kind.upper()}")
    return kind, str(root)


def _prepare() -> None:
    """Before Metaflow is loaded: have it put what it reads from S3 into no working directory."""
    os.environ.setdefault("METAFLOW_ARTIFACT_LOCALROOT", tempfile.gettempdir())


def _times_of_local(storage: Any, paths: Sequence[str]) -> Iterator[tuple[str, int]]:
    for path in paths:
        with suppress(FileNotFoundError):
            yield path, Path(storage.full_uri(path)).stat().st_mtime_ns


def _times_of_s3(storage: Any, paths: Sequence[str]) -> Iterator[tuple[str, int]]:
    from metaflow.metaflow_config import ARTIFACT_LOCALROOT
    from metaflow.plugins.datatools.s3.s3 import S3

    with S3(s3root=storage.datastore_root, tmproot=ARTIFACT_LOCALROOT, external_client=storage.s3_client) as s3:
        if len(paths) > _FEW:
            found = s3.info_many(paths, return_missing=True)
        else:
            found = [s3.info(path, return_missing=True) for path in paths]
        at = {each.key: each.last_modified for each in found if each.exists}
    return ((path, round(at[path] * _NANO)) for path in paths if path in at)


def _times_of_azure(storage: Any, paths: Sequence[str]) -> Iterator[tuple[str, int]]:
    for path in paths:
        properties = storage.root_client.get_blob_client(path).get_blob_properties()
        yield path, round(properties.last_modified.timestamp() * _NANO)


def _times_of_google(storage: Any, paths: Sequence[str]) -> Iterator[tuple[str, int]]:
    for path in paths:
        blob = storage.root_client.get_blob_client(path)
        blob.reload()
        yield path, int(blob.updated.timestamp()) * _NANO


_TIMES = {"local": _times_of_local, "s3": _times_of_s3, "azure": _times_of_azure, "gs": _times_of_google}


def _implementation(kind: str) -> Any:
    from metaflow.plugins import DATASTORES

    known = {each.TYPE: each for each in DATASTORES}
    if kind not in known:
        raise UnreadableError(f"datastore of type {kind!r}: this Metaflow has only {', '.join(sorted(known))}")
    return known[kind]


def attempted(what: str, ask: Callable[[], _T], *, tries: int = _TRIES) -> _T:
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
