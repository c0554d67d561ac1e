"""Stores the journals of a container in Metaflow's datastore, beside its own log files, when the attempt is over.

The container's last process stores Metaflow's log files (metaflow/mflog/save_logs.py). It has a client and a
connection; a process of our own would take half a second to get there. The disk of a container is gone with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

from otel_metaflow.core.guard import contain, guarded, seam
from otel_metaflow.journal import layout

SOURCE = "otel"
"""What the datastore calls the log files of ours, as ATTEMPT.otel_journal.log."""


@guarded
def send(over: str) -> None:
    """Have what the file `over` names, a folder and a journal in it, stored with the next log files."""
    mark = Path(over)
    folder, name = mark.read_text().splitlines()
    mark.unlink()
    _store_with_logs(layout.streams(Path(folder), name))


@seam("the journals of remote steps")
def _store_with_logs(streams: Dict[str, Path]) -> None:
    """Store `streams` once Metaflow has stored a task's log files (metaflow/datastore/task_datastore.py)."""
    from metaflow.datastore.task_datastore import TaskDataStore

    save = TaskDataStore.save_logs

    def saving(*args: Any, **kwargs: Any) -> Any:
        result = save(*args, **kwargs)
        found = {stream: path for stream, path in streams.items() if path.exists()}
        streams.clear()
        try:
            if found:
                save(args[0], SOURCE, found)
        except Exception as error:  # noqa: BLE001 - Metaflow's own log files are stored, and that is what counts
            contain(error, "the journals of remote steps")
        return result

    TaskDataStore.save_logs = saving
