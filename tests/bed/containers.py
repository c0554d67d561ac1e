"""Containers of podman and runc on the host's network: real images, real memory limits, real kills; output is kept."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from parts import PODMAN, image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from typing_extensions import Self

COLLECTOR = "collector.bed"
"""A name that a container knows, as a cluster's DNS would: this machine."""

_ULIMITS = ("--ulimit=nofile=20000:20000", "--ulimit=nproc=10000:10000")  # below what this machine may have to give


class Ended(NamedTuple):
    """How a container ended."""

    code: int
    is_out_of_memory: bool


class Containers:
    """Those of one platform; what still runs is removed on exit."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *options: str) -> None:
        """`environment` is added to that of each container, as an image's own is; `options` are of `podman run`."""
        self.folder = folder
        self._options = options
        self._environment = environment
        self._running: set[str] = set()

    def __enter__(self) -> Self:
        image()
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._running):
            subprocess.run([*PODMAN, "rm", "--force", name], check=False, capture_output=True)

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], *options: str, of: str = ""
    ) -> subprocess.Popen[bytes]:
        """Start a container, whose process is that of podman, from the image `of`."""
        options += ("--network=host", f"--name={name}", f"--add-host={COLLECTOR}:127.0.0.1", *_ULIMITS)
        options += self._options
        variables = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root", **self._environment}
        variables.update(environment)
        options += tuple(f"--env={variable}={value}" for variable, value in variables.items())
        first, *rest = command
        self._running.add(name)
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*PODMAN, "run", *options, "--entrypoint", json.dumps([first]), image(of), *rest],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,  # where podman leaves a file when memory runs out
            )

    def wait(self, name: str, process: subprocess.Popen[bytes]) -> Ended:
        """Wait for the end of a container that was started, and remove it."""
        code = process.wait()
        inspected = subprocess.run(
            [*PODMAN, "inspect", "--format={{.State.OOMKilled}}", name], capture_output=True, text=True, check=False
        )
        if not os.environ.get("BED_KEEP"):
            subprocess.run([*PODMAN, "rm", "--force", name], check=False, capture_output=True)
        self._running.discard(name)
        return Ended(code, inspected.stdout.strip() == "true")

    def running(self, prefix: str) -> set[str]:
        """The names of containers that run, of those that begin with `prefix`."""
        return {name for name in list(self._running) if name.startswith(prefix)}

    def kill(self, prefix: str, signal: str = "KILL") -> None:
        """Send a signal to containers; SIGKILL ends all processes of one at once.

        That is what the kernel does on cgroup v2 when memory runs out.
        """
        for name in self.running(prefix):
            subprocess.run([*PODMAN, "kill", f"--signal={signal}", name], check=False, capture_output=True)

    def outputs(self) -> dict[str, str]:
        """What each container printed, by name, the oldest first."""
        found = sorted(self.folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
        return {path.stem: path.read_text("utf-8", "replace") for path in found}


def memory_limit(size: int) -> tuple[str, str]:
    """The options for a limit in bytes, without swap."""
    return f"--memory={size}", f"--memory-swap={size}"
