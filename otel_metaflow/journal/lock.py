"""The lock of a run's delivery: one shipper at a time. The existence of its file means that the run had an endpoint."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Dict, Optional

from otel_metaflow.journal import layout
from otel_metaflow.journal.processes import is_alive, process_start

_OWNER = "shipper.owner"
_owned: Dict[int, Path] = {}


def is_shipping(folder: Path) -> bool:
    """Whether a shipper holds the lock of this run; the kernel releases it when the process ends, however it does."""
    return (folder / layout.LOCK_FILE).exists() and not is_free(folder)


def is_free(folder: Path) -> bool:
    """Whether no shipper holds the lock; creates its file."""
    lock = _try_lock(folder)
    if lock is None:
        return False
    release(lock)
    return True


def holder(folder: Path) -> Optional[int]:
    """The pid of the process that last took the lock, if it is alive; it may have released the lock since."""
    try:
        pid, start = json.loads((folder / layout.LOCK_FILE).read_bytes())
        return int(pid) if is_alive(int(pid), start) else None
    except (OSError, ValueError, TypeError):  # not taken yet, or just being written
        return None


def try_lock(folder: Path) -> Optional[int]:
    """Take the shipper's lock of a run; return the descriptor that holds it, or None if another process does.

    The lock's file is created if necessary and names this process.

    Raises:
        OSError: the folder cannot be written.
    """
    descriptor = _try_lock(folder)
    if descriptor is not None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _this_process(), 0)
    return descriptor


def _this_process() -> bytes:
    return json.dumps([os.getpid(), process_start()]).encode()


def _try_lock(folder: Path) -> Optional[int]:
    descriptor = os.open(folder / layout.LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        if error.errno not in layout.NO_LOCKS:
            raise
        if not _own(folder):
            os.close(descriptor)
            return None
        _owned[descriptor] = folder / _OWNER
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


def _own(folder: Path) -> bool:
    """Lock the run by a file that names this process, on a file system without flock(2).

    A file left by a process that has ended, or whose pid does not exist on this machine, is stale.
    """
    path = folder / _OWNER
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
        pid, start = json.loads(owner.read_bytes())
        return is_alive(int(pid), start)
    except FileNotFoundError:
        return False
    except (ValueError, TypeError):  # it is just being written
        return True
