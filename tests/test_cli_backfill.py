"""`otel-metaflow fetch` and `backfill`, of runs made by plain Metaflow."""

from __future__ import annotations

import gzip
import json
import os
import pydoc
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from endpoint import Endpoint
from running import Finished, Place

from otel_metaflow.backfill.metaflow_seams import DEPENDS
from otel_metaflow.core import ids, names
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import RunKey

FLOW = """
import os, signal, subprocess, sys
from metaflow import FlowSpec, current, retry, step
class PlainFlow(FlowSpec):
    @step
    def start(self):
        self.shards = ["a", "b", "c"]
        self.next(self.work, foreach="shards")
    @retry(times=1, minutes_between_retries=0)
    @step
    def work(self):
        for number in range(20):
            print("line", number, "of", self.input)
        subprocess.run(["echo", "a subprocess of " + self.input])
        if self.input == "b" and current.retry_count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.input == "c" and current.retry_count == 0:
            raise ValueError("a damaged shard")
        self.next(self.join)
    @step
    def join(self, inputs):
        self.next(self.end)
    @step
    def end(self):
        print("the end")
if __name__ == "__main__":
    PlainFlow()
"""
ATTEMPTS, SPANS = 8, 9
PRINTED = [
    *(f"line {number} of {shard}" for shard in "abbcc" for number in range(20)),
    *(f"a subprocess of {shard}" for shard in "abbcc"),
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Finished]:
    """A run of plain Metaflow; tests that change its datastore do so in a copy."""
    place = Place(tmp_path_factory.mktemp("plain"))
    run = place.run(FLOW, "--tag", "nightly", "--tag", "api_key=AKIAIOSFODNN7EXAMPLE")
    assert run.code == 0, run.stdout + run.stderr
    return place, run


class Team:
    """The platform team: read access to the datastore of `place`, and a home of its own."""

    def __init__(self, place: Place, home: Path) -> None:
        self.place = place
        self.home = home

    def __call__(
        self, *arguments: str, env: Mapping[str, str] | None = None, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        done = self.place.cli(*arguments, env={"OTEL_METAFLOW_HOME": str(self.home), **(env or {})})
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def backfill(self, endpoint: Endpoint, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self("backfill", *arguments, env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}, code=code)


@pytest.fixture
def team(plain: tuple[Place, Finished], tmp_path: Path) -> Team:
    return Team(plain[0], tmp_path / "home")


@pytest.fixture
def copied(plain: tuple[Place, Finished], tmp_path: Path) -> tuple[Team, Path, Finished]:
    """The same with a datastore that may be changed, and the folder of the run there."""
    place, run = plain
    copy = Place(tmp_path / "copy")
    shutil.copytree(place.path, copy.path)
    stored = copy.path / "datastore" / ".metaflow" / run.flow / run.run
    for file in stored.rglob("sysmeta_ds-root_*.json"):
        text = file.read_text().replace(str(place.path), str(copy.path))
        file.write_text(text)
    return Team(copy, tmp_path / "home"), stored, run


def pathspec(run: Finished) -> str:
    return f"{run.flow}/{run.run}"


def test_a_run_of_plain_metaflow_arrives_and_the_second_backfill_sends_nothing(
    team: Team, plain: tuple[Place, Finished]
) -> None:
    """Each line of each attempt, each span, with the ids that a live run would have had."""
    _, run = plain
    with Endpoint() as endpoint:
        first = team.backfill(endpoint, pathspec(run))
        assert "exported" in first.stdout
        bodies = endpoint.bodies()
        for line in PRINTED:
            assert bodies.count(line) == PRINTED.count(line), line
        spans = [span for span, _ in endpoint.spans()]
        assert len(endpoint.run_and_attempt_ids()) == SPANS
        assert {span.trace_id.hex() for span in spans} == {ids.trace_id(run.flow, run.run)}
        expected = {ids.run_span_id(run.flow, run.run), ids.attempt_span_id(run.flow, run.run, "work", "3", 1)}
        assert expected <= {span.span_id.hex() for span in spans}
        assert max(endpoint.uids.values()) == 1
        before = endpoint.seen
        second = team.backfill(endpoint, "--all")
        assert "1 exported earlier" in second.stdout
        assert endpoint.seen == before


def test_runs_whose_journals_are_deleted_are_not_exported_again(team: Team) -> None:
    """As retention does after 14 days."""
    with Endpoint() as endpoint:
        team.backfill(endpoint, "PlainFlow", "--since", "1h")
        shutil.rmtree(team.home / "PlainFlow")
        before = endpoint.seen
        assert "1 exported earlier" in team.backfill(endpoint, "Plain*", "--since", "1h").stdout
        assert endpoint.seen == before


def test_a_backfill_that_was_killed_goes_on(team: Team, plain: tuple[Place, Finished]) -> None:
    """At every moment of it: what arrives twice has the same unique id."""
    with Endpoint() as whole:
        Team(team.place, team.home.with_name("whole")).backfill(whole, pathspec(plain[1]))
    env = team.place.environ({"OTEL_METAFLOW_HOME": str(team.home)})
    with Endpoint() as endpoint:
        env["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint.url
        command = [sys.executable, "-m", "otel_metaflow.cli", "backfill", "--all"]
        for kill in range(12):
            process = subprocess.Popen(command, env=env, cwd=team.place.path, stdout=subprocess.DEVNULL)
            try:
                process.wait(0.3 + kill * 0.1)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        team.backfill(endpoint, "--all")
        assert set(endpoint.uids) == set(whole.uids)
        assert set(endpoint.span_ids) == set(whole.span_ids)


def test_an_endpoint_that_refuses_stops_it_and_the_next_call_goes_on(team: Team, plain: tuple[Place, Finished]) -> None:
    """One line with the reason, exit code 1."""
    with Endpoint("401") as endpoint:
        failed = team.backfill(endpoint, "--all", "--wait", "0", code=1)
        assert "not exported" in failed.stdout
        assert "401" in failed.stdout
        endpoint.fault = "ok"
        team.backfill(endpoint, "--all")
        assert len(endpoint.run_and_attempt_ids()) == SPANS


def test_a_dry_run_counts_and_leaves_nothing(team: Team) -> None:
    done = team("backfill", "--all", "--dry-run", "--json")
    (result,) = json.loads(done.stdout)
    assert result["state"] == "would export"
    assert result["attempts"] == ATTEMPTS
    assert result["lines"] >= len(PRINTED)
    assert result["bytes"] > 0
    assert not team.home.exists()


def test_records_too_old_for_a_back_end_are_named_before_the_export(team: Team) -> None:
    """And what to do about it."""
    assert "too old" not in team("backfill", "--all", "--dry-run").stderr
    old = time.time() - 20 * 3600
    printed = team("backfill", "--all", "--dry-run", env=faked(team, old)).stderr
    assert "logs after 18 h (1 of 1 runs), spans after 4 h (1 of 1 runs), metrics after 1 h (1 of 1 runs)" in printed
    assert "--date-now" in printed
    assert "too old" not in team("backfill", "--all", "--dry-run", "--date-now", env=faked(team, old)).stderr


def faked(team: Team, began: float) -> dict[str, str]:
    """An environment whose datastore has the same run, begun at another time."""
    copy = team.home.with_name("old")
    if not copy.exists():
        shutil.copytree(team.place.path / "datastore", copy)
        for file in copy.glob(".metaflow/*/*/_meta/_self.json"):
            value = json.loads(file.read_text())
            value["ts_epoch"] = int(began * 1000)
            file.write_text(json.dumps(value))
    return {"METAFLOW_DATASTORE_SYSROOT_LOCAL": str(copy)}


def test_an_old_run_can_be_dated_now(team: Team) -> None:
    """All its times move together, and each record says when it was."""
    with Endpoint() as endpoint:
        env = {**faked(team, time.time() - 20 * 3600), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        began = time.time_ns()
        team("backfill", "--all", "--date-now", env=env)
        (run,) = [span for span, _ in endpoint.spans() if span.name.startswith("RUN ")]
        assert run.end_time_unix_nano >= began
        originals = [a.value.string_value for a in run.attributes if a.key == names.ORIGINAL_TIME]
        assert originals
        assert 19 * 3600 < (run.end_time_unix_nano - run.start_time_unix_nano) / 1e9 < 21 * 3600


def test_tags_are_exported_and_secrets_in_them_are_masked(team: Team) -> None:
    with Endpoint() as endpoint:
        team.backfill(endpoint, "--all")
        (resource,) = [resource for span, resource in endpoint.spans() if span.name.startswith("RUN ")]
    text = str(resource)
    assert "nightly" in text
    assert "AKIAIOSFODNN7EXAMPLE" not in text


def test_a_fetched_run_can_be_looked_at(team: Team, plain: tuple[Place, Finished]) -> None:
    """Nothing is exported, and nothing of it counts as to be exported by itself."""
    done = team("fetch", "PlainFlow/latest")
    assert f"{ATTEMPTS} attempts" in done.stdout
    seen = team("view", "PlainFlow/latest").stdout
    assert "graph start > work[3] > join > end" in seen
    assert "ValueError: a damaged shard" in seen
    assert "killed by SIGKILL" in seen
    assert "is here already" in team("fetch", pathspec(plain[1])).stdout
    assert "is not in Metaflow's metadata" in team("fetch", "PlainFlow/nine", code=2).stderr


def test_a_run_that_is_still_going_is_left_until_it_has_ended(copied: tuple[Team, Path, Finished]) -> None:
    """What is over of it is fetched; later the rest."""
    team, stored, run = copied
    aside = stored.with_name("aside")
    for step in ("join", "end"):
        aside.mkdir(exist_ok=True)
        shutil.move(stored / step, aside / step)
    with Endpoint() as endpoint:
        assert "is still going" in team.backfill(endpoint, pathspec(run)).stdout
        assert not endpoint.seen
        assert "running" in team("view", pathspec(run)).stdout
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        assert "otel-metaflow backfill" in team("ship", pathspec(run), env=env, code=2).stderr
        assert not endpoint.seen
        for step in ("join", "end"):
            shutil.move(aside / step, stored / step)
        aside.rmdir()
        team.backfill(endpoint, pathspec(run))
        assert len(endpoint.run_and_attempt_ids()) == SPANS
        assert max(endpoint.uids.values()) == 1


def test_a_run_whose_launcher_was_killed_is_exported_as_an_error(copied: tuple[Team, Path, Finished]) -> None:
    """Once it has been silent for long enough."""
    team, stored, run = copied
    shutil.rmtree(stored / "end")
    with Endpoint() as endpoint:
        team.backfill(endpoint, pathspec(run), "--dead-after", "0s")
        (span,) = [span for span, _ in endpoint.spans() if span.name.startswith("RUN ")]
        assert "launcher died" in span.status.message


def test_deleted_tasks_and_missing_logs_leave_the_rest(copied: tuple[Team, Path, Finished]) -> None:
    team, stored, run = copied
    shutil.rmtree(stored / "work" / "2")
    for file in (stored / "work").rglob("*.log"):
        file.unlink()
    for file in stored.rglob("*.data.json"):
        file.write_text("{")
    with Endpoint() as endpoint:
        team.backfill(endpoint, pathspec(run), "--dead-after", "0s")
        assert len(endpoint.run_and_attempt_ids()) == SPANS - 1
        assert "the end" in endpoint.bodies()


def test_a_datastore_that_is_not_here_is_named_and_the_rest_exported(copied: tuple[Team, Path, Finished]) -> None:
    """Attempts of one run may be in two datastores."""
    team, stored, run = copied
    for file in (stored / "join").rglob("sysmeta_ds-root_*.json"):
        file.write_text(file.read_text().replace(str(team.place.path), "/elsewhere"))
    with Endpoint() as endpoint:
        printed = team.backfill(endpoint, pathspec(run), "--dead-after", "0s")
        assert "/elsewhere" in printed.stderr
        assert "run this on the machine" in printed.stderr
        assert len(endpoint.run_and_attempt_ids()) == SPANS


def test_no_artifact_is_unpickled(copied: tuple[Team, Path, Finished], tmp_path: Path) -> None:
    """Neither of the user nor of Metaflow: bytes that would do something are refused, and the rest is exported."""
    team, stored, run = copied
    evidence = tmp_path / "evidence"
    bomb = b"cos\nsystem\n(S'touch " + os.fsencode(evidence) + b"'\ntR."
    for blob in (stored.parent / "data").rglob("*"):
        if blob.is_file() and not blob.name.endswith("_meta"):
            blob.write_bytes(gzip.compress(bomb))
    with Endpoint() as endpoint:
        team.backfill(endpoint, pathspec(run))
        assert len(endpoint.run_and_attempt_ids()) == SPANS
    assert not evidence.exists()


def test_a_clock_that_is_ahead_makes_no_negative_durations(copied: tuple[Team, Path, Finished]) -> None:
    """The host of one task had another time."""
    team, stored, run = copied
    for file in (stored / "join").rglob("sysmeta_*.json"):
        value = json.loads(file.read_text())
        value["ts_epoch"] += 3_600_000
        file.write_text(json.dumps(value))
    with Endpoint() as endpoint:
        team.backfill(endpoint, pathspec(run))
        for span, _ in endpoint.spans():
            assert span.end_time_unix_nano >= span.start_time_unix_nano
        assert len(endpoint.run_and_attempt_ids()) == SPANS


def test_a_run_that_otel_recorded_elsewhere_is_left_to_its_machine(place: Place, tmp_path: Path) -> None:
    """Unless it is asked for: then it says that a part may have arrived."""
    live = place.run(FLOW, "--with", "otel")
    team = Team(place, tmp_path / "team")
    with Endpoint() as endpoint:
        assert "--recorded" in team.backfill(endpoint, pathspec(live)).stdout
        assert not endpoint.seen
        assert not (team.home / live.flow).exists()
        team.backfill(endpoint, pathspec(live), "--recorded")
        doubted = [
            resource for _, resource in endpoint.spans() if any(a.key == names.IN_DOUBT for a in resource.attributes)
        ]
        assert len(doubted) == ATTEMPTS


def test_a_run_that_was_recorded_here_is_exported_from_its_own_journals(place: Place) -> None:
    """And of it only what is not exported yet."""
    live = place.run(FLOW, "--with", "otel")
    with Endpoint() as endpoint:
        Team(place, place.home).backfill(endpoint, "--all")
        assert len(endpoint.run_and_attempt_ids()) == SPANS
        Team(place, place.home).backfill(endpoint, pathspec(live))
        assert set(endpoint.span_ids.values()) == {1}


def test_wrong_arguments_end_with_one_line(team: Team) -> None:
    assert "no run given" in team("backfill", "--dry-run", code=2).stderr
    assert "drop --since" in team("backfill", "A/1", "--since", "7d", "--dry-run", code=2).stderr
    assert "no endpoint is configured" in team("backfill", "--all", code=2).stderr
    assert "is not a duration" in team("backfill", "--since", "week", code=2).stderr
    assert "no run to export" in team("backfill", "NoFlow", "--all", "--dry-run").stderr


def test_two_at_once_do_no_harm(team: Team, plain: tuple[Place, Finished]) -> None:
    """One makes the journals, the other says so or finds them made."""
    with Endpoint() as endpoint:
        env = team.place.environ({"OTEL_METAFLOW_HOME": str(team.home), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
        command = [sys.executable, "-m", "otel_metaflow.cli", "backfill", "--all"]
        pair = [subprocess.Popen(command, env=env, cwd=team.place.path) for _ in range(2)]
        for process in pair:
            process.wait(60)
        team.backfill(endpoint, "--all")
        assert len(endpoint.run_and_attempt_ids()) == SPANS
        assert max(endpoint.uids.values()) == 1
        folder = layout.run_folder(team.home, RunKey(plain[1].flow, plain[1].run))
        kinds = [json.loads(line)["kind"] for line in (folder / layout.RUN_FILE).read_text().splitlines()]
        assert kinds.count("launch") == ATTEMPTS


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Metaflow imports
def test_the_names_that_are_read_of_metaflow_are_there() -> None:
    """A version that has them no longer is named by this."""
    for name in DEPENDS:
        assert pydoc.locate(name) is not None, name
