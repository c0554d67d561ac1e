"""The real time, even if user code replaces Python's `time` (freezegun, time-machine, a test's own patch).

The functions are bound as defaults of parameters, because freezegun replaces them in the globals of every module.
time-machine changes the result of `time.time_ns` itself, but not the kernel's coarse clock, which lags behind by a tick
(10 ms at most): a larger difference between the two reveals it.
"""

from __future__ import annotations

import sys
import time
from typing import Callable, List

_REALTIME_COARSE = 5  # CLOCK_REALTIME_COARSE on Linux (clock_gettime(2)); Python has no constant for it
_TICK = 20_000_000


def now(
    read: Callable[[], int] = time.time_ns,
    read_clock: Callable[[int], int] = time.clock_gettime_ns,
    coarse: int = _REALTIME_COARSE if sys.platform.startswith("linux") else time.CLOCK_REALTIME,
    last: List[int] = [0],  # noqa: B006 - the result of the previous call
) -> int:
    """Nanoseconds since 1970."""
    result, reference = read(), read_clock(coarse)
    if not -_TICK < result - reference < _TICK:
        # The coarse clock may be behind the previous result: do not go back in time.
        result = last[0] if 0 < last[0] - reference < _TICK else reference
    last[0] = result
    return result


def monotonic(read: Callable[[], int] = time.monotonic_ns) -> int:
    """Nanoseconds of a clock that cannot be set; on Linux the same one in all processes of a host."""
    return read()
