"""How often a run's shippers died without getting anywhere, and of what: so that no more are sent after them.

There is a file in the run's folder from the moment that a shipper begins until its endpoint has answered, or until it
ends in order: one that is killed leaves it.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Dict, Iterator, Optional
from urllib.parse import unquote

_FILE = "shipper.died"
# So many in a row are chance: a machine that was restarted, memory that another process took.
_MOST = 2
_KILLED = "killed, perhaps for want of memory"


@contextlib.contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Note that a shipper is at work on the run in `folder`, until it ends in order or shows `progress`."""
    _write(folder, {"count": _read(folder).get("count", 0) + 1, "reason": _KILLED, "isOpen": True})
    try:
        yield
    except Exception as error:
        note(folder, error)
        raise
    except BaseException:  # Ctrl-C, of who ships it by hand
        progress(folder)
        raise
    progress(folder)


def note(folder: Path, error: BaseException) -> None:
    """A shipper died of `error`."""
    found = _read(folder)
    count = found.get("count", 0) + (0 if found.get("isOpen") else 1)
    _write(folder, {"count": count, "reason": f"{type(error).__name__}: {error}"[:300], "isOpen": False})


def progress(folder: Path) -> None:
    """What the shippers died of before is over: something was settled, or the endpoint is what is in the way."""
    with contextlib.suppress(OSError):
        (folder / _FILE).unlink()


def reason(folder: Path) -> Optional[str]:
    """Why no shipper is started for the run any more; None where one may be."""
    found = _read(folder)
    if found.get("isOpen"):  # by one that is at work, or was
        found["count"] -= 1
    if found.get("count", 0) < _MOST:
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
