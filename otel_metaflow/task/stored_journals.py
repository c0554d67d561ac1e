"""Stores the journals of a container in Metaflow's datastore, beside its own log files: now and then, and at the end.

The processes that store Metaflow's log files, in a container, do that (metaflow/mflog/save_logs.py). They have a client
and a connection; a process of our own would take half a second to get there. The disk of a container is gone with it,
and if it is killed as a whole there is no end: then what was stored last says what of its lines it has delivered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict

from otel_metaflow.core.guard import contain, guarded, seam
from otel_metaflow.journal import layout

_METAFLOW_SOURCE = "task"  # metaflow/mflog/__init__.py, TASK_LOG_SOURCE
# While an attempt runs, larger journals are not stored, in bytes: each time it is all of them.
_MAX_BYTES = 16 << 20


@guarded
def send(mark: str, *, is_over: bool) -> None:
    """Have what the file `mark` names, a folder and a journal in it, stored with the next log files.

    The file is gone when that is no longer to be done.
    """
    path = Path(mark)
    folder, name = path.read_text().splitlines()
    streams = layout.streams(Path(folder), name)
    if is_over:
        path.unlink()
        _store_with_logs(streams, lambda: True)
    else:
        _store_with_logs(streams, lambda: path.exists() and _size(streams) <= _MAX_BYTES)


def _size(streams: Dict[str, Path]) -> int:
    return sum(path.stat().st_size for path in streams.values() if path.exists())


@seam("the journals of remote steps")
def _store_with_logs(streams: Dict[str, Path], is_wanted: Callable[[], bool]) -> None:
    """Store `streams` once Metaflow has stored a task's log files (metaflow/datastore/task_datastore.py)."""
    from metaflow.datastore.task_datastore import TaskDataStore

    save = TaskDataStore.save_logs

    def saving(*args: Any, **kwargs: Any) -> Any:
        result = save(*args, **kwargs)
        if _METAFLOW_SOURCE not in (*args[1:2], kwargs.get("logsource")):
            return result
        try:
            if is_wanted():
                # The ledger last: what it has is in the journals before it.
                for names in (("journal", "output"), ("ledger",)):
                    found = {name: streams[name] for name in names if streams[name].exists()}
                    if found:
                        save(args[0], layout.STORED, found)
        except Exception as error:  # noqa: BLE001 - Metaflow's own log files are stored, and that is what counts
            contain(error, "the journals of remote steps")
        return result

    TaskDataStore.save_logs = saving
