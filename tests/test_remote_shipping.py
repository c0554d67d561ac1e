"""A container that no launcher follows exports what happens in it, as it happens, by the standard library alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint, _flaps
from fake_pod import Cluster, Pod, Ran, bare
from interpreters import interpreters
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from running import Place, eventually

from otel_metaflow.core import ids

NEWEST = list(interpreters())[-1]
FLOW = """
    import logging, os, pathlib, signal, subprocess, sys, threading, time
    if os.environ.get("HOW") == "bootstrap":
        print("what the step cannot import", flush=True)
        sys.exit(1)
    from metaflow import FlowSpec, kubernetes, otel, secrets, step
    def kill_once_there_is(file):
        def wait():
            while not list(pathlib.Path(os.environ["MFLOG_STDOUT"]).parent.glob(file)):
                pass
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Thread(target=wait, daemon=True).start()
    if os.environ.get("HOW") == "kill-at-meeting":
        kill_once_there_is("otel-witness-*")
    if os.environ.get("HOW") == "kill-at-first-record":
        kill_once_there_is("otel/*/*/*.jsonl")
    class ShippedFlow(FlowSpec):
        @otel
        @secrets(sources=["no-such-store.key"] if os.environ.get("HOW") == "no-secret" else [])
        @kubernetes
        @step
        def start(self):
            print("a line")
            logging.warning("a logging record")
            subprocess.run(["echo", "of a subprocess"])
            how = os.environ.get("HOW")
            if how in ("kill-shipper", "kill-group"):
                (pid,) = pathlib.Path(os.environ["MFLOG_STDOUT"]).parent.glob("otel/*/*/*.pid")
                while how == "kill-group" and not pid.with_suffix(".ledger").exists():
                    time.sleep(0.01)
                if how == "kill-group":
                    os.killpg(0, signal.SIGKILL)
                os.kill(int(pid.read_text()), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "many":
                os.write(1, b"".join(b"line %d\\n" % number for number in range(5000)))
            if how == "kill":
                os.write(1, b"without a newline")
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "raise":
                raise ValueError("no")
            if how == "ok":
                (pid,) = pathlib.Path(os.environ["MFLOG_STDOUT"]).parent.glob("otel/*/*/*.pid")
                stat = pathlib.Path("/proc", pid.read_text().strip(), "stat").read_text()
                print("a child:", int(stat.rpartition(")")[2].split()[1]) == os.getpid())
                sys.stderr.write("without an end")
            if how == "live":
                for number in range(200):
                    print("line", number)
                    time.sleep(0.005)
                print("printed")
                time.sleep(60)
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        ShippedFlow()
    """
BOOTSTRAP = [
    "Setting up task environment.",
    "Downloading code package...",
    "Code package downloaded.",
    "Task is starting.",
]
LINES = ["a line", "a logging record", "of a subprocess"]

Runs = Callable[..., Ran]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Pod:
    """A container as Metaflow specified it, with the oldest Python that we promise to run on."""
    cluster = Cluster(Place(tmp_path_factory.mktemp("spec")), "3.8")
    finished = cluster.run(FLOW)
    assert finished.code == 0, finished.stdout
    return cluster.pod_without_launcher("start")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as made:
        yield made


@pytest.fixture
def again(spec: Pod, endpoint: Endpoint, tmp_path: Path) -> Runs:
    """Runs the container again, in some way, sending to the endpoint."""

    def run(how: str, **env: str | None) -> Ran:
        return spec.again(tmp_path / f"again-{how}", {"HOW": how, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, **env})

    return run


def path(spec: Pod, version: str) -> str:
    """The path of a container with another Python."""
    first, _, rest = spec.env["PATH"].partition(os.pathsep)
    assert first == str(bare("3.8"))
    return os.pathsep.join([str(bare(version)), rest])


def ids_of(pod: Pod) -> tuple[str, str]:
    flow, run, step, task = _pathspec(pod)
    return ids.trace_id(flow, run), ids.attempt_span_id(flow, run, step, task, 0)


def _pathspec(pod: Pod) -> list[str]:
    (line,) = (part for part in pod.command.split() if part.startswith("MF_PATHSPEC="))
    return line.partition("=")[2].split("/")


def attributes(span: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


def lines(endpoint: Endpoint) -> list[str]:
    """The bodies of log records that are no events."""
    return sorted(
        record.body.string_value
        for message in endpoint.messages
        for resource in getattr(message, "resource_logs", ())
        for scope in resource.scope_logs
        for record in scope.log_records
        if not record.event_name
    )


@pytest.mark.parametrize("version", ["3.8", NEWEST])
def test_all_of_a_container_arrives_once_before_it_ends(
    spec: Pod, again: Runs, endpoint: Endpoint, version: str
) -> None:
    """Lines of the step, of its subprocesses, of what came before it; one span, with the ids that all compute."""
    ran = again("ok", PATH=path(spec, version))
    assert ran.code == 0
    # Its shipper is none of its children: user code may wait for all of those.
    assert lines(endpoint) == sorted([*BOOTSTRAP, *LINES, "a child: False", "without an end"])
    ((span, resource),) = endpoint.spans()
    assert (span.trace_id.hex(), span.span_id.hex()) == ids_of(ran.pod)
    assert (span.name, span.status.code, attributes(span)["metaflow.task.result"]) == ("start", 0, "success")
    assert attributes(resource)["metaflow.flow.name"] == "ShippedFlow"
    assert endpoint.of(ExportMetricsServiceRequest)
    assert "otel" not in ran.pod.stdout + ran.pod.stderr


FAILURES = {
    "kill": (137, "SIGKILL", [*LINES, "without a newline"]),
    "kill-shipper": (137, "SIGKILL", LINES),
    "kill-at-meeting": (137, "SIGKILL", []),
    "kill-at-first-record": (137, "SIGKILL", []),
    "raise": (1, "ValueError", LINES),
    "no-secret": (1, "_OTHER", []),
    "bootstrap": (1, "_OTHER", ["what the step cannot import"]),
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_container_that_fails_reports_how(again: Runs, endpoint: Endpoint, how: str) -> None:
    """At whatever moment, its shipper with it or before there is one: one span, an error, and each line once."""
    code, kind, printed = FAILURES[how]
    ran = again(how)
    assert ran.code == code
    ((span, resource),) = endpoint.spans()
    assert span.span_id.hex() == ids_of(ran.pod)[1]
    assert (span.status.code, attributes(span)["error.type"]) == (2, kind)
    assert attributes(resource)["process.runtime.name"] == "cpython"
    found = lines(endpoint)
    assert {line: found.count(line) for line in (*BOOTSTRAP, *printed)} == dict.fromkeys((*BOOTSTRAP, *printed), 1)


def test_a_step_that_is_killed_with_its_shell_is_reported_while_the_container_stores_its_log_files(
    again: Runs, endpoint: Endpoint
) -> None:
    """As by `os.killpg(0, SIGKILL)`: only PID 1 of a container survives that, for a second or two."""
    again("kill-group")
    endpoint.wait_for(lambda: bool(endpoint.spans()), 2.5)
    ((span, _),) = endpoint.spans()
    assert span.status.message == "the process has ended, its exit code is unknown"
    assert set(lines(endpoint)) >= set(LINES)


def test_output_before_the_whole_container_is_killed_has_arrived(spec: Pod, endpoint: Endpoint, tmp_path: Path) -> None:
    """All but the last tenth of a second, and whatever is then on its way."""
    folder = tmp_path / "killed"
    folder.mkdir()
    env = {**spec.env, "HOW": "live", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
    command = json.loads((spec.folder / "pod.json").read_text())["command"]
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        endpoint.wait_for(lambda: endpoint.body_counts["line 199"] > 0, 100)
        assert all(endpoint.body_counts[f"line {number}"] == 1 for number in range(200))
    finally:
        for pid in [process.pid, *_in(folder)]:
            os.kill(pid, signal.SIGKILL)
        process.wait()


def _in(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = os.readlink(process / "cwd").startswith(str(folder))
        except OSError:
            continue
        if inside:
            found.append(int(process.name))
    return found


def test_an_endpoint_that_refuses_is_not_waited_for(spec: Pod, tmp_path: Path) -> None:
    """Nothing listens there: the container ends as it does without us, whatever time is allowed."""
    env = {"HOW": "raise", "OTEL_METAFLOW_FLUSH_TIMEOUT": "200"}
    refused = spec.again(tmp_path / "refused", {**env, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert refused.code == 1
    assert "otel" not in refused.pod.stderr
    assert refused.took < 150


def test_an_endpoint_that_swallows_is_waited_for_as_long_as_allowed(again: Runs, endpoint: Endpoint) -> None:
    """The container ends, and leaves a shipper behind that goes with it."""
    endpoint.fault = "blackhole"
    ran = again("kill", OTEL_METAFLOW_FLUSH_TIMEOUT="1", OTEL_EXPORTER_OTLP_TIMEOUT="100")
    assert ran.code == 137
    (shipper,) = ran.pod.home.glob("*/*/*.pid")
    os.kill(int(shipper.read_text()), signal.SIGKILL)


def test_an_endpoint_that_is_back_at_the_end_gets_everything(spec: Pod, endpoint: Endpoint, tmp_path: Path) -> None:
    """After failures that would have had the next try wait for longer than a container may."""
    endpoint.fault = "503"
    ran: list[Ran] = []
    thread = threading.Thread(
        target=lambda: ran.append(
            spec.again(tmp_path / "back", {"HOW": "live", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
        )
    )
    thread.start()
    endpoint.wait_for(lambda: endpoint.seen > 2, 100)
    eventually((tmp_path / "back").exists)
    endpoint.fault = "ok"
    (step,) = (
        pid for pid in _in(tmp_path / "back") if b"flow.py" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    )
    os.kill(step, signal.SIGKILL)
    thread.join(200)
    assert ran[0].code == 137
    assert endpoint.body_counts["a line"] == 1
    assert len(endpoint.spans()) == 1


def test_an_endpoint_that_is_up_and_down_at_the_end_is_asked_again_within_the_time(
    again: Runs, endpoint: Endpoint
) -> None:
    """It answers, so there is somebody who may take what nobody sends later."""
    endpoint._flaps = _flaps(("503", "429", "reset"), seed=1)
    endpoint.fault = "flap"
    again("kill", OTEL_METAFLOW_FLUSH_TIMEOUT="30")
    assert [line for line in lines(endpoint) if line in (*BOOTSTRAP, *LINES)] == sorted([*BOOTSTRAP, *LINES])
    ((span, _),) = endpoint.spans()
    assert attributes(span)["error.type"] == "SIGKILL"


def test_a_signal_that_is_refused_costs_the_others_nothing(again: Runs, endpoint: Endpoint) -> None:
    """Who takes spans only, say; what a step prints last is more than one request."""
    refused = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}
    again("many", **refused, OTEL_METAFLOW_FLUSH_TIMEOUT="60")
    assert all(endpoint.body_counts[f"line {number}"] == 1 for number in range(5000))
    assert endpoint.of(ExportMetricsServiceRequest)


def test_a_shipper_outlives_a_sigterm_to_all(spec: Pod, endpoint: Endpoint, tmp_path: Path) -> None:
    """As at the end of a container, or at Ctrl-C of its launcher: what the step printed at last still leaves."""
    folder = tmp_path / "term"
    ran: list[Ran] = []
    thread = threading.Thread(
        target=lambda: ran.append(spec.again(folder, {"HOW": "live", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}))
    )
    thread.start()
    endpoint.wait_for(lambda: endpoint.body_counts["line 10"] > 0, 100)
    outer = min(_in(folder))
    for pid in _in(folder):
        if pid != outer:
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                os.kill(pid, signal.SIGTERM)
    thread.join(200)
    assert ran
    endpoint.wait_for(lambda: len(endpoint.spans()) == 1)
    ((span, _),) = endpoint.spans()
    assert span.status.code == 2
