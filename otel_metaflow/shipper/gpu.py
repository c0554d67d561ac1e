"""The usage of NVIDIA devices by processes, from `nvidia-smi`, if that is installed."""

from __future__ import annotations

from functools import lru_cache
from typing import AbstractSet, Iterator, List, NamedTuple, Optional, Sequence

_TIMEOUT = 5.0  # seconds; a faulty driver responds slowly
_MEBIBYTE = 1 << 20


class Use(NamedTuple):
    """Bytes of device memory, and the utilization of those devices, from 0 to 1."""

    memory: int
    utilization: Optional[float]


def of(pids: AbstractSet[int]) -> Optional[Use]:
    """The usage of the processes `pids` together; None if they use no device."""
    if not _tool():
        return None
    memory, devices = 0, set()
    for device, pid, used in _query("--query-compute-apps=gpu_uuid,pid,used_memory"):
        if pid.isdigit() and int(pid) in pids and used.isdigit():
            memory += int(used) * _MEBIBYTE
            devices.add(device)
    if not devices:
        return None
    busy = [
        int(use) / 100
        for device, use in _query("--query-gpu=uuid,utilization.gpu")
        if device in devices and use.isdigit()
    ]
    return Use(memory, sum(busy) / len(busy) if busy else None)


def _query(query: str) -> Iterator[Sequence[str]]:
    """The rows printed by nvidia-smi; none if it fails."""
    import subprocess  # where there is no such device, it is not needed

    try:
        answer = subprocess.run(
            [_tool() or "", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
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
    import shutil  # not before an attempt has run for a while

    return shutil.which("nvidia-smi")
