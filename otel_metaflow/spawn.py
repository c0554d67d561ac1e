"""Sees that a shipper is at work on a run: one that stands by, or a new one, detached."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Dict, Optional

from otel_metaflow import setbacks, standby
from otel_metaflow.journal import layout
from otel_metaflow.journal.writer import is_alive, process_start

_STAMP = ".tidied"
_OWNER = "shipper.owner"
_owned: Dict[int, Path] = {}
_PATHS = ("_METAFLOW_HOME", "_METAFLOW_LOG_DIR", "_CERTIFICATE", "_CLIENT_KEY")
_TIDY_EVERY = 3600.0
_WRAPPER = os.path.join("opentelemetry", "instrumentation", "auto_instrumentation")


def is_shipping(folder: Path) -> bool:
    """Whether a shipper holds the lock of this run; the kernel drops it with the process, however that dies."""
    return (folder / layout.LOCK_FILE).exists() and not _is_free(folder)


def _is_free(folder: Path) -> bool:
    lock = try_lock(folder)
    if lock is None:
        return False
    release(lock)
    return True


def try_lock(folder: Path) -> Optional[int]:
    """Take the shipper's lock of a run: the descriptor that holds it, or None where another process does.

    That its file is there says from then on that the run is meant to be delivered.

    Raises:
        OSError: the folder cannot be written.
    """
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
    """The same, and None also where the folder cannot be written: it may be another user's."""
    try:
        return try_lock(folder)
    except OSError:
        return None


def release(lock: int) -> None:
    """Let go of a lock that `try_lock` gave."""
    owner = _owned.pop(lock, None)
    if owner is not None:
        owner.unlink(missing_ok=True)
    os.close(lock)


def _own(folder: Path) -> bool:
    """Own the run where the file system has no flock(2), by a file that names this process.

    Who owned it and is gone, or was on another machine and has a number that is nobody's here, owns it no more.
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
        with os.fdopen(descriptor, "w") as file:
            json.dump([os.getpid(), process_start()], file)
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


def ensure(folder: Path) -> None:
    """See that the run in `folder` has a shipper.

    A new one gets a session of its own, so that neither Ctrl-C nor a closed terminal takes it along, and none of
    our pipes, on whose end somebody may be waiting.
    """
    if setbacks.reason(folder) is not None:
        return  # status, view and the run's last line tell why, and what to type
    if not _is_free(folder) or standby.ask(folder, _environment()):
        return
    with open(folder / layout.SHIPPER_LOG, "ab") as log:
        _detached("otel_metaflow.shipper", folder, log)


def tidy(home: Path) -> None:
    """See that journals are pruned now and then, by a process of its own: the launcher is about to end."""
    stamp = home / _STAMP
    try:
        if time.time() - stamp.stat().st_mtime < _TIDY_EVERY:
            return
    except FileNotFoundError:
        pass
    stamp.touch(mode=0o600)
    with open(os.devnull, "ab") as nowhere:
        _detached("otel_metaflow.shipper.prune", home, nowhere)


def _detached(module: str, folder: Path, log: IO[bytes]) -> None:
    subprocess.Popen(
        [sys.executable, "-m", module, str(folder)],
        # `-m` looks for modules in the working directory first: there are none in folders of ours,
        # while a user's may hold a queue.py or a logging.py.
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _environment() -> Dict[str, str]:
    """Our environment, with a PYTHONPATH that means the same in another folder.

    `opentelemetry-instrument` works by a folder on that path. It is meant for the flow: the shipper's own
    requests would become spans.
    """
    env = dict(os.environ)
    for name, value in env.items():
        # Of files and folders, too: the working directory is another there.
        if value and name.startswith("OTEL_") and name.endswith(_PATHS):
            env[name] = os.path.abspath(os.path.expanduser(value))
    if env.get("PYTHONPATH"):
        parts = [os.path.abspath(part) for part in env["PYTHONPATH"].split(os.pathsep)]
        env["PYTHONPATH"] = os.pathsep.join(part for part in parts if not part.endswith(_WRAPPER))
    return env
