"""What the journal may take of a disk and of memory, and what happens when there is no more of either."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from collectors import free_ports
from endpoint import Endpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from running import Finished, Place, eventually, seen

from otel_metaflow.core import names
from otel_metaflow.journal import layout
from otel_metaflow.journal import lock as locks
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.journal.layout import DROPPED_LOG
from otel_metaflow.journal.ledger import Changes, Ledger
from otel_metaflow.journal.processes import process_start
from otel_metaflow.journal.reader import Tail
from otel_metaflow.journal.writer import Journal
from otel_metaflow.shipper.retention import prune

DAY = 86_400.0
KILOBYTE = 1_000


def raising(error: OSError) -> None:
    raise error


# Pruning


def keep(
    home: Path, name: str, *, days: float = 0, size: int = 10 * KILOBYTE, state: str = "delivered", pid: int = 0
) -> Path:
    """A run that was changed `days` ago; `state` is delivered, waiting or local (never meant to be sent)."""
    folder = layout.run_folder(home, RunKey("KeptFlow", name))
    folder.mkdir(parents=True)
    journal = Journal(folder / layout.RUN_FILE, raising)
    journal.append(layout.START, {"pid": pid, "processStart": process_start(pid) if pid else 1})
    journal.append_line(json.dumps({"kind": "line", "timeUnixNano": 1, "body": "x" * size}))
    journal.close()
    if state != "local":
        (folder / layout.LOCK_FILE).touch()
        status = DeliveryStatus(complete=state == "delivered")
        Ledger(folder / layout.LEDGER_FILE).append(Changes(), status.as_json())
    changed = time.time() - days * DAY
    for file in folder.iterdir():
        os.utime(file, (changed, changed))
    return folder


def dropped(home: Path) -> str:
    file = home / DROPPED_LOG
    return file.read_text() if file.exists() else ""


def test_runs_beyond_the_age_are_deleted_and_undelivered_ones_listed(tmp_path: Path) -> None:
    old = [keep(tmp_path, f"old-{state}", days=15, state=state) for state in ("delivered", "waiting", "local")]
    young = [keep(tmp_path, f"young-{state}", days=13, state=state) for state in ("delivered", "waiting", "local")]
    assert sorted(prune(tmp_path, 1 << 30, 14)) == sorted(old)
    assert not any(folder.exists() for folder in old)
    assert all(folder.exists() for folder in young)
    (line,) = dropped(tmp_path).splitlines()
    assert "KeptFlow/old-waiting was deleted before it was exported" in line


def test_beyond_the_size_delivered_runs_go_first_and_the_oldest_of_them(tmp_path: Path) -> None:
    """What is waiting goes only when nothing else is left, and is named."""
    waiting = [keep(tmp_path, f"waiting-{days}", days=days, state="waiting") for days in (9, 8)]
    done = [keep(tmp_path, f"done-{days}", days=days, state=state) for days, state in ((3, "delivered"), (2, "local"))]
    assert prune(tmp_path, 35 * KILOBYTE, 14) == [done[0]]
    assert dropped(tmp_path) == ""
    assert prune(tmp_path, 15 * KILOBYTE, 14) == [done[1], waiting[0]]
    assert [line.split()[2] for line in dropped(tmp_path).splitlines()] == ["KeptFlow/waiting-9"]
    assert prune(tmp_path, 15 * KILOBYTE, 14) == []
    assert waiting[1].exists()


def test_a_run_that_has_just_ended_is_left_alone_however_large(tmp_path: Path) -> None:
    """Or the run that fills its journals would lose what it could still write."""
    keep(tmp_path, "older", days=1)
    fresh = keep(tmp_path, "fresh", size=100 * KILOBYTE)
    assert fresh not in prune(tmp_path, KILOBYTE, 14)
    assert fresh.exists()
    assert prune(tmp_path, KILOBYTE, 0) == [fresh]


def test_runs_that_go_on_and_runs_that_are_being_shipped_are_left_alone(tmp_path: Path) -> None:
    """However old, and however much is held."""
    running = keep(tmp_path, "running", days=30, pid=os.getpid())
    shipping = keep(tmp_path, "shipping", days=30, state="waiting")
    over = keep(tmp_path, "over", days=30)
    lock = locks.try_lock(shipping)
    assert lock is not None
    assert prune(tmp_path, 0, 14) == [over]
    assert running.exists()
    assert shipping.exists()
    os.close(lock)
    assert prune(tmp_path, 0, 14) == [shipping]


def test_a_run_is_left_alone_while_a_task_outlives_its_launcher(tmp_path: Path) -> None:
    """Whether the launcher had recorded its launch, or another task started it; not once its end is recorded."""
    mine = {"pid": os.getpid(), "processStart": process_start()}
    for task, is_launched in (("1", True), ("2", False)):
        folder, key = keep(tmp_path, task), AttemptKey("train", task, 0)
        launcher = Journal(folder / layout.RUN_FILE, raising)
        if is_launched:
            launcher.append(layout.LAUNCH, {**key._asdict(), **mine})
        own = Journal(layout.attempt_file(folder, key), raising)
        own.append(layout.START, {**key._asdict(), **mine})
        assert prune(tmp_path, 0, 0) == []
        launcher.append(layout.EXIT, {**key._asdict(), "code": 0})
        assert prune(tmp_path, 0, 0) == [folder]
        own.close()
        launcher.close()


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
    key = AttemptKey("start", "1", 0)
    folder = layout.run_folder(place.home, RunKey("BigFlow", "1"))
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
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    shipper = place.start_shipper(folder, url, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    try:
        # Every signal has been tried: the exporters are loaded, and the batches that wait are made.
        eventually(lambda: len(DeliveryStatus.read(folder).trouble) == 3, 120)
        status = Path(f"/proc/{shipper.pid}/status").read_text()
    finally:
        shipper.kill()
        shipper.wait()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak <= 80_000, f"{peak} kB"


# Runs


FLOW = """
    import logging, os, shutil
    from metaflow import FlowSpec, otel, step
    class BoundFlow(FlowSpec):
        @otel
        @step
        def start(self):
            if os.environ.get("KIND") == "log":
                logger = logging.getLogger("bound")
                logger.propagate = False
                logger.addHandler(logging.FileHandler(os.devnull))
                for number in range(3000):
                    logger.warning("log %s", number)
            else:
                for number in range(3000):
                    print("line", number)
            if "REMOVED" in os.environ:
                shutil.rmtree(os.environ["REMOVED"])
            self.next(self.end)
        @otel
        @step
        def end(self):
            print("done")
    if __name__ == "__main__":
        BoundFlow()
    """


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run with all the room it wants."""
    finished = Place(tmp_path_factory.mktemp("plain")).run(FLOW)
    assert finished.code == 0, finished.stderr
    return finished


def ours(finished: Finished) -> list[str]:
    """Our lines on stderr, without the last, the summary."""
    printed = [line for line in finished.stderr.splitlines() if "otel: " in line]
    assert "recorded" in printed[-1]
    return printed[:-1]


def shipped(place: Place, finished: Finished, written: int) -> None:
    """Ship what was kept: all that the journals hold arrives, and what they lost is counted everywhere."""
    with Endpoint() as endpoint:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        assert place.cli("ship", f"{finished.flow}/{finished.run}", env=environment).returncode == 0
        arrived = sum(count for body, count in endpoint.body_counts.items() if body.startswith(("line", "log")))
        dropped = {
            (attributes[names.SIGNAL], attributes[names.REASON]): point.as_int
            for attributes, point in points(endpoint, "metaflow.telemetry.dropped")
        }
    assert 0 < arrived < written
    assert set(endpoint.uids.values()) == {1}
    assert dropped == {("logs", "unwritten"): written - arrived}
    assert finished.status.dropped == dropped
    shown = place.cli("view", f"{finished.flow}/{finished.run}").stdout
    assert f"{written - arrived} logs lost, the journal could not be written" in shown


def points(endpoint: Endpoint, name: str) -> Iterator[tuple[dict[str, str], Any]]:
    for message in endpoint.of(ExportMetricsServiceRequest):
        for resource in message.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        for point in metric.sum.data_points:
                            yield {each.key: each.value.string_value for each in point.attributes}, point


@pytest.mark.parametrize("kind", ["line", "log"])
def test_a_journal_that_is_full_costs_lines_and_is_reported_once(place: Place, plain: Finished, kind: str) -> None:
    """OTEL_METAFLOW_JOURNAL_MAX_MB bounds each journal of a run that goes on, too; what it cost is counted."""
    limit = {"OTEL_METAFLOW_JOURNAL_MAX_MB": "0.1", "KIND": kind}
    finished = place.run(FLOW, env=limit)
    if kind == "line":
        assert seen(finished) == seen(plain)
    (line,) = ours(finished)
    assert "telemetry is incomplete" in line
    assert "OTEL_METAFLOW_JOURNAL_MAX_MB" in line
    shipped(place, finished, 3000)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_costs_lines_and_is_reported_once(place: Place, plain: Finished) -> None:
    """What was written is delivered when there is room again."""
    place.home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(place.home)], check=True)
    try:
        finished = place.run(FLOW)
        assert seen(finished) == seen(plain)
        (line,) = ours(finished)
        assert "telemetry is incomplete" in line
        assert "No space left" in line
        subprocess.run(["mount", "-o", "remount,size=2m", str(place.home)], check=True)
        with Endpoint() as endpoint:
            environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
            assert place.cli("ship", f"BoundFlow/{finished.run}", env=environment).returncode == 0
        held = {
            entry.record["body"]
            for file in finished.folder.glob("*.jsonl")
            for entry in Tail(file).read(1 << 30)
            if entry.record["kind"] == layout.LINE and entry.record["body"].startswith("line")
        }
        assert set(endpoint.body_counts) >= held
        assert len(held) > 100
        assert set(endpoint.uids.values()) == {1}
    finally:
        subprocess.run(["umount", str(place.home)], check=True)


def test_a_removed_folder_costs_only_its_contents(place: Place, plain: Finished) -> None:
    """The run goes on, one line reports it, and later tasks create the folder again."""
    with Endpoint() as endpoint:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "REMOVED": str(place.home)}
        finished = place.run(FLOW, env=environment)
        assert seen(finished) == seen(plain)
        assert len(ours(finished)) <= 1
        endpoint.wait_for(lambda: endpoint.body_counts["done"] == 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="root writes into read-only folders, so it takes a mount")
def test_a_read_only_folder_costs_the_telemetry_and_is_reported_once(place: Place, plain: Finished) -> None:
    place.home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(place.home)], check=True)
    try:
        finished = place.run(FLOW)
    finally:
        subprocess.run(["umount", str(place.home)], check=True)
    assert seen(finished) == seen(plain)
    (line,) = [line for line in finished.stderr.splitlines() if "otel: " in line]
    assert f"cannot write journals in {place.home} (Read-only file system)" in line


def test_damaged_lines_are_counted_once_and_the_rest_is_delivered(place: Place, plain: Finished) -> None:
    """Also where a shipper was killed in between: what it had counted is not counted again."""
    shutil.copytree(plain.home, place.home, ignore=shutil.ignore_patterns("*.pipe"))
    finished = replace(plain, home=place.home)
    (journal,) = finished.folder.glob("start.*.0.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    damage = b'{"kind":"line","timeUnixNano":17\n'
    for where in (2500, 2000, 100):  # beside what goes into the first batch, and in it
        lines.insert(where, damage)
    journal.write_bytes(b"".join(lines))
    with Endpoint() as endpoint:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        shipper = place.start_shipper(finished.folder, endpoint.url)
        eventually(lambda: finished.status.delivered.get("logs"), 120)
        shipper.kill()
        shipper.wait()
        shipped = place.cli("ship", f"{finished.flow}/{finished.run}", env=environment)
        assert shipped.returncode == 0, shipped.stderr
        assert {f"line {number}" for number in range(3000)} <= set(endpoint.body_counts)
        dropped = [
            (point_of[names.SIGNAL], point_of[names.REASON], point.as_int)
            for point_of, point in points(endpoint, "metaflow.telemetry.dropped")
        ]
    assert dropped == [("logs", "corrupt", 3)]
    assert finished.status.dropped == {("logs", "corrupt"): 3}
    assert "3 logs lost, the journal is damaged" in place.cli("view", f"{finished.flow}/{finished.run}").stdout


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(0, 1_500))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_unwritten_records_of_a_journal_are_counted(tmp_path: Path, sizes: list[int], most: int) -> None:
    """One by one and many at once: each line is in the journal, or in its count; facts are always written."""
    path = tmp_path / "bounded.jsonl"
    path.unlink(missing_ok=True)
    reported: list[OSError] = []
    journal = Journal(path, reported.append, most)
    for size in sizes:
        journal.append_lines([f'{{"kind":"line","timeUnixNano":1,"body":"{"x" * size}"}}'] * size)
    journal.append(layout.END, {})
    journal.close()
    *lines, end = [entry.record["kind"] for entry in Tail(path).read(1 << 20)]
    assert end == layout.END
    assert len(lines) + journal.unwritten.get(layout.LINE, 0) == sum(sizes)
    assert len(reported) == bool(journal.unwritten)
