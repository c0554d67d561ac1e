"""Tasks, launchers and shippers killed in every way: nothing written before is lost, nothing changes for the run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import pytest
from receiver import Receiver
from running import Finished, Place, eventually, seen

from otel_metaflow.assembly.checkpoint import Checkpoint
from otel_metaflow.assembly.logs import AttemptLogs, Cursor
from otel_metaflow.assembly.run import Attempt

FLOW = """
    import ctypes, logging, os, resource, signal, subprocess, sys, threading, time
    from metaflow import FlowSpec, catch, retry, step, timeout
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
    return [entry.record["body"] for entry in logs.read(10**20, final=True)]


@pytest.mark.parametrize(
    ("death", "result", "error_type", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "error", "SIGKILL", -9),
        ("os.kill(os.getpid(), signal.SIGTERM)", "error", "SIGTERM", -15),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "error", "SIGSEGV", -11),
        ("os.abort()", "error", "SIGABRT", -6),
        ("ctypes.string_at(0)", "error", "SIGSEGV", -11),
        ("os._exit(3)", "error", "_OTHER", 3),
        ("os._exit(0)", "error", "_OTHER", 0),
        ("sys.exit(4)", "failure", "SystemExit", 4),
        ("sys.exit(0)", "failure", "SystemExit", 0),
        ("raise ValueError('boom')", "failure", "ValueError", 1),
        ("raise BaseException('base')", "failure", "BaseException", 1),
        ("self.it = threading.Lock()", "failure",
         "metaflow.datastore.exceptions.UnpicklableArtifactException", 1),
        ("raise type('Odd', (Exception,), {'__str__': lambda s: 1 / 0})()", "failure", "__main__.Odd", 1),
        ("resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); self.x = bytearray(1 << 32)",
         "failure", "MemoryError", 1),
        ("os.closerange(3, 4096); raise ValueError('closed')", None, None, None),
    ],
)  # fmt: skip
def test_a_death_leaves_its_lines_its_cause_and_the_run_as_it_was(
    place: Place, death: str, result: str | None, error_type: str | None, code: int | None
) -> None:
    """One attempt that went wrong, with what was written before; the user sees what a run without us shows."""
    source = flow(death)
    plain = place.run(source)
    finished = place.run(source, "--with", "otel")
    assert seen(finished) == seen(plain)
    (attempt,) = attempts(finished)
    found = bodies(finished, attempt)
    assert {body for body in found if body in WRITTEN} == WRITTEN
    assert len([body for body in found if body in WRITTEN]) == 3
    assert attempt.failed
    if result is not None:
        assert (attempt.result, attempt.error_type, attempt.exit_code) == (result, error_type, code)
    assert finished.story.result != "success"


def test_a_killed_attempt_is_retried_and_both_are_told(place: Place) -> None:
    """The run succeeds; the first attempt stays an error."""
    death = "from metaflow import current; current.retry_count or os.kill(os.getpid(), 9)"
    finished = place.run(flow(death, "@retry(times=1, minutes_between_retries=0)"), "--with", "otel")
    assert finished.code == 0
    assert [(attempt.result, attempt.exit_code) for attempt in attempts(finished)] == [("error", -9), ("success", 0)]
    assert finished.story.result == "success"


def test_what_catch_caught_is_a_success_that_says_what_it_caught(place: Place) -> None:
    finished = place.run(flow("raise ValueError('caught')", "@catch(var='problem')"), "--with", "otel")
    assert finished.code == 0, finished.stderr
    last = attempts(finished)[-1]
    assert (last.result, last.exception["type"], last.end["caught"] if last.end else None) == (
        "success",
        "ValueError",
        True,
    )


@pytest.mark.parametrize(
    "busy",
    [
        "while True: print('x' * 50)",
        # Without a handler that prints: logging's own swallow any exception that is raised inside of them.
        "log = logging.Logger('q'); log.addHandler(logging.NullHandler())\n            while True: log.error('busy')",
        "while True: time.sleep(0.01)",
    ],
)
def test_a_timeout_fires_also_inside_our_own_hooks(place: Place, busy: str) -> None:
    """The alarm's exception belongs to the step, wherever it is raised."""
    finished = place.run(flow(busy, "@timeout(seconds=1)"), "--with", "otel", timeout=60)
    assert finished.code == 1
    (attempt,) = attempts(finished)
    assert attempt.result == "timeout"
    assert "otel: telemetry of this process is incomplete" not in finished.stdout


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
    """Wait until a task has said `text`, and return its pid."""

    def pid() -> int | None:
        for path in place.home.glob("*/*/*.0.jsonl"):
            content = path.read_text()
            if text in content:
                import json

                return int(json.loads(content.partition("\n")[0])["pid"])
        return None

    return eventually(pid, 30, text)


# It goes on printing: Metaflow's launcher reads two lines that came together one at a time, and looks for the
# second only when more comes.
WAITING = flow("[(print('.'), time.sleep(0.1)) for _ in range(600)]")


def test_ctrl_c_is_a_cancellation(place: Place) -> None:
    """Of the attempt and of the run, with the lines that were written."""
    process = place.start(place.write(WAITING), "--with", "otel")
    wait_for_line(place, process, "a record")
    os.killpg(process.pid, signal.SIGINT)
    finished = place.finish(process)
    assert finished.code != 0
    (attempt,) = attempts(finished)
    assert (attempt.result, finished.story.result) == ("cancellation", "cancellation")
    assert set(bodies(finished, attempt)) >= WRITTEN


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_launcher_is_told_by_its_shipper(place: Place, number: signal.Signals) -> None:
    """The shipper notices, waits for the orphaned task, and closes the run's span as an error."""
    with Receiver() as receiver:
        process = place.start(place.write(WAITING), "--with", "otel", env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
        task = wait_for_line(place, process, "a record")
        (folder,) = place.home.glob("*/*")
        raw = folder / "start.1.0.output.jsonl"
        eventually(lambda: raw.exists() and "by the system" in raw.read_text())
        process.send_signal(number)
        process.wait(30)
        with contextlib.suppress(ProcessLookupError):  # or the broken pipe was faster
            os.kill(task, signal.SIGKILL)
        process.communicate()
        receiver.wait_for(lambda: len(receiver.spans()) == 2)
        spans = {span.name: span for span, _ in receiver.spans()}
        assert {span.status.code for span in spans.values()} == {2}
        assert set(receiver.bodies()) >= WRITTEN


@pytest.fixture
def gate(place: Place) -> str:
    path = place.path / "gate"
    os.mkfifo(path)
    return str(path)


def test_a_killed_shipper_is_followed_by_one_that_goes_on(place: Place, gate: str) -> None:
    """The launcher starts another with its next task; what was acknowledged is not sent again."""
    source = flow("open(os.environ['GATE']).read()")
    with Receiver() as receiver:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "GATE": gate}
        process = place.start(place.write(source), "--with", "otel", env=environment)
        receiver.wait_for(lambda: "by the system" in receiver.bodies())
        (folder,) = place.home.glob("*/*")
        eventually(lambda: Checkpoint.read(folder).delivered.get("logs", 0) >= 3)
        subprocess.run(["pkill", "-KILL", "-f", f"otel_metaflow.shipper {folder}"], check=True)
        with open(gate, "w") as opened:
            opened.write("go")
        finished = place.finish(process)
        finished.wait_delivered()
        found = receiver.bodies()
    assert finished.code == 0
    assert [found.count(text) for text in ("first line", "a record", "by the system", "reached the end")] == [1] * 4
    assert sorted(span.name for span, _ in receiver.spans()) == ["RUN DeathFlow", "end", "start"]
