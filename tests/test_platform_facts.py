"""Where a container runs, by its variables."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from otel_metaflow.core import names, platform_facts, resource
from otel_metaflow.core.metaflow_seams import Facts
from otel_metaflow.shipper.container import _log_stream

ID = "4f2a" * 16
POD = {
    "METAFLOW_RUNTIME_ENVIRONMENT": "kubernetes",
    "METAFLOW_KUBERNETES_POD_NAME": "t-1-abc",
    "METAFLOW_KUBERNETES_POD_NAMESPACE": "flows",
    "METAFLOW_KUBERNETES_POD_ID": "0f2c1f6e",
}


def test_a_machine_of_ones_own_is_local() -> None:
    assert platform_facts.of({"HOME": "/home/me", "AWS_REGION": "eu-west-1"}) == {}
    found = resource.describe("F", "1", Facts(), {})
    assert (found[names.COMPUTE_NAME], found[names.ORCHESTRATOR_NAME]) == ("local", "local")


@pytest.mark.parametrize("runtime", ["argo-workflows", "airflow", "of-an-extension"])
def test_a_pod_and_its_orchestrator_are_named(runtime: str) -> None:
    """By what Metaflow sets on each of its platforms; on those that are not its own, too."""
    found = resource.describe("F", "1", Facts(), {**POD, "METAFLOW_RUNTIME_NAME": runtime})
    assert {name: value for name, value in found.items() if name.startswith(("k8s.", "metaflow.c", "metaflow.o"))} == {
        "k8s.pod.name": "t-1-abc", "k8s.namespace.name": "flows", "k8s.pod.uid": "0f2c1f6e",
        "metaflow.compute.name": "kubernetes", "metaflow.orchestrator.name": runtime,
    }  # fmt: skip


def test_a_job_of_aws_batch_is_in_its_cloud() -> None:
    env = {
        "METAFLOW_RUNTIME_ENVIRONMENT": "aws-batch", "METAFLOW_RUNTIME_NAME": "step-functions",
        "AWS_BATCH_JOB_ID": "x", "AWS_REGION": "eu-west-1",
    }  # fmt: skip
    found = platform_facts.of(env)
    assert found.pop(names.CONTAINER_ID, None) is None
    assert found == {
        "metaflow.compute.name": "aws-batch", "metaflow.orchestrator.name": "step-functions",
        "cloud.provider": "aws", "cloud.platform": "aws_ecs", "cloud.region": "eu-west-1",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        f"0::/kubepods/besteffort/pod0f2c/{ID}\n",
        f"12:memory:/kubepods.slice/kubepods-pod0f2c.slice/cri-containerd-{ID}.scope\n",
        f"5:cpu:/docker/{ID}\n",
        f"1 2 0:3 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n",
    ],
)
def test_a_container_is_known_by_its_id(text: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "place").write_text(f"1:name=systemd:/\n{text}2:x:/other\n")
    monkeypatch.setattr(platform_facts, "_PLACES", (str(tmp_path / "none"), str(tmp_path / "place")))
    assert platform_facts.of(POD)[names.CONTAINER_ID] == ID


def test_a_container_without_an_id_has_none(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "place").write_text(f"0::/\n1 2 0:3 /layers/{ID}/diff / rw - overlay overlay rw\n")
    monkeypatch.setattr(platform_facts, "_PLACES", (str(tmp_path / "place"),))
    assert names.CONTAINER_ID not in platform_facts.of(POD)


def test_the_log_stream_of_aws_batch_is_asked_for_where_metaflow_asks() -> None:
    answers = iter(
        [json.dumps({"LogOptions": {"awslogs-group": "/aws/batch/job", "awslogs-stream": "a/b"}}), "{}", "no"]
    )

    class Agent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(next(answers).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Agent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {"ECS_CONTAINER_METADATA_URI_V4": f"http://127.0.0.1:{server.server_port}/v4/x"}
        assert _log_stream(env) == {
            "aws.log.group.names": ["/aws/batch/job"], "aws.log.stream.names": ["a/b"],
        }  # fmt: skip
        assert _log_stream(env) == {}
        assert _log_stream(env) == {}
        server.shutdown()
    assert _log_stream(env) == {}
    assert _log_stream({}) == {}
    assert _log_stream({"ECS_CONTAINER_METADATA_URI_V4": "file:///etc/passwd"}) == {}
