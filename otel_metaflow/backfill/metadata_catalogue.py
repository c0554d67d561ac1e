"""The catalogue of runs that is Metaflow's own: its metadata, of a service or in local files.

The Client API does not have to whom of several attempts an entry of metadata belongs. So this asks the metadata
provider that the client uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from otel_metaflow.backfill.metaflow_seams import Storage, UnreadableError, attempted, metadata_provider

# What objects are called by: one without a name is damaged, and left out.
_NAMES = {"flow": "flow_id", "run": "run_number", "step": "step_name", "task": "task_id", "metadata": "field_name"}
# The latest time that nanoseconds in 64 bits have, in each field's own unit.
_LATEST = {"ts_epoch": 2**63 // 10**6, "last_heartbeat_ts": 2**63 // 10**9}
_LISTS = ("tags", "system_tags")


class MetadataCatalogue:
    """Metaflow's metadata, of the provider that its configuration names; what is not of its type is left out."""

    reads_files = False

    def __init__(
        self, before_request: Callable[[], object] = lambda: None, report: Callable[[str], object] = lambda _: None
    ) -> None:
        """Use what METAFLOW_DEFAULT_METADATA and its like name.

        `before_request` is called before each request, and `report` with a line on whatever is left out.

        Raises:
            UnreadableError: Metaflow is configured to something that cannot be used.
        """
        self._provider = metadata_provider(report)
        self._before_request = before_request

    @property
    def place(self) -> str:
        """What the provider is, and where: `Metaflow's metadata at service@https://…`, or `… at local@/…`."""
        return f"Metaflow's metadata at {self._where}"

    @property
    def _where(self) -> str:
        return f"{self._provider.TYPE}@{self._provider.INFO}"

    @property
    def is_absent(self) -> bool:
        """Whether there is none: it is to be in a folder here, and nobody has made that."""
        found = self._provider
        return found.TYPE == "local" and not (Path(found.INFO) / found.DATASTORE_DIR).is_dir()

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

    def metadata(
        self, flow: str, run: str, step: str, tasks: Sequence[str], *, again: bool = False
    ) -> dict[str, list[dict[str, Any]]]:
        """What is noted of each of some tasks, a request for each."""
        del again  # nothing is remembered
        return {
            task: sorted(
                self._children("task", "metadata", flow, run, step, task),
                key=lambda each: int(each.get("ts_epoch") or 0),
            )
            for task in tasks
        }

    def storage(self, kind: str, root: str) -> Storage:
        """The datastore that an attempt names."""
        return Storage(kind, root)

    def _children(self, kind: str, below: str, *path: str) -> list[dict[str, Any]]:
        found = self._get(kind, below, *path) or []
        if not isinstance(found, list):
            raise UnreadableError(f"cannot read {self._what(path)}: the answer is not a list")
        return [_plain(each) for each in found if _is_whole(below, each)]

    def _get(self, kind: str, below: str, *path: str) -> Any:
        def ask() -> Any:
            self._before_request()
            return self._provider.get_object(kind, below, None, None, *path)

        return attempted(self._what(path), ask)

    def _what(self, path: Sequence[str]) -> str:
        return f"the metadata of {'/'.join(path) or 'flows'} at {self._where}"


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
