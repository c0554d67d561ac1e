"""Containers that keep their journals on a volume: not even the death of a whole container loses what it recorded."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint import Endpoint
from fake_pod import Cluster, Pod
from running import Place, eventually

from otel_metaflow.journal import layout

FLOW = """
    import os, pathlib, subprocess, time
    from metaflow import FlowSpec, kubernetes, otel, step
    class VolumeFlow(FlowSpec):
        @otel
        @kubernetes
        @step
        def start(self):
            for number in range(20):
                print("line", number)
            subprocess.run(["echo", "of a subprocess"])
            while os.environ.get("GO") and not os.path.exists(os.environ["GO"]):
                time.sleep(0.05)
            print("after the outage")
            while os.environ.get("GO"):
                time.sleep(0.05)
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        VolumeFlow()
    """
LINES = [*(f"line {number}" for number in range(20)), "of a subprocess"]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Pod:
    """A container as Metaflow specified it, of a run without a launcher."""
    cluster = Cluster(Place(tmp_path_factory.mktemp("spec")), "3.8")
    finished = cluster.run(FLOW)
    assert finished.code == 0, finished.stdout
    return cluster.pod_without_launcher("start")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as made:
        yield made


def in_folder(folder: Path) -> list[int]:
    """The processes whose working directory is in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if Path(os.readlink(process / "cwd")).is_relative_to(folder):
                found.append(int(process.name))
    return found


def test_of_a_container_that_is_killed_as_a_whole_ship_exports_what_it_had_recorded(
    spec: Pod, endpoint: Endpoint, place: Place
) -> None:
    """Each line once: not again what the container has exported, and nothing of it while it lives."""
    volume, folder, go = place.path / "volume", place.path / "pod", place.path / "go"
    folder.mkdir()
    env = {
        **spec.env,
        "OTEL_METAFLOW_HOME": str(volume),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url,
        "GO": str(go),
    }
    command = json.loads((spec.folder / "pod.json").read_text())["command"]
    beside = {"OTEL_METAFLOW_HOME": str(volume), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as shell:
        endpoint.wait_for(lambda: all(endpoint.body_counts[line] for line in LINES), 100)
        assert place.cli("ship", "--all", env=beside).returncode == 0
        assert not endpoint.spans()
        # From now on its shipper gets nothing through.
        for shipper in [pid for pid in in_folder(volume) if pid != shell.pid]:
            os.kill(shipper, signal.SIGSTOP)
        go.touch()
        eventually(lambda: any("after the outage" in path.read_text() for path in volume.rglob("start.*.jsonl")), 60)
        for pid in {shell.pid, *in_folder(folder), *in_folder(volume)}:
            os.kill(pid, signal.SIGKILL)
    shipped = place.cli("ship", "--all", env=beside)
    assert shipped.returncode == 0, shipped.stdout
    counts = endpoint.body_counts
    assert {line: counts[line] for line in (*LINES, "after the outage")} == dict.fromkeys(
        (*LINES, "after the outage"), 1
    )
    ((span, _),) = endpoint.spans()
    assert (span.name, span.status.code) == ("start", 2)
    # And again: there is nothing left.
    assert place.cli("ship", "--all", env=beside).returncode == 0
    assert endpoint.body_counts == counts


def test_containers_that_share_a_volume_deliver_their_own_attempts(
    spec: Pod, endpoint: Endpoint, tmp_path: Path
) -> None:
    """Two of one run: each has a shipper of its own, and neither takes what is the other's."""
    volume = tmp_path / "volume"
    env = {"OTEL_METAFLOW_HOME": str(volume), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
    ran = spec.again(tmp_path / "one", env)
    other = json.loads((ran.pod.folder / "pod.json").read_text())
    other["command"][-1] = other["command"][-1].replace("MF_ATTEMPT=0", "MF_ATTEMPT=1")
    other["command"][-1] = other["command"][-1].replace("--retry-count 0", "--retry-count 1")
    (ran.pod.folder / "pod.json").write_text(json.dumps(other))
    assert (ran.code, ran.pod.again(tmp_path / "two", env).code) == (0, 0)
    assert {endpoint.body_counts[line] for line in LINES} == {2}
    assert [span.name for span, _ in endpoint.spans()] == ["start", "start"]
    assert len(set(endpoint.span_ids)) == 2
    (run,) = layout.run_folders(volume)
    assert {path.name for path in run.glob("*.ledger")} == {"start.1.0.ledger", "start.1.1.ledger"}
