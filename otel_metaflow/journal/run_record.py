"""The run's own journal, whose first and last record say what it is, and what becomes it if there is no launcher.

Then the last that knows of the run writes what its span needs: the task of its `end` step, or what Argo Workflows runs
when a workflow has failed. Neither knows of all attempts, so its record is `partial`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, Optional

from otel_metaflow.journal import layout
from otel_metaflow.journal.writer import Journal

_TAIL = 256  # bytes at a journal's end, enough for its last record


class RunRecord:
    """What is known of a run that is over; times are nanoseconds since 1970."""

    __slots__ = ("again", "error", "resource", "result", "started_at", "traceparent")

    def __init__(
        self,
        started_at: int,
        result: str,
        resource: Dict[str, Any],
        *,
        error: Optional[Dict[str, str]] = None,
        again: str = "",
        traceparent: str = "",
    ) -> None:
        """`again` is set if its span was written before, when it failed: a name that no other process has."""
        self.started_at = started_at
        self.result = result
        self.resource = resource
        self.error = error
        self.again = again
        self.traceparent = traceparent


def write(folder: Path, flow: str, run: str, namespace: str, record: RunRecord) -> None:
    """Write the run's journal into `folder`.

    Raises:
        OSError: it cannot be written.
    """
    layout.create_run_folder(folder)
    start: Dict[str, Any] = {
        "timeUnixNano": record.started_at,
        "version": layout.VERSION,
        "flow": flow,
        "run": run,
        "namespace": namespace,
        "resource": record.resource,
        "partial": True,
    }
    start.update({name: value for name in ("again", "traceparent") if (value := getattr(record, name))})
    end: Dict[str, Any] = {"result": record.result}
    if record.error:
        end["exception"] = record.error
    journal = Journal(folder / layout.RUN_FILE, lambda _: None)
    journal.append(layout.START, start)
    journal.append(layout.END, end)
    journal.append(layout.CLOSED, {})
    journal.close()


def is_backfilled(folder: Path) -> bool:
    """Whether the first record is of a run that was made from what Metaflow stored; without reading the others."""
    try:
        with (folder / layout.RUN_FILE).open("rb") as file:
            return b'"backfilled":true' in file.readline()
    except FileNotFoundError:
        return False


def is_closed(folder: Path) -> bool:
    """Whether the last record is the one that closes the journal; without reading the others."""
    try:
        with (folder / layout.RUN_FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            return b'{"kind":"%s"' % layout.CLOSED.encode() in file.read()
    except FileNotFoundError:
        return False
