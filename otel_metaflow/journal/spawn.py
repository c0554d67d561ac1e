"""Makes sure that a shipper is delivering a run: one that stands by, or a new, detached one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Callable, Dict, List, Mapping, Optional

from otel_metaflow.journal import layout, lock, setbacks
from otel_metaflow.journal.keys import AttemptKey

_STAMP = ".tidied"
_PATHS = ("_METAFLOW_HOME", "_METAFLOW_LOG_DIR", "_CERTIFICATE", "_CLIENT_KEY")
_TIDY_EVERY = 3600.0
_PATIENCE = 5.0  # with a shell that starts another process
_WRAPPER = os.path.join("opentelemetry", "instrumentation", "auto_instrumentation")


def ensure(
    folder: Path, ask: Optional[Callable[[Path, Dict[str, str]], bool]] = None
) -> Optional[subprocess.Popen[bytes]]:
    """Make sure that the run in `folder` has a shipper; return the process, if a new one was started.

    `ask` asks one that stands by (`standby.ask`); without it, the new one does not stand by either: a container, to
    which that is not carried, has nobody who asks.

    A new one gets its own session, so that it survives Ctrl-C and a closed terminal, and none of our pipes, because a
    caller may wait for those to be closed.
    """
    if setbacks.reason(folder) is not None:
        return None  # status, view and the closing line print the reason
    if not lock.is_free(folder) or (ask is not None and ask(folder, _environment())):
        return None
    with open(folder / layout.SHIPPER_LOG, "ab") as log:
        return _detached("otel_metaflow.shipper", folder, log, {} if ask else {"OTEL_METAFLOW_STANDBY": "0"})


def start(folder: Path, attempt: AttemptKey) -> None:
    """Start the shipper of a container, for the one attempt that runs there, and leave its pid for the witness.

    A shell stands in between, so that it is no child of the task: user code that waits for all its children would
    wait for it, too.
    """
    command = [*_command("otel_metaflow.shipper", folder), layout.attempt_file(folder, attempt).name]
    detach = 'pid=$1; shift; "$@" & echo $! > "$pid"'
    with open(folder / layout.SHIPPER_LOG, "ab") as log:
        shell = ["/bin/sh", "-c", detach, "sh", layout.attempt_pid(attempt), *command]
        _popen(shell, folder, log, {}).wait(_PATIENCE)


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
        _detached("otel_metaflow.shipper.retention", home, nowhere, {})


def _detached(module: str, folder: Path, log: IO[bytes], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return _popen(_command(module, folder), folder, log, variables)


def _command(module: str, folder: Path) -> List[str]:
    return [sys.executable, "-m", module, str(folder)]


def _popen(command: List[str], folder: Path, log: IO[bytes], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        # `-m` searches the working directory first: our folders contain no modules,
        # while a user's may contain a queue.py or a logging.py.
        cwd=folder,
        env={**_environment(), **variables},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _environment() -> Dict[str, str]:
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
    root = os.path.abspath(__file__).rsplit(os.sep, 3)[0]
    if os.path.basename(root) == layout.CARRIED:  # no interpreter finds it by itself
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), root]))
    return env
