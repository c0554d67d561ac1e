"""What a company has around Metaflow: an object store that all reach, platforms, and a laptop that launches."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import boto3
from argo import Workflow
from batch import QUEUE, Batch
from collectors import free_ports
from containers import COLLECTOR, Containers
from deaths import Arrived, arrived
from step_functions import Execution

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cluster import Cluster
    from endpoint import Endpoint
    from kubelet import Kubelet
    from running import Finished, Place
    from typing_extensions import Self


class ObjectStore:
    """S3 with one bucket, and DynamoDB, by moto."""

    credentials: ClassVar = {
        "AWS_ACCESS_KEY_ID": "bed",
        "AWS_SECRET_ACCESS_KEY": "bed",
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def __init__(self, folder: Path) -> None:
        (self._port,) = free_ports(1)
        self._folder = folder
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        with (self._folder / "moto.log").open("wb") as log:
            command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{self.url}/bed", method="PUT"), timeout=5).close()
                return self
            except urllib.error.URLError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def client(self, service: str, url: str = "") -> Any:
        """A client of boto3; of DynamoDB and S3, if no `url` is given."""
        keys = self.credentials
        return boto3.client(
            service,
            endpoint_url=url or self.url,
            region_name=keys["AWS_DEFAULT_REGION"],
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )

    @property
    def environment(self) -> dict[str, str]:
        """What a process of Metaflow needs to keep its data here."""
        return {
            **self.credentials,
            "METAFLOW_DEFAULT_DATASTORE": "s3",
            "METAFLOW_DATASTORE_SYSROOT_S3": "s3://bed/metaflow",
            "METAFLOW_S3_ENDPOINT_URL": self.url,
        }


@dataclass
class Outcome:
    """A run that is over."""

    succeeded: bool
    flow: str
    run: str
    report: str
    finished: Finished | None = None

    def wait_delivered(self, timeout: float = 90) -> None:
        """Wait for what is sent once the run is over; nobody does without a launcher."""
        if self.finished is not None:
            self.finished.wait_delivered(timeout)


@dataclass
class Bed:
    """Runs flows whose steps are containers of one platform."""

    NAME: ClassVar[str]
    DECORATOR: ClassVar[str]
    HAS_LAUNCHER: ClassVar[bool]

    place: Place
    store: ObjectStore
    containers: Containers

    def __post_init__(self) -> None:
        self._before = frozenset(self.containers.outputs())

    def run(self, flow: str, *options: str, env: Mapping[str, str] | None = None) -> Outcome:
        """Run a flow to its end, from the laptop."""
        finished = self.place.run(flow, *options, env={**self.environment, **(env or {})}, timeout=300)
        report = finished.stdout + finished.stderr
        return Outcome(finished.code == 0, finished.flow, finished.run, report, finished)

    @property
    def outputs(self) -> dict[str, str]:
        """What the containers of this test printed, by name."""
        return {name: text for name, text in self.containers.outputs().items() if name not in self._before}

    def arrived(self, receiver: Endpoint) -> Arrived:
        """What has arrived of this test."""
        return arrived(receiver, self.outputs.values())

    def with_other_ids(self, ended: Outcome, found: Arrived) -> list[str]:
        """The run and the attempts that have a span with other ids than `otel-metaflow id` prints."""
        paths = {f"{ended.flow}/{ended.run}": found.runs}
        paths |= {each.path: [each.span] for each in found.attempts}
        printed = {path: json.loads(self.place.cli("id", path, "--json").stdout) for path in paths}
        return [
            path
            for path, spans in paths.items()
            for span in spans
            if printed[path] != {"traceId": span.trace_id.hex(), "spanId": span.span_id.hex()}
        ]

    def sends_to(self, port: int) -> dict[str, str]:
        """What a laptop sets whose containers reach the collector by another name."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_METAFLOW_REMOTE_ENDPOINT": f"http://{COLLECTOR}:{port}",
        }

    @property
    def environment(self) -> dict[str, str]:
        """The laptop's."""
        return self.store.environment

    def _compile(self, flow: str, command: Sequence[str], options: Sequence[str], env: Mapping[str, str] | None) -> Any:
        """What a deployment of the flow would send to the platform."""
        file = self.place.write(flow)
        created = subprocess.run(
            [sys.executable, str(file), "--no-pylint", *options, *command, "create", "--only-json"],
            cwd=self.place.path,
            env=self.place.environ({**self.environment, **(env or {})}),
            capture_output=True,
            text=True,
            check=False,
        )
        if created.returncode:
            raise RuntimeError(created.stdout + created.stderr)
        return json.loads(created.stdout)


@dataclass
class Kubernetes(Bed):
    """`flow.py run` with `@kubernetes`."""

    NAME = "Kubernetes"
    DECORATOR = 'kubernetes(memory=512, qos="guaranteed")'
    HAS_LAUNCHER = True
    SECRET: ClassVar = "object-store"

    cluster: Cluster
    kubelet: Kubelet

    @property
    def environment(self) -> dict[str, str]:
        """Pods are in the cluster, whose secrets have the keys of the object store."""
        return {
            **self.store.environment,
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "METAFLOW_KUBERNETES_NAMESPACE": "default",
            "METAFLOW_KUBERNETES_CONTAINER_IMAGE": "bed",
            "METAFLOW_KUBERNETES_SECRETS": self.SECRET,
            "METAFLOW_ARGO_WORKFLOWS_KUBERNETES_SECRETS": self.SECRET,
        }


@dataclass
class Argo(Kubernetes):
    """`argo-workflows create`, and the workflow that Argo would make of it."""

    NAME = "Argo Workflows"
    HAS_LAUNCHER = False

    def run(self, flow: str, *options: str, env: Mapping[str, str] | None = None) -> Outcome:
        """Deploy a flow, and run it without the laptop."""
        template = self._compile(flow, ["argo-workflows"], options, env)
        self._workflow = Workflow(template, self.cluster, self.kubelet)
        self._flow = template["metadata"]["annotations"]["metaflow/flow_name"]
        return self.retry()

    def retry(self) -> Outcome:
        """Let the workflow that has failed go on, as `argo retry` does."""
        workflow = self._workflow
        succeeded = workflow.run() == "Succeeded"
        return Outcome(succeeded, self._flow, f"argo-{workflow.name}", str(workflow.failures))


@dataclass
class AwsBatch(Bed):
    """`flow.py run` with `@batch`."""

    NAME = "AWS Batch"
    DECORATOR = "batch(memory=512)"
    HAS_LAUNCHER = True
    TABLE: ClassVar = "foreach"

    batch: Batch

    @property
    def environment(self) -> dict[str, str]:
        """An account with a queue, a table for Step Functions, and roles that nobody asks for."""
        return {
            **self.store.environment,
            "AWS_ENDPOINT_URL_BATCH": self.batch.url,
            "AWS_ENDPOINT_URL": self.store.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "METAFLOW_BATCH_JOB_QUEUE": QUEUE,
            "METAFLOW_BATCH_CONTAINER_IMAGE": "bed",
            "METAFLOW_ECS_S3_ACCESS_IAM_ROLE": "arn:aws:iam::123456789012:role/batch",
            "METAFLOW_SFN_IAM_ROLE": "arn:aws:iam::123456789012:role/step-functions",
            "METAFLOW_SFN_DYNAMO_DB_TABLE": self.TABLE,
        }


@dataclass
class StepFunctions(AwsBatch):
    """`step-functions create`, and an execution of the state machine."""

    NAME = "Step Functions"
    HAS_LAUNCHER = False

    def run(self, flow: str, *options: str, env: Mapping[str, str] | None = None) -> Outcome:
        """Deploy a flow, and run it without the laptop."""
        definition = self._compile(flow, ["step-functions"], options, env)
        batch = self.store.client("batch", self.batch.url)
        execution = Execution(definition, batch, self.store.client("dynamodb"))
        succeeded = execution.run() == "SUCCEEDED"
        name = definition["States"]["start"]["Parameters"]["Parameters"]["metaflow.flow_name"]
        return Outcome(succeeded, name, f"sfn-{execution.name}", str(execution.jobs))
