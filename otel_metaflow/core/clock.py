"""The time, whatever user code makes of Python's `time` (freezegun, time-machine, a test's own patch).

The functions are kept as defaults of parameters: freezegun replaces them in the globals of every module.
time-machine changes what `time.time_ns` itself returns; the kernel's coarse clock is beside what it does,
behind the other by a tick (10 ms at most), and shows when that happened.
"""

from __future__ import annotations

import sys
import time
from typing import Callable, List

_REALTIME_COARSE = 5  # of Linux (clock_gettime(2)); Python has no name for it
_TICK = 20_000_000


def now(
    read: Callable[[], int] = time.time_ns,
    read_clock: Callable[[int], int] = time.clock_gettime_ns,
    coarse: int = _REALTIME_COARSE if sys.platform.startswith("linux") else time.CLOCK_REALTIME,
    last: List[int] = [0],  # noqa: B006 - what was told last is to be kept
) -> int:
    """Nanoseconds since 1970."""
    told, known = read(), read_clock(coarse)
    if not -_TICK < told - known < _TICK:
        # Not before what was told before, only because the coarse clock is behind.
        told = last[0] if 0 < last[0] - known < _TICK else known
    last[0] = told
    return told


def monotonic(read: Callable[[], int] = time.monotonic_ns) -> int:
    """Nanoseconds of a clock that nobody sets; the same one in all processes of a host, on Linux."""
    return read()
