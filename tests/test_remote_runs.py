"""The span of a run that no launcher launched: written by its last task, or by Argo Workflows when it has failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint
from fake_pod import Cluster, Pod, bare
from running import Place

from otel_metaflow.core import ids
from otel_metaflow.core.launch_context import LAUNCHER_EXPORTS

FLOW = """
    from metaflow import FlowSpec, kubernetes, otel, step
    class WholeFlow(FlowSpec):
        @otel
        @step
        def start(self):
            self.next(self.end)
        @otel
        @kubernetes
        @step
        def end(self):
            print("the last line")
    if __name__ == "__main__":
        WholeFlow()
    """
ENDPOINT = "http://collector.monitoring:4318"
OF_ARGO = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BEGAN = 1_795_000_000.25


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as made:
        yield made


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pod, str]:
    """The container of a run's last step as it is where no launcher is, and the run."""
    cluster = Cluster(Place(tmp_path_factory.mktemp("last")), "3.8")
    finished = cluster.run(FLOW)
    assert finished.code == 0, finished.stdout
    (pod,) = cluster.pods()
    given = json.loads((pod.folder / "pod.json").read_text())
    assert given["env"].pop(LAUNCHER_EXPORTS) == "true"
    (pod.folder / "pod.json").write_text(json.dumps(given))
    return pod, finished.run


def datastore(pod: Pod, run: str) -> Path:
    """Where Metaflow has the parameters of the run, as it does before all else of it."""
    (folder,) = Path(pod.env["METAFLOW_DATASTORE_SYSROOT_GS"]).glob(f"**/WholeFlow/{run}/_parameters/0")
    (folder / "0.attempt.json").write_text(json.dumps({"time": BEGAN}))
    return folder


def spans(endpoint: Endpoint) -> dict[str, Any]:
    """The spans by name; each came once."""
    found = [span for span, _ in endpoint.spans()]
    assert len({span.name for span in found}) == len(found)
    return {span.name: span for span in found}


def attributes(span: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


def test_the_last_task_writes_the_span_of_its_run(last: tuple[Pod, str], endpoint: Endpoint, tmp_path: Path) -> None:
    """From when the run began to the end of its last task, with the ids that all compute."""
    pod, run = last
    datastore(pod, run)
    ran = pod.again(tmp_path / "pod", {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "TRACEPARENT": OF_ARGO})
    assert ran.code == 0
    found = spans(endpoint)
    whole, end = found["RUN WholeFlow"], found["end"]
    assert (whole.trace_id.hex(), whole.span_id.hex()) == (
        ids.trace_id("WholeFlow", run), ids.run_span_id("WholeFlow", run),
    )  # fmt: skip
    assert (end.parent_span_id, end.span_id.hex()) == (
        whole.span_id, ids.attempt_span_id("WholeFlow", run, "end", "2", 0),
    )  # fmt: skip
    assert OF_ARGO[3:35] in [link.trace_id.hex() for link in end.links]
    assert (whole.start_time_unix_nano, whole.status.code) == (int(BEGAN * 1e9), 0)
    assert whole.end_time_unix_nano >= end.end_time_unix_nano
    assert attributes(whole)["metaflow.run.result"] == "success"
    assert "metaflow.run.task.count" not in attributes(whole)  # nobody here knows
    assert {"run started", "run ended: success"} <= set(endpoint.body_counts)


def test_a_run_with_a_launcher_has_no_second_span(last: tuple[Pod, str], endpoint: Endpoint, tmp_path: Path) -> None:
    pod, _ = last
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "OTEL_METAFLOW_HAS_LAUNCHER": "true"}
    assert pod.again(tmp_path / "pod", given).code == 0
    assert spans(endpoint).keys() == {"end"}


def test_an_attempt_and_a_run_that_are_made_again_have_spans_of_their_own(
    last: tuple[Pod, str], endpoint: Endpoint, tmp_path: Path
) -> None:
    """As by `argo retry`: the names are those of the first, which are linked."""
    pod, run = last
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "METAFLOW_KUBERNETES_POD_ID": "one"}
    pod.again(tmp_path / "first", {**given, "OTEL_EXPORTER_OTLP_ENDPOINT": None})
    (datastore(pod, run) / "otel_run.json").write_text("{}")
    try:
        assert pod.again(tmp_path / "again", given, is_first=False).code == 0
    finally:
        (datastore(pod, run) / "otel_run.json").unlink()
    found = spans(endpoint)
    first = ids.attempt_span_id("WholeFlow", run, "end", "2", 0)
    assert found["end"].span_id.hex() == ids.again_span_id(first, "one")
    assert first in [link.span_id.hex() for link in found["end"].links]
    whole = ids.run_span_id("WholeFlow", run)
    assert found["RUN WholeFlow"].span_id.hex() == ids.again_span_id(whole, "one")
    assert found["RUN WholeFlow"].parent_span_id.hex() == found["end"].parent_span_id.hex() == whole


def hook(place: Place, env: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """What Argo Workflows runs when a workflow of the flow has failed, and its variables."""
    cluster = Cluster(place, "3.8")
    deployed = subprocess.run(
        [sys.executable, str(place.write(FLOW)), "--no-pylint", "--with", "cluster", "argo-workflows", "create",
         "--only-json"],
        cwd=place.path, env=place.environ({**cluster.environ(), **env}), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert deployed.returncode == 0, deployed.stderr
    templates = json.loads(deployed.stdout[deployed.stdout.index("{") :])["spec"]["templates"]
    (container,) = (each["container"] for each in templates if each["name"] == "error-msg-capture-hook")
    variables = {each["name"]: each.get("value") or "" for each in container["env"]}
    return container["command"][-1].replace("{{workflow.name}}", "whole-1"), {**cluster.environ(), **variables}


def test_a_workflow_that_fails_has_a_span_with_the_first_failure(place: Place, endpoint: Endpoint) -> None:
    """The script that Metaflow runs then does that, and the user's own as well."""
    failures = [
        {"displayName": "start", "templateName": "start", "message": "Error (exit code 137)",
         "podName": "whole-1-start-1", "phase": "Failed", "finishedAt": "2026-11-28T10:00:00Z"},
    ]  # fmt: skip
    command, variables = hook(
        place,
        {
            "OTEL_METAFLOW_REMOTE_ENDPOINT": ENDPOINT,
            "OTEL_SERVICE_NAME": "it's ours",
            "METAFLOW_ARGO_WORKFLOWS_CAPTURE_ERROR_SCRIPT": "echo the script of the user",
        },
    )
    script = variables["METAFLOW_ARGO_WORKFLOWS_CAPTURE_ERROR_SCRIPT"]
    assert ENDPOINT in script
    run = "argo-whole-1"
    root = Path(variables["METAFLOW_CODE_URL"].partition("/WholeFlow/")[0])
    parameters = root / "WholeFlow" / run / "_parameters" / "t-1"
    parameters.mkdir(parents=True)
    (parameters / "0.attempt.json").write_text(json.dumps({"time": BEGAN}))
    folder = place.path / "hook"
    folder.mkdir()
    ran = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={
            **{name: value for name, value in variables.items() if name.startswith("METAFLOW_")},
            "PATH": variables["POD_PATH"],
            "METAFLOW_SKIP_INSTALL_DEPENDENCIES": "1",
            "METAFLOW_ARGO_WORKFLOWS_CAPTURE_ERROR_SCRIPT": script.replace(ENDPOINT, endpoint.url),
            "METAFLOW_ARGO_WORKFLOW_FAILURES": json.dumps(json.dumps(failures)),
        },
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (ran.returncode, "the script of the user" in ran.stdout) == (0, True), ran.stdout + ran.stderr
    ((whole, resource),) = endpoint.spans()
    assert (whole.name, whole.span_id.hex()) == ("RUN WholeFlow", ids.run_span_id("WholeFlow", run))
    assert whole.start_time_unix_nano == int(BEGAN * 1e9)
    assert attributes(whole)["metaflow.run.result"] == "failure"
    assert whole.status.message == "start: Error (exit code 137)"
    assert attributes(resource)["service.name"] == "it's ours"
    assert (parameters / "otel_run.json").exists()


def test_a_python_without_otel_does_not_fail_the_hook(place: Place) -> None:
    """Nothing of ours changes how it ends."""
    _, variables = hook(place, {"OTEL_METAFLOW_REMOTE_ENDPOINT": ENDPOINT})
    script = variables["METAFLOW_ARGO_WORKFLOWS_CAPTURE_ERROR_SCRIPT"]
    path = os.pathsep.join([str(bare("3.8")), "/usr/bin", "/bin"])
    ran = subprocess.run(["bash", "-c", script], env={"PATH": path}, cwd=place.path, capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
