"""The image: built from the Dockerfile, run by podman, and the way through it to both vendors.

Runs wherever podman, buildah and runc are installed; with `CI` set it fails where they are not.
"""

from __future__ import annotations

import json
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest
import requests
from collectors import PODMAN, CollectorError, Container, Vendors
from test_collector import assert_arrived, send


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_telemetry_passes_through_the_image_to_both_vendors(
    container: Container, vendors: Vendors, protocol: str
) -> None:
    """As through the binary, in a container that may write to nothing but its queue."""
    assert requests.get(container.health, timeout=5).ok
    assert_arrived(vendors, send(container, protocol))


def test_the_container_is_not_root_and_can_write_to_its_queue_only(container: Container) -> None:
    """What a break-in would find: no user that owns anything, no capability, no shell."""
    facts = container.inspect()
    process = Path("/proc") / str(facts["State"]["Pid"])
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    assert status["Uid"].split() == ["10001"] * 4
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"

    assert facts["HostConfig"]["ReadonlyRootfs"]
    (volume,) = facts["Mounts"]
    assert volume["Destination"] == "/var/lib/otelcol-metaflow"
    assert list((process / "root/var/lib/otelcol-metaflow").iterdir())

    modules = (process / "root/usr/share/otelcol-metaflow/modules.txt").read_text()
    binary = process / "root/otelcol-metaflow"
    listed = subprocess.check_output(["go", "version", "-m", str(binary)], text=True)
    assert modules.splitlines()[1:] == listed.splitlines()[1:]  # the bill of materials is this binary's
    assert "\tdep\tgithub.com/open-telemetry/opentelemetry-collector-contrib/exporter/datadogexporter\t" in modules

    executables = [path.name for path in (process / "root").iterdir() if path.is_file()]
    assert executables == ["otelcol-metaflow"]


def test_the_image_listens_for_others_and_holds_no_key(image: str) -> None:
    """In a container, localhost would be unreachable from outside; keys are given at run time."""
    (facts,) = json.loads(subprocess.check_output([*PODMAN, "image", "inspect", image]))
    variables = dict(variable.split("=", 1) for variable in facts["Config"]["Env"])
    assert variables["COLLECTOR_LISTEN_HOST"] == "0.0.0.0"
    assert not [name for name in variables if "KEY" in name or "TOKEN" in name]
    assert facts["Config"]["User"] == "10001:10001"


def test_a_missing_variable_stops_the_container_and_is_named(tmp_path: Path, vendors: Vendors, image: str) -> None:
    """The one line that `docker logs` shows names the variable, and what to do."""
    half = vendors.environment
    del half["SPLUNK_HEC_TOKEN"]
    with pytest.raises(CollectorError, match="SPLUNK_HEC_TOKEN is not set"), Container(tmp_path, half, image):
        pass


def test_an_overlay_is_in_the_image(tmp_path: Path, vendors: Vendors, image: str) -> None:
    """A second --config chooses it; what it reads is mounted."""
    log = tmp_path / "logs/run.log"
    log.parent.mkdir()
    log.write_text(
        "Metaflow 2.19.39 executing HelloFlow for user:ann\n"
        "2026-11-23 09:29:20.693 [12/start/1 (pid 14466)] from a file\n"
    )
    environment = vendors.environment | {
        "COLLECTOR_FILELOG_INCLUDE": f"{log.parent}/*.log",
        "COLLECTOR_FILELOG_TIMEZONE": "Europe/Berlin",
    }
    with Container(tmp_path, environment, image, ["filelog"], [log.parent]):
        vendors.wait_for(lambda: len(vendors.splunk.logs()) >= 2 and len(vendors.datadog.logs()) >= 2)
    (record,) = (found for found in vendors.splunk.logs() if found.body == "from a file")
    assert record.attributes.items() >= {"metaflow.flow.name": "HelloFlow", "metaflow.step.name": "start"}.items()
    assert record.time == datetime(2026, 11, 23, 8, 29, 20, 693_000, timezone.utc).timestamp() * 1_000
