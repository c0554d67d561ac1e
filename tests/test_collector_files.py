"""What Metaflow writes without @otel, read from files by the collector."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from collectors import ROOT, Collector, Vendors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from collectors import Log
    from running import Place

IDENTITY = ("metaflow.flow.name", "metaflow.run.id", "metaflow.step.name", "metaflow.task.id")


@pytest.fixture
def tee(place: Place) -> Path:
    """What `python fanout.py run 2>&1 | tee run.log` writes; the flow is the example without its @otel."""
    source = (ROOT / "examples/fanout.py").read_text().replace("current, otel, retry", "current, retry")
    flow = place.write(re.sub(r"^    @otel.*\n", "", source, flags=re.MULTILINE))
    log = place.path / "logs/run.log"
    log.parent.mkdir()
    command = f"{sys.executable} {flow} --no-pylint run 2>&1 | tee {log}"
    subprocess.run(command, shell=True, cwd=place.path, env=place.environ(), check=True, stdout=subprocess.DEVNULL)
    return log


def read(directory: Path, vendors: Vendors, settings: Mapping[str, str], wanted: str) -> list[Log]:
    """All that Splunk received once a body with `wanted` was among it; Datadog has the same."""
    with Collector(directory, vendors.environment | settings, ["filelog"]):
        vendors.wait_for(lambda: all(any(wanted in log.body for log in vendor.logs()) for vendor in vendors.both))
    assert sorted(log.body for log in vendors.splunk.logs()) == sorted(log.body for log in vendors.datadog.logs())
    return vendors.splunk.logs()


def identity(log: Log) -> tuple[str | None, ...]:
    return tuple(log.attributes.get(name) for name in IDENTITY)


def test_the_output_of_a_run_arrives_with_flow_run_step_and_task(tmp_path: Path, vendors: Vendors, tee: Path) -> None:
    """`python flow.py run 2>&1 | tee run.log`, nothing else: no decorator, no endpoint."""
    logs = read(tmp_path, vendors, {"COLLECTOR_FILELOG_INCLUDE": f"{tee.parent}/*.log"}, "Done!")
    text = tee.read_text()
    (run,) = set(re.findall(r"run-id (\d+)", text))

    # Not a line more or less, and each of them once.
    prefix = re.compile(r"^\d{4}\S+ \S+ (?:\[[^\]]*\] ?)?")
    lines = [prefix.sub("", line) for line in text.splitlines()]
    assert sorted(line for log in logs for line in log.body.split("\n")) == sorted(lines)

    assert {identity(log)[:2] for log in logs} == {("FanoutFlow", run)}
    for log in logs:
        if log.body.startswith("working on shard"):
            _, _, step, task = identity(log)
            assert f"[{run}/{step}/{task} (pid {log.attributes['process.pid']})] {log.body}" in text
    assert {identity(log)[2] for log in logs} == {"start", "work", "collect", "end", None}
    (last,) = (log for log in logs if log.body == "1000 rows in all")
    assert identity(last)[2] == "end"


def test_a_traceback_stays_in_one_piece(tmp_path: Path, vendors: Vendors, tee: Path) -> None:
    """Four tasks write at the same time, and Metaflow takes the indentation away."""
    logs = read(tmp_path, vendors, {"COLLECTOR_FILELOG_INCLUDE": str(tee)}, "Done!")
    (failed,) = (log for log in logs if log.body.startswith("Traceback"))
    assert failed.body.rstrip().endswith("\nRuntimeError: shard 3 is locked by another process")
    assert identity(failed)[2] == "work"
    assert failed.severity == "ERROR"
    assert failed.attributes["exception.type"] == "RuntimeError"
    assert failed.attributes["exception.message"] == "shard 3 is locked by another process"
    assert failed.attributes["exception.stacktrace"] == failed.body.rstrip()
    assert not [log for log in logs if log is not failed and ('File "' in log.body or "^^^^" in log.body)]


def test_a_copy_of_the_datastore_arrives_with_the_attempt(
    tmp_path: Path, vendors: Vendors, place: Place, tee: Path
) -> None:
    """FLOW/RUN/STEP/TASK/ATTEMPT.runtime_stdout.log, with a prefix on each line."""
    copy = tmp_path / "copy"
    shutil.copytree(place.path / "datastore/.metaflow/FanoutFlow", copy / "FanoutFlow")
    logs = read(tmp_path, vendors, {"COLLECTOR_FILELOG_INCLUDE": f"{copy}/**/*.log"}, "1000 rows in all")
    assert all(all(identity(log)) for log in logs)
    (failed,) = (log for log in logs if log.body.startswith("Traceback"))
    assert failed.body.rstrip().endswith("\nRuntimeError: shard 3 is locked by another process")
    assert '\n  File "' in failed.body
    assert failed.attributes["log.iostream"] == "stderr"
    assert failed.attributes["metaflow.attempt"] == "0"
    third = [log for log in logs if log.body == "shard 3 gave 300 rows"]
    assert [log.attributes["metaflow.attempt"] for log in third] == ["1"]
    # The same id wherever the line is read from: so duplicates can be recognized.
    assert all(re.fullmatch(r"[0-9a-f-]{36}", log.attributes["log.record.uid"]) for log in logs)
    assert tee.exists()


def test_lines_are_read_once_over_a_restart(tmp_path: Path, vendors: Vendors) -> None:
    """The place that was reached is on disk, and the beginning of the file still names flow and run."""
    log = tmp_path / "logs/run.log"
    log.parent.mkdir()
    log.write_text(
        "Metaflow 2.19.39 executing HelloFlow for user:ann\n"
        "2026-11-23 09:29:20.693 Workflow starting (run-id 12):\n"
        "2026-11-23 09:29:20.693 [12/start/1 (pid 14466)] before\n"
    )
    settings = {"COLLECTOR_FILELOG_INCLUDE": str(log), "COLLECTOR_FILELOG_TIMEZONE": "Europe/Berlin"}
    read(tmp_path, vendors, settings, "before")
    with log.open("a") as more:
        more.write("2026-11-23 09:29:21.000 [12/start/1 (pid 14466)] after\n2026-11-23 09:29:22.000 Done!\n")
    logs = read(tmp_path, vendors, settings, "Done!")
    assert sorted(log.body for log in logs if log.body in ("before", "after", "Done!")) == ["Done!", "after", "before"]
    assert {identity(log)[:2] for log in logs} == {("HelloFlow", "12")}


def test_a_file_without_a_flow_takes_it_from_a_variable(tmp_path: Path, vendors: Vendors) -> None:
    """Such as a log that was cut at the top."""
    log = tmp_path / "cut.log"
    log.write_text("2026-11-23 09:29:20.693 [12/start/1 (pid 14466)] a line\n")
    settings = {
        "COLLECTOR_FILELOG_INCLUDE": str(log),
        "COLLECTOR_FILELOG_FLOW": "CutFlow",
        "COLLECTOR_FILELOG_ENVIRONMENT": "production",
    }
    (record,) = read(tmp_path, vendors, settings, "a line")
    assert identity(record) == ("CutFlow", "12", "start", "1")
    assert record.attributes["deployment.environment.name"] == "production"


def run_of(flow: str, run: str, lines: int) -> str:
    """What Metaflow prints of a small run."""
    return (
        f"Metaflow 2.19.39 executing {flow} for user:ann\nValidating your flow...\n"
        f"2026-11-23 09:29:20.693 Workflow starting (run-id {run}):\n"
        + "".join(f"2026-11-23 09:29:21.{n % 1000:03d} [{run}/start/{n} (pid {n})] {flow} {n}\n" for n in range(lines))
        + f"2026-11-23 09:29:22.000 Done with {flow}!\n"
    )


def test_a_second_run_into_the_same_file_has_its_own_ids(tmp_path: Path, vendors: Vendors) -> None:
    """`tee run.log` once more, of another flow, while the collector runs."""
    log = tmp_path / "run.log"
    with Collector(tmp_path, vendors.environment | {"COLLECTOR_FILELOG_INCLUDE": str(log)}, ["filelog"]):
        for flow, run in (("FirstFlow", "12"), ("SecondFlow", "13"), ("ThirdFlow", "14")):
            log.write_text(run_of(flow, run, 3))
            vendors.wait_for(lambda done=f"Done with {flow}!": any(log.body == done for log in vendors.splunk.logs()))
            mine = [log for log in vendors.splunk.logs() if flow in log.body]
            assert len(mine) == 5
            assert {identity(log)[:2] for log in mine} == {(flow, run)}


def test_a_folder_that_is_away_for_seconds_is_not_read_again(tmp_path: Path, vendors: Vendors) -> None:
    """An NFS server that restarts, a volume that is mounted again: only what is appended then is new."""
    folder, away = tmp_path / "logs", tmp_path / "away"
    folder.mkdir()
    (folder / "run.log").write_text(run_of("AwayFlow", "12", 3))
    with Collector(
        tmp_path, vendors.environment | {"COLLECTOR_FILELOG_INCLUDE": f"{folder}/*.log"}, ["filelog"]
    ) as collector:
        vendors.wait_for(lambda: any("Done with" in log.body for log in vendors.splunk.logs()))
        folder.rename(away)
        folder.mkdir()
        # More polls than the receiver remembers by itself: each adds a mark of its own to another file.
        for number in range(6):
            with (folder / "other.log").open("a") as other:
                other.write(f"mark {number}\n")
            vendors.wait_for(lambda n=number: any(log.body == f"mark {n}" for log in vendors.splunk.logs()))
        (folder / "other.log").unlink()
        folder.rmdir()
        away.rename(folder)
        with (folder / "run.log").open("a") as more:
            more.write("2026-11-23 09:29:23.000 the end\n")
        vendors.wait_for(lambda: any(log.body == "the end" for log in vendors.splunk.logs()))
        assert "error" not in collector.output.replace("error_mode", "")
    for vendor in vendors.both:
        bodies = [log.body for log in vendor.logs() if not log.body.startswith("mark")]
        assert sorted(bodies) == sorted(set(bodies))


def test_tracebacks_of_many_writers_stay_whole(tmp_path: Path, vendors: Vendors) -> None:
    """2,500 tasks that fail in the same second, each line of theirs between those of all others."""
    log = tmp_path / "run.log"
    writers, stack = (
        range(2_500),
        ("Traceback (most recent call last):", '  File "flow.py", line 7', "ValueError: no {n}"),
    )
    log.write_text(
        "".join(
            f"2026-11-23 09:29:20.693 [12/work/{n} (pid {n})] {line.format(n=n)}\n" for line in stack for n in writers
        )
    )
    with Collector(tmp_path, vendors.splunk_environment | {"COLLECTOR_FILELOG_INCLUDE": str(log)}, ["filelog"]):
        vendors.wait_for(lambda: sum(each.body.count("ValueError") for each in vendors.splunk.logs()) >= len(writers))
    assert len(vendors.splunk.logs()) == len(writers)
    assert all(each.body.startswith("Traceback") and "ValueError: no " in each.body for each in vendors.splunk.logs())
