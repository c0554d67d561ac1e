"""Bounds what watching costs: how often something is looked at, requests a minute, and the share of a core."""

from __future__ import annotations

import os
import time

# The part of an age that may pass until what is so old is looked at again, and the longest time, in seconds.
_SHARE_OF_AGE = 0.1
_LONGEST = 300.0
# What a pass over everything takes of a core, at most.
_SHARE_OF_CORE = 0.1


class Pace:
    """How often to do what; times are in seconds."""

    def __init__(self, every: float, requests_per_minute: int) -> None:
        self.every = every
        self.longest = max(every, _LONGEST)
        self._interval = 60.0 / requests_per_minute
        # What was not used of half a minute may be used at once.
        self._burst = 30.0
        self._next = time.monotonic() - self._burst
        self._used = _cpu_seconds()

    def pause(self, age: float) -> float:
        """How long to leave something alone that began so long ago."""
        return min(max(self.every, age * _SHARE_OF_AGE), self.longest)

    def wait_for_request(self) -> None:
        """Wait until another request may be made."""
        now = time.monotonic()
        self._next = max(self._next + self._interval, now - self._burst)
        if self._next > now:
            time.sleep(self._next - now)

    def between_passes(self, failures: int) -> float:
        """How long to wait after a pass, after so many in a row that failed."""
        used = _cpu_seconds()
        rest = (used - self._used) * (1 / _SHARE_OF_CORE - 1)
        self._used = used
        backoff = self.every * 2.0 ** min(failures, 10)
        return max(self.every, min(max(rest, backoff), _LONGEST))


def _cpu_seconds() -> float:
    """What this process has used, with its children: Metaflow reads S3 in some."""
    return sum(os.times()[:4])
