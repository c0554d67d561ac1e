"""Where the benchmarks run: three installations of Metaflow, endpoints in every state, and a fair clock."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from collectors import Collector
from environments import OTHER, Environment, build, copy_of_source, write_files

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, prctl(2)
_TICK = os.sysconf("SC_CLK_TCK")


def adopt_shippers() -> None:
    """Become the parent of the shippers that launchers leave behind, so that their CPU is counted."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def environments(directory: Path) -> dict[str, Environment]:
    """Metaflow alone, with an empty extension, and with ours; byte-compiled, as installed packages are."""
    made = {}
    for name in ("alone", "empty", "otel"):
        (directory / name).mkdir()
        made[name] = Environment(directory / name)
    (directory / "wheels").mkdir()
    made["empty"].install(str(build(write_files(directory / "other", OTHER), directory / "wheels")))
    (directory / "ours").mkdir()
    made["otel"].install(str(build(copy_of_source(directory / "source"), directory / "ours")))
    return made


@contextlib.contextmanager
def endpoints(directory: Path) -> Iterator[dict[str, str]]:
    """The endpoint of each state that has one: the real collector, nothing, and one that never answers.

    The collector has no destination: what vendors cost is not the run's affair, and would share its cores here.
    """
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(Collector(directory, {}))
        hole = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        refused = stack.enter_context(socket.socket())
        refused.bind(("127.0.0.1", 0))
        yield {
            "up": collector.http,
            "collector's metrics": collector.telemetry,
            "refused": f"http://127.0.0.1:{refused.getsockname()[1]}",
            "black hole": f"http://127.0.0.1:{hole.getsockname()[1]}",
        }


def variables(
    place: Path, label: str, url: str | None = None, *, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The environment of runs under `label`: journals and a standing-by shipper of their own."""
    own = place / label.replace(" ", "-").replace(",", "")
    (own / "runtime").mkdir(parents=True, exist_ok=True)
    plain = {name: value for name, value in inherited.items() if not name.startswith(("OTEL_", "METAFLOW_"))}
    plain.pop("PYTHONDONTWRITEBYTECODE", None)
    made = {
        **plain,
        "METAFLOW_USER": "bench",
        "METAFLOW_HOME": str(place),
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(own),
        "OTEL_METAFLOW_HOME": str(own / "journals"),
        "XDG_RUNTIME_DIR": str(own / "runtime"),
        # As on an ordinary host: only where it would be lost does a launcher wait for its shipper.
        "OTEL_METAFLOW_FLUSH_TIMEOUT": "0",
        "OTEL_METAFLOW_STANDBY": "600",
    }
    return made if url is None else {**made, "OTEL_EXPORTER_OTLP_ENDPOINT": url}


@dataclass(frozen=True)
class Cost:
    """What a run took, in seconds; CPU of all its processes, of the shipper too."""

    wall: float
    cpu: float


def measure(command: Sequence[str], cwd: Path, env: Mapping[str, str], *, settle: bool = True) -> Cost:
    """Run a command to its end; `settle` waits until its shipper has done what it can do.

    Raises:
        RuntimeError: it failed.
    """
    before = _cpu()
    started = time.perf_counter()
    finished = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    if finished.returncode:
        raise RuntimeError(finished.stdout + finished.stderr)
    if settle:
        _settle()
    return Cost(wall, _cpu() - before)


def shippers() -> list[int]:
    """The shippers that were left with us."""
    with open(f"/proc/self/task/{os.getpid()}/children") as children:
        pids = [int(pid) for pid in children.read().split()]
    return [pid for pid in pids if b"otel_metaflow.shipper" in _read(f"/proc/{pid}/cmdline")]


def end_shippers() -> None:
    """Let none go on into the next measurement."""
    for pid in shippers():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _settle() -> None:
    """Wait until the shippers have nothing more to do for now: what they spent belongs to the run."""
    before = -1.0
    while (now := sum(map(_cpu_of, shippers()))) != before:
        before = now
        time.sleep(0.3)  # less than a shipper's pause between two looks at its journals is at work


def _cpu() -> float:
    while True:  # children that ended and that nobody else waits for
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime + sum(map(_cpu_of, shippers()))


def _cpu_of(pid: int) -> float:
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK if fields else 0.0


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def quartiles(values: list[float], scale: float) -> str:
    """The median, and in brackets the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle * scale:+.1f} ({low * scale:+.1f} to {high * scale:+.1f})"
