"""Events of a run while it goes on, and of an attempt that never ended."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from running import Place

from otel_metaflow.core import names
from otel_metaflow.shipper import gpu

LONG = """
    import os, subprocess, sys
    from metaflow import FlowSpec, retry, step
    class LongFlow(FlowSpec):
        @retry(times=1, minutes_between_retries=0)
        @step
        def start(self):
            from metaflow import current
            if current.retry_count == 0:
                hog = "data = bytearray(64 << 20); input()"
                child = subprocess.Popen([sys.executable, "-c", hog], stdin=subprocess.PIPE)
                open(os.environ["GATE"]).read()
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        LongFlow()
    """


def events(endpoint: Endpoint) -> list[tuple[str, dict[str, Any]]]:
    """The events that arrived: name and attributes."""
    return [
        (record.event_name, {each.key: each.value for each in record.attributes})
        for request in endpoint.of(ExportLogsServiceRequest)
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
        if record.event_name
    ]


@pytest.mark.slow
def test_the_events_of_a_long_attempt_that_is_killed_and_tried_again(place: Place) -> None:
    """Start and heartbeat while it runs, seen from outside with its children; its peak on the span of the lost."""
    gate = place.path / "gate"
    os.mkfifo(gate)
    with Endpoint() as endpoint:
        process = place.start(
            place.write(LONG), "--with", "otel", env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "GATE": str(gate)}
        )

        def beats() -> list[dict[str, Any]]:
            return [found for name, found in events(endpoint) if name == names.EVENT_TASK_HEARTBEAT]

        endpoint.wait_for(lambda: bool(beats()), 60)
        assert Counter(name for name, _ in events(endpoint)) == {
            names.EVENT_RUN_START: 1,
            names.EVENT_TASK_START: 1,
            names.EVENT_TASK_HEARTBEAT: 1,
        }
        (beat,) = beats()
        assert beat[names.TASK_ELAPSED].double_value >= 10
        assert beat[names.TASK_MEMORY].int_value > 64 << 20
        (running,) = (path for path in place.home.glob("*/*/start.1.0.jsonl"))
        os.kill(int(json.loads(running.read_text().partition("\n")[0])["pid"]), signal.SIGKILL)
        finished = place.finish(process)
        assert finished.code == 0
        finished.wait_delivered()
        assert Counter(name for name, _ in events(endpoint)) == {
            names.EVENT_RUN_START: 1,
            names.EVENT_TASK_START: 3,
            names.EVENT_TASK_HEARTBEAT: 1,
            names.EVENT_TASK_LOST: 1,
            names.EVENT_TASK_RETRY: 1,
            names.EVENT_TASK_END: 3,
            names.EVENT_RUN_END: 1,
            names.EVENT_RUN_SUMMARY: 1,
        }
        lost = next(span for span, _ in endpoint.spans() if span.name == "start" and span.status.code == 2)
        found = {each.key: each.value for each in lost.attributes}
        assert found[names.TASK_MEMORY_PEAK].int_value > 64 << 20
        assert found[names.FINAL].bool_value is False


# No device is to be had where these tests run: this answers as nvidia-smi does, for the process whose pid it is given.
ANSWERS = """\
#!/bin/sh
case "$1" in
  *compute-apps*) echo "GPU-1, {pid}, 1024"; echo "GPU-2, {pid}, 512"; echo "GPU-3, 1, 99";
                  echo "GPU-1, [N/A], 7"; echo garbage ;;
  *) echo "GPU-1, 50"; echo "GPU-2, 100"; echo "GPU-3, 7" ;;
esac
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nvidia-smi is looked for."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    gpu._tool.cache_clear()
    yield tmp_path / "nvidia-smi"
    gpu._tool.cache_clear()


def test_device_memory_is_counted_for_the_given_processes(tool: Path) -> None:
    """Summed over devices; how busy those are is averaged; what cannot be read is passed over."""
    tool.write_text(ANSWERS.format(pid=os.getpid()))
    tool.chmod(0o755)
    assert gpu.of({os.getpid()}) == gpu.Use(1536 << 20, 0.75)
    assert gpu.of({2**22}) is None


def test_a_tool_that_fails_is_as_none(tool: Path) -> None:
    tool.write_text("#!/bin/sh\necho NVIDIA-SMI has failed; exit 9\n")
    tool.chmod(0o755)
    assert gpu.of({os.getpid()}) is None
