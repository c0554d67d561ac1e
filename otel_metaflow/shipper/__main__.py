"""`python -m otel_metaflow.shipper RUN_FOLDER`: delivers a run, what others left behind, and the next run."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Optional

from otel_metaflow.core import sdk_variables, settings, standby
from otel_metaflow.journal import layout, setbacks
from otel_metaflow.journal import lock as locks

# How long a shipper tries after its run's end before it leaves the rest to the next one, in seconds.
_LINGER = 600.0
# How long it tries to deliver what others left behind, each: it has just found the endpoint up.
_LINGER_OTHERS = 2.0
# Behind the run, but not in the scheduler's idle class: a step that keeps all cores busy would starve it there.
_NICE = 10
# How long it leaves the cores to the run before it begins, in seconds: a line may take one to be on its way.
_GRACE = 0.5
# So many runs are served by one process: whatever it may gather in memory over time ends with it.
_MOST_RUNS = 100


def main(folder: Path) -> None:
    """Deliver the run in `folder`, and then those of launchers that ask while it stands by."""
    _step_back()
    sdk_variables.remove_unused(os.environ)
    # Ctrl-C is meant for the run. A terminal that closes is none of our business either.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # What exporters log about failures is reported better by the signal workers.
    logging.getLogger().addHandler(logging.NullHandler())
    lock = locks.try_lock(folder)
    if lock is None:
        return
    # The SDK and its exporters take a quarter of a second of CPU to import. The run's first tasks start
    # just now and want it more; a run that is over before that costs it nothing at all.
    time.sleep(_GRACE)
    wake = threading.Event()
    waiting = standby.Standby(wake)
    for _ in range(_MOST_RUNS):
        _ship(folder, lock, waiting, wake)
        request = _next(waiting, wake)
        if request is None:
            return
        folder, lock = request


def _step_back() -> None:
    """Let the run go first on a busy machine."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    # Where the kernel weighs sessions rather than processes, a process's own niceness counts only against
    # the others of its session, and this one is alone in its own (sched(7), "The autogroup feature").
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICE))


def _next(waiting: standby.Standby, wake: threading.Event) -> Optional[tuple[Path, int]]:
    """Stand by; the run of the launcher that asks, with its lock, or None where none does in time."""
    seconds = settings.read().standby
    if not seconds:
        return None
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        wake.clear()
        if not waiting.has_request():
            wake.wait(deadline - time.monotonic())
        request = waiting.take()
        if request is not None:
            lock = _begin(request)
            if lock is not None:
                return request.folder, lock
    return None


def _begin(request: standby.Request) -> Optional[int]:
    """Become the shipper that the launcher would have started; the lock of its run, None where that fails."""
    try:
        lock = locks.try_lock(request.folder)
        if lock is None:
            request.decline()
            return None
        with (request.folder / layout.SHIPPER_LOG).open("ab") as log:
            for descriptor in (1, 2):
                os.dup2(log.fileno(), descriptor)
        os.chdir(request.folder)
    except OSError:
        request.decline()
        return None
    os.environ.clear()
    os.environ.update(request.environ)
    sdk_variables.remove_unused(os.environ)
    request.accept()
    return lock


def _ship(folder: Path, lock: int, waiting: standby.Standby, wake: threading.Event) -> None:
    """Deliver the run whose lock is held, then what others left behind."""
    try:
        gc.disable()  # a third of the import is collections that find nothing
        from otel_metaflow.shipper.backlog import ship_guarded, unfinished

        gc.enable()
    except Exception as error:  # an installation that is broken
        setbacks.note(folder, error)
        raise
    environment = settings.read()
    # In an outage the next run goes first: this one's rest stays on disk, and is tried again after it.
    give_way = waiting.has_request if environment.standby else None
    delivered = ship_guarded(environment, folder, linger=_LINGER, wake=wake, give_way=give_way)
    locks.release(lock)
    if not delivered:
        return
    for other in unfinished(environment.home):
        held = None if setbacks.reason(other) else locks.try_lock_quietly(other)
        if held is not None:
            ship_guarded(environment, other, linger=_LINGER_OTHERS)
            locks.release(held)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
