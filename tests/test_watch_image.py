"""The image of the watcher: built from watch.Dockerfile, run as the Kubernetes manifest has it, for real runs of flows.

Runs wherever podman, buildah, runc and mmdebstrap are installed; with `CI` set it fails where they are not. The image's
base, which is Python's own from a registry, is replaced by Debian's Python from Debian's packages.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from collectors import PODMAN, ROOT
from endpoint import Endpoint
from metadata_service import MetadataService
from running import Place, eventually
from test_backfill_remote import bucket
from test_cli_backfill import FLOW, PRINTED, SPANS
from test_watch import arrived_once
from typing_extensions import Self

__all__ = ["bucket"]  # a fixture

_CHECKOUT = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
BASE = f"localhost/otel-metaflow-watch-base:{_CHECKOUT}"
IMAGE = f"localhost/otel-metaflow-watch:test-{_CHECKOUT}"
NEEDED = ("podman", "buildah", "runc", "mmdebstrap")
PACKAGES = "python3,python3-venv,python-is-python3,ca-certificates"
(DEPLOYMENT,) = (
    found
    for found in yaml.safe_load_all((ROOT / "collector/kubernetes/watch.yaml").read_text())
    if found["kind"] == "Deployment"
)
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


@pytest.fixture(scope="session")
def watch_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the image as `docker build -f watch.Dockerfile .` does, on another base."""
    missing = [tool for tool in NEEDED if not shutil.which(tool)]
    if missing:
        because = f"the watcher's image cannot be built and run here without {', '.join(missing)}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(because)
    if subprocess.run([*PODMAN, "image", "exists", BASE], check=False).returncode:
        archive = tmp_path_factory.mktemp("base") / "python.tar"
        _run("mmdebstrap", "--quiet", "--variant=apt", f"--include={PACKAGES}", "bookworm", str(archive))
        _run(*PODMAN, "import", "--quiet", str(archive), BASE)
        archive.unlink()
    # How this machine reaches its package index is no part of the image.
    ours = [path for path in ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt") if Path(path).exists()]
    options = (f"--volume={path}:{path}:ro" for path in ours)
    _run("buildah", "build", *options, f"--build-arg=BASE={BASE}", "-f", "watch.Dockerfile", "-t", IMAGE, ".")
    return IMAGE


def _run(*command: str) -> None:
    env = {"BUILDAH_ISOLATION": "chroot", **os.environ}
    done = subprocess.run(command, cwd=ROOT, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class Pod:
    """The pod of the manifest while entered, its container run by podman, with `variables` for those of its own."""

    def __init__(self, image: str, state: Path, variables: dict[str, str]) -> None:
        self.name = f"otel-metaflow-watch-{os.getpid()}"
        self._output = state.with_name("output.txt")
        known = {each["name"]: each["value"] for each in CONTAINER["env"]}
        self._command = [
            *PODMAN,
            "run",
            f"--name={self.name}",
            "--network=host",
            # The defaults of podman ask for more than a build machine may be allowed.
            "--ulimit=nofile=20000:20000",
            "--ulimit=nproc=1000:1000",
            *_options(state),
            *(f"--env={name}={value}" for name, value in {**known, **variables}.items()),
            image,
            *CONTAINER["args"],
            "--every=1s",
            "--health=127.0.0.1:0",  # the host's network may have its port in use
        ]

    def __enter__(self) -> Self:
        with self._output.open("w") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        eventually(lambda: "/healthz" in self.output or self._process.poll() is not None, 60)
        assert self._process.poll() is None, self.output
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([*PODMAN, "rm", "--force", "--time=0", self.name], check=False, capture_output=True)
        self._process.wait()

    @property
    def output(self) -> str:
        return self._output.read_text()

    def get(self, path: str) -> str:
        address = next(line for line in self.output.splitlines() if line.startswith("http://")).partition("/healthz")[0]
        with urllib.request.urlopen(address + path, timeout=5) as answer:
            return str(answer.read().decode())

    def inspect(self) -> dict[str, Any]:
        (found,) = json.loads(subprocess.check_output([*PODMAN, "inspect", self.name]))
        return dict(found)

    def stop(self) -> int:
        """As Kubernetes does; its exit code."""
        grace = POD["terminationGracePeriodSeconds"]
        subprocess.run([*PODMAN, "stop", f"--time={grace}", self.name], check=True, capture_output=True)
        return self._process.wait()


def _options(state: Path) -> Iterator[str]:
    """What the manifest asks for, as options of `podman run`; `state` stands for the volume."""
    user = POD["securityContext"]
    assert user["runAsNonRoot"] is True
    yield f"--user={user['runAsUser']}:{user['runAsGroup']}"
    allowed = CONTAINER["securityContext"]
    assert allowed["readOnlyRootFilesystem"] is True
    assert allowed["allowPrivilegeEscalation"] is False
    yield from ("--read-only", "--read-only-tmpfs=false", "--security-opt=no-new-privileges")
    yield from (f"--cap-drop={capability.lower()}" for capability in allowed["capabilities"]["drop"])
    yield f"--memory={CONTAINER['resources']['limits']['memory'].lower().removesuffix('i')}"
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    os.chown(state, user["runAsUser"], user["fsGroup"])
    for mount in CONTAINER["volumeMounts"]:
        if "emptyDir" in volumes[mount["name"]]:
            yield f"--tmpfs={mount['mountPath']}"
        else:
            yield f"--volume={state}:{mount['mountPath']}"


def test_the_image_exports_a_run_of_plain_metaflow_as_the_manifest_runs_it(
    watch_image: str, place: Place, bucket: dict[str, str], tmp_path: Path
) -> None:
    """It may write to its volume and to /tmp, is nobody, answers probes, and ends when it is asked to."""
    state = tmp_path / "state"
    state.mkdir()
    with Endpoint() as endpoint, MetadataService() as service:
        stored = {**bucket, **service.environ}
        variables = {**stored, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        with Pod(watch_image, state, variables) as pod:
            facts = pod.inspect()
            status = dict(
                line.split(":\t", 1) for line in Path(f"/proc/{facts['State']['Pid']}/status").read_text().splitlines()
            )
            assert status["Uid"].split() == ["10001"] * 4
            assert int(status["CapEff"], 16) == 0
            assert status["NoNewPrivs"] == "1"
            assert facts["HostConfig"]["ReadonlyRootfs"]

            run = place.run(FLOW, env=stored)
            assert run.code == 0, run.stderr
            # It rests nine times as long as it works, and its first look at S3 is much work.
            eventually(lambda: f"{run.flow}/{run.run}: exported" in pod.output, 300, pod.output)
            assert json.loads(pod.get(CONTAINER["livenessProbe"]["httpGet"]["path"]))["status"] == "ok"
            assert 'runs_total{state="exported"} 1' in pod.get("/metrics")
            assert pod.stop() == 0, pod.output
        arrived_once(endpoint, PRINTED, SPANS)
        seen = endpoint.seen
        with Pod(watch_image, state, variables) as pod:
            eventually(lambda: "passes_total 2" in pod.get("/metrics"), 300)
        assert endpoint.seen == seen  # what was exported is on the volume


def test_the_image_holds_no_key_and_listens_for_probes(watch_image: str) -> None:
    """Keys are given at run time."""
    (facts,) = json.loads(subprocess.check_output([*PODMAN, "image", "inspect", watch_image]))
    config = facts["Config"]
    assert config["User"] == "10001:10001"
    assert not [name for name in config["Env"] if "KEY" in name or "TOKEN" in name]
    (port,) = (each["containerPort"] for each in CONTAINER["ports"])
    assert config["ExposedPorts"] == {f"{port}/tcp": {}}
    assert config["Entrypoint"][-1] == f"0.0.0.0:{port}"
