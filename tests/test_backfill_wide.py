"""A run of a thousand tasks and a hundred thousand lines is backfilled within bounds."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from endpoint import Endpoint
from running import Place
from wide_runs import memory_peak

FLOW = """
from metaflow import FlowSpec, step
class WideFlow(FlowSpec):
    @step
    def start(self):
        self.shards = [0]
        self.next(self.work, foreach="shards")
    @step
    def work(self):
        print("a line")
        self.next(self.join)
    @step
    def join(self, inputs):
        self.next(self.end)
    @step
    def end(self):
        pass
if __name__ == "__main__":
    WideFlow()
"""
TASKS, LINES = 1_000, 100_000
MAX_MEMORY = 200 << 20


def widen(stored: Path) -> None:
    """Store the only task of `work` again and again, as its siblings, each with lines of its own."""
    (model,) = (path for path in (stored / "work").iterdir() if path.name != "_meta")
    files = {path.relative_to(model): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    for number in range(TASKS):
        task = str(100 + number)
        for name, data in files.items():
            text = data
            if name.parts[0] == "_meta":
                value = json.loads(data) | {"task_id": task}
                if value.get("field_name") == "foreach-execution-path":
                    value["value"] = f"work:{number}"
                text = json.dumps(value).encode()
            elif name.name == "0.runtime_stdout.log":
                text = b"".join(map(line, range(LINES // TASKS)))
            path = stored / "work" / task / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
    shutil.rmtree(model)


def line(number: int) -> bytes:
    words = f"step {number}: loss={number / 7:.4f} accuracy={number / 11:.4f}, and some words as lines have them"
    return f"[MFLOG|0|2026-11-28T12:00:{number % 60:02}.000000Z|runtime|{uuid.uuid4()}]{words}\n".encode()


@pytest.mark.parametrize("how", [(), ("--datastore-only",)], ids=["metadata", "datastore"])
def test_a_wide_run_arrives_once_and_takes_little_memory(place: Place, tmp_path: Path, how: tuple[str, ...]) -> None:
    """All in one process, which reads, makes journals and sends."""
    run = place.run(FLOW)
    widen(place.path / "datastore" / ".metaflow" / run.flow / run.run)
    with Endpoint(keeps_messages=False) as endpoint:
        env = place.environ({"OTEL_METAFLOW_HOME": str(tmp_path / "team"), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
        command = [sys.executable, "-m", "otel_metaflow.cli", "backfill", f"{run.flow}/{run.run}", "--json", *how]
        with subprocess.Popen(command, env=env, cwd=place.path, stdout=subprocess.PIPE) as process:
            peak = 0
            # Not what the kernel counts for a parent: that begins with the size of the process that it was forked from.
            while process.poll() is None:
                with contextlib.suppress(OSError, IndexError):  # it ends just now
                    peak = max(peak, memory_peak(process.pid))
                time.sleep(0.02)
            assert process.stdout is not None
            (done,) = json.loads(process.stdout.read())
        assert process.returncode == 0
        assert (done["attempts"], done["lines"]) == (TASKS + 3, LINES)
        assert len(endpoint.span_ids) == TASKS + 4
        assert set(endpoint.uids.values()) == {1}
        assert 0 < peak <= MAX_MEMORY, f"{peak / 2**20:.0f} MiB"
