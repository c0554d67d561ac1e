"""Counts the instructions of one process: exact to some hundredths of a per cent, whatever else the machine does.

What is counted must not depend on the machine: the hash seed is fixed, the environment is made here, and the modules
are compiled by a run that is not counted.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_COUNTED = re.compile(r"Collected : (\d+)")
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")
# As many variables as a shell, a CI job or a small pod has: a task looks at each of them.
ENVIRONMENT = {name: os.environ[name] for name in _INHERITED if name in os.environ} | {
    f"SERVICE_{number}_ADDRESS": f"10.0.0.{number}:8080" for number in range(30)
}


def counted(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> int:
    """The instructions of `command`, without those of processes that it starts.

    Raises:
        RuntimeError: it failed.
    """
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    finished = subprocess.run(
        [*valgrind, *command], env={**env, "PYTHONHASHSEED": "0"}, cwd=cwd, capture_output=True, text=True, check=False
    )
    found = _COUNTED.search(finished.stderr)
    if finished.returncode or found is None:
        raise RuntimeError(finished.stdout + finished.stderr)
    return int(found.group(1))


def slope(
    command: Sequence[str], env: Mapping[str, str], cwd: Path, variable: str, few: int, many: int, rounds: int = 1
) -> float:
    """Instructions for one more of what the environment's `variable` is the number of, from `few` to `many`.

    A process that waits for others takes a different way now and then: of such, the median of several `rounds`.
    """
    costs = [
        statistics.median(counted(command, {**env, variable: str(number)}, cwd) for _ in range(rounds))
        for number in (few, many)
    ]
    return (costs[1] - costs[0]) / (many - few)
