"""The lock of a run's delivery: one shipper at a time. The existence of its file means that the run had an endpoint."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Dict, Optional

from otel_metaflow.journal import layout
from otel_metaflow.journal.processes import is_alive, is_elsewhere, process_space, process_start

_OWNER = ".owner"  # beside the lock
_LONGEST = 86_400.0
_owned: Dict[int, Path] = {}


def is_shipping(folder: Path) -> bool:
    """Whether a shipper holds the lock of this run; the kernel releases it when the process ends, however it does."""
    return (folder / layout.LOCK_FILE).exists() and not is_free(folder)


def is_free(folder: Path, name: str = layout.LOCK_FILE) -> bool:
    """Whether no shipper holds the lock; creates its file."""
    lock = _try_lock(folder / name)
    if lock is None:
        return False
    release(lock)
    return True


def holder(folder: Path) -> Optional[int]:
    """The pid of the process that last took the lock, if it is alive; it may have released the lock since."""
    try:
        pid, start, *space = json.loads((folder / layout.LOCK_FILE).read_bytes())
        return int(pid) if not is_elsewhere(*space or ("",)) and is_alive(int(pid), start) else None
    except (OSError, ValueError, TypeError):  # not taken yet, or just being written
        return None


def try_lock(folder: Path, name: str = layout.LOCK_FILE) -> Optional[int]:
    """Take the shipper's lock of a run; return the descriptor that holds it, or None if another process does.

    The lock's file is created if necessary and names this process. `name` is for a container's shipper, of one attempt.

    Raises:
        OSError: the folder cannot be written.
    """
    descriptor = _try_lock(folder / name)
    if descriptor is not None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _this_process(), 0)
    return descriptor


def _this_process() -> bytes:
    return json.dumps([os.getpid(), process_start(), process_space()]).encode()


def _try_lock(path: Path) -> Optional[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        if error.errno not in layout.NO_LOCKS:
            raise
        owner = path.with_suffix(_OWNER)
        if not _own(owner):
            os.close(descriptor)
            return None
        _owned[descriptor] = owner
    return descriptor


def try_lock_quietly(folder: Path) -> Optional[int]:
    """Like `try_lock`, but return None if the folder cannot be written, since it may belong to another user."""
    try:
        return try_lock(folder)
    except OSError:
        return None


def release(lock: int) -> None:
    """Release a lock taken by `try_lock`."""
    owner = _owned.pop(lock, None)
    if owner is not None:
        owner.unlink(missing_ok=True)
    os.close(lock)


def _own(path: Path) -> bool:
    """Lock by a file that names this process, on a file system without flock(2).

    A file left by a process that has ended is stale; another machine's, whose processes cannot be looked at, in a day.
    """
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            if _lives(path):
                return False
            path.unlink(missing_ok=True)
            continue
        with os.fdopen(descriptor, "wb") as file:
            file.write(_this_process())
        return True
    return False


def _lives(owner: Path) -> bool:
    try:
        pid, start, *space = json.loads(owner.read_bytes())
        if is_elsewhere(*space or ("",)):
            return time.time() - owner.stat().st_mtime < _LONGEST
        return is_alive(int(pid), start)
    except FileNotFoundError:
        return False
    except (ValueError, TypeError):  # it is just being written
        return True
