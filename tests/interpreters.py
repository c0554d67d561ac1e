"""The Pythons of this machine: what `PATH` names, and what pyenv has installed, whichever of it is chosen."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

_MINORS = range(8, 20)  # what a task's side may meet, and a few that are not out yet


@functools.cache
def interpreters() -> dict[str, str]:
    """The program of each version, such as 3.10, from the oldest up; that of the tests is among them."""
    found = {f"3.{minor}": interpreter(f"3.{minor}") for minor in _MINORS}
    return {version: program for version, program in found.items() if program}


@functools.cache
def interpreter(version: str) -> str | None:
    """The program of one version, of an older one, too; None where there is none."""
    if version == f"3.{sys.version_info.minor}":
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    path = os.pathsep.join([*map(str, sorted(pyenv.glob("versions/3.*/bin"))), os.environ.get("PATH", "")])
    program = shutil.which(f"python{version}", path=path)
    # One of pyenv's shims is a program, but no Python unless its version is chosen.
    works = program and subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0
    return program if works else None
