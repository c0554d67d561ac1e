"""`python -m otel_metaflow.shipper RUN_FOLDER`: delivers a run, then undelivered earlier runs, then the next run.

In a container, with the name of a journal in that folder as second argument: delivers that one attempt.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from otel_metaflow.core import sdk_variables, settings
from otel_metaflow.journal import layout, setbacks
from otel_metaflow.journal import lock as locks

if TYPE_CHECKING:
    from otel_metaflow.core import standby

# How long a shipper retries after its run's end before it leaves the rest to the next one, in seconds.
_LINGER = 600.0
# How long it tries to deliver each undelivered earlier run, in seconds: the endpoint was up a moment ago.
_LINGER_OTHERS = 2.0
# Lower priority than the run, but not the scheduler's idle class, where a step that keeps all cores busy would starve
# it.
_NICE = 10
# How long it leaves the cores to the run before it starts, in seconds: lines may be delayed by a second.
_GRACE = 0.5
# How many runs one process serves, which limits the effect of a memory leak.
_MAX_RUNS = 100


def main(folder: Path, attempt: str = "") -> None:
    """Deliver the run in `folder`, and then those of launchers that send a request while it stands by.

    Or deliver a single attempt, given by the name of its journal in `folder`.
    """
    _lower_priority()
    sdk_variables.remove_unused(os.environ)
    _ignore_ctrl_c()
    if attempt:
        _ship_attempt(folder, attempt)
        return
    lock = locks.try_lock(folder)
    if lock is None:
        return
    # Importing the SDK and its exporters takes a quarter of a second of CPU, which the run's first tasks need now.
    time.sleep(_GRACE)
    wake = threading.Event()
    idle = _standby(wake)
    for _ in range(_MAX_RUNS):
        _ship(folder, lock, idle, wake)
        request = _next(idle, wake)
        if request is None:
            return
        folder, lock = request


def _ignore_ctrl_c() -> None:
    """Go on after Ctrl-C, which is meant for the run, and after the terminal is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _lower_priority() -> None:
    """Let the run go first on a busy machine."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    # If the kernel weighs sessions rather than processes, niceness only has an effect within the session, in which this
    # process is alone (sched(7), "The autogroup feature").
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICE))


def _standby(wake: threading.Event) -> Optional[standby.Standby]:
    """What hears the requests of launchers; None if no time is given to stand by."""
    if not settings.read().standby:
        return None
    from otel_metaflow.core import standby

    return standby.Standby(wake)


def _next(idle: Optional[standby.Standby], wake: threading.Event) -> Optional[tuple[Path, int]]:
    """Stand by for the request of a launcher; return its run and the lock, or None if there is no request in time."""
    seconds = settings.read().standby
    if idle is None or not seconds:
        return None
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        wake.clear()
        if not idle.has_request():
            wake.wait(deadline - time.monotonic())
        request = idle.take()
        if request is not None:
            lock = _begin(request)
            if lock is not None:
                return request.folder, lock
    return None


def _begin(request: standby.Request) -> Optional[int]:
    """Become the shipper that the launcher would have started; return the lock of its run, or None if that fails."""
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


def _ship(folder: Path, lock: int, idle: Optional[standby.Standby], wake: threading.Event) -> None:
    """Deliver the run whose lock is held, then undelivered earlier runs."""
    try:
        gc.disable()  # a third of the import time is garbage collections that free nothing
        from otel_metaflow.shipper.backlog import ship_guarded, unfinished

        gc.enable()
    except Exception as error:  # a broken installation
        setbacks.note(folder, error)
        raise
    environment = settings.read()
    # In an outage the next run goes first: the rest of this one stays on disk and is retried later.
    give_way = idle.has_request if idle is not None and environment.standby else None
    delivered = ship_guarded(environment, folder, linger=_LINGER, wake=wake, give_way=give_way)
    locks.release(lock)
    if not delivered:
        return
    for other in unfinished(environment.home):
        held = None if setbacks.reason(other) else locks.try_lock_quietly(other)
        if held is not None:
            ship_guarded(environment, other, linger=_LINGER_OTHERS)
            locks.release(held)


def _ship_attempt(folder: Path, name: str) -> None:
    """Deliver what is in this container; the witness waits for the end of this process (task/witness.sh)."""
    # At the end of a container, or of its launcher, it goes to all processes; this one has something to send then.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gc.disable()  # a third of the import time is garbage collections that free nothing
    from otel_metaflow.shipper import container
    from otel_metaflow.shipper.backlog import ship_guarded

    gc.enable()
    # Files for an agent on this machine: a container has none, and what writes them is not carried there.
    environment = settings.read()._replace(log_dir=None)
    key = layout.attempt_key(folder / name)
    if locks.try_lock(folder, layout.attempt_lock(key) if key else layout.LOCK_FILE) is None:
        return
    # Without an attempt it is the run alone, of a workflow that has failed (task/argo_failure.py).
    following = container.ContainerFollowing(environment.home, folder, key, environment) if key else None
    # Once the attempt is over the container is to end, as soon as its witness does not wait any longer.
    linger = environment.flush_timeout
    ship_guarded(environment, folder, linger=linger, following=following, poll=container.POLL, is_awaited=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
