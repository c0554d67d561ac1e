"""What a company has around Metaflow: an object store that all reach, a cluster, and a laptop that launches."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from argo import Workflow
from collectors import free_ports
from deaths import Arrived, arrived
from kubelet import COLLECTOR, Kubelet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cluster import Cluster
    from endpoint import Endpoint
    from running import Finished, Place
    from typing_extensions import Self


class ObjectStore:
    """S3, by moto, with one bucket."""

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
class Bed:
    """Runs flows whose steps are pods of the cluster."""

    SECRET: ClassVar = "object-store"

    place: Place
    store: ObjectStore
    cluster: Cluster
    kubelet: Kubelet

    def __post_init__(self) -> None:
        self._before = frozenset(self.kubelet.outputs())

    @property
    def outputs(self) -> dict[str, str]:
        """What the containers of this test printed, by `POD.CONTAINER`."""
        return {name: text for name, text in self.kubelet.outputs().items() if name not in self._before}

    def arrived(self, receiver: Endpoint, last: str) -> Arrived | None:
        """What arrived of this test, once the span called `last` has."""
        found = arrived(receiver, self.outputs.values())
        return found if any(span.name == last for span in found.spans) else None

    def sends_to(self, receiver: Endpoint) -> dict[str, str]:
        """What a laptop sets whose pods reach the collector by another name."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_METAFLOW_REMOTE_ENDPOINT": f"http://{COLLECTOR}:{receiver.port}",
        }

    def run(self, flow: Path | str, *arguments: str, env: Mapping[str, str] | None = None) -> Finished:
        """`flow.py run` on the laptop, to its end."""
        return self.place.run(flow, *arguments, env={**self.environment, **(env or {})}, timeout=150)

    @property
    def environment(self) -> dict[str, str]:
        """The laptop's: data in the object store, pods in the cluster, keys of the store as a secret of the cluster."""
        return {
            **self.store.environment,
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "METAFLOW_KUBERNETES_NAMESPACE": "default",
            "METAFLOW_KUBERNETES_CONTAINER_IMAGE": "bed",
            "METAFLOW_KUBERNETES_SECRETS": self.SECRET,
        }

    def deploy(self, flow: str, *options: str, env: Mapping[str, str] | None = None) -> Workflow:
        """`flow.py argo-workflows create`, and the workflow that Argo would make of it."""
        file = self.place.write(flow)
        command = [sys.executable, str(file), "--no-pylint", *options, "argo-workflows", "create", "--only-json"]
        extra = {**self.environment, "METAFLOW_ARGO_WORKFLOWS_KUBERNETES_SECRETS": self.SECRET, **(env or {})}
        created = subprocess.run(
            command, cwd=self.place.path, env=self.place.environ(extra), capture_output=True, text=True, check=False
        )
        if created.returncode:
            raise RuntimeError(created.stdout + created.stderr)
        self.printed = created.stderr
        return Workflow(json.loads(created.stdout), self.cluster, self.kubelet)
