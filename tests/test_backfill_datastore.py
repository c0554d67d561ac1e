"""Runs of which only the datastore is left: nobody has Metaflow's metadata of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint import Endpoint
from fake_pod import Cluster
from opentelemetry.sdk.trace import ReadableSpan
from running import Finished, Place, eventually
from test_backfill import END, FLOWS, HEAD, TAIL, backfilled, facts, home_of, ids, lines
from test_backfill_remote import attribute, bucket
from test_cli_backfill import FLOW as PLAIN
from test_cli_backfill import PRINTED, SPANS, Team, pathspec
from test_remote_home import FLOW as IN_PODS
from test_watch import GATED, LINES, arrived_once, finish, started, watching

from otel_metaflow.core import names
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import RunKey
from otel_metaflow.model.run import load
from otel_metaflow.testing import Telemetry, run

__all__ = ["bucket"]  # a fixture

DATASTORE_ONLY = "--datastore-only"
_NANO = 1_000_000_000


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as made:
        yield made


def forget_metadata(place: Place) -> None:
    """Delete the local metadata, which lies among the files of the datastore."""
    for folder in list((place.path / "datastore").rglob("_meta")):
        shutil.rmtree(folder)


def three(place: Place, steps: str) -> tuple[Telemetry, Telemetry, Telemetry]:
    """A run as it was recorded live, from Metaflow's metadata, and from the datastore alone."""
    flow = place.path / "stored.py"
    flow.write_text(HEAD + textwrap.indent(textwrap.dedent(steps) + END, "    ") + TAIL)
    chosen = {name: value for name, value in place.environ().items() if name.startswith(("METAFLOW_", "OTEL_"))}
    live = run(flow, env=chosen, home=place.home)
    name = f"{live.flow}/{live.run}"
    noted = backfilled(place, name)
    forget_metadata(place)
    return live, noted, backfilled(place, name, DATASTORE_ONLY)


@pytest.mark.parametrize("steps", FLOWS.values(), ids=FLOWS)
def test_the_datastore_alone_tells_the_same_as_metadata_and_a_live_run(place: Place, steps: str) -> None:
    """The tree with its results and retries, the lines of each attempt, all ids, and what was in the graph."""
    live, noted, alone = three(place, steps)
    assert alone.tree() == live.tree() == noted.tree()
    assert ids(alone) == ids(live)
    assert lines(alone) == lines(live)
    for name in (names.STEP_TYPE, names.FOREACH_INDEX, names.FOREACH_SIZE, names.ERROR_TYPE, names.FINAL,
                 names.ARTIFACT_COUNT, names.JOIN_INPUT_COUNT):  # fmt: skip
        known, found = facts(live, name), facts(alone, name)
        assert {span: found[span] for span in ids(alone)} == {span: known[span] for span in ids(alone)}, name
    for span, other in pairs(alone, noted):
        assert span.status.description == other.status.description
        assert {link.context.span_id for link in span.links} == {link.context.span_id for link in other.links}


EXIT = """
@step
def start(self):
    sys.exit(3)
    self.next(self.end)
"""
PARALLEL = """
@step
def start(self):
    self.next(self.train, num_parallel=2)
@parallel
@step
def train(self):
    self.next(self.join)
@step
def join(self, inputs):
    self.next(self.end)
"""


@pytest.mark.parametrize("steps", [EXIT, PARALLEL], ids=["exit", "parallel"])
def test_what_metadata_and_a_live_run_tell_differently_is_as_in_metadata(place: Place, steps: str) -> None:
    """The exception of sys.exit, and which of its nodes a parallel step's line is of."""
    live, noted, alone = three(place, steps)
    assert alone.tree() == noted.tree()
    assert ids(alone) == ids(live)
    assert lines(alone) == lines(noted)


def pairs(one: Telemetry, other: Telemetry) -> list[tuple[ReadableSpan, ReadableSpan]]:
    """The spans of the run and of attempts, of both."""
    by_id = {f"{span.context.span_id:x}": span for span in other.spans}
    return [(span, by_id[f"{span.context.span_id:x}"]) for span in one.spans if f"{span.context.span_id:x}" in ids(one)]


# What only the metadata has (docs/backfill.md); the run's own span, unlike attempts, no version of Python either.
ONLY_IN_METADATA = {names.USER_NAME, names.METAFLOW_VERSION}


def test_the_resource_has_all_but_what_is_documented_and_ends_are_known(place: Place) -> None:
    """Also the end of an attempt that printed nothing: its artifacts were stored then."""
    _, noted, alone = three(place, FLOWS["branches"])
    for span, other in pairs(alone, noted):
        was, now = dict(other.resource.attributes), dict(span.resource.attributes)
        missing = ONLY_IN_METADATA | ({names.PROCESS_RUNTIME_VERSION} if span.name.startswith("RUN ") else set())
        assert set(was) - set(now) == missing
        assert now == {name: was[name] for name in now}
        assert abs((span.end_time or 0) - (other.end_time or 0)) < _NANO


def test_what_a_resumed_run_cloned_is_known_but_not_from_where(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it has the spans and lines of the live one, without links to the run that it resumes."""
    steps = FLOWS["foreach"].replace("current.retry_count == 0", '"OK" not in os.environ')
    flow = place.path / "stored.py"
    flow.write_text(HEAD + textwrap.indent(textwrap.dedent(steps) + END, "    ") + TAIL)
    chosen = {name: value for name, value in place.environ().items() if name.startswith(("METAFLOW_", "OTEL_"))}
    first = run(flow, env=chosen, home=place.home)
    assert first.exit_code == 1
    monkeypatch.setenv("OK", "1")
    live = run(flow, "--origin-run-id", first.run, command="resume", env=chosen, home=place.home)
    assert live.exit_code == 0, live.stderr
    forget_metadata(place)
    alone = backfilled(place, f"{live.flow}/{live.run}", DATASTORE_ONLY)
    assert ids(alone) == ids(live)
    assert lines(alone) == lines(live)
    for name in (names.RUN_RESULT, names.TASK_RESULT, names.JOIN_INPUT_COUNT, names.FOREACH_SIZE):
        known, found = facts(live, name), facts(alone, name)
        assert {span: found[span] for span in ids(alone)} == {span: known[span] for span in ids(alone)}, name
    linked = {str((link.attributes or {}).get(names.LINK_TYPE)) for span in alone.spans for link in span.links}
    assert linked <= {"input", "retry"}
    view = place.cli("view", f"{live.flow}/{live.run}", env={"OTEL_METAFLOW_HOME": str(home_of(place, DATASTORE_ONLY))})
    assert view.stdout.count("  cloned\n") == 2
    assert "resumes" not in view.stdout


def elsewhere(tmp_path: Path) -> Team:
    """The platform team on a machine without any metadata."""
    other = Place(tmp_path / "elsewhere")
    other.path.mkdir()
    return Team(other, tmp_path / "team")


def test_a_run_of_another_machine_arrives_once_from_the_bucket_alone(
    place: Place, endpoint: Endpoint, bucket: dict[str, str], tmp_path: Path
) -> None:
    """Nothing has to be chosen where there is no metadata; a line names what is missing."""
    run_ = place.run(PLAIN, env=bucket)
    assert run_.code == 0, run_.stderr
    team = elsewhere(tmp_path)
    env = {**bucket, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
    done = team("backfill", "Plain*", "--since", "1h", env=env)
    assert f"reading runs from the datastore s3:{bucket['METAFLOW_DATASTORE_SYSROOT_S3']} alone, without" in done.stderr
    arrived_once(endpoint, PRINTED, SPANS)
    assert "1 exported earlier" in team("backfill", "--all", env=env).stdout
    shown = team("view", pathspec(run_), env=env).stdout
    assert "graph start > work[3] > join > end" in shown
    assert "killed by SIGKILL" in shown
    # What its own machine exports of it, from its metadata, has the same ids.
    Team(place, tmp_path / "owners")("backfill", pathspec(run_), env=env)
    assert {uid for uid, count in endpoint.uids.items() if count != 2} == set()


def test_a_run_that_only_the_datastore_has_is_named_with_what_to_type(
    place: Place, bucket: dict[str, str], tmp_path: Path
) -> None:
    """If there is local metadata, of other runs, it is read unless the datastore is asked for."""
    run_ = place.run(PLAIN, env=bucket)
    team = elsewhere(tmp_path)
    (team.place.path / "datastore" / ".metaflow").mkdir(parents=True)
    refused = team("fetch", pathspec(run_), env=bucket, code=2)
    assert f"{pathspec(run_)} is not in Metaflow's metadata at local@" in refused.stderr
    assert DATASTORE_ONLY in refused.stderr
    assert "fetched (8 attempts" in team("fetch", pathspec(run_), DATASTORE_ONLY, env=bucket).stdout
    refused = team("fetch", f"{run_.flow}/nine", DATASTORE_ONLY, env=bucket, code=2)
    assert f"{run_.flow}/nine is not in the datastore s3:" in refused.stderr


def renamed(place: Place, run_: Finished, name: str) -> None:
    """Give a run another id in the datastore, as an orchestrator would have."""
    flow = place.path / "datastore" / ".metaflow" / run_.flow
    (flow / run_.run).rename(flow / name)
    for file in flow.rglob("*.runtime*"):  # no launcher was there
        file.unlink()


def test_of_a_run_without_a_launcher_the_id_has_the_orchestrator_and_its_parameters_the_time(
    place: Place, tmp_path: Path
) -> None:
    run_ = place.run(PLAIN)
    forget_metadata(place)
    renamed(place, run_, "argo-plain-x7")
    team = Team(place, tmp_path / "team")
    done = json.loads(team("backfill", "--all", "--dry-run", "--json", DATASTORE_ONLY, "--dead-after", "0s").stdout)
    assert [(each["run"], each["attempts"]) for each in done] == [("argo-plain-x7", 8)]
    assert abs(done[0]["oldest"] / _NANO - int(run_.run) / 1e6) < 60
    made = backfilled(place, "PlainFlow/argo-plain-x7", DATASTORE_ONLY)
    assert made.span("RUN PlainFlow").resource.attributes[names.ORCHESTRATOR_NAME] == "argo-workflows"
    assert (made.span("RUN PlainFlow").attributes or {})[names.RUN_RESULT] == "success"


def test_lines_of_pods_arrive_once(place: Place, endpoint: Endpoint, tmp_path: Path) -> None:
    """Not as the process prints them that sent the task there, too; of which platform it was, nobody knows."""
    run_ = Cluster(place, "3.8").run(IN_PODS.replace("@otel\n", "\n").replace("kubernetes, otel,", "kubernetes,"))
    assert run_.code == 0, run_.stdout + run_.stderr
    env = {**Cluster(place, "3.8").environ(), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
    Team(place, tmp_path / "team")("backfill", pathspec(run_), DATASTORE_ONLY, env=env)
    assert endpoint.bodies().count("line of 0") == 1
    (found,) = [resource for span, resource in endpoint.spans() if span.name == "work"]
    known = {each.key for each in found.attributes}
    assert names.CODE_PACKAGE in known
    assert names.COMPUTE_NAME not in known


def test_a_damaged_datastore_gives_the_rest(place: Place, tmp_path: Path) -> None:
    """Times, artifacts and JSON files that are none of these."""
    run_ = place.run(PLAIN)
    forget_metadata(place)
    task = place.path / "datastore" / ".metaflow" / run_.flow / run_.run / "work" / "2"
    (task / "0.attempt.json").write_text('{"time": true}')
    (task / "0.data.json").write_text('{"objects": ["_task_ok"], "python_version": {}}')
    (task / "0.task_begin").write_text("[" * 100_000)
    (task / "99999999999.attempt.json").write_text('{"time": 1e300}')
    done = Team(place, tmp_path / "team")("fetch", pathspec(run_), DATASTORE_ONLY, "--dead-after", "0s")
    assert "(8 attempts" in done.stdout
    assert "Traceback" not in done.stderr


def test_attempts_that_end_while_the_run_is_read_are_as_if_they_had_ended_before(place: Place, tmp_path: Path) -> None:
    """What was read of them before their files were listed is read again: none is taken for dead."""
    run_ = place.run(PLAIN)
    made = {}
    for catalogue in ("DatastoreCatalogue", "Outdated"):
        home = tmp_path / catalogue
        command = [sys.executable, place.write(OUTDATED, "outdated.py"), catalogue, run_.flow, run_.run]
        env = place.environ({"OTEL_METAFLOW_HOME": str(home)})
        done = subprocess.run(command, env=env, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 0, done.stderr
        attempts = load(home, layout.run_folder(home, RunKey(run_.flow, run_.run))).attempts
        made[catalogue] = {key: (each.result, each.launch, each.start) for key, each in attempts.items()}
    assert made["Outdated"] == made["DatastoreCatalogue"]
    results = Counter(result for result, _, _ in made["Outdated"].values())
    assert results == {"success": 6, "failure": 1, "error": 1}


# A catalogue that knows no ends at first, as if all of them came in between.
OUTDATED = """
import sys
from otel_metaflow.backfill import journals
from otel_metaflow.backfill.datastore_catalogue import DatastoreCatalogue
from otel_metaflow.core import settings
AT_ITS_END = ("attempt_ok", "foreach-execution-path", "foreach-sizes")
class Outdated(DatastoreCatalogue):
    def metadata(self, *path, again=False):
        found = super().metadata(*path, again=again)
        for noted in () if again else found.values():
            noted[:] = [entry for entry in noted if entry["field_name"] not in AT_ITS_END]
        return found
made = journals.make(globals()[sys.argv[1]](), settings.read(), *sys.argv[2:], dead_after=0.0)
assert made.state == journals.COMPLETE, made
"""


def test_a_run_is_followed_from_the_datastore_alone(place: Place, endpoint: Endpoint) -> None:
    """What is over arrives while the run goes on, and everything once."""
    with watching(place, endpoint, DATASTORE_ONLY) as watcher:
        process = started(place)
        eventually(lambda: "the first line" in endpoint.bodies(), 60, watcher.output)
        assert "behind the gate" not in endpoint.bodies()
        run_ = finish(place, process)
        watcher.prints(f"{pathspec(run_)}: exported")
        assert watcher.metric("metadata_requests_total") > 0
        health = json.loads(watcher.page("/healthz"))
        assert health["status"] == "ok"
    arrived_once(endpoint, LINES, 4)


def test_a_run_that_dies_in_the_bucket_is_found(
    place: Place, endpoint: Endpoint, bucket: dict[str, str], tmp_path: Path
) -> None:
    """By a watcher on a machine without metadata: its task is lost, the step before it is not."""
    process = place.start(place.write(GATED), env={**bucket, "PYTHONUNBUFFERED": "1"})
    eventually((place.path / "at the gate").exists, 60)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    with watching(elsewhere(tmp_path).place, endpoint, "--dead-after", "5s", **bucket) as watcher:
        watcher.prints("has died; exported", timeout=120)
    by_name = {span.name: span for span, _ in endpoint.spans()}
    assert attribute(by_name["middle"], names.TASK_RESULT) == "error"
    assert attribute(by_name["start"], names.TASK_RESULT) == "success"
    assert attribute(by_name["RUN GatedFlow"], names.RUN_RESULT) == "error"
