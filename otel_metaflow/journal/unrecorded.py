"""What the tasks of a run could not record, saved for the launcher, which prints it in one line at the end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict

from otel_metaflow.journal.layout import INCOMPLETE_MARK


def note(folder: Path, what: str, reason: str) -> None:
    """Append a line to a file in `folder`, shared by all tasks of the run."""
    line = f"{what}\t{' '.join(reason.split())}\n"
    try:
        descriptor = os.open(folder / INCOMPLETE_MARK, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line.encode("utf-8", "replace"))
        finally:
            os.close(descriptor)
    except OSError:
        return  # the journals are on that disk, too, and the launcher reports that


def read(folder: Path) -> Dict[str, str]:
    """What the tasks could not record, each with its first reason."""
    try:
        text = (folder / INCOMPLETE_MARK).read_text("utf-8", "replace")
    except OSError:
        return {}
    found: Dict[str, str] = {}
    for line in text.splitlines():
        what, tab, reason = line.partition("\t")
        if tab:
            found.setdefault(what, reason)
    return found
