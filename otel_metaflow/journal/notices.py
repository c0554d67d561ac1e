"""The lines that a process prints when its journal cannot be written."""

from __future__ import annotations

from pathlib import Path

from otel_metaflow.core.guard import say


def say_unwritable(error: OSError, home: Path) -> None:
    """The one line about a folder of journals that takes none."""
    say(
        f"no telemetry for this run: cannot write journals in {home} ({error.strerror}); "
        "set OTEL_METAFLOW_HOME to a writable folder"
    )


def say_lost(error: OSError) -> None:
    """The one line about a journal that takes no more."""
    say(f"telemetry is incomplete: cannot write to the journal ({error.strerror}); the run goes on")
