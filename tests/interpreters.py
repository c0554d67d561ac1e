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
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    path = os.pathsep.join([*map(str, sorted(pyenv.glob("versions/3.*/bin"))), os.environ.get("PATH", "")])
    found = {}
    for minor in _MINORS:
        version = f"3.{minor}"
        program = sys.executable if minor == sys.version_info.minor else shutil.which(f"python{version}", path=path)
        # One of pyenv's shims is a program, but no Python unless its version is chosen.
        if program and subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0:
            found[version] = program
    return found
