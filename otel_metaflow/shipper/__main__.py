"""`python -m otel_metaflow.shipper RUN_FOLDER`: delivers one run, then what others left behind."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import time
from pathlib import Path

from otel_metaflow import settings, spawn

# How long a shipper tries after its run's end before it leaves the rest to the next one, in seconds.
_LINGER = 600.0
# Behind the run, but not in the scheduler's idle class: a step that keeps all cores busy would starve it there.
_NICE = 10
# How long it leaves the cores to the run before it begins, in seconds: a line may take one to be on its way.
_GRACE = 0.5


def main(folder: Path) -> None:
    """Deliver the run in `folder`; ends at once where another process does."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    # Ctrl-C is meant for the run. A terminal that closes is none of our business either.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # What exporters log about failures is said better by the lanes.
    logging.getLogger().addHandler(logging.NullHandler())
    lock = spawn.try_lock(folder)
    if lock is None:
        return
    environment = settings.read()
    # The SDK and its exporters take a quarter of a second of CPU to import. The run's first tasks start
    # just now and want it more; a run that is over before that costs it nothing at all.
    time.sleep(_GRACE)
    gc.disable()  # a third of the import is collections that find nothing
    from otel_metaflow.shipper.sweep import ship, unfinished

    gc.enable()
    try:
        delivered = ship(environment, folder, linger=_LINGER)
    except FileNotFoundError:
        if folder.exists():
            raise
        return  # somebody removed the run's folder: there is nothing left to deliver
    os.close(lock)
    if not delivered:
        return
    for other in unfinished(environment.home):
        held = spawn.try_lock(other)
        if held is not None:
            ship(environment, other, linger=0.0)
            os.close(held)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
