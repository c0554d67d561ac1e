"""Clocks that stop, jump or lie: each line is exported once, in order, and dated by the system's clock."""

from __future__ import annotations

import textwrap
import time

import pytest
from running import Finished, Place

from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.model.attempt_logs import AttemptLogs

FLOW = r"""
    import contextlib, logging, os, subprocess, sys, time
    import freezegun, time_machine
    from metaflow import FlowSpec, step

    PAST = "2012-01-14"

    @contextlib.contextmanager
    def set_back():
        true = time.time_ns, time.time
        time.time_ns, time.time = lambda: true[0]() - 3_600 * 10**9, lambda: true[1]() - 3_600
        yield
        time.time_ns, time.time = true

    @contextlib.contextmanager
    def records_ahead():
        made = logging.getLogRecordFactory()
        def ahead(*args, **kwargs):
            record = made(*args, **kwargs)
            record.created += 1
            return record
        logging.setLogRecordFactory(ahead)
        yield
        logging.setLogRecordFactory(made)

    KINDS = {
        "freezegun": lambda: freezegun.freeze_time(PAST),
        "time_machine": lambda: time_machine.travel(PAST, tick=False),
        "time_machine_ahead": lambda: time_machine.travel("2222-01-01", tick=True),
        "set_back": set_back,
        "records_ahead": records_ahead,
    }

    class ClockFlow(FlowSpec):
        @step
        def start(self):
            self.kinds = list(KINDS)
            self.next(self.each, foreach="kinds")
        @step
        def each(self):
            self.kind = self.input
            logging.basicConfig(format="%(message)s")
            print("before", self.input)
            with KINDS[self.input]():
                for number in range(40):
                    print("printed", number)
                    if number % 4 == 0:
                        logging.warning("logged %d", number)
                        sys.stderr.write(f"written {number}\n")
                    if number % 10 == 0:
                        subprocess.run(["echo", f"subprocess {number}"])
            print("after")
            self.next(self.join)
        @step
        def join(self, inputs):
            self.next(self.end)
        @step
        def end(self):
            pass

    if __name__ == "__main__":
        ClockFlow()
    """
KINDS = ("freezegun", "time_machine", "time_machine_ahead", "set_back", "records_ahead")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The flow, run once."""
    done = Place(tmp_path_factory.mktemp("clocks")).run(FLOW, "--with", "otel", "--max-workers", "2")
    assert done.code == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("kind", KINDS)
def test_each_line_is_exported_once_in_order_whatever_the_clock_shows(finished: Finished, kind: str) -> None:
    """And none at another time than it was: frozen, elsewhere, set back; a record may be dated ahead."""
    for attempt in finished.story.in_order:
        entries = [entry.record for entry in AttemptLogs(finished.folder, attempt.key, Cursor()).read(final=True)]
        bodies = [record["body"] for record in entries]
        if f"before {kind}" in bodies:
            break
    expected = ["after", f"before {kind}"]
    expected += [f"printed {number}" for number in range(40)]
    expected += [f"{how} {number}" for number in range(0, 40, 4) for how in ("logged", "written")]
    expected += [f"subprocess {number}" for number in range(0, 40, 10)]
    assert sorted(bodies) == sorted(expected)
    reported = [body for body in bodies if not body.startswith("subprocess")]
    order = [f"before {kind}"]
    for number in range(40):
        order.append(f"printed {number}")
        if number % 4 == 0:
            order += [f"logged {number}", f"written {number}"]
    assert reported == [*order, "after"]
    lines = [record for record in entries if record["kind"] == "line"]
    assert all(abs(time.time_ns() - record["timeUnixNano"]) < 600 * 10**9 for record in lines)
    by_time = sorted(
        (record for record in lines if record["stream"] == "stdout"), key=lambda each: each["timeUnixNano"]
    )
    assert [record["body"] for record in by_time if "sub" not in record["body"]] == [
        body for body in reported if body.startswith(("before", "printed", "after"))
    ]


SET_BACK = """
    import os, time
    def wrapped(read, scale):
        def shown(*clock):
            is_set = clock in ((), (time.CLOCK_REALTIME,), (5,)) and os.path.exists(os.environ["SET_BACK"])
            return read(*clock) - 3_600 * scale * is_set
        return shown
    time.time, time.clock_gettime = wrapped(time.time, 1), wrapped(time.clock_gettime, 1)
    time.time_ns, time.clock_gettime_ns = wrapped(time.time_ns, 10**9), wrapped(time.clock_gettime_ns, 10**9)
    """
SET_BACK_FLOW = """
    import os, signal, subprocess, time
    from metaflow import FlowSpec, step
    class SetBackFlow(FlowSpec):
        @step
        def start(self):
            for number in range(200):
                time.sleep(0.01)  # the launcher reads line by line, but for those that are printed while it is stopped
                if number == 140:
                    os.kill(os.getppid(), signal.SIGSTOP)
                print("printed", number)
                if number % 50 == 0:
                    subprocess.run(["echo", f"subprocess {number}"])
                if number == 145:
                    open(os.environ["SET_BACK"], "w").close()
                    os.kill(os.getppid(), signal.SIGCONT)
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        SetBackFlow()
    """


def test_a_clock_of_the_machine_that_is_set_back_doubles_no_line(place: Place) -> None:
    """In the launcher and in its task, an hour, while the task prints."""
    folder = place.path / "set-back"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(textwrap.dedent(SET_BACK))
    environment = {"PYTHONPATH": str(folder), "SET_BACK": str(place.path / "is-set-back")}
    finished = place.run(SET_BACK_FLOW, "--with", "otel", env=environment)
    assert finished.code == 0, finished.stdout + finished.stderr
    attempt = next(attempt for attempt in finished.story.in_order if attempt.key.step == "start")
    entries = AttemptLogs(finished.folder, attempt.key, Cursor()).read(final=True)
    bodies = [entry.record["body"] for entry in entries]
    printed = [f"printed {number}" for number in range(200)]
    assert sorted(bodies) == sorted([*printed, *(f"subprocess {number}" for number in range(0, 200, 50))])
    assert [body for body in bodies if body in printed] == printed
