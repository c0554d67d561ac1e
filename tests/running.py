"""Runs real flows as a user would, in processes of their own, and reads their journals."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from otel_metaflow.journal import layout
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.keys import RunKey
from otel_metaflow.model.run import Run, load

_T = TypeVar("_T")
# Of artifacts that Metaflow wrote: the garbage collector of Python 3.13.0 prints it, with us or without.
_GZIP = re.compile(r"Exception ignored in: <gzip on .*>\n(?:.*\n){1,5}?ValueError: I/O operation on closed file\.\n")
_RUN_ID = re.compile(r"Workflow starting \(run-id ([^)]+)\)")


@dataclass(frozen=True)
class Finished:
    """A flow that was run: what its user saw, and where its journals lie."""

    code: int
    stdout: str
    stderr: str
    flow: str
    run: str
    home: Path

    @property
    def folder(self) -> Path:
        return layout.run_folder(self.home, RunKey(self.flow, self.run))

    @property
    def story(self) -> Run:
        return load(self.home, self.folder)

    @property
    def status(self) -> DeliveryStatus:
        return DeliveryStatus.read(self.folder)

    def wait_delivered(self, timeout: float = 30) -> DeliveryStatus:
        """Wait until the shipper has noted that the run is fully delivered."""
        return eventually(lambda: self.status if self.status.complete else None, timeout, str(self.folder))


@dataclass(frozen=True)
class Place:
    """A folder to run flows in: their files, Metaflow's datastore and our journals."""

    path: Path

    @property
    def home(self) -> Path:
        return self.path / "journals"

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a user's shell: nothing of OpenTelemetry but `extra`."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "METAFLOW_"))}
        env.pop("PYTEST_CURRENT_TEST", None)
        env.pop("CI", None)
        env["METAFLOW_USER"] = "tester"
        env["METAFLOW_HOME"] = str(self.path / "metaflow")
        env["METAFLOW_DATASTORE_SYSROOT_LOCAL"] = str(self.path / "datastore")
        env["OTEL_METAFLOW_HOME"] = str(self.home)
        env["OTEL_METAFLOW_STANDBY"] = "0"  # each test has shippers of its own
        env.update(extra or {})
        return env

    def write(self, source: str, name: str = "flow.py") -> Path:
        """Write the source of a flow; it may be indented as the test is."""
        file = self.path / name
        file.write_text(textwrap.dedent(source))
        return file

    def start(self, flow: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start `flow.py run` in a session of its own."""
        return subprocess.Popen(
            [sys.executable, str(flow), "--no-pylint", "run", *arguments],
            cwd=self.path,
            env=self.environ(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 120) -> Finished:
        """Wait for the end of a flow that was started."""
        stdout, stderr = process.communicate(timeout=timeout)
        found = _RUN_ID.search(stdout)
        flow = re.search(r"executing (\w+)", stderr)
        return Finished(
            process.returncode,
            stdout,
            stderr,
            flow.group(1) if flow else "",
            found.group(1) if found else "",
            self.home,
        )

    def run(
        self, flow: Path | str, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 120
    ) -> Finished:
        """Run a flow, given as a file or as its source, to its end."""
        file = self.write(flow) if isinstance(flow, str) else flow
        return self.finish(self.start(file, *arguments, env=env), timeout)

    def start_shipper(self, folder: Path, url: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start the shipper of the run in `folder`, to the endpoint `url`, as a launcher does."""
        env = self.environ({"OTEL_EXPORTER_OTLP_ENDPOINT": url, **variables})
        with (folder / layout.SHIPPER_LOG).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "otel_metaflow.shipper", str(folder)], env=env, stdout=log, stderr=log
            )

    def cli(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run `otel-metaflow`."""
        return subprocess.run(
            [sys.executable, "-m", "otel_metaflow.cli", *arguments],
            cwd=self.path,
            env=self.environ(env),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def eventually(probe: Callable[[], _T | None], timeout: float = 30, what: str = "") -> _T:
    """Ask `probe` until it answers; for conditions of other processes, which send no event."""
    deadline = time.monotonic() + timeout
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or probe}")
        time.sleep(0.05)


def seen(finished: Finished) -> tuple[int, list[str], list[str]]:
    """What the user saw of a run, without what differs from run to run: times, run id, pids."""

    def normal(text: str) -> list[str]:
        text = _GZIP.sub("", text)
        text = text.replace(finished.run, "RUN") if finished.run else text
        text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", "TIME", text)
        return re.sub(r"\(pid \d+\)", "(pid)", text).splitlines()

    ours = [line for line in normal(finished.stderr) if not line.startswith("otel: ")]
    # Sorted: the launcher reads two pipes of a task, and which comes first is chance without us too.
    return finished.code, sorted(normal(finished.stdout)), ours
