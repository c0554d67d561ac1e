"""The manifests: against the schemas of the API, and against the collector that they run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from collectors import ROOT, Collector, CollectorError

from otel_metaflow.cli.main import main

MANIFEST = ROOT / "collector/kubernetes/collector.yaml"
OBJECTS: dict[str, dict[str, Any]] = {found["kind"]: found for found in yaml.safe_load_all(MANIFEST.read_text())}
WATCHER: dict[str, dict[str, Any]] = {
    found["kind"]: found for found in yaml.safe_load_all((ROOT / "collector/kubernetes/watch.yaml").read_text())
}
POD = OBJECTS["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_is_valid_for_the_api(kind: str, version: str) -> None:
    """With no name that the schema does not know."""
    kubernetes_validate.validate(OBJECTS[kind], version, strict=True)


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("kind", WATCHER)
def test_an_object_of_the_watcher_is_valid_for_the_api(kind: str, version: str) -> None:
    kubernetes_validate.validate(WATCHER[kind], version, strict=True)


def test_the_watcher_finds_its_volume_its_probes_and_the_collector() -> None:
    """And runs as the user of its image, with options that the command has."""
    template = WATCHER["Deployment"]["spec"]["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    assert WATCHER["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert WATCHER["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert pod["serviceAccountName"] == WATCHER["ServiceAccount"]["metadata"]["name"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "emptyDir" not in volume]
    assert claims == [WATCHER["PersistentVolumeClaim"]["metadata"]["name"]]
    (container,) = pod["containers"]
    dockerfile = (ROOT / "watch.Dockerfile").read_text()
    user = pod["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}\n" in dockerfile
    paths = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert f"OTEL_METAFLOW_HOME={paths['state']} " in dockerfile
    (entrypoint,) = re.findall(r"^ENTRYPOINT (.+)$", dockerfile, re.MULTILINE)
    _, command, *options = json.loads(entrypoint)
    parsed = main.commands[command].make_context(command, [*options, *container["args"]])
    assert parsed.params["health"] == ("0.0.0.0", container["ports"][0]["containerPort"])
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    service = OBJECTS["Service"]
    ports = {str(port["port"]) for port in service["spec"]["ports"]}
    host, _, port = variables["OTEL_EXPORTER_OTLP_ENDPOINT"].removeprefix("http://").partition(":")
    assert host == service["metadata"]["name"]
    assert port in ports


def test_a_misspelled_name_would_be_found() -> None:
    """The schemas are really applied."""
    wrong = OBJECTS["Service"] | {"spec": OBJECTS["Service"]["spec"] | {"selektor": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_the_objects_find_each_other() -> None:
    """Labels, names of ports and of the volume."""
    labels = POD["metadata"]["labels"]
    assert OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    assert OBJECTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert {port["targetPort"]: port["port"] for port in OBJECTS["Service"]["spec"]["ports"]}.items() <= ports.items()
    allowed = {port["port"] for rule in OBJECTS["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    assert allowed <= ports.keys()
    (volume,) = POD["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == OBJECTS["PersistentVolumeClaim"]["metadata"]["name"]
    (mount,) = CONTAINER["volumeMounts"]
    dockerfile = (ROOT / "collector/Dockerfile").read_text()
    assert f"COLLECTOR_QUEUE_DIR={mount['mountPath']}\n" in dockerfile
    user = POD["spec"]["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}\n" in dockerfile


def test_the_memory_limit_is_above_the_one_at_which_it_refuses() -> None:
    """Or the kernel would kill it before the limiter refuses."""
    variables = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}
    limit = re.fullmatch(r"(\d+)Mi", CONTAINER["resources"]["limits"]["memory"])
    assert limit is not None
    assert int(limit.group(1)) >= 1.5 * int(variables["COLLECTOR_MEMORY_LIMIT_MIB"])


def test_every_variable_is_one_of_the_collectors() -> None:
    """No key stands in the file, and what stands there is written as the collector's own page has it."""
    documented = set(re.findall(r"`([A-Z][A-Z_]+)`", (ROOT / "collector/README.md").read_text()))
    variables = {variable["name"] for variable in CONTAINER["env"]}
    assert variables <= documented
    assert not [name for name in variables if "KEY" in name or "TOKEN" in name]


def test_it_starts_with_these_variables_and_a_secret(tmp_path: Path) -> None:
    """Empty ones included; without the token of the Secret it does not."""
    environment = {variable["name"]: variable["value"] for variable in CONTAINER["env"]} | {
        "COLLECTOR_LISTEN_HOST": "0.0.0.0"
    }
    with Collector(tmp_path, environment | {"COLLECTOR_OTLP_TOKEN": "s3cret"}) as collector:
        assert "exporting to sample" in collector.output
    with pytest.raises(CollectorError, match="set COLLECTOR_OTLP_TOKEN"), Collector(tmp_path, environment):
        pass
