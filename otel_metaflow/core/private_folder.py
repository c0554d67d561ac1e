"""A user's own folder among the temporary files, where any user of the machine may have created one of that name."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def name() -> str:
    """Its name."""
    return f"otel-metaflow-{os.getuid()}"


def is_private(folder: Path) -> bool:
    """Whether it is a folder of this user's that nobody else may enter; False if there is none."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return _is_owned(found) and not found.st_mode & 0o077


def create(folder: Path) -> None:
    """Create the folder, or close it to others.

    Raises:
        OSError: it cannot be created, or something of another user is in its place.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_owned(folder.lstat()):
        raise PermissionError(errno.EPERM, f"{folder} belongs to another user", str(folder))
    if not is_private(folder):
        folder.chmod(0o700)


def _is_owned(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()  # a link is none
