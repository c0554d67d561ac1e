"""What the bed is made of, built once and kept: Kubernetes from Go modules, an image for pods from Debian's packages.

All of it lies in `tests/bed/.cache`, about 500 MB: the API server takes five minutes of CPU to build, the image two.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import boto3
import botocore
import s3transfer

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
KUBERNETES = "v1.34.4"  # as in kubernetes/go.mod
IMAGE = "localhost/otel-metaflow-bed:bookworm"
UNPRIVILEGED = "localhost/otel-metaflow-bed:unprivileged"
"""The same for a user who is not root, and whose home directory is not his."""
PODMAN = ["podman", "--runtime=runc", "--cgroup-manager=cgroupfs"]
# What Metaflow needs in an image, and nothing of ours or of OpenTelemetry.
PACKAGES = "python3,python3-boto3,python3-requests,python-is-python3,ca-certificates,procps"


def kubernetes(name: str) -> Path:
    """The path of `kube-apiserver` or `kube-controller-manager`, built on first use."""
    binary = CACHE / KUBERNETES / name
    if not binary.exists():
        version = f"-X k8s.io/component-base/version.gitVersion={KUBERNETES}"
        command = [
            "go",
            "build",
            "-trimpath",
            "-ldflags",
            f"-s -w {version}",
            "-o",
            binary,
            f"k8s.io/kubernetes/cmd/{name}",
        ]
        # `go install` refuses a module whose go.mod replaces others, as that of Kubernetes does.
        env = {**os.environ, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
        subprocess.run(command, cwd=HERE / "kubernetes", env=env, check=True)
    return binary


def image(name: str = "") -> str:
    """The image that a container is to have, made on first use: UNPRIVILEGED, or the one for all other names."""
    if not _exists(IMAGE):
        archive = CACHE / "rootfs.tar"
        if not archive.exists():
            CACHE.mkdir(exist_ok=True)
            made = archive.with_suffix(".new.tar")
            subprocess.run(["mmdebstrap", "--variant=apt", f"--include={PACKAGES}", "bookworm", made], check=True)
            made.rename(archive)
        subprocess.run([*PODMAN, "import", "--quiet", archive, IMAGE], check=True, stdout=subprocess.DEVNULL)
    if name != UNPRIVILEGED:
        return IMAGE
    if not _exists(UNPRIVILEGED):
        recipe = f"FROM {IMAGE}\nWORKDIR /tmp\nUSER 1234\n"
        command = [*PODMAN, "build", "--quiet", f"--tag={UNPRIVILEGED}", "-"]
        subprocess.run(command, input=recipe, text=True, check=True, stdout=subprocess.DEVNULL)
    return UNPRIVILEGED


def newer_boto3() -> list[str]:
    """Options of `podman run` for a boto3 that knows AWS_ENDPOINT_URL, this environment's: Debian's is too old."""
    packages = (Path(module.__file__).parent for module in (boto3, botocore, s3transfer))
    return [f"--volume={each}:/usr/local/lib/python3.11/dist-packages/{each.name}:ro" for each in packages]


def _exists(name: str) -> bool:
    return subprocess.run([*PODMAN, "image", "exists", name], check=False).returncode == 0
