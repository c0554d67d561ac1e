"""OTEL_METAFLOW_LOG_DIR: JSON lines for agents that read files."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from collectors import ROOT
from endpoint import Endpoint as Receiver
from running import Finished, Place, eventually

from otel_metaflow.core.redaction import Redaction
from otel_metaflow.journal.ledger import Changes, Ledger
from otel_metaflow.model.following import Following
from otel_metaflow.shipper import log_files
from otel_metaflow.shipper.convert.events import Events
from otel_metaflow.shipper.convert.logs import LogRecords
from otel_metaflow.shipper.convert.resources import Resources
from otel_metaflow.shipper.usage_sampler import UsageSampler

FANOUT = ROOT / "examples/fanout.py"


def lines(directory: Path) -> list[dict[str, Any]]:
    """All records of all files, the oldest file first."""
    found = sorted(directory.glob("metaflow.jsonl*"), key=lambda path: (len(path.name), path.name), reverse=True)
    return [json.loads(line) for path in found for line in path.read_text().splitlines() if line.startswith("{")]


def uids(directory: Path) -> list[str]:
    return [line["log.record.uid"] for line in lines(directory)]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run whose journals are to be written out."""
    finished = Place(tmp_path_factory.mktemp("run")).run(FANOUT)
    assert finished.code == 0, finished.stderr
    return finished


def of(directory: Path, ended: Finished) -> log_files.Files:
    """The files of a run, as its delivery makes them."""
    following = Following(ended.home, ended.folder)
    following.poll()
    resources, redaction = Resources(following.run), Redaction()
    events = Events(following.run, resources, redaction, UsageSampler())
    files = log_files.Files(directory, following, LogRecords(following.run, resources), events)
    for key in following.run.attempts:
        files.add(key)
    return files


def write_out(ended: Finished, directory: Path) -> log_files.Files:
    """What a shipper does with a run that is over, until nothing is left."""
    made = of(directory, ended)
    while made.feed():
        pass
    return made


@pytest.fixture
def fresh(ended: Finished) -> Finished:
    (ended.folder / "log-files.ledger").unlink(missing_ok=True)
    return ended


def test_the_files_hold_the_same_records_as_the_endpoint(place: Place) -> None:
    """Each record once, with its names, ids and attributes."""
    directory = place.path / "agent"
    with Receiver() as receiver:
        environment = {"OTEL_METAFLOW_LOG_DIR": str(directory), "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        finished = place.run(FANOUT, env=environment)
        finished.wait_delivered()
        bodies = receiver.bodies()
    written = lines(directory)
    assert Counter(line["message"] for line in written) == Counter(bodies)
    assert max(Counter(uids(directory)).values()) == 1
    trace_id, span_id = re.findall(r"[0-9a-f]{16,}", place.cli("id", f"FanoutFlow/{finished.run}/end/7").stdout)
    (last,) = (line for line in written if line["message"] == "1000 rows in all" and "metaflow.attempt" in line)
    assert (
        last.items()
        >= {
            "severity": "INFO",
            "service": "metaflow",
            "trace_id": trace_id,
            "span_id": span_id,
            "metaflow.flow.name": "FanoutFlow",
            "metaflow.run.id": finished.run,
            "metaflow.step.name": "end",
            "metaflow.task.id": "7",
            "metaflow.attempt": 0,
            "log.iostream": "stdout",
        }.items()
    )
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", last["timestamp"])
    (warned,) = (line for line in written if line["message"] == "shard 2 gave 200 rows" and "shard" in line)
    assert (warned["severity"], warned["shard"], warned["team"]) == ("WARN", 2, "sharding")
    (failed,) = (line for line in written if line.get("event.name") == "metaflow.task.exception")
    assert failed["exception.type"] == "RuntimeError"


def test_no_endpoint_is_needed(place: Place) -> None:
    """The run is then delivered when it is in the files, and the summary names them."""
    directory = place.path / "agent"
    environment = {"OTEL_METAFLOW_LOG_DIR": str(directory), "OTEL_METAFLOW_FLUSH_TIMEOUT": "30"}
    finished = place.run(FANOUT, env=environment)
    status = finished.wait_delivered()
    assert status.delivered["files"] == len(lines(directory)) > 20
    assert f"exported to {directory}" in finished.stderr
    assert "all runs are exported" in place.cli("status", env=environment).stdout


def test_a_shipper_killed_between_writing_and_noting_writes_nothing_twice(
    fresh: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had written is found in the file."""
    write_out(fresh, tmp_path / "whole")
    (fresh.folder / "log-files.ledger").unlink()
    monkeypatch.setattr(log_files, "_BATCH", 2_000)
    append, appended = Ledger.append, []

    def dying(self: Ledger, changes: Changes, status: dict[str, Any]) -> None:
        appended.append(changes)
        if len(appended) % 3 == 0:
            raise KeyboardInterrupt
        append(self, changes, status)

    monkeypatch.setattr(Ledger, "append", dying)

    def dies() -> bool:
        try:
            write_out(fresh, tmp_path / "killed")
        except KeyboardInterrupt:
            return True
        return False

    deaths = 0
    while dies():
        deaths += 1
    assert deaths > 3
    assert uids(tmp_path / "killed") == uids(tmp_path / "whole")


def test_a_torn_line_is_written_again_whole(fresh: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, or out of disk, in the middle of a record."""
    write_out(fresh, tmp_path / "whole")
    (fresh.folder / "log-files.ledger").unlink()
    append = log_files._append

    def torn(path: Path, data: bytes) -> None:
        append(path, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_files, "_append", torn)
    assert "No space left on device" in write_out(fresh, tmp_path / "torn").trouble
    monkeypatch.setattr(log_files, "_append", append)
    assert write_out(fresh, tmp_path / "torn").trouble == ""
    whole = [line for line in (tmp_path / "torn/metaflow.jsonl").read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["log.record.uid"] for line in whole] == uids(tmp_path / "whole")


def test_files_are_rotated_and_the_oldest_goes(
    fresh: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """metaflow.jsonl is the newest, .1 the one before; nothing is lost until there are ten."""
    write_out(fresh, tmp_path / "whole")
    monkeypatch.setattr(log_files, "_BATCH", 2_000)
    monkeypatch.setattr(log_files, "MAX_BYTES", 10_000)
    (fresh.folder / "log-files.ledger").unlink()
    write_out(fresh, tmp_path / "rotated")
    names = {path.name for path in (tmp_path / "rotated").glob("metaflow.*")}
    assert names >= {"metaflow.jsonl", "metaflow.jsonl.1"}
    assert len(names) <= log_files.MAX_FILES
    if len(names) < log_files.MAX_FILES:
        assert uids(tmp_path / "rotated") == uids(tmp_path / "whole")
    assert all(path.stat().st_size < 10_000 + 4_000 for path in (tmp_path / "rotated").glob("metaflow.*"))


def test_runs_at_the_same_time_share_the_file(fresh: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each whole line is one record of one of them."""
    monkeypatch.setattr(log_files, "_BATCH", 500)
    writers = []
    for _ in range(3):
        # As shippers of three runs: none sees what another noted.
        (fresh.folder / "log-files.ledger").unlink(missing_ok=True)
        made = of(tmp_path, fresh)
        made._ledger.path = tmp_path / f"ledger-{len(writers)}"
        writers.append(made)

    def work(writer: log_files.Files) -> None:
        while writer.feed():
            pass

    threads = [threading.Thread(target=work, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(Counter(uids(tmp_path)).values()) == {3}


def test_a_folder_that_cannot_be_written_is_reported_and_affects_nothing_else(place: Place) -> None:
    """The records wait in the journal until it can."""
    obstacle = place.path / "obstacle"
    obstacle.write_text("a file where a folder should be")
    environment = {"OTEL_METAFLOW_LOG_DIR": str(obstacle / "agent")}
    finished = place.run(FANOUT, env=environment)
    assert finished.code == 0
    eventually(lambda: "files" in finished.status.trouble)
    obstacle.unlink()
    finished.wait_delivered()
    assert len(lines(obstacle / "agent")) > 20
