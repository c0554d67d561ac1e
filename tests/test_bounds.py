"""What the journal may take of a disk and of memory, and what happens when there is no more of either."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from collectors import free_ports
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import Place, eventually

from otel_metaflow import spawn
from otel_metaflow.assembly.checkpoint import Checkpoint
from otel_metaflow.journal import layout
from otel_metaflow.journal.reader import Tail
from otel_metaflow.journal.writer import Journal, process_start
from otel_metaflow.shipper.prune import GIVEN_UP, prune

DAY = 86_400.0
KILOBYTE = 1_000


def raising(error: OSError) -> None:
    raise error


# Pruning


def keep(
    home: Path, name: str, *, days: float = 0, size: int = 10 * KILOBYTE, state: str = "delivered", pid: int = 0
) -> Path:
    """A run that was changed `days` ago; `state` is delivered, waiting or local (never meant to be sent)."""
    folder = layout.run_folder(home, layout.RunKey("KeptFlow", name))
    folder.mkdir(parents=True)
    journal = Journal(folder / layout.RUN_FILE, raising)
    journal.append(layout.START, {"pid": pid, "processStart": process_start(pid) if pid else 1})
    journal.append_line(json.dumps({"kind": "line", "timeUnixNano": 1, "body": "x" * size}))
    journal.close()
    if state != "local":
        (folder / layout.LOCK_FILE).touch()
        checkpoint = Checkpoint(folder / layout.CHECKPOINT_FILE, complete=state == "delivered")
        checkpoint.write()
    changed = time.time() - days * DAY
    for file in folder.iterdir():
        os.utime(file, (changed, changed))
    return folder


def given_up(home: Path) -> str:
    file = home / GIVEN_UP
    return file.read_text() if file.exists() else ""


def test_runs_beyond_the_age_go_and_only_those_that_were_waiting_are_named(tmp_path: Path) -> None:
    old = [keep(tmp_path, f"old-{state}", days=15, state=state) for state in ("delivered", "waiting", "local")]
    young = [keep(tmp_path, f"young-{state}", days=13, state=state) for state in ("delivered", "waiting", "local")]
    assert sorted(prune(tmp_path, 1 << 30, 14)) == sorted(old)
    assert not any(folder.exists() for folder in old)
    assert all(folder.exists() for folder in young)
    (line,) = given_up(tmp_path).splitlines()
    assert "KeptFlow/old-waiting was given up undelivered" in line


def test_beyond_the_size_delivered_runs_go_first_and_the_oldest_of_them(tmp_path: Path) -> None:
    """What is waiting goes only when nothing else is left, and is named."""
    waiting = [keep(tmp_path, f"waiting-{days}", days=days, state="waiting") for days in (9, 8)]
    done = [keep(tmp_path, f"done-{days}", days=days, state=state) for days, state in ((3, "delivered"), (2, "local"))]
    assert prune(tmp_path, 35 * KILOBYTE, 14) == [done[0]]
    assert given_up(tmp_path) == ""
    assert prune(tmp_path, 15 * KILOBYTE, 14) == [done[1], waiting[0]]
    assert [line.split()[2] for line in given_up(tmp_path).splitlines()] == ["KeptFlow/waiting-9"]
    assert prune(tmp_path, 15 * KILOBYTE, 14) == []
    assert waiting[1].exists()


def test_runs_that_go_on_and_runs_that_are_being_shipped_are_left_alone(tmp_path: Path) -> None:
    """However old, and however much is held."""
    running = keep(tmp_path, "running", days=30, pid=os.getpid())
    shipping = keep(tmp_path, "shipping", days=30, state="waiting")
    over = keep(tmp_path, "over", days=30)
    lock = spawn.try_lock(shipping)
    assert lock is not None
    assert prune(tmp_path, 0, 14) == [over]
    assert running.exists()
    assert shipping.exists()
    os.close(lock)
    assert prune(tmp_path, 0, 14) == [shipping]


def test_a_launcher_sees_to_pruning_now_and_then(place: Place) -> None:
    """By a process of its own, by the variables of the run."""
    old = keep(place.home, "old", days=3, state="waiting")
    finished = place.run(FLOW, env={"OTEL_METAFLOW_JOURNAL_MAX_DAYS": "2"})
    assert finished.code == 0, finished.stderr
    eventually(lambda: not old.exists())
    assert "KeptFlow/old" in place.cli("status").stdout
    assert finished.folder.exists()


# Journals


RECORDS = st.lists(st.text(max_size=20), max_size=12)


@given(RECORDS, st.integers(0, 2_000), st.integers(1, 200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_prefix_of_a_journal_is_readable_and_the_rest_follows(
    tmp_path: Path, bodies: list[str], cut: int, chunk: int
) -> None:
    """In chunks of any size: first what is whole, then, from there on, the rest."""
    path = tmp_path / "prefix.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal(path, raising)
    for number, body in enumerate(bodies):
        journal.append(layout.LINE, {"timeUnixNano": number, "body": body})
    journal.close()
    whole = path.read_bytes()
    tail = Tail(path)
    found: list[str] = []
    for data in (whole[:cut], whole):
        path.write_bytes(data)
        while not tail.at_end():
            found.extend(entry.record["body"] for entry in tail.read(chunk))
        assert len(found) == data.count(b"\n")
    assert found == [body.encode("utf-8", "replace").decode() for body in bodies]
    assert tail.corrupt == 0


@given(RECORDS, st.lists(st.tuples(st.integers(0, 12), st.binary(min_size=1, max_size=40)), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_corrupt_lines_are_skipped_and_counted(
    tmp_path: Path, bodies: list[str], damages: list[tuple[int, bytes]]
) -> None:
    """Any bytes that are no record, anywhere between the others."""
    lines = [json.dumps({"kind": "line", "timeUnixNano": 1, "body": body}).encode() for body in bodies]
    damaged = 0
    for where, damage in damages:
        one_line = b"{" + damage.replace(b"\n", b"").replace(b"}", b"")
        lines.insert(where, one_line)
        damaged += 1
    path = tmp_path / "damaged.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    tail = Tail(path)
    assert [entry.record["body"] for entry in tail.read()] == bodies
    assert tail.corrupt == damaged


def test_concurrent_writers_write_whole_lines(tmp_path: Path) -> None:
    """Threads and forked children, each with records larger than a pipe takes at once."""
    journal = Journal(tmp_path / "shared.jsonl", raising)

    def write(writer: int) -> None:
        for number in range(100):
            journal.append(layout.LINE, {"writer": writer, "number": number, "body": "x" * (37 * number)})

    children = []
    for writer in range(3):
        child = os.fork()
        if not child:
            write(writer)
            os._exit(0)
        children.append(child)
    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(3, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    tail = Tail(journal.path)
    found: dict[int, list[int]] = {}
    while not tail.at_end():
        for entry in tail.read():
            found.setdefault(entry.record["writer"], []).append(entry.record["number"])
    assert found == {writer: list(range(100)) for writer in range(6)}
    assert tail.corrupt == 0


# Memory


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_shipper_stays_small_while_a_million_records_wait(place: Place, protocol: str) -> None:
    """Reported by the task and read by the launcher, two million lines of journal; the endpoint is down."""
    key = layout.AttemptKey("start", "1", 0)
    folder = layout.run_folder(place.home, layout.RunKey("BigFlow", "1"))
    folder.mkdir(parents=True)
    task = Journal(layout.attempt_file(folder, key), raising)
    output = Journal(layout.output_file(folder, key), raising)
    task.append(layout.START, {"pid": 1, "processStart": 1, "flow": "BigFlow", "run": "1", "step": "start"})
    for block in range(100):
        at = time.time_ns()
        lines = [
            f'{{"kind":"line","timeUnixNano":{at + number},"stream":"stdout","body":"line {number} of block {block}"}}'
            for number in range(10_000)
        ]
        task.append_lines(lines)
        output.append_lines(lines)
    task.append(layout.END, {"result": "success"})
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_ports(1)[0]}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
    }
    with (folder / layout.SHIPPER_LOG).open("ab") as log:
        shipper = subprocess.Popen(
            [sys.executable, "-m", "otel_metaflow.shipper", str(folder)],
            env=place.environ(variables), stdout=log, stderr=log,
        )  # fmt: skip
    try:
        # Every signal has been tried: the exporters are loaded, and the batches that wait are made.
        eventually(lambda: len(Checkpoint.read(folder).trouble) == 3, 120)
        status = Path(f"/proc/{shipper.pid}/status").read_text()
    finally:
        shipper.kill()
        shipper.wait()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak <= 80_000, f"{peak} kB"


# Runs


FLOW = """
    import logging
    from metaflow import FlowSpec, otel, step
    class BoundFlow(FlowSpec):
        @otel
        @step
        def start(self):
            for number in range(3000):
                print("line", number)
            self.next(self.end)
        @otel
        @step
        def end(self):
            print("done")
    if __name__ == "__main__":
        BoundFlow()
    """
