"""`otel-metaflow watch`: real runs of plain Metaflow, while they run, after they died, and while something fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from endpoint import Endpoint
from http_service import HttpService
from metadata_service import MetadataService
from running import Finished, Place, eventually
from test_backfill_remote import ONCE, attribute, bucket
from test_cli_backfill import FLOW as PLAIN
from test_cli_backfill import PRINTED, SPANS
from typing_extensions import Self

from otel_metaflow.backfill.attempts import last_heartbeat
from otel_metaflow.core import ids, names

__all__ = ["bucket"]  # a fixture

# It waits for a file, so that a test decides when it goes on.
GATED = """
import os, time
from metaflow import FlowSpec, step
def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.05)
class GatedFlow(FlowSpec):
    @step
    def start(self):
        print("the first line")
        self.next(self.middle)
    @step
    def middle(self):
        print("before the gate")
        open("at the gate", "w").close()
        wait_for("go")
        print("behind the gate")
        self.next(self.end)
    @step
    def end(self):
        print("the last line")
if __name__ == "__main__":
    GatedFlow()
"""
LINES = ["the first line", "before the gate", "behind the gate", "the last line"]
STOPS_WITHIN = 2.0


class Watching:
    """A watcher, running while entered, of the datastore of `place`, with a home of its own, that exports to `url`."""

    def __init__(
        self, place: Place, home: Path, url: str, *arguments: str, env: Mapping[str, str], every: str = "1s"
    ) -> None:
        self.home = home
        self._arguments = (*arguments, "--every", every, "--health", "127.0.0.1:0")
        variables = {"OTEL_METAFLOW_HOME": str(home), "OTEL_EXPORTER_OTLP_ENDPOINT": url, **env}
        self._environ = place.environ(variables)
        self._place = place
        self._output = home.with_name(f"{home.name}.{time.monotonic_ns()}.txt")

    def __enter__(self) -> Self:
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "otel_metaflow.cli", "watch", *self._arguments],
                cwd=self._place.path,
                env=self._environ,
                stdout=output,
                stderr=output,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def output(self) -> str:
        return self._output.read_text()

    def prints(self, text: str, timeout: float = 60) -> None:
        eventually(lambda: text in self.output or self.process.poll() is not None, timeout, text)
        assert text in self.output

    def stop(self, how: int = signal.SIGTERM) -> float:
        """End it; how long that took, in seconds."""
        began = time.monotonic()
        self.process.send_signal(how)
        assert self.process.wait(timeout=30) == 0, self.output
        return time.monotonic() - began

    def page(self, path: str) -> str:
        self.prints("/healthz and /metrics")
        url = next(line for line in self.output.splitlines() if line.startswith("http://")).partition("/healthz")[0]
        with urllib.request.urlopen(url + path, timeout=5) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        found = [line for line in self.page("/metrics").splitlines() if line.startswith(f"otel_metaflow_watch_{name} ")]
        return float(found[0].rpartition(" ")[2])


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as made:
        yield made


def watching(place: Place, endpoint: Endpoint, *arguments: str, home: str = "team", **env: str) -> Watching:
    return Watching(place, place.path / home, endpoint.url, *arguments, env=env)


def started(place: Place) -> subprocess.Popen[str]:
    return place.start(place.write(GATED), env={"PYTHONUNBUFFERED": "1"})


def finish(place: Place, process: subprocess.Popen[str]) -> Finished:
    (place.path / "go").touch()
    run = place.finish(process)
    assert run.code == 0, run.stdout + run.stderr
    return run


def arrived_once(endpoint: Endpoint, printed: list[str], spans: int) -> None:
    """Each line and span has arrived, and nothing twice."""
    bodies = endpoint.bodies()
    assert {line: bodies.count(line) for line in printed} == {line: printed.count(line) for line in printed}
    assert len(endpoint.run_and_attempt_ids()) == spans
    assert set(endpoint.span_ids.values()) == {1}
    assert max(endpoint.uids.values()) == 1


def test_a_run_is_exported_while_it_runs_and_nothing_twice_after_it_has_ended(place: Place, endpoint: Endpoint) -> None:
    """What is over arrives before the run is; the rest when it is."""
    with watching(place, endpoint, "Gated*") as watcher:
        process = started(place)
        eventually(lambda: "the first line" in endpoint.bodies(), 60, watcher.output)
        assert "behind the gate" not in endpoint.bodies()
        run = finish(place, process)
        watcher.prints(f"{run.flow}/{run.run}: exported")
        assert watcher.metric('runs_total{state="exported"}') == 1
        assert watcher.metric('records_total{signal="traces"}') == len(endpoint.span_ids)
        assert json.loads(watcher.page("/healthz"))["status"] == "ok"
        passes = watcher.metric("passes_total")
        eventually(lambda: watcher.metric("passes_total") > passes + 1)
    arrived_once(endpoint, LINES, 4)


def test_a_run_whose_launcher_is_killed_is_recorded_as_died(place: Place, endpoint: Endpoint) -> None:
    """With its task, which is lost; the steps before it are there as ever."""
    with watching(place, endpoint, "--dead-after", "3s") as watcher:
        process = started(place)
        eventually((place.path / "at the gate").exists)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        watcher.prints("has died; exported")
        assert watcher.metric('runs_total{state="died"}') == 1
    run = (place.path / "datastore" / ".metaflow" / "GatedFlow" / "latest_run").read_text()
    spans = {span.span_id.hex(): span for span, _ in endpoint.spans()}
    assert attribute(spans[ids.run_span_id("GatedFlow", run)], names.RUN_RESULT) == "error"
    by_name = {span.name: span for span in spans.values()}
    assert attribute(by_name["middle"], names.TASK_RESULT) == "error"
    assert "exit code is unknown" in by_name["middle"].status.message
    assert attribute(by_name["start"], names.TASK_RESULT) == "success"


def test_a_watcher_that_is_killed_goes_on_where_it_was(place: Place, endpoint: Endpoint) -> None:
    """Nothing that was acknowledged is sent again."""
    process = started(place)
    with watching(place, endpoint) as first:
        eventually(lambda: "the first line" in endpoint.bodies(), 60, first.output)
        passes = first.metric("passes_total")
        eventually(lambda: first.metric("passes_total") > passes)  # so it has noted what was acknowledged
        first.process.kill()
    run = finish(place, process)
    with watching(place, endpoint) as second:
        second.prints(f"{run.flow}/{run.run}: exported")
        second.stop()
    arrived_once(endpoint, LINES, 4)
    seen = endpoint.seen
    with watching(place, endpoint) as third:
        eventually(lambda: third.metric("passes_total") > 1)
    assert endpoint.seen == seen


def test_what_was_in_flight_when_a_watcher_was_killed_arrives(place: Place, endpoint: Endpoint) -> None:
    """Nobody had acknowledged it."""
    run = place.run(PLAIN)
    endpoint.fault = "blackhole"
    with watching(place, endpoint) as first:
        endpoint.wait_for(lambda: endpoint.seen == 3, 60)  # logs, metrics and traces
        first.process.kill()
    endpoint.fault = "ok"
    with watching(place, endpoint) as second:
        second.prints(f"{run.flow}/{run.run}: exported")
    arrived_once(endpoint, PRINTED, SPANS)


def test_a_second_watcher_of_the_same_home_ends_with_what_to_do(place: Place, endpoint: Endpoint) -> None:
    with watching(place, endpoint) as first:
        first.prints("watching")
        with watching(place, endpoint) as second:
            assert second.process.wait(timeout=60) == 2
            assert "OTEL_METAFLOW_HOME" in second.output
        first.stop()


def test_what_two_watchers_with_homes_of_their_own_send_has_the_same_ids(place: Place, endpoint: Endpoint) -> None:
    """So back ends can tell that it is the same."""
    run = place.run(PLAIN)
    with watching(place, endpoint, home="one") as one, watching(place, endpoint, home="two") as two:
        for each in (one, two):
            each.prints(f"{run.flow}/{run.run}: exported")
    assert set(endpoint.span_ids.values()) == {2}
    assert set(endpoint.uids.values()) == {2}


def test_a_service_that_answers_500_is_waited_for(place: Place, endpoint: Endpoint) -> None:
    """From the start, and later; what fails is in the log, in /healthz and in the metrics, and is no reason to end."""
    with MetadataService() as service:
        service.fault = 500
        with watching(place, endpoint, **service.environ) as watcher:
            watcher.prints("500")
            health = json.loads(watcher.page("/healthz"))
            assert health["status"] == "failing"
            assert "500" in health["reason"]
            assert watcher.metric("up") == 0
            service.fault = 0
            run = place.run(PLAIN, env=service.environ)
            watcher.prints(f"{run.flow}/{run.run}: exported")
            eventually(lambda: watcher.metric("up") == 1)
    arrived_once(endpoint, PRINTED, SPANS)


def test_a_run_without_heartbeats_is_recorded_as_died(place: Place, endpoint: Endpoint) -> None:
    """Five minutes after the last one, which the metadata service has."""
    with MetadataService() as service:
        process = place.start(place.write(GATED), env=service.environ)
        eventually((place.path / "at the gate").exists)
        eventually(lambda: all(map(last_heartbeat, service.of_step("middle"))))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        with watching(place, endpoint, home="early", **service.environ) as watcher:
            eventually(lambda: watcher.metric("passes_total") > 3)
            assert watcher.metric("open_runs") == 1
        for each in service.objects.values():
            each["ts_epoch"] -= 600_000
            if each.get("last_heartbeat_ts"):
                each["last_heartbeat_ts"] -= 600
        with watching(place, endpoint, **service.environ) as watcher:
            watcher.prints("has died; exported")


class Guarded(HttpService):
    """An S3 that refuses all credentials as expired, or hands requests to another."""

    def __init__(self, behind: str) -> None:
        self.has_expired = False
        guard = self
        address = behind.removeprefix("http://")

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if guard.has_expired:
                    code, headers, data = 403, {"content-type": "application/xml"}, EXPIRED
                else:
                    connection = HTTPConnection(address)
                    connection.request(self.command, self.path, body, dict(self.headers))
                    reply = connection.getresponse()
                    code, headers, data = reply.status, dict(reply.headers), reply.read()
                    connection.close()
                self.send_response(code)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", len(data)) if self.command == "HEAD" else len(data)
                self.send_header("content-length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815 - as the library calls them

        super().__init__(Handler)


EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


def test_a_datastore_whose_credentials_have_expired_is_waited_for(
    place: Place, endpoint: Endpoint, bucket: dict[str, str]
) -> None:
    with Guarded(bucket["METAFLOW_S3_ENDPOINT_URL"]) as guard:
        env = {**bucket, **ONCE, "METAFLOW_S3_ENDPOINT_URL": guard.url}
        run = place.run(PLAIN, env=env)
        assert run.code == 0, run.stderr
        guard.has_expired = True
        with watching(place, endpoint, **env) as watcher:
            watcher.prints(f"{run.flow}/{run.run}: cannot read s3:")
            guard.has_expired = False
            watcher.prints(f"{run.flow}/{run.run}: exported", timeout=120)
    arrived_once(endpoint, PRINTED, SPANS)


def test_an_endpoint_that_fails_gets_everything_once_it_works(place: Place, endpoint: Endpoint) -> None:
    endpoint.fault = "503"
    run = place.run(PLAIN)
    with watching(place, endpoint) as watcher:
        watcher.prints("does not take")
        endpoint.fault = "ok"
        watcher.prints(f"{run.flow}/{run.run}: exported", timeout=120)
    arrived_once(endpoint, PRINTED, SPANS)


def test_what_is_too_old_for_a_back_end_is_named_before_it_is_sent(place: Place, endpoint: Endpoint) -> None:
    """Once, with how many of the runs that were found are so old."""
    old, new = place.run(PLAIN), place.run(PLAIN)
    began_at(old, time.time() - 20 * 3600)
    with watching(place, endpoint) as watcher:
        for run in (old, new):
            watcher.prints(f"{run.flow}/{run.run}: exported")
        printed = watcher.output.splitlines()
    (warning,) = (number for number, line in enumerate(printed) if "too old" in line)
    assert "spans after 4 h (1 of 2 new runs)" in printed[warning]
    assert warning < min(number for number, line in enumerate(printed) if "exported" in line)


def began_at(run: Finished, began: float) -> None:
    """Have Metaflow's metadata say that a run began at another time."""
    (file,) = run.home.parent.glob(f"datastore/.metaflow/{run.flow}/{run.run}/_meta/_self.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "ts_epoch": int(began * 1000)}))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("fault", ["ok", "blackhole"])
def test_it_ends_within_two_seconds(place: Place, endpoint: Endpoint, how: int, fault: str) -> None:
    """Also while an endpoint does not answer."""
    endpoint.fault = fault
    place.run(PLAIN)
    with watching(place, endpoint) as watcher:
        watcher.prints("watching")
        eventually(lambda: endpoint.seen)
        assert watcher.stop(how) < STOPS_WITHIN


def test_a_run_with_the_decorator_is_left_to_its_launcher(place: Place, endpoint: Endpoint) -> None:
    """While it goes on, too, when nothing of its launcher is in the datastore yet."""
    with watching(place, endpoint) as watcher:
        process = place.start(place.write(GATED), "--with", "otel", env={"PYTHONUNBUFFERED": "1"})
        watcher.prints("left to the machine")
        finish(place, process)
        passes = watcher.metric("passes_total")
        eventually(lambda: watcher.metric("passes_total") > passes + 2)
        assert watcher.metric("open_runs") == 0
    assert not endpoint.seen
