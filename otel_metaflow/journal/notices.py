"""The lines that a process prints when its journal cannot be written."""

from __future__ import annotations

from pathlib import Path

from otel_metaflow.core.guard import print_line


def print_unwritable(error: OSError, home: Path) -> None:
    """Report a folder in which no journal can be written."""
    print_line(
        f"no telemetry for this run: cannot write journals in {home} ({error.strerror}); "
        "set OTEL_METAFLOW_HOME to a writable folder"
    )


def print_unwritten(error: OSError) -> None:
    """Report a journal that can no longer be written."""
    print_line(f"telemetry is incomplete: cannot write to the journal ({error.strerror}); the run goes on")
