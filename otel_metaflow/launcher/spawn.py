"""Makes sure that a shipper is delivering a run: one that stands by, or a new, detached one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from otel_metaflow.core import standby
from otel_metaflow.journal import layout, lock, setbacks

_STAMP = ".tidied"
_PATHS = ("_METAFLOW_HOME", "_METAFLOW_LOG_DIR", "_CERTIFICATE", "_CLIENT_KEY")
_TIDY_EVERY = 3600.0
_WRAPPER = os.path.join("opentelemetry", "instrumentation", "auto_instrumentation")


def ensure(folder: Path) -> subprocess.Popen[bytes] | None:
    """Make sure that the run in `folder` has a shipper; return the process, if a new one was started.

    A new one gets its own session, so that it survives Ctrl-C and a closed terminal, and none of our pipes, because a
    caller may wait for those to be closed.
    """
    if setbacks.reason(folder) is not None:
        return None  # status, view and the closing line print the reason
    if not lock.is_free(folder) or standby.ask(folder, _environment()):
        return None
    with open(folder / layout.SHIPPER_LOG, "ab") as log:
        return _detached("otel_metaflow.shipper", folder, log)


def tidy(home: Path) -> None:
    """Prune old journals from time to time, in a separate process, since the launcher is about to end."""
    stamp = home / _STAMP
    try:
        if time.time() - stamp.stat().st_mtime < _TIDY_EVERY:
            return
    except FileNotFoundError:
        pass
    stamp.touch(mode=0o600)
    with open(os.devnull, "ab") as nowhere:
        _detached("otel_metaflow.shipper.retention", home, nowhere)


def _detached(module: str, folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", module, str(folder)],
        # `-m` searches the working directory first: our folders contain no modules,
        # while a user's may contain a queue.py or a logging.py.
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    """Our environment, with relative paths made absolute, because the shipper runs in another folder.

    The folder that `opentelemetry-instrument` adds to PYTHONPATH is removed: it is meant for the flow, and would turn
    the shipper's own requests into spans.
    """
    env = dict(os.environ)
    for name, value in env.items():
        if value and name.startswith("OTEL_") and name.endswith(_PATHS):
            env[name] = os.path.abspath(os.path.expanduser(value))
    if env.get("PYTHONPATH"):
        parts = [os.path.abspath(part) for part in env["PYTHONPATH"].split(os.pathsep)]
        env["PYTHONPATH"] = os.pathsep.join(part for part in parts if not part.endswith(_WRAPPER))
    return env
