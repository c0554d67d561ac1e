"""A shipper stands by for the next run: short runs in a row, and runs in an outage, share one."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path

import pytest
from collectors import free_ports
from endpoint import Endpoint
from running import Finished, Place, eventually

from otel_metaflow.core import standby
from otel_metaflow.journal import spawn

FLOW = """
    from metaflow import FlowSpec, otel, step
    class ShortFlow(FlowSpec):
        @otel
        @step
        def start(self):
            print("a line")
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        ShortFlow()
    """


def shippers(place: Place) -> list[int]:
    """The shippers that were started for runs of `place`."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "otel_metaflow.shipper" in command and any(part.startswith(str(place.home)) for part in command):
                found.append(int(process.name))
    return found


class Standing:
    """Runs whose shippers stand by, in a runtime folder of the test's own."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._flow = place.write(FLOW)
        # Not below the test's own folder: the name of a socket may be about a hundred bytes long, unix(7).
        self.runtime = Path(tempfile.mkdtemp(prefix="standby"))

    def run(self, url: str, **variables: str) -> Finished:
        finished = self.place.run(
            self._flow,
            env={
                "OTEL_EXPORTER_OTLP_ENDPOINT": url,
                "XDG_RUNTIME_DIR": str(self.runtime),
                "OTEL_METAFLOW_STANDBY": "60",
                "OTEL_METAFLOW_FLUSH_TIMEOUT": "0",
                **variables,
            },
        )
        assert finished.code == 0, finished.stderr
        return finished

    def wait_standing(self) -> None:
        eventually(lambda: list(self.runtime.glob("*/*.sock")))


@pytest.fixture
def standing(place: Place) -> Standing:
    made = Standing(place)
    yield made
    for pid in shippers(place):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(made.runtime)


def test_a_second_run_is_served_by_the_shipper_of_the_first_in_its_own_words(standing: Standing) -> None:
    """Its endpoint and its attributes are those of the second run's environment."""
    with Endpoint() as first, Endpoint() as second:
        standing.run(first.url).wait_delivered()
        (pid,) = shippers(standing.place)
        standing.wait_standing()
        again = standing.run(second.url)
        again.wait_delivered()
        assert shippers(standing.place) == [pid]
        assert (first.body_counts["a line"], second.body_counts["a line"]) == (1, 1)
        assert len(second.span_ids) == 2


def test_runs_in_an_outage_gather_no_shippers_and_are_all_delivered_after_it(standing: Standing) -> None:
    """The one that waits for the endpoint gives way to the next run, and takes up the rest afterwards."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    runs = []
    for _ in range(3):
        runs.append(standing.run(url))
        eventually(lambda: runs[-1].status.trouble)
        standing.wait_standing()
    (pid,) = shippers(standing.place)
    with Endpoint(port=port) as endpoint:
        for finished in runs:
            finished.wait_delivered(60)
        assert endpoint.body_counts["a line"] == 3
        assert set(endpoint.uids.values()) == {1}
    assert shippers(standing.place) == [pid]


def test_a_socket_that_a_killed_shipper_left_is_no_obstacle(standing: Standing) -> None:
    with Endpoint() as endpoint:
        standing.run(endpoint.url).wait_delivered()
        standing.wait_standing()
        (pid,) = shippers(standing.place)
        os.kill(pid, signal.SIGKILL)
        standing.run(endpoint.url).wait_delivered()
        standing.wait_standing()
        assert len(shippers(standing.place)) == 1
        assert endpoint.body_counts["a line"] == 2


def test_without_standby_a_shipper_ends_with_its_work(standing: Standing) -> None:
    with Endpoint() as endpoint:
        standing.run(endpoint.url, OTEL_METAFLOW_STANDBY="0").wait_delivered()
        eventually(lambda: not shippers(standing.place))


@pytest.mark.parametrize("mode", [0o777, 0o750])
def test_an_environment_is_handed_to_nobody_through_a_folder_that_others_can_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Secrets are in it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    waiting = standby.Standby(wake=threading.Event())
    assert not waiting.has_request()
    (socket,) = tmp_path.glob("*/*.sock")
    socket.parent.chmod(mode)
    assert not standby.ask(tmp_path, {})
    assert not waiting.has_request()
    waiting.take()


def test_a_wrapper_around_the_flow_is_not_one_around_its_shipper(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`opentelemetry-instrument` would make spans of the requests that deliver."""
    from opentelemetry.instrumentation import auto_instrumentation

    wrapper = Path(inspect.getfile(auto_instrumentation)).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(wrapper), str(tmp_path)]))
    assert spawn._environment()["PYTHONPATH"] == str(tmp_path)
