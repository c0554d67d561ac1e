"""What only CloudWatch (moto's) has of attempts that were killed with their containers, as a part of their runs."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import boto3
import pytest
from endpoint import Endpoint
from fake_pod import Cluster
from http_service import HttpService
from journals import BEGIN, SECOND, Journals
from running import Finished, Place, eventually
from test_backfill_remote import forget_launcher, in_pods
from test_cli_backfill import Team, pathspec
from test_collector_cloudwatch import cloudwatch
from test_remote_home import PRINTED
from test_watch import Watching

from otel_metaflow.backfill import last_lines
from otel_metaflow.backfill.attempts import StoredAttempt
from otel_metaflow.backfill.last_lines import LastLines
from otel_metaflow.core import ids, names, settings
from otel_metaflow.core.secrets import MASK, Mask
from otel_metaflow.journal import layout
from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.model.attempt_logs import AttemptLogs

__all__ = ["cloudwatch"]

GROUP, STREAM = "/aws/batch/job", "metaflow_4a1f0b2c/default/0f6a2d3e4b5c46d7a8b9c0d1e2f30415"
FLOW = """
    import os, signal, time
    from metaflow import FlowSpec, current, retry, step

    class KilledFlow(FlowSpec):
        @step
        def start(self):
            self.shards = ["a", "b"]
            self.next(self.work, foreach="shards")
        @retry(times=1, minutes_between_retries=0)
        @step
        def work(self):
            print("training on", self.input)
            if current.retry_count == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.next(self.join)
        @step
        def join(self, inputs):
            self.next(self.end)
        @step
        def end(self):
            pass

    if __name__ == "__main__":
        KilledFlow()
"""
Event = tuple[int, str]
"""When it came, in nanoseconds since 1970, and its text."""


def put(env: dict[str, str], stream: str, *events: Event) -> None:
    """Have CloudWatch take events of a stream."""
    logs = boto3.client("logs", region_name=env["AWS_REGION"])
    for create, what in ((logs.create_log_group, {}), (logs.create_log_stream, {"logStreamName": stream})):
        with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
            create(logGroupName=GROUP, **what)
    if events:
        taken = [{"timestamp": at // 1_000_000, "message": text} for at, text in events]
        logs.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=taken)


def name_stream(place: Place, run: Finished, step: str, task: str, stream: str) -> None:
    """Note the stream of a task's first attempt in its metadata, as batch_decorator.py does."""
    folder = place.path / "datastore" / ".metaflow" / run.flow / run.run / step / task / "_meta"
    for name, value in (("group", GROUP), ("region", "eu-central-1"), ("stream", stream)):
        fact = f"aws-batch-awslogs-{name}"
        entry = json.loads(next(folder.glob("sysmeta_attempt_*.json")).read_text())
        entry.update(id=-1, field_name=fact, type=fact, value=value, tags=["attempt_id:0"])
        (folder / f"sysmeta_{fact}_1.json").write_text(json.dumps(entry))


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as made:
        yield made


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Finished]:
    """A run of plain Metaflow of which two attempts were killed, each with a stream of its own."""
    place = Place(tmp_path_factory.mktemp("killed"))
    run = place.run(FLOW)
    assert run.code == 0, run.stdout + run.stderr
    for task in ("2", "3"):
        name_stream(place, run, "work", task, STREAM + task)
    return place, run


@pytest.fixture
def team(killed: tuple[Place, Finished], tmp_path: Path) -> Team:
    return Team(killed[0], tmp_path / "team")


def doubtful(endpoint: Endpoint) -> dict[str, bool]:
    """Which bodies arrived with a mark that they may have arrived before."""
    return {
        record.body.string_value: any(each.key == names.IN_DOUBT for each in record.attributes)
        for record in endpoint.logs()
    }


def test_of_plain_metaflow_what_only_cloudwatch_has_arrives_once(
    team: Team, killed: tuple[Place, Finished], endpoint: Endpoint, cloudwatch: dict[str, str]
) -> None:
    """Nobody else has exported it, so it is not in doubt."""
    _, run = killed
    now = time.time_ns()
    put(cloudwatch, STREAM + "2", (now, "training on a"), (now, "loss 0.3"), (now, "loss 0.3"))
    put(cloudwatch, STREAM + "3", (now, "training on b"))
    env = {**cloudwatch, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
    (done,) = json.loads(team("backfill", pathspec(run), "--cloudwatch", "--json", env=env).stdout)
    assert not done["notes"]
    assert endpoint.body_counts["loss 0.3"] == 2
    assert (endpoint.body_counts["training on a"], endpoint.body_counts["training on b"]) == (2, 2)  # of two attempts
    assert doubtful(endpoint)["loss 0.3"] is False
    span, at = ids.attempt_span_id(run.flow, run.run, "work", "2", 0), now // 1_000_000
    assert {uid for uid in endpoint.uids if "cloudwatch" in uid} == {f"{span}-cloudwatch-{at}-{n}" for n in (1, 2)}
    seen = dict(endpoint.uids)
    assert "exported earlier" in team("backfill", pathspec(run), "--cloudwatch", env=env).stdout
    assert endpoint.uids == seen
    assert team("view", f"{pathspec(run)}/work/2", "--logs").stdout.count("loss 0.3") == 2


def test_without_the_option_cloudwatch_is_not_asked(
    team: Team, killed: tuple[Place, Finished], endpoint: Endpoint
) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    (done,) = json.loads(team("backfill", pathspec(killed[1]), "--json", env=env).stdout)
    assert not done["notes"]


def test_of_a_container_that_exported_itself_what_was_on_its_way_arrives_marked(
    place: Place, endpoint: Endpoint, cloudwatch: dict[str, str], tmp_path: Path
) -> None:
    """What it had printed some time before it was killed counts as exported, like what it had recorded then."""
    with ThreadPoolExecutor() as pool:
        ran = pool.submit(in_pods, place, endpoint, "later")
        try:
            eventually(lambda: all(endpoint.body_counts[text.format(0)] for text in PRINTED), 60)
            eventually(lambda: list(place.path.glob("datastore/**/0.otel_journal.log")), 60)
        finally:
            (place.path / "go").touch()
        run = ran.result()
    forget_launcher(place, run)
    name_stream(place, run, "work", "2", STREAM)
    now = time.time_ns()
    container = Cluster(place, "3.8").pods("work")[0]
    printed = [(now, text) for text in (container.stdout + container.stderr).splitlines()]
    tail = ["some time before", "on its way", "last words"]
    put(cloudwatch, STREAM, *printed, *((now + at * SECOND, text) for at, text in zip((1, 5, 6), tail, strict=True)))
    team = Team(place, tmp_path / "team")
    env = {**Cluster(place, "3.8").environ(), **cloudwatch, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
    team("backfill", pathspec(run), "--cloudwatch", "--dead-after", "0s", env=env)
    counts, marked = endpoint.body_counts, doubtful(endpoint)
    assert [counts[text.format(number)] for text in PRINTED for number in (0, 1)] == [1] * 6
    assert [counts[text] for text in tail] == [0, 1, 1]
    assert {text for text, is_marked in marked.items() if is_marked} == {"on its way", "last words"}
    assert set(endpoint.span_ids.values()) == {1}
    shown = team("view", f"{pathspec(run)}/work/2", "--logs", env=env).stdout
    places = [shown.index(text) for text in (PRINTED[0].format(0), *tail)]
    assert places == sorted(places)
    before = dict(endpoint.uids)
    team("backfill", pathspec(run), "--cloudwatch", "--dead-after", "0s", env=env)
    assert endpoint.uids == before


def test_a_watcher_adds_it_and_another_one_nothing(
    team: Team, killed: tuple[Place, Finished], endpoint: Endpoint, cloudwatch: dict[str, str]
) -> None:
    place, run = killed
    put(cloudwatch, STREAM + "2", (time.time_ns(), "training on a"), (time.time_ns(), "last words"))
    put(cloudwatch, STREAM + "3")
    with Watching(place, team.home, endpoint.url, "--cloudwatch", env=cloudwatch) as watcher:
        watcher.prints(f"{pathspec(run)}: exported")
        watcher.stop()
    assert endpoint.body_counts["last words"] == 1
    before = dict(endpoint.uids)
    assert "exported earlier" in team.backfill(endpoint, pathspec(run), "--cloudwatch").stdout
    assert endpoint.uids == before


@contextlib.contextmanager
def answering(code: str, message: str) -> Iterator[str]:
    """The address of a CloudWatch that refuses everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            data = json.dumps({"__type": code, "message": message}).encode()
            self.send_response(400)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with HttpService(Handler) as service:
        yield service.url


REFUSED = "cannot read CloudWatch's /aws/batch/job: "


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("AccessDeniedException", "not authorized to perform: logs:GetLogEvents"),
        ("ExpiredTokenException", "The security token included in the request is expired"),
    ],
)
def test_without_access_one_line_says_so_and_the_run_is_fetched(
    team: Team, killed: tuple[Place, Finished], cloudwatch: dict[str, str], code: str, message: str
) -> None:
    with answering(code, message) as address:
        done = team("fetch", pathspec(killed[1]), "--cloudwatch", env={**cloudwatch, "AWS_ENDPOINT_URL": address})
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"otel: {REFUSED}")
    assert code in line
    assert message in line
    assert "fetched (7 attempts" in done.stdout


def test_without_credentials_or_boto3_one_line_says_so_and_the_run_is_fetched(
    team: Team, killed: tuple[Place, Finished], cloudwatch: dict[str, str], tmp_path: Path
) -> None:
    nobody = {**cloudwatch, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": str(tmp_path)}
    done = team("fetch", pathspec(killed[1]), "--cloudwatch", env=nobody)
    (line,) = done.stderr.splitlines()
    assert f"{REFUSED}NoCredentialsError: Unable to locate credentials" in line
    assert "fetched (7 attempts" in done.stdout

    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "boto3.py").write_text("raise ImportError\n")
    another = Team(killed[0], tmp_path / "another")
    done = another("fetch", pathspec(killed[1]), "--cloudwatch", env={"PYTHONPATH": str(tmp_path / "without")})
    (line,) = done.stderr.splitlines()
    assert "pip install boto3" in line
    assert "fetched (7 attempts" in done.stdout


def test_a_stream_that_is_gone_or_empty_leaves_the_others(
    team: Team, killed: tuple[Place, Finished], cloudwatch: dict[str, str], tmp_path: Path
) -> None:
    run = killed[1]
    done = team("fetch", pathspec(run), "--cloudwatch", env=cloudwatch)
    assert done.stderr.splitlines() == [
        f"otel: CloudWatch has no log stream {STREAM}{task} in {GROUP}" for task in ("2", "3")
    ]
    put(cloudwatch, STREAM + "2")
    put(cloudwatch, STREAM + "3", (time.time_ns(), "last words"))
    another = Team(killed[0], tmp_path / "another")
    done = another("fetch", pathspec(run), "--cloudwatch", env=cloudwatch)
    assert not done.stderr
    assert another("view", f"{pathspec(run)}/work/3", "--logs").stdout.count("last words") == 1
    assert "--cloudwatch adds nothing" in another("fetch", pathspec(run), "--cloudwatch", env=cloudwatch).stdout


def after(journaled: Sequence[str], events: Sequence[str], home: Path, env: dict[str, str]) -> list[str]:
    """What of a stream comes after the lines of a journal."""
    made = Journals(home)
    now = time.time_ns()
    made.attempt("start", 1, (now - BEGIN) / SECOND, None, lines=journaled)
    put(env, STREAM, *((now + SECOND, text) for text in events))
    found = last_lines.of_attempt(made.folder, AttemptKey("start", "1", 0), GROUP, STREAM, env["AWS_REGION"])
    return [line.text for line in found]


@pytest.mark.parametrize(
    ("journaled", "events"),
    [
        ([f"key {MASK} of two, {MASK}"], ["key hunter22 of two, hunter23"]),
        (["10%\r20%\r"], ["10%\r20%\r"]),
        (["x" * 65_536], ["x" * 262_118, "x" * 262_118, "x" * 7]),
        (["é" * 65_536], ["é" * 131_059, "é" * 131_059, "end"]),
        (["epoch", "epoch"], ["Setting up task environment.", "epoch", "epoch"]),
    ],
    ids=["masked", "progress", "split", "split between characters", "repeated"],
)
def test_a_line_is_known_again_that_is_journaled_in_another_form(
    journaled: Sequence[str], events: Sequence[str], tmp_path: Path, cloudwatch: dict[str, str]
) -> None:
    assert after(journaled, [*events, "last words"], tmp_path, cloudwatch) == ["last words"]


def test_a_line_that_was_stored_while_it_was_written_is_cloudwatchs(tmp_path: Path, cloudwatch: dict[str, str]) -> None:
    """What there is of it is removed; if the step leaves out a stream, nothing is added."""
    key, now = AttemptKey("start", "1", 0), time.time_ns()
    own, output = layout.attempt_file(tmp_path, key), layout.output_file(tmp_path, key)
    own.write_text(f'{{"kind":"start","timeUnixNano":{now},"version":1,"logs":["stdout","stderr"]}}\n')
    line = f'{{"kind":"line","timeUnixNano":{now},"stream":"stderr","body":"epoch 1"}}\n'
    output.write_text(line + line[:-9])
    put(cloudwatch, STREAM, (now, "epoch 1"), (now + SECOND, "epoch 2"))
    facts = {"aws-batch-awslogs-group": GROUP, "aws-batch-awslogs-stream": STREAM}
    attempt = StoredAttempt(key, facts={**facts, "aws-batch-awslogs-region": cloudwatch["AWS_REGION"]})
    reports: list[str] = []
    added = LastLines(tmp_path, settings.read(), Mask(["epoch 2"]), reports.append)
    assert added.add(attempt, is_brought=True, in_doubt=True) is not None
    assert not reports
    found = [entry.record for entry in AttemptLogs(tmp_path, key, Cursor()).read(final=True)]
    assert [(record["body"], record["stream"]) for record in found] == [("epoch 1", "stderr"), (MASK, "stdout")]

    own.write_text(own.read_text().replace(',"stderr"', ""))
    assert added.add(attempt, is_brought=True, in_doubt=True) is None
