"""`python -m otel_metaflow.shipper RUN_FOLDER`: delivers one run, then what others left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

from otel_metaflow import settings, spawn

# How long a shipper tries after its run's end before it leaves the rest to the next one, in seconds.
_LINGER = 600.0
_NICE = 10


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
    # Imported only now: this process is started beside the run's first task, which needs the cores.
    from otel_metaflow.shipper.sweep import ship, unfinished

    delivered = ship(environment, folder, linger=_LINGER)
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
