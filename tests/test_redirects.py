"""What is on a task's output is exported, each line once, whatever user code does with the descriptors.

Metaflow's own logs, which the launcher stores as it reads the same pipes, are the truth.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from running import Finished, Place

from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.model.attempt_logs import AttemptLogs

FLOW = r"""
    import contextlib, logging, multiprocessing, os, subprocess, sys, threading
    from metaflow import FlowSpec, step

    @contextlib.contextmanager
    def led(descriptor, *, to):
        kept = os.dup(descriptor)
        opened = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if isinstance(to, str) else to
        os.dup2(opened, descriptor)
        try:
            yield
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)

    def beside():
        subprocess.run(["sh", "-c", "for i in 2 20 200 x2; do echo epoch 1 of $i; echo yes and yes; done"])

    def silenced():
        with led(1, to=os.devnull):
            for _ in range(3):
                print("epoch 1 of 2"); print("yes"); print("epoch", 1, "of", 2); print("")
        beside()

    def to_a_file():
        with led(1, to="kept"), led(2, to="kept"):
            print("epoch 1 of 2"); print("yes"); sys.stderr.write("epoch 1 of 2\n")
        print("after"); beside()

    def into_stderr():
        with led(1, to=2):
            print("out on err"); sys.stderr.write("err on err\n"); logging.warning("a record")
        print("after"); beside()

    def into_stdout():
        with led(2, to=1):
            print("out on out"); sys.stderr.write("err on out\n"); logging.warning("a record")
            print("pie", end=""); sys.stderr.write("ce\n")
        sys.stderr.write("after\n"); beside()

    def in_the_middle_of_a_line():
        print("one ", end="")
        with led(1, to=os.devnull):
            print("no"); print("nor this", end="")
        print("line")
        with led(1, to=os.devnull):
            print("begun and", end="")
        print("yes"); print("after"); beside()

    def closed():
        kept = os.dup(1)
        os.close(1)
        try:
            print("epoch 1 of 2")
        except OSError:
            pass
        opened = os.open("other", os.O_WRONLY | os.O_CREAT)  # gets the number 1
        print("yes")
        os.dup2(kept, 1)
        print("after"); beside()

    def in_a_forked_child():
        def work():
            with led(1, to=os.devnull):
                print("epoch 1 of 2"); print("yes")
            print("of a child")
            os.dup2(2, 1)
            print("of a child on err")
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start(); child.join()
        print("after"); beside()

    def in_a_thread():
        def work():
            with led(1, to=os.devnull):
                print("epoch 1 of 2"); print("yes")
        thread = threading.Thread(target=work)
        thread.start(); thread.join()
        print("after"); beside()

    def for_good():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        print("epoch 1 of 2"); print("yes"); sys.stderr.write("still here\n"); logging.warning("a record")

    class RedirectFlow(FlowSpec):
        @step
        def start(self):
            self.kinds = ["silenced", "to_a_file", "into_stderr", "into_stdout", "in_the_middle_of_a_line", "closed",
                "in_a_forked_child", "in_a_thread", "for_good"]
            self.next(self.each, foreach="kinds")
        @step
        def each(self):
            print("case", self.input)
            logging.basicConfig(format="%(message)s")
            globals()[self.input]()
            self.kind = self.input
            self.next(self.join)
        @step
        def join(self, inputs):
            self.next(self.end)
        @step
        def end(self):
            pass

    if __name__ == "__main__":
        RedirectFlow()
    """
KINDS = (
    "silenced to_a_file into_stderr into_stdout in_the_middle_of_a_line closed in_a_forked_child in_a_thread for_good"
)


def stored(finished: Finished, step: str, task: str, stream: str) -> list[str]:
    """The lines of a task's stream as Metaflow stored them."""
    folder = finished.home.parent / "datastore" / ".metaflow" / finished.flow / finished.run
    log = (folder / step / task / f"0.runtime_{stream}.log").read_bytes().decode("utf-8", "replace")
    # [MFLOG|version|time|source|id]text
    return [line.partition("]")[2] for line in log.split("\n") if line.startswith("[MFLOG|")]


def exported(finished: Finished, task: str) -> Counter[tuple[str, str]]:
    """The lines of a task as the shipper would send them, by stream; what a logging record is stands on stderr."""
    found: Counter[tuple[str, str]] = Counter()
    for entry in AttemptLogs(finished.folder, AttemptKey("each", task, 0), Cursor()).read(final=True):
        found[entry.record.get("stream", "logging"), entry.record["body"]] += 1
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The flow, run once."""
    done = Place(tmp_path_factory.mktemp("redirects")).run(FLOW, "--with", "otel", "--max-workers", "2")
    assert done.code == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("kind", KINDS.split())
def test_what_is_on_the_output_is_exported_once_and_nothing_else(finished: Finished, kind: str) -> None:
    """Silenced, into a file, into the other stream, closed, in children and threads, for good."""
    tasks = [
        path.name for path in task_folders(finished) if f"case {kind}" in stored(finished, "each", path.name, "stdout")
    ]
    (task,) = tasks
    expected: Counter[tuple[str, str]] = Counter()
    for stream in ("stdout", "stderr"):
        expected.update((stream, line) for line in stored(finished, "each", task, stream))
    found = exported(finished, task)
    # A logging record is exported as such, and what its handler wrote is its output, wherever it went.
    records = found.pop(("logging", "a record"), 0)
    shown = expected.pop(("stdout", "a record"), 0) + expected.pop(("stderr", "a record"), 0)
    assert records == shown
    assert found == expected


def task_folders(finished: Finished) -> list[Path]:
    folder = finished.home.parent / "datastore" / ".metaflow" / finished.flow / finished.run / "each"
    return [path for path in folder.iterdir() if path.name.isdigit()]
