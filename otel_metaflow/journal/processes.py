"""Identifies processes in journals, by pid and start time, which no later process shares.

A pid says nothing on another machine, or in another container. Processes that may be looked for from there hold a lock
on their journal, which the kernel releases when they end, however they do.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Optional, Union

from otel_metaflow.core import clock
from otel_metaflow.journal.layout import NO_LOCKS

# Where there are no locks, whoever has written to a journal within this time may live, in seconds.
_LATELY = 600.0


def process_start(pid: Optional[int] = None) -> Optional[int]:
    """When a process started, in clock ticks since boot: together with its pid, that identifies it.

    None if there is no such process, or no /proc.
    """
    if not sys.platform.startswith("linux"):
        return None
    return _stat(pid or "self", 22)


def parent_of(pid: int) -> Optional[int]:
    """The process that started a process; None if it has ended, or there is no /proc."""
    return _stat(pid, 4)


def _stat(pid: Union[int, str], field: int) -> Optional[int]:
    """A field of /proc/PID/stat, by its number in proc(5), from 4 on; None if there is no such process, or no /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The command's name, field 2, in parentheses, may contain anything.
            return int(stat.read().rpartition(b")")[2].split()[field - 3])
    except (OSError, IndexError, ValueError):
        return None


def process_start_time(pid: Optional[int] = None) -> Optional[int]:
    """When a process started, in nanoseconds since 1970, with the precision of a tick (10 ms); Linux only."""
    ticks = process_start(pid)
    if ticks is None:
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return clock.now() - int(age * 1e9)


@lru_cache(maxsize=1)
def process_space() -> str:
    """Names the kernel and the namespace that pids of this process are of; empty where there is no /proc."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as boot:
            return f"{boot.read().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def is_elsewhere(space: str) -> bool:
    """Whether pids of the process space `space` are of another machine or container; not if it is unknown."""
    return bool(space) and space != process_space()


def is_held(journal: Path) -> bool:
    """Whether a process that holds `journal` lives, on whatever machine; where there are no locks, whether it may."""
    try:
        with journal.open("rb+" if os.access(journal, os.W_OK) else "rb") as file:  # NFS asks for the former
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno in NO_LOCKS and time.time() - journal.stat().st_mtime < _LATELY
    return False


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
