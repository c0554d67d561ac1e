"""Tasks, launchers and shippers killed in every way: nothing written before is lost, nothing changes for the run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint as Receiver
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from running import Finished, Place, eventually, seen

from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.model.attempt_logs import AttemptLogs
from otel_metaflow.model.run import Attempt

REFUSED = "http://127.0.0.1:1"
ERROR = 2  # StatusCode
TROUBLE = ("metaflow.task.lost", "metaflow.task.exception")
FLOW = """
    import ctypes, logging, os, resource, signal, subprocess, sys, threading, time
    from metaflow import FlowSpec, catch, current, retry, step, timeout
    class DeathFlow(FlowSpec):
        {decorators}
        @step
        def start(self):
            print("first line")
            logging.warning("a record")
            os.write(1, b"by the system\\n")
            sys.stdout.flush()
            {death}
            self.next(self.end)
        @step
        def end(self):
            print("reached the end")
    if __name__ == "__main__":
        DeathFlow()
    """
WRITTEN = {"first line", "a record", "by the system"}


def flow(death: str, decorators: str = "") -> str:
    return FLOW.format(death=death, decorators=decorators)


def attempts(finished: Finished, step: str = "start") -> list[Attempt]:
    return [attempt for attempt in finished.story.in_order if attempt.key.step == step]


def bodies(finished: Finished, attempt: Attempt) -> list[str]:
    logs = AttemptLogs(finished.folder, attempt.key, Cursor())
    return [entry.record["body"] for entry in logs.read(final=True)]


@dataclass(frozen=True)
class Reported:
    """What arrived of one attempt, or of the run: its span, its lines and logging records, its events."""

    attributes: dict[str, Any]
    status: int
    lines: Counter[str]
    events: dict[str, dict[str, Any]]


def plain(attributes: Any) -> dict[str, Any]:
    """OTLP's attributes as a dictionary of Python's values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def reported(receiver: Receiver) -> dict[str, Reported]:
    """What arrived, by STEP/ATTEMPT; the run's own is called RUN. Each span has come once."""
    lines: dict[bytes, Counter[str]] = {}
    events: dict[bytes, dict[str, dict[str, Any]]] = {}
    for message in receiver.of(ExportLogsServiceRequest):
        for resource in message.resource_logs:
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    if record.event_name and record.event_name not in TROUBLE:
                        continue
                    if record.event_name:
                        of_span = events.setdefault(record.span_id, {})
                        assert record.event_name not in of_span
                        of_span[record.event_name] = plain(record.attributes)
                    else:
                        lines.setdefault(record.span_id, Counter())[record.body.string_value] += 1
    found: dict[str, Reported] = {}
    for span, _ in receiver.spans():
        attributes = plain(span.attributes)
        name = "RUN" if span.name.startswith("RUN ") else f"{span.name}/{attributes['metaflow.attempt']}"
        assert name not in found, "a span came twice"
        found[name] = Reported(
            attributes, span.status.code, lines.get(span.span_id, Counter()), events.get(span.span_id, {})
        )
    return found


def kill_shipper(folder: Path) -> None:
    """Kill the shipper of the run in `folder`, at once."""
    subprocess.run(["pkill", "-KILL", "-f", f"otel_metaflow.shipper {folder}"], check=True)


def delivered(receiver: Receiver, place: Place, finished: Finished) -> dict[str, Reported]:
    """What arrives of a run whose endpoint refused, by `otel-metaflow ship` when it is up."""
    kill_shipper(finished.folder)
    shipped = place.cli("ship", f"{finished.flow}/{finished.run}", env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    assert shipped.returncode == 0, shipped.stdout + shipped.stderr
    return reported(receiver)


@dataclass(frozen=True)
class Endpoint:
    """One that is up from the beginning, or only when the run is over."""

    receiver: Receiver
    is_up: bool

    @property
    def env(self) -> dict[str, str]:
        """The variables of a run; the launcher never waits, as on an ordinary host."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.url if self.is_up else REFUSED,
            "OTEL_METAFLOW_FLUSH_TIMEOUT": "0",
        }

    def reported(self, place: Place, finished: Finished) -> dict[str, Reported]:
        """All that arrives of a run."""
        if not self.is_up:
            return delivered(self.receiver, place, finished)
        finished.wait_delivered()
        return reported(self.receiver)


@pytest.fixture(params=["up", "refused"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    with Receiver() as receiver:
        yield Endpoint(receiver, request.param == "up")


@pytest.fixture(scope="module")
def memory_group() -> Iterator[str]:
    """A control group of 64 MB, or nothing where this machine lets us make none: CI without root."""
    for root, limits in (
        (Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")),
        (Path("/sys/fs/cgroup"), ("memory.max",)),
    ):
        group = root / f"otel-metaflow-{os.getpid()}"
        try:
            group.mkdir()
            for limit in limits:
                (group / limit).write_text(str(64 << 20))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        yield str(group)
        group.rmdir()
        return
    yield ""


# Where no group could be made, by the signal that the kernel would send.
OUT_OF_MEMORY = """
            group = os.environ["MEMORY_GROUP"]
            group or os.kill(os.getpid(), signal.SIGKILL)
            open(group + "/cgroup.procs", "w").write(str(os.getpid()))
            self.much = b"x" * (512 << 20)"""


@dataclass(frozen=True)
class Death:
    """A way for the first attempt of `start` to end, and what is reported of it."""

    code: str
    result: str
    error_type: str
    exit_code: int
    decorators: str = ""
    lost: bool = False
    status: int = ERROR
    run: str = "failure"

    @property
    def signal(self) -> str | None:
        return self.error_type if self.exit_code < 0 else None


def lost(code: str, error_type: str, exit_code: int, decorators: str = "", run: str = "failure") -> Death:
    return Death(code, "error", error_type, exit_code, decorators, lost=True, run=run)


def raised(code: str, error_type: str, exit_code: int = 1) -> Death:
    return Death(code, "failure", error_type, exit_code)


KILL = "current.retry_count or os.kill(os.getpid(), 9)"
DEATHS = {
    "kill -9": lost("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL", -9),
    "kill": lost("os.kill(os.getpid(), signal.SIGTERM)", "SIGTERM", -15),
    "segmentation fault": lost("ctypes.string_at(0)", "SIGSEGV", -11),
    "abort": lost("os.abort()", "SIGABRT", -6),
    "out of memory": lost(OUT_OF_MEMORY, "SIGKILL", -9),
    "exit at once with 3": lost("os._exit(3)", "_OTHER", 3),
    "exit at once with 0": lost("os._exit(0)", "_OTHER", 0),
    "exit with 4": raised("sys.exit(4)", "SystemExit", 4),
    "exit with 0": raised("sys.exit(0)", "SystemExit", 0),
    "exception": raised("raise ValueError('boom')", "ValueError"),
    "base exception": raised("raise BaseException('base')", "BaseException"),
    "exception that cannot be shown": raised(
        "raise type('Odd', (Exception,), {'__str__': lambda s: 1 / 0})()", "__main__.Odd"
    ),
    "artifact that cannot be stored": raised(
        "self.it = threading.Lock()", "metaflow.datastore.exceptions.UnpicklableArtifactException"
    ),
    "no memory": raised(
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); self.x = bytearray(1 << 32)", "MemoryError"
    ),
    "closed descriptors": raised("os.closerange(3, 4096); raise ValueError('closed')", "ValueError"),
    "timeout": Death(
        "time.sleep(60)",
        "timeout",
        "metaflow.plugins.timeout_decorator.TimeoutException",
        1,
        "@timeout(seconds=1)",
    ),
    "kill -9, retried": lost(KILL, "SIGKILL", -9, "@retry(times=1, minutes_between_retries=0)", "success"),
    "kill -9, caught": lost(KILL, "SIGKILL", -9, "@catch(var='problem')", "success"),
    "exception, caught": Death(
        "raise ValueError('caught')", "success", "", 0, "@catch(var='problem')", status=0, run="success"
    ),
}


@pytest.mark.parametrize("name", DEATHS)
def test_a_death_leaves_its_lines_its_cause_and_the_run_as_it_was(tmp_path: Path, memory_group: str, name: str) -> None:
    """Reported alike whether the endpoint was up or refused until `ship`; the user sees what a run without us shows."""
    death = DEATHS[name]
    places = {}
    for each in ("plain", "up", "refused"):
        (tmp_path / each).mkdir()
        places[each] = Place(tmp_path / each)
    source = Place(tmp_path).write(flow(death.code, death.decorators))
    with Receiver() as up, Receiver() as later:
        processes = {
            each: place.start(
                source,
                *(() if each == "plain" else ("--with", "otel")),
                env={
                    "OTEL_EXPORTER_OTLP_ENDPOINT": up.url if each == "up" else REFUSED,
                    "OTEL_METAFLOW_FLUSH_TIMEOUT": "0",
                    "MEMORY_GROUP": memory_group,
                },
            )
            for each, place in places.items()
        }
        runs = {each: places[each].finish(process) for each, process in processes.items()}
        assert seen(runs["up"]) == seen(runs["plain"])
        assert seen(runs["refused"]) == seen(runs["plain"])
        stories = [delivered(later, places["refused"], runs["refused"])]
        runs["up"].wait_delivered()
        stories.append(reported(up))
    for story in stories:
        check(story, death)


def check(story: dict[str, Reported], death: Death) -> None:
    """Hold what arrived of a run to what is expected of its death."""
    attempt = story["start/0"]
    assert {line: attempt.lines[line] for line in WRITTEN} == dict.fromkeys(WRITTEN, 1)
    assert attempt.status == death.status
    facts = {
        "metaflow.task.result": death.result,
        "error.type": death.error_type or None,
        "process.exit.code": death.exit_code,
        "metaflow.task.signal": death.signal,
    }
    assert {fact: attempt.attributes.get(fact) for fact in facts} == facts
    event = "metaflow.task.lost" if death.lost else "metaflow.task.exception"
    assert list(attempt.events) == [event]
    if death.lost:
        assert attempt.events[event].get("process.exit.code") == death.exit_code
    else:
        assert attempt.events[event]["exception.type"] == (death.error_type or "ValueError")
        assert "Traceback" in attempt.events[event]["exception.stacktrace"]
    assert story["RUN"].attributes["metaflow.run.result"] == death.run
    assert story["RUN"].status == (0 if death.run == "success" else ERROR)
    again = {"start/1"} if death.lost and death.run == "success" else set()
    end = {"end/0"} if death.run == "success" else set()
    assert set(story) == {"RUN", "start/0"} | again | end


QUIET = "type('Quiet', (logging.Handler,), {'emit': lambda *_: None})()"


@pytest.mark.parametrize(
    "busy",
    [
        "while True: print('x' * 50)",
        # By a handler that does nothing: logging's own swallow any exception that is raised inside of them.
        f"log = logging.Logger('q'); log.addHandler({QUIET})\n            while True: log.error('busy')",
        "while True: time.sleep(0.01)",
    ],
)
def test_a_timeout_fires_also_inside_our_own_hooks(place: Place, busy: str) -> None:
    """The alarm's exception belongs to the step, wherever it is raised."""
    finished = place.run(flow(busy, "@timeout(seconds=1)"), "--with", "otel", timeout=60)
    assert finished.code == 1
    (attempt,) = attempts(finished)
    assert attempt.result == "timeout"
    assert "otel: telemetry is incomplete" not in finished.stdout


def test_an_alarm_that_goes_off_where_we_read_a_logging_record_is_the_steps(place: Place) -> None:
    """We catch what a message raises when it is made; what a signal handler raises there is not of the message."""
    death = """
            class Ringing:
                once = [signal.SIGALRM]
                def __str__(self):
                    self.once and signal.raise_signal(self.once.pop())
                    return ""
            log = logging.Logger("q"); log.addHandler(QUIET); log.error(Ringing())
            print("went on")""".replace("QUIET", QUIET)
    finished = place.run(flow("pass" + death, "@timeout(seconds=60)"), "--with", "otel")
    (attempt,) = attempts(finished)
    assert attempt.result == "timeout"
    assert "went on" not in bodies(finished, attempt)


@pytest.mark.parametrize(
    "handler",
    [
        "ring",
        "functools.partial(ring)",
        "functools.partial(functools.partial(ring), frame=None)",
        "types.MethodType(ring, 0)",
        "type('Bell', (), {'__call__': ring})()",
        "functools.partial(type('Bell', (), {'__call__': ring})())",
        "functools.wraps(print)(lambda *arguments: ring())",
    ],
)
def test_what_a_signal_handler_raises_is_the_steps_whatever_kind_of_handler_it_is(place: Place, handler: str) -> None:
    death = """
            import functools, types
            def ring(*_, **__):
                raise BlockingIOError("from the handler")
            class Ringing:
                once = [signal.SIGUSR1]
                def __str__(self):
                    self.once and signal.raise_signal(self.once.pop())
                    return ""
            signal.signal(signal.SIGUSR1, HANDLER)
            log = logging.Logger("q"); log.addHandler(QUIET); log.error(Ringing())
            print("went on")""".replace("QUIET", QUIET).replace("HANDLER", handler)
    finished = place.run(flow("pass" + death), "--with", "otel")
    (attempt,) = attempts(finished)
    assert attempt.exception is not None
    assert attempt.exception["type"] == "BlockingIOError"
    assert "went on" not in bodies(finished, attempt)


def test_children_that_a_step_forks_do_not_end_its_attempt(place: Place) -> None:
    """A forked child that exits in any way runs our exit handlers too."""
    death = """
            for way in (lambda: sys.exit(0), lambda: os._exit(0), lambda: os.kill(os.getpid(), 9)):
                pid = os.fork()
                if pid == 0:
                    print("from a child")
                    way()
                os.waitpid(pid, 0)
            print("after the children")"""
    finished = place.run(flow("pass" + death), "--with", "otel")
    (attempt,) = attempts(finished)
    found = bodies(finished, attempt)
    assert found.count("from a child") == 3
    assert found.count("after the children") == 1
    assert found.count("first line") == 1


def wait_for_line(place: Place, process: subprocess.Popen[str], text: str) -> int:
    """Wait until a task has printed `text`, and return its pid."""

    def pid() -> int | None:
        for path in place.home.glob("*/*/*.0.jsonl"):
            content = path.read_text()
            if text in content:
                return int(json.loads(content.partition("\n")[0])["pid"])
        return None

    return eventually(pid, 30, text)


# It goes on printing: Metaflow's launcher reads two lines that came together one at a time, and looks for the
# second only when more comes.
WAITING = flow("[(print('.'), time.sleep(0.1)) for _ in range(600)]")


def test_ctrl_c_is_a_cancellation(tmp_path: Path, endpoint: Endpoint) -> None:
    """Of the attempt and of the run, with the lines that were written; no error, and the code is what it was."""
    codes = []
    for name, arguments in (("plain", ()), ("ours", ("--with", "otel"))):
        (tmp_path / name).mkdir()
        place = Place(tmp_path / name)
        ready = place.path / "ready"
        source = WAITING.replace("[(print", f"open({str(ready)!r}, 'w'); [(print")
        process = place.start(place.write(source), *arguments, env=endpoint.env)
        eventually(ready.exists)
        os.killpg(process.pid, signal.SIGINT)
        finished = place.finish(process)
        codes.append(finished.code)
    story = endpoint.reported(place, finished)
    assert codes[0] == codes[1] != 0
    assert set(story) == {"start/0", "RUN"}
    attempt, run = story["start/0"], story["RUN"]
    assert (attempt.attributes["metaflow.task.result"], attempt.status) == ("cancellation", 0)
    assert (run.attributes["metaflow.run.result"], run.status) == ("cancellation", 0)
    assert attempt.events == {}
    assert {line: attempt.lines[line] for line in WRITTEN} == dict.fromkeys(WRITTEN, 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_launcher_is_reported_by_its_shipper(place: Place, endpoint: Endpoint, number: signal.Signals) -> None:
    """The shipper notices, waits for the orphaned task, and closes the run's span as an error."""
    process = place.start(place.write(WAITING), "--with", "otel", env=endpoint.env)
    task = wait_for_line(place, process, "a record")
    (folder,) = place.home.glob("*/*")
    raw = folder / "start.1.0.output.jsonl"
    eventually(lambda: raw.exists() and "by the system" in raw.read_text())
    process.send_signal(number)
    process.wait(30)
    with contextlib.suppress(ProcessLookupError):  # or the broken pipe was faster
        os.kill(task, signal.SIGKILL)
    finished = place.finish(process)
    story = endpoint.reported(place, finished)
    assert finished.code == -number
    assert set(story) == {"start/0", "RUN"}
    assert {span.status for span in story.values()} == {ERROR}
    assert story["start/0"].attributes["metaflow.task.result"] in ("error", "failure")
    assert len(story["start/0"].events) == 1
    assert story["RUN"].attributes["metaflow.run.result"] == "error"
    assert {line: story["start/0"].lines[line] for line in WRITTEN} == dict.fromkeys(WRITTEN, 1)


def test_a_killed_shipper_is_followed_by_one_that_goes_on(place: Place, endpoint: Endpoint) -> None:
    """The launcher starts another with its next task; what was acknowledged is not sent again."""
    gate = place.path / "gate"
    os.mkfifo(gate)
    body = "open(os.environ['GATE']).read(); print('goes on', flush=True); open(os.environ['GATE']).read()"
    process = place.start(place.write(flow(body)), "--with", "otel", env={**endpoint.env, "GATE": str(gate)})
    wait_for_line(place, process, "a record")
    gate.write_text("go")  # of two lines that come at once Metaflow's launcher reads the second when it hears a third
    (folder,) = place.home.glob("*/*")
    if endpoint.is_up:
        # Everything so far is noted as delivered: a shipper that is killed between an answer and its note sends again.
        eventually(lambda: set(endpoint.receiver.bodies()) >= {*WRITTEN, "goes on"})
        eventually(lambda: DeliveryStatus.read(folder).delivered.get("logs") == len(endpoint.receiver.bodies()))
    else:
        eventually(lambda: DeliveryStatus.read(folder).trouble.get("logs"))
    kill_shipper(folder)
    gate.write_text("go")
    finished = place.finish(process)
    story = endpoint.reported(place, finished)
    assert finished.code == 0
    assert set(story) == {"start/0", "end/0", "RUN"}
    assert {line: story["start/0"].lines[line] for line in WRITTEN} == dict.fromkeys(WRITTEN, 1)
    assert story["end/0"].lines == {"reached the end": 1}
