"""Samples the resource usage of running attempts from outside, without a thread in the user's process."""

from __future__ import annotations

import time
from typing import Dict, NamedTuple, Optional, Tuple

from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.model.run import Attempt
from otel_metaflow.shipper import gpu, process_tree

# Reading the process tree takes milliseconds, so it is not done each time the journals are read.
_INTERVAL = 10.0


class Sample(NamedTuple):
    """Resident bytes and CPU seconds so far of an attempt's process and its descendants."""

    memory: int
    cpu: float
    gpu: Optional[gpu.Use] = None


class UsageSampler:
    """Samples attempts, and remembers the largest memory of each."""

    def __init__(self) -> None:
        self._peaks: Dict[AttemptKey, int] = {}
        self._gpu_peaks: Dict[AttemptKey, int] = {}
        self._last: Dict[AttemptKey, Tuple[float, Optional[Sample]]] = {}

    def of(self, attempt: Attempt) -> Optional[Sample]:
        """The latest sample of a running attempt, at most ten seconds old; None if it cannot be sampled."""
        at, sample = self._last.get(attempt.key, (0.0, None))
        now = time.monotonic()
        if now - at >= _INTERVAL or not at:
            sample = _sample(int((attempt.start or {}).get("pid", 0)))
            self._last[attempt.key] = (now, sample)
            if sample is not None:
                self._peaks[attempt.key] = max(sample.memory, self.peak(attempt.key))
                if sample.gpu is not None:
                    self._gpu_peaks[attempt.key] = max(sample.gpu.memory, self.gpu_peak(attempt.key))
        return sample

    def forget(self, key: AttemptKey) -> None:
        """Nobody will ask for the attempt any more."""
        self._last.pop(key, None)
        self._peaks.pop(key, None)
        self._gpu_peaks.pop(key, None)

    def peak(self, key: AttemptKey) -> int:
        """The largest memory in any sample of the attempt, in bytes; 0 without a sample."""
        return self._peaks.get(key, 0)

    def gpu_peak(self, key: AttemptKey) -> int:
        """The same for device memory."""
        return self._gpu_peaks.get(key, 0)


def _sample(pid: int) -> Optional[Sample]:
    use = process_tree.of(pid)
    return Sample(use.memory, use.cpu, gpu.of(use.pids)) if use is not None and use.memory else None
