"""Fetches the journals that containers stored of themselves (otel_metaflow/task/stored_journals.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from otel_metaflow.backfill.stored_run import StoredRun
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.replacement import replacing
from otel_metaflow.model.run import Run

# The journal last, by which the others are known to be there.
_STREAMS = ("output", "ledger", "journal")


def names(attempt: int) -> list[str]:
    """The names of the files that a container stores of an attempt."""
    return [layout.stored_name(attempt, stream) for stream in _STREAMS]


def put(folder: Path, key: AttemptKey, files: Mapping[str, Path]) -> int:
    """Put what a container stored of an attempt in its place in `folder`; how many bytes, 0 if it stored no journal.

    `files` are copies of them, by name.
    """
    if layout.stored_name(key.attempt, "journal") not in files:
        return 0
    places = layout.container_files(folder, key)
    size = 0
    for stream in _STREAMS:
        source = files.get(layout.stored_name(key.attempt, stream))
        if source is not None:
            with replacing(places[stream]) as part:
                size += part.write_bytes(source.read_bytes())
                part.chmod(0o600)
    return size


def fetch_missing(stored: StoredRun, folder: Path, known: Run) -> list[int]:
    """Fetch those of attempts that the launcher here knows, and could not fetch itself; the bytes of each."""
    sizes = []
    for attempt in known.ran:
        if attempt.start is None and (attempt.launch or {}).get("remote"):
            key = attempt.key
            for found in stored.attempts(key.step, [{"task_id": key.task}])[0]:
                storage = stored.storage(found)
                if found.key == key and storage is not None:
                    where = stored.folder(key)
                    with storage.opened([f"{where}/{name}" for name in names(key.attempt)]) as files:
                        sizes.append(put(folder, key, {Path(path).name: file for path, file in files.items()}))
    return [size for size in sizes if size]
