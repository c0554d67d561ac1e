"""Runs whose tasks ran in containers: what these exported themselves, and what only Metaflow has of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import requests
from endpoint import Endpoint
from fake_pod import Cluster
from http_service import HttpService
from moto.server import ThreadedMotoServer
from running import Finished, Place
from test_cli_backfill import FLOW as PLAIN
from test_cli_backfill import PRINTED, SPANS, Team, pathspec
from test_remote_home import FLOW
from test_remote_home import PRINTED as OF_CONTAINERS

from otel_metaflow.core import ids, names
from otel_metaflow.journal import layout


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as made:
        yield made


def in_pods(place: Place, endpoint: Endpoint, how: str, *, reached: bool = True) -> Finished:
    """A run whose step runs in pods, and exports itself there if it can reach the endpoint."""
    url = endpoint.url if reached else "http://127.0.0.1:9"
    finished = Cluster(place, "3.8").run(
        FLOW,
        env={
            "OTEL_METAFLOW_REMOTE_ENDPOINT": "http://collector.monitoring:4318",
            "POD_ENVIRONMENT": json.dumps(
                {"HOW": how, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "GO": str(place.path / "go")}
            ),
        },
    )
    assert finished.code == 0, finished.stdout + finished.stderr
    return finished


def forget_launcher(place: Place, run: Finished) -> None:
    """As if Argo Workflows had started the tasks: nothing of a launcher is in the datastore."""
    for file in (place.path / "datastore").rglob("*.runtime*"):
        if f"/{run.run}/" in str(file):
            file.unlink()


def attribute(span: Any, name: str) -> str:
    return next(str(each.value.string_value) for each in span.attributes if each.key == name)


def is_in_doubt(resource: Any) -> bool:
    return any(each.key == names.IN_DOUBT for each in resource.attributes)


@pytest.mark.parametrize("reached", [True, False])
def test_what_containers_exported_is_not_exported_again_and_what_they_could_not_is(
    place: Place, endpoint: Endpoint, tmp_path: Path, *, reached: bool
) -> None:
    """Their ledgers are in the datastore, beside their journals; the run's own span comes from here."""
    run = in_pods(place, endpoint, "kill", reached=reached)
    forget_launcher(place, run)
    (parameters,) = (place.path / "datastore").rglob(f"{run.run}/_parameters/*/0.DONE.lock")
    (parameters.parent / layout.RUN_MARK).write_text("{}")  # as by Argo's hook, whose ledger is nowhere
    by_containers = dict(endpoint.uids)
    assert bool(by_containers) is reached
    team = Team(place, tmp_path / "team")
    env = {**Cluster(place, "3.8").environ(), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
    done = json.loads(team("backfill", pathspec(run), "--dead-after", "0s", "--json", env=env).stdout)
    assert [each["brought"] for each in done] == [2]
    assert max(endpoint.uids.values()) == 1
    assert set(endpoint.span_ids.values()) == {1}
    bodies = endpoint.bodies()
    for text in OF_CONTAINERS:
        for number in (0, 1):
            assert bodies.count(text.format(number)) == 1
    ((span, whole),) = [
        (span, resource)
        for span, resource in endpoint.spans()
        if span.span_id.hex() == ids.run_span_id(run.flow, run.run)
    ]
    assert is_in_doubt(whole)
    assert attribute(span, names.RUN_RESULT) == "success"  # no launcher has recorded an exit code
    assert not any(is_in_doubt(resource) for span, resource in endpoint.spans() if span.name == "work")
    assert "killed by SIGKILL" in team("view", pathspec(run), env=env).stdout


def test_fetch_brings_what_the_launcher_could_not(place: Place, endpoint: Endpoint) -> None:
    """The journals of containers, to the home of the launcher that knows of them."""
    run = in_pods(place, endpoint, "")
    journals = {path: path.read_bytes() for path in run.folder.glob("work.*")}
    assert any(path.name == "work.2.0.jsonl" for path in journals)
    for path in journals:
        path.unlink()
    done = place.cli("fetch", pathspec(run), env=Cluster(place, "3.8").environ())
    assert "1 brought from their containers" in done.stdout, done.stdout + done.stderr
    assert {path: path.read_bytes() for path in run.folder.glob("work.*")} == journals


def test_of_a_container_that_was_killed_as_a_whole_the_records_in_doubt_are_marked(
    place: Place, endpoint: Endpoint, tmp_path: Path
) -> None:
    """It left no ledger."""
    run = in_pods(place, endpoint, "all")
    forget_launcher(place, run)
    (task,) = (path.parent for path in (place.path / "datastore").rglob(f"{run.run}/work/2/1.DONE.lock"))
    # Of a longer task Metaflow had stored this before it was killed.
    line = b"[MFLOG|0|2026-11-28T12:00:00.000000Z|task|4f1c0a52-0000-4000-8000-000000000001]a line in doubt\n"
    (task / "0.task_stdout.log").write_bytes(line)
    env = {**Cluster(place, "3.8").environ(), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
    Team(place, tmp_path / "team")("backfill", pathspec(run), "--dead-after", "0s", env=env)
    assert set(endpoint.span_ids.values()) == {1}
    lost = ids.attempt_span_id(run.flow, run.run, "work", "2", 0)
    resources = [resource for span, resource in endpoint.spans() if span.span_id.hex() == lost]
    assert [is_in_doubt(each) for each in resources] == [True]
    assert endpoint.bodies().count("a line in doubt") == 1
    assert endpoint.uids[f"{lost}-4f1c0a52-0000-4000-8000-000000000001"] == 1


def test_pods_of_plain_metaflow_have_their_platform_in_the_resource(
    place: Place, endpoint: Endpoint, tmp_path: Path
) -> None:
    run = Cluster(place, "3.8").run(FLOW.replace("@otel\n", "\n").replace("kubernetes, otel,", "kubernetes,"))
    assert run.code == 0, run.stdout + run.stderr
    env = {**Cluster(place, "3.8").environ(), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
    Team(place, tmp_path / "team")("backfill", pathspec(run), env=env)
    (found,) = [resource for span, resource in endpoint.spans() if span.name == "work"]
    facts = {each.key: each.value.string_value for each in found.attributes}
    assert facts["metaflow.compute.name"] == "kubernetes"
    assert facts["k8s.pod.name"] == "the-pod-name"
    assert facts["metaflow.code_package.sha"]
    assert endpoint.bodies().count("line of 0") == 1


@pytest.fixture
def bucket() -> Iterator[dict[str, str]]:
    """An S3, as the variables that Metaflow needs to use it."""
    import boto3

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    # Its state belongs to the process.
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10).raise_for_status()
    keys = {"AWS_ACCESS_KEY_ID": "x" * 16, "AWS_SECRET_ACCESS_KEY": "x" * 16, "AWS_DEFAULT_REGION": "us-east-1"}
    session = boto3.Session("x" * 16, "x" * 16, region_name="us-east-1")
    session.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="bucket")
    yield {
        **keys,
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_DATASTORE_SYSROOT_S3": "s3://bucket/metaflow",
        "METAFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}",
    }
    server.stop()


# Metaflow itself tries seven times, for two minutes.
ONCE = {"METAFLOW_S3_RETRY_COUNT": "0", "METAFLOW_S3_TRANSIENT_RETRY_COUNT": "0"}


@contextmanager
def refusing() -> Iterator[str]:
    """The address of an S3 for which all credentials have expired."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
            self.send_response(403)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_HEAD(self) -> None:
            self.send_response(403)
            self.end_headers()

    with HttpService(Handler) as service:
        yield service.url


def test_a_run_with_s3_as_datastore_arrives_once_credentials_are_valid(
    place: Place, endpoint: Endpoint, bucket: dict[str, str], tmp_path: Path
) -> None:
    """Until then one line says what the datastore answers."""
    run = place.run(PLAIN, env=bucket)
    assert run.code == 0, run.stderr
    team = Team(place, tmp_path / "team")
    env = {**bucket, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
    with refusing() as address:
        printed = team("backfill", pathspec(run), env={**env, **ONCE, "METAFLOW_S3_ENDPOINT_URL": address}, code=1)
    assert "s3:s3://bucket/metaflow" in printed.stdout
    assert "Traceback" not in printed.stderr
    assert not endpoint.seen
    team("backfill", pathspec(run), env=env)
    assert len(endpoint.run_and_attempt_ids()) == SPANS
    bodies = endpoint.bodies()
    assert all(bodies.count(line) == PRINTED.count(line) for line in PRINTED)
