"""What an attempt used: read at its start and at its end, never sampled by a thread in the task."""

from __future__ import annotations

import resource
import sys
from typing import Dict, Optional


def cpu_seconds() -> float:
    """CPU time of this process and of its children that ended, in seconds."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def memory_peak() -> int:
    """The largest resident set in bytes of this process or of one of its children that ended."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): kilobytes, but bytes on macOS
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    return max(_own_peak() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, children)


def _own_peak() -> Optional[int]:
    """VmHWM of this process: ru_maxrss begins with the size of the process that started this one (Linux)."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    return None


def input_output() -> Dict[str, int]:
    """Bytes read from and written to storage (proc_pid_io(5)), where the kernel tells."""
    try:
        with open("/proc/self/io", "rb") as counters:
            values = dict(line.split(b": ") for line in counters)
        return {"read": int(values[b"read_bytes"]), "written": int(values[b"write_bytes"])}
    except (OSError, KeyError, ValueError):
        return {}
