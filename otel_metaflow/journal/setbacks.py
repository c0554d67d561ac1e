"""Counts the shippers of a run that died without making progress, so that no more are started for it.

A file exists in the run's folder from the start of a shipper until its endpoint has answered or it exits normally, so a
shipper that is killed leaves it behind.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Dict, Iterator, Optional
from urllib.parse import unquote

_FILE = "shipper.died"
# A single death may be bad luck: a machine that was restarted, memory taken by another process.
_MAX_DEATHS = 2
_KILLED = "killed, perhaps because of low memory"


@contextlib.contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Record that a shipper is delivering the run in `folder`, until it exits normally or makes `progress`."""
    _write(folder, {"count": _read(folder).get("count", 0) + 1, "reason": _KILLED, "isOpen": True})
    try:
        yield
    except Exception as error:
        note(folder, error)
        raise
    except BaseException:  # Ctrl-C during `otel-metaflow ship`
        progress(folder)
        raise
    progress(folder)


def note(folder: Path, error: BaseException) -> None:
    """Record that a shipper died of `error`."""
    found = _read(folder)
    count = found.get("count", 0) + (0 if found.get("isOpen") else 1)
    _write(folder, {"count": count, "reason": f"{type(error).__name__}: {error}"[:300], "isOpen": False})


def progress(folder: Path) -> None:
    """Forget earlier deaths: a batch was settled, or the problem is the endpoint."""
    with contextlib.suppress(OSError):
        (folder / _FILE).unlink()


def reason(folder: Path) -> Optional[str]:
    """Why no shipper is started for the run any more, or None."""
    found = _read(folder)
    if found.get("isOpen"):  # by a shipper that is running, or was
        found["count"] -= 1
    if found.get("count", 0) < _MAX_DEATHS:
        return None
    name = "/".join(unquote(part) for part in folder.parts[-2:])
    died = f"its shipper died {found['count']} times ({found['reason']})"
    return f"is quarantined: {died}. Retry: otel-metaflow ship {name}"


def _read(folder: Path) -> Dict[str, Any]:
    try:
        found = json.loads((folder / _FILE).read_bytes())
        return {"count": int(found["count"]), "reason": str(found["reason"]), "isOpen": bool(found["isOpen"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(folder: Path, value: Dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        (folder / _FILE).write_text(json.dumps(value))
