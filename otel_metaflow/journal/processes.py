"""Identifies processes in journals, by pid and start time, which no later process shares."""

from __future__ import annotations

import os
import sys
import time
from typing import Optional

from otel_metaflow.core import clock


def process_start(pid: Optional[int] = None) -> Optional[int]:
    """When a process started, in clock ticks since boot: together with its pid, that identifies it.

    None if there is no such process, or no /proc.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        with open(f"/proc/{pid or 'self'}/stat", "rb") as stat:
            # The command's name, in parentheses, may contain anything (proc(5)); starttime is field 22.
            return int(stat.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def process_start_time() -> Optional[int]:
    """When this process started, in nanoseconds since 1970, with the precision of a tick (10 ms); Linux only."""
    ticks = process_start()
    if ticks is None:
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return clock.now() - int(age * 1e9)


def process_space() -> str:
    """Names the kernel and the namespace that pids of this process are of; empty where there is no /proc."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as boot:
            return f"{boot.read().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def is_alive(pid: int, start: Optional[int]) -> bool:
    """Whether the process `pid` that started at `start` is still running."""
    if start is not None and sys.platform.startswith("linux"):
        return process_start(pid) == start and not _is_zombie(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return True
