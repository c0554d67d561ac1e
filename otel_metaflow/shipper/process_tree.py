"""What a process and its descendants use: on Linux by /proc, without a library; elsewhere by psutil."""

from __future__ import annotations

import contextlib
import os
from typing import Dict, FrozenSet, List, NamedTuple, Optional, Tuple

# Of /proc/PID/stat behind the name, which may hold anything: proc_pid_stat(5) counts from 1, and two stand before.
_PARENT, _USER, _SYSTEM, _RESIDENT = 4 - 3, 14 - 3, 15 - 3, 24 - 3


class Use(NamedTuple):
    """Resident bytes, the seconds of CPU used so far, and the processes."""

    memory: int
    cpu: float
    pids: FrozenSet[int]


def of(pid: int) -> Optional[Use]:
    """What `pid` and its descendants use together; None where it is not to be seen."""
    return _by_proc(pid) if os.path.exists("/proc/self/stat") else _by_psutil(pid)


def _by_proc(pid: int) -> Optional[Use]:
    stats: Dict[int, List[bytes]] = {}
    children: Dict[int, List[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # it may end just now
                fields = stats[int(name)] = file.read().rpartition(b")")[2].split()
                children.setdefault(int(fields[_PARENT]), []).append(int(name))
    if pid not in stats:
        return None
    family = [pid]
    for one in family:  # which grows meanwhile
        family += children.get(one, [])
    ticks = sum(int(stats[one][_USER]) + int(stats[one][_SYSTEM]) for one in family)
    pages = sum(int(stats[one][_RESIDENT]) for one in family)
    return Use(pages * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK"), frozenset(family))


def _by_psutil(pid: int) -> Optional[Use]:
    import psutil

    used: List[Tuple[int, float, int]] = []
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it ended just now
                times = one.cpu_times()
                used.append((one.memory_info().rss, times.user + times.system, one.pid))
    except (psutil.Error, ValueError):
        return None
    return Use(sum(each[0] for each in used), sum(each[1] for each in used), frozenset(each[2] for each in used))
