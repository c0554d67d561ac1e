"""Sees that a shipper is at work on a run: one that stands by, or a new one, detached."""

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


def ensure(folder: Path) -> None:
    """See that the run in `folder` has a shipper.

    A new one gets a session of its own, so that neither Ctrl-C nor a closed terminal takes it along, and none of
    our pipes, on whose end somebody may be waiting.
    """
    if setbacks.reason(folder) is not None:
        return  # status, view and the run's last line tell why, and what to type
    if not lock.is_free(folder) or standby.ask(folder, _environment()):
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
        _detached("otel_metaflow.shipper.retention", home, nowhere)


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


def _environment() -> dict[str, str]:
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
