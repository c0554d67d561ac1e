"""What processes use of NVIDIA devices, as `nvidia-smi` tells it; nothing is loaded where there is none."""

from __future__ import annotations

import shutil
import subprocess
from functools import lru_cache
from typing import AbstractSet, Iterator, List, NamedTuple, Optional, Sequence

_PATIENCE = 5.0  # seconds; a driver in trouble answers slowly
_MEBIBYTE = 1 << 20


class Use(NamedTuple):
    """Bytes of device memory, and how busy the devices are on which they lie, from 0 to 1."""

    memory: int
    utilization: Optional[float]


def of(pids: AbstractSet[int]) -> Optional[Use]:
    """What the processes `pids` use together; None where they use no device."""
    if not _tool():
        return None
    memory, devices = 0, set()
    for device, pid, used in _ask("--query-compute-apps=gpu_uuid,pid,used_memory"):
        if pid.isdigit() and int(pid) in pids and used.isdigit():
            memory += int(used) * _MEBIBYTE
            devices.add(device)
    if not devices:
        return None
    busy = [
        int(use) / 100
        for device, use in _ask("--query-gpu=uuid,utilization.gpu")
        if device in devices and use.isdigit()
    ]
    return Use(memory, sum(busy) / len(busy) if busy else None)


def _ask(query: str) -> Iterator[Sequence[str]]:
    """The rows that nvidia-smi answers; none where it fails."""
    try:
        answer = subprocess.run(
            [_tool() or "", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return
    columns = query.count(",") + 1
    for line in answer.stdout.splitlines():
        row: List[str] = [part.strip() for part in line.split(",")]
        if len(row) == columns:
            yield row


@lru_cache(maxsize=1)
def _tool() -> Optional[str]:
    return shutil.which("nvidia-smi")
