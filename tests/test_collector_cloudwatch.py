"""What tasks on AWS Batch print, read from CloudWatch (moto's), and joined to run and step."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING

import boto3
import pytest
import requests
from collectors import Collector, Vendors, free_ports
from journals import Journals
from moto.server import ThreadedMotoServer
from running import eventually
from test_collector_shape import Intake

from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from collectors import Log
    from running import Place

GROUP = "/aws/batch/job"
# As AWS Batch names them: the job definition, which Metaflow names, and the id of the ECS task.
STREAM = "metaflow_4a1f0b2c/default/0f6a2d3e4b5c46d7a8b9c0d1e2f30415"
# As metaflow/plugins/aws/batch/batch_decorator.py registers them.
FLOW = """
    from metaflow import FlowSpec, current, step
    from metaflow.metadata_provider import MetaDatum
    from metaflow.metaflow_environment import MetaflowEnvironment
    from metaflow.plugins.metadata_providers.local import LocalMetadataProvider

    class OnBatchFlow(FlowSpec):
        @step
        def start(self):
            facts = {"aws-batch-awslogs-group": "GROUP", "aws-batch-awslogs-stream": "STREAM"}
            LocalMetadataProvider(MetaflowEnvironment(self), self, None, None).register_metadata(
                current.run_id, current.step_name, current.task_id,
                [MetaDatum(field=k, value=v, type=k, tags=["attempt_id:0"]) for k, v in facts.items()],
            )
            self.next(self.end)

        @step
        def end(self):
            pass

    if __name__ == "__main__":
        OnBatchFlow()
""".replace("GROUP", GROUP).replace("STREAM", STREAM)


@pytest.fixture
def cloudwatch(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The variables by which the collector finds moto's CloudWatch Logs."""
    (port,) = free_ports(1)
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    # Its state belongs to the process.
    requests.post(f"http://127.0.0.1:{port}/moto-api/reset", timeout=10).raise_for_status()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield {**environment, "COLLECTOR_CLOUDWATCH_POLL_INTERVAL": "1s"}
    server.stop()


def put(cloudwatch: dict[str, str], stream: str, *lines: str) -> None:
    """Have CloudWatch take lines now."""
    logs = boto3.client("logs", region_name=cloudwatch["AWS_REGION"])
    with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_group(logGroupName=GROUP)
    with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_stream(logGroupName=GROUP, logStreamName=stream)
    now = time.time_ns() // 1_000_000
    logs.put_log_events(
        logGroupName=GROUP, logStreamName=stream, logEvents=[{"timestamp": now, "message": line} for line in lines]
    )


def bodies(vendors: Vendors) -> list[str]:
    return [log.body for log in vendors.splunk.logs()]


def test_lines_of_metaflows_streams_arrive_with_group_and_stream(
    tmp_path: Path, vendors: Vendors, cloudwatch: dict[str, str]
) -> None:
    put(cloudwatch, STREAM, "working on shard 3", "ValueError: shard 3 is locked")
    with Collector(tmp_path, vendors.environment | cloudwatch, ["awscloudwatch"]):
        vendors.wait_for(lambda: all(len(vendor.logs()) >= 2 for vendor in vendors.both))
    assert sorted(bodies(vendors)) == ["ValueError: shard 3 is locked", "working on shard 3"]
    found: dict[str, Log] = {log.body: log for log in vendors.splunk.logs()}
    for log in found.values():
        assert log.attributes["cloudwatch.log.group.name"] == GROUP
        assert log.attributes["cloudwatch.log.stream"] == STREAM
        assert log.attributes["service.name"] == "metaflow"
        assert log.attributes["log.record.uid"]
    assert found["working on shard 3"].severity == "INFO"
    assert found["ValueError: shard 3 is locked"].severity == "ERROR"
    assert abs(found["working on shard 3"].time / 1_000 - time.time()) < 600


def test_only_metaflows_streams_are_asked_for(tmp_path: Path, cloudwatch: dict[str, str]) -> None:
    """Others write into the same group; moto takes no notice of the prefix."""
    with Intake() as aws, Collector(tmp_path, cloudwatch | {"AWS_ENDPOINT_URL": aws.url}, ["awscloudwatch"]):
        eventually(lambda: aws.requests)
    asked = json.loads(aws.requests[0][2])
    assert (asked["logGroupName"], asked["logStreamNamePrefix"]) == (GROUP, "metaflow_")


def test_a_new_collector_goes_on_where_the_old_one_was(
    tmp_path: Path, vendors: Vendors, cloudwatch: dict[str, str]
) -> None:
    """The position is stored; what came while nobody read is not lost."""
    put(cloudwatch, STREAM, "before")
    with Collector(tmp_path, vendors.environment | cloudwatch, ["awscloudwatch"]):
        vendors.wait_for(lambda: "before" in bodies(vendors))
    put(cloudwatch, STREAM, "meanwhile")
    with Collector(tmp_path, vendors.environment | cloudwatch, ["awscloudwatch"]) as again:
        vendors.wait_for(lambda: "meanwhile" in bodies(vendors))
        assert "Resuming from previously known checkpoint" in again.output
    # The position is stored in whole seconds. What is read again has the id that it had.
    assert {log.body for log in vendors.splunk.logs()} == {"before", "meanwhile"}
    assert len({log.attributes["log.record.uid"] for log in vendors.splunk.logs()}) == 2


def test_the_streams_of_a_run_are_printed(place: Place) -> None:
    """What joins run and step to a stream is what Metaflow notes of each task."""
    finished = place.run(FLOW)
    assert finished.code == 0, finished.stderr
    expected = f"OnBatchFlow/{finished.run}/start/1\t{GROUP}\t{STREAM}\n"
    for pathspec in (f"{finished.run}", f"{finished.run}/start", f"{finished.run[:-2]}/start/1", "latest"):
        printed = place.cli("cloudwatch", f"OnBatchFlow/{pathspec}")
        assert (printed.returncode, printed.stdout) == (0, expected), printed.stderr
    none = place.cli("cloudwatch", f"OnBatchFlow/{finished.run}/end")
    assert (none.returncode, none.stdout) == (2, "")
    assert "no task of OnBatchFlow" in none.stderr
    unknown = place.cli("cloudwatch", "OnBatchFlow/0")
    assert unknown.returncode == 2
    assert len(unknown.stderr.splitlines()) == 1, unknown.stderr
    assert place.cli("cloudwatch", "OnBatchFlow").returncode == 2


def test_lines_of_a_killed_container_that_only_cloudwatch_has_are_printed(
    place: Place, cloudwatch: dict[str, str]
) -> None:
    """After the last one that the journals have; a line that was printed before as well is among them."""
    finished = place.run(FLOW)
    command = ("cloudwatch", f"OnBatchFlow/{finished.run}", "--last-lines")
    env = {**cloudwatch, "AWS_DEFAULT_REGION": cloudwatch["AWS_REGION"]}
    without = place.cli(*command, env=env)
    assert (without.returncode, without.stdout) == (2, "")
    assert f"otel-metaflow fetch OnBatchFlow/{finished.run}" in without.stderr
    put(cloudwatch, STREAM, "not journaled", "epoch", "loss 0.3", "epoch", "epoch", "out of mem")
    journals = Journals(place.home, "OnBatchFlow", finished.run)
    journals.attempt("start", 1, 0, None, lines=["epoch", "loss 0.3", "epoch"])
    printed = place.cli(*command, env=env)
    task = f"OnBatchFlow/{finished.run}/start/1"
    assert printed.stdout == f"{task}/0\tepoch\n{task}/0\tout of mem\n", printed.stderr
    (described,) = json.loads(place.cli(*command, "--json", env=env).stdout)
    assert [line["text"] for line in described["lines"]] == ["epoch", "out of mem"]

    with layout.attempt_file(journals.folder, AttemptKey("start", "1", 0)).open("a") as journal:
        journal.write('{"kind":"end","timeUnixNano":1,"result":"success"}\n')
    assert place.cli(*command, env=env).stdout == ""  # it was seen to end
