"""The variables of the collector: a value that one cannot have is one line that names it, at start."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml
from collectors import PRODUCT, PRODUCT_CONFIG, ROOT, Collector, CollectorError, Vendors, free_ports
from test_collector import everything, send

if TYPE_CHECKING:
    from pathlib import Path

CONFIGS = [PRODUCT_CONFIG, *(PRODUCT_CONFIG.with_name(f"{name}.yaml") for name in ("filelog", "awscloudwatch"))]
SECRET = "s3cr3t-0123456789abcdef"


def declared() -> dict[str, dict[str, Any]]:
    """Every variable with what the configuration declares of it."""
    found: dict[str, dict[str, Any]] = {}
    for config in CONFIGS:
        found |= yaml.safe_load(config.read_text())["variables"]
    return found


VARIABLES = declared()
# Values that a variable of a kind cannot have.
BAD = {
    "address": ["intake.example", "ftp://intake.example", "https://", "https://a b/", "host:99999", ":443", "host:"],
    "choice": ["True", "Drop", "none"],
    "duration": ["10", "-1m", "soon"],
    "file": ["/nowhere/tls.crt", "/", "/etc/passwd", "~/tls.crt"],
    "flag": ["True", "1", "yes", "TRUE"],
    "folder": ["~/queue", '"/var/queue"'],
    "headers": [f"Bearer {SECRET}", "[a, b]", "{a: {b: c}}"],
    "host": ["::1", "fe80::1", "http://localhost", "localhost:4318", "a b", "[::1", "[localhost]"],
    "key": ["xyz", f"{SECRET} ", "0123 4567"],
    "number": ["abc", "0", "-5", "1e6", "1_000", "0x10", "400 MiB", "9" * 30],
    "patterns": ["[", "{a: b}", "'/var/log/*.log'", "/var/log/[a"],
    "port": ["0", "65536", "http", "-1", "4317.0", "9" * 30],
    "regex": [f"({SECRET}", "a**", "[", ".*", "(?=a)"],
    "secret": ["two words", "line\nbreak", "schlüssel"],
    "site": ["eu", "https://datadoghq.eu", "datadoghq.eu/api", "data doghq.eu"],
    "text": ['a"b', "back\\slash", "two\nlines"],
    "time": ["yesterday", "2026-11-23", "1795443147"],
    "url": [
        "localhost:8088", f"user:{SECRET}@splunk.example.com", "splunk.example.com", "ftp://host", "https://",
        "https:///path", "https://host:port/", "//h",
    ],
    "zone": ["Berlin", "CET+1", "Mars/Olympus"],
}  # fmt: skip


def start(environment: dict[str, str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Start the collector with all overlays until it ends by itself."""
    ports = dict(
        zip(
            (
                "COLLECTOR_OTLP_GRPC_PORT",
                "COLLECTOR_OTLP_HTTP_PORT",
                "COLLECTOR_HEALTH_PORT",
                "COLLECTOR_TELEMETRY_PORT",
            ),
            map(str, free_ports(4)),
            strict=True,
        )
    )
    return subprocess.run(
        [PRODUCT, *(f"--config={config}" for config in CONFIGS)],
        env={"HOME": str(tmp_path), **ports, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_variable_that_a_configuration_reads_is_declared_and_described() -> None:
    """A new `${env:…}` needs an entry under `variables:`, and a place in the docs."""
    documents = [ROOT / "collector/README.md", *(ROOT / "collector/docs").glob("*.md")]
    described = "\n".join(path.read_text() for path in documents)
    for config in CONFIGS:
        text = re.sub(r"(?m)^\s*#.*$", "", config.read_text())
        own = yaml.safe_load(text)
        read = set(re.findall(r"\$\{env:(\w+)", text)) | set(
            re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", str(own.get("listener_auth")))
        )
        known = own["variables"].keys() | yaml.safe_load(PRODUCT_CONFIG.read_text())["variables"].keys()
        assert read <= known, config.name
        for name in own["variables"].keys() - {"HOME", "OTEL_SERVICE_NAME"}:
            assert f"`{name}`" in described, f"{name} of {config.name} is described nowhere"
    assert {each["kind"] for each in VARIABLES.values()} == BAD.keys()


def test_no_variable_has_a_name_that_a_shell_may_hold_for_other_reasons() -> None:
    """Ours begin with COLLECTOR_, a vendor's, a cloud's and OpenTelemetry's with their own prefix."""
    prefixes = ("COLLECTOR_", "DD_", "SPLUNK_", "AWS_", "OTEL_")
    assert [name for name in VARIABLES if not name.startswith(prefixes)] == ["HOME"]


@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_a_value_that_a_variable_cannot_have_is_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    """No trace of the collector's source, no statement of the transform processor, and no secret."""
    kind = VARIABLES[name]["kind"]
    # All values of a kind for the first of its variables: each is a start of the collector.
    first = name == min(each for each, other in VARIABLES.items() if other["kind"] == kind)
    unquoted = ("choice", "flag", "headers", "number", "patterns", "port", "regex")
    for value in (BAD[kind] if first else BAD[kind][:1]) + ([f'"{SECRET}"'] if kind not in unquoted else []):
        result = start({name: value}, tmp_path)
        (line,) = (result.stdout + result.stderr).splitlines()
        assert result.returncode == 1, value
        assert re.search(rf"\b{name} (is|holds|names|begins|matches)\b", line), value
        assert re.search(r"set it to|take them off", line), line
        assert SECRET not in line


@pytest.mark.parametrize("name", sorted(name for name, each in VARIABLES.items() if each["kind"] == "choice"))
def test_the_values_of_a_choice_are_named(tmp_path: Path, name: str) -> None:
    """Whoever mistyped one need not look them up."""
    line = start({name: "mistyped"}, tmp_path).stderr
    assert f'{name} is "mistyped": set it to {" or ".join(VARIABLES[name]["values"])}' in line


def test_limits_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    """Each is right for itself."""
    assert (
        "COLLECTOR_MEMORY_SPIKE_MIB is 400, but COLLECTOR_MEMORY_LIMIT_MIB is 300"
        in start({"COLLECTOR_MEMORY_LIMIT_MIB": "300", "COLLECTOR_MEMORY_SPIKE_MIB": "400"}, tmp_path).stderr
    )
    assert (
        "COLLECTOR_MEMORY_SPIKE_MIB is 500, but COLLECTOR_MEMORY_LIMIT_MIB is 400"
        in start({"COLLECTOR_MEMORY_SPIKE_MIB": "500"}, tmp_path).stderr
    )
    both = start({"COLLECTOR_OTLP_GRPC_PORT": "4400", "COLLECTOR_OTLP_HTTP_PORT": "4400"}, tmp_path).stderr
    assert "COLLECTOR_OTLP_GRPC_PORT and COLLECTOR_OTLP_HTTP_PORT are both 4400" in both


def test_every_example_is_a_value(tmp_path: Path) -> None:
    """The value that a message suggests is accepted."""
    examples = {
        name: each["example"].strip("'")
        for name, each in VARIABLES.items()
        if "example" in each and each["kind"] not in ("file", "folder")
    }
    environment = {
        "HOME": str(tmp_path),
        "COLLECTOR_OTLP_ALLOW_ANONYMOUS": "true",
        "DD_API_KEY": "0123456789abcdef",
        "SPLUNK_HEC_TOKEN": SECRET,
        **examples,
    }
    command = [PRODUCT, "validate", *(f"--config={config}" for config in CONFIGS)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("around", ["{}\n", " {}", "{}\r\n", "\t{} \n"])
def test_blanks_around_a_value_are_no_part_of_it(tmp_path: Path, vendors: Vendors, around: str) -> None:
    """As a Kubernetes secret made from a file has a newline at its end: keys, tokens, addresses, switches."""
    with Vendors(tmp_path / "otlp") as otlp:
        environment = vendors.environment | {"COLLECTOR_OTLP_FORWARD_ENDPOINT": f"http://localhost:{otlp.ports[2]}"}
        environment |= {
            "COLLECTOR_OTLP_TOKEN": SECRET,
            "COLLECTOR_DATADOG_ROUTE": "exporter",
            "COLLECTOR_OTLP_ALLOW_ANONYMOUS": "false",
        }
        written = {name: around.format(value) for name, value in environment.items()}
        with Collector(tmp_path, written) as collector:
            for path, status in ((SECRET, 200), ("wrong", 401)):
                answer = requests.post(
                    f"{collector.http}/v1/logs", json={}, headers={"authorization": f"Bearer {path}"}, timeout=10
                )
                assert answer.status_code == status
            assert "exporting to datadog, otlp and splunk" in collector.output


@pytest.mark.parametrize(
    "token", ["a$$b", "a$b", "${env:HOME}", "!abc", "*abc", "{a}", "[a]", "a#b", "1e5", "null", "0x1f"]
)
def test_a_token_is_the_text_that_it_is(tmp_path: Path, token: str) -> None:
    """Neither configuration nor YAML reads anything into it."""
    with Collector(tmp_path, {"COLLECTOR_OTLP_TOKEN": token}) as collector:
        headers = {"authorization": f"Bearer {token}"}
        assert requests.post(f"{collector.http}/v1/logs", json={}, headers=headers, timeout=10).status_code == 200
        assert requests.post(f"{collector.http}/v1/logs", json={}, timeout=10).status_code == 401


def test_an_ipv6_address_can_be_listened_on(tmp_path: Path) -> None:
    """With the brackets that the message asks for."""
    with Collector(tmp_path, {"COLLECTOR_LISTEN_HOST": "[::1]"}) as collector:
        for url in (collector.health, collector.telemetry):
            assert requests.get(url.replace("localhost", "[::1]"), timeout=10).status_code == 200
        answer = requests.post(f"{collector.http}/v1/logs".replace("localhost", "[::1]"), json={}, timeout=10)
        assert answer.status_code == 200


def test_the_datadog_agents_host_and_port_are_an_intake_of_logs(tmp_path: Path, vendors: Vendors) -> None:
    """`DD_LOGS_CONFIG_LOGS_DD_URL=host:port`, as the Agent documents it, means TLS: the ack gate asks there."""
    (nobody,) = free_ports(1)
    settings = vendors.datadog_environment | {"DD_LOGS_CONFIG_LOGS_DD_URL": f"localhost:{nobody}"}
    with Collector(tmp_path, settings) as collector:
        send(collector, "http/protobuf")
        collector.wait_for_output(f"https://localhost:{nobody}/api/v2/logs", timeout=10)
        vendors.wait_for(vendors.datadog.spans)
    assert everything(vendors.datadog)[0] == []


@pytest.mark.parametrize("place", ["a file", "no such parent", "used"])
def test_a_queue_folder_that_cannot_be_used_is_one_line(tmp_path: Path, place: str) -> None:
    """The variable is named, and nothing of where in the source it failed."""
    folder = {"a file": tmp_path / "file", "no such parent": tmp_path / "file/queue", "used": tmp_path / "queue"}[place]
    (tmp_path / "file").write_text("")
    splunk = {"SPLUNK_HEC_URL": f"http://localhost:{free_ports(1)[0]}", "SPLUNK_HEC_TOKEN": SECRET}
    with Collector(tmp_path, splunk) as first:
        second = Collector(tmp_path / "second", splunk | {"COLLECTOR_QUEUE_DIR": str(folder)})
        with pytest.raises(CollectorError) as error, second:
            pass
        assert second.stop() == 1
        assert requests.get(first.health, timeout=5).ok
    (line,) = (line for line in str(error.value).splitlines() if not re.search(r"\t(info|warn)\t", line))
    assert "COLLECTOR_QUEUE_DIR" in line
    assert str(folder) in line
    assert ".go:" not in line
    assert SECRET not in str(error.value)
